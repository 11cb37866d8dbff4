"""Bands of rows give the bits of whole images, in memory that does not grow with the height."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from native_engine import BF16, CORE, KERNELS, built
from test_engine import NETWORKS, Odd, tiny
from test_engine_streaming import HALO, ROWS, ran, two_steps
from thinlens.engine import bands
from thinlens.engine import plan as plans
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.errors import UsageError
from thinlens.models import MODELS
from thinlens.restoration import memory
from thinlens.restoration.tiled import restore_image

pytestmark = built

WHOLE = 1 << 40
"""Bytes below which no network of these tests runs by bands."""

ROLLING = {"edsr", "carn", "rfdn", "dncnn-17", "srvgg", "rrdb"}
"""Networks of which no operation needs a whole tensor."""


@pytest.fixture(autouse=True)
def everything_by_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "BAND_BYTES", 0)
    monkeypatch.setattr(plans, "BAND_ROWS", 5)


def whole(fast: Compiled, image: Tensor) -> Tensor:
    """Run an image without bands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "BAND_BYTES", WHOLE)
        return fast(image)


def joined(fast: Compiled, image: Tensor) -> Tensor:
    return torch.cat(list(fast.bands(image)), dim=2)


@pytest.mark.parametrize("kernels", [*KERNELS[-1:], *BF16])
@pytest.mark.parametrize("name", [*NETWORKS, "odd"])
def test_bands_change_no_bit(name: str, kernels: str) -> None:
    torch.manual_seed(0)
    module = Odd().eval() if name == "odd" else tiny(name)
    channels = 2 if name == "odd" else MODELS[name].channels
    for height, width in ((73, 30),):
        image = torch.rand(1, channels, height, width)
        expected = whole(Compiled(module, 1, kernels), image)
        for threads in (1, 2):
            fast = Compiled(module, threads, kernels)
            assert torch.equal(fast(image), expected)
            assert torch.equal(joined(fast, image), expected)
            assert torch.equal(joined(fast, image), expected)
    if name in ROLLING:
        assert fast.plan(Size(channels, 47, 30)).is_banded


@settings(max_examples=8)
@given(st.integers(1, 90), st.integers(1, 40), st.integers(1, 3))
def test_images_of_any_size_run_by_bands(height: int, width: int, threads: int) -> None:
    image = torch.rand(1, 3, height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "BAND_BYTES", 0)
        patch.setattr(plans, "BAND_ROWS", 5)
        fast = Compiled(RFDN, threads)
        assert fast.plan(Size(3, height, width)).is_banded
        rows = joined(fast, image)
    assert torch.equal(rows, whole(Compiled(RFDN, threads), image))


RFDN = tiny("rfdn")


def test_memory_does_not_grow_with_the_height() -> None:
    fast = Compiled(RFDN, 2)
    low, high = (fast.plan(Size(3, height, 40)).bytes for height in (400, 900))
    assert high == low


def test_no_row_block_computes_much_more_than_another() -> None:
    """Neither the first one, which needs rows ahead of it, nor the last one."""
    plan = Compiled(RFDN, 1).plan(Size(3, 300, 40))
    assert plan._strip is not None
    steps = np.diff(plan._strip, axis=0)
    assert (steps >= 0).all() and steps.max() <= 12
    assert [rows.start for _, rows in plan.bands()][1:] == [r.stop for _, r in plan.bands()][:-1]


