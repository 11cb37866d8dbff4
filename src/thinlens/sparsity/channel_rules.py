"""Propagation of channel ids through ATen operations: one rule an operation.

A rule reads the ids of an operation's arguments, couples those that must be pruned together, and
assigns ids to the result. An operation without a rule makes its channels unprunable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from thinlens.models.aten_arguments import bind_arguments
from thinlens.sparsity.dry_run import OpTracer
from thinlens.sparsity.union_find import UnionFind

UNPRUNABLE = torch.zeros((), dtype=torch.int64)
"""The channel id of what is never pruned."""

PropagationRule = Callable[["ChannelTracer", Mapping[str, Any], Any], bool | None]
"""Assigns ids to the result of an operation, from its arguments by name; False where it cannot."""


class ChannelTracer(OpTracer):
    """Propagate channel ids through every operation, from `image` on, whose ids are 0."""

    def __init__(self, tensors: Mapping[str, Tensor], image: Tensor) -> None:
        """`tensors` are the network's parameters and buffers by state-dict name."""
        super().__init__()
        self.sets = UnionFind()
        self.transposed: dict[int, Tensor] = {}
        """The weight of which a tensor is the transpose, by the identity of a tensor."""
        self.output_axes: dict[str, int] = {}
        self.unprunable_ops: dict[str, None] = {}
        """Ordered set of operations whose channels cannot be pruned."""
        self._ids: dict[int, Tensor] = {id(image): UNPRUNABLE.expand(image.shape)}
        """One channel id per entry, by the identity of a tensor."""
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._axes: dict[int, list[Tensor | None]] = {}
        self._references += [tensors, image]

    def record(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        name, bound = bind_arguments(operation, args, kwargs)
        relevant = any(id(x) in self._ids or id(x) in self._names for x in tensors)
        if not relevant or name in SHAPE_ONLY_OPS:
            return
        rule = PROPAGATION_RULES.get(name.rstrip("_"))
        if name.lstrip("_").startswith("upsample_"):
            rule = _by_channel
        if rule is None and torch.Tag.pointwise in operation.tags:
            rule = _pointwise
        if name in MOVE_OPS:
            self._move(operation, args, kwargs, result)
        elif rule is None or rule(self, bound, result) is False:
            traced = [x for x in tensors if id(x) in self._ids]
            if any((self.sets.find(self._ids[id(x)]) != 0).any() for x in traced):
                self.unprunable_ops[name.strip("_")] = None
            for tensor in traced:
                self.protect(tensor)
            for output in tree_leaves(result) if traced else ():
                self.assign(output, UNPRUNABLE)

    def final_axes(self) -> dict[str, tuple[Tensor | None, ...]]:
        """Return the ids along the axes of parameters and buffers, coupled ones made equal."""
        return {
            self._names[key]: tuple(None if ids is None else self.sets.find(ids) for ids in axes)
            for key, axes in self._axes.items()
        }

    def has_ids(self, tensor: Tensor) -> bool:
        """Return whether `tensor` was computed from the image or a labelled parameter."""
        return id(tensor) in self._ids

    def ids_of(self, tensor: Tensor) -> Tensor:
        """Return the channel ids of a tensor, one per entry; 0 where it has none."""
        return self._ids.get(id(tensor), UNPRUNABLE.expand(tensor.shape))

    def assign(self, tensor: Any, ids: Tensor) -> None:
        """Assign ids to `tensor`; they are broadcast to its shape."""
        if isinstance(tensor, Tensor):
            self._ids[id(tensor)] = ids.expand(tensor.shape)

    def protect(self, tensor: Any) -> None:
        """Make the channels of a traced tensor unprunable."""
        if id(tensor) in self._ids:
            self.sets.union(self._ids[id(tensor)], UNPRUNABLE)

    def axis(self, tensor: Tensor | None, axis: int) -> Tensor | None:
        """Return the ids along an axis of a parameter or buffer; None if it is neither."""
        if tensor is None or id(tensor) not in self._names:
            return None
        axes = self._axes.setdefault(id(tensor), [None] * tensor.ndim)
        ids = axes[axis]
        if ids is None:
            ids = axes[axis] = self.sets.add(tensor.shape[axis])
        return ids

    def set_output_axis(self, weight: Tensor, axis: int) -> None:
        """Store which axis of a weight holds its output channels."""
        self.output_axes[self._names[id(weight)]] = axis

    def along(self, tensor: Tensor, axis: int) -> Tensor:
        """Return the ids `[C]` along an axis of a tensor, coupled over all positions."""
        if id(tensor) not in self._ids:
            return torch.zeros(tensor.shape[axis], dtype=torch.int64)
        ids = self._ids[id(tensor)].movedim(axis, 0)
        first = ids[(slice(None), *[slice(0, 1)] * (ids.ndim - 1))]
        self.sets.union(ids, first)
        return first.flatten()

    def vector_ids(self, tensor: Tensor) -> Tensor | None:
        """Return ids of a parameter or buffer of one axis (others of size 1), shaped to
        broadcast; None for any other tensor."""
        long_axes = [axis for axis, size in enumerate(tensor.shape) if size > 1]
        if id(tensor) not in self._names or len(long_axes) != 1:
            return None
        ids = self.axis(tensor, long_axes[0])
        assert ids is not None  # narrowed: it is a parameter or buffer
        shape = [-1 if axis == long_axes[0] else 1 for axis in range(tensor.ndim)]
        return ids.reshape(shape)

    def _move(self, operation: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        """Apply the operation to the ids of its arguments."""
        is_parameter = id(args[0]) in self._names
        if operation.name().startswith("aten::t") and is_parameter and args[0].ndim == 2:
            self.transposed[id(result)] = args[0]
            return

        def with_ids(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            ids = self._ids.get(id(x))
            if ids is None:
                ids = self.vector_ids(x)
            return torch.zeros(x.shape) if ids is None else ids.expand(x.shape).double()

        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not any(id(x) in self._ids or self.vector_ids(x) is not None for x in tensors):
            return  # computed from constants: another constant
        moved = operation(*tree_map(with_ids, args), **tree_map(with_ids, kwargs))
        for output, ids in zip(tree_leaves(result), tree_leaves(moved), strict=True):
            self.assign(output, ids.long())


def _pointwise(tracer: ChannelTracer, a: Mapping[str, Any], result: Any) -> bool | None:
    """Couple the ids that meet in one entry of the result."""
    inputs = [x for x in tree_leaves(list(a.values())) if isinstance(x, Tensor)]
    traced = sorted((x for x in inputs if tracer.has_ids(x)), key=lambda x: -x.numel())
    if not traced:
        return None
    shape = tree_leaves(result)[0].shape
    main = tracer.ids_of(traced[0]).expand(shape)
    for x in inputs:
        if x is traced[0]:
            continue
        sizes = [1] * (len(shape) - x.ndim) + list(x.shape)
        # A gate of one channel is broadcast over all channels but is none of them.
        spread = any(s == 1 and tracer.sets.differ_along(main, d) for d, s in enumerate(sizes))
        if tracer.has_ids(x):
            if spread:
                tracer.protect(x)
            else:
                tracer.sets.union(main, tracer.ids_of(x).expand(shape))
        elif any(s > 1 and tracer.sets.differ_along(main, d) for d, s in enumerate(sizes)):
            ids = tracer.vector_ids(x)
            # A constant with a value for every channel cannot be pruned; a parameter can.
            tracer.sets.union(main, UNPRUNABLE if ids is None else ids.expand(shape))
    for output in tree_leaves(result):
        tracer.assign(output, main)
    return None


def _convolution(tracer: ChannelTracer, a: Mapping[str, Any], result: Any) -> bool | None:
    """Couple the input's channels to the weight's input axis; start ids on its output axis."""
    weight, bias, groups = a["weight"], a["bias"], a["groups"]
    out_axis, in_axis = (1, 0) if a["transposed"] else (0, 1)
    first, second = tracer.axis(weight, out_axis), tracer.axis(weight, in_axis)
    if first is None or second is None:
        return False
    inputs = tracer.along(a["input"], 1).reshape(groups, -1)
    if 1 < groups == a["input"].shape[1]:  # depthwise: a group is pruned with its input channel
        (whole, one) = (second, first) if a["transposed"] else (first, second)
        tracer.sets.union(one, UNPRUNABLE)
        tracer.sets.union(whole.reshape(groups, -1), inputs)
        outputs = inputs.expand(groups, result.shape[1] // groups)
        out_axis = 0
    else:  # every group loses the same channels, so that all stay of one size
        outputs = _by_group(first, result.shape[1], groups)
        rows = _by_group(second, a["input"].shape[1], groups)
        for ids in (outputs, rows):
            tracer.sets.union(ids, ids[:1])
        tracer.sets.union(rows, inputs)
    outputs = outputs.reshape(-1)
    if bias is not None:
        bias_ids = tracer.axis(bias, 0)
        tracer.sets.union(outputs, UNPRUNABLE if bias_ids is None else bias_ids)
    tracer.set_output_axis(weight, out_axis)
    tracer.assign(result, outputs.reshape(1, -1, *[1] * (result.ndim - 2)))
    return None


def _by_group(ids: Tensor, channels: int, groups: int) -> Tensor:
    """Lay the ids of a weight's axis out as [groups, channels of a group]; an axis as long as
    one group serves all."""
    shared = ids.numel() != channels
    return ids.expand(groups, -1) if shared else ids.reshape(groups, -1)


def _linear(tracer: ChannelTracer, a: Mapping[str, Any], result: Any) -> bool | None:
    """Couple the channels of `x W^T + b`, as a linear layer computes it."""
    x, matrix = (a["mat1"], a["mat2"]) if "mat1" in a else (a["self"], a["mat2"])
    weight = tracer.transposed.get(id(matrix))
    outputs, inputs = tracer.axis(weight, 0), tracer.axis(weight, 1)
    if weight is None or outputs is None or inputs is None:
        return False
    tracer.sets.union(inputs, tracer.along(x, 1))
    if "mat1" in a:
        bias = tracer.axis(a["self"], 0)
        tracer.sets.union(outputs, UNPRUNABLE if bias is None else bias)
    tracer.set_output_axis(weight, 0)
    tracer.assign(result, outputs)
    return None


def _norm(tracer: ChannelTracer, a: Mapping[str, Any], result: Any) -> bool | None:
    """Couple a batch norm's statistics and affine parameters to the channels."""
    channels = tracer.along(a["input"], 1)
    for key in ("weight", "bias", "running_mean", "running_var"):
        vector = a.get(key)
        if vector is not None:
            ids = tracer.ids_of(vector) if tracer.has_ids(vector) else tracer.axis(vector, 0)
            tracer.sets.union(channels, UNPRUNABLE if ids is None else ids)
    tracer.assign(result[0], channels.reshape(1, -1, *[1] * (result[0].ndim - 2)))
    return None


def _by_channel(tracer: ChannelTracer, a: Mapping[str, Any], result: Any) -> bool | None:
    """Keep the ids of what computes each channel of `[B, C, H, W]` by itself: pooling, padding."""
    x, output = next(iter(a.values())), tree_leaves(result)[0]
    if x.ndim < 3 or output.shape[-3] != x.shape[-3]:
        return False
    tracer.assign(output, tracer.along(x, -3)[:, None, None])
    return None


def _reduction(tracer: ChannelTracer, a: Mapping[str, Any], result: Any) -> bool | None:
    """Keep the ids of sums, means and extrema over axes on which the channel does not change."""
    x, dims = a["self"], a.get("dim")
    dims = list(range(x.ndim)) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
    if not tracer.has_ids(x):
        return False
    ids = tracer.ids_of(x)
    if any(tracer.sets.differ_along(ids, dim) for dim in dims):
        return False
    for dim in sorted((dim % x.ndim for dim in dims), reverse=True):
        ids = ids.narrow(dim, 0, 1) if a.get("keepdim") else ids.select(dim, 0)
    for output in tree_leaves(result):
        tracer.assign(output, ids)
    return None


BY_CHANNEL_OPS = (
    *("max_pool2d_with_indices", "avg_pool2d", "adaptive_max_pool2d", "adaptive_avg_pool2d"),
    *("_adaptive_avg_pool2d", "reflection_pad2d", "replication_pad2d", "constant_pad_nd"),
)
REDUCTION_OPS = ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean")
LIKE_OPS = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like")
"""Operations whose result has a channel for each channel of their argument."""
NORM_OPS = (
    *("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit"),
    *("cudnn_batch_norm", "_batch_norm_no_update", "miopen_batch_norm"),
)

PROPAGATION_RULES: dict[str, PropagationRule] = {
    "convolution": _convolution,
    "mm": _linear,
    "addmm": _linear,
    **dict.fromkeys(BY_CHANNEL_OPS, _by_channel),
    **dict.fromkeys(REDUCTION_OPS, _reduction),
    **dict.fromkeys(NORM_OPS, _norm),
    **dict.fromkeys((*LIKE_OPS, "copy", "fill", "clamp", "_prelu_kernel"), _pointwise),
}
"""The rule of each ATen operation; pointwise ones are recognised by their tag."""

MOVE_OPS = frozenset(
    [
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t"),
        *("slice", "select", "narrow", "split", "split_with_sizes", "unbind", "cat", "stack"),
        *("expand", "repeat", "squeeze", "unsqueeze", "clone", "alias", "detach", "lift_fresh"),
        *("flip", "roll", "index_select", "pixel_shuffle", "pixel_unshuffle"),
        *("channel_shuffle", "native_channel_shuffle"),
    ]
)
"""Operations that move entries and compute nothing: they are applied to the ids too."""

SHAPE_ONLY_OPS = frozenset(["new_zeros", "new_ones", "new_empty", "new_full"])
"""Operations that read a tensor's shape only."""
