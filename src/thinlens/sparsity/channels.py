"""Dependency groups: the channels that must be pruned together, in any network.

One forward pass runs under a dispatch mode, and every tensor carries a channel id per entry. What
moves data (views, concatenation, pixel shuffle) moves ids by the same operation; what computes
entry by entry couples the ids that meet (residual sums, gates); a convolution couples the ids on
one channel of its input (the s^2 blocks of a pixel shuffle) and starts new ones. Entries of equal
id form one dependency group, as in Torch-Pruning (Fang et al., DepGraph, CVPR 2023). Id 0 is
never pruned: the image's channels, and all channels of an operation that mixes them in a way that
no rule of `channel_rules` describes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thinlens.models.copying import copy_network
from thinlens.sparsity.channel_rules import ChannelTracer
from thinlens.sparsity.dry_run import runnable

TRACE_SIDE = 32
"""Pixels of the image that is traced, at most: coupling does not depend on the size."""

COUNTED_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU)
"""The modules whose outputs ptflops counts, as the SLS paper does."""


@dataclass(frozen=True)
class DependencyGroup:
    """The entries of parameters and buffers that are pruned together."""

    channel_id: int
    entries: tuple[tuple[str, int, tuple[int, ...]], ...]
    """State-dict name, axis, and indices along that axis."""

    def __str__(self) -> str:
        lines = [f"{name}, axis {axis}: {list(indices)}" for name, axis, indices in self.entries]
        return "\n".join([f"dependency group {self.channel_id}", *(f"  {line}" for line in lines)])


@dataclass(frozen=True, eq=False)
class CoupledChannels:
    """Channel ids along every axis of every parameter and buffer that has channels."""

    axes: dict[str, tuple[Tensor | None, ...]]
    """By state-dict name, for each axis its channel ids (int64), or None for an axis that is never
    pruned. Entries of equal id are pruned together; those of id 0 never."""
    output_axes: dict[str, int]
    """The axis of output channels, by the name of a weight."""
    activations: list[Tensor]
    """Channel ids of the outputs of `COUNTED_ACTIVATIONS`, in the order they run."""
    unprunable_ops: list[str]
    """Operations whose channels cannot be pruned, in the order they ran."""

    def group(self, channel_id: int) -> DependencyGroup:
        """Return the entries with this id; `print` shows what is coupled."""
        entries = [
            (name, axis, tuple((ids == channel_id).nonzero()[:, 0].tolist()))
            for name, axes in self.axes.items()
            for axis, ids in enumerate(axes)
            if ids is not None and (ids == channel_id).any()
        ]
        return DependencyGroup(channel_id, tuple(entries))

    def prune_tensors(
        self, tensors: Mapping[str, Tensor], pruned: Iterable[int]
    ) -> dict[str, Tensor]:
        """Return `tensors` without the entries of the ids `pruned`, where they have channels."""
        pruned_ids = torch.tensor(sorted(pruned), dtype=torch.int64)
        remaining = {}
        for name, axes in self.axes.items():
            tensor = tensors[name]
            for axis, ids in enumerate(axes):
                if ids is not None:
                    index = (~torch.isin(ids, pruned_ids)).nonzero()[:, 0]
                    tensor = tensor.index_select(axis, index.to(tensor.device))
            remaining[name] = tensor
        return remaining

    def mask_tensors(
        self, tensors: Mapping[str, Tensor], pruned: Iterable[int]
    ) -> dict[str, Tensor]:
        """Return `tensors` in their full size with zeros where `prune_tensors` removes entries."""
        pruned_ids = torch.tensor(sorted(pruned), dtype=torch.int64)
        masked = {}
        for name, axes in self.axes.items():
            tensor = tensors[name].clone()
            for axis, ids in enumerate(axes):
                if ids is not None:
                    index = torch.isin(ids, pruned_ids).nonzero()[:, 0]
                    tensor.index_fill_(axis, index.to(tensor.device), 0)
            masked[name] = tensor
        return masked


def trace_shape(example: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of one small image with the channels of `example`."""
    return (1, example[1], *(min(side, TRACE_SIDE) for side in example[2:]))


def trace_channels(model: nn.Module, example: Sequence[int]) -> CoupledChannels:
    """Assign channel ids in `model`, which maps images shaped `example`; it is not changed.

    Raises `UsageError` if the network cannot run on a small image with these channels.

    Output channel 2 of the first convolution is coupled to the batch norm's entries 2 and to input
    channel 2 of the second convolution:

    >>> network = nn.Sequential(
    ...     nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3)
    ... )
    >>> channels = trace_channels(network, (1, 3, 16, 16))
    >>> print(channels.group(int(channels.axes["0.weight"][0][2])))
    dependency group 3
      0.weight, axis 0: [2]
      1.weight, axis 0: [2]
      1.bias, axis 0: [2]
      1.running_mean, axis 0: [2]
      1.running_var, axis 0: [2]
      3.weight, axis 1: [2]
    """
    traced = copy_network(model).cpu().eval().requires_grad_(False)
    tensors = {**dict(traced.named_buffers()), **dict(traced.named_parameters())}
    kind = next((p.dtype for p in tensors.values() if p.is_floating_point()), torch.float32)
    image = torch.zeros(trace_shape(example), dtype=kind)
    tracer = ChannelTracer(tensors, image)
    activations: list[Tensor] = []
    for module in traced.modules():
        if isinstance(module, COUNTED_ACTIVATIONS):
            module.register_forward_hook(
                lambda _module, _inputs, output: activations.append(tracer.ids_of(output))
            )
    # Inference mode would show the tracer compound operations.
    with torch.inference_mode(False), torch.no_grad(), runnable(image.shape), tracer:
        outputs = tree_leaves(traced(image))
    for output in outputs:
        tracer.protect(output)
    return CoupledChannels(
        tracer.final_axes(),
        tracer.output_axes,
        [tracer.sets.find(ids) for ids in activations],
        list(tracer.unprunable_ops),
    )
