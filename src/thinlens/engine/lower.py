"""Lower a trace to a graph: nodes of the engine, and islands of what only torch computes.

An operation becomes a node where `OPERATIONS` has a lowering for it and for what it reads. All
others are torch's: those that can run at once are one island. Operations in the order of their
levels alternate between both: an operation's level is that of its inputs, or the next one where
these are computed on the other side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from thinlens.engine.axes import image_axes
from thinlens.engine.fuse import UnfusableError, fuse
from thinlens.engine.graph import Node, Size
from thinlens.engine.image_form import EngineValue, EngineValues, entering_axes, lower_operation
from thinlens.engine.island import POINT, Enter, Island, IslandRead, RunIsland
from thinlens.engine.ops.input import Input
from thinlens.engine.ops.lowering import TraceContext
from thinlens.engine.ops.resize import Resize
from thinlens.engine.trace import Operation, Trace
from thinlens.errors import UsageError

Reasons = dict[Operation, str]
"""Why torch runs an operation."""

BEGIN_SEGMENTS = frozenset({"convolution", "addmm", "mm", "bmm", "linear", "native_layer_norm"})
"""Operations that the engine computes although all that they read is torch's."""

WORK = frozenset({"convolution", "addmm", "mm", "bmm", "linear"})
"""Operations for which it pays to copy tensors to the engine and back."""

READS_TORCH = "all that it reads is computed by torch"
TOO_SMALL = "too little work to copy its tensors to the engine and back"
"""Reasons that follow from those of other operations."""


@dataclass
class Lowered:
    """A network as a graph."""

    root: Node
    """The output's node, or the `RunIsland` of the island that computes it."""
    islands: list[Island]
    """In the order in which they run."""
    reasons: Reasons
    """Of the operations in islands."""
    native: list[Operation]
    """The operations that the engine computes."""
    tensors: dict[Node, Tensor]
    """By node of the graph, the traced tensor that it computes; not all have one."""

    def first_reason(self) -> str:
        """Return why the first operation that torch runs is not the engine's."""
        reasons = [r for r in self.reasons.values() if r not in (READS_TORCH, TOO_SMALL)]
        return next(iter([*reasons, *self.reasons.values()]), "")


def lower(traced: Trace, least_work: float = 0.0) -> Lowered:
    """Return the fused graph of a trace.

    Where fusion finds that a node cannot run, its operation is torch's.
    """
    blocked: Reasons = {}
    while True:
        lowering = _Lowering(traced, blocked)
        lowered = lowering.lowered()
        more = {} if not lowered.islands else lowering.too_small(least_work)
        if not more:
            try:
                lowered.root, origins = fuse(lowered.root)
                lowered.tensors = lowering.tensors_of(origins)
                break
            except UnfusableError as error:
                more = {lowering.operation_of(error.node): str(error)}
        if more.keys() <= blocked.keys():
            raise UsageError(next(iter(more.values())))
        blocked = {**blocked, **more}
    if lowered.islands and not any(operation.name in WORK for operation in lowered.native):
        raise UsageError(f"the engine runs no layer of this network: {lowered.first_reason()}")
    return lowered


def _multiply_adds(operation: Operation) -> int:
    """Count those of a convolution or a product of matrices; 0 for other operations."""
    if operation.name not in WORK:
        return 0
    if operation.name == "convolution":
        arguments = operation.arguments
        weight = arguments["weight"]
        spatial = arguments["input"] if arguments["transposed"] else operation.results[0]
        return int(weight.numel() * prod(spatial.shape[2:]) * len(spatial))
    name = {"addmm": "mat1", "linear": "input"}.get(operation.name, "self")
    return int(operation.results[0].numel() * operation.arguments[name].shape[-1])


