"""Which channels of a network live or die together, whatever the network?

One forward pass runs under a dispatch mode, and every tensor carries a label per entry: which
channel it belongs to. What moves data (views, concatenation, pixel shuffle) moves labels by the
same operation; what computes entry by entry ties the labels that meet (residual sums, gates); a
convolution ties the labels that lie on one channel of its input (the s^2 blocks of a pixel
shuffle) and begins new ones. Label 0 is never removed: the image's channels, and all that meets
an operation which mixes channels in a way not known here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from thinlens.sparsity.dry_run import runnable
from thinlens.sparsity.operations import called
from thinlens.sparsity.ties import Ties

LARGEST_SIDE = 32
"""Pixels of the image that is traced: what is tied does not depend on its size."""

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU)
"""The modules whose outputs ptflops counts, as the paper does."""

ALWAYS = torch.zeros((), dtype=torch.int64)
"""The label of what is never removed."""


@dataclass(frozen=True, eq=False)
class Channels:
    """Labels of the channels along every axis of every parameter and buffer that has them."""

    axes: dict[str, tuple[Tensor | None, ...]]
    """By state-dict name, for each axis its labels, or None for an axis that is never cut. Equal
    labels live or die together; 0 never dies."""
    producers: dict[str, int]
    """The axis of output channels, by the name of a weight."""
    activations: list[Tensor]
    """Labels of the outputs of activation modules, in the order they run: what they cost."""
    obstacles: list[str]
    """Operations on whose channels nothing can be removed, in the order they were met."""

    def cut(self, tensors: Mapping[str, Tensor], dead: Iterable[int]) -> dict[str, Tensor]:
        """Return what is left of `tensors` without the labels `dead`; untouched ones are left
        out."""
        gone = torch.tensor(sorted(dead), dtype=torch.int64)
        left = {}
        for name, axes in self.axes.items():
            tensor = tensors[name]
            for axis, labels in enumerate(axes):
                if labels is not None:
                    alive = (~torch.isin(labels, gone)).nonzero()[:, 0]
                    tensor = tensor.index_select(axis, alive.to(tensor.device))
            left[name] = tensor
        return left

    def zeroed(self, tensors: Mapping[str, Tensor], dead: Iterable[int]) -> dict[str, Tensor]:
        """Return `tensors` in their full size with zeros where `cut` removes entries."""
        gone = torch.tensor(sorted(dead), dtype=torch.int64)
        masked = {}
        for name, axes in self.axes.items():
            tensor = tensors[name].clone()
            for axis, labels in enumerate(axes):
                if labels is not None:
                    index = torch.isin(labels, gone).nonzero()[:, 0]
                    tensor.index_fill_(axis, index.to(tensor.device), 0)
            masked[name] = tensor
        return masked


def small(example: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of one small image of the kind of `example`."""
    return (1, example[1], *(min(side, LARGEST_SIDE) for side in example[2:]))


def find_channels(model: nn.Module, example: Sequence[int]) -> Channels:
    """Label the channels of `model`, which maps images shaped `example`; it is not touched.

    Raises `UsageError` if the network cannot run on a small image of that kind.
    """
    traced = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    own = {**dict(traced.named_buffers()), **dict(traced.named_parameters())}
    kind = next((p.dtype for p in own.values() if p.is_floating_point()), torch.float32)
    image = torch.zeros(small(example), dtype=kind)
    tracer = _Tracer({id(tensor): (name, tensor) for name, tensor in own.items()})
    tracer.labels[id(image)] = ALWAYS.expand(image.shape)
    for module in traced.modules():
        if isinstance(module, ACTIVATIONS):
            module.register_forward_hook(lambda _module, _inputs, output: tracer.note(output))
    # Inference mode would show the tracer compound operations.
    with torch.inference_mode(False), torch.no_grad(), runnable(image.shape), tracer:
        outputs = tree_leaves(traced(image))
    for output in outputs:
        if id(output) in tracer.labels:
            tracer.pin(output)
    return tracer.found()


