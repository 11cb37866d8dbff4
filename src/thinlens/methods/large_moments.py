"""Second moments of layers with many columns: single-precision products, shared Gram matrices.

A convolution of a dense block sees all channels that the one before it saw, and some more; layers
side by side see the same input. The Gram matrix of the channels that two consecutive layers share
is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.methods.moments import (
    LARGE_COLUMNS,
    Moments,
    MomentSums,
    Sample,
    convolution_groups,
    input_rows,
)
from thinlens.sparsity.layout import PrunableModule, canonical


@dataclass
class _Gram:
    """The Gram matrix of one call of a layer, and all that it depends on."""

    geometry: tuple[Any, ...]
    x: Tensor
    version: int
    positions: Tensor
    shift: Tensor  # [p]
    xx: Tensor  # float64 [p, p]

    def shares(self, geometry: tuple[Any, ...], x: Tensor, positions: Tensor) -> bool:
        """Return whether the first channels of `x` are those of this matrix."""
        channels = self.x.shape[1]
        return (
            self.version == self.x._version
            and self.geometry == geometry
            and x.shape[1] >= channels
            and x.shape[2:] == self.x.shape[2:]
            and len(x) == len(self.x)
            and torch.equal(self.positions, positions)
            and torch.equal(x[:, :channels], self.x)
        )


class GramCache:
    """The Gram matrix of the last large layer, for the next one."""

    def __init__(self) -> None:
        self.last: _Gram | None = None
        self.shared = 0
        """Channels whose products were not computed again, over all calls."""


def moment_sums(layer: PrunableModule, cache: GramCache) -> MomentSums:
    """Return what sums the moments of `layer`: in double precision, unless it has many columns.

    >>> type(moment_sums(nn.Conv2d(8, 8, 3), GramCache())).__name__
    'MomentSums'
    >>> type(moment_sums(nn.Conv2d(128, 8, 3), GramCache())).__name__
    'LargeMomentSums'
    """
    columns = canonical(layer.weight.detach(), layer)[0].numel()
    return LargeMomentSums(layer, cache) if columns >= LARGE_COLUMNS else MomentSums(layer)


class LargeMomentSums(MomentSums):
    """Sums second moments by single-precision products of chunks, which are added in double.

    For a layer with a bias, columns and targets are first shifted by their means over the first
    chunk, so that centring them loses no digits.
    """

    def __init__(self, layer: PrunableModule, cache: GramCache) -> None:
        super().__init__(layer)
        self._cache = cache
        self._shift: Tensor | None = None  # [g, p]
        self._target_shift: Tensor | None = None  # [g, c]

    def add(self, x: Tensor, sample: Sample) -> None:
        """Add one call: the layer's whole input and the targets at sampled positions."""
        groups, start = convolution_groups(self.layer), 0
        gram = _CallGram(self.layer, x, sample, self._cache, shifted=self._shift)
        for chunk in input_rows(self.layer, x, sample):
            targets = sample.targets[start : start + chunk.shape[1]]
            y = targets.reshape(len(targets), groups, -1).movedim(1, 0)
            rows, y = self._shifted(chunk.float(), y.float(), gram)
            gram.add(rows)
            self._xy = self._xy + (rows.mT @ y).double()
            self._x = self._x + rows.sum(1).double()
            self._y = self._y + y.sum(1).double()
            self._yy = self._yy + y.square().sum(1).double()
            start += rows.shape[1]
        self._xx = self._xx + gram.finished()
        self.count += start

    def _shifted(self, rows: Tensor, y: Tensor, gram: _CallGram) -> tuple[Tensor, Tensor]:
        if self._shift is None or self._target_shift is None:
            biased = self.layer.bias is not None
            self._shift = rows.mean(1) if biased else torch.zeros_like(rows[:, 0])
            self._target_shift = y.mean(1) if biased else torch.zeros_like(y[:, 0])
            self._shift = gram.continued(self._shift)
        return rows - self._shift[:, None], y - self._target_shift[:, None]

    def _means(self, xx: Tensor, xy: Tensor, yy: Tensor, x: Tensor, y: Tensor) -> Moments:
        moments = super()._means(xx, xy, yy, x, y)
        if self.layer.bias is None or self._shift is None or self._target_shift is None:
            return moments
        mean_x, mean_y = moments.mean_x + self._shift, moments.mean_y + self._target_shift
        return Moments(moments.xx, moments.xy, moments.yy, mean_x, mean_y, moments.positions)


class _CallGram:
    """The Gram matrix of one call, of which the part of shared channels is not computed."""

    def __init__(
        self,
        layer: PrunableModule,
        x: Tensor,
        sample: Sample,
        cache: GramCache,
        shifted: Tensor | None,
    ) -> None:
        self._cache, self._positions = cache, sample.positions
        self._x = x.movedim(-1, 1) if isinstance(layer, nn.Linear) else x
        self._geometry = _geometry(layer)
        columns = canonical(layer.weight.detach(), layer)[0].numel()
        plain = isinstance(layer, nn.Conv2d | nn.Linear) and convolution_groups(layer) == 1
        # A later call of the layer has the shift of its first, which is not that of the cache.
        self._cacheable = plain and shifted is None
        last = cache.last if self._cacheable else None
        shares = last is not None and last.shares(self._geometry, self._x, sample.positions)
        self._known = last if shares else None
        self._shift: Tensor | None = None
        self._xx: Tensor | float = 0.0
        self._old = self._new = torch.empty(0, dtype=torch.long)
        if self._known is not None:
            known, channels = self._known.x.shape[1], self._x.shape[1]
            index = torch.arange(columns)
            self._old = index[index % channels < known]
            self._new = index[index % channels >= known]
            cache.shared += known

    def continued(self, shift: Tensor) -> Tensor:
        """Return `shift` [1, p] with that of the shared columns in their place."""
        if self._known is not None:
            shift = shift.clone()
            shift[:, self._old] = self._known.shift
        self._shift = shift
        return shift

    def add(self, rows: Tensor) -> None:
        """Add a chunk of rows `[g, P, p]`."""
        part = rows if self._known is None else rows[..., self._new]
        self._xx = self._xx + (part.mT @ rows).double()

    def finished(self) -> Tensor:
        """Return the sum over all chunks, and keep it for the next layer."""
        xx = torch.as_tensor(self._xx)
        if self._known is not None:
            whole = xx.new_empty(1, xx.shape[-1], xx.shape[-1])
            whole[:, self._new] = xx
            whole[:, self._old[:, None], self._new] = xx[..., self._old].mT
            whole[:, self._old[:, None], self._old] = self._known.xx
            xx = whole
        if self._cacheable and self._shift is not None:
            x, version = self._x, self._x._version
            shift = self._shift[0]
            self._cache.last = _Gram(self._geometry, x, version, self._positions, shift, xx[0])
        return xx


def _geometry(layer: PrunableModule) -> tuple[Any, ...]:
    """Return all of a layer but its channels that determines the columns of its input."""
    if isinstance(layer, nn.Linear):
        return (nn.Linear, layer.bias is None)
    options = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.padding_mode)
    return (type(layer), layer.bias is None, *options)


def unfolds_alike(layer: PrunableModule, other: PrunableModule) -> bool:
    """Return whether both layers see the same columns of the same input.

    >>> unfolds_alike(nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3))
    False
    """
    return type(layer) is type(other) and _geometry(layer)[2:] == _geometry(other)[2:]
