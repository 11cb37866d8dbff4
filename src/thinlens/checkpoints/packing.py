"""How is one weight written in the fewest bytes, and read back bit for bit?

A packed weight is flattened in canonical order, `[c_out, kh, kw, c_in / groups]`. Encodings:

| encoding  | parts                                                                           |
|-----------|---------------------------------------------------------------------------------|
| `dense`   | the weight itself; every entry lives                                            |
| `bitmask` | `mask`: 1 bit an entry, entry i is bit i % 8 of byte i // 8; `values`           |
| `index`   | `index`: uint8 `[groups, n]`, the places of the living in their group; `values` |
| `ranks`   | `ranks`: uint8, one an entry; `values`: all of them                             |

`values` are the living entries in canonical order and in the weight's own dtype. Places rise from
left to right; a group with fewer than n living ends in 255, which is no place (m is at most 255).
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

NO_PLACE = 255
"""Fills up the places of a group that has fewer than n living entries."""

ENCODINGS = {
    "dense": ("",),
    "bitmask": ("mask", "values"),
    "index": ("index", "values"),
    "ranks": ("ranks", "values"),
}
"""The tensors that an encoding consists of; a dense weight is its only one, without a name."""


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """One weight as it is stored."""

    encoding: str
    """A key of `ENCODINGS`."""
    n: int | None
    m: int | None
    parts: dict[str, Tensor]
    """By their names in `ENCODINGS`."""

    @property
    def bytes(self) -> int:
        """The size of all parts."""
        return sum(part.numel() * part.itemsize for part in self.parts.values())


def pack(weight: Tensor, module: PrunableModule, structure: Pattern | SharedRanks) -> PackedWeight:
    """Write the living entries of `weight`, shaped as `module`'s, in the smallest encoding.

    Raises `UsageError` if the structure does not fit the module. What the dead entries hold is
    not looked at.
    """
    structure.check(module)
    weight = weight.detach().cpu()
    rows = canonical(weight, module)
    if isinstance(structure, SharedRanks):
        ranks = canonical(structure.ranks.cpu(), module).flatten()
        parts = {"ranks": ranks, "values": rows.flatten()}
        return _checked(PackedWeight("ranks", None, structure.m, parts))
    n, m, mask = structure.n, structure.m, canonical(structure.mask.cpu(), module)
    values = rows[mask]
    best = _checked(PackedWeight("bitmask", n, m, {"mask": _to_bits(mask), "values": values}))
    if n is not None and m is not None:
        places = _to_places(mask, n, m)
        index = PackedWeight("index", n, m, {"index": places, "values": values})
        best = min(best, index, key=lambda packed: packed.bytes)
        if mask.all():
            best = PackedWeight("dense", n, m, {"": weight})
    return best


def unpack(packed: PackedWeight, module: PrunableModule) -> tuple[Tensor, Pattern | SharedRanks | None]:
    """Return the weight, shaped as `module`'s, and its structure; the inverse of `pack`.

    Every count, place and bit is checked before it is used; what does not fit is a `UsageError`.
    None is the structure of a dense weight that was never pruned.
    """
    n, m = _checked(packed).n, packed.m
    if packed.encoding == "ranks" and m is not None:
        return _unpack_ranks(packed.parts, module, m)
    if packed.encoding == "dense":
        weight = packed.parts[""]
        _check_shape("the weight", weight, tuple(module.weight.shape), weight.dtype)
        alive = torch.ones(weight.shape, dtype=torch.bool)
        return weight, None if n is None else Pattern(alive, n, m)
    mask = _unpack_mask(packed, module)
    values = packed.parts["values"]
    _check_shape("the values", values, (int(mask.sum()),), values.dtype)
    rows = torch.zeros(mask.shape, dtype=values.dtype)
    rows[mask] = values
    pattern = Pattern(from_canonical(mask, module), n, m)
    pattern.check(module)
    return from_canonical(rows, module), pattern


def _checked(packed: PackedWeight) -> PackedWeight:
    """Return `packed` if its n and m are numbers that its encoding can have."""
    n, m = packed.n, packed.m
    present = {"ranks": (False, True), "index": (True, True)}.get(packed.encoding)
    found = (n is not None, m is not None)
    if found != present and (present or found[0] != found[1]):
        raise UsageError(f"N = {n} and M = {m} do not go with the encoding {packed.encoding}")
    if m is not None and not (0 <= (m if n is None else n) <= m and 1 <= m <= LARGEST_M):
        raise UsageError(f"N = {n} of M = {m}: wanted 0 <= N <= M and 1 <= M <= {LARGEST_M}")
    return packed


def _unpack_mask(packed: PackedWeight, module: PrunableModule) -> Tensor:
    shape = canonical(module.weight, module).shape
    if packed.n is not None and packed.m is not None and packed.encoding == "index":
        return _from_places(packed.parts["index"], shape, packed.n, packed.m)
    return _from_bits(packed.parts["mask"], shape)


def _unpack_ranks(
    parts: dict[str, Tensor], module: PrunableModule, m: int
) -> tuple[Tensor, SharedRanks]:
    shape = canonical(module.weight, module).shape
    values = parts["values"]
    _check_shape("the values", values, (shape.numel(),), values.dtype)
    _check_shape("the ranks", parts["ranks"], (shape.numel(),), torch.uint8)
    ranked = SharedRanks(from_canonical(parts["ranks"].reshape(shape), module), m)
    ranked.check(module)
    return from_canonical(values.reshape(shape), module), ranked


def _to_bits(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.flatten().numpy(), bitorder="little"))


def _from_bits(packed: Tensor, shape: torch.Size) -> Tensor:
    """Undo `_to_bits`; the bits after the last entry must be 0, so that one mask has one form."""
    entries = shape.numel()
    _check_shape("the bit mask", packed, (-(-entries // 8),), torch.uint8)
    bits = np.unpackbits(packed.numpy(), bitorder="little")
    if bits[entries:].any():
        raise UsageError("the bit mask has bits after its last entry")
    return torch.from_numpy(bits[:entries].astype(np.bool_)).reshape(shape)


def _to_places(mask: Tensor, n: int, m: int) -> Tensor:
    """Write the places of the living entries of canonical `mask`: uint8 [groups, n], rising."""
    groups = in_groups(mask.to(torch.uint8), m, fill=0)
    places = torch.arange(m, dtype=torch.int16).expand_as(groups)
    places = places.masked_fill(groups == 0, NO_PLACE)
    return places.sort(dim=1).values[:, :n].to(torch.uint8)


def _from_places(places: Tensor, shape: torch.Size, n: int, m: int) -> Tensor:
    """Undo `_to_places`; places must rise strictly, stay in their group and have one form."""
    per_row = -(-shape[-1] // m)
    _check_shape("the index", places, (shape[:-1].numel() * per_row, n), torch.uint8)
    wide = places.to(torch.int64)
    rising = (wide[:, 1:] > wide[:, :-1]) | (wide[:, 1:] == NO_PLACE)
    sizes = torch.full((per_row,), m)
    sizes[-1] = shape[-1] - m * (per_row - 1)  # the last group of a row may be short
    inside = (wide < sizes.repeat(shape[:-1].numel())[:, None]) | (wide == NO_PLACE)
    if not (rising.all() and inside.all()):
        raise UsageError("the index has places that do not rise or lie outside their group")
    alive = torch.zeros(len(wide), m + 1, dtype=torch.bool).scatter_(1, wide.clamp(max=m), True)
    return from_groups(alive[:, :m], shape)


def _check_shape(what: str, part: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(part.shape) != shape or part.dtype != dtype:
        raise UsageError(
            f"{what} must be {dtype} and shaped {shape}, not {part.dtype} {tuple(part.shape)}"
        )