Rule = Callable[["_Tracer", Mapping[str, Any], Any], bool | None]
"""Labels the result of an operation, given its arguments by name; False where it cannot."""


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carry labels through every operation."""

    def __init__(self, own: Mapping[int, tuple[str, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ties = Ties()
        self.labels: dict[int, Tensor] = {}
        """One label per entry, by the identity of a tensor."""
        self.transposed: dict[int, Tensor] = {}
        """The weight of which a tensor is the transpose."""
        self.own = own
        self._axes: dict[int, list[Tensor | None]] = {}
        self._producers: dict[str, int] = {}
        self._obstacles: dict[str, None] = {}
        self._activations: list[Tensor] = []
        self._alive: list[Any] = []  # so that no identity is used twice

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._alive += [args, kwargs, result]
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        known = any(id(x) in self.labels or id(x) in self.own for x in tensors)
        name, bound = called(func, args, kwargs)
        if not known or name in BLIND:
            return result
        rule = RULES.get(name.rstrip("_"))
        if name.lstrip("_").startswith("upsample_"):
            rule = _by_channel
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = _pointwise
        if name in MOVES:
            self._move(func, args, kwargs or {}, result)
        elif rule is None or rule(self, bound, result) is False:
            labelled = [x for x in tensors if id(x) in self.labels]
            if any((self.ties.roots(self.labels[id(x)]) != 0).any() for x in labelled):
                self._obstacles[name.strip("_")] = None
            for tensor in labelled:
                self.pin(tensor)
            for output in tree_leaves(result) if labelled else ():
                self.give(output, ALWAYS)
        return result

    def found(self) -> Channels:
        """Return the labels of all parameters and buffers, tied ones made equal."""
        axes = {
            self.own[key][0]: tuple(None if x is None else self.ties.roots(x) for x in labels)
            for key, labels in self._axes.items()
        }
        activations = [self.ties.roots(labels) for labels in self._activations]
        return Channels(axes, self._producers, activations, list(self._obstacles))

    def note(self, output: Tensor) -> None:
        """Remember the output of an activation module."""
        self._activations.append(self.labels.get(id(output), ALWAYS.expand(output.shape)))

    def give(self, tensor: Any, labels: Tensor) -> None:
        """Label `tensor`; labels are broadcast to its shape."""
        if isinstance(tensor, Tensor):
            self.labels[id(tensor)] = labels.expand(tensor.shape)

    def pin(self, tensor: Tensor) -> None:
        """Let the channels of `tensor` always live."""
        self.ties.tie(self.labels[id(tensor)], ALWAYS)

    def axis(self, tensor: Tensor | None, axis: int) -> Tensor | None:
        """Return the labels along an axis of a parameter or buffer; None if it is neither."""
        if tensor is None or id(tensor) not in self.own:
            return None
        axes = self._axes.setdefault(id(tensor), [None] * tensor.ndim)
        labels = axes[axis]
        if labels is None:
            labels = axes[axis] = self.ties.fresh(tensor.shape[axis])
        return labels

    def produces(self, weight: Tensor, axis: int) -> None:
        """Remember which axis of a weight holds its output channels."""
        self._producers[self.own[id(weight)][0]] = axis

    def along(self, tensor: Tensor, axis: int) -> Tensor:
        """Return the labels `[C]` along an axis of a tensor, tied over all positions."""
        if id(tensor) not in self.labels:
            return torch.zeros(tensor.shape[axis], dtype=torch.int64)
        labels = self.labels[id(tensor)].movedim(axis, 0)
        first = labels[(slice(None), *[slice(0, 1)] * (labels.ndim - 1))]
        self.ties.tie(labels, first)
        return first.flatten()

    def single(self, tensor: Tensor) -> Tensor | None:
        """Label a parameter or buffer of one axis (others of size 1); None if it is not one."""
        wide = [axis for axis, size in enumerate(tensor.shape) if size > 1]
        if id(tensor) not in self.own or len(wide) != 1:
            return None
        labels = self.axis(tensor, wide[0])
        assert labels is not None  # narrowed: it is our own
        shape = [-1 if axis == wide[0] else 1 for axis in range(tensor.ndim)]
        return labels.reshape(shape)

    def _move(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        if func.name().startswith("aten::t") and id(args[0]) in self.own and args[0].ndim == 2:
            self.transposed[id(result)] = args[0]
            return

        def labels_of(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            labels = self.labels.get(id(x))
            if labels is None:
                labels = self.single(x)
            return torch.zeros(x.shape) if labels is None else labels.expand(x.shape).double()

        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not any(id(x) in self.labels or self.single(x) is not None for x in leaves):
            return  # made of constants: another one
        moved = func(*tree_map(labels_of, args), **tree_map(labels_of, kwargs))
        for output, labels in zip(tree_leaves(result), tree_leaves(moved), strict=True):
            self.give(output, labels.long())


def _pointwise(tracer: _Tracer, a: Mapping[str, Any], result: Any) -> bool | None:
    """Tie the labels that meet in one entry of the result."""
    inputs = [x for x in tree_leaves(list(a.values())) if isinstance(x, Tensor)]
    labelled = sorted((x for x in inputs if id(x) in tracer.labels), key=lambda x: -x.numel())
    if not labelled:
        return None
    shape = tree_leaves(result)[0].shape
    main = tracer.labels[id(labelled[0])].expand(shape)
    for x in inputs:
        if x is labelled[0]:
            continue
        sizes = [1] * (len(shape) - x.ndim) + list(x.shape)
        # A gate of one channel meets every channel but is none of them.
        spread = any(s == 1 and tracer.ties.varies(main, d) for d, s in enumerate(sizes))
        if id(x) in tracer.labels:
            if spread:
                tracer.pin(x)
            else:
                tracer.ties.tie(main, tracer.labels[id(x)].expand(shape))
        elif any(s > 1 and tracer.ties.varies(main, d) for d, s in enumerate(sizes)):
            own = tracer.single(x)
            # A constant with a value for every channel cannot be cut; a parameter can.
            tracer.ties.tie(main, ALWAYS if own is None else own.expand(shape))
    for output in tree_leaves(result):
        tracer.give(output, main)
    return None


def _convolution(tracer: _Tracer, a: Mapping[str, Any], result: Any) -> bool | None:
    """Tie the input's channels to the weight's; begin new ones."""
    weight, bias, groups = a["weight"], a["bias"], a["groups"]
    out_axis, in_axis = (1, 0) if a["transposed"] else (0, 1)
    first, second = tracer.axis(weight, out_axis), tracer.axis(weight, in_axis)
    if first is None or second is None:
        return False
    seen = tracer.along(a["input"], 1).reshape(groups, -1)
    if 1 < groups == a["input"].shape[1]:  # depthwise: what leaves a group leaves with its input
        (whole, one) = (second, first) if a["transposed"] else (first, second)
        tracer.ties.tie(one, ALWAYS)
        tracer.ties.tie(whole.reshape(groups, -1), seen)
        made = seen.expand(groups, result.shape[1] // groups)
        out_axis = 0
    else:  # every group loses the same channels, so that all stay of one size
        made = _by_group(first, result.shape[1], groups)
        rows = _by_group(second, a["input"].shape[1], groups)
        for labels in (made, rows):
            tracer.ties.tie(labels, labels[:1])
        tracer.ties.tie(rows, seen)
    made = made.reshape(-1)
    if bias is not None:
        own = tracer.axis(bias, 0)
        tracer.ties.tie(made, ALWAYS if own is None else own)
    tracer.produces(weight, out_axis)
    tracer.give(result, made.reshape(1, -1, *[1] * (result.ndim - 2)))
    return None


def _by_group(labels: Tensor, channels: int, groups: int) -> Tensor:
    """Lay the labels of a weight's axis out as [groups, channels of a group]; an axis as long as
    one group serves all."""
    shared = labels.numel() != channels
    return labels.expand(groups, -1) if shared else labels.reshape(groups, -1)


def _product(tracer: _Tracer, a: Mapping[str, Any], result: Any) -> bool | None:
    """Treat `x W^T + b`, as a linear layer computes it."""
    x, matrix = (a["mat1"], a["mat2"]) if "mat1" in a else (a["self"], a["mat2"])
    weight = tracer.transposed.get(id(matrix))
    made, seen = tracer.axis(weight, 0), tracer.axis(weight, 1)
    if weight is None or made is None or seen is None:
        return False
    tracer.ties.tie(seen, tracer.along(x, 1))
    if "mat1" in a:
        bias = tracer.axis(a["self"], 0)
        tracer.ties.tie(made, ALWAYS if bias is None else bias)
    tracer.produces(weight, 0)
    tracer.give(result, made)
    return None


def _norm(tracer: _Tracer, a: Mapping[str, Any], result: Any) -> bool | None:
    """Tie a batch norm's statistics and affine parameters to the channels."""
    labels = tracer.along(a["input"], 1)
    for key in ("weight", "bias", "running_mean", "running_var"):
        if a.get(key) is not None:
            own = tracer.labels.get(id(a[key]))
            own = tracer.axis(a[key], 0) if own is None else own
            tracer.ties.tie(labels, ALWAYS if own is None else own)
    tracer.give(result[0], labels.reshape(1, -1, *[1] * (result[0].ndim - 2)))
    return None


