"""Convolutions of every kind: strided, dilated, grouped, padded by axis, and transposed."""

from __future__ import annotations

import numpy as np

from thinlens.engine.graph import FloatArray, Node, Size
from thinlens.engine.ops.conv import Conv, ConvParams
from thinlens.engine.ops.crop import crop
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.subpixel import pair, subpixel_kernel, transposed_taps
from thinlens.errors import UsageError

MAX_SHUFFLE = 8
"""The largest factor of a pixel shuffle that convolutions store."""


def lower_convolution(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `convolution`."""
    if a["transposed"]:
        return _transposed(context, a, size)
    params = ConvParams(
        weight=context.weights(a["weight"], 0),
        bias=context.weights(a["bias"], size.channels),
        padding=pair(a["padding"]),
        stride=pair(a["stride"]),
        dilation=pair(a["dilation"]),
        layer=context.layer(a["weight"]),
        groups=int(a["groups"]),
    )
    return Conv([context.node(a["input"])], size, params=params)


def _transposed(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Return a convolution and a pixel shuffle; rows and columns past the output are cut off."""
    stride, padding, dilation = (pair(a[key]) for key in ("stride", "padding", "dilation"))
    factor = stride[0]
    if factor != stride[1] or factor > MAX_SHUFFLE:
        raise UsageError(
            f"the engine knows transposed convolutions of one stride, 1 to {MAX_SHUFFLE}, "
            f"not {stride}"
        )
    weight = _by_output(context.weights(a["weight"], 0), int(a["groups"]))
    rows, columns = (
        transposed_taps(weight.shape[2 + axis], factor, padding[axis], dilation[axis])
        for axis in (0, 1)
    )
    kernel, paddings = subpixel_kernel(weight, rows, columns, factor)
    bias = np.repeat(context.weights(a["bias"], size.channels), factor**2)
    params = ConvParams(
        kernel, bias, paddings, 1, 1, context.layer(a["weight"]), groups=int(a["groups"])
    )
    height, width = (-(-side // factor) * factor for side in (size.height, size.width))
    whole = Size(size.channels, height, width)
    conv = Conv([context.node(a["input"])], whole, params=params, shuffle=factor)
    return conv if whole == size else crop(conv, size.height, size.width)


def _by_output(weight: FloatArray, groups: int) -> FloatArray:
    """Return `[c_in, c_out / groups, kh, kw]` as `[c_out, c_in / groups, kh, kw]`."""
    c_in, outputs, height, width = weight.shape
    grouped = weight.reshape(groups, c_in // groups, outputs, height, width)
    by_output = np.ascontiguousarray(grouped.transpose(0, 2, 1, 3, 4))
    return by_output.reshape(groups * outputs, c_in // groups, height, width)
