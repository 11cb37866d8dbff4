"""Resampling by tables of taps: interpolation, average pools, pads and crops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from thinlens.engine.graph import Footprint, Node, SingleUse, Size
from thinlens.engine.ops.subpixel import AxisPair
from thinlens.engine.ops.taps import AxisTaps, index_map

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter
    from thinlens.engine.ops.conv import Conv

MAX_FOLDED_PADDING = 8
"""Zeros on a side that a convolution reads from its input's halo, which every row has."""

MAX_STREAMED_REACH = 32
"""Rows away from its own that a row may need for the resampling to stream."""


@dataclass(eq=False, kw_only=True)
class Resample(Node):
    """Every output is a weighted sum of some rows and columns of `inputs[0]`."""

    rows: AxisTaps
    columns: AxisTaps
    fill: float = 0.0
    """What an index of -1 stands for."""
    stride: int = 1
    """Rows of the input from one output row to the next, about."""
    zero_padding: AxisPair | None = None
    """Rows above and columns to the left, where it only adds zeros."""

    name: ClassVar[str] = "resample"
    free_rows: ClassVar[bool] = True

    @property
    def streams(self) -> bool:  # type: ignore[override]
        """Whether all rows need only rows near their own."""
        _, above, below, _ = self.footprint(0)
        return above + below <= MAX_STREAMED_REACH

    def footprint(self, index: int) -> Footprint:
        """The rows that the table has, at most, about a row's own."""
        own = self.stride * np.arange(len(self.rows.indices))[:, None]
        distances = np.where(self.rows.indices < 0, 0, self.rows.indices - own)
        return Footprint(self.stride, int(max(0, -distances.min())), int(max(0, distances.max())))

    @property
    def is_index_map(self) -> bool:
        """Whether every output is one input, or the fill."""
        axes = (self.rows, self.columns)
        return all(taps.indices.shape[1] == 1 and (taps.weights == 1).all() for taps in axes)

    def fused(self, single_use: SingleUse) -> Node:
        """Map through an index map before it: pads, crops and slices of each other."""
        (x,) = self.inputs
        if not (isinstance(x, Resample) and x.is_index_map and self.is_index_map):
            return self
        has_fill = any((taps.indices < 0).any() for taps in (self.rows, self.columns))
        inner_has_fill = any((taps.indices < 0).any() for taps in (x.rows, x.columns))
        if has_fill and inner_has_fill and self.fill != x.fill:
            return self
        plain = Resample([], self.size, rows=self.rows, columns=self.columns)
        joined = replace(
            self if self.crops_output and x.crops_output else plain,
            inputs=x.inputs,
            rows=_composed(self.rows, x.rows),
            columns=_composed(self.columns, x.columns),
            fill=self.fill if has_fill else x.fill,
            stride=self.stride * x.stride,
        )
        return joined.fused(single_use)

    def folded_into(self, reader: Conv, *, is_only_reader: bool) -> Conv | None:
        """Let a convolution read zeros from its input's halo."""
        if self.zero_padding is None:
            return None
        padding = tuple(
            a + b for a, b in zip(reader.params.paddings, self.zero_padding, strict=True)
        )
        if max(padding) > MAX_FOLDED_PADDING:
            return None
        params = replace(reader.params, padding=(padding[0], padding[1]))
        return replace(reader, inputs=self.inputs, params=params)

    def emit(self, emitter: Emitter) -> None:
        """Append one step."""
        rows, columns = (taps.native(emitter.core) for taps in (self.rows, self.columns))
        source, out = emitter.slice(self.inputs[0]), emitter.slice(self)
        emitter.program.resample(source, out, rows, columns, self.fill, self.stride)
        emitter.record(self)


def _composed(outer: AxisTaps, inner: AxisTaps) -> AxisTaps:
    """Return the index map that reads `inner`'s outputs by `outer`."""
    indices = outer.indices[:, 0]
    return index_map(np.where(indices < 0, -1, inner.indices[indices, 0]))


def resample(
    x: Node, rows: AxisTaps, columns: AxisTaps, fill: float = 0.0, stride: int = 1
) -> Resample:
    """Return `x` resampled along both axes."""
    size = Size(x.size.channels, len(rows.indices), len(columns.indices))
    return Resample([x], size, rows=rows, columns=columns, fill=fill, stride=stride)