def _by_channel(tracer: _Tracer, a: Mapping[str, Any], result: Any) -> bool | None:
    """Treat what computes every channel of `[B, C, H, W]` by itself: pooling, resizing, padding."""
    x, output = next(iter(a.values())), tree_leaves(result)[0]
    if x.ndim < 3 or output.shape[-3] != x.shape[-3]:
        return False
    tracer.give(output, tracer.along(x, -3)[:, None, None])
    return None


def _reduction(tracer: _Tracer, a: Mapping[str, Any], result: Any) -> bool | None:
    """Treat sums, means and extrema over axes on which the channel does not change."""
    x, dims = a["self"], a.get("dim")
    dims = list(range(x.ndim)) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
    labels = tracer.labels.get(id(x))
    if labels is None or any(tracer.ties.varies(labels, dim) for dim in dims):
        return False
    for dim in sorted((dim % x.ndim for dim in dims), reverse=True):
        labels = labels.narrow(dim, 0, 1) if a.get("keepdim") else labels.select(dim, 0)
    for output in tree_leaves(result):
        tracer.give(output, labels)
    return None


BY_CHANNEL = (
    *("max_pool2d_with_indices", "avg_pool2d", "adaptive_max_pool2d", "adaptive_avg_pool2d"),
    *("reflection_pad2d", "replication_pad2d", "constant_pad_nd"),
)
REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean")
# What is made like a tensor has a channel for each of its channels.
LIKE = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like")
NORMS = (
    *("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit"),
    *("cudnn_batch_norm", "_batch_norm_no_update", "miopen_batch_norm"),
)

RULES: dict[str, Rule] = {
    "convolution": _convolution,
    "mm": _product,
    "addmm": _product,
    "_adaptive_avg_pool2d": _by_channel,
    **dict.fromkeys(BY_CHANNEL, _by_channel),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(NORMS, _norm),
    **dict.fromkeys((*LIKE, "copy", "fill", "clamp", "_prelu_kernel"), _pointwise),
}
"""How each ATen operation treats labels; pointwise ones say so themselves."""

MOVES = frozenset(
    [
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t"),
        *("slice", "select", "narrow", "split", "split_with_sizes", "unbind", "cat", "stack"),
        *("expand", "repeat", "squeeze", "unsqueeze", "clone", "alias", "detach", "lift_fresh"),
        *("flip", "roll", "index_select", "pixel_shuffle", "pixel_unshuffle"),
        *("channel_shuffle", "native_channel_shuffle"),
    ]
)
"""Operations that move entries and compute nothing: they are done to the labels too."""

BLIND = frozenset(["new_zeros", "new_ones", "new_empty", "new_full"])
"""Operations that look at a tensor's shape only."""
