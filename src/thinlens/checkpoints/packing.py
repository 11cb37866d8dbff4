"""Packing of pruned tensors in bitmask, index or rank encodings, lossless bit for bit.

A packed weight is flattened in canonical order, `[c_out, kh, kw, c_in / groups]`. Encodings:

| encoding  | tensors                                                                         |
|-----------|---------------------------------------------------------------------------------|
| `dense`   | the weight itself; every entry is kept                                          |
| `bitmask` | `mask`: 1 bit an entry, entry i is bit i % 8 of byte i // 8; `values`           |
| `index`   | `index`: uint8 `[groups, n]`, positions of kept entries in their group; `values`|
| `ranks`   | `ranks`: uint8, one an entry; `values`: all of them                             |

`values` are the kept entries in canonical order and in the weight's dtype. Positions of a group
increase; a group that keeps fewer than n entries is padded with 255, which is no position (m is
at most 255).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.sparsity.layout import (
    PrunableModule,
    canonical,
    from_canonical,
    from_groups,
    in_groups,
)
from thinlens.sparsity.pattern import Pattern, SharedRanks
from thinlens.sparsity.ranks import LARGEST_M

NO_POSITION = 255
"""Padding of the positions of a group that keeps fewer than n entries."""

ENCODINGS = {
    "dense": ("",),
    "bitmask": ("mask", "values"),
    "index": ("index", "values"),
    "ranks": ("ranks", "values"),
}
"""Names of an encoding's tensors; a dense weight is its only one, without a name."""


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """The stored form of one weight."""

    encoding: str
    """A key of `ENCODINGS`."""
    n: int | None
    m: int | None
    tensors: dict[str, Tensor]
    """By their names in `ENCODINGS`."""

    @property
    def bytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.numel() * tensor.itemsize for tensor in self.tensors.values())


def pack(weight: Tensor, module: PrunableModule, structure: Pattern | SharedRanks) -> PackedWeight:
    """Encode the kept entries of `weight`, shaped as `module`'s, in the fewest bytes.

    Raises `UsageError` if the structure does not fit the module. Pruned entries are not read.

    >>> layer = torch.nn.Linear(4, 1, bias=False)
    >>> mask = torch.tensor([[True, False, False, True]])
    >>> packed = pack(torch.tensor([[1.0, 0.0, 0.0, 4.0]]), layer, Pattern(mask, n=1, m=2))
    >>> packed.encoding, packed.tensors["values"].tolist()
    ('bitmask', [1.0, 4.0])
    >>> unpack(packed, layer)[0].tolist()
    [[1.0, 0.0, 0.0, 4.0]]
    """
    structure.check(module)
    weight = weight.detach().cpu()
    rows = canonical(weight, module)
    if isinstance(structure, SharedRanks):
        ranks = canonical(structure.ranks.cpu(), module).flatten()
        tensors = {"ranks": ranks, "values": rows.flatten()}
        return _checked(PackedWeight("ranks", None, structure.m, tensors))
    n, m, mask = structure.n, structure.m, canonical(structure.mask.cpu(), module)
    values = rows[mask]
    best = _checked(PackedWeight("bitmask", n, m, {"mask": _to_bits(mask), "values": values}))
    if n is not None and m is not None:
        positions = _to_positions(mask, n, m)
        index = PackedWeight("index", n, m, {"index": positions, "values": values})
        best = min(best, index, key=lambda packed: packed.bytes)
        if mask.all():
            best = PackedWeight("dense", n, m, {"": weight})
    return best


def unpack(
    packed: PackedWeight, module: PrunableModule
) -> tuple[Tensor, Pattern | SharedRanks | None]:
    """Return the weight, shaped as `module`'s, and its structure; the inverse of `pack`.

    Every count, position and bit is checked before it is used; an invalid one is a `UsageError`.
    The structure of a dense weight that was never pruned is None.
    """
    n, m = _checked(packed).n, packed.m
    if packed.encoding == "ranks" and m is not None:
        return _unpack_ranks(packed.tensors, module, m)
    if packed.encoding == "dense":
        weight = packed.tensors[""]
        _check_shape("the weight", weight, tuple(module.weight.shape), weight.dtype)
        mask = torch.ones(weight.shape, dtype=torch.bool)
        return weight, None if n is None else Pattern(mask, n, m)
    mask = _unpack_mask(packed, module)
    values = packed.tensors["values"]
    _check_shape("the values", values, (int(mask.sum()),), values.dtype)
    rows = torch.zeros(mask.shape, dtype=values.dtype)
    rows[mask] = values
    pattern = Pattern(from_canonical(mask, module), n, m)
    pattern.check(module)
    return from_canonical(rows, module), pattern


