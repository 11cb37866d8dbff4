"""Class-pruned networks: N:M branches that share weights, and a classifier that selects one.

ClassPruning (Zhou et al., 2022), sections 3.2 and 3.3: a branch masks the weights that rank below
its N; every branch has batch norms of its own ("variable BatchNorm").
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
from thinlens.sparsity.pattern import SharedRanks
from thinlens.sparsity.rank_mask import straight_through_mask
from thinlens.sparsity.ranks import magnitude_ranks


@dataclass(frozen=True)
class ClassPrunedConfig(routed.RoutedConfig):
    """Base network, branches and classifier; N of every branch is in `kept`."""

    shared_norms: bool = False
    """Whether all branches use the same batch norms."""
    searched: str = "{}"
    """N in each branch of every layer whose N differs from the branch's, as JSON."""

    def n(self) -> dict[str, list[int]]:
        """Read `searched`; `UsageError` where it is not one N for every branch, never falling."""
        try:
            n_by_layer = json.loads(self.searched)
            fits = all(self._nests(n) for n in n_by_layer.values())
        except (ValueError, AttributeError, TypeError) as error:
            raise UsageError("searched is no JSON object of lists") from error
        if not fits:
            raise UsageError(
                f"searched is not one N of 1 to {self.m} for each of "
                f"{len(self.kept)} branches, never falling, in every layer"
            )
        return dict(n_by_layer)

    def _nests(self, n: list[int]) -> bool:
        complete = len(n) == len(self.kept) and all(type(x) is int for x in n)
        return complete and n[0] >= 1 and n[-1] <= self.m and n == sorted(n)


class ClassPruned(Routed):
    """Restore every image `[B, C, H, W]` by the N:M branch that the classifier selects."""

    NAME: ClassVar[str] = "class-pruned"

    def __init__(self, config: ClassPrunedConfig, network: nn.Module) -> None:
        super().__init__(config, network)
        self.decay = 0.0
        """Weight decay of masked weights in training (SR-STE's lambda)."""
        self._norms = norm_names(network)
        norms = [network.get_submodule(name) for name in self._norms]
        # the densest branch uses those of the base network
        sparser = () if config.shared_norms else config.kept[1:]
        self.norms = nn.ModuleList(nn.ModuleList(copy.deepcopy(norms)) for _ in sparser)
        self._ranked: dict[str, str] = {}
        self._searched: dict[str, Sequence[int]] = {**config.n()}

    def branch(self, image: Tensor, index: int) -> Tensor:
        restored: Tensor = functional_call(self.network, self.tensors(index), (image,))
        return restored

    def extract_branch(self, index: int) -> nn.Module:
        return load_tensors(copy.deepcopy(self.network), self.tensors(index))

    def tensors(self, index: int) -> dict[str, Tensor]:
        """Return the tensors in which a branch differs from the base, by state-dict name."""
        weights = {}
        for name, n in self.n(index).items():
            if n < self.branches.m:
                weight = prunable_layer(self.network, name).weight
                mask = self.get_buffer(self._ranked[name]) <= n
                weights[f"{name}.weight"] = straight_through_mask(weight, mask, self.decay)
        return {**weights, **norm_tensors(self._norms, self.branch_norms(index))}

    def n(self, index: int) -> dict[str, int]:
        """Return N of a branch by the name of each shared layer."""
        uniform = self.branches.kept
        return {name: self._searched.get(name, uniform)[index] for name in self._ranked}

    def branch_norms(self, index: int) -> list[nn.Module]:
        if index < len(self.norms):
            return list(cast(nn.ModuleList, self.norms[index]))
        return [self.network.get_submodule(name) for name in self._norms]

    @property
    def separate_norms(self) -> bool:
        return not self.config.shared_norms

    def flops(self, example: Sequence[int]) -> list[int]:
        kept = [self.n(index) for index in range(self.num_branches)]
        return branch_flops(self.network, example, self.branches.m, kept)

    def set_ranks(self, ranks: Mapping[str, Tensor]) -> None:
        """Set the ranks of the shared weights, by layer name of `network`.

        Ranks are not in the state dict: a checkpoint packs them beside the weights.
        """
        for name, ranked in ranks.items():
            buffer = f"ranks of {name.replace('.', ' ')}"
            self.register_buffer(buffer, ranked, persistent=False)
            self._ranked[name] = buffer

    def update_ranks(self) -> None:
        """Rank the shared weights again, by magnitude (SR-STE does before every step)."""
        for name, buffer in self._ranked.items():
            layer = prunable_layer(self.network, name)
            self.get_buffer(buffer).copy_(magnitude_ranks(layer.weight, layer, self.branches.m))

    @property
    def pruned(self) -> tuple[str, ...]:
        """The layers of `network` that the branches mask."""
        return tuple(self._ranked)

    def rank_structures(self) -> dict[str, SharedRanks]:
        """Return the ranks by layer name in this module, as checkpoints store them."""
        return {
            f"network.{name}": SharedRanks(self.get_buffer(buffer).cpu(), self.branches.m)
            for name, buffer in self._ranked.items()
        }

    def load_rank_structures(self, structures: Mapping[str, SharedRanks]) -> None:
        by_layer = {name.removeprefix("network."): ranked for name, ranked in structures.items()}
        if unknown := self._searched.keys() - by_layer.keys():
            raise UsageError(f"layer {min(unknown)!r} was searched and has no ranks")
        if any(ranked.m != self.branches.m for ranked in by_layer.values()):
            raise UsageError(f"its ranks are in groups of another M than {self.branches.m}")
        self.set_ranks({name: ranked.ranks for name, ranked in by_layer.items()})
