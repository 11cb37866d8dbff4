"""Share of a network's multiply-adds that N:M pruning reaches, and the reasons of the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from thinlens.sparsity.products import MatrixProduct
from thinlens.sparsity.prunable import DEPTHWISE, FIRST, LAST, Layer

SMALL_SHARE = 0.8
"""The share below which pruning is announced with a warning."""


@dataclass(frozen=True)
class PrunableShare:
    """Multiply-adds of a network that can be pruned, and those that cannot, by reason."""

    prunable: int
    dense: Mapping[str, int]
    """Multiply-adds by the reason why they stay dense, the largest first."""

    @property
    def total(self) -> int:
        """All multiply-adds of weights and of attention."""
        return self.prunable + sum(self.dense.values())

    @property
    def fraction(self) -> float:
        """The part that can be pruned, 0 to 1."""
        return self.prunable / self.total if self.total else 0.0

    @property
    def small(self) -> bool:
        """Whether so little can be pruned that a user should know."""
        return self.fraction < SMALL_SHARE

    def __str__(self) -> str:
        rest = [f"{reason} {_percent(macs, self.total)}" for reason, macs in self.dense.items()]
        sentence = (
            f"{_percent(self.prunable, self.total)} of {self.total / 1e9:.3g} GMACs can be pruned"
        )
        return f"{sentence}; not: {', '.join(rest)}" if rest else sentence


def prunable_share(
    layers: Iterable[Layer], products: Iterable[MatrixProduct] = ()
) -> PrunableShare:
    """Return the share of the multiply-adds of `layers` and `products` that can be pruned.

    >>> from torch import nn
    >>> from thinlens.sparsity.prunable import find_layers
    >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 3, 3))
    >>> print(prunable_share(find_layers(net, (1, 3, 16, 16))))
    83.8 % of 0.00158 GMACs can be pruned; not: first and last convolution 16.2 %
    """
    prunable, dense = 0, dict[str, int]()
    for layer in layers:
        if layer.prunable:
            prunable += layer.macs
        elif layer.macs:
            reason = _short(layer.reason)
            dense[reason] = dense.get(reason, 0) + layer.macs
    for product in products:
        reason = "attention products" if product.attention else product.reason
        dense[reason] = dense.get(reason, 0) + product.macs
    ordered = sorted(dense.items(), key=lambda entry: -entry[1])
    return PrunableShare(prunable, dict(ordered))


def _short(reason: str) -> str:
    if reason in (FIRST, LAST):
        return "first and last convolution"
    if reason == DEPTHWISE:
        return "depthwise convolutions, whose outputs see one input channel,"
    return f"layers of which {reason}" if reason.startswith("its ") else reason


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.1f} %" if total else "0 %"
