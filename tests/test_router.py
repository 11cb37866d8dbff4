"""Tile routing: whole images, exact tiles, exact costs, and the memory of a batch of tiles."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from native_engine import built
from seams import seam_ratio
from thinlens.adaptive import cost_model
from thinlens.adaptive.candidates import Candidate
from thinlens.adaptive.context import RouterContext
from thinlens.adaptive.options import ImageBudget, RoutingOptions
from thinlens.adaptive.route_map import PALETTE, SHARE, draw_route_map
from thinlens.adaptive.router import TileRouter
from thinlens.api import runner
from thinlens.errors import RunError, UsageError
from thinlens.images.pixels import to_uint8
from thinlens.images.reading import read_image
from thinlens.images.rows import InMemoryRowReader
from thinlens.images.tiles import Tiling
from thinlens.images.writing import write_png
from thinlens.models import MODELS, create
from thinlens.restoration.folder import restore_folder
from thinlens.restoration.network import TILE_BATCH, run_tiles
from thinlens.restoration.options import RestoreOptions
from thinlens.restoration.receptive_field import measure_receptive_field
from thinlens.restoration.tiled import restore_image
from thinlens.tasks import make_task

SR = make_task("sr", scale=2)


class Shade:
    """Enlarges by 2 and returns one grey, so that it is seen who restored what."""

    def __init__(self, grey: float) -> None:
        self.grey = grey
        self.calls: list[int] = []

    def __call__(self, tiles: Tensor) -> Tensor:
        self.calls.append(len(tiles))
        return torch.full_like(F.interpolate(tiles, scale_factor=2), self.grey)


def by_brightness(tiles: Tensor) -> Tensor:
    """Call dark tiles easy: there the fallback is as good as the others."""
    bright = (tiles.mean((1, 2, 3)) > 0.5).float()[:, None]
    return torch.cat([-3 - bright, -3 - bright / 2, torch.full_like(bright, -3)], dim=1)


def router_context(
    tiling: Tiling | None = None,
    estimator: Callable[[Tensor], Tensor] = by_brightness,
    channels: int = 3,
) -> RouterContext:
    candidates = [
        Candidate(f"c{index}", Shade(grey), lambda size, c=cost: c * size[0] * size[1])
        for index, (grey, cost) in enumerate([(0.0, 4), (0.5, 2), (1.0, 0)])
    ]
    tiling = tiling or Tiling((8, 8), (1, 1), full=True)
    return RouterContext(candidates, estimator, lambda size: 7, tiling, False, channels)


def halves(height: int = 32, width: int = 32) -> Tensor:
    """Dark on the left, bright on the right."""
    image = torch.zeros(3, height, width)
    image[:, :, width // 2 :] = 1
    return image


def test_every_tile_is_restored_by_the_candidate_of_its_estimate() -> None:
    router = TileRouter(router_context(), RoutingOptions(0.0))
    result = restore_image(router, halves())
    assert result.shape == (3, 64, 64)
    assert (result[..., :32] == 1).all()  # the fallback
    assert (result[..., 32:] == 0).all()  # the most expensive
    assert router.last
    assert router.last.shape == (4, 4)
    assert router.last.routes.tolist() == [2, 2, 0, 0] * 4
    np.testing.assert_allclose(router.last.errors[2], [1e-4, 10**-3.5, 1e-3], rtol=1e-6)


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 0.2, 0.8, 50.0]))
def test_any_size_is_whole_and_its_cost_is_exact(height: int, width: int, beta: float) -> None:
    """No border is cropped, no pixel is left out, and the cost is the sum of the tiles'."""
    context = router_context()
    router = TileRouter(context, RoutingOptions(beta))
    image = halves(height, width)
    result = restore_image(router, image)
    assert result.shape == (3, 2 * height, 2 * width)
    assert set(result.unique().tolist()) <= {0.0, 0.5, 1.0}
    last = router.last
    assert last
    tiles = context.tiling.balanced(height, width).tiles(height, width)
    assert len(last.routes) == len(tiles) == last.shape[0] * last.shape[1]
    costs = [(4, 2, 0)[route] * t.outer.area for route, t in zip(last.routes, tiles, strict=True)]
    assert last.macs == sum(costs) + 7 * len(tiles)
    greys = result[0, [2 * t.core.top for t in tiles], [2 * t.core.left for t in tiles]]
    assert greys.tolist() == [(0.0, 0.5, 1.0)[route] for route in last.routes]
    if beta == 50.0:
        assert (last.routes == 2).all()


@pytest.mark.parametrize("rule", ["equation-8", "lagrange"])
@pytest.mark.parametrize("fraction", [0.2, 0.31, 0.5, 0.8])
def test_a_budget_is_met_within_one_percent(rule: str, fraction: float) -> None:
    noise = np.random.default_rng(0)

    def random(tiles: Tensor) -> Tensor:
        draw = np.sort(noise.uniform(-4, -2, (len(tiles), 3)), axis=1)
        return torch.from_numpy(draw)

    router = TileRouter(
        router_context(estimator=random),
        RoutingOptions(budget=ImageBudget(fraction=fraction), rule=rule),
    )
    restore_image(router, halves(160, 160))
    assert router.last
    most_expensive = 4 * 160 * 160
    assert router.last.macs == pytest.approx(fraction * most_expensive, rel=0.01)
    assert router.last.macs <= fraction * most_expensive


