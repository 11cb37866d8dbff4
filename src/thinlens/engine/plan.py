"""Plan of a network for one input size: trace, fuse, lay out, stream, assign memory, emit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from thinlens.engine.arena import Lifetime, assign_offsets
from thinlens.engine.bands import can_roll, rolled
from thinlens.engine.emitter import Emitter
from thinlens.engine.graph import Node, Size
from thinlens.engine.graphs import Graphs
from thinlens.engine.heuristic import Heuristic
from thinlens.engine.island import RunIsland
from thinlens.engine.layout import Buffer, Layout, lay_out
from thinlens.engine.lower import WORK
from thinlens.engine.mixed import MixedProgram
from thinlens.engine.native import Core
from thinlens.engine.ops.conv import Conv, WeightStore
from thinlens.engine.ops.resize import Resize
from thinlens.engine.stream import FusedGroup, Progression, fused_groups
from thinlens.engine.tuner import KernelSelector
from thinlens.errors import UsageError
from thinlens.models.tile_position import TilePosition

if TYPE_CHECKING:
    from thinlens.engine import _native
    from thinlens.engine._native import Placement

GIB = 2**30

FP32_BYTES = 4

INPUT_HEADROOM = 4.0
"""The range of an int16 convolution's input, relative to the measured one: other images than those
it was measured on have larger values. Two of the 15 bits of an input."""

BAND_BYTES = 64 << 20
"""Bytes of activations from which a network runs by bands of rows, where its graph allows that."""

BAND_ROWS = 128
"""Rows of the output that are returned at a time, at least."""

InputRanges = Mapping[str, float]
"""By the name of a layer, the largest magnitude of its input's values."""

LineBuffers = dict[Buffer, tuple[int, int, int]]
"""Rows, copies and wrap of the buffers that are line buffers."""

WHOLE = (0, 1, 0)
"""Those of a buffer that holds a whole tensor."""


@dataclass(frozen=True)
class PlanContext:
    """Everything but the network and the size that a plan depends on."""

    core: Core
    """The C++ core."""
    kernels: _native.Kernels
    """Its kernels for one set of instructions."""
    kernel_selector: KernelSelector
    max_bytes: int
    """Bytes that the activations of a plan may take."""
    weights: WeightStore
    """Weights that all plans share."""
    threads: int = 1
    least_work: float = 0.0
    """Multiply-adds for each value copied between torch and the engine, at most, of segments that
    torch runs after all."""
    input_ranges: InputRanges | None = None
    """By layer, the ranges of what int16 convolutions read; others do not use int16."""
    records_ranges: bool = False
    """Whether programs record those ranges; their operations are not fused then."""

    @property
    def precision(self) -> str:
        """The name of the precision that plans run in."""
        if self.input_ranges is not None:
            return "int16"
        return "fp32" if self.kernels.value_bytes == FP32_BYTES else "bf16"

    def set_kernel(self, node: Conv, row_vectors: int) -> None:
        """Select the kernel of a convolution whose input has `row_vectors` vectors per row."""
        node.input_range = INPUT_HEADROOM * (self.input_ranges or {}).get(node.params.layer, 0.0)
        selector = self.kernel_selector
        if self.input_ranges is not None and not node.input_range:
            selector = Heuristic(self.kernels.name)
        node.select_kernel(selector, row_vectors)


@dataclass(frozen=True)
class PlanPart:
    """Steps of the engine, or an island of torch."""

    kind: str
    """engine or torch"""
    operations: int
    layers: int
    """Convolutions and linear layers."""
    reasons: list[str]
    """Why torch runs its operations."""


def _engine_part(steps: list[str], layers: list[str]) -> PlanPart:
    copies = ("input", "unpack")
    return PlanPart(
        "engine",
        sum(step not in copies for step in steps),
        sum(bool(layer) for layer in layers),
        [],
    )


