"""Which labels stand for one thing? (Union-find on tensors of labels.)"""

from __future__ import annotations

import torch
from torch import Tensor


class Ties:
    """Labels, some of them tied to each other. Label 0 is there from the start.

    Tensors of labels are mostly one row repeated over positions; nothing here looks at a repeated
    value twice.
    """

    def __init__(self) -> None:
        self._parents = [0]

    def fresh(self, count: int) -> Tensor:
        """Return `count` labels that were never given out."""
        start = len(self._parents)
        self._parents += range(start, start + count)
        return torch.arange(start, start + count)

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Tie the labels of two tensors, entry by entry; they are broadcast to one shape."""
        shape = torch.broadcast_shapes(one.shape, other.shape)  # type: ignore[no-untyped-call]
        one, other = _without_repeats(one.expand(shape), other.expand(shape))
        known = len(self._parents)
        for pair in torch.unique(one * known + other).tolist():  # each pair once, as one number
            low, high = sorted(self._root(label) for label in divmod(pair, known))
            self._parents[high] = low

    def roots(self, labels: Tensor) -> Tensor:
        """Return the labels, tied ones replaced by the least of them."""
        (short,) = _without_repeats(labels)
        table = torch.zeros(len(self._parents), dtype=torch.int64)
        for label in torch.unique(short).tolist():
            table[label] = self._root(label)
        return table[short].expand(labels.shape)

    def varies(self, labels: Tensor, dim: int) -> bool:
        """Tell whether entries along `dim` are not all tied."""
        if labels.shape[dim] < 2 or labels.stride(dim) == 0:
            return False
        roots = self.roots(labels)
        return bool((roots != roots.narrow(dim, 0, 1)).any())

    def _root(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label


def _without_repeats(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cut tensors of one shape to one entry along each axis on which all only repeat it."""
    for dim in range(tensors[0].ndim):
        if all(tensor.stride(dim) == 0 for tensor in tensors) and tensors[0].shape[dim]:
            tensors = tuple(tensor.narrow(dim, 0, 1) for tensor in tensors)
    return tensors
