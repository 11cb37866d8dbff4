"""What does `evaluate BUNDLE --sweep` measure, write and draw?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinlens.adaptive.adapt import means_of
from thinlens.adaptive.bundle import USES
from thinlens.adaptive.router import TileRouter, RoutingOptions
from thinlens.adaptive.sweep import SweepPoint, Sweep, sweep
from thinlens.adaptive.latency import mean_latency_ms
from thinlens.cli.bundles import Ready
from thinlens.cli.verb import Answer
from thinlens.errors import UsageError
from thinlens.files import write_json
from thinlens.progress import progress_bar
from thinlens.report.tables import Table
from thinlens.report.trade_off import Axis, calibration_picture, trade_off_picture

TIMED = 6
"""Points of the curve that are timed."""


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is measured."""

    engine: str
    seed: int
    rounds: int
    """How often each way is timed; 0 times nothing."""

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise UsageError(f"--rounds {self.rounds}: wanted 0 or more")


def run_sweep(ready: Ready, folder: Path, out: Path, asked: SweepOptions) -> Answer:
    """Write sweep.json and the pictures to `out`; PSNR by MACs is exact, times are measured."""
    bundle, means, task = ready.bundle, ready.means, ready.bundle.task
    estimators = {}
    for use in USES:
        judging = means if use == bundle.use else means_of(bundle, ready.run, use)
        estimators[use] = (judging.estimator, judging.estimator_macs)
    with progress_bar("restoring by every candidate") as report:
        found = sweep(means, estimators, task, folder, seed=asked.seed, progress=report)
    timed = _spread(found.curves[bundle.use])
    ways: dict[str, Any] = {c.name: c.network for c in means.candidates}
    ways |= {_way(point): TileRouter(means, RoutingOptions(point.t)) for point in timed}
    with progress_bar("timing") as report:
        times = mean_latency_ms(
            ways, task, folder, seed=asked.seed, rounds=asked.rounds, progress=report
        )
    content = {
        "images": found.images,
        "protocol": asdict(task.judgement),
        "engine": asked.engine,
        "use": bundle.use,
        "price": means.prices.unit,
        "tile": {**asdict(bundle.tiling), "exact": bundle.exact},
        **_figures(found, times),
        "timed": [{**_entry(p, bundle.use), "ms": times[_way(p)]} for p in timed],
    }
    write_json(out / "sweep.json", content)
    drawn = _draw(ready, found, content, out, f"{folder.name}, {found.images} images")
    return Answer(content, (_table(content).rich(), "\n".join([_chord(content), drawn])))


def _figures(found: Sweep, times: Mapping[str, float | None]) -> dict[str, Any]:
    """Return the networks alone, the curves, and how far these lie above the chord."""
    above = {name: found.above_chord(name) for name in found.curves}
    return {
        "static": {
            name: {**_entry(point), "ms": times[name], "psnr_tiled": found.tiled[name]}
            for name, point in found.static.items()
        },
        "curves": {n: [_entry(p, n) for p in points] for n, points in found.curves.items()},
        "above_chord": {
            name: {"db": most[0], "gmacs": most[1]} for name, most in above.items() if most
        },
    }


def _way(point: SweepPoint) -> str:
    return f"beta {point.t:.6g}"


def _entry(point: SweepPoint, curve: str = "") -> dict[str, Any]:
    """Return a point as JSON; `curve` is the name of the curve that it lies on, if it does."""
    t = {"mu" if curve.endswith("lagrange") else "beta": point.t} if curve else {}
    return {**t, "psnr": point.psnr, "gmacs": point.gmacs, "shares": point.shares}


def _spread(points: list[SweepPoint]) -> list[SweepPoint]:
    """Return the points of a curve that are nearest to even steps of cost."""
    low, high = (pick(p.gmacs for p in points) for pick in (min, max))
    wanted = [low + (high - low) * step / (TIMED - 1) for step in range(TIMED)]
    near = [min(points, key=lambda p: abs(p.gmacs - goal)) for goal in wanted]
    return list({point.t: point for point in near}.values())


def _draw(ready: Ready, found: Sweep, content: dict[str, Any], out: Path, title: str) -> str:
    networks = dict(content["static"])
    costs = Axis(
        "GMACs at 1280x720",
        {name: (x["gmacs"], x["psnr"]) for name, x in networks.items()},
        {name: [(p.gmacs, p.psnr) for p in points] for name, points in found.curves.items()},
    )
    axes = [costs]
    if content["timed"][0]["ms"] is not None:
        timed = sorted((x["ms"], x["psnr"]) for x in content["timed"])
        alone = {name: (x["ms"], x["psnr"]) for name, x in networks.items()}
        label = f"milliseconds an image ({content['engine']})"
        axes.append(Axis(label, alone, {content["use"]: timed}))
    names = list(networks)
    known = {
        use: {n: [(x, y) for x, y in c] for n, c in zip(names, j.calibration, strict=True)}
        for use, j in ready.bundle.judged.items()
    }
    try:
        trade_off_picture(out / "sweep.png", axes, title)
        calibration_picture(out / "calibration.png", known, "tiles of held-out images")
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
    said = "; ".join(
        f"{name} {x['db']:+.3f} dB at {x['gmacs']:.2f}"
        for name, x in content["above_chord"].items()
    )
    return (
        "GMACs for 1280x720, margins and estimator counted; milliseconds are means of an image, "
        "from memory to memory. Most above the chord of the cheapest and the dearest network: "
        f"{said}"
    )
