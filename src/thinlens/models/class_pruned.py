"""One network in several sparsities, and a classifier that picks one for every image.

ClassPruning (Zhou et al., 2022), sections 3.2 and 3.3: the branches share the weights, a branch
hides those that rank below its N; batch norms are each branch's own ("variable BatchNorm").
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from thinlens.errors import UsageError
from thinlens.models.classifier import Classifier
from thinlens.models.classifier import Config as ClassifierConfig
from thinlens.sparsity.branches import Branches
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Ranked
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.sparsity.straight_through import masked

NAME = "class-pruned"
"""What checkpoints call it."""


@dataclass(frozen=True)
class Config:
    """Which network, which branches, which classifier."""

    network: str = ""
    """The key of the network in `MODELS`; "" while it is not known."""
    options: str = "{}"
    """The network's own config, as JSON."""
    channels: int = 1
    kept: tuple[int, ...] = (1, 2, 4)
    """N of every branch, rising."""
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


class ClassPruned(nn.Module):
    """Restore every image `[B, C, H, W]` by the branch that the classifier picks for it."""

    def __init__(self, config: Config, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.branches = config.branches()
        self.network = network
        self.classifier = Classifier(config.classifier())
        self.decay = 0.0
        """What pulls hidden weights towards 0 while branches train (SR-STE's lambda)."""
        self._norms = [n for n, part in network.named_modules() if isinstance(part, _BatchNorm)]
        own = [network.get_submodule(name) for name in self._norms]
        # the fullest branch uses the network's own
        thinner = [nn.ModuleList(copy.deepcopy(own)) for _ in config.kept[1:]]
        self.norms = nn.ModuleList(thinner)
        self._ranked: dict[str, str] = {}

    def forward(self, image: Tensor) -> Tensor:
        return self.by_class(image, self.classify(image))

    def classify(self, image: Tensor) -> Tensor:
        """Return the class of every image, `[B]`; equally likely ones go to the cheaper."""
        logits = cast(Tensor, self.classifier(image))
        likeliest = logits == logits.max(dim=1, keepdim=True).values
        return likeliest.to(torch.uint8).argmax(dim=1)

    def by_class(self, image: Tensor, classes: Tensor) -> Tensor:
        """Restore every image by the branch of its class.

        Where there are no values (a dry run on the meta device), all go to the fullest.
        """
        if image.is_meta:
            return self.branch(image, len(self.branches.kept) - 1)
        present = sorted(set(classes.tolist()))
        if len(present) == 1:
            return self.branch(image, present[0])
        parts = {index: self.branch(image[classes == index], index) for index in present}
        first = next(iter(parts.values()))
        restored = first.new_empty(len(image), *first.shape[1:])
        for index, part in parts.items():
            restored[classes == index] = part
        return restored

    def branch(self, image: Tensor, index: int) -> Tensor:
        """Restore all images by one branch; in training mode it moves no other's statistics."""
        restored: Tensor = functional_call(self.network, self.tensors(index), (image,))
        return restored

    def tensors(self, index: int) -> dict[str, Tensor]:
        """Return what a branch puts in the place of the network's own, by state-dict name."""
        n, own = self.branches.kept[index], {}
        if n < self.branches.m:
            for name, buffer in self._ranked.items():
                weight = prunable_layer(self.network, name).weight
                mask = self.get_buffer(buffer) <= n
                own[f"{name}.weight"] = masked(weight, mask, self.decay)
        for name, norm in zip(self._norms, self.norms_of(index), strict=True):
            for part, tensor in chain(norm.named_parameters(), norm.named_buffers()):
                own[f"{name}.{part}"] = tensor
        return own

    def norms_of(self, index: int) -> list[nn.Module]:
        """Return a branch's batch norms, in the order of the network's."""
        if index < len(self.norms):
            return list(cast(nn.ModuleList, self.norms[index]))
        return [self.network.get_submodule(name) for name in self._norms]

    def set_ranks(self, ranks: Mapping[str, Tensor]) -> None:
        """Say which weights the branches share, by layer of `network`, and how they rank there.

        Ranks are no part of the state dict: a checkpoint packs them beside the weights.
        """
        for name, ranked in ranks.items():
            buffer = f"ranks of {name.replace('.', ' ')}"
            self.register_buffer(buffer, ranked, persistent=False)
            self._ranked[name] = buffer

    def rank(self) -> None:
        """Rank the shared weights anew, by magnitude (SR-STE does before every step)."""
        for name, buffer in self._ranked.items():
            layer = prunable_layer(self.network, name)
            self.get_buffer(buffer).copy_(magnitude_ranks(layer.weight, layer, self.branches.m))

    @property
    def pruned(self) -> tuple[str, ...]:
        """The layers of `network` whose weights the branches share."""
        return tuple(self._ranked)

    def structures(self) -> dict[str, Ranked]:
        """Return the ranks by the names that layers have here, as checkpoints take them."""
        return {
            f"network.{name}": Ranked(self.get_buffer(buffer).cpu(), self.branches.m)
            for name, buffer in self._ranked.items()
        }

    def take(self, structures: Mapping[str, Ranked]) -> None:
        """Take back what `structures` gave."""
        found = {name.removeprefix("network."): ranked for name, ranked in structures.items()}
        if any(ranked.m != self.branches.m for ranked in found.values()):
            raise UsageError(f"its ranks are in groups of another M than {self.branches.m}")
        self.set_ranks({name: ranked.ranks for name, ranked in found.items()})

    def name(self, network: str) -> None:
        """Note that `network` is the key of its network in `MODELS`, so that it can be built."""
        own = json.dumps(asdict(cast(Config, self.network.config)))
        self.config = replace(self.config, network=network, options=own)
