"""Trade-off curves of a bundle: the command `evaluate BUNDLE --sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinlens.adaptive.bundle import Bundle
from thinlens.adaptive.latency import mean_latency_ms
from thinlens.adaptive.options import RoutingOptions
from thinlens.adaptive.router import TileRouter
from thinlens.adaptive.sweep import Sweep, SweepPoint, sweep
from thinlens.cli.verb import Answer
from thinlens.engine.selected_engine import SelectedEngine
from thinlens.errors import UsageError
from thinlens.files import write_json
from thinlens.progress import progress_bar
from thinlens.report.tables import Table
from thinlens.report.trade_off import CostAxis, draw_calibration, draw_trade_off

TIMED = 6
"""Points of the curve whose time is measured."""


@dataclass(frozen=True)
class SweepOptions:
    """Settings of a sweep."""

    engine: str
    seed: int
    rounds: int
    """Timed runs of every network and every beta; 0 measures no times."""
    uniform_beta: bool = False
    """Whether the curves of evenly spaced beta are added."""

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise UsageError(f"--rounds {self.rounds}: wanted 0 or more")


def run_sweep(
    bundle: Bundle, folder: Path, out: Path, options: SweepOptions, timed_by: str | None
) -> Answer:
    """Write sweep.json and the pictures to `out`; PSNR by MACs is exact, times are measured.

    `timed_by` names the engine whose milliseconds are the cost of a tile; None: multiply-adds.
    """
    make, task = SelectedEngine(options.engine), bundle.task
    context = bundle.context(make, timed_by=timed_by)
    estimators = {}
    for use in bundle.uses:
        by_use = context if use == bundle.use else bundle.context(make, use)
        estimators[use] = (by_use.estimator, by_use.estimator_macs)
    with progress_bar("restoring by every candidate") as report:
        result = sweep(
            *(context, estimators, task, folder),
            seed=options.seed,
            uniform_beta=options.uniform_beta,
            progress=report,
        )
    timed = _spread(result.curves[bundle.use])
    restorers: dict[str, Any] = {c.name: c.network for c in context.candidates}
    restorers |= {_label(p): TileRouter(context, RoutingOptions(p.t)) for p in timed}
    with progress_bar("timing") as report:
        times = mean_latency_ms(
            restorers, task, folder, seed=options.seed, rounds=options.rounds, progress=report
        )
    content = {
        "images": result.images,
        "protocol": asdict(task.protocol),
        "engine": options.engine,
        "use": bundle.use,
        "price": context.cost_model.unit,
        "tile": {**asdict(bundle.tiling), "exact": bundle.exact},
        **_figures(result, times),
        "timed": [{**_entry(p, bundle.use), "ms": times[_label(p)]} for p in timed],
    }
    write_json(out / "sweep.json", content)
    drawn = _draw(bundle, result, content, out, f"{folder.name}, {result.images} images")
    return Answer(content, (_table(content).rich(), "\n".join([_chord(content), drawn])))


def _figures(result: Sweep, times: Mapping[str, float | None]) -> dict[str, Any]:
    """Return the networks alone, the curves, and how far these lie above the chord."""
    above = {name: result.above_chord(name) for name in result.curves}
    return {
        "static": {
            name: {**_entry(point), "ms": times[name], "psnr_tiled": result.tiled[name]}
            for name, point in result.static.items()
        },
        "curves": {n: [_entry(p, n) for p in points] for n, points in result.curves.items()},
        "above_chord": {
            name: {"db": most[0], "gmacs": most[1]} for name, most in above.items() if most
        },
    }


def _label(point: SweepPoint) -> str:
    return f"beta {point.t:.6g}"


def _entry(point: SweepPoint, curve: str = "") -> dict[str, Any]:
    """Return a point as JSON; `curve` is the name of the curve that it lies on, if it does."""
    t = {"mu" if curve.endswith("lagrange") else "beta": point.t} if curve else {}
    return {**t, "psnr": point.psnr, "gmacs": point.gmacs, "shares": point.shares}


def _spread(points: list[SweepPoint]) -> list[SweepPoint]:
    """Return the points of a curve that are nearest to even steps of cost."""
    low, high = (pick(p.gmacs for p in points) for pick in (min, max))
    targets = [low + (high - low) * step / (TIMED - 1) for step in range(TIMED)]
    near = [min(points, key=lambda p: abs(p.gmacs - target)) for target in targets]
    return list({point.t: point for point in near}.values())


def _draw(bundle: Bundle, result: Sweep, content: dict[str, Any], out: Path, title: str) -> str:
    networks = dict(content["static"])
    costs = CostAxis(
        "GMACs at 1280x720",
        {name: (x["gmacs"], x["psnr"]) for name, x in networks.items()},
        {name: [(p.gmacs, p.psnr) for p in points] for name, points in result.curves.items()},
    )
    axes = [costs]
    if content["timed"][0]["ms"] is not None:
        timed = sorted((x["ms"], x["psnr"]) for x in content["timed"])
        networks_alone = {name: (x["ms"], x["psnr"]) for name, x in networks.items()}
        label = f"milliseconds an image ({content['engine']})"
        axes.append(CostAxis(label, networks_alone, {content["use"]: timed}))
    names = list(networks)
    calibrations = {
        use: {n: [(x, y) for x, y in c] for n, c in zip(names, j.calibration, strict=True)}
        for use, j in bundle.metrics.items()
    }
    try:
        draw_trade_off(out / "sweep.png", axes, title)
        draw_calibration(out / "calibration.png", calibrations, "tiles of held-out images")
    except UsageError as missing:
        return f"{out / 'sweep.json'}; no pictures: {missing}"
    return f"{out / 'sweep.json'}, sweep.png: the curves; calibration.png: the estimators"


def _table(content: dict[str, Any]) -> Table:
    static = [
        (name, "-", f"{x['psnr']:.3f}", f"{x['gmacs']:.2f}", _ms(x["ms"]), "-")
        for name, x in content["static"].items()
    ]
    routed = [
        (
            content["use"],
            f"{x['beta']:.4g}",
            f"{x['psnr']:.3f}",
            f"{x['gmacs']:.2f}",
            _ms(x["ms"]),
            " / ".join(f"{share:.0%}" for share in x["shares"]),
        )
        for x in content["timed"]
    ]
    return Table(("way", "beta", "PSNR", "GMACs", "ms", "tiles by candidate"), static + routed)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _chord(content: dict[str, Any]) -> str:
    differences = "; ".join(
        f"{name} {x['db']:+.3f} dB at {x['gmacs']:.2f}"
        for name, x in content["above_chord"].items()
    )
    return (
        "GMACs for 1280x720, margins and estimator counted; milliseconds are means of an image, "
        "from memory to memory. Most above the chord of the cheapest and the most expensive "
        f"network: {differences}"
    )
