"""Trace a module into a graph of operations for an input of one size.

The module runs once on meta tensors, which have sizes but no values, while a dispatch mode records
every ATen operation: control flow that depends on sizes needs no special case.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops import OPERATIONS
from thinlens.engine.ops.input import Input
from thinlens.engine.ops.lowering import TraceContext
from thinlens.engine.ops.resize import Resize
from thinlens.errors import UsageError
from thinlens.models.tile_position import GlobalResize, record_resizes
from thinlens.sparsity.dry_run import OpTracer, bind_arguments


def trace(module: nn.Module, channels: int, height: int, width: int) -> Node:
    """Return the node of `module`'s output for an image `[1, channels, height, width]`.

    Raises `UsageError` with the name of an operation that is not in `OPERATIONS`.
    """
    # Inference mode would show the recorder compound operations.
    with torch.inference_mode(False), torch.no_grad():
        return _trace(module, Size(channels, height, width))


def _trace(module: nn.Module, size: Size) -> Node:
    constants = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    stand_ins = {name: torch.empty_like(t, device="meta") for name, t in constants.items()}
    context = TraceContext(
        {id(stand_ins[name]): t.detach() for name, t in constants.items()},
        {id(stand_in): name for name, stand_in in stand_ins.items()},
    )
    recorder = Recorder(context)
    image = torch.empty(1, size.channels, size.height, size.width, device="meta")
    context.nodes[id(image)] = Input([], size)
    with record_resizes(recorder.record_global_resize), recorder:
        output = functional_call(module, stand_ins, (image,))
    if not isinstance(output, Tensor):
        raise UsageError("the engine runs modules that return one tensor")
    return context.node(output)


class Recorder(OpTracer):  # type: ignore[no-untyped-call]
    """Lower every operation on the input to a node."""

    def __init__(self, context: TraceContext) -> None:
        super().__init__()
        self._context = context

    def record(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        nodes = self._context.nodes
        if not any(id(value) in nodes for value in tree_leaves((args, kwargs))):
            return  # it does not depend on the input
        name, arguments = bind_arguments(operation, args, kwargs)
        name = name.rstrip("_")  # in place
        if name not in OPERATIONS:
            raise UsageError(f"the engine does not know the operation {name!r}")
        output = result[0] if isinstance(result, tuple) else result
        node = OPERATIONS[name](self._context, arguments, size_of(output))
        if node is None:
            raise UsageError(f"the engine does not know this use of the operation {name!r}")
        nodes[id(output)] = node

    def record_global_resize(self, mapping: GlobalResize, resized: Tensor) -> None:
        """Note that a resize depends on the input's position in a larger image."""
        node = self._context.nodes.get(id(resized))
        if isinstance(node, Resize):
            node.global_resize = mapping


def size_of(tensor: Tensor) -> Size:
    """Return the size of one image's tensor."""
    if tensor.dim() != 4 or tensor.shape[0] != 1:
        raise UsageError(f"the engine runs tensors [B, C, H, W], not {tuple(tensor.shape)}")
    return Size(*tensor.shape[1:])
