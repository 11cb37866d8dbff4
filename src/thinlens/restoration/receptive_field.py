"""How far around a tile must a network look so that the tile equals the whole image?

Measured on the network itself, along one axis at a time, on thin strips of noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.tiles import round_up
from thinlens.models.tile_position import Place, placed
from thinlens.restoration.network import Network, device_of, evaluating

EXACT = 3e-6
"""The largest difference on noise at which a tile equals the whole image: sums in another order
give it. Images excite networks less: theirs stays below 1e-6."""

ROUNDING = 3e-7
"""A few units in the last place of float32 near 1: smaller changes of a result are not felt."""

NEAR = 64
"""Receptive radii up to this are margins as they are. Beyond it (attention at low resolution)
nearly all of the field has no weight, and the margin is what was felt."""

WIDE_MARGIN = 32
"""For networks that look at the whole image, so that no margin is enough."""

LENGTHS = (240, 432, 816)
"""Of the strips; the next is taken while a network sees from the middle to an end."""

STRIP = 16
"""Pixels across a strip."""

BAND = 48
"""Pixels in the middle of a strip that get another content. It and what is beside it are multiples
of nearly every grid."""

GRIDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Where tiles may begin: multiples of the first at which a window gives what the whole gives."""


@dataclass(frozen=True)
class ReceptiveField:
    """What a network needs around a tile, in pixels of the input."""

    radius: int | None
    """Nothing farther away can change the result; None: everything can."""
    felt: int
    """Other content farther away than this changed the result by less than `ROUNDING`."""
    grid: int
    """Tiles begin at its multiples."""
    error: float
    """The largest difference between a tile with `margin` and the whole image on noise, for results
    up to 1: real images differ less."""

    @property
    def exact(self) -> bool:
        """Whether tiles with `margin` give what the whole image gives."""
        return self.radius is not None and self.error <= EXACT

    @property
    def margin(self) -> int:
        """How many pixels around a tile the network is given."""
        if self.radius is None:
            return WIDE_MARGIN
        return self.radius if self.radius <= NEAR else min(self.radius, self.felt)

    def sentence(self) -> str:
        """Say what tiles can promise."""
        if self.exact:
            return f"tiles with a margin of {self.margin} equal the whole image"
        why = "looks at the whole image" if self.radius is None else "depends on where a tile lies"
        return (
            f"this network {why}: tiles with a margin of {self.margin} may differ from it, on "
            f"noise by up to {self.error * 255:.2g} of 255"
        )


def measure_receptive_field(network: Network, channels: int) -> ReceptiveField:
    """Measure a network that maps `[B, channels, h, w]` to images; its weights decide.

    What the values can reach is asked of the torch module that an engine was made from.
    """
    module: Network = getattr(network, "module", network)
    with torch.inference_mode(), evaluating(module):
        radius = _radius(module, channels)
        felt = _felt(module, channels, radius)
        least = ReceptiveField(radius, felt, 1, math.inf)
        grid, error = _grid(network, channels, least.margin)
    return ReceptiveField(radius and round_up(radius, grid), round_up(felt, grid), grid, error)


def _grid(network: Network, channels: int, margin: int) -> tuple[int, float]:
    """Return the smallest grid on which windows are as good as on any, and their error."""
    strips = _strips(network, channels, 2 * round_up(margin, GRIDS[-1]) + 4 * GRIDS[-1])
    wholes = [network(strip) for strip in strips]
    errors: dict[int, float] = {}
    for grid in GRIDS:
        compared = (
            _error(network, s, w, (round_up(margin, grid), grid))
            for s, w in zip(strips, wholes, strict=True)
        )
        errors[grid] = max(compared)
        if errors[grid] <= ROUNDING:
            break
    best = min(errors.values())
    return next((g, e) for g, e in errors.items() if e <= 2 * best)


def _radius(module: Network, channels: int) -> int | None:
    """Spoil a part of a strip by NaN, which no weight of zero hides, and see how far it spreads."""
    for length in LENGTHS:
        strips = _strips(module, channels, length)
        spread = max(_spread(_changed(module(_other(s, math.nan)).isnan(), s)) for s in strips)
        if spread < (length - BAND) // 2:
            return spread
    return None


def _felt(module: Network, channels: int, radius: int | None) -> int:
    """Replace a part of a strip by its opposite and see how far it is felt."""
    if radius is None or radius <= NEAR:
        return radius or 0
    length = next(length for length in LENGTHS if radius < (length - BAND) // 2)
    farthest = 0
    for strip in _strips(module, channels, length):
        difference = (module(strip) - module(_other(strip, 1.0))).abs()
        farthest = max(farthest, _spread(_changed(difference > ROUNDING, strip)))
    return farthest


def _spread(changed: Tensor) -> int:
    """Return how far beyond the band in the middle of a strip a pixel has changed."""
    places = changed.nonzero()
    first = (len(changed) - BAND) // 2
    if not len(places):
        return 0
    return max(0, first - int(places.min()), int(places.max()) - (first + BAND - 1))


def _error(network: Network, strip: Tensor, whole: Tensor, cut: tuple[int, int]) -> float:
    """Compare a window with the same place in the result of the whole strip.

    `cut` is the margin to leave out and the grid that the window begins and ends on.
    """
    margin, grid = cut
    axis, length = (2, strip.shape[2]) if strip.shape[2] > STRIP else (3, strip.shape[3])
    start, stop = grid, (length - grid - 1) // grid * grid
    place = Place(*((start, 0) if axis == 2 else (0, start)), *strip.shape[2:])
    try:
        with placed([place]):
            tile = network(strip.narrow(axis, start, stop - start).contiguous())
    except UsageError:
        return math.inf  # the network itself refuses this grid
    scale = whole.shape[axis] // length
    first, size = margin * scale, (stop - start - 2 * margin) * scale
    there = whole.narrow(axis, start * scale + first, size)
    largest = whole.abs().max().clamp(min=1)
    difference = (tile.narrow(axis, first, size) - there).abs().max() / largest
    return float(difference.nan_to_num(math.inf))


def _strips(network: Network, channels: int, length: int) -> list[Tensor]:
    """Make noise `[1, C, length, STRIP]` and `[1, C, STRIP, length]` where the network runs."""
    generator = torch.Generator().manual_seed(0)
    strip = torch.rand(1, channels, length, STRIP, generator=generator).to(device_of(network))
    return [strip, strip.mT.contiguous()]


def _other(strip: Tensor, content: float) -> Tensor:
    """Replace the band in the middle of a strip by its distance from `content`."""
    axis = 2 if strip.shape[2] > STRIP else 3
    other = strip.clone()
    band = other.narrow(axis, (strip.shape[axis] - BAND) // 2, BAND)
    band.copy_(content - band)
    return other


def _changed(differs: Tensor, strip: Tensor) -> Tensor:
    """Tell for every place along a strip whether any result there differs."""
    axis = 2 if strip.shape[2] > STRIP else 3
    lines = differs.transpose(axis, 0).flatten(1).any(1)
    return lines.view(strip.shape[axis], -1).any(1)
