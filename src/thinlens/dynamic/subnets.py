"""Subnets of several widths or depths, and a classifier that selects one for every image.

The baselines of ClassPruning's Table 2. Subnets have separate weights (Multi-Width, Multi-Depth)
or share the largest one's (Channel-Skip, Layer-Skip): its first channels, or its first and its last
layers. Every subnet has batch norms of its own in both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thinlens.dynamic import routed
from thinlens.dynamic.routed import Routed, load_tensors, norm_names, norm_tensors
from thinlens.errors import UsageError
from thinlens.sparsity.cost import cost
from thinlens.sparsity.prunable import find_layers

MAX_SHARED_SUBNETS = 4
"""Most subnets of one set of weights; above it the loader's limit of tensors per module rejects
the file."""


@dataclass(frozen=True)
class RoutedSubnetsConfig(routed.RoutedConfig):
    """Base network, subnets and classifier."""

    thinner: tuple[str, ...] = ("{}", "{}")
    """The config fields of every subnet but the largest that differ from the base's, as JSON."""
    shared: bool = False
    """Whether subnets use the largest one's weights."""

    def __post_init__(self) -> None:
        if self.shared and len(self.kept) > MAX_SHARED_SUBNETS:
            raise UsageError(
                f"{len(self.kept)} branches share weights: wanted at most {MAX_SHARED_SUBNETS}"
            )


class RoutedSubnets(Routed):
    """Restore every image `[B, C, H, W]` by the subnet that the classifier selects for it."""

    NAME: ClassVar[str] = "family"

    def __init__(
        self, config: RoutedSubnetsConfig, thinner: Sequence[nn.Module], largest: nn.Module
    ) -> None:
        super().__init__(config, largest)
        self.members = nn.ModuleList([] if config.shared else thinner)
        """The subnets with separate weights, without the largest."""
        sharing = list(thinner) if config.shared else []
        self.norms = nn.ModuleList(nn.ModuleList(_norms(subnet)) for subnet in sharing)
        # the architectures of the subnets whose weights are shared, without storage
        self._skeletons = [copy.deepcopy(subnet).to("meta") for subnet in sharing]
        self._sources = [shared_names(skeleton, largest) for skeleton in self._skeletons]

    def branch(self, image: Tensor, index: int) -> Tensor:
        if not self._shares_weights(index):
            restored: Tensor = self._separate(index)(image)
        else:
            skeleton = self._skeletons[index].train(self.training)
            restored = functional_call(skeleton, self.shared_tensors(index), (image,))
        return restored

    def extract_branch(self, index: int) -> nn.Module:
        if not self._shares_weights(index):
            return copy.deepcopy(self._separate(index))
        device = next(self.network.parameters()).device
        empty = copy.deepcopy(self._skeletons[index]).to_empty(device=device)
        return load_tensors(empty.train(self.training), self.shared_tensors(index))

    def _shares_weights(self, index: int) -> bool:
        """Whether a subnet uses the largest one's weights."""
        return index < len(self._skeletons)

    def _separate(self, index: int) -> nn.Module:
        """Return a subnet with separate weights."""
        separate: list[nn.Module] = [*self.members, self.network]
        return separate[index - len(self._skeletons)]

    def shared_tensors(self, index: int) -> dict[str, Tensor]:
        """Return the tensors of a subnet that shares weights, by its state-dict names."""
        skeleton, base = self._skeletons[index], _tensors(self.network)
        weights = _leading(_tensors(skeleton), base, self._sources[index])
        return {**weights, **norm_tensors(norm_names(skeleton), self.branch_norms(index))}

    def branch_norms(self, index: int) -> list[nn.Module]:
        if self._shares_weights(index):
            return list(cast(nn.ModuleList, self.norms[index]))
        return _norms(self._separate(index))

    def flops(self, example: Sequence[int]) -> list[int]:
        subnets = (*self._skeletons, *self.members, self.network)
        costs = (
            cost(subnet, example, find_layers(subnet, example), {}, "classpruning").flops
            for subnet in subnets
        )
        return [flops for flops in costs if flops is not None]


@torch.no_grad()
def copy_shared(subnet: nn.Module, largest: nn.Module) -> None:
    """Copy into `subnet` the weights and statistics that it can share with `largest`."""
    tensors = _tensors(subnet)
    shared = _leading(tensors, _tensors(largest), shared_names(subnet, largest))
    for name, tensor in shared.items():
        tensors[name].copy_(tensor)


def shared_names(subnet: nn.Module, largest: nn.Module) -> dict[str, str]:
    """Map every tensor of `subnet` to the tensor of `largest` that it shares, by state-dict names.

    A narrower subnet shares the tensor of the same name; a shallower one as many from the
    beginning as have the same shapes, and the others from the end. `UsageError` if it is neither.
    """
    tensors, base = _tensors(subnet), _tensors(largest)
    if tensors.keys() == base.keys():
        return {name: name for name in tensors}
    names, base_names = list(tensors), list(base)
    skipped = len(base_names) - len(names)
    for first in range(len(names), -1, -1) if skipped >= 0 else ():
        kept = [*base_names[:first], *base_names[first + skipped :]]
        paired = dict(zip(names, kept, strict=True))
        if all(tensors[name].shape == base[other].shape for name, other in paired.items()):
            return paired
    raise UsageError("the layers of a shallower network are not those of the deeper one")


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers in the order of the layers, by state-dict name."""
    return dict(_in_order(network))


def _in_order(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, layer in network.named_modules():
        tensors = chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False))
        for key, tensor in tensors:
            yield (f"{name}.{key}" if name else key), tensor


def _leading(
    shapes: Mapping[str, Tensor], base: Mapping[str, Tensor], paired: Mapping[str, str]
) -> dict[str, Tensor]:
    """Slice the first entries of every shared tensor along each axis, as many as `shapes` has."""
    slices = {name: tuple(slice(0, size) for size in x.shape) for name, x in shapes.items()}
    return {name: base[paired[name]][index] for name, index in slices.items()}


def _norms(network: nn.Module) -> list[nn.Module]:
    return [network.get_submodule(name) for name in norm_names(network)]
