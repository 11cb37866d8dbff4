"""Tiled inference equals the whole image, in the memory of one tile, also when memory runs out."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from cli_cases import images, run, sr_checkpoint
from native_engine import built
from seams import seam_ratio
from thinlens import engine
from thinlens.errors import RunError, UsageError
from thinlens.images.pixels import to_uint8
from thinlens.images.rows import InMemoryRowReader
from thinlens.images.stitching import TileStitcher
from thinlens.images.tiles import Tiling
from thinlens.models import MODELS, create
from thinlens.restoration import tiled
from thinlens.restoration.folder import restore_folder
from thinlens.restoration.options import RestoreOptions
from thinlens.restoration.receptive_field import ReceptiveField, measure_receptive_field
from thinlens.restoration.tiled import Tiler, restore_image
from thinlens.tasks import make_task


@functools.cache
def tiny(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create(name, **MODELS[name].tiny).eval()


@functools.cache
def receptive_field(name: str) -> ReceptiveField:
    return measure_receptive_field(tiny(name), MODELS[name].channels)


def tiler(name: str, tile: int, network: Callable[[Tensor], Tensor] | None = None) -> Tiler:
    """A tiler whose receptive field is measured once for all tests."""
    made = Tiler(network or tiny(name), MODELS[name].channels, tile=tile)
    made.__dict__["receptive_field"] = receptive_field(name)
    return made


def whole_of(network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(image[None])[0].clamp(0, 1)


def joined(made: Tiler, image: Tensor) -> Tensor:
    return torch.cat(list(made.bands(InMemoryRowReader(image), torch.Tensor.contiguous)), dim=1)


def smooth(channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    rough = torch.rand(1, channels, height + 2, width + 2, generator=generator)
    return F.avg_pool2d(rough, 3, 1)[0]


# --- Tiles equal the whole ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, net in MODELS.items() if net.output_kind == "image"])
def test_tiles_equal_the_whole_image(name: str) -> None:
    field = receptive_field(name)
    if not field.exact:
        assert "may differ" in field.sentence()
        return
    side = field.margin + 13
    for height, width in [(2 * side + 7, 3 * side + 5), (side, 5), (1, 2 * side + 1)]:
        image = smooth(MODELS[name].channels, height, width)
        whole, tiles = whole_of(tiny(name), image), joined(tiler(name, side), image)
        torch.testing.assert_close(tiles, whole, rtol=0, atol=1e-6)
        steps = (to_uint8(tiles).int() - to_uint8(whole).int()).abs()
        assert steps.max() <= 1
        assert steps.sum() <= math.ceil(steps.numel() / 100_000)


def test_the_networks_that_tiles_must_fit_are_exact() -> None:
    """The test above accepts inexact networks; these must stay exact."""
    for name in ("edsr", "carn", "rfdn", "rfdn-aim", "dncnn-17", "dncnn-20", "dncnn-20-rgb"):
        assert receptive_field(name).exact, receptive_field(name)


@built
@pytest.mark.parametrize("name", ["edsr", "dncnn-20-rgb", "rfdn"])
def test_the_native_engine_runs_tiles(name: str) -> None:
    image, fast = smooth(3, 61, 83), engine.compile(tiny(name), threads=1)
    made = tiler(name, 32, fast)
    torch.testing.assert_close(joined(made, image), whole_of(fast, image), rtol=0, atol=1e-6)
    assert made.used == 32


def test_an_image_that_is_no_larger_than_a_tile_goes_through_whole() -> None:
    image, made = smooth(3, 9, 20), Tiler(tiny("edsr"), 3, tile=20)
    assert torch.equal(joined(made, image), whole_of(tiny("edsr"), image))
    assert made.used is None
    assert "receptive_field" not in made.__dict__  # nothing had to be measured


def test_colours_go_through_a_grey_network_in_tiles() -> None:
    image = smooth(3, 30, 31)
    whole = torch.cat([whole_of(tiny("dncnn-17"), image[c : c + 1]) for c in range(3)])
    torch.testing.assert_close(joined(tiler("dncnn-17", 12), image), whole, rtol=0, atol=1e-6)


# --- What a network needs around a tile -----------------------------------------------------------


@pytest.mark.parametrize("kernels", [(3,), (5, 3), (1,), (3, 3, 7)])
def test_the_radius_is_that_of_the_kernels(kernels: tuple[int, ...]) -> None:
    layers = [nn.Conv2d(1, 1, kernel, padding=kernel // 2) for kernel in kernels]
    with torch.no_grad():
        layers[0].weight.zero_()  # zero weights count
    field = measure_receptive_field(nn.Sequential(*layers), 1)
    assert (field.radius, field.grid, field.exact) == (sum(k // 2 for k in kernels), 1, True)


class Strided(nn.Module):
    """Pads to a multiple of its stride, goes down and up again, and cuts."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stride = stride
        self.down = nn.Conv2d(1, 4, stride, stride)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 1, stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padding = (0, -width % self.stride, 0, -height % self.stride)
        y = self.up(self.body(self.down(F.pad(x, padding, mode="replicate"))))
        return y[..., :height, :width]


