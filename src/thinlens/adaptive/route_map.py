"""Which candidate restored which part of an image, seen on the image itself?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from thinlens.adaptive.router import Routes
from thinlens.images.rows import Rows, open_rows
from thinlens.images.tiles import Tiling
from thinlens.images.writing import write_rows

PALETTE = ((197, 48, 48), (217, 119, 6), (43, 108, 176), (47, 133, 90))
"""Red, orange, blue, green: the dearest candidate first. The free one, the last, has none."""

SHARE = 0.35
"""Of the colour in what is seen."""

EDGE = 1
"""Pixels of full colour along a tile's upper and left side."""


def draw_route_map(result: Path, target: Path, routes: Routes, tiling: Tiling) -> None:
    """Write `result` once more with the colour of its candidate over each tile, as a PNG.

    Of a large image only a band of tiles is in memory.
    """
    image = open_rows(result, channels=3, max_pixels=2**62)
    write_rows(target, image.shape, _bands(image, routes, tiling))


def _bands(image: Rows, routes: Routes, tiling: Tiling) -> Iterator[Tensor]:
    height, width = routes.size
    scale = image.shape[2] // width
    free = routes.errors.shape[1] - 1
    cut = tiling.evenly(height, width).bands(height, width)
    place = iter(routes.routes.tolist())
    for band in cut:
        top, bottom = band[0].core.top * scale, band[0].core.bottom * scale
        part = image.rows(top, bottom).clone()
        for tile in band:
            route = next(place)
            if route == free:
                continue
            colour = torch.tensor(PALETTE[route % len(PALETTE)], dtype=torch.float32).view(3, 1, 1)
            seen = part[:, :, tile.core.left * scale : tile.core.right * scale]
            edge = colour.to(torch.uint8)
            seen.copy_((seen * (1 - SHARE) + colour * SHARE).round().to(torch.uint8))
            seen[:, :EDGE] = edge
            seen[:, :, :EDGE] = edge
        yield part
