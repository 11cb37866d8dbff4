"""Torch islands: parts of a network that torch runs between parts that the engine runs.

A `RunIsland` node hands an island's inputs to torch, an `Enter` node packs one of its results. The
program runs up to a `RunIsland`, then torch runs the island's operations; the engine's own tensors
stay where they are meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from thinlens.engine.axes import Axes, to_image
from thinlens.engine.graph import Node, Size
from thinlens.engine.trace import META, Operation

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter

TorchValues = dict[int, Tensor]
"""Tensors of torch by the identity of the traced tensor."""

POINT = Size(1, 1, 1)
"""The size of a node that computes nothing."""


@dataclass(frozen=True, eq=False)
class IslandRead:
    """A tensor of the engine that an island reads."""

    size: Size
    order: tuple[int, int, int]
    """The order of channels, rows and columns in memory."""
    views: list[tuple[Tensor, Axes]] = field(default_factory=list)
    """The traced tensors that are views of it."""

    def new_image(self) -> Tensor:
        """Return memory for it, as an image `[1, C, H, W]`."""
        sides = (self.size.channels, self.size.height, self.size.width)
        stored = torch.empty(*(sides[axis] for axis in self.order))
        return stored.permute([self.order.index(axis) for axis in range(3)])[None]


@dataclass(eq=False)
class Island:
    """Operations that torch runs at once."""

    operations: list[Operation] = field(default_factory=list)
    reads: list[IslandRead] = field(default_factory=list)
    """In the order of the inputs of its `RunIsland` node."""

    def compiled(self, kept: Collection[int]) -> Callable[[TorchValues], None]:
        """Return a function that computes its operations on values.

        TorchValues that are not `kept` are dropped when they were read for the last time.
        """
        last_reads: dict[int, Operation] = {}
        for operation in self.operations:
            last_reads.update({id(source): operation for source in operation.sources})
        calls = [_call(operation, last_reads, kept) for operation in self.operations]

        def run(values: TorchValues) -> None:
            for call in calls:
                call(values)

        return run


@dataclass(eq=False, kw_only=True)
class RunIsland(Node):
    """Runs an island: the first `inputs` are its reads, the others islands that run before."""

    island: Island

    name: ClassVar[str] = "unpack"
    free_rows: ClassVar[bool] = True

    def emit(self, emitter: Emitter) -> None:
        """Unpack what the island reads, and end this part of the program."""
        for source, read in zip(self.inputs, self.island.reads, strict=False):
            emitter.program.unpack(emitter.slice(source), emitter.add_output(read))
            emitter.record_step(self.name, [source.size, source.size])
        emitter.end_part(self.island)


@dataclass(eq=False, kw_only=True)
class Enter(Node):
    """A result of an island, which is that of `inputs[0]`."""

    tensor: Tensor
    """The traced tensor."""
    axes: Axes

    name: ClassVar[str] = "input"
    free_rows: ClassVar[bool] = True

    def emit(self, emitter: Emitter) -> None:
        """Pack it."""
        emitter.program.pack(emitter.slice(self), 0, emitter.add_input(self))
        emitter.record(self)

    def image(self, values: TorchValues) -> Tensor:
        """Return it as an image `[1, C, H, W]`."""
        return to_image(values[id(self.tensor)], self.axes, self.size).float()


def _call(
    operation: Operation, last_reads: Mapping[int, Operation], kept: Collection[int]
) -> Callable[[TorchValues], None]:
    """Return a function that computes one operation on values."""
    function, results = operation.function, operation.result
    dropped = [
        key
        for key in dict.fromkeys(id(source) for source in operation.sources)
        if last_reads[key] is operation and key not in kept
    ]
    args = [_argument(value) for value in operation.args]
    kwargs = {name: _argument(value) for name, value in operation.kwargs.items()}
    single = isinstance(results, Tensor)

    def call(values: TorchValues) -> None:
        computed = function(
            *(get(values) for get in args), **{name: get(values) for name, get in kwargs.items()}
        )
        for key in dropped:
            values.pop(key, None)
        if single:
            values[id(results)] = computed
            return
        for tensor, value in zip(results, computed, strict=True):
            if id(tensor) in last_reads or id(tensor) in kept:
                values[id(tensor)] = value

    return call


def _argument(value: Any) -> Callable[[TorchValues], Any]:
    """Return a function that finds an argument among values."""
    if isinstance(value, Tensor) and value.device == META:
        key = id(value)
        return lambda values: values[key]
    if isinstance(value, torch.device) and value == META:
        return lambda values: torch.device("cpu")
    if isinstance(value, list | tuple) and any(isinstance(x, Tensor) for x in value):
        parts = [_argument(x) for x in value]
        return lambda values: [part(values) for part in parts]
    return lambda values: value