@pytest.mark.parametrize("stride", [2, 3, 8])
def test_tiles_of_a_strided_network_begin_on_its_grid(stride: int) -> None:
    network = Strided(stride)
    field = measure_receptive_field(network, 1)
    assert (field.grid, field.radius, field.exact) == (stride, stride, True)
    image = smooth(1, 61, 47)
    tiles = restore_image(network, image, tile=17)
    torch.testing.assert_close(tiles, whole_of(network, image), rtol=0, atol=1e-6)


class Balanced(nn.Module):
    """Takes the mean of the whole image away."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean((2, 3), keepdim=True) + 0.5


def test_a_network_that_depends_on_the_whole_image_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    field = measure_receptive_field(Balanced(), 1)
    assert field.radius is None
    assert not field.exact
    assert 0 < field.error < 1
    restore_image(Balanced(), smooth(1, 70, 70), tile=40)
    assert "looks at the whole image: tiles with a margin of 32 may differ" in caplog.text


# --- Memory ---------------------------------------------------------------------------------------


def test_compute_memory_does_not_grow_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak bytes of the activations against the area: the fitted slope is zero."""
    from torch.nn.modules.module import register_module_forward_hook

    from thinlens.restoration.memory import _ActivationBytes

    sides, peaks = (96, 128, 192, 256), []
    receptive_field("dncnn-17")  # its measurement takes memory once
    for side in sides:
        activations = _ActivationBytes()
        hook = register_module_forward_hook(activations.add)
        try:
            for _ in tiler("dncnn-17", 32).bands(
                InMemoryRowReader(smooth(1, side, side)), to_uint8
            ):
                pass
        finally:
            hook.remove()
        peaks.append(activations.peak)
    slope = np.polyfit([side**2 for side in sides], peaks, 1)[0]
    assert abs(slope) < 1e-6  # bytes a pixel; the whole image would take 64
    assert peaks[0] == peaks[-1]


