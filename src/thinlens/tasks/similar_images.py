"""Detect images that look like pairs although no layout is known: one picture under two names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from thinlens.errors import UsageError
from thinlens.images.reading import image_size, read_image
from thinlens.tasks.side_words import without_side

THUMBNAIL_SIDE = 16
"""Side of the grey thumbnails that are compared, in pixels."""

SAME_PICTURE = 0.95
"""Least correlation of the thumbnails of two versions of one picture. Reduced, blurred and noisy
ones have 0.97 and more, frames of two videos rarely 0.9."""

MOST_COMPARED = 8
"""Groups of images that are compared, spread over the folder."""


def similar_pair(folder: Path, paths: Sequence[Path]) -> tuple[Path, Path] | None:
    """Return two images of `paths`, smaller and larger or in order, that show one picture.

    Candidates share a file name but for words such as LR and HR or a scale. Files that cannot be
    read are skipped. Returns None unless most of the compared ones do.
    """
    groups = list(_same_name_groups(folder, paths))
    step = max(1, len(groups) // MOST_COMPARED)
    compared = groups[::step][:MOST_COMPARED]
    similar = [pair for pair in compared if _show_one_picture(*pair)]
    return similar[0] if 2 * len(similar) > len(compared) else None


def _same_name_groups(folder: Path, paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield the first two images of every name that several have, the smaller one first."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[without_side(path.stem)].append(path)
    for first, *others in groups.values():
        # Copies in another format, photo.jpg beside photo.png, are no pairs.
        different = [x for x in others if x.with_suffix("") != first.with_suffix("")]
        if not different:
            continue
        try:
            smaller, larger = sorted((first, different[0]), key=image_size)
        except UsageError:
            continue
        yield smaller, larger


def _show_one_picture(first: Path, second: Path) -> bool:
    try:
        x, y = _thumbnail(first), _thumbnail(second)
    except UsageError:
        return False
    spread = float(x.std() * y.std())
    return spread > 0 and float(((x - x.mean()) * (y - y.mean())).mean()) / spread > SAME_PICTURE


def _thumbnail(path: Path) -> Tensor:
    image = read_image(path, channels=1).float()
    if min(image.shape[-2:]) < THUMBNAIL_SIDE:
        raise UsageError(f"{path} is smaller than {THUMBNAIL_SIDE}x{THUMBNAIL_SIDE} pixels")
    return (
        functional.adaptive_avg_pool2d(image, (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        .flatten()
        .to(torch.float64)
    )