def test_the_error_of_a_budget_out_of_range_has_the_range() -> None:
    router = TileRouter(router_context(), RoutingOptions(budget=ImageBudget.read("20")))
    with pytest.raises(UsageError, match=r"a budget of 20 multiply-adds: this image takes 112 at"):
        restore_image(router, halves())


def test_budgets_are_read() -> None:
    assert ImageBudget.read("6G") == ImageBudget(macs=6e9)
    assert ImageBudget.read("1.5M").resolve(10) == 1.5e6
    assert ImageBudget.read("30%").resolve(50) == 15
    assert ImageBudget.read("40ms").resolve(50) == 40
    for text in ("", "0", "-3G", "6 apples", "0%", "1e9G"):
        with pytest.raises(UsageError, match="--image-budget"):
            ImageBudget.read(text)


def test_prices_in_milliseconds_never_rise_towards_cheaper_candidates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context, size, calls = router_context(), (10, 10), []
    monkeypatch.setattr(
        cost_model, "_measured", lambda *_: calls.append(1) or [0.3, 0.1, 0.2, 0.05]
    )
    found = [
        cost_model.latency_model(context.candidates, context.estimator, size, 3, f"a test {number}")
        for number in (0, 0, 1)
    ]
    assert len(calls) == 2  # the same is measured once
    for one in found:
        np.testing.assert_allclose(one.table([size, (5, 10)]), [[300, 200, 200], [150, 100, 100]])
        assert one.estimator(size) == pytest.approx(50)


def test_contradictory_options_are_refused() -> None:
    for beta in (-0.1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="--beta"):
            RoutingOptions(beta)
    with pytest.raises(UsageError, match="--rule 'best'"):
        RoutingOptions(rule="best")
    with pytest.raises(UsageError, match="lagrange has no beta"):
        RoutingOptions(rule="lagrange")
    with pytest.raises(UsageError, match="--blend 2: wanted 0 to 1, the margin"):
        TileRouter(router_context(), RoutingOptions(), blend=2)


