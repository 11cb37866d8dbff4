"""The verb `adapt`: several thin networks become a bundle that chooses one for every tile."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError
from thinlens.progress import progress_bar

if TYPE_CHECKING:
    from thinlens.adaptive.bundle import Bundle
    from thinlens.adaptive.router import RouterContext


@dataclass(frozen=True, kw_only=True)
class Adapt(Verb):
    """Make a bundle of thin networks and an estimator of their errors, for restore and evaluate.

    Example: thinlens adapt thin4 thin8 thin16 --data photos --out bundle
    """

    checkpoints: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="CHECKPOINT...")
    ]
    """Folders or shipped names, of one task and scale; bicubic or the tile itself is added."""
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Training images, as for train; every tenth is held out to judge the estimator."""
    out: Annotated[Path, tyro.conf.arg(metavar="BUNDLE")]
    """Folder of the bundle, which changes whole or not at all."""
    tile: Annotated[str | None, tyro.conf.arg(metavar="WIDTHxHEIGHT", help_behavior_hint="")] = None
    """Size of the tiles in input pixels, without their margin (default: SLS's, 48x48, for
    deblurring 256x240)."""
    margin: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Input pixels that networks see around a tile (default: SLS's, 1, for deblurring 3 and 5)."""
    exact: bool = False
    """Measure the margin at which tiles equal the whole image, and use it."""
    estimator: Annotated[str, tyro.conf.arg(metavar="learned|laplacian")] = "learned"
    """What tells the error of a network on a tile: a small network, or a table of the tile's
    Laplacian. Both are made and judged."""
    steps: int = 2000
    """Steps of the estimator's training."""
    seed: int = 0
    """Seed of the estimator's weights and batches."""
    engine: Annotated[str, tyro.conf.arg(metavar="auto|torch|native")] = "auto"
    """What runs the networks while their errors are measured."""

    def run(self) -> Answer:
        from thinlens.adaptive.adapt import AdaptOptions, adapt, means_of
        from thinlens.adaptive.bundle import save_bundle
        from thinlens.api import load, runner
        from thinlens.experiments.values import size

        tile = size(self.tile, "--tile") if self.tile else None
        choices = AdaptOptions(tile, self.margin, self.exact, self.estimator, self.steps, self.seed)
        checkpoints = {_name(word): load(word) for word in self.checkpoints}
        if len(checkpoints) < len(self.checkpoints):
            raise UsageError("two of the checkpoints have one name: wanted folders by other names")
        run, started = partial(runner, engine=self.engine), time.monotonic()
        with progress_bar("teaching the estimator") as report:
            bundle = adapt(
                checkpoints, self.data, choices, run=run, state=self.out, progress=report
            )
        size_in_bytes = save_bundle(self.out, bundle)
        seconds = round(time.monotonic() - started, 3)
        means = means_of(bundle, run)
        content = {
            "out": str(self.out),
            "task": bundle.task.name,
            "scale": bundle.task.scale,
            "candidates": _candidates(means, bundle.task.scale),
            "tile": {**asdict(bundle.tiling), "exact": bundle.exact},
            "estimator": {
                "use": bundle.use,
                "macs": means.estimator_macs(_hd(bundle.task.scale)),
                **{use: asdict(judged) for use, judged in bundle.judged.items()},
            },
            **{key: bundle.provenance[key] for key in ("images", "tiles", "held_out_tiles")},
            "bytes": size_in_bytes,
            "seconds": seconds,
        }
        return Answer(content, _text(content, bundle))


def _name(word: str) -> str:
    """Return what a candidate is called: the last part of its folder."""
    return Path(word).resolve().name if Path(word).is_dir() else word


def _hd(scale: int) -> tuple[int, int]:
    """Return the (height, width) of the input of an HD result."""
    return 720 // scale, 1280 // scale


def _candidates(means: RouterContext, scale: int) -> list[dict[str, Any]]:
    return [
        {"name": c.name, "fingerprint": c.identity, "macs": c.macs(_hd(scale))}
        for c in means.candidates
    ]


def _text(content: dict[str, Any], bundle: Bundle) -> tuple[Any, ...]:
    from thinlens.report.tables import Table, giga

    learned, laplacian = (bundle.judged[use] for use in ("learned", "laplacian"))
    rows = [
        (c["name"], giga(c["macs"]), *(f"{x:.3f}" for x in numbers))
        for c, *numbers in zip(
            content["candidates"],
            learned.rank_correlation,
            learned.error,
            laplacian.rank_correlation,
            laplacian.error,
            strict=True,
        )
    ]
    columns = ("candidate", "GMACs", "rank", "decades", "rank (Laplacian)", "decades (Laplacian)")
    sentence = (
        f"{content['out']}: {len(content['candidates'])} candidates, the last one free; GMACs at "
        f"1280x720, the learned estimator's {giga(content['estimator']['macs'])}; rank correlation "
        f"with the true error and root mean square error of its log10, on "
        f"{content['held_out_tiles']} tiles of held-out images ({content['tiles']} taught); "
        f"{content['bytes']:,} bytes, {content['seconds']:.1f} s"
    )
    return Table(columns, rows).rich(), sentence
