"""Pictures of the user in place of test images: read as a viewer shows them, then cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.experiments.photographs import ImageSources, write_pairs
from thinlens.images.decoding import DecodeOptions, open_photograph
from thinlens.images.pixels import to_float, to_uint8
from thinlens.images.transparency import on_white
from thinlens.report.side_by_side import most_detailed_square
from thinlens.tasks.task import Task

LEAST_SIDE = 96
"""Pixels that each side of a picture needs: a quarter of them is the least input of a network."""

MOST_PICTURES = 6
"""Pictures at a time: each takes seconds, and the page has room for so many."""

PICTURE_SIDE = 640
"""Longest side of what is compared of a picture, in pixels."""


def read_pictures(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Read image files of any format that `restore` reads: uint8 RGB `[3, H, W]` by name.

    Depth becomes 8 bits, transparency white. Raises `UsageError` for a file that cannot be read, a
    picture smaller than `LEAST_SIDE`, and more than `MOST_PICTURES`.
    """
    if len(paths) > MOST_PICTURES:
        raise UsageError(f"{len(paths)} pictures: wanted at most {MOST_PICTURES} at a time")
    pictures: dict[str, Tensor] = {}
    for path in paths:
        picture = _read(path)
        height, width = picture.shape[-2:]
        if min(height, width) < LEAST_SIDE:
            raise UsageError(
                f"{path} has {width}x{height} pixels: wanted at least {LEAST_SIDE}x{LEAST_SIDE}"
            )
        name = path.stem if path.stem not in pictures else f"{path.stem}-{len(pictures)}"
        pictures[name] = picture
    return pictures


def detailed_square(picture: Tensor, side: int) -> Tensor:
    """Return the square of at most `side` pixels of a uint8 picture that has most detail.

    >>> detailed_square(torch.zeros(3, 20, 30, dtype=torch.uint8), 24).shape
    torch.Size([3, 20, 20])
    """
    side = min(side, *picture.shape[-2:])
    top, left = most_detailed_square(to_float(picture), side)
    return picture[:, top : top + side, left : left + side].contiguous()


def picture_sources(
    task: Task, pictures: dict[str, Tensor], sources: ImageSources, out: Path
) -> ImageSources:
    """Return `sources` with the pictures as tests: squares of them, reduced into `out`."""
    squares = {name: detailed_square(image, PICTURE_SIDE) for name, image in pictures.items()}
    write_pairs(task, squares, out)
    described = (
        f"Tested on {', '.join(pictures)}: the square with most detail, reduced and restored."
    )
    return replace(sources, tests={"pictures": out}, described=described)


def _read(path: Path) -> Tensor:
    options = DecodeOptions(first_frame=True, srgb=True)
    photograph = open_photograph(path, options)
    colours = photograph.colours.rows(0, photograph.colours.shape[1]).expand(3, -1, -1)
    if photograph.alpha is not None:
        floats = to_float(colours) if colours.dtype == torch.uint8 else colours
        colours = on_white(floats, photograph.alpha)
    return colours if colours.dtype == torch.uint8 else to_uint8(colours)
