"""Record programs of the C++ core without running them, and write them to a file of test cases.

`csrc/tests/run_cases.cpp` runs such a file where there is no Python: on an emulated CPU. The format
is described in `csrc/tests/case_file.h`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thinlens.engine.native import native

VERSION = 1
CACHE_LINE = 64
"""Bytes."""
SETS, SKEW = 64, 5
"""Of the cache, and the cache lines by which rows are apart; see csrc/program.cpp."""

COMMANDS = (
    "tensor",
    "pack",
    "unpack",
    "conv",
    "pointwise",
    "reduce_channels",
    "reduce_space",
    "channel_norm",
    "max_pool",
    "resample",
    "resize",
    "stream",
    "run",
    "run_blocks",
)
"""In the order of csrc/tests/case_file.h."""

NO_SLICE = (-1, 0, 0)


def i32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


def array(values: Any, kind: str) -> bytes:
    """An i32 count and the values of a numpy type."""
    flat = np.ascontiguousarray(np.asarray(values, kind).reshape(-1))
    return i32(flat.size) + flat.tobytes()


def text(string: str) -> bytes:
    return array(np.frombuffer(string.encode(), "u1"), "u1")


@dataclass(frozen=True)
class Slice:
    tensor: int
    first: int
    channels: int

    def packed(self) -> bytes:
        return i32(self.tensor, self.first, self.channels)


@dataclass(frozen=True)
class Shape:
    channels: int
    height: int
    width: int
    row_vectors: int
    halo: int = 0
    fp32_storage: bool = False

    def packed(self) -> bytes:
        sizes = (self.channels, self.height, self.width, self.row_vectors, self.halo)
        return i32(*map(int, sizes), int(self.fp32_storage))


@dataclass(frozen=True)
class LineBuffer:
    rows: int = 0
    copies: int = 1
    wrap: int = 0


@dataclass(frozen=True)
class ConvShape:
    in_channels: int
    out_channels: int
    kernel_height: int
    kernel_width: int
    padding: Sequence[int] = (0, 0)
    stride: Sequence[int] = (1, 1)
    dilation: Sequence[int] = (1, 1)
    groups: int = 1

    def packed(self) -> bytes:
        sizes = (self.in_channels, self.out_channels, self.kernel_height, self.kernel_width)
        return i32(*sizes, *self.padding, *self.stride, *self.dilation, self.groups)


@dataclass(frozen=True)
class SparseWeights:
    shape: ConvShape
    starts: Any
    indices: Any
    values: Any
    bias: Any

    def packed(self) -> bytes:
        numbers = array(self.starts, "<i4") + array(self.indices, "<i4")
        return self.shape.packed() + numbers + array(self.values, "<f4") + array(self.bias, "<f4")


@dataclass(frozen=True)
class PointwiseInstruction:
    operation: str
    operands: Sequence[int]
    constants: Sequence[int] = ()

    def packed(self) -> bytes:
        return text(self.operation) + array(self.operands, "<i4") + array(self.constants, "<i4")


@dataclass(frozen=True)
class Taps:
    indices: Any
    weights: Any
    taps: int

    def packed(self) -> bytes:
        return array(self.indices, "<i4") + array(self.weights, "<f4") + i32(self.taps)


@dataclass(frozen=True)
class Windows:
    begins: Any
    ends: Any

    def packed(self) -> bytes:
        return array(self.begins, "<i4") + array(self.ends, "<i4")


@dataclass(frozen=True)
class ThreadPool:
    threads: int


@dataclass(frozen=True)
class Kernels:
    """The kernels of a set of instructions, as far as programs depend on them."""

    name: str
    lanes: int
    value_bytes: int

    def floats(self, shape: Shape, line_buffer: LineBuffer = LineBuffer()) -> int:
        """The size of a tensor in units of 4 bytes, as `Program::floats` computes it."""
        vector = self.lanes * (4 if shape.fp32_storage else self.value_bytes)
        channel = -(-(shape.row_vectors + 2 * shape.halo) * vector // CACHE_LINE) | 1
        lines = shape.channels * channel
        lines += (SKEW - lines) % SETS
        rows = line_buffer.rows or shape.height + 2 * shape.halo
        return lines * CACHE_LINE // 4 * rows * line_buffer.copies


@dataclass
class Program:
    """The commands of a program, in the order in which it was built."""

    kernels: Kernels
    arena_floats: int
    commands: list[bytes] = field(default_factory=list)
    tensors: int = 0

    def _add(self, name: str, *parts: bytes) -> None:
        self.commands.append(i32(COMMANDS.index(name)) + b"".join(parts))

    def tensor(self, offset: int, shape: Shape, line_buffer: LineBuffer = LineBuffer()) -> int:
        lines = i32(line_buffer.rows, line_buffer.copies, line_buffer.wrap)
        self._add("tensor", struct.pack("<q", offset), shape.packed(), lines)
        self.tensors += 1
        return self.tensors - 1

    def pack(self, output: Slice, first_channel: int = 0, image: int = 0) -> None:
        self._add("pack", output.packed(), i32(first_channel, image))

    def unpack(self, input: Slice, image: int = 0) -> None:
        self._add("unpack", input.packed(), i32(image))

    def conv(
        self,
        weights: SparseWeights,
        input: Slice,
        output: Slice,
        residual: Slice | None = None,
        slope: float | Sequence[float] = 1.0,
        shuffle: int = 1,
        channel_group: int = 0,
        input_range: float = 0.0,
    ) -> None:
        slices = [input.packed(), output.packed(), (residual or Slice(*NO_SLICE)).packed()]
        options = [array(slope, "<f4"), i32(shuffle, channel_group)]
        self._add("conv", weights.packed(), *slices, *options, struct.pack("<f", input_range))

    def pointwise(
        self,
        inputs: Sequence[Slice],
        output: Slice,
        instructions: Sequence[PointwiseInstruction],
        constants: Any,
    ) -> None:
        read = b"".join(x.packed() for x in inputs)
        steps = b"".join(x.packed() for x in instructions)
        self._add(
            "pointwise",
            i32(len(inputs)) + read + output.packed(),
            i32(len(instructions)) + steps + array(constants, "<f4"),
        )

    def reduce_channels(
        self,
        input: Slice,
        output: Slice,
        reduction: str,
        count: int,
        first: int = 0,
        step: int = 1,
        correction: int = 0,
    ) -> None:
        numbers = i32(count, first, step, correction)
        self._add("reduce_channels", input.packed(), output.packed(), text(reduction), numbers)

    def reduce_space(
        self, input: Slice, output: Slice, reduction: str, group: int = 1, correction: int = 0
    ) -> None:
        numbers = i32(group, correction)
        self._add("reduce_space", input.packed(), output.packed(), text(reduction), numbers)

    def channel_norm(
        self, input: Slice, output: Slice, weight: Any, bias: Any, epsilon: float
    ) -> None:
        numbers = array(weight, "<f4") + array(bias, "<f4") + struct.pack("<f", epsilon)
        self._add("channel_norm", input.packed(), output.packed(), numbers)

    def max_pool(
        self, input: Slice, output: Slice, rows: Windows, columns: Windows, stride: int = 1
    ) -> None:
        windows = rows.packed() + columns.packed()
        self._add("max_pool", input.packed(), output.packed(), windows, i32(stride))

    def resample(
        self,
        input: Slice,
        output: Slice,
        rows: Taps,
        columns: Taps,
        fill: float = 0.0,
        stride: int = 1,
    ) -> None:
        taps = rows.packed() + columns.packed() + struct.pack("<fi", fill, stride)
        self._add("resample", input.packed(), output.packed(), taps)

    def resize(self, input: Slice, output: Slice) -> None:
        self._add("resize", input.packed(), output.packed())

    def stream(self, first_step: int, strips: Sequence[Sequence[Sequence[int]]]) -> None:
        parts = [i32(first_step, len(strips))]
        for strip in strips:
            parts += [i32(len(strip)), *(array(rows, "<i4") for rows in strip)]
        self._add("stream", *parts)

    def run(self, pool: ThreadPool, input: Any, output: Any, placements: Any = ()) -> None:
        assert not placements, "tiles of larger images have no cases"
        RUNS.append(Run(self, pool.threads, np.array(input)))
        output[:] = 0

    def run_blocks(
        self, pool: ThreadPool, input: Any, output: Any, first: int, last: int, output_top: int
    ) -> None:
        band = (first, last, output_top, output_top + output.shape[2])
        if first == 0:
            RUNS.append(Run(self, pool.threads, np.array(input)))
        RUNS[-1].bands.append(band)
        output[:] = 0

    def release(self) -> None:
        """Nothing is in memory."""


@dataclass
class Run:
    """A program, the images that it ran on, and the bands by which it did."""

    program: Program
    threads: int
    images: Any
    bands: list[tuple[int, int, int, int]] = field(default_factory=list)


RUNS: list[Run] = []
"""Of the recording core, the last one at the end."""


class RecordingCore:
    """Stands in for the extension module, with kernels of any lanes and storage."""

    __file__ = __file__
    ConvShape, LineBuffer, PointwiseInstruction = ConvShape, LineBuffer, PointwiseInstruction
    Program, Shape, Slice, SparseWeights = Program, Shape, Slice, SparseWeights
    Taps, ThreadPool, Windows = Taps, ThreadPool, Windows

    def __init__(self, lanes: int, storage: str) -> None:
        self.storage = storage
        self.recorded = Kernels("recorded", lanes, {"fp32": 4, "bf16": 2}[storage])

    def __getattr__(self, name: str) -> Any:
        """Return the search for groups of the extension itself, which runs no kernel."""
        if not name.startswith("Stream"):
            raise AttributeError(name)
        return getattr(native(), name)

    def available_kernels(self, storage: str = "fp32") -> list[str]:
        return ["recorded"] if storage == self.storage else []

    def kernels(self, name: str) -> Kernels:
        assert name == "recorded"
        return self.recorded


class CaseWriter:
    """Collects the runs of a recording core, each with what it should have computed."""

    def __init__(self, core: RecordingCore) -> None:
        self._core = core
        self._cases: list[bytes] = []
        self._commands: set[str] = set()

    def add(self, name: str, expected: Any, absolute: float, relative: float = 0.0) -> None:
        """Add the last run: results may differ by `absolute + relative * |expected|`."""
        run = RUNS.pop()
        program, wanted = run.program, np.asarray(expected, np.float64)
        command = "run_blocks" if run.bands else "run"
        parts = [i32(COMMANDS.index(command), *run.images.shape, *wanted.shape)]
        parts += [array(run.images, "<f4"), array(wanted, "<f8")]
        parts += [struct.pack("<2d", absolute, relative)]
        if run.bands:
            height = wanted.shape[2]
            parts.append(array([(*band[:3], min(band[3], height)) for band in run.bands], "<i4"))
        commands = [*program.commands, b"".join(parts)]
        self._commands |= {COMMANDS[int.from_bytes(x[:4], "little")] for x in commands}
        head = text(name) + i32(run.threads) + struct.pack("<q", program.arena_floats)
        self._cases.append(head + i32(len(commands)) + b"".join(commands))

    @property
    def commands(self) -> set[str]:
        """The commands that are in the cases."""
        return self._commands

    def write(self, path: Path) -> int:
        """Write the file; return how many cases it holds."""
        kernels = self._core.recorded
        head = i32(VERSION, kernels.lanes, kernels.value_bytes, len(self._cases))
        path.write_bytes(b"thincase" + head + b"".join(self._cases))
        return len(self._cases)