def test_what_is_computed_twice_takes_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFDN's first features are added at its end, its attention's at the end of each block."""
    image, size = torch.rand(1, 3, 150, 20), Size(3, 150, 20)
    results, plans_by_share = [], []
    for share in (0.0, 1.0):
        monkeypatch.setattr(bands, "MAX_RECOMPUTED", share)
        fast = Compiled(RFDN, 1)
        results.append(joined(fast, image))
        plans_by_share.append(fast.plan(size))
    once, twice = plans_by_share
    assert torch.equal(*results)
    assert twice.bytes < 0.9 * once.bytes and len(twice.steps) == len(once.steps) + 3


def test_another_image_ends_the_bands_of_the_last_one() -> None:
    image = torch.rand(1, 3, 60, 20)
    for other in (lambda: RFDN_FAST(image), lambda: next(RFDN_FAST.bands(image))):
        rows = RFDN_FAST.bands(image)
        next(rows)
        other()
        with pytest.raises(UsageError, match="another image"):
            next(rows)


RFDN_FAST = Compiled(RFDN, 1)


def test_a_network_that_needs_whole_tensors_runs_as_one_band() -> None:
    fast = Compiled(tiny("gcanet"), 1)
    image = torch.rand(1, 3, 40, 32)
    (band,) = fast.bands(image)
    assert torch.equal(band, fast(image)) and not fast.can_roll


def test_tiles_with_positions_run_beside_bands() -> None:
    image = torch.rand(3, 70, 60)
    tiles = restore_image(Compiled(RFDN, 1), image, tile=24)
    torch.testing.assert_close(tiles, restore_image(RFDN, image), rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", [(3, 70, 60), (3, 17, 90)])
def test_large_images_are_not_cut(shape: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SMALL", 8)
    monkeypatch.setattr(memory, "TILE_BYTES", 2**22)
    image = torch.rand(*shape)
    fast = Compiled(RFDN, 1)
    expected = whole(Compiled(RFDN, 1), image[None])[0].clamp(0, 1)
    assert torch.equal(restore_image(fast, image), expected)


# The core.


def wrapped(rows: int, wrap: int, blocks: list[list[int]]) -> Any:
    return two_steps(rows, [blocks], wrap=wrap)


@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_buffers_that_wrap_give_the_same_bits(block: int, ahead: int, spare: int) -> None:
    ends = [*range(0, ROWS, block), ROWS]
    blocks = [[0, 0], *([min(ROWS, end + 1 + ahead), end] for end in ends[1:])]
    blocks[-1] = [ROWS, ROWS]
    first = max(blocks[1][0], 2)
    touched = max(block + 2 * HALO, first + 2 * HALO)
    wrap = min(touched + ahead + spare, ROWS + 2 * HALO)
    rows = wrap + touched - 1
    if rows > ROWS + 2 * HALO:
        return
    assert np.array_equal(ran(wrapped(rows, wrap, blocks)), ran(two_steps(0, None)))


BLOCKS = [[0, 0], *([min(ROWS, end + 1), end] for end in range(1, ROWS + 1))]


@pytest.mark.parametrize(
    ("rows", "wrap", "sentence"),
    [
        (5, 6, "out of range"),
        (5, -1, "out of range"),
        (10, 2, "no room in a line buffer: it needs"),
        (6, 5, "past its wrap: it touches"),
    ],
)
def test_wrong_wraps_are_refused(rows: int, wrap: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        wrapped(rows, wrap, BLOCKS)


def test_row_blocks_run_in_order() -> None:
    plan = RFDN_FAST.plan(Size(3, 40, 20))
    image, output = torch.rand(1, 3, 40, 20).numpy(), np.empty((1, 3, 160, 80), np.float32)
    (first, rows), (second, _), *_ = plan.bands()

    def run(begin: int, end: int, top: int = 0) -> None:
        plan.program.run_blocks(RFDN_FAST.pool, image, output, begin, end, top)

    run(first.start, first.stop)
    for begin, end in ((0, 0), (-1, 1), (second.start + 1, second.stop), (0, 10**6)):
        with pytest.raises(ValueError, match="in order"):
            run(begin, end)
    with pytest.raises(ValueError, match="begins below"):
        run(second.start, second.stop, rows.stop + 1)


def test_a_program_of_several_groups_does_not_run_by_row_blocks() -> None:
    program = two_steps(0, None)
    image = np.zeros((1, 2, ROWS, 16), np.float32)
    with pytest.raises(ValueError, match="one fused group"):
        program.run_blocks(CORE.ThreadPool(1), image, image.copy(), 0, 1, 0)
