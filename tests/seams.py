"""Seam ratio: how visible the borders between tiles are in an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thinlens.images.tiles import Tile


def seam_ratio(image: Tensor, tiles: Sequence[Tile], scale: int = 1) -> float:
    """Return how much steeper an image `[C, H, W]` is across tile borders than elsewhere.

    The jump at a position is the distance of its gradient from the mean of the gradients on both
    sides; the mean jump across borders is divided by the mean jump elsewhere. It is 1 where borders
    are like all other positions, NaN where there is no border. `scale` enlarges the tiles.

    >>> from thinlens.images.tiles import Tiling
    >>> image = torch.zeros(1, 8, 8)
    >>> image[:, :, 4:] = 1  # a step at the border of the second tile
    >>> seam_ratio(image, Tiling((8, 4)).tiles(8, 8))
    9.0
    """
    rows = {tile.core.top * scale for tile in tiles} - {0}
    columns = {tile.core.left * scale for tile in tiles} - {0}
    at_borders, elsewhere = [], []
    for picture, borders in ((image.mT, rows), (image, columns)):
        gradient = picture.float().diff(dim=-1)
        jump = (gradient[..., 1:-1] - (gradient[..., :-2] + gradient[..., 2:]) / 2).abs()
        # jump[i] belongs to the step from pixel i + 1 to pixel i + 2
        is_border = torch.zeros(max(jump.shape[-1], 0), dtype=torch.bool)
        is_border[[b - 2 for b in borders if 0 <= b - 2 < len(is_border)]] = True
        at_borders.append(jump[..., is_border].flatten())
        elsewhere.append(jump[..., ~is_border].flatten())
    return float(torch.cat(at_borders).mean() / torch.cat(elsewhere).mean())
