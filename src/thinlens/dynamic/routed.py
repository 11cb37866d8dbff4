"""Routed networks: several branches, and a classifier that selects one for every image.

ClassPruning (Zhou et al., 2022), section 3.2. Subclasses define the branches: N:M masks of shared
weights (`dynamic.nm_branches`) or subnets of other widths and depths (`dynamic.subnets`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thinlens.dynamic.branches import Branches
from thinlens.models.classifier import Classifier
from thinlens.models.classifier import Config as ClassifierConfig
from thinlens.sparsity.pattern import SharedRanks


@dataclass(frozen=True)
class RoutedConfig:
    """Base network, branches and classifier."""

    network: str = ""
    """The key of the base network in `MODELS`; "" until it is saved."""
    options: str = "{}"
    """The base network's config, as JSON."""
    channels: int = 1
    kept: tuple[int, ...] = (1, 2, 4)
    """The fraction of the base network's cost that each branch has, in units of 1 / m, rising."""
    m: int = 4
    classifier_width: int = 64
    classifier_features: int = 96

    def branches(self) -> Branches:
        """Return the branches; `UsageError` if they do not nest."""
        return Branches(tuple(self.kept), self.m)

    def classifier(self) -> ClassifierConfig:
        """Return the classifier's config."""
        return ClassifierConfig(
            width=self.classifier_width,
            features=self.classifier_features,
            channels=self.channels,
            classes=len(self.kept),
        )


class Routed(nn.Module, ABC):
    """Restore every image `[B, C, H, W]` by the branch that the classifier selects for it."""

    NAME: ClassVar[str]
    """Registry name in checkpoints."""

    def __init__(self, config: RoutedConfig, network: nn.Module) -> None:
        super().__init__()
        self.config: Any = config
        self.branches = config.branches()
        self.network = network
        """The base network, which is the largest branch."""
        self.classifier = Classifier(config.classifier())

    @abstractmethod
    def branch(self, image: Tensor, index: int) -> Tensor:
        """Restore all images by one branch; training updates no other branch's statistics."""

    @abstractmethod
    def extract_branch(self, index: int) -> nn.Module:
        """Return a branch as a plain network with copies of all its tensors."""

    def extract_branches(self) -> list[nn.Module]:
        """Return every branch as a plain network in evaluation mode, the smallest first."""
        return [self.extract_branch(index).eval() for index in range(self.num_branches)]

    @abstractmethod
    def branch_norms(self, index: int) -> list[nn.Module]:
        """Return a branch's batch norms, in the order of the base network's."""

    @abstractmethod
    def flops(self, example: Sequence[int]) -> list[int]:
        """Return the FLOPs of each branch on an input shaped `example`, as ClassPruning counts."""

    @property
    def num_branches(self) -> int:
        """The number of branches."""
        return len(self.branches.kept)

    @property
    def separate_norms(self) -> bool:
        """Whether every branch has batch norms of its own."""
        return True

    def forward(self, image: Tensor) -> Tensor:
        return self.dispatch(image, self.classify(image))

    def classify(self, image: Tensor) -> Tensor:
        """Return the class of every image, `[B]`; ties go to the cheaper branch."""
        logits = cast(Tensor, self.classifier(image))
        likeliest = logits == logits.max(dim=1, keepdim=True).values
        return likeliest.to(torch.uint8).argmax(dim=1)

    def dispatch(
        self,
        image: Tensor,
        classes: Tensor,
        branch: Callable[[Tensor, int], Tensor] | None = None,
    ) -> Tensor:
        """Restore every image by the branch of its class; `branch` replaces `self.branch`.

        On the meta device, where classes have no values, all images take the largest branch.
        """
        branch = branch or self.branch
        if image.is_meta:
            return branch(image, self.num_branches - 1)
        present = sorted(set(classes.tolist()))
        if len(present) == 1:
            return branch(image, present[0])
        by_branch = {index: branch(image[classes == index], index) for index in present}
        first = next(iter(by_branch.values()))
        restored = first.new_empty(len(image), *first.shape[1:])
        for index, images in by_branch.items():
            restored[classes == index] = images
        return restored

    def restoration_parameters(self) -> list[nn.Parameter]:
        """Return all parameters but the classifier's."""
        classifying = {id(parameter) for parameter in self.classifier.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in classifying]

    def update_ranks(self) -> None:
        """Update the masks of shared weights before a training step; by default there are none."""

    def rank_structures(self) -> dict[str, SharedRanks]:
        """Return the ranks that a checkpoint packs beside the weights, by layer name."""
        return {}

    def load_rank_structures(self, structures: Mapping[str, SharedRanks]) -> None:
        """Restore the ranks that `rank_structures` returned."""

    def set_base(self, network: str) -> None:
        """Write the base network's key in `MODELS` and its config into this config."""
        options = json.dumps(asdict(cast(Any, self.network.config)))
        self.config = replace(self.config, network=network, options=options)


def norm_names(network: nn.Module) -> list[str]:
    """Return the names of a network's batch norms, in order."""
    return [name for name, layer in network.named_modules() if isinstance(layer, _BatchNorm)]


@torch.no_grad()
def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Copy `tensors` into a network, by state-dict name, and return it."""
    state = network.state_dict()
    for name, tensor in tensors.items():
        state[name].copy_(tensor)
    return network


def norm_tensors(names: Iterable[str], norms: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Return the tensors of `norms`, by the state-dict names that the norms `names` have."""
    return {
        f"{name}.{key}": tensor
        for name, norm in zip(names, norms, strict=True)
        for key, tensor in chain(norm.named_parameters(), norm.named_buffers())
    }
