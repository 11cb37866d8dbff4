"""Tiles partition an image, and have the overhead of the papers' tiles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinlens.errors import UsageError
from thinlens.images.tiles import SLS_TILINGS, Box, Tile, Tiling, overhead

sides = st.integers(1, 70)
tilings = st.builds(
    Tiling,
    core=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    margin=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    grid=st.sampled_from([1, 2, 6, 8]),
    full=st.booleans(),
)


def starts_and_stops(box: Box, height: int, width: int) -> list[tuple[int, int, int]]:
    return [(box.top, box.bottom, height), (box.left, box.right, width)]


@given(tilings, sides, sides)
def test_every_pixel_is_in_exactly_one_core(tiling: Tiling, height: int, width: int) -> None:
    count = torch.zeros(height, width)
    for tile in tiling.tiles(height, width):
        count[tile.core.slices_in(Box(0, 0, height, width))] += 1
    assert (count == 1).all()


@given(tilings, sides, sides)
def test_outer_boxes_have_their_margin_on_the_grid(tiling: Tiling, height: int, w: int) -> None:
    for tile in tiling.tiles(height, w):
        core, outer = tile.core, tile.outer
        pairs = zip(
            starts_and_stops(core, height, w), starts_and_stops(outer, height, w), strict=True
        )
        for axis, ((start, stop, length), (first, last, _)) in enumerate(pairs):
            assert 0 <= first <= max(0, start - tiling.margin[axis])
            assert min(length, stop + tiling.margin[axis]) <= last <= length
            assert first % tiling.grid == 0
            assert last % tiling.grid == 0 or last == length
            assert tiling.full or first > start - tiling.margin[axis] - tiling.grid


@given(tilings, sides, sides)
def test_full_tiles_are_equally_large(tiling: Tiling, height: int, width: int) -> None:
    tiles = Tiling(tiling.core, tiling.margin, full=True).tiles(height, width)
    sizes = [c + 2 * m for c, m in zip(tiling.core, tiling.margin, strict=True)]
    assert {(t.outer.height, t.outer.width) for t in tiles} == {
        (min(height, sizes[0]), min(width, sizes[1]))
    }


@given(tilings, st.integers(1, 300), st.integers(1, 300))
def test_balanced_full_tiles_have_few_sizes(tiling: Tiling, height: int, width: int) -> None:
    """An engine plans each: two a side where the grid does not divide it, the last tile's being
    longer, else one."""
    full = replace(tiling, full=True).balanced(height, width)
    tiles = full.tiles(height, width)
    for axis, (length, lengths) in enumerate(
        [(height, {t.outer.height for t in tiles}), (width, {t.outer.width for t in tiles})]
    ):
        assert full.core[axis] <= tiling.core[axis]
        on_grid = tiling.grid <= tiling.core[axis]
        if on_grid:
            assert len(lengths) <= (1 if length % tiling.grid == 0 else 2)


@given(tilings, sides, sides, st.data())
def test_a_core_may_be_cut_again(
    tiling: Tiling, height: int, width: int, data: st.DataObject
) -> None:
    tile = data.draw(st.sampled_from(tiling.tiles(height, width)))
    smaller = tiling.with_half_cores()
    pieces = smaller.tiles(height, width, within=tile.core)
    assert sum(piece.core.area for piece in pieces) == tile.core.area
    assert all(piece.core.height <= smaller.core[0] for piece in pieces)
    count = torch.zeros(height, width)
    for piece in pieces:
        count[piece.core.slices_in(Box(0, 0, height, width))] += 1
    assert (count[tile.core.slices_in(Box(0, 0, height, width))] == 1).all()


@given(tilings, sides, sides)
def test_tile_rows_are_all_tiles_in_order(tiling: Tiling, height: int, width: int) -> None:
    rows = tiling.tile_rows(height, width)
    assert [tile for row in rows for tile in row] == tiling.tiles(height, width)
    for row in rows:
        assert len({(tile.core.top, tile.core.bottom) for tile in row}) == 1
        assert (row[0].core.left, row[-1].core.right) == (0, width)


def inner(tiling: Tiling) -> Tile:
    """A tile that touches no border."""
    height, width = (3 * side for side in tiling.core)
    return tiling.tiles(height, width)[4]


def test_the_tiles_of_sls() -> None:
    """By hand: 2500/2304 and 65436/61440; all 28 tiles of 320x180 padded would be 1.215."""
    sr, deblur = SLS_TILINGS["sr"], SLS_TILINGS["deblur"]
    assert (inner(sr).outer.height, inner(sr).outer.width) == (50, 50)
    assert overhead([inner(sr)]) == pytest.approx(1.0851, abs=5e-5)
    assert (inner(deblur).outer.height, inner(deblur).outer.width) == (246, 266)
    assert overhead([inner(deblur)]) == pytest.approx(1.0650, abs=5e-5)
    assert len(deblur.tiles(720, 1280)) == 15
    tiles = Tiling(sr.core, sr.margin, full=True).tiles(180, 320)
    assert len(tiles) == 28
    assert overhead(tiles) == pytest.approx(1.215, abs=5e-4)
    assert 1 < overhead(sr.tiles(180, 320)) < 1.0851  # clipped at the border


def test_an_image_smaller_than_a_tile_is_one_tile() -> None:
    for full in (False, True):
        tiles = Tiling((48, 48), (8, 8), grid=4, full=full).tiles(5, 7)
        assert tiles == [Tile(Box(0, 0, 5, 7), Box(0, 0, 5, 7))]


@pytest.mark.parametrize("wrong", [{"core": (0, 4)}, {"margin": (0, -1)}, {"grid": 0}])
def test_an_invalid_tiling_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="wanted at least one pixel"):
        Tiling(**{"core": (4, 4), **wrong})  # type: ignore[arg-type]


def test_tiles_of_a_fixed_size_are_slss() -> None:
    """50x50 at stride 48, the last ones shifted inwards; 1280x720 for deblurring in 3x5."""
    tiles = replace(SLS_TILINGS["sr"], full=True, even=False).balanced(180, 320).tiles(180, 320)
    assert len(tiles) == 4 * 7
    assert {(tile.outer.height, tile.outer.width) for tile in tiles} == {(50, 50)}
    assert [tile.core.left for tile in tiles[:7]] == [48 * x for x in range(7)]
    assert {tile.core.top for tile in tiles} == {0, 48, 96, 144}
    even = SLS_TILINGS["sr"].balanced(180, 320).tiles(180, 320)
    assert max(tile.core.height for tile in even) == 45
