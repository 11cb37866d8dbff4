"""The command `adapt`: train a bundle that selects one of several networks for every tile."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.progress import progress_bar

if TYPE_CHECKING:
    from thinlens.adaptive.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class Adapt(Verb):
    """Make a bundle of pruned networks and an estimator of their errors, for restore and evaluate.

    Example: thinlens adapt thin4 thin8 thin16 --data photos --out bundle
    """

    HAS_OUT_ALONE = True

    checkpoints: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="CHECKPOINT...")
    ]
    """Folders or shipped names, of one task and scale; bicubic or the tile itself is added."""
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Training images, as for train; every tenth is held out to evaluate the estimator."""
    out: Annotated[Path, tyro.conf.arg(metavar="BUNDLE")]
    """Folder of the bundle, which changes whole or not at all."""
    tile: Annotated[str | None, tyro.conf.arg(metavar="WIDTHxHEIGHT", help_behavior_hint="")] = None
    """Size of the tiles in input pixels, without their margin (default: SLS's, 48x48, for
    deblurring 256x240)."""
    margin: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Input pixels around a tile that networks read (default: SLS's, 1, for deblurring 3 and 5)."""
    exact: bool = False
    """Measure the margin at which tiles equal the whole image, and use it."""
    fixed_tiles: bool = False
    """Cut tiles of exactly this size, the last of a row or column smaller (SLS), in place of tiles
    of nearly equal size."""
    estimator: Annotated[str, tyro.conf.arg(metavar="learned|laplacian|cnn")] = "learned"
    """The estimator of a network's error on a tile: a table of the tile's Laplacian energy,
    corrected by a small network; the table alone; or cnn, a network alone, as in SLS."""
    steps: int = 2000
    """Optimizer steps of the estimator's training."""
    seed: int = 0
    """Seed of the estimator's weights and batches."""
    engine: Annotated[str, tyro.conf.arg(metavar="auto|torch|native")] = "auto"
    """What runs the networks while their errors are measured."""

    def run(self) -> Answer:
        from thinlens.api import adapt, save
        from thinlens.cli.values import size
        from thinlens.engine.selected_engine import SelectedEngine
        from thinlens.images.tiles import overhead

        started = time.monotonic()
        with progress_bar("training the estimator") as report:
            bundle = adapt(
                self.checkpoints,
                self.data,
                engine=self.engine,
                state=self.out,
                progress=report,
                tile=size(self.tile, "--tile") if self.tile else None,
                margin=self.margin,
                exact=self.exact,
                fixed_tiles=self.fixed_tiles,
                use=self.estimator,
                steps=self.steps,
                seed=self.seed,
            )
        size_in_bytes = save(self.out, bundle)
        seconds = round(time.monotonic() - started, 3)
        context = bundle.context(SelectedEngine(self.engine))
        scale = bundle.task.scale
        content = {
            "out": str(self.out),
            "task": bundle.task.name,
            "scale": scale,
            "candidates": [
                {"name": c.name, "fingerprint": c.identity, "macs": c.macs(_hd(scale))}
                for c in context.candidates
            ],
            "tile": {
                **asdict(bundle.tiling),
                "exact": bundle.exact,
                "overhead": overhead(bundle.tiling.balanced(*_hd(scale)).tiles(*_hd(scale))),
            },
            "estimator": {
                "use": bundle.use,
                "macs": context.estimator_macs(_hd(scale)),
                **{use: asdict(metrics) for use, metrics in bundle.metrics.items()},
            },
            **{key: bundle.provenance[key] for key in ("images", "tiles", "held_out_tiles")},
            "bytes": size_in_bytes,
            "seconds": seconds,
        }
        return Answer(content, _text(content, bundle))


def _hd(scale: int) -> tuple[int, int]:
    """Return the (height, width) of the input of an HD result."""
    return 720 // scale, 1280 // scale


def _text(content: dict[str, Any], bundle: Bundle) -> tuple[Any, ...]:
    from thinlens.report.tables import Table, format_giga

    learned, laplacian = (bundle.metrics[use] for use in bundle.uses)
    rows = [
        (c["name"], format_giga(c["macs"]), *(f"{x:.3f}" for x in numbers))
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
        f"1280x720, the estimator's {format_giga(content['estimator']['macs'])}; rank "
        f"correlation with the true error and root mean square error of its log10, on "
        f"{content['held_out_tiles']} tiles of held-out images ({content['tiles']} for training); "
        f"{content['bytes']:,} bytes, {content['seconds']:.1f} s"
    )
    return Table(columns, rows).rich(), sentence
