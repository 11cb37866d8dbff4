"""Reductions and softmax over groups of channels, by which networks weigh their branches.

`x.view(B, G, C, H, W).softmax(1)` is arithmetic on G slices of C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from thinlens.engine.axes import CHANNELS, Axes
from thinlens.engine.graph import Node
from thinlens.engine.ops.channel_slice import channel_slice
from thinlens.engine.ops.concat import Concat
from thinlens.engine.ops.expression import (
    Value,
    add,
    apply,
    divide,
    maximum,
    minimum,
    multiply,
    number,
)
from thinlens.engine.ops.pointwise import of_nodes

FOLDS: Mapping[str, Callable[[Value, Value], Value]] = {
    "sum": add,
    "mean": add,
    "amax": maximum,
    "amin": minimum,
}
"""What combines two groups."""

OVER_GROUPS = frozenset({*FOLDS, "softmax", "_softmax"})
"""Operations that this module lowers."""


def over_groups(name: str, node: Node, axes: Axes, arguments: Any) -> tuple[Node, Axes] | None:
    """Return the node of an operation of `OVER_GROUPS` on a view of `node`, and its axes.

    None where it does not run along the groups into which the view cuts the channels.
    """
    dimension = _group_dimension(axes, node, arguments["dim"])
    if dimension is None or arguments.get("dtype") is not None:
        return None
    groups = axes.dimensions[dimension][0].size
    channels = node.size.channels // groups
    slices = [channel_slice(node, group * channels, channels) for group in range(groups)]
    if name not in FOLDS:
        return Concat(_softmax(slices), node.size), axes
    folded = _folded(FOLDS[name], slices)
    if name == "mean":
        folded = of_nodes([folded], folded.size, lambda x: multiply(x, number(1 / groups)))
    dimensions = list(axes.dimensions)
    dimensions[dimension : dimension + 1] = [()] if arguments["keepdim"] else []
    return folded, Axes(tuple(dimensions))


def _group_dimension(axes: Axes, node: Node, dims: int | list[int] | None) -> int | None:
    """Return the dimension that is the slowest factor of all channels, if `dims` is that one."""
    if dims is None or (not isinstance(dims, int) and len(dims) != 1):
        return None
    count = len(axes.dimensions)
    dimension = (dims if isinstance(dims, int) else dims[0]) % count
    factors = [factor for dim in axes.dimensions for factor in dim if factor.axis == CHANNELS]
    match axes.dimensions[dimension]:
        case [group] if group.axis == CHANNELS and group.stride > 0:
            is_slowest = group.size * group.stride == node.size.channels
            covered = all(factor.stride > 0 for factor in factors)
            return dimension if is_slowest and covered else None
    return None


def _folded(fold: Callable[[Value, Value], Value], slices: list[Node]) -> Node:
    return reduce(lambda one, other: of_nodes([one, other], one.size, fold), slices)


def _softmax(slices: list[Node]) -> list[Node]:
    size, largest = slices[0].size, _folded(maximum, slices)
    powers = [
        of_nodes([x, largest], size, lambda x, most: apply("exp", add(x, most, -1.0)))
        for x in slices
    ]
    total = _folded(add, powers)
    return [of_nodes([x, total], size, divide) for x in powers]
