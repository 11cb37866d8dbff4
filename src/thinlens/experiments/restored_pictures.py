"""How is one test image shown as several networks restore it?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from thinlens.images.pixels import to_uint8
from thinlens.report.comparison import Panel, detail, side_by_side
from thinlens.restoration.network import Network
from thinlens.restoration.whole import restore_image
from thinlens.tasks.folders import read_pair
from thinlens.tasks.metrics import psnr
from thinlens.tasks.pairs import PairFiles
from thinlens.tasks.task import Task

DETAIL, ZOOM = 112, 2
"""Side in pixels of the part that is shown, and how much larger it is drawn."""


def draw_restored(
    path: Path, task: Task, pair: PairFiles, index: int, networks: Iterable[tuple[str, Network]]
) -> None:
    """Write the most detailed part of a pair's image, original first, as a PNG at `path`.

    `networks` come with their labels, below which stands the PSNR of the whole image; `index` is
    the pair's place in its set.
    """
    image, target = read_pair(pair, task, index, seed=0)
    side = min(DETAIL, *target.shape[-2:])
    top, left = detail(target.float() / 255, side)
    part = (slice(None), slice(top, top + side), slice(left, left + side))

    def panels() -> Iterator[Panel]:
        yield Panel(f"original\n{pair.name}", target[part].float() / 255)
        for label, network in networks:
            restored = restore_image(network, image)
            decibels = psnr(to_uint8(restored), target, task.judgement)
            yield Panel(f"{label}\n{decibels:.2f} dB", restored[part])

    side_by_side(path, list(panels()), ZOOM)
