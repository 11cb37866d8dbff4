"""Union-find over tensors of channel ids, vectorised over repeated rows."""

from __future__ import annotations

import torch
from torch import Tensor


class UnionFind:
    """Disjoint sets of channel ids. Id 0 exists from the start.

    Tensors of ids are mostly one row repeated over positions; no method looks at a repeated value
    twice.

    >>> sets = UnionFind()
    >>> a, b = sets.add(2), sets.add(2)
    >>> sets.union(a, b)
    >>> sets.find(b).tolist()
    [1, 2]
    """

    def __init__(self) -> None:
        self._parents = [0]

    def add(self, count: int) -> Tensor:
        """Return `count` new ids, each in a set by itself."""
        start = len(self._parents)
        self._parents += range(start, start + count)
        return torch.arange(start, start + count)

    def union(self, one: Tensor, other: Tensor) -> None:
        """Join the sets of the ids of two tensors, entry by entry; they are broadcast."""
        shape = torch.broadcast_shapes(one.shape, other.shape)  # type: ignore[no-untyped-call]
        one, other = _without_repeats(one.expand(shape), other.expand(shape))
        size = len(self._parents)
        for pair in torch.unique(one * size + other).tolist():  # each pair once, as one number
            low, high = sorted(self._root(channel_id) for channel_id in divmod(pair, size))
            self._parents[high] = low

    def find(self, ids: Tensor) -> Tensor:
        """Return the ids, each replaced by the least id of its set."""
        (short,) = _without_repeats(ids)
        roots = torch.zeros(len(self._parents), dtype=torch.int64)
        for channel_id in torch.unique(short).tolist():
            roots[channel_id] = self._root(channel_id)
        return roots[short].expand(ids.shape)

    def differ_along(self, ids: Tensor, dim: int) -> bool:
        """Return whether ids along `dim` are of more than one set."""
        if ids.shape[dim] < 2 or ids.stride(dim) == 0:
            return False
        roots = self.find(ids)
        return bool((roots != roots.narrow(dim, 0, 1)).any())

    def _root(self, channel_id: int) -> int:
        while self._parents[channel_id] != channel_id:
            self._parents[channel_id] = self._parents[self._parents[channel_id]]
            channel_id = self._parents[channel_id]
        return channel_id


def _without_repeats(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Narrow tensors of one shape to one entry along each axis on which all only repeat it."""
    for dim in range(tensors[0].ndim):
        if all(tensor.stride(dim) == 0 for tensor in tensors) and tensors[0].shape[dim]:
            tensors = tuple(tensor.narrow(dim, 0, 1) for tensor in tensors)
    return tensors
