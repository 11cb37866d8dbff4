"""One network in several widths or depths, and a classifier that picks one for every image.

The rivals of ClassPruning's Table 2. Members have their own weights (Multi-Width, Multi-Depth) or
share the fullest one's (Channel-Skip, Layer-Skip): its first channels, or its first and its last
layers. Batch norms are each member's own in both.
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
"""Members of one set of weights. More would be built of fewer tensors than a checkpoint's reader
takes for honest."""


@dataclass(frozen=True)
class RoutedSubnetsConfig(routed.RoutedConfig):
    """Which network, which members, which classifier."""

    thinner: tuple[str, ...] = ("{}", "{}")
    """What the network's config has otherwise in every member but the fullest, as JSON."""
    shared: bool = False
    """Whether members use the fullest one's weights."""

    def __post_init__(self) -> None:
        if self.shared and len(self.kept) > MAX_SHARED_SUBNETS:
            raise UsageError(
                f"{len(self.kept)} branches share weights: wanted at most {MAX_SHARED_SUBNETS}"
            )


class RoutedSubnets(Routed):
    """Restore every image `[B, C, H, W]` by the member that the classifier picks for it."""

    NAME: ClassVar[str] = "family"

    def __init__(self, config: RoutedSubnetsConfig, thinner: Sequence[nn.Module], fullest: nn.Module) -> None:
        super().__init__(config, fullest)
        own = [] if config.shared else thinner
        self.members = nn.ModuleList(own)
        """The members that have weights of their own, but for the fullest."""
        shared_tensors = list(thinner) if config.shared else []
        self.norms = nn.ModuleList(nn.ModuleList(_norms(member)) for member in shared_tensors)
        # what they compute, without a weight: these are lent
        self._forms = [copy.deepcopy(member).to("meta") for member in shared_tensors]
        self._lenders = [shared_names(form, fullest) for form in self._forms]

    def branch(self, image: Tensor, index: int) -> Tensor:
        if not self._borrows(index):
            restored: Tensor = self._member(index)(image)
        else:
            form = self._forms[index].train(self.training)
            restored = functional_call(form, self.shared_tensors(index), (image,))
        return restored

    def extract_branch(self, index: int) -> nn.Module:
        if not self._borrows(index):
            return copy.deepcopy(self._member(index))
        device = next(self.network.parameters()).device
        empty = copy.deepcopy(self._forms[index]).to_empty(device=device)
        return load_tensors(empty.train(self.training), self.shared_tensors(index))

    def _borrows(self, index: int) -> bool:
        """Whether a member uses the fullest one's weights."""
        return index < len(self._forms)

    def _member(self, index: int) -> nn.Module:
        """Return a member that has weights of its own."""
        own: list[nn.Module] = [*self.members, self.network]
        return own[index - len(self._forms)]

    def shared_tensors(self, index: int) -> dict[str, Tensor]:
        """Return the tensors of a member that shares weights, by its own state-dict names."""
        form, whole = self._forms[index], _tensors(self.network)
        parts = _leading(_tensors(form), whole, self._lenders[index])
        return {**parts, **norm_tensors(norm_names(form), self.branch_norms(index))}

    def branch_norms(self, index: int) -> list[nn.Module]:
        if self._borrows(index):
            return list(cast(nn.ModuleList, self.norms[index]))
        return _norms(self._member(index))

    def flops(self, example: Sequence[int]) -> list[int]:
        members = (*self._forms, *self.members, self.network)
        found = (
            cost(member, example, find_layers(member, example), {}, "classpruning").flops
            for member in members
        )
        return [flops for flops in found if flops is not None]


@torch.no_grad()
def copy_shared(member: nn.Module, fullest: nn.Module) -> None:
    """Give `member` the weights and statistics that it would share with `fullest`."""
    own = _tensors(member)
    for name, tensor in _leading(own, _tensors(fullest), shared_names(member, fullest)).items():
        own[name].copy_(tensor)


def shared_names(member: nn.Module, fullest: nn.Module) -> dict[str, str]:
    """Say which tensor of `fullest` stands for each of `member`, by state-dict names.

    In a narrower network that of the same name; in a shallower one as many from the beginning as
    have the same shapes, and the others from the end. `UsageError` if it is neither.
    """
    mine, whole = _tensors(member), _tensors(fullest)
    if mine.keys() == whole.keys():
        return {name: name for name in mine}
    names, theirs = list(mine), list(whole)
    skipped = len(theirs) - len(names)
    for first in range(len(names), -1, -1) if skipped >= 0 else ():
        kept = [*theirs[:first], *theirs[first + skipped :]]
        paired = dict(zip(names, kept, strict=True))
        if all(mine[name].shape == whole[other].shape for name, other in paired.items()):
            return paired
    raise UsageError("the layers of a shallower network are not those of the deeper one")


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers in the order of the layers, by state-dict name."""
    return dict(_in_order(network))


def _in_order(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, layer in network.named_modules():
        own = chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False))
        for part, tensor in own:
            yield (f"{name}.{part}" if name else part), tensor


def _leading(
    shapes: Mapping[str, Tensor], whole: Mapping[str, Tensor], paired: Mapping[str, str]
) -> dict[str, Tensor]:
    """Cut every lender's first entries along each axis, as many as the borrower has."""
    cuts = {name: tuple(slice(0, size) for size in x.shape) for name, x in shapes.items()}
    return {name: whole[paired[name]][cut] for name, cut in cuts.items()}


def _norms(network: nn.Module) -> list[nn.Module]:
    return [network.get_submodule(name) for name in norm_names(network)]
