"""Graphs of one network by input size: where only sizes differ, a graph is reused with other sizes.

A network is traced for every size, because its code may depend on it. Where its operations are
those of an earlier trace, with the same weights and numbers, lowering and fusion would do the same
again: the earlier graph is copied with the sizes of the new trace. What is compared is all that
lowering and fusion look at for the operations in `ALIKE`: their arguments, which tensors are read
where, and which tensors have one size or a side of 1. Graphs with other operations, or with what a
network computed of its weights, are made anew.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from thinlens.engine.graph import Node, Size, topological_order
from thinlens.engine.lower import Lowered, lower
from thinlens.engine.ops import OPERATIONS
from thinlens.engine.ops.channel_copy import ChannelCopy
from thinlens.engine.ops.channel_slice import ChannelSlice
from thinlens.engine.ops.concat import Concat
from thinlens.engine.ops.conv import Conv
from thinlens.engine.ops.input import Input
from thinlens.engine.ops.lowering import TraceContext
from thinlens.engine.ops.max_pool import MaxPool
from thinlens.engine.ops.pointwise import Pointwise
from thinlens.engine.ops.resize import Resize
from thinlens.engine.trace import Operation, Trace, Tracer
from thinlens.errors import UsageError

MAX_GRAPHS = 4
"""Graphs that are kept: a network has few forms, such as one for images that it pads."""

ALIKE = frozenset(
    {"convolution", "cat", "pixel_shuffle", "max_pool2d_with_indices", "upsample_bilinear2d"}
    | {"add", "sub", "mul", "div", "relu", "leaky_relu", "_prelu_kernel", "sigmoid", "tanh"}
    | {"silu", "gelu", "hardtanh", "alias", "detach", "clone"}
)
"""Operations whose lowering and fusion depend on sizes by equality only."""

SIZES = {"upsample_bilinear2d": ("output_size", "size")}
"""Arguments that are the result's size."""

RESIZED = (Input, Conv, ChannelCopy, Pointwise, Concat, ChannelSlice, Resize)
"""Nodes that depend on their size in nothing else."""


class _UnlikeError(Exception):
    """A trace has what is not compared."""


class Graphs:
    """Traces a module and lowers its traces, for one input size after the other."""

    def __init__(self, module: nn.Module) -> None:
        self._tracer = Tracer(module)
        tensors = [*module.parameters(), *module.buffers()]
        self._weights = {id(tensor): number for number, tensor in enumerate(tensors)}
        self._made: dict[Hashable, _Template] = {}

    def lowered(self, size: Size, least_work: float = 0.0) -> tuple[Trace, Lowered]:
        """Return the trace for images of `size`, and its fused graph.

        Raises `UsageError` as `Tracer.trace` and `lower` do.
        """
        traced = self._tracer.trace(size)
        form = self._form(traced)
        if form is not None and form in self._made:
            with suppress(UsageError):  # for a pool that the engine does not have at this size
                return traced, self._made[form].resized(traced)
        lowered = lower(traced, least_work)
        template = None if form is None else _template(traced, lowered)
        if template is not None:
            self._made[form] = template
            if len(self._made) > MAX_GRAPHS:
                del self._made[next(iter(self._made))]
        return traced, lowered

    def _form(self, traced: Trace) -> Hashable | None:
        """Return what traces that differ in sizes alone have in common; None for other traces."""
        try:
            return _Form(traced, self._weights).parts()
        except _UnlikeError:
            return None


