"""How does a network become a program for one input size?"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from thinlens.engine.arena import Lifetime, place
from thinlens.engine.capture import capture
from thinlens.engine.fusion import fuse
from thinlens.engine.graph import Kernel, Node, Size
from thinlens.engine.layout import Buffer, Layout, lay_out
from thinlens.errors import UsageError

NONE = [-1, 0, 0]
"""No tensor."""

DENSE_FROM = 0.45
"""Share of living weights from which the dense kernel is taken; a guess until kernels are timed."""

MANY_ENTRIES = 64
"""Living weights an output channel from which input channels are walked in groups."""

GROUP = 16
"""Input channels whose rows, for one tile, stay in the first-level cache."""


class Plan:
    """A program for images of one size."""

    def __init__(self, core: Any, kernels: Any, module: nn.Module, size: Size, limit: int) -> None:
        output = fuse(capture(module, size.channels, size.height, size.width))
        self.size = output.size
        while output.kind == "crop":
            output = output.inputs[0]
        self._core, self._layout = core, lay_out(output, kernels.lanes, kernels.least_columns)
        output = self._layout.order[-1]
        buffers, lifetimes = self._lifetimes(kernels)
        offsets, floats = place(lifetimes)
        if 4 * floats > limit:
            raise UsageError(
                f"an input of {size.width}x{size.height} would take {4 * floats / 2**30:.1f} GiB "
                f"of memory, more than the {limit / 2**30:.1f} GiB allowed: cut it into tiles"
            )
        self.bytes = 4 * floats
        self.program = core.Program(kernels, floats)
        self._tensors = {
            b: self.program.tensor(o, b.channels, b.height, b.width, b.columns, b.halo)
            for b, o in zip(buffers, offsets, strict=True)
        }
        self.steps: list[str] = []
        for node in self._layout.order:
            self._emit(node)
        self.program.unpack(self._slice(output))
        self.steps.append("unpack")

    def _lifetimes(self, kernels: Any) -> tuple[list[Buffer], list[Lifetime]]:
        first: dict[Buffer, int] = {}
        last: dict[Buffer, int] = {}
        for step, node in enumerate(self._layout.order):
            for touched in [node, *node.inputs]:
                buffer = self._layout.home[touched][0]
                first.setdefault(buffer, step)
                last[buffer] = step
        last[self._layout.home[self._layout.order[-1]][0]] = len(self._layout.order)
        return list(first), [
            Lifetime(kernels.floats(b.channels, b.height, b.columns, b.halo), first[b], last[b])
            for b in first
        ]

    def _slice(self, node: Node) -> list[int]:
        buffer, channel = self._layout.home[node]
        return [self._tensors[buffer], channel, node.size.channels]

    def _emit(self, node: Node) -> None:
        """Add the steps of one node."""
        out, ins = self._slice(node), [self._slice(source) for source in node.inputs]
        zeros = [0.0] * node.size.channels
        match node.kind:
            case "input" if self._read_unpadded(self._layout, node):
                self.program.pack(out, 0)
            case "pad":
                self.program.pack(out, 0)
            case "conv":
                self._conv(node, out, ins)
            case "affine":
                alpha, shift = float(node.scale[0]), node.shift.tolist()
                self.program.combine(ins[0], NONE, out, alpha, 0.0, shift, node.slope)
            case "add":
                self.program.combine(*ins, out, 1.0, node.factor, zeros, node.slope)
            case "gate":
                self.program.gate(*ins, out)
            case "pool":
                self.program.pool(ins[0], out, *node.window)
            case "resize":
                self.program.resize(ins[0], out)
            case "concat":
                self._copies(out, ins)
                return
            case _:
                return
        self.steps.append(node.kind)

    @staticmethod
    def _read_unpadded(layout: Layout, node: Node) -> bool:
        readers = [other for other in layout.order if node in other.inputs]
        return not readers or any(other.kind != "pad" for other in readers)

    def _copies(self, out: list[int], ins: list[list[int]]) -> None:
        """Bring in the parts that do not lie in the concatenation's buffer already."""
        first = out[1]
        for part in ins:
            to = [out[0], first, part[2]]
            if to != part:
                self.program.combine(part, NONE, to, 1.0, 0.0, [0.0] * part[2], 1.0)
                self.steps.append("copy")
            first += part[2]

    def _conv(self, node: Node, out: list[int], ins: list[list[int]]) -> None:
        if node.kernel is None:
            raise TypeError("a convolution has a kernel")
        living = np.count_nonzero(node.kernel.weight)
        channels = node.kernel.weight.shape[1]
        group = GROUP if living > MANY_ENTRIES * node.kernel.weight.shape[0] else channels
        if living > DENSE_FROM * node.kernel.weight.size:
            group = 0
        residual = ins[1] if len(ins) > 1 else NONE
        made = table(self._core, node.kernel)
        self.program.conv(made, ins[0], out, residual, node.slope, node.shuffle, group)


def table(core: Any, kernel: Kernel) -> Any:
    """List a kernel's living weights for the C++ core, which checks them."""
    c_out, c_in, height, width = kernel.weight.shape
    rows = np.ascontiguousarray(kernel.weight.transpose(0, 2, 3, 1), np.float32).reshape(c_out, -1)
    living = rows != 0
    starts = np.concatenate([[0], np.cumsum(living.sum(1))]).astype(np.int32)
    positions = np.nonzero(living)[1].astype(np.int32)
    shape = [c_in, c_out, height, width, kernel.padding, kernel.stride, kernel.dilation]
    bias = np.ascontiguousarray(kernel.bias, np.float32)
    return core.Table(shape, starts, positions, rows[living], bias)