def _checked(packed: PackedWeight) -> PackedWeight:
    """Return `packed` if its encoding allows its n and m."""
    n, m = packed.n, packed.m
    required = {"ranks": (False, True), "index": (True, True)}.get(packed.encoding)
    present = (n is not None, m is not None)
    if present != required and (required or present[0] != present[1]):
        raise UsageError(f"N = {n} and M = {m} do not match the encoding {packed.encoding}")
    if m is not None and not (0 <= (m if n is None else n) <= m and 1 <= m <= LARGEST_M):
        raise UsageError(f"N = {n} of M = {m}: wanted 0 <= N <= M and 1 <= M <= {LARGEST_M}")
    return packed


def _unpack_mask(packed: PackedWeight, module: PrunableModule) -> Tensor:
    shape = canonical(module.weight, module).shape
    if packed.n is not None and packed.m is not None and packed.encoding == "index":
        return _from_positions(packed.tensors["index"], shape, packed.n, packed.m)
    return _from_bits(packed.tensors["mask"], shape)


def _unpack_ranks(
    tensors: dict[str, Tensor], module: PrunableModule, m: int
) -> tuple[Tensor, SharedRanks]:
    shape = canonical(module.weight, module).shape
    values = tensors["values"]
    _check_shape("the values", values, (shape.numel(),), values.dtype)
    _check_shape("the ranks", tensors["ranks"], (shape.numel(),), torch.uint8)
    ranked = SharedRanks(from_canonical(tensors["ranks"].reshape(shape), module), m)
    ranked.check(module)
    return from_canonical(values.reshape(shape), module), ranked


def _to_bits(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.flatten().numpy(), bitorder="little"))


def _from_bits(packed: Tensor, shape: torch.Size) -> Tensor:
    """Undo `_to_bits`; the bits after the last entry must be 0, so that a mask has one encoding."""
    entries = shape.numel()
    _check_shape("the bit mask", packed, (-(-entries // 8),), torch.uint8)
    bits = np.unpackbits(packed.numpy(), bitorder="little")
    if bits[entries:].any():
        raise UsageError("the bit mask has bits after its last entry")
    return torch.from_numpy(bits[:entries].astype(np.bool_)).reshape(shape)


def _to_positions(mask: Tensor, n: int, m: int) -> Tensor:
    """Return the positions of kept entries of canonical `mask`: uint8 [groups, n], increasing."""
    groups = in_groups(mask.to(torch.uint8), m, fill=0)
    positions = torch.arange(m, dtype=torch.int16).expand_as(groups)
    positions = positions.masked_fill(groups == 0, NO_POSITION)
    return positions.sort(dim=1).values[:, :n].to(torch.uint8)


def _from_positions(positions: Tensor, shape: torch.Size, n: int, m: int) -> Tensor:
    """Undo `_to_positions`; positions must increase strictly and lie inside their group."""
    per_row = -(-shape[-1] // m)
    _check_shape("the index", positions, (shape[:-1].numel() * per_row, n), torch.uint8)
    wide = positions.to(torch.int64)
    increasing = (wide[:, 1:] > wide[:, :-1]) | (wide[:, 1:] == NO_POSITION)
    sizes = torch.full((per_row,), m)
    sizes[-1] = shape[-1] - m * (per_row - 1)  # the last group of a row may be short
    inside = (wide < sizes.repeat(shape[:-1].numel())[:, None]) | (wide == NO_POSITION)
    if not (increasing.all() and inside.all()):
        raise UsageError("the index has positions that do not increase or lie outside their group")
    kept = torch.zeros(len(wide), m + 1, dtype=torch.bool).scatter_(1, wide.clamp(max=m), True)
    return from_groups(kept[:, :m], shape)


def _check_shape(what: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise UsageError(
            f"{what} must be {dtype} and shaped {shape}, not {tensor.dtype} {tuple(tensor.shape)}"
        )