class _Form:
    """What is compared of a trace."""

    def __init__(self, traced: Trace, weights: Mapping[int, int]) -> None:
        self._traced, self._weights = traced, weights
        self._numbers: dict[int, int] = {}
        """Of the tensors that depend on the image."""
        self._sides: dict[tuple[int, ...], int] = {}
        """Numbers of heights and widths."""

    def parts(self) -> Hashable:
        """Return it."""
        traced = self._traced
        parts = [self._result(traced.image)]
        parts += [self._operation(operation) for operation in traced.operations]
        return (*parts, self._numbers[id(traced.output)])

    def _operation(self, operation: Operation) -> Hashable:
        name, arguments = operation.name, operation.arguments
        if name not in ALIKE or arguments.get("transposed"):
            raise _UnlikeError
        skipped = SIZES.get(name, ())
        values = [self._argument(x) for key, x in arguments.items() if key not in skipped]
        results = [self._result(result) for result in operation.results]
        return (operation.function, *values, *results)

    def _argument(self, value: Any) -> Hashable:
        if isinstance(value, Tensor):
            if value.is_meta:
                return "tensor", self._numbers[id(value)]
            if id(value) not in self._weights:
                raise _UnlikeError
            return "weight", self._weights[id(value)]
        if isinstance(value, list | tuple):
            return tuple(self._argument(inner) for inner in value)
        if isinstance(value, dict):
            raise _UnlikeError
        return type(value), value

    def _result(self, tensor: Tensor) -> Hashable:
        self._numbers[id(tensor)] = len(self._numbers)
        if tensor.dim() != 4:
            raise _UnlikeError
        batch, channels, *sides = tensor.shape
        number = self._sides.setdefault(tuple(sides), len(self._sides))
        resize = self._traced.global_resizes.get(id(tensor))
        return batch, channels, number, sides[0] == 1, sides[1] == 1, resize


@dataclass(frozen=True)
class _Entry:
    """A node of a graph, and the tensor that it computes by its number in the trace."""

    node: Node
    """Without its inputs."""
    number: int
    inputs: list[int]
    """The entries that it reads."""


@dataclass(frozen=True)
class _Template:
    """A fused graph whose nodes nothing changes."""

    entries: list[_Entry]
    """Inputs before those that read them; the last one is the output."""

    def resized(self, traced: Trace) -> Lowered:
        """Return the graph of a trace of the same form."""
        tensors = _tensors(traced)
        nodes: list[Node] = []
        for entry in self.entries:
            tensor, operation = tensors[entry.number]
            inputs = [nodes[index] for index in entry.inputs]
            nodes.append(_resized(entry.node, _size(tensor), inputs, operation))
        return Lowered(nodes[-1], [], {}, list(traced.operations), {})


def _template(traced: Trace, lowered: Lowered) -> _Template | None:
    """Return a copy of a graph; None where a node's size follows from no tensor's."""
    numbers = {id(tensor): number for number, (tensor, _) in enumerate(_tensors(traced))}
    entries: list[_Entry] = []
    indices: dict[Node, int] = {}
    for node in topological_order(lowered.root):
        tensor = traced.image if isinstance(node, Input) else lowered.tensors.get(node)
        is_known = type(node) in RESIZED or isinstance(node, MaxPool)
        if lowered.islands or not is_known or tensor is None or _size(tensor) != node.size:
            return None
        indices[node] = len(entries)
        inputs = [indices[source] for source in node.inputs]
        alone = copy.copy(node)
        alone.inputs = []
        entries.append(_Entry(alone, numbers[id(tensor)], inputs))
    return _Template(entries)


def _resized(node: Node, size: Size, inputs: list[Node], operation: Operation | None) -> Node:
    """Return a node with another size and other inputs."""
    if isinstance(node, MaxPool) and operation is not None:  # its windows depend on the size
        context = TraceContext({})
        context.nodes[id(operation.arguments["self"])] = inputs[0]
        again = OPERATIONS[operation.name](context, operation.arguments, size)
        if not isinstance(again, MaxPool):
            raise TypeError("a pool was lowered to something else for another size")
        return again
    again = copy.copy(node)
    again.size, again.inputs = size, inputs
    return again


def _tensors(traced: Trace) -> list[tuple[Tensor, Operation | None]]:
    """List the tensors that depend on the image, with the operations that compute them."""
    results = [(x, operation) for operation in traced.operations for x in operation.results]
    return [(traced.image, None), *results]


def _size(tensor: Tensor) -> Size:
    return Size(*tensor.shape[1:])
