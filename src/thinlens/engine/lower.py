"""Lower a trace: every operation becomes a node of the engine's graph."""

from __future__ import annotations

from torch import Tensor

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops import OPERATIONS
from thinlens.engine.ops.input import Input
from thinlens.engine.ops.lowering import TraceContext
from thinlens.engine.ops.resize import Resize
from thinlens.engine.trace import Operation, Trace
from thinlens.errors import UsageError


def lower(traced: Trace) -> Node:
    """Return the node of a trace's output.

    Raises `UsageError` with the name of an operation that no node computes.
    """
    context = TraceContext(traced.parameters)
    context.nodes[id(traced.image)] = Input([], size_of(traced.image))
    for operation in traced.operations:
        nodes = lower_operation(context, operation)
        for tensor, node in zip(operation.results, nodes, strict=False):
            context.nodes[id(tensor)] = node
            mapping = traced.global_resizes.get(id(tensor))
            if mapping is not None and isinstance(node, Resize):
                node.global_resize = mapping
    return context.node(traced.output)


def lower_operation(context: TraceContext, operation: Operation) -> list[Node]:
    """Return the nodes of an operation's results: of all or of the first.

    Raises `UsageError` with the reason why there is none.
    """
    name = operation.name
    if name not in OPERATIONS:
        raise UsageError(f"the engine does not know the operation {name!r}")
    node = OPERATIONS[name](context, operation.arguments, size_of(operation.results[0]))
    if node is None:
        raise UsageError(f"the engine does not know this use of the operation {name!r}")
    return node if isinstance(node, list) else [node]


def size_of(tensor: Tensor) -> Size:
    """Return the size of one image's tensor."""
    if tensor.dim() != 4 or tensor.shape[0] != 1:
        raise UsageError(f"the engine runs tensors [B, C, H, W], not {tuple(tensor.shape)}")
    return Size(*tensor.shape[1:])
