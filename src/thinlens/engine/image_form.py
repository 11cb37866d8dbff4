"""Operations on tokens, windows and other views, written as operations on images.

A lowering sees images `[1, C, H, W]` only. A view changes a value's axes and no node. An operation
on single values is the same one on the image, one along channels is one along dimension 1, and a
linear layer is a convolution of 1x1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thinlens.engine.axes import CHANNELS, Axes, image_axes, to_image
from thinlens.engine.channel_groups import OVER_GROUPS, over_groups
from thinlens.engine.graph import Node, Size
from thinlens.engine.ops import OPERATIONS
from thinlens.engine.ops.channel_copy import picked_channels
from thinlens.engine.ops.lowering import TraceContext
from thinlens.engine.trace import META, Operation
from thinlens.errors import UsageError


@dataclass(frozen=True)
class EngineValue:
    """What a traced tensor is in the engine: a view of a node's image."""

    node: Node
    axes: Axes


EngineValues = dict[int, EngineValue]
"""By the identity of the traced tensor."""

SAME = frozenset({"alias", "detach", "clone", "contiguous", "_to_copy", "lift_fresh", "dropout"})
"""Operations that return the values of their input."""

VIEWS = frozenset(
    {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze", "permute"}
    | {"transpose", "t", "numpy_T", "expand", "_reshape_alias"}
)
"""Operations that change only a tensor's dimensions."""

LINEAR = frozenset({"addmm", "mm", "bmm", "linear"})
"""Products with a constant matrix."""

ALONG = frozenset({"cat", "split", "split_with_sizes", "chunk", "slice", "softmax", "_softmax"})
"""Operations along one dimension, their argument `dim`."""


def lower_operation(
    context: TraceContext, values: EngineValues, operation: Operation
) -> list[EngineValue]:
    """Return the values of an operation's results: of all or of the first ones.

    Raises `UsageError` with the reason why the engine does not compute it.
    """
    name, a = operation.name, operation.arguments
    if name in SAME:
        return [values[id(operation.sources[0])]]
    if name in VIEWS:
        return [_view(values[id(operation.sources[0])], operation)]
    if name in LINEAR:
        return [_linear(context, values, operation)]
    sources = [_with_own_channels(values[id(tensor)]) for tensor in operation.sources]
    if all(value.axes.is_image(value.node.size) for value in sources):
        for tensor, value in zip(operation.sources, sources, strict=True):
            values[id(tensor)] = value
            context.nodes[id(tensor)] = value.node
        result = operation.results[0]
        return [
            EngineValue(node, image_axes(node.size))
            for node in _lower(context, operation, a, _image_size(result))
        ]
    return _on_views(context, values, operation)


def _with_own_channels(value: EngineValue) -> EngineValue:
    """Return an image of which channels are repeated, or in another order, as a node's image."""
    channels = value.axes.channel_source(value.node.size)
    if channels is None or value.axes.is_image(value.node.size):
        return value
    node = picked_channels(value.node, channels)
    return EngineValue(node, image_axes(node.size))


def _lower(
    context: TraceContext, operation: Operation, arguments: Mapping[str, Any], size: Size
) -> list[Node]:
    name = operation.name
    if name not in OPERATIONS:
        raise UsageError(f"the engine does not know the operation {name!r}")
    node = OPERATIONS[name](context, arguments, size)
    if node is None:
        raise UsageError(f"the engine does not know this use of the operation {name!r}")
    return node if isinstance(node, list) else [node]


def _image_size(tensor: Tensor) -> Size:
    """Return the size of one image's tensor."""
    if tensor.dim() != 4 or tensor.shape[0] != 1:
        raise UsageError(f"the engine runs tensors [B, C, H, W], not {tuple(tensor.shape)}")
    return Size(*tensor.shape[1:])


def _view(value: EngineValue, operation: Operation) -> EngineValue:
    """Return a value with other axes."""
    name, axes, shape = operation.name, value.axes, tuple(operation.results[0].shape)
    a, dims = operation.arguments, len(axes.dimensions)
    changed: Axes | None
    if name == "permute":
        changed = axes.permuted([dim % dims for dim in a["dims"]])
    elif name == "transpose":
        order = list(range(dims))
        one, other = a["dim0"] % dims, a["dim1"] % dims
        order[one], order[other] = order[other], order[one]
        changed = axes.permuted(order)
    elif name in ("t", "numpy_T"):
        changed = axes.permuted(list(range(dims))[::-1])
    elif name == "expand":
        changed = axes.expanded(shape)
    else:
        changed = axes.reshaped(shape)
    if changed is None:
        raise UsageError(f"a {name} to {'x'.join(map(str, shape))} that cuts across rows")
    return EngineValue(value.node, changed)


def _linear(context: TraceContext, values: EngineValues, operation: Operation) -> EngineValue:
    """Lower a linear layer on the last dimension to a convolution of 1x1."""
    a = operation.arguments
    names = {
        "addmm": ("mat1", "mat2", "self"),
        "mm": ("self", "mat2", ""),
        "bmm": ("self", "mat2", ""),
        "linear": ("input", "weight", "bias"),
    }[operation.name]
    x, matrix, bias = a[names[0]], a[names[1]], a.get(names[2])
    if not isinstance(matrix, Tensor) or matrix.device == META or id(x) not in values:
        raise UsageError("a product of two tensors, such as that of queries and keys")
    if operation.name == "addmm" and (a["beta"] != 1 or a["alpha"] != 1):
        raise UsageError("a scaled product of matrices")
    if matrix.dim() == 3:
        if matrix.shape[0] != 1:
            raise UsageError("a product with several matrices")
        matrix = matrix[0]
    value = values[id(x)]
    size, last = value.node.size, len(value.axes.dimensions) - 1
    if value.axes.dimensions[last] != image_axes(size).dimensions[1]:
        raise UsageError("a product along rows or columns")
    weight = matrix if operation.name == "linear" else matrix.t()
    kernel = weight[:, :, None, None]
    context.name_as(kernel, matrix)
    if bias is not None and (bias.device == META or bias.numel() != len(weight)):
        raise UsageError("a product to which a tensor is added")
    stand_in = _stand_in(context, value.node)
    arguments = {
        "input": stand_in,
        "weight": kernel,
        "bias": None if bias is None else bias.reshape(-1),
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "transposed": False,
        "output_padding": [0, 0],
        "groups": 1,
    }
    result = Size(len(weight), size.height, size.width)
    node = OPERATIONS["convolution"](context, arguments, result)
    if not isinstance(node, Node):
        raise UsageError("the engine does not know this linear layer")
    return EngineValue(node, value.axes.with_channels(last, len(weight)))


def _on_views(
    context: TraceContext, values: EngineValues, operation: Operation
) -> list[EngineValue]:
    """Lower an operation on views as one on their images."""
    a, name = dict(operation.arguments), operation.name
    value = values[id(max(operation.sources, key=Tensor.numel))]
    axes, size = value.axes, value.node.size
    if name in OVER_GROUPS:
        grouped = over_groups(name, value.node, axes, a)
        if grouped is not None:
            return [EngineValue(*grouped)]
    for tensor in operation.sources:
        other = values[id(tensor)]
        if name != "cat" and not _is_broadcast(other, value):
            raise UsageError(f"{name!r} of tensors in different orders")
        if (
            name == "cat"
            and other.axes.with_channels(_channel_dimension(other), size.channels) != axes
        ):
            raise UsageError(f"{name!r} of tensors in different orders")
    dimension = None
    if name in ALONG:
        dimension = _channel_dimension(value)
        if a["dim"] % len(axes.dimensions) != dimension:
            raise UsageError(f"{name!r} along rows or columns")
        a["dim"] = 1
    elif name == "native_layer_norm":
        dimension = _channel_dimension(value)
        if dimension != len(axes.dimensions) - 1 or len(a["normalized_shape"]) != 1:
            raise UsageError("a norm along rows or columns")
        a["dim"] = 1
    elif name not in POINTWISE:
        raise UsageError(f"{name!r} on tensors {tuple(operation.sources[0].shape)}")
    images = {
        key: _in_image_form(context, values, argument, axes, size, name)
        for key, argument in a.items()
    }
    results = _lower(context, operation, images, _result_size(operation, value, dimension))
    return [
        EngineValue(
            node,
            axes if dimension is None else axes.with_channels(dimension, node.size.channels),
        )
        for node in results
    ]


def _is_broadcast(other: EngineValue, value: EngineValue) -> bool:
    """Whether a value is in the order of another one, but for axes of which it has one position."""
    sides = [(x.channels, x.height, x.width) for x in (other.node.size, value.node.size)]
    single = [axis for axis, (one, many) in enumerate(zip(*sides, strict=True)) if one == 1 < many]
    if any(one not in (1, many) for one, many in zip(*sides, strict=True)):
        return False
    expected = tuple(
        tuple(factor for factor in dim if factor.axis not in single)
        for dim in value.axes.dimensions
    )
    return other.axes.dimensions == expected


def _result_size(operation: Operation, value: EngineValue, dimension: int | None) -> Size:
    size, shape = value.node.size, operation.results[0].shape
    if dimension is None:
        if tuple(shape) != value.axes.shape:
            raise UsageError(f"{operation.name!r} that repeats a tensor")
        return size
    return Size(shape[dimension], size.height, size.width)


def _channel_dimension(value: EngineValue) -> int:
    dimension = value.axes.dimension_of(CHANNELS, value.node.size)
    if dimension is None:
        raise UsageError("channels that are cut into heads or windows")
    return dimension


def _in_image_form(
    context: TraceContext, values: EngineValues, argument: Any, axes: Axes, size: Size, name: str
) -> Any:
    """Return an argument of the operation on the image."""
    if isinstance(argument, list | tuple) and any(isinstance(x, Tensor) for x in argument):
        return [_in_image_form(context, values, x, axes, size, name) for x in argument]
    if not isinstance(argument, Tensor) or (
        name == "native_layer_norm" and id(argument) not in values
    ):
        return argument
    if id(argument) in values:
        return _stand_in(context, values[id(argument)].node)
    return _constant_image(argument, axes, size)


def _constant_image(constant: Tensor, axes: Axes, size: Size) -> Tensor:
    """Return a constant that is broadcast to a view as one that is broadcast to the image."""
    if constant.numel() == 1:
        return constant.reshape(1)
    dims = len(axes.dimensions)
    if constant.dim() > dims:
        raise UsageError("a constant with more dimensions than the tensor")
    padded = constant.reshape((1,) * (dims - constant.dim()) + tuple(constant.shape))
    channels = axes.dimension_of(CHANNELS, size)
    if channels is not None and padded.numel() == padded.shape[channels] == size.channels:
        return padded.reshape(1, size.channels, 1, 1)
    if tuple(padded.shape) == axes.shape:
        return to_image(padded, axes, size)
    raise UsageError("a constant that is repeated along windows or heads")


def _stand_in(context: TraceContext, node: Node) -> Tensor:
    """Return a traced tensor that is the image of a node."""
    size = node.size
    tensor = torch.empty(1, size.channels, size.height, size.width, device=META)
    context.nodes[id(tensor)] = node
    context.references.append(tensor)
    return tensor


POINTWISE = frozenset(
    {"add", "sub", "rsub", "mul", "div", "neg", "abs", "pow", "sqrt", "rsqrt", "exp", "reciprocal"}
    | {"relu", "relu6", "leaky_relu", "gelu", "silu", "mish", "elu", "tanh", "sigmoid", "softplus"}
    | {"hardswish", "hardsigmoid", "hardtanh", "clamp", "clamp_min", "clamp_max"}
    | {"maximum", "minimum", "square", "expm1", "log", "log1p", "erf", "floor", "celu"}
    | {"log_sigmoid_forward", "addcmul", "addcdiv", "lerp"}
)
"""Operations on single values."""


Grids = Mapping[int, tuple[int, int]]
"""Rows and columns by their product, of the images among a network's tensors."""


def entering_axes(
    tensor: Tensor, operation: Operation, values: EngineValues, grids: Grids
) -> tuple[Axes, Size]:
    """Return how the engine reads a tensor that torch computes, for the operation that reads it.

    In the order of the other tensors that it reads; for a linear layer or a norm along the last
    dimension, this is the channels; else it is an image `[1, C, H, W]`.
    """
    shape = tuple(tensor.shape)
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise UsageError(f"a tensor of {str(tensor.dtype).removeprefix('torch.')}")
    for other in operation.sources:
        value = values.get(id(other))
        if value is not None and value.axes.shape == shape:
            return value.axes, value.node.size
    if operation.name in LINEAR or operation.name == "native_layer_norm":
        rows, columns = _pixel_grid(shape[:-1], grids)
        size = Size(shape[-1], rows, columns)
        axes = image_axes(size).permuted((0, 2, 3, 1)).reshaped(shape)
    else:
        size = _image_size(tensor)
        axes = image_axes(size)
    if axes is None:
        raise UsageError(f"a tensor {shape} that is no image")
    return axes, size


def _pixel_grid(sides: Sequence[int], grids: Grids) -> tuple[int, int]:
    """Return rows and columns of which the dimensions before the last one are a view."""
    pixels = 1
    for side in sides:
        pixels *= side
    if len(sides) > 1 and sides[-1] == pixels in grids:  # the tokens of an image
        return grids[pixels]
    if len(sides) > 1:
        return pixels // sides[-1], sides[-1]
    columns = next(side for side in range(min(pixels, 64), 0, -1) if pixels % side == 0)
    return pixels // columns, columns
