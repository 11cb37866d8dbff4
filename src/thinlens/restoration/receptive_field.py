"""Receptive field measurement: the margin at which tiles equal the whole image.

Measured on the network itself, along one axis at a time, on thin strips of noise.
"""

from __future__ import annotations

import copy
import math
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinlens.engine.compiled import Compiled
from thinlens.errors import UsageError
from thinlens.images.tiles import round_up
from thinlens.models.running import evaluating
from thinlens.models.tile_position import TilePosition, tile_positions
from thinlens.restoration.network import Network, device_of, dtype_of
from thinlens.restoration.seam_error import wider_margin
from thinlens.restoration.sizes import run_at_any_size, size_rule

EXACT = 3e-6
"""Largest difference, on noise in [0, 1], at which a tile counts as equal to the whole image:
summation in another order reaches it, and so do Winograd's tiles at other places. On photographs
the difference is smaller."""

FLOAT32_ROUNDING = 3e-7
"""Changes of a result below this count as rounding: a few units in the last place of float32
near 1."""

NEAR = 64
"""Receptive radii up to this, in pixels, are used as margins. Beyond it (attention at low
resolution) most of the field has no weight, and the effective radius is the margin."""

WIDE_MARGIN = 32
"""Margin in pixels for networks that depend on the whole image, for which no margin is enough."""

LENGTHS = (240, 432, 816)
"""Lengths of the strips in pixels; the next is used while the field reaches from the middle of a
strip to its end."""

STRIP = 16
"""Width of a strip in pixels."""

BAND = 48
"""Length in pixels of the middle of a strip that is replaced. It and the rest of the strip are
multiples of nearly every grid."""

GRIDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Tile alignments in pixels that are tried, in this order."""


GRID_EFFECT = 10
"""Ratio of errors from which a grid is needed with a chosen margin."""


@dataclass(frozen=True)
class ReceptiveField:
    """The surroundings that a network needs around a tile, in pixels of the input."""

    radius: int | None
    """Pixels farther away never change the result; None: the whole image may."""
    effective_radius: int
    """Pixels farther away change the result by less than `FLOAT32_ROUNDING`."""
    grid: int
    """Tiles begin at multiples of it."""
    error: float
    """The largest difference between a tile with `margin` and the whole image on noise, for results
    up to 1; smaller on photographs."""
    chosen: int | None = None
    """A margin that was chosen, in place of the measured one; the radii are not measured then."""

    @property
    def exact(self) -> bool:
        """Whether tiles with `margin` equal the whole image."""
        measured = self.radius is not None or self.chosen is not None
        return measured and self.error <= EXACT

    @property
    def margin(self) -> int:
        """The pixels around a tile that the network gets as input."""
        if self.chosen is not None:
            return self.chosen
        if self.radius is None:
            return WIDE_MARGIN
        return self.radius if self.radius <= NEAR else min(self.radius, self.effective_radius)

    def sentence(self) -> str:
        """Describe how tiles compare with the whole image."""
        if self.exact:
            return f"tiles with a margin of {self.margin} equal the whole image"
        if self.chosen is not None:
            return (
                f"tiles with a margin of {self.chosen} were chosen: on noise they may differ from "
                f"the whole image by up to {self.error * 255:.2g} of 255"
            )
        why = "looks at the whole image" if self.radius is None else "depends on where a tile lies"
        return (
            f"this network {why}: tiles with a margin of {self.margin} may differ from it, on "
            f"noise by up to {self.error * 255:.2g} of 255"
        )


def measure_chosen_margin(network: Network, channels: int, margin: int) -> ReceptiveField:
    """Measure the grid and the error of tiles with a chosen margin, without the radii.

    >>> measure_chosen_margin(torch.nn.Conv2d(1, 1, 5, padding=2), 1, margin=2).exact
    True
    """
    network = _in_float32(network)
    with torch.inference_mode(), evaluating(network):
        grid, error = _grid_of_chosen_margin(network, channels, margin)
    return ReceptiveField(None, margin, grid, error, chosen=margin)


def measure_receptive_field(network: Network, channels: int) -> ReceptiveField:
    """Measure a network that maps `[B, channels, h, w]` to images, with its present weights.

    For a compiled engine the radii are measured on the torch module that it was compiled from; a
    network in half precision is measured in float32, without its rounding.

    >>> measure_receptive_field(torch.nn.Conv2d(1, 1, 5, padding=2), channels=1).radius
    2
    """
    network = _in_float32(network)
    module: Network = getattr(network, "module", network)
    with torch.inference_mode(), evaluating(module):
        radius = _radius(module, channels)
        effective = _effective_radius(module, channels, radius)
        margin = ReceptiveField(radius, effective, 1, math.inf).margin
        grid, error = _grid(network, channels, margin)
    return ReceptiveField(radius and round_up(radius, grid), round_up(effective, grid), grid, error)


def _in_float32(network: Network) -> Network:
    """Return a copy of a module in half precision, and an engine in float32; other networks, and
    those without a copy, are returned as they are."""
    if isinstance(network, Compiled):
        return network.in_float32() if network.is_rounded else network
    if isinstance(network, nn.Module) and dtype_of(network).itemsize < 4:
        with suppress(Exception):  # whatever a module raises that cannot be copied
            return copy.deepcopy(network).float()
    return network


def _grid(network: Network, channels: int, margin: int) -> tuple[int, float]:
    """Return the smallest grid whose error is rounding or at most twice the least one, and its
    error."""
    cuts = _Cuts(network, channels, margin)
    errors: dict[int, float] = {}
    for grid in cuts.grids:
        errors[grid] = cuts.error(round_up(margin, grid), grid)
        if errors[grid] <= EXACT:
            break
    best = max(2 * min(errors.values()), EXACT)
    return next((g, e) for g, e in errors.items() if e <= best)


def _grid_of_chosen_margin(network: Network, channels: int, margin: int) -> tuple[int, float]:
    """Return the smallest grid that changes little, and the error with the margin.

    What is cut off at a small margin depends on the place by chance, so grids are compared at a
    wider one.
    """
    wide = wider_margin(margin)
    cuts = _Cuts(network, channels, wide)
    first, *others = cuts.grids
    errors = {first: cuts.error(wide, first)}
    for grid in (*others[-2:], *others[:-2]):
        if errors[first] <= max(GRID_EFFECT * min(errors.values()), EXACT) and len(errors) > 2:
            break
        errors[grid] = cuts.error(wide, grid)
    best = max(GRID_EFFECT * min(errors.values()), EXACT)
    grid = min(grid for grid, error in errors.items() if error <= best)
    return grid, cuts.error(margin, grid)


class _Cuts:
    """Strips of noise and their results, with which windows of them are compared."""

    def __init__(self, network: Network, channels: int, margin: int) -> None:
        self._network, self.grids = network, _grids(network)
        length = 2 * round_up(margin, self.grids[-1]) + 4 * self.grids[-1]
        self._strips = _strips(network, channels, length)
        self._wholes = [run_at_any_size(network, strip) for strip in self._strips]

    def error(self, margin: int, grid: int) -> float:
        """Return the largest difference between a window on `grid` and the whole strip."""
        pairs = zip(self._strips, self._wholes, strict=True)
        return max(_error(self._network, strip, whole, (margin, grid)) for strip, whole in pairs)


def _grids(network: Network) -> list[int]:
    """Return the tile alignments to try: multiples of that which the network wants of its input."""
    multiple = size_rule(getattr(network, "module", network)).multiple
    return [grid for grid in GRIDS if grid % multiple == 0] or [multiple, 2 * multiple]


def _radius(module: Network, channels: int) -> int | None:
    """Set the middle of a strip to NaN, which no zero weight hides, and measure its spread."""
    for length in LENGTHS:
        strips = _strips(module, channels, length)
        try:
            results = [run_at_any_size(module, _replaced(s, math.nan)).isnan() for s in strips]
        except UsageError:
            return None  # the network refuses NaN
        spread = max(_spread(_changed(x, s)) for x, s in zip(results, strips, strict=True))
        if spread < (length - BAND) // 2:
            return spread
    return None


def _effective_radius(module: Network, channels: int, radius: int | None) -> int:
    """Invert the middle of a strip and measure how far the result changes by `FLOAT32_ROUNDING`."""
    if radius is None or radius <= NEAR:
        return radius or 0
    length = next(length for length in LENGTHS if radius < (length - BAND) // 2)
    farthest = 0
    for strip in _strips(module, channels, length):
        inverted = run_at_any_size(module, _replaced(strip, 1.0))
        difference = (run_at_any_size(module, strip) - inverted).abs()
        farthest = max(farthest, _spread(_changed(difference > FLOAT32_ROUNDING, strip)))
    return farthest


def _spread(changed: Tensor) -> int:
    """Return the distance from the middle band of a strip to the farthest changed pixel."""
    indices = changed.nonzero()
    first = (len(changed) - BAND) // 2
    if not len(indices):
        return 0
    return max(0, first - int(indices.min()), int(indices.max()) - (first + BAND - 1))


def _error(network: Network, strip: Tensor, whole: Tensor, cut: tuple[int, int]) -> float:
    """Return the largest difference of a window from the result of the whole strip.

    `cut` is the margin, which is not compared, and the grid on which the window begins and ends.
    """
    margin, grid = cut
    axis, length = (2, strip.shape[2]) if strip.shape[2] > STRIP else (3, strip.shape[3])
    start, stop = grid, (length - grid - 1) // grid * grid
    position = TilePosition(*((start, 0) if axis == 2 else (0, start)), *strip.shape[2:])
    try:
        with tile_positions([position]):
            tile = run_at_any_size(network, strip.narrow(axis, start, stop - start).contiguous())
    except UsageError:
        return math.inf  # the network does not accept inputs of this grid
    scale = whole.shape[axis] // length
    first, size = margin * scale, (stop - start - 2 * margin) * scale
    expected = whole.narrow(axis, start * scale + first, size)
    largest = whole.abs().max().clamp(min=1)
    difference = (tile.narrow(axis, first, size) - expected).abs().max() / largest
    return float(difference.nan_to_num(math.inf))


def _strips(network: Network, channels: int, length: int) -> list[Tensor]:
    """Draw noise `[1, C, length, STRIP]` and `[1, C, STRIP, length]` on the network's device."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, channels, length, STRIP, generator=generator)
    strip = noise.to(device_of(network), dtype_of(network))
    return [strip, strip.mT.contiguous()]


def _replaced(strip: Tensor, content: float) -> Tensor:
    """Replace the middle band of a strip by `content` less its values."""
    axis = 2 if strip.shape[2] > STRIP else 3
    result = strip.clone()
    band = result.narrow(axis, (strip.shape[axis] - BAND) // 2, BAND)
    band.copy_(content - band)
    return result


def _changed(differs: Tensor, strip: Tensor) -> Tensor:
    """Return for every position along a strip whether any value of the result differs."""
    axis = 2 if strip.shape[2] > STRIP else 3
    lines = differs.transpose(axis, 0).flatten(1).any(1)
    return lines.view(strip.shape[axis], -1).any(1)
