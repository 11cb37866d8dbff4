"""Packing is lossless bit for bit, and in the fewest bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from small_layers import bits, layers, masks, zeroed
from thinlens.checkpoints.packing import NO_POSITION, PackedWeight, pack, unpack
from thinlens.errors import UsageError
from thinlens.sparsity.layout import PrunableModule
from thinlens.sparsity.pattern import Pattern, SharedRanks
from thinlens.sparsity.ranks import magnitude_ranks

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
PATTERN_12 = torch.tensor([1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1], dtype=torch.bool)[None]
"""Groups of 4: 1, 2 and 1 kept."""


def strange(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Any bits at all: -0.0, denormals, infinities and NaN with payloads among them."""
    size = weight.numel() * weight.itemsize
    raw = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
    return raw.view(weight.dtype).reshape(weight.shape)


def structure_equal(one: Pattern | SharedRanks | None, other: Pattern | SharedRanks) -> bool:
    if isinstance(one, SharedRanks) and isinstance(other, SharedRanks):
        return one.m == other.m and torch.equal(one.ranks, other.ranks)
    if isinstance(one, Pattern) and isinstance(other, Pattern):
        return (one.n, one.m) == (other.n, other.m) and torch.equal(one.mask, other.mask)
    return False


@given(layers(), st.data(), st.sampled_from(DTYPES))
def test_weight_and_mask_come_back_bit_for_bit(
    layer: PrunableModule, data: st.DataObject, dtype: torch.dtype
) -> None:
    pattern = data.draw(masks(layer))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    weight = zeroed(strange(layer.weight.detach().to(dtype), generator), pattern.mask)
    packed = pack(weight, layer, pattern)
    back, structure = unpack(packed, layer)
    assert back.dtype == dtype
    assert bits(back) == bits(weight)
    assert structure_equal(structure, pattern)


