"""Slices of channels: views of their source's memory; splits, picks, and slices replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

from thinlens.engine.graph import Node, SingleUse, Size
from thinlens.engine.ops.channel_copy import picked_channels
from thinlens.engine.ops.concat import CHANNEL_AXES, Concat
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.errors import UsageError

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter


@dataclass(eq=False, kw_only=True)
class ChannelSlice(Node):
    """Channels of `inputs[0]` from `first` on, in its memory."""

    first: int

    name: ClassVar[str] = "channel_slice"
    streams: ClassVar[bool] = True

    @property
    def view_start(self) -> int:
        """Its first channel."""
        return self.first

    def fused(self, single_use: SingleUse) -> Node:
        """Be the source itself, a slice of the source's source, or an input of a concatenation."""
        (x,) = self.inputs
        if x.size == self.size:
            return x
        if isinstance(x, ChannelSlice):
            return replace(self, inputs=x.inputs, first=self.first + x.first)
        if isinstance(x, Concat):
            for source, start in x.nested_inputs():
                if (start, source.size) == (self.first, self.size):
                    return source
        return self

    def is_step(self) -> bool:
        """It is no step: its source has computed it."""
        return False

    def emit(self, emitter: Emitter) -> None:
        """Do nothing."""


def channel_slice(x: Node, first: int, channels: int) -> Node:
    """Return some channels of `x`, from `first` on; `x` itself where these are all."""
    size = replace(x.size, channels=channels)
    return x if size == x.size else ChannelSlice([x], size, first=first)


def lower_split(context: TraceContext, a: Arguments, size: Size) -> list[Node]:
    """Lower `split` into slices of one size, the last one perhaps smaller, and `chunk`."""
    x, each = context.node(a["self"]), int(a["split_size"])
    channels = x.size.channels
    sizes = [min(each, channels - first) for first in range(0, channels, each)]
    return _split(x, sizes, a)


def lower_split_with_sizes(context: TraceContext, a: Arguments, size: Size) -> list[Node]:
    """Lower `split_with_sizes`."""
    return _split(context.node(a["self"]), [int(each) for each in a["split_sizes"]], a)


def _split(x: Node, sizes: Sequence[int], a: Arguments) -> list[Node]:
    if a["dim"] not in CHANNEL_AXES:
        raise UsageError("the engine splits channels, not rows or columns")
    starts = accumulate(sizes, initial=0)
    return [channel_slice(x, first, each) for first, each in zip(starts, sizes, strict=False)]


def sliced_channels(x: Node, channels: range) -> Node:
    """Return the channels of `x` in a range: a view where its step is 1."""
    if channels.step == 1:
        return channel_slice(x, channels.start, len(channels))
    return picked_channels(x, channels)


def lower_slice_scatter(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `slice_scatter` of channels: `self` with a slice replaced by `src`."""
    x, source = context.node(a["self"]), context.node(a["src"])
    if a["dim"] not in CHANNEL_AXES or a["step"] != 1:
        raise UsageError("the engine writes slices of consecutive channels, not of rows or columns")
    replaced = range(size.channels)[slice(a["start"], a["end"])]
    before = [channel_slice(x, 0, replaced.start)] if replaced.start else []
    rest = size.channels - replaced.stop
    after = [channel_slice(x, replaced.stop, rest)] if rest else []
    return Concat([*before, source, *after], size)


def lower_index_select(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `index_select` of constant channels."""
    channels = context.constant(a["index"])
    if a["dim"] not in CHANNEL_AXES or channels is None:
        raise UsageError("the engine picks constant channels, not rows or columns")
    return picked_channels(context.node(a["self"]), [int(c) for c in channels.reshape(-1)])


def lower_flip(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `flip` of channels."""
    if list(a["dims"]) not in ([axis] for axis in CHANNEL_AXES):
        raise UsageError("the engine flips channels, not rows or columns")
    return picked_channels(context.node(a["self"]), range(size.channels - 1, -1, -1))