class Plan:
    """A program for images of one size."""

    def __init__(
        self, context: PlanContext, graphs: Graphs, size: Size, *, is_tile: bool = False
    ) -> None:
        """Plan a network for whole images of `size`, or for tiles of larger images."""
        self._core, self._kernels = context.core, context.kernels
        traced, lowered = graphs.lowered(size, context.least_work)
        output = lowered.root
        self.reasons = lowered.reasons
        """Why torch runs the operations of islands."""
        self.native = lowered.native
        """The operations that the engine runs."""
        self.first_reason = lowered.first_reason()
        """Why torch runs a part; empty where it runs none."""
        self.shape = tuple(traced.output.shape[1:])
        while output.crops_output:  # by writing the output image
            output = output.inputs[0]
        layout = lay_out(output, self._kernels.lanes)
        for node in layout.order:
            if isinstance(node, Conv):
                context.set_kernel(node, layout.row_vectors[node.inputs[0]])
            if isinstance(node, Resize):
                node.is_placed = is_tile
        groups: list[FusedGroup] = []
        if not context.records_ranges:
            row_bytes = lambda buffer: 4 * self._floats(buffer, 1)  # noqa: E731
            groups = fused_groups(self._core, layout, row_bytes, context.threads)
        memory = self._memory(layout, groups)
        self._strip: Progression | None = None
        self.can_roll = can_roll(layout)
        """Whether large images of the network run by bands of rows."""
        if self.can_roll and 4 * memory.floats > BAND_BYTES and not context.records_ranges:
            layout, band = rolled(self._core, layout, self._kernels.lanes, context.threads)
            groups, memory = [band], self._memory(layout, [band])
            (self._strip,) = band.strips
            self._upscale = output.upscale
        self.bytes = 4 * memory.floats
        if self.bytes > context.max_bytes:
            raise UsageError(
                f"an input of {size.width}x{size.height} would take {self.bytes / GIB:.1f} GiB "
                f"of memory, more than the {context.max_bytes / GIB:.1f} GiB allowed: cut it into "
                f"tiles"
            )
        self.program = self._core.Program(self._kernels, memory.floats)
        tensors = {
            buffer: self.program.tensor(
                offset,
                self._shape(buffer),
                self._core.LineBuffer(*memory.line_buffers.get(buffer, WHOLE)),
            )
            for buffer, offset in memory.offsets.items()
        }
        emitter = Emitter(
            self._core,
            self.program,
            layout,
            tensors,
            self._kernels.value_bytes,
            context.weights,
        )
        emitter.recorded = [] if context.records_ranges else None
        _emit(layout.order, groups, emitter, whole=self._strip is not None)
        self.recorded = emitter.recorded or []
        """The layers of `program.ranges()`."""
        self.steps, self.layers, self.kernels = emitter.steps, emitter.layers, emitter.kernels
        self.multiply_adds, self.traffic = emitter.multiply_adds, emitter.traffic
        self._resizes = emitter.resizes
        self._mixed = MixedProgram(self.program, emitter, traced) if emitter.parts else None

    @property
    def depends_on_position(self) -> bool:
        """Whether results depend on the input's position in a larger image."""
        return any(node.global_resize is not None for node in self._resizes)

    @property
    def is_banded(self) -> bool:
        """Whether the whole network runs by bands of rows."""
        return self._strip is not None

    def bands(self) -> Iterator[tuple[range, range]]:
        """Yield the row blocks of every band, and the rows of the output that they compute."""
        if self._strip is None:
            return
        rows = np.minimum(self._strip[:, -1] * self._upscale, self.shape[1])
        first = 0
        for last in range(1, len(rows)):
            is_end = last == len(rows) - 1
            if rows[last] - rows[first] >= BAND_ROWS or is_end:
                yield range(first, last), range(int(rows[first]), int(rows[last]))
                first = last

    def run_band(
        self, pool: _native.ThreadPool, image: Tensor, blocks: range, rows: range
    ) -> Tensor:
        """Run row blocks on an image `[1, C, H, W]`, in order; return their rows of the output."""
        channels, _, width = self.shape
        output = torch.empty(1, channels, max(1, len(rows)), width)
        self.program.run_blocks(
            pool, image.numpy(), output.numpy(), blocks.start, blocks.stop, rows.start
        )
        return output[:, :, : len(rows)]

    @property
    def is_mixed(self) -> bool:
        """Whether torch runs a part of the network."""
        return self._mixed is not None

    @property
    def layer_counts(self) -> tuple[int, int]:
        """Convolutions and linear layers that the engine runs, and those that torch runs."""
        counts = [sum(op.name in WORK for op in ops) for ops in (self.native, self.reasons)]
        return counts[0], counts[1]

    def parts(self) -> list[PlanPart]:
        """List the program's parts and the islands between them, in the order they run."""
        layers, steps = self.layers, self.steps
        if self._mixed is None:
            return [_engine_part(steps, layers)]
        parts, first = [], 0
        for end, island in self._mixed.ends:
            parts.append(_engine_part(steps[first:end], layers[first:end]))
            reasons = [self.reasons[operation] for operation in island.operations]
            work = sum(operation.name in WORK for operation in island.operations)
            parts.append(PlanPart("torch", len(island.operations), work, reasons))
            first = end
        return [*parts, _engine_part(steps[first:], layers[first:])]

    def part_seconds(self) -> list[float]:
        """Return the seconds of each of `parts` in the last run."""
        seconds = self.program.seconds()
        if self._mixed is None:
            return [sum(seconds)]
        times, first = [], 0
        for (end, _), island_seconds in zip(self._mixed.ends, self._mixed.seconds, strict=True):
            times += [sum(seconds[first:end]), island_seconds]
            first = end
        return [*times, sum(seconds[first:])]

    def run(
        self, pool: _native.ThreadPool, images: Tensor, output: Tensor, placements: list[Placement]
    ) -> None:
        """Run on images `[B, C, H, W]`, one by one."""
        if self._mixed is None:
            self.program.run(pool, images.numpy(), output.numpy(), placements)
            return
        for index in range(len(images)):
            one = slice(index, index + 1)
            output[one] = self._mixed.run(pool, images[one], placements)

    def placements(self, position: TilePosition) -> list[Placement]:
        """Return what the program's resizes need for an input at a position."""
        return [node.placement(self._core, position) for node in self._resizes]

    def _shape(self, buffer: Buffer) -> _native.Shape:
        return self._core.Shape(
            buffer.channels,
            buffer.height,
            buffer.width,
            buffer.row_vectors,
            buffer.halo,
            buffer.fp32_storage,
        )

    def _floats(self, buffer: Buffer, rows: int, copies: int = 1, wrap: int = 0) -> int:
        """Count the floats of a buffer, or of copies of some of its rows."""
        line_buffer = self._core.LineBuffer(rows, copies, wrap)
        return self._kernels.floats(self._shape(buffer), line_buffer)

    def _memory(self, layout: Layout, groups: list[FusedGroup]) -> _Memory:
        """Assign memory to the buffers of all groups, and of the operations that run alone."""
        line_buffers = {
            buffer: (lines.rows, len(group.strips), lines.wrap)
            for group in groups
            for buffer, lines in group.line_buffers.items()
        }
        buffers, lifetimes = self._lifetimes(layout, groups, line_buffers)
        offsets, floats = assign_offsets(lifetimes)
        return _Memory(dict(zip(buffers, offsets, strict=True)), floats, line_buffers)

    def _lifetimes(
        self, layout: Layout, groups: list[FusedGroup], line_buffers: LineBuffers
    ) -> tuple[list[Buffer], list[Lifetime]]:
        """Return all buffers, and the size and the steps of each."""
        first: dict[Buffer, int] = {}
        last: dict[Buffer, int] = {}
        times = {node: time for time, node in enumerate(layout.order)}
        for group in groups:  # its steps happen at one time
            times |= dict.fromkeys(group.nodes, times[group.nodes[0]])
        for node in layout.order:
            for touched in [node, *node.inputs]:
                buffer = layout.placement[touched][0]
                first.setdefault(buffer, times[node])
                last[buffer] = times[node]
        last[layout.placement[layout.order[-1]][0]] = len(layout.order)
        return list(first), [
            Lifetime(self._floats(b, *line_buffers.get(b, WHOLE)), first[b], last[b]) for b in first
        ]


