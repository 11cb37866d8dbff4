"""Interpolation to any size: nearest, bilinear and bicubic, with torch's positions and weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.channel_copy import nearest_upsampling
from thinlens.engine.ops.convolution import MAX_SHUFFLE
from thinlens.engine.ops.lowering import Arguments, Lowering, TraceContext
from thinlens.engine.ops.resample import Resample, resample
from thinlens.engine.ops.resize import Resize
from thinlens.engine.ops.taps import AxisTaps, antialiased, cubic, linear, nearest

Interpolation = Callable[[int, int, float | None], AxisTaps]
"""Return the taps of an axis from its size, the outputs and the factor that was asked for."""


def lower_bilinear(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `upsample_bilinear2d`; to a size, it may depend on the input's place in an image."""
    if not a["align_corners"] and _factors(a) == (None, None):
        return Resize([_input(context, a)], size)
    interpolation = partial(linear, align_corners=bool(a["align_corners"]))
    return _interpolated(context, a, size, interpolation)


def lower_bicubic(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `upsample_bicubic2d`."""
    interpolation = partial(cubic, align_corners=bool(a["align_corners"]))
    return _interpolated(context, a, size, interpolation)


def lower_nearest(*, exact: bool) -> Lowering:
    """Return the lowering of `upsample_nearest2d`, or of its exact variant.

    A whole factor of both axes is a pixel shuffle of repeated channels, which a convolution after
    it can do at the low resolution.
    """

    def lower(context: TraceContext, a: Arguments, size: Size) -> Node:
        node = _interpolated(context, a, size, partial(nearest, exact=exact))
        (x,) = node.inputs
        factor = size.height // x.size.height
        whole = (x.size.height * factor, x.size.width * factor) == (size.height, size.width)
        repeats = whole and all(
            np.array_equal(taps.indices[:, 0], np.arange(len(taps.indices)) // factor)
            for taps in (node.rows, node.columns)
        )
        return nearest_upsampling(x, factor) if repeats and factor <= MAX_SHUFFLE else node

    return lower


def lower_antialiased(degree: int) -> Lowering:
    """Return the lowering of the antialiased interpolation of a degree: 1 linear, 3 cubic."""

    def lower(context: TraceContext, a: Arguments, size: Size) -> Node:
        align_corners = bool(a["align_corners"])
        interpolation = partial(antialiased, align_corners=align_corners, degree=degree)
        return _interpolated(context, a, size, interpolation)

    return lower


def _interpolated(
    context: TraceContext, a: Arguments, size: Size, interpolation: Interpolation
) -> Resample:
    x, (down, across) = _input(context, a), _factors(a)
    rows = interpolation(x.size.height, size.height, down)
    return resample(x, rows, interpolation(x.size.width, size.width, across))


def _input(context: TraceContext, a: Arguments) -> Node:
    return context.node(a["input"] if "input" in a else a["self"])


def _factors(a: Arguments) -> tuple[float | None, float | None]:
    """Return the factors of rows and columns that were asked for, if any were."""
    if a.get("scale_factors"):
        down, across = a["scale_factors"]
        return down, across
    return a.get("scales_h"), a.get("scales_w")