def test_tiles_are_batched_by_candidate_and_no_batch_grows_with_the_image() -> None:
    context = router_context()
    restore_image(TileRouter(context, RoutingOptions(0.0)), halves(8, 800))
    most_expensive, _, fallback = (c.network.calls for c in context.candidates)  # type: ignore[attr-defined]
    for calls in (most_expensive, fallback):
        calls.remove(1)  # noise on which the scale of small tiles is confirmed
    assert sum(most_expensive) == sum(fallback) == 50
    assert max(most_expensive) == max(fallback) == TILE_BATCH
    assert len(most_expensive) == -(-50 // TILE_BATCH)


def test_without_an_estimate_the_most_expensive_restores_and_flat_tiles_cost_nothing() -> None:
    def unknown(tiles: Tensor) -> Tensor:
        return torch.full((len(tiles), 3), float("nan"))

    def flat(tiles: Tensor) -> Tensor:
        return torch.full((len(tiles), 3), -8.0)

    for estimator, grey in ((unknown, 0.0), (flat, 1.0)):
        router = TileRouter(router_context(estimator=estimator), RoutingOptions(0.3))
        assert (restore_image(router, halves()) == grey).all()


def test_colours_are_routed_together_through_grey_networks() -> None:
    router = TileRouter(router_context(channels=1), RoutingOptions(0.0))
    result = restore_image(router, halves())
    assert result.shape == (3, 64, 64)
    assert router.last
    assert router.last.routes.tolist() == [2, 2, 0, 0] * 4
    assert router.last.macs == 3 * (8 * 4 * 100 + 16 * 7)


class FullMemory:
    """Takes two tiles at once and no more."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, tiles: Tensor) -> Tensor:
        if len(tiles) > self.most:
            raise torch.OutOfMemoryError("no")
        return F.interpolate(tiles, scale_factor=2)


def test_out_of_memory_halves_the_batch() -> None:
    tiles = torch.rand(13, 3, 4, 4)
    assert torch.equal(run_tiles(FullMemory(2), tiles), F.interpolate(tiles, scale_factor=2))
    with pytest.raises(RunError, match="a tile of 4x4 does not fit"):
        run_tiles(FullMemory(0), tiles)


# --- Exact tiles, seams ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torch", pytest.param("native", marks=built)])
@pytest.mark.parametrize("name", ["edsr", "rfdn", "dncnn-20-rgb"])
def test_one_candidate_with_its_margin_equals_the_whole_image(name: str, engine: str) -> None:
    torch.manual_seed(0)
    network = create(name, **MODELS[name].tiny).eval()
    field = measure_receptive_field(network, 3)
    assert field.exact
    side = max(16, field.margin // 2)
    tiling = Tiling((side, side), (field.margin,) * 2, field.grid, full=True)
    run = runner(network, engine)
    only = Candidate(name, run, lambda size: 1)

    def sure(tiles: Tensor) -> Tensor:
        return torch.full((len(tiles), 1), -3.0)

    router = TileRouter(
        RouterContext([only], sure, lambda size: 0, tiling, True, 3), RoutingOptions()
    )
    image = F.avg_pool2d(torch.rand(1, 3, 2 * side + 9, 3 * side + 4), 3, 1)[0]
    routed, whole = (to_uint8(restore_image(x, image)).int() for x in (router, run))
    assert router.last
    assert len(router.last.routes) > 4
    assert (routed - whole).abs().max() <= 1
    assert (routed != whole).sum() <= max(1, routed.numel() // 100_000)


def test_blending_softens_seams_and_keeps_the_size() -> None:
    tiling = Tiling((8, 8), (4, 4), full=True)
    context = router_context(tiling)
    tiles = tiling.balanced(32, 32).tiles(32, 32)
    hard, soft = (
        restore_image(TileRouter(context, RoutingOptions(0.0), b), halves()) for b in (0, 4)
    )
    assert hard.shape == soft.shape
    assert seam_ratio(soft, tiles, 2) < seam_ratio(hard, tiles, 2) / 2
    same = restore_image(TileRouter(context, RoutingOptions(50.0), 4), halves())
    torch.testing.assert_close(same, torch.ones_like(same))


class Counted(InMemoryRowReader):
    """Remembers the most rows that were asked for at once."""

    most = 0

    def rows(self, top: int, bottom: int) -> Tensor:
        self.most = max(self.most, bottom - top)
        return super().rows(top, bottom)

    def again(self) -> Counted:
        return self


@pytest.mark.parametrize(
    "options", [RoutingOptions(0.0), RoutingOptions(budget=ImageBudget(fraction=0.5))]
)
def test_only_a_batch_of_tiles_is_read_at_once(options: RoutingOptions) -> None:
    """Memory of a higher image grows by its result alone."""
    for height in (40, 400):
        image = Counted(halves(height, 24))
        router = TileRouter(router_context(), options)
        bands = list(router.bands(image, to_uint8))
        assert image.most <= 6 * 8 + 2  # six bands of three tiles are a batch
        assert max(band.shape[1] for band in bands) <= 2 * 6 * 8
        assert sum(band.shape[1] for band in bands) == 2 * height


# --- Folders and maps -----------------------------------------------------------------------------


def test_the_manifest_holds_every_estimate_and_route(tmp_path: Path) -> None:
    write_png(tmp_path / "in" / "a.png", to_uint8(halves()))
    context = router_context()

    def run(options: RoutingOptions) -> tuple[int, int]:
        outcome = restore_folder(
            TileRouter(context, options), SR, tmp_path / "in", tmp_path / "out"
        )
        return outcome.done, outcome.skipped

    assert run(RoutingOptions(0.0)) == (1, 0)
    assert run(RoutingOptions(0.0)) == (0, 1)
    assert run(RoutingOptions(0.5)) == (1, 0)  # another beta gives another image
    lines = [json.loads(x) for x in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    routes = lines[0]["routes"]
    assert routes["route"] == [2, 2, 0, 0] * 4
    assert routes["errors"][2] == [1e-4, 0.0003162, 1e-3]
    assert (routes["tiles"], routes["beta"], routes["rule"]) == ([4, 4], 0.0, "equation-8")
    assert routes["candidates"] == ["c0", "c1", "c2"]
    assert routes["macs"] == 8 * 4 * 100 + 16 * 7
    assert lines[0]["seconds"] >= 0
    context = replace(context, estimator_names=("another estimator", ""))
    assert run(RoutingOptions(0.5)) == (1, 0)


def test_the_map_colours_the_tiles_of_networks(tmp_path: Path) -> None:
    write_png(tmp_path / "in" / "a.png", to_uint8(halves()))
    router = TileRouter(router_context(), RoutingOptions(0.0))

    def picture(result: Path, target: Path) -> None:
        assert router.last
        draw_route_map(result, target, router.last, router_context().tiling)

    options = RestoreOptions(picture=picture)
    restore_folder(router, SR, tmp_path / "in", tmp_path / "out", options=options)
    seen = read_image(tmp_path / "out" / "a.routes.png")
    assert (seen[..., :32] == 255).all()
    inside = torch.tensor([round(SHARE * value) for value in PALETTE[0]], dtype=torch.uint8)
    assert torch.equal(seen[:, 5, 40], inside)
    assert seen[:, 5, 48].tolist() == list(PALETTE[0])  # a tile begins
    write_png(tmp_path / "in" / "a.routes.png", to_uint8(halves()))
    with pytest.raises(UsageError, match=r"a\.routes\.png is a result"):
        restore_folder(router, SR, tmp_path / "in", tmp_path / "out", options=options)


def test_a_network_that_returns_nan_is_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=2) * float("nan")

    with pytest.raises(RunError, match="NaN"):
        run_tiles(Broken(), torch.rand(2, 3, 4, 4))