@dataclass(frozen=True)
class _Memory:
    """Where the buffers of a plan lie in its arena."""

    offsets: dict[Buffer, int]
    floats: int
    """Of the arena."""
    line_buffers: LineBuffers


def _emit(order: list[Node], groups: list[FusedGroup], emitter: Emitter, *, whole: bool) -> None:
    """Append the steps of all nodes, fused by group, and the output; in the group if `whole`."""
    starts = {group.nodes[0] for group in groups}
    ends = {group.nodes[-1]: group for group in groups}
    first_step = 0
    for node in order:
        if node in starts:
            first_step = len(emitter.steps)
        node.emit(emitter)
        if node in ends and not whole:
            _stream(emitter, first_step, ends[node], [])
    output = order[-1]
    if isinstance(output, RunIsland):  # torch computes the network's output
        return
    emitter.program.unpack(emitter.slice(output), len(emitter.outputs))
    emitter.record_step("unpack", [output.size, output.size])
    if whole:
        written = [strip[:, -1:] * output.upscale for strip in groups[0].strips]
        _stream(emitter, 0, groups[0], written)


def _stream(
    emitter: Emitter, first_step: int, group: FusedGroup, written: list[Progression]
) -> None:
    """Let the steps from `first_step` on run row block by row block.

    `written` are, by strip, the rows of the output image where its writing is one of them.
    """
    indices = [i for i, node in enumerate(group.nodes) if node.is_step()]
    if len(indices) + bool(written) != len(emitter.steps) - first_step:
        raise TypeError("a fused group's nodes are a step each")
    strips = [strip[:, indices] for strip in group.strips]
    if written:
        strips = [np.hstack(columns) for columns in zip(strips, written, strict=True)]
    emitter.program.stream(first_step, [strip.tolist() for strip in strips])
