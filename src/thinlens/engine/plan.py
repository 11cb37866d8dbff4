"""How does a network become a program for one input size?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from thinlens.engine.arena import Lifetime, place
from thinlens.engine.choice import Choose, table
from thinlens.engine.fuse import fuse
from thinlens.engine.graph import Node, Size
from thinlens.engine.layout import Buffer, Layout, lay_out
from thinlens.engine.native import Core
from thinlens.engine.stream import Group, grouped
from thinlens.engine.trace import capture
from thinlens.errors import UsageError
from thinlens.models.tile_position import Place

if TYPE_CHECKING:
    from thinlens.engine import _native
    from thinlens.engine._native import Placement, Slice

WHOLE = (0, 1)
"""The rows and copies of a buffer that does not roll."""


def _shape(core: Core, b: Buffer) -> _native.Shape:
    return core.Shape(b.channels, b.height, b.width, b.columns, b.halo, b.wide)


@dataclass(frozen=True)
class Means:
    """What plans are made with."""

    core: Core
    """The C++ core."""
    kernels: _native.Kernels
    """Its kernels for one set of instructions."""
    choose: Choose
    limit: int
    """Bytes that the activations of a plan may take."""
    threads: int = 1


class Plan:
    """A program for images of one size."""

    def __init__(self, means: Means, module: nn.Module, size: Size) -> None:
        core, kernels, limit = means.core, means.kernels, means.limit
        self._core, self._kernels = core, kernels
        self._choose = means.choose
        output = fuse(capture(module, size.channels, size.height, size.width))
        self.size = output.size
        while output.kind == "crop":
            output = output.inputs[0]
        self._layout = lay_out(output, kernels.lanes)
        output = self._layout.order[-1]
        groups = grouped(self._layout, lambda buffer: self._floats(buffer, 1) * 4, means.threads)
        rows = {b: (n, len(group.stripes)) for group in groups for b, n in group.rows.items()}
        buffers, lifetimes = self._lifetimes(groups, rows)
        offsets, floats = place(lifetimes)
        if 4 * floats > limit:
            raise UsageError(
                f"an input of {size.width}x{size.height} would take {4 * floats / 2**30:.1f} GiB "
                f"of memory, more than the {limit / 2**30:.1f} GiB allowed: cut it into tiles"
            )
        self.bytes = 4 * floats
        self.shape = (self.size.channels, self.size.height, self.size.width)
        self._bytes = kernels.value_bytes
        self.program = core.Program(kernels, floats)
        self._tensors = {
            b: self.program.tensor(o, _shape(core, b), core.LineBuffer(*rows.get(b, WHOLE)))
            for b, o in zip(buffers, offsets, strict=True)
        }
        self._resizes: list[Node] = []
        self.steps: list[str] = []
        self.layers: list[str] = []
        """By step, the module whose weights it uses; empty where it uses none."""
        self.multiply_adds = 0
        """Of living weights."""
        self.traffic = 0
        """Bytes that the steps read and write, a tensor that is read twice counted twice."""
        starts = {group.nodes[0]: group for group in groups}
        ends = {group.nodes[-1]: group for group in groups}
        for node in self._layout.order:
            if node in starts:
                begin = len(self.steps)
            self._emit(node)
            if node in ends:
                self._take_turns(begin, ends[node])
        self.program.unpack(self._slice(output))
        self._note("unpack", [output.size, output.size])

    @property
    def placeable(self) -> bool:
        """Whether results depend on where in a larger image the input lies."""
        return any(node.low_map is not None for node in self._resizes)

    def places(self, place: Place) -> list[Placement]:
        """Tell the program's resizes where the input lies."""
        return [_placement(self._core, node, place) for node in self._resizes]

    def _take_turns(self, begin: int, group: Group) -> None:
        """Run the steps from `begin` on by bands; a concatenation in place is no step."""
        steps = [i for i, node in enumerate(group.nodes) if node.kind != "concat"]
        if len(steps) != len(self.steps) - begin:
            raise TypeError("a group's nodes are a step each")
        stripes = [[[at[i] for i in steps] for at in stripe] for stripe in group.stripes]
        self.program.stream(begin, stripes)

    def _floats(self, buffer: Buffer, rows: int, copies: int = 1) -> int:
        """Count the floats of a buffer, or of copies of some of its rows."""
        line_buffer = self._core.LineBuffer(rows, copies)
        return self._kernels.floats(_shape(self._core, buffer), line_buffer)

    def _lifetimes(
        self, groups: list[Group], rows: dict[Buffer, tuple[int, int]]
    ) -> tuple[list[Buffer], list[Lifetime]]:
        first: dict[Buffer, int] = {}
        last: dict[Buffer, int] = {}
        times = dict(zip(self._layout.order, range(len(self._layout.order)), strict=True))
        for group in groups:  # its steps happen at one time
            times |= dict.fromkeys(group.nodes, times[group.nodes[0]])
        for node in self._layout.order:
            step = times[node]
            for touched in [node, *node.inputs]:
                buffer = self._layout.home[touched][0]
                first.setdefault(buffer, step)
                last[buffer] = step
        last[self._layout.home[self._layout.order[-1]][0]] = len(self._layout.order)
        return list(first), [
            Lifetime(self._floats(b, *rows.get(b, WHOLE)), first[b], last[b]) for b in first
        ]

    def _slice(self, node: Node) -> Slice:
        buffer, channel = self._layout.home[node]
        return self._core.Slice(self._tensors[buffer], channel, node.size.channels)

    def _emit(self, node: Node) -> None:
        """Add the steps of one node."""
        out, ins = self._slice(node), [self._slice(source) for source in node.inputs]
        match node.kind:
            case "input" if self._read_unpadded(self._layout, node):
                self.program.pack(out)
            case "pad":
                self.program.pack(out)
            case "conv":
                self._conv(node, out, ins)
            case "affine":
                scale, shift = float(node.scale[0]), node.shift.tolist()
                self.program.affine(ins[0], out, scale, shift, node.slope)
            case "add":
                self.program.add(ins[0], ins[1], out, node.factor, node.slope)
            case "gate":
                self.program.gate(ins[0], ins[1], out)
            case "pool":
                self.program.max_pool(ins[0], out, *node.window)
            case "resize":
                self.program.resize(ins[0], out)
                self._resizes.append(node)
            case "concat":
                self._copies(out, node.inputs)
                return
            case _:
                return
        layer = node.kernel.layer if node.kernel is not None else ""
        first = node.inputs or [node]  # packing reads an image of the tensor's own size
        self._note(node.kind, [node.size, *(source.size for source in first)], layer)

    def _note(self, kind: str, touched: list[Size], layer: str = "") -> None:
        self.steps.append(kind)
        self.layers.append(layer)
        self.traffic += sum(self._bytes * s.channels * s.height * s.width for s in touched)

    @staticmethod
    def _read_unpadded(layout: Layout, node: Node) -> bool:
        readers = [other for other in layout.order if node in other.inputs]
        return not readers or any(other.kind != "pad" for other in readers)

    def _copies(self, out: Slice, parts: list[Node]) -> None:
        """Bring in the parts that do not lie in the concatenation's buffer already."""
        first = out.first
        for part in parts:
            channels, source = part.size.channels, self._slice(part)
            if (source.tensor, source.first) != (out.tensor, first):
                self.program.affine(source, self._core.Slice(out.tensor, first, channels))
                self._note("copy", [part.size, part.size])
            first += part.size.channels

    def _conv(self, node: Node, out: Slice, ins: list[Slice]) -> None:
        if node.kernel is None:
            raise TypeError("a convolution has a kernel")
        columns = self._layout.columns[node.inputs[0]]
        group = self._choose(node.kernel, columns, node.size.height // node.shuffle)
        positions = node.size.height * node.size.width // node.shuffle**2
        self.multiply_adds += int(np.count_nonzero(node.kernel.weight)) * positions
        residual = ins[1] if len(ins) > 1 else None
        weights = table(self._core, node.kernel)
        self.program.conv(weights, ins[0], out, residual, node.slope, node.shuffle, group)


def _placement(core: Core, node: Node, place: Place) -> Placement:
    """Return the rows and columns of a resize in those of a larger image."""
    (low,), out = node.inputs, node.size
    if node.low_map is None:
        return core.Placement(
            rows=core.AxisPlacement(0, out.height, 0, low.size.height),
            columns=core.AxisPlacement(0, out.width, 0, low.size.width),
        )
    return core.Placement(
        rows=core.AxisPlacement(*node.low_map.along(out.height, place.top, place.height)),
        columns=core.AxisPlacement(*node.low_map.along(out.width, place.left, place.width)),
    )
