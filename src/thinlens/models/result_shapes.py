"""Shapes of the results of common operations, by rules of our own.

torch has such rules too, but many are written in Python and take milliseconds; the first of them
imports torch's compiler, which takes a second and 70 MB. Only what these rules describe exactly is
computed by them: dense float32 tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Shape = tuple[int, ...]
ShapeRule = Callable[[Mapping[str, Any]], Shape | None]
"""Maps an operation's arguments by name to its result's shape; None where it does not know it."""

PLAIN = torch.float32


def result_without_values(name: str, arguments: Mapping[str, Any]) -> Any:
    """Return an operation's result on the meta device; None where no rule describes it."""
    shape = result_shape(name, arguments)
    if shape is None:
        return None
    values = torch.empty(shape, device="meta")
    if name == "max_pool2d_with_indices":
        return values, torch.empty(shape, dtype=torch.int64, device="meta")
    return values


def result_shape(name: str, arguments: Mapping[str, Any]) -> Shape | None:
    """Return the shape of an operation's result, its first one; None where no rule describes it.

    >>> image = torch.empty(1, 3, 8, 9, device="meta")
    >>> result_shape("relu", {"self": image})
    (1, 3, 8, 9)
    >>> result_shape("fft", {"self": image}) is None
    True
    """
    rule = _RULES.get(name)
    return rule(arguments) if rule else None


def _is_dense(value: Any) -> bool:
    """Whether it is a float32 tensor in the usual order, whose result is one too."""
    return isinstance(value, Tensor) and value.dtype == PLAIN and value.is_contiguous()


def _same(a: Mapping[str, Any]) -> Shape | None:
    x = a["self"]
    others = [value for key, value in a.items() if key != "self"]
    if not _is_dense(x) or any(isinstance(value, Tensor | complex) for value in others):
        return None
    return tuple(x.shape)


def _broadcast(a: Mapping[str, Any]) -> Shape | None:
    operands = [a["self"], a["weight"] if "weight" in a else a["other"]]
    tensors = [value for value in operands if isinstance(value, Tensor)]
    numbers = [value for value in operands if not isinstance(value, Tensor)]
    options = (a.get("alpha", 1), a.get("rounding_mode"))
    if not all(map(_is_dense, tensors)) or options[1] is not None:
        return None
    if not all(isinstance(value, int | float) for value in (*numbers, options[0])):
        return None
    try:
        return np.broadcast_shapes(*(tuple(tensor.shape) for tensor in tensors))
    except ValueError:
        return None  # torch has the sentence


def _concatenated(a: Mapping[str, Any]) -> Shape | None:
    tensors, dim = list(a["tensors"]), a["dim"]
    if not tensors or not all(map(_is_dense, tensors)):
        return None
    first = tuple(tensors[0].shape)
    dim %= max(1, len(first))
    rests = {tuple(x.shape[:dim]) + tuple(x.shape[dim + 1 :]) for x in tensors}
    if len(rests) > 1 or any(x.dim() != len(first) for x in tensors):
        return None
    return (*first[:dim], sum(int(x.shape[dim]) for x in tensors), *first[dim + 1 :])


def _convolved(a: Mapping[str, Any]) -> Shape | None:
    x, weight, bias = a["input"], a["weight"], a["bias"]
    tensors = [x, weight] if bias is None else [x, weight, bias]
    if a["transposed"] or not all(map(_is_dense, tensors)) or x.dim() != 4 or weight.dim() != 4:
        return None
    if x.shape[1] != weight.shape[1] * a["groups"] or weight.shape[0] % a["groups"]:
        return None  # torch has the sentence
    sides = []
    for axis, side in enumerate(x.shape[2:]):
        stride, padding, dilation = (
            values[axis % len(values)] for values in (a["stride"], a["padding"], a["dilation"])
        )
        reach = dilation * (weight.shape[2 + axis] - 1) + 1
        sides.append((side + 2 * padding - reach) // stride + 1)
    if min(sides) < 1:
        return None
    return (int(x.shape[0]), int(weight.shape[0]), *sides)


def _resized(a: Mapping[str, Any]) -> Shape | None:
    x, size = a.get("self"), a.get("output_size")
    if not _is_dense(x) or size is None or x is None or x.dim() != 4 or min(size) < 1:
        return None
    return (*x.shape[:2], *map(int, size))


def _pooled(a: Mapping[str, Any]) -> Shape | None:
    x, window, padding = a["self"], list(a["kernel_size"]), list(a["padding"])
    stride = list(a["stride"]) or window
    plain = set(a["dilation"]) == {1} and not a["ceil_mode"]
    if not _is_dense(x) or x.dim() != 4 or not plain:
        return None
    sides = []
    for axis, side in enumerate(x.shape[2:]):
        length, step, around = (values[axis % len(values)] for values in (window, stride, padding))
        if 2 * around > length:
            return None  # torch has the sentence
        sides.append((side + 2 * around - length) // step + 1)
    return (*x.shape[:2], *sides) if min(sides) >= 1 else None


def _shuffled(a: Mapping[str, Any]) -> Shape | None:
    x, factor = a["self"], a["upscale_factor"]
    if not _is_dense(x) or x.dim() != 4 or factor < 1 or x.shape[1] % factor**2:
        return None
    batch, channels, height, width = x.shape
    return (batch, channels // factor**2, height * factor, width * factor)


_ELEMENTWISE = (
    *("relu", "leaky_relu", "relu6", "elu", "celu", "silu", "gelu", "mish", "softplus"),
    *("sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid", "clamp", "clamp_min", "clamp_max"),
    *("abs", "neg", "exp", "sqrt", "rsqrt", "square", "reciprocal"),
)

_BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "_prelu_kernel")

_RULES: dict[str, ShapeRule] = {
    **dict.fromkeys(_ELEMENTWISE, _same),
    **dict.fromkeys(_BINARY, _broadcast),
    "cat": _concatenated,
    "convolution": _convolved,
    "max_pool2d_with_indices": _pooled,
    "pixel_shuffle": _shuffled,
    "upsample_bilinear2d": _resized,
    "upsample_nearest2d": _resized,
}
