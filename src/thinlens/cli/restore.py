"""The verb `restore`: images of a folder go through a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from thinlens.cli.progress import progress
from thinlens.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class Restore(Verb):
    """Restore an image or a folder of images; the same command again does what is left.

    Example: thinlens restore photos --model rfdn-x4 --out large
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """An image, or a folder of images."""
    model: Annotated[str, tyro.conf.arg(metavar="CHECKPOINT")]
    """A folder, or a shipped name."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Gets <relative path>.png and manifest.jsonl."""
    engine: Annotated[str, tyro.conf.arg(metavar="auto|torch|native")] = "auto"
    """What runs the network: torch, the native CPU engine, or auto, the faster for thin ones."""
    tile: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Longest side, in input pixels, of the tiles that images are cut into; by default images
    stay whole while they fit into memory."""
    max_pixels: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Inputs with more are refused before they are decoded; by default Pillow's limit against
    decompression bombs, 178956970."""

    def run(self) -> Answer:
        from thinlens.api import load, restore

        network = load(self.model)
        limit: dict[str, Any] = {} if self.max_pixels is None else {"max_pixels": self.max_pixels}
        with progress("restoring") as report:
            outcome = restore(
                network,
                self.source,
                self.out,
                engine=self.engine,
                progress=report,
                tile=self.tile,
                **limit,
            )
        failures = [f"{name}: {reason}" for name, reason in outcome.failures.items()]
        sentence = (
            f"{self.out}: {outcome.done} done, {len(failures)} failed, {outcome.skipped} skipped "
            f"in {outcome.seconds:.1f} s"
        )
        return Answer(outcome.as_json(), (sentence,), failures=tuple(failures))