class _Lowering:
    """The state of one pass over a trace."""

    def __init__(self, traced: Trace, blocked: Mapping[Operation, str]) -> None:
        self._traced, self._blocked = traced, blocked
        self._context = TraceContext(traced.parameters, traced.arrays)
        size = Size(*traced.image.shape[1:])
        image = Input([], size)
        self._values: EngineValues = {id(traced.image): EngineValue(image, image_axes(size))}
        self._levels: dict[int, int] = {id(traced.image): 0}
        """By tensor."""
        self._torch_tensors: dict[int, int] = {}
        """The levels of the tensors that torch computes."""
        self._runs: dict[int, RunIsland] = {}
        """By level."""
        self._grids = {
            rows * columns: (rows, columns)
            for operation in traced.operations
            for batch, _, rows, columns in [x.shape for x in operation.results if x.dim() == 4]
            if batch == 1 and operation.name == "convolution"
        }
        self._reasons: Reasons = {}
        self._native: list[Operation] = []
        self._operations: dict[Node, Operation] = {}
        self._tensors: dict[Node, Tensor] = {}
        """The tensors that are images of nodes."""
        self._read = {id(traced.output)} | {
            id(source) for operation in traced.operations for source in operation.sources
        }

    def lowered(self) -> Lowered:
        """Lower all operations."""
        for operation in self._traced.operations:
            try:
                self._lower_native(operation)
            except UsageError as error:
                self._reasons[operation] = str(error)
                self._lower_to_torch(operation)
        root = self._root()
        islands = [self._runs[level].island for level in sorted(self._runs)]
        return Lowered(root, islands, self._reasons, self._native, {})

    def tensors_of(self, origins: Mapping[Node, Node]) -> dict[Node, Tensor]:
        """Return the tensors of fused nodes, from the nodes that they are made of."""
        return {
            fused: self._tensors[node] for fused, node in origins.items() if node in self._tensors
        }

    def operation_of(self, node: Node) -> Operation:
        """Return the operation that a node belongs to: its own, or that of its next reader."""
        if node in self._operations:
            return self._operations[node]
        for reader, operation in self._operations.items():
            inner = list(reader.inputs)
            while inner:
                source = inner.pop()
                if source is node:
                    return operation
                if source not in self._operations:
                    inner += source.inputs
        raise UsageError("the engine cannot run this network")

    def too_small(self, least_work: float) -> Reasons:
        """List the operations of segments that do not pay.

        They have no convolution or linear layer, or fewer than `least_work` multiply-adds for each
        value that is copied between torch and the engine.
        """
        return {
            operation: TOO_SMALL
            for segment in self._segments()
            if self._work_per_copy(segment) <= least_work
            for operation in segment
            if operation not in self._blocked
        }

    def _segments(self) -> list[set[Operation]]:
        """List the operations of the engine that are connected at one level."""
        segments: dict[int, set[Operation]] = {}
        by_tensor: dict[int, set[Operation]] = {}
        for operation in self._native:
            level = self._levels[id(operation.results[0])]
            segment = {operation}
            for tensor in operation.sources:
                if id(tensor) in by_tensor and self._levels[id(tensor)] == level:
                    segment |= by_tensor[id(tensor)]
            for member in segment:
                by_tensor.update({id(result): segment for result in member.results})
            segments.update({id(member): segment for member in segment})
        return list({id(segment): segment for segment in segments.values()}.values())

    def _work_per_copy(self, segment: set[Operation]) -> float:
        """Return the multiply-adds of a segment for each value that it copies."""
        read_by_torch = {id(x) for operation in self._reasons for x in operation.sources} | {
            id(self._traced.output)
        }
        copied = {
            id(x): x.numel()
            for operation in segment
            for x in operation.sources
            if id(x) in self._torch_tensors
        }
        copied |= {
            id(x): x.numel()
            for operation in segment
            for x in operation.results
            if id(x) in read_by_torch
        }
        work = sum(_multiply_adds(operation) for operation in segment)
        return work / max(1, sum(copied.values()))

    def _lower_native(self, operation: Operation) -> None:
        if operation in self._blocked:
            raise UsageError(self._blocked[operation])
        values = self._values
        sources = operation.sources
        entering = [x for x in sources if id(x) not in values]
        if len(entering) == len(sources) and operation.name not in BEGIN_SEGMENTS:
            raise UsageError(READS_TORCH)
        entered = {id(tensor): self._entered(tensor, operation) for tensor in entering}
        values.update(entered)
        try:
            lowered = lower_operation(self._context, values, operation)
            results = [
                (tensor, lowered[i] if i < len(lowered) else None)
                for i, tensor in enumerate(operation.results)
            ]
            if any(value is None and id(tensor) in self._read for tensor, value in results):
                raise UsageError(f"the engine does not compute all results of {operation.name!r}")
        except UsageError:
            for key in entered:
                del values[key]
            raise
        level = max(self._engine_level(tensor) for tensor in sources)
        for tensor, value in results:
            if value is not None:
                values[id(tensor)] = value
                self._levels[id(tensor)] = level
                self._operations.setdefault(value.node, operation)
                if value.axes.is_image(value.node.size):
                    self._tensors.setdefault(value.node, tensor)
                mapping = self._traced.global_resizes.get(id(tensor))
                if mapping is not None and isinstance(value.node, Resize):
                    value.node.global_resize = mapping
        self._native.append(operation)

    def _engine_level(self, tensor: Tensor) -> int:
        torch_level = self._torch_tensors.get(id(tensor))
        return self._levels[id(tensor)] if torch_level is None else torch_level + 1

    def _entered(self, tensor: Tensor, operation: Operation) -> EngineValue:
        """Return the value of a tensor of torch's in the engine."""
        axes, size = entering_axes(tensor, operation, self._values, self._grids)
        run = self._runs[self._torch_tensors[id(tensor)]]
        return EngineValue(Enter([run], size, tensor=tensor, axes=axes), axes)

    def _lower_to_torch(self, operation: Operation) -> None:
        level = max(1, *(self._torch_level(tensor) for tensor in operation.sources))
        run = self._run(level)
        run.island.operations.append(operation)
        for tensor in operation.sources:
            self._read_by_torch(tensor, run, level)
        self._torch_tensors.update({id(tensor): level for tensor in operation.results})

    def _torch_level(self, tensor: Tensor) -> int:
        if tensor is self._traced.image:
            return 1
        torch_level = self._torch_tensors.get(id(tensor))
        return self._levels[id(tensor)] + 1 if torch_level is None else torch_level

    def _run(self, level: int) -> RunIsland:
        if level not in self._runs:
            self._runs[level] = RunIsland([], POINT, island=Island())
        return self._runs[level]

    def _read_by_torch(self, tensor: Tensor, run: RunIsland, level: int) -> None:
        """Let an island read a tensor."""
        if tensor is self._traced.image:
            return
        torch_level = self._torch_tensors.get(id(tensor))
        if torch_level is not None:
            if torch_level != level and self._runs[torch_level] not in run.inputs:
                run.inputs.append(self._runs[torch_level])
            return
        value = self._values[id(tensor)]
        reads, order = run.island.reads, value.axes.storage_order()
        for node, read in zip(run.inputs, reads, strict=False):
            if node is value.node and read.order == order:
                if all(view is not tensor for view, _ in read.views):
                    read.views.append((tensor, value.axes))
                return
        run.inputs.insert(len(reads), value.node)
        reads.append(IslandRead(value.node.size, order, [(tensor, value.axes)]))

    def _root(self) -> Node:
        output = self._traced.output
        level = self._torch_tensors.get(id(output))
        if level is None:
            value = self._values[id(output)]
            if value.axes.is_image(value.node.size):
                return value.node
            level = self._levels[id(output)] + 1
            run = self._run(level)
            self._read_by_torch(output, run, level)
        return self._runs[level]
