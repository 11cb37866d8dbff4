"""Figures of one test image restored by several networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from thinlens.images.pixels import to_uint8
from thinlens.report.side_by_side import Panel, draw_side_by_side, most_detailed_square
from thinlens.restoration.network import Network
from thinlens.restoration.tiled import restore_image
from thinlens.tasks.folders import read_pair
from thinlens.tasks.metrics import psnr
from thinlens.tasks.pairs import PairFiles
from thinlens.tasks.task import Task

DETAIL_SIDE, ZOOM = 112, 2
"""Side in pixels of the square that is shown, and its enlargement."""


def draw_restorations(
    path: Path, task: Task, pair: PairFiles, index: int, networks: Iterable[tuple[str, Network]]
) -> None:
    """Write the most detailed square of a pair's target and its restorations as a PNG at `path`.

    `networks` are (label, network); below a label stands the PSNR of the whole image. `index` is
    the pair's position in its set.
    """
    image, target = read_pair(pair, task, index, seed=0)
    side = min(DETAIL_SIDE, *target.shape[-2:])
    top, left = most_detailed_square(target.float() / 255, side)
    square = (slice(None), slice(top, top + side), slice(left, left + side))

    def panels() -> Iterator[Panel]:
        yield Panel(f"original\n{pair.name}", target[square].float() / 255)
        for label, network in networks:
            restored = restore_image(network, image)
            decibels = psnr(to_uint8(restored), target, task.protocol)
            yield Panel(f"{label}\n{decibels:.2f} dB", restored[square])

    draw_side_by_side(path, list(panels()), ZOOM)
