"""What is a network of several branches, of which a classifier picks one for every image?

ClassPruning (Zhou et al., 2022), section 3.2. What branches are, the classes built on this say.
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
from thinlens.models.classifier import RoutedConfig as ClassifierConfig
from thinlens.sparsity.pattern import Ranked


@dataclass(frozen=True)
class RoutedConfig:
    """Which network, which branches, which classifier."""

    network: str = ""
    """The key of the network in `MODELS`; "" while it is not known."""
    options: str = "{}"
    """The network's own config, as JSON."""
    channels: int = 1
    kept: tuple[int, ...] = (1, 2, 4)
    """The part of the network's cost that each branch has, in units of 1 / m, rising."""
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
    """Restore every image `[B, C, H, W]` by the branch that the classifier picks for it."""

    NAME: ClassVar[str]
    """What checkpoints call it."""

    def __init__(self, config: RoutedConfig, network: nn.Module) -> None:
        super().__init__()
        self.config: Any = config
        self.branches = config.branches()
        self.network = network
        """The fullest branch."""
        self.classifier = Classifier(config.classifier())

    @abstractmethod
    def branch(self, image: Tensor, index: int) -> Tensor:
        """Restore all images by one branch; in training mode it moves no other's statistics."""

    @abstractmethod
    def extract_branch(self, index: int) -> nn.Module:
        """Return a branch as a plain network, with copies of what it shares with others."""

    def extract_branches(self) -> list[nn.Module]:
        """Return every branch alone, in evaluation mode, the thinnest first."""
        return [self.extract_branch(index).eval() for index in range(self.count)]

    @abstractmethod
    def branch_norms(self, index: int) -> list[nn.Module]:
        """Return a branch's batch norms, in the order of its network's."""

    @abstractmethod
    def flops(self, example: Sequence[int]) -> list[int]:
        """Return what each branch costs on an input shaped `example`, as ClassPruning counts."""

    @property
    def count(self) -> int:
        """The number of branches."""
        return len(self.branches.kept)

    @property
    def separate_norms(self) -> bool:
        """Whether every branch has batch norms of its own."""
        return True

    def forward(self, image: Tensor) -> Tensor:
        return self.dispatch(image, self.classify(image))

    def classify(self, image: Tensor) -> Tensor:
        """Return the class of every image, `[B]`; equally likely ones go to the cheaper."""
        logits = cast(Tensor, self.classifier(image))
        likeliest = logits == logits.max(dim=1, keepdim=True).values
        return likeliest.to(torch.uint8).argmax(dim=1)

    def dispatch(
        self,
        image: Tensor,
        classes: Tensor,
        branch: Callable[[Tensor, int], Tensor] | None = None,
    ) -> Tensor:
        """Restore every image by the branch of its class; `branch` may run them otherwise.

        Where there are no values (a dry run on the meta device), all go to the fullest.
        """
        branch = branch or self.branch
        if image.is_meta:
            return branch(image, self.count - 1)
        present = sorted(set(classes.tolist()))
        if len(present) == 1:
            return branch(image, present[0])
        parts = {index: branch(image[classes == index], index) for index in present}
        first = next(iter(parts.values()))
        restored = first.new_empty(len(image), *first.shape[1:])
        for index, part in parts.items():
            restored[classes == index] = part
        return restored

    def restoration_parameters(self) -> list[nn.Parameter]:
        """Return all parameters but the classifier's."""
        judging = {id(parameter) for parameter in self.classifier.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in judging]

    def rank(self) -> None:
        """Choose anew what the branches share, before every step of training; most do not."""

    def rank_structures(self) -> dict[str, Ranked]:
        """Return what a checkpoint packs beside the weights, by the names that layers have here."""
        return {}

    def load_rank_structures(self, rank_structures: Mapping[str, Ranked]) -> None:
        """Take back what `rank_structures` gave."""

    def name(self, network: str) -> None:
        """Note that `network` is the key of its network in `MODELS`, so that it can be built."""
        own = json.dumps(asdict(cast(Any, self.network.config)))
        self.config = replace(self.config, network=network, options=own)


def norm_names(network: nn.Module) -> list[str]:
    """Return the names of a network's batch norms, in order."""
    return [name for name, part in network.named_modules() if isinstance(part, _BatchNorm)]


@torch.no_grad()
def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Copy `tensors` into a network, by state-dict name, and return it."""
    own = network.state_dict()
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
    return network


def norm_tensors(names: Iterable[str], norms: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Return what `norms` hold, as tensors of the norms called `names`."""
    return {
        f"{name}.{part}": tensor
        for name, norm in zip(names, norms, strict=True)
        for part, tensor in chain(norm.named_parameters(), norm.named_buffers())
    }