def test_large_images_are_cut_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    from thinlens.restoration import memory, memory_budget

    made, image = tiler("dncnn-17", 1), smooth(1, 300, 310)
    made._tile = None
    needed = memory.peak_bytes(tiny("dncnn-17"), torch.Size((1, 1, 300, 310)))
    monkeypatch.setattr(memory_budget, "available_bytes", lambda device: needed // 2)
    tiles = joined(made, image)
    assert made.used is not None
    assert made.used % memory.STEP == 0
    assert (made.used + 2 * receptive_field("dncnn-17").margin) ** 2 <= 300 * 310 / 4
    torch.testing.assert_close(tiles, whole_of(tiny("dncnn-17"), image), rtol=0, atol=1e-6)
    monkeypatch.setattr(memory_budget, "available_bytes", lambda device: 4 * needed)
    joined(made, image)
    assert made.used is None


class Full:
    """Runs a network, but is out of memory at one call, or wherever an image is too large."""

    def __init__(self, network: nn.Module, error: Exception, *, call: int = 0, most: int = 0):
        self.network, self.error, self.call, self.most = network, error, call, most
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.calls.append(tuple(x.shape[-2:]))
        if len(self.calls) == self.call or 0 < self.most < max(x.shape[-2:]):
            raise self.error
        return self.network(x)


CPU_FULL = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
ERRORS = [torch.OutOfMemoryError("no"), MemoryError(), CPU_FULL]


@settings(max_examples=15)
@given(st.integers(1, 9), st.sampled_from(ERRORS), st.sampled_from([None, 20]))
def test_out_of_memory_halves_the_tile_and_goes_on(
    call: int, error: Exception, tile: int | None
) -> None:
    image = smooth(1, 44, 57)
    network = Full(tiny("dncnn-17"), error, call=call)
    made = tiler("dncnn-17", tile or 100, network)
    result = joined(made, image)
    torch.testing.assert_close(result, whole_of(tiny("dncnn-17"), image), rtol=0, atol=1e-6)
    if call <= (9 if tile else 1):
        # cores are cut evenly: 57 columns become three of 19
        assert made.used == (19 // 2 if tile else 57 // 2)


def test_halving_goes_on_until_it_fits_and_is_remembered() -> None:
    network = Full(tiny("dncnn-17"), MemoryError(), most=24)
    made, image = tiler("dncnn-17", 100, network), smooth(1, 64, 64)
    for expected_failures in (2, 0):
        network.calls.clear()
        result = joined(made, image)
        torch.testing.assert_close(result, whole_of(tiny("dncnn-17"), image), rtol=0, atol=1e-6)
        assert sum(max(call) > 24 for call in network.calls) == expected_failures
    assert made.used == 16


def test_out_of_memory_halves_the_channels_of_a_grey_network_before_the_tile() -> None:
    calls: list[int] = []

    def network(x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(x) > 1:
            raise MemoryError
        return x

    made, image = Tiler(network, 1), smooth(3, 20, 20)
    assert torch.equal(joined(made, image), image)
    assert calls == [3, 1, 1, 1]
    assert made.used is None


def test_where_no_tile_fits_the_error_is_one_sentence() -> None:
    network = Full(tiny("dncnn-17"), MemoryError(), most=9)
    with pytest.raises(RunError, match="does not fit into memory, and smaller tiles would be all"):
        joined(tiler("dncnn-17", 100, network), smooth(1, 64, 64))
    assert min(max(call) for call in network.calls) >= tiled.SMALLEST_TILE


# --- Blending and seams ---------------------------------------------------------------------------


class Identity(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@given(st.integers(1, 40), st.integers(1, 40), st.integers(3, 20), st.integers(0, 6))
def test_blending_changes_nothing_where_tiles_agree(
    height: int, width: int, tile: int, blend: int
) -> None:
    image = smooth(3, height, width)
    made = Tiler(Identity(), 3, tile=tile, blend=blend)
    made.__dict__["receptive_field"] = ReceptiveField(0, 0, 1, 0.0)
    torch.testing.assert_close(joined(made, image), image, rtol=0, atol=1e-6)


def test_a_folder_is_restored_with_blended_tiles(tmp_path: Path) -> None:
    source = images(tmp_path / "in", 1, 64, 56)
    task = make_task("denoise", channels=3)
    options = RestoreOptions(tile=24, blend=30)  # wider than a band is high
    outcome = restore_folder(Identity(), task, source, tmp_path / "out", options=options)
    assert outcome.failures == {}
    one, other = (_pixels(folder / "image0.png") for folder in (source, tmp_path / "out"))
    assert (one == other).all()


def test_blending_lowers_the_seam_ratio() -> None:
    """Two networks in turns, one a little brighter: the worst that routing does."""
    tiling, image = Tiling((16, 16), (4, 4)), smooth(1, 64, 64)
    tiles = tiling.tiles(64, 64)
    ratios = {}
    for blend in (0, 4):
        stitcher = TileStitcher(64, 64, blend)
        rows = []
        for band in tiling.tile_rows(64, 64):
            stitcher.extend(band[0].core.bottom, image, 1)
            for tile in band:
                shift = 0.2 * ((tile.core.left + tile.core.top) // 16 % 2)
                box = tile.outer
                stitcher.add(tile, image[:, box.top : box.bottom, box.left : box.right] + shift, 1)
            rows.append(stitcher.pop_finished(band[0].core.bottom, 1))
        ratios[blend] = seam_ratio(torch.cat(rows, dim=1), tiles)
    assert ratios[0] > 2
    assert ratios[4] < 1.2
    assert seam_ratio(image, tiles) == pytest.approx(1, abs=0.1)


@given(st.integers(2, 4), st.floats(0.1, 1))
def test_the_metric_is_the_jump_of_the_gradient(scale: int, step: float) -> None:
    tiles = Tiling((8, 8)).tiles(8, 16)
    ramp = torch.linspace(0, 0.1, 16 * scale).expand(1, 8 * scale, -1).double()
    rough = torch.rand(ramp.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    image = ramp + 1e-3 * rough
    seamed = image.clone()
    seamed[..., 8 * scale :] += step
    # The step stands out by itself at the border and by half of itself on both sides of it.
    assert seam_ratio(image, tiles, scale) == pytest.approx(1, abs=0.5)
    assert seam_ratio(seamed, tiles, scale) > 10
    assert math.isnan(seam_ratio(image, Tiling((99, 99)).tiles(8, 16), scale))


# --- Margins by choice ----------------------------------------------------------------------------


class Far(nn.Module):
    """Looks 12 pixels far: little of a result comes from there."""

    def forward(self, x: Tensor) -> Tensor:
        near = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return 0.8 * x + 0.15 * near + 0.05 * F.avg_pool2d(F.pad(x, [12] * 4), 25, 1)


@pytest.mark.parametrize(("margin", "tile"), [(0, 25), (5, 20), (12, 30)])
def test_the_error_of_a_chosen_margin_is_the_one_at_the_seams(margin: int, tile: int) -> None:
    image, network = smooth(3, 64, 71), Far()
    tiled = Tiler(network, 3, tile=tile, margin=margin)
    error = (joined(tiled, image) - restore_image(network, image)).abs().max() * 255
    measured = tiled.seam_error
    assert measured is not None
    assert measured.margin == margin
    assert (measured.image < 1e-3) == (margin >= 12) == (float(error) < 1e-3)
    assert measured.image <= error + 1e-3
    assert (measured.noise < 1e-3) == (margin >= 12)
    assert measured.sentence().startswith(
        f"tiles with a margin of {margin}: a corner of the middle one diff"
    )


def test_a_chosen_margin_keeps_the_grid_of_a_strided_network() -> None:
    tiled = Tiler(Strided(8), 1, tile=16, margin=3)
    image = smooth(1, 48, 47)
    joined(tiled, image)
    assert tiled.receptive_field.grid == 8
    whole = Tiler(Strided(8), 1, tile=16, margin=8)
    torch.testing.assert_close(joined(whole, image), whole_of(Strided(8), image))
    assert whole.receptive_field.exact


def test_a_chosen_margin_is_recorded_and_counts_as_another_network(tmp_path: Path) -> None:
    checkpoint, source = sr_checkpoint(tmp_path / "sr"), images(tmp_path / "in", 1, 60, 64)
    ask = ("restore", source, "--model", checkpoint, "--out", tmp_path / "out", "--tile", 32)
    ran = run(*ask, "--margin", 1, "--json").json
    assert ran["seams"]["margin"] == 1
    assert 0 < ran["seams"]["image"] < 255
    record = json.loads((tmp_path / "out" / "manifest.jsonl").read_text())
    assert (record["tile"], record["margin"]) == (32, 1)
    again = run(*ask, "--margin", 2)
    assert "1 done, 0 failed, 0 skipped" in again.out
    assert "tiles with a margin of 2: a corner of the middle one differs" in again.out
    exact = run(*ask, "--json").json
    assert exact["done"] == 1
    assert "seams" not in exact
    assert run(*ask, "--margin", -1).err == "thinlens: --margin -1: wanted 0 or more pixels\n"


# --- The command line -----------------------------------------------------------------------------


def test_restore_in_tiles_writes_the_same_image_and_remembers_them(tmp_path: Path) -> None:
    checkpoint, source = sr_checkpoint(tmp_path / "sr"), images(tmp_path / "in", 1, 96, 112)
    ask = ("restore", source, "--model", checkpoint, "--json", "--out")
    whole = run(*ask, tmp_path / "whole")
    cut = run(*ask, tmp_path / "cut", "--tile", 60)
    assert (whole.status, cut.status) == (0, 0), cut.err
    one, other = (np.array(_pixels(tmp_path / out / "image0.png")) for out in ("whole", "cut"))
    assert np.abs(one.astype(int) - other).max() <= 1
    assert (one != other).mean() <= 1e-5 + 1 / one.size
    tile = [
        json.loads((tmp_path / o / "manifest.jsonl").read_text())["tile"] for o in ("whole", "cut")
    ]
    assert tile == [None, 60]
    assert run(*ask, tmp_path / "cut", "--tile", 60).json["skipped"] == 1


def test_wrong_tiles_and_too_many_pixels_are_one_sentence(tmp_path: Path) -> None:
    checkpoint, source = sr_checkpoint(tmp_path / "sr"), images(tmp_path / "in", 1)
    ask = ("restore", source, "--model", checkpoint, "--out", tmp_path / "out")
    assert run(*ask, "--tile", 0).err == "thinlens: --tile 0: wanted at least one pixel\n"
    refused = run(*ask, "--max-pixels", 1000)
    assert refused.status == 1
    assert "has 176x160 pixels: wanted at most 1000" in refused.err
    with pytest.raises(UsageError, match="blend -1"):
        Tiler(tiny("edsr"), 3, blend=-1)


def _pixels(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image)
