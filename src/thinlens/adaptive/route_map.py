"""Route maps: a restored image with the colour of each tile's candidate over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from thinlens.adaptive.router import Routes
from thinlens.images.decoding import DecodeOptions, open_photograph
from thinlens.images.pixels import to_uint8
from thinlens.images.rows import RowReader
from thinlens.images.tiles import Tiling
from thinlens.images.writing import write_rows

PALETTE = ((197, 48, 48), (217, 119, 6), (43, 108, 176), (47, 133, 90))
"""8-bit RGB of the candidates, the most expensive first: red, orange, blue, green. The fallback,
the last candidate, has no colour."""

SHARE = 0.35
"""Opacity of the colour over a tile."""

EDGE = 1
"""Pixels of opaque colour along the upper and left side of a tile."""


def draw_route_map(result: Path, target: Path, routes: Routes, tiling: Tiling) -> None:
    """Write `result` as a PNG at `target`, with the colour of its candidate over each tile.

    Only a band of tiles is in memory at once.
    """
    image = open_photograph(result, DecodeOptions(max_pixels=2**62)).colours
    _, height, width = image.shape
    write_rows(target, (3, height, width), _bands(image, routes, tiling))


def _bands(image: RowReader, routes: Routes, tiling: Tiling) -> Iterator[Tensor]:
    height, width = routes.size
    scale = image.shape[2] // width
    fallback = routes.errors.shape[1] - 1
    cut = tiling.balanced_rows(height, width)
    tile_routes = iter(routes.routes.tolist())
    for band in cut:
        top, bottom = band[0].core.top * scale, band[0].core.bottom * scale
        values = image.rows(top, bottom)
        levels = values if values.dtype == torch.uint8 else to_uint8(values)
        rows = levels.expand(3, -1, -1).clone()
        for tile in band:
            route = next(tile_routes)
            if route == fallback:
                continue
            colour = torch.tensor(PALETTE[route % len(PALETTE)], dtype=torch.float32).view(3, 1, 1)
            core = rows[:, :, tile.core.left * scale : tile.core.right * scale]
            edge = colour.to(torch.uint8)
            core.copy_((core * (1 - SHARE) + colour * SHARE).round().to(torch.uint8))
            core[:, :EDGE] = edge
            core[:, :, :EDGE] = edge
        yield rows
