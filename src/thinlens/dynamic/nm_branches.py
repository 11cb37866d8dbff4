"""One network in several sparsities, and a classifier that picks one for every image.

ClassPruning (Zhou et al., 2022), sections 3.2 and 3.3: the branches share the weights, a branch
hides those that rank below its N; batch norms are each branch's own ("variable BatchNorm").
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.func import functional_call

from thinlens.dynamic import routed
from thinlens.dynamic.branches import branch_flops
from thinlens.dynamic.routed import Routed, load_tensors, norm_names, norm_tensors
from thinlens.errors import UsageError
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Ranked
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.sparsity.straight_through import masked


@dataclass(frozen=True)
class ClassPrunedConfig(routed.RoutedConfig):
    """Which network, which branches, which classifier; N of every branch is in `kept`."""

    shared_norms: bool = False
    """Whether the branches have no batch norms of their own."""
    searched: str = "{}"
    """Of every layer whose N differs from the branch's: its N in each branch, as JSON."""

    def n(self) -> dict[str, list[int]]:
        """Read `searched`; `UsageError` where it is not N of every branch, none falling."""
        try:
            found = json.loads(self.searched)
            fits = all(self._nests(n) for n in found.values())
        except (ValueError, AttributeError, TypeError) as error:
            raise UsageError("what was searched is no JSON object of lists") from error
        if not fits:
            raise UsageError(
                f"what was searched is not one N of 1 to {self.m} for each of "
                f"{len(self.kept)} branches, none falling, in every layer"
            )
        return dict(found)

    def _nests(self, n: list[int]) -> bool:
        whole = len(n) == len(self.kept) and all(type(x) is int for x in n)
        return whole and n[0] >= 1 and n[-1] <= self.m and n == sorted(n)


class ClassPruned(Routed):
    """Restore every image `[B, C, H, W]` by the branch that the classifier picks for it."""

    NAME: ClassVar[str] = "class-pruned"

    def __init__(self, config: ClassPrunedConfig, network: nn.Module) -> None:
        super().__init__(config, network)
        self.decay = 0.0
        """What pulls hidden weights towards 0 while branches train (SR-STE's lambda)."""
        self._norms = norm_names(network)
        own = [network.get_submodule(name) for name in self._norms]
        # the fullest branch uses the network's own
        parted = () if config.shared_norms else config.kept[1:]
        thinner = [nn.ModuleList(copy.deepcopy(own)) for _ in parted]
        self.norms = nn.ModuleList(thinner)
        self._ranked: dict[str, str] = {}
        self._searched: dict[str, Sequence[int]] = {**config.n()}

    def branch(self, image: Tensor, index: int) -> Tensor:
        restored: Tensor = functional_call(self.network, self.tensors(index), (image,))
        return restored

    def extract_branch(self, index: int) -> nn.Module:
        return load_tensors(copy.deepcopy(self.network), self.tensors(index))

    def tensors(self, index: int) -> dict[str, Tensor]:
        """Return what a branch puts in the place of the network's own, by state-dict name."""
        own = {}
        for name, n in self.n(index).items():
            if n < self.branches.m:
                weight = prunable_layer(self.network, name).weight
                mask = self.get_buffer(self._ranked[name]) <= n
                own[f"{name}.weight"] = masked(weight, mask, self.decay)
        return {**own, **norm_tensors(self._norms, self.branch_norms(index))}

    def n(self, index: int) -> dict[str, int]:
        """Return how many of M weights a branch keeps, by the layer they share."""
        usual = self.branches.kept
        return {name: self._searched.get(name, usual)[index] for name in self._ranked}

    def branch_norms(self, index: int) -> list[nn.Module]:
        if index < len(self.norms):
            return list(cast(nn.ModuleList, self.norms[index]))
        return [self.network.get_submodule(name) for name in self._norms]

    @property
    def separate_norms(self) -> bool:
        return not self.config.shared_norms

    def flops(self, example: Sequence[int]) -> list[int]:
        kept = [self.n(index) for index in range(self.count)]
        return branch_flops(self.network, example, self.branches.m, kept)

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

    def rank_structures(self) -> dict[str, Ranked]:
        """Return the ranks by the names that layers have here, as checkpoints take them."""
        return {
            f"network.{name}": Ranked(self.get_buffer(buffer).cpu(), self.branches.m)
            for name, buffer in self._ranked.items()
        }

    def load_rank_structures(self, rank_structures: Mapping[str, Ranked]) -> None:
        found = {name.removeprefix("network."): ranked for name, ranked in rank_structures.items()}
        if unknown := self._searched.keys() - found.keys():
            raise UsageError(f"layer {min(unknown)!r} was searched and has no ranks")
        if any(ranked.m != self.branches.m for ranked in found.values()):
            raise UsageError(f"its ranks are in groups of another M than {self.branches.m}")
        self.set_ranks({name: ranked.ranks for name, ranked in found.items()})