@given(layers(), st.data())
def test_the_smallest_encoding_is_taken(layer: PrunableModule, data: st.DataObject) -> None:
    pattern = data.draw(masks(layer))
    entries = layer.weight.numel()
    sizes = {"bitmask": 4 * pattern.kept + -(-entries // 8)}
    if pattern.n is not None and pattern.m is not None:
        inputs = inputs_of(layer)
        groups = entries // inputs * -(-inputs // pattern.m)
        sizes["index"] = 4 * pattern.kept + groups * pattern.n
        if pattern.mask.all():
            sizes["dense"] = 4 * entries
    packed = pack(layer.weight, layer, pattern)
    assert packed.bytes == min(sizes.values()) == sizes[packed.encoding]


def inputs_of(layer: PrunableModule) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels // layer.groups


@given(layers(), st.sampled_from((1, 3, 8, 255)))
def test_ranks_come_back(layer: PrunableModule, m: int) -> None:
    ranked = SharedRanks(magnitude_ranks(layer.weight, layer, m), m)
    packed = pack(layer.weight, layer, ranked)
    back, structure = unpack(packed, layer)
    assert packed.encoding == "ranks"
    assert packed.bytes == 5 * layer.weight.numel()
    assert bits(back) == bits(layer.weight)
    assert structure_equal(structure, ranked)


@pytest.mark.parametrize(
    ("n", "m", "encoding"),
    [(1, 32, "index"), (3, 32, "index"), (4, 32, "bitmask"), (2, 4, "bitmask"), (32, 32, "dense")],
)
def test_which_encoding_wins(n: int, m: int, encoding: str) -> None:
    layer = nn.Conv2d(64, 8, 3)
    ranked = magnitude_ranks(layer.weight, layer, m)
    assert pack(layer.weight, layer, Pattern(ranked <= n, n, m)).encoding == encoding


def test_the_bit_order() -> None:
    """Entry i is bit i % 8 of byte i // 8, in canonical order."""
    layer = nn.Linear(12, 1)
    packed = pack(torch.arange(1.0, 13)[None], layer, Pattern(PATTERN_12))
    assert packed.tensors["mask"].tolist() == [0b00110001, 0b1000]
    assert packed.tensors["values"].tolist() == [1, 5, 6, 12]


def test_the_positions_of_a_group_that_is_not_full() -> None:
    layer = nn.Linear(64, 1)
    mask = torch.zeros(1, 64, dtype=torch.bool)
    mask[0, [3, 33]] = True
    packed = pack(torch.arange(64.0)[None], layer, Pattern(mask, 2, 32))
    assert packed.encoding == "index"
    assert packed.tensors["index"].tolist() == [[3, NO_POSITION], [1, NO_POSITION]]
    back, structure = unpack(packed, layer)
    assert back.nonzero()[:, 1].tolist() == [3, 33]
    assert structure_equal(structure, Pattern(mask, 2, 32))


def test_a_kept_zero_is_not_a_pruned_one() -> None:
    layer = nn.Linear(2, 1)
    mask = torch.tensor([[True, False]])
    back, structure = unpack(pack(torch.tensor([[-0.0, 0.0]]), layer, Pattern(mask, 1, 2)), layer)
    assert structure_equal(structure, Pattern(mask, 1, 2))
    assert bits(back) == bits(torch.tensor([[-0.0, 0.0]]))


def bytes_of(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.uint8)


VALUES = torch.arange(1.0, 5)
BITS = PackedWeight("bitmask", None, None, {"mask": bytes_of(0b00110001, 0b1000), "values": VALUES})
POSITIONS = torch.tensor([[0, NO_POSITION], [0, 1], [3, NO_POSITION]], dtype=torch.uint8)
INDEX = PackedWeight("index", 2, 4, {"index": POSITIONS, "values": VALUES})
RANKED = bytes_of(*(1, 2, 3, 4) * 3)
RANKS = PackedWeight("ranks", None, 4, {"ranks": RANKED, "values": torch.arange(12.0)})
DENSE = PackedWeight("dense", 4, 4, {"": torch.ones(1, 12)})


def with_part(packed: PackedWeight, name: str, part: Tensor) -> PackedWeight:
    return replace(packed, tensors={**packed.tensors, name: part})


def with_positions(*changes: tuple[int, int, int]) -> PackedWeight:
    positions = POSITIONS.clone()
    for group, at, position in changes:
        positions[group, at] = position
    return with_part(INDEX, "index", positions)


@pytest.mark.parametrize("packed", [BITS, INDEX, RANKS, DENSE])
def test_the_undamaged_are_read(packed: PackedWeight) -> None:
    weight, structure = unpack(packed, nn.Linear(12, 1))
    again = pack(weight, nn.Linear(12, 1), structure or Pattern(weight != 0))
    assert weight.shape == (1, 12)
    assert torch.equal(again.tensors.get("values", VALUES), packed.tensors.get("values", VALUES))


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        (with_part(BITS, "mask", bytes_of(0b00110001, 0b11000)), "after its last entry"),
        (with_part(BITS, "mask", bytes_of(0b00110001)), "bit mask must be"),
        (with_part(BITS, "mask", bytes_of(0b00110001, 0b1000, 0)), "bit mask must be"),
        (with_part(BITS, "mask", bytes_of(0b00110001, 0b1000)[None]), "bit mask must be"),
        (with_part(BITS, "mask", torch.ones(2)), "bit mask must be"),
        (with_part(BITS, "mask", bytes_of(0b00110001, 0b1001)), "values must be"),
        (with_part(BITS, "values", VALUES[:3]), "values must be"),
        (with_part(BITS, "values", VALUES[None]), "values must be"),
        (replace(BITS, n=1, m=4), "keeps 2 weights, more than N = 1"),
        (replace(BITS, n=1), "do not match"),
        (replace(BITS, m=4), "do not match"),
        (replace(BITS, n=-1, m=4), "0 <= N <= M"),
        (replace(BITS, n=0, m=4), "more than N = 0"),
        (replace(BITS, n=5, m=4), "0 <= N <= M"),
        (replace(BITS, n=2, m=256), "0 <= N <= M"),
        (replace(BITS, n=10**30, m=10**40), "0 <= N <= M"),
        (with_positions((0, 0, 4)), "positions"),
        (with_positions((0, 1, 0)), "positions"),
        (with_positions((1, 0, 1), (1, 1, 0)), "positions"),
        (with_positions((1, 1, 0)), "positions"),
        (with_positions((0, 0, NO_POSITION), (0, 1, 0)), "positions"),
        (with_positions((0, 1, 2)), "values must be"),
        (with_part(INDEX, "index", POSITIONS[:2]), "index must be"),
        (with_part(INDEX, "index", POSITIONS[:, :1]), "index must be"),
        (with_part(INDEX, "index", POSITIONS.long()), "index must be"),
        (replace(INDEX, n=1), "index must be"),
        (replace(INDEX, m=5), "more|positions|values"),
        (replace(INDEX, n=None, m=None), "do not match"),
        (with_part(RANKS, "ranks", bytes_of(*(1, 2, 3, 3) * 3)), "no permutation"),
        (with_part(RANKS, "ranks", RANKED[:11]), "ranks must be"),
        (with_part(RANKS, "values", torch.arange(11.0)), "values must be"),
        (replace(RANKS, m=3), "no permutation"),
        (replace(RANKS, m=0), "0 <= N <= M"),
        (replace(RANKS, m=None), "do not match"),
        (replace(RANKS, n=1), "do not match"),
        (with_part(DENSE, "", torch.ones(12)), "weight must be"),
        (replace(DENSE, n=None), "do not match"),
    ],
)
def test_whatever_does_not_fit_is_refused(packed: PackedWeight, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        unpack(packed, nn.Linear(12, 1))


def test_a_short_last_group_has_no_positions_after_its_end() -> None:
    """Of 5 channels in groups of 4, the second group has one position."""
    layer = nn.Linear(5, 1)
    good = PackedWeight("index", 1, 4, {"index": bytes_of(3, 0)[:, None], "values": VALUES[:2]})
    assert unpack(good, layer)[0].tolist() == [[0, 0, 0, 1, 2]]
    with pytest.raises(UsageError, match="positions"):
        unpack(with_part(good, "index", bytes_of(3, 1)[:, None]), layer)


def test_a_pattern_that_cannot_be_stored_is_refused() -> None:
    layer = nn.Linear(300, 1)
    kept = torch.ones(1, 300, dtype=torch.bool)
    with pytest.raises(UsageError, match="M = 300"):
        pack(layer.weight, layer, Pattern(kept, 300, 300))
    with pytest.raises(UsageError, match="do not match"):
        pack(layer.weight, layer, Pattern(kept, 1, None))
