"""Whole networks in the native engine give what torch gives."""

from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thinlens
from native_engine import KERNELS, built
from thinlens import engine
from thinlens.engine import compiled, native
from thinlens.engine.arena import Lifetime, assign_offsets
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.errors import UsageError
from thinlens.images.pixels import to_uint8
from thinlens.images.reading import read_image
from thinlens.images.writing import write_png
from thinlens.models import MODELS
from thinlens.models.tile_position import TilePosition, tile_positions
from thinlens.tasks import make_task


def tiny(name: str) -> nn.Module:
    torch.manual_seed(0)
    entry = MODELS[name]
    module = entry.build(entry.make_config(**entry.tiny)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            # half of the weights are pruned, so that both kernels run
            parameter[torch.rand_like(parameter) < 0.5] = 0
    return module


FLOAT32_ERROR = 1e-5
"""Error of a value in [0, 1] that float32 may have after a whole network."""

KNOWN = ("edsr", "esrb", "carn", "rfdn", "dncnn", "unet", "srn", "dmphn")
NETWORKS = [name for name in MODELS if name.startswith(KNOWN) and "lstm" not in name]


@built
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_what_torch_gives(name: str, kernels: str) -> None:
    module = tiny(name)
    fast = Compiled(module, 2, kernels)
    for height, width in [(1, 1), (16, 15), (19, 37), (12, 96)]:
        image = torch.rand(2, MODELS[name].channels, height, width)
        with torch.inference_mode():
            torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)


@built
def test_plans_are_bounded_and_results_do_not_depend_on_them() -> None:
    fast = engine.compile(tiny("carn"), threads=1)
    assert isinstance(fast, Compiled)
    images = [torch.rand(1, 3, 5, 5 + i) for i in range(compiled.MAX_PLANS + 2)]
    first = [fast(image) for image in images]
    assert len(fast._plans) == compiled.MAX_PLANS
    assert all(torch.equal(fast(image), once) for image, once in zip(images, first, strict=True))


@built
def test_a_step_is_one_where_it_can_be() -> None:
    steps = Compiled(tiny("edsr"), 1).plan(Size(3, 8, 8)).steps
    # head, 2 blocks of 2, the body's last, two shuffled, the tail; all else is fused
    # the pointwise step is the colours of the input
    assert steps == ["input", "pointwise", *["conv"] * 9, "unpack"]


class Odd(nn.Module):
    """Sizes that fit no tile, parts that are used twice, tensors on two grids."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 5, 5, padding=2), nn.Conv2d(5, 7, 3)
        self.down, self.c = nn.Conv2d(7, 4, 3, stride=2, padding=1), nn.Conv2d(19, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(F.leaky_relu(self.a(x), 0.2))
        z = F.interpolate(self.down(y), size=y.shape[-2:], mode="bilinear")
        joined = torch.cat([z, y, z, torch.sigmoid(z) * z], dim=1)
        return 0.5 * self.c(joined)


@built
@pytest.mark.parametrize("kernels", KERNELS)
def test_an_odd_network_gives_what_torch_gives(kernels: str) -> None:
    torch.manual_seed(0)
    module = Odd().eval()
    fast = Compiled(module, 1, kernels)
    for height, width in [(4, 3), (11, 36), (21, 35), (40, 83)]:
        image = torch.randn(1, 2, height, width)
        with torch.inference_mode():
            torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [0, -1, 5000])
def test_a_wrong_number_of_threads_is_named(threads: int) -> None:
    with pytest.raises(UsageError, match="threads"):
        engine.compile(nn.Conv2d(1, 1, 1), threads=threads)


@built
@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (torch.zeros(3, 4, 4), "wanted images"),
        (torch.zeros(1, 3, 0, 4), "none of them 0"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.float64), "float32"),
        (torch.zeros(1, 4, 4, 4), "no plan for an input of 4x4 with 4 channels"),
        (torch.zeros(1, 3, 1, 1).expand(1, 3, 2**15, 2**15), "GiB"),
        (torch.zeros(1, 3, 1, 1).expand(1, 3, 2**20, 2**20), "too large"),
    ],
)
def test_bad_input_is_one_sentence(image: Tensor, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        engine.compile(tiny("edsr"), threads=1)(image)


class Looks(nn.Module):
    """What it does depends on values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@built
@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (Looks(), "reads values of its input"),
        (nn.Flatten(), "the engine runs no layer of this network"),
        (nn.Conv2d(1, 1, 9), "no plan for an input of 4x4 with 1 channels: .*9"),
        (Two(), "no plan for an input of 4x4 with 1 channels: .*missing"),
    ],
    ids=str,
)
def test_what_cannot_be_captured_is_named(module: nn.Module, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as error:
        engine.compile(module)(torch.zeros(1, 1, 4, 4))
    assert "\n" not in str(error.value)


def test_a_precision_that_there_is_not_is_named() -> None:
    with pytest.raises(UsageError, match=r"precision 'fp64': wanted fp32"):
        thinlens.compile(nn.Conv2d(1, 1, 1), precision="fp64")


@built
@pytest.mark.parametrize("kernels", KERNELS)
def test_a_tile_knows_its_place(kernels: str) -> None:
    """RFDN's attention resizes to the size of the whole image, of which an input may be a part."""
    module, image = tiny("rfdn"), torch.rand(2, 3, 31, 36)
    fast = Compiled(module, 1, kernels)
    places = [TilePosition(12, 6, 100, 90), TilePosition(0, 18, 31, 54)]
    with torch.inference_mode():
        whole = fast(image)
        with tile_positions(places):
            torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)
            assert not torch.allclose(fast(image), whole, rtol=1e-5, atol=1e-5)
        with (
            tile_positions([TilePosition(5, 6, 100, 90)] * 2),
            pytest.raises(UsageError, match="begins at 5"),
        ):
            fast(image)


@built
@pytest.mark.parametrize("name", ["rfdn-x4", "realesr-animevideov3-thin"])
def test_a_shipped_network_restores_the_same_pixels(name: str) -> None:
    """An 8-bit value differs from torch's only by rounding: by 1, and next to a boundary."""
    module = thinlens.load(name).module.eval()
    noise = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    image = F.interpolate(noise, size=(40, 48), mode="bicubic").clamp(0, 1)
    with torch.inference_mode():
        levels = 255 * copy.deepcopy(module).double()(image.double())[0]
        one, other = (to_uint8(run(image)[0]).int() for run in (module, thinlens.compile(module)))
    boundary = (levels - levels.floor() - 0.5).abs() < 255 * FLOAT32_ERROR
    differs = one != other
    assert (one - other).abs().max() <= 1
    assert not (differs & ~boundary).any()
    assert boundary.float().mean() < 0.01  # so nearly all values are compared exactly


def test_without_the_core_torch_runs_after_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "thinlens.engine._native", None)  # imports of it fail
    native.native.cache_clear()
    try:
        with pytest.warns(UserWarning, match="run in torch"):
            fast = engine.compile(nn.Conv2d(1, 1, 1))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            engine.compile(nn.Conv2d(1, 1, 1))
        assert fast(torch.zeros(1, 1, 2, 2)).shape == (1, 1, 2, 2)
    finally:
        native.native.cache_clear()


def test_buffers_that_live_together_lie_apart() -> None:
    lives = [Lifetime(100, 0, 2), Lifetime(5000, 1, 3), Lifetime(300, 3, 4), Lifetime(10, 0, 4)]
    offsets, total = assign_offsets(lives)
    for i, a in enumerate(lives):
        for j, b in enumerate(lives[:i]):
            apart = a.last < b.first or b.last < a.first
            disjoint = offsets[i] + a.floats <= offsets[j] or offsets[j] + b.floats <= offsets[i]
            assert apart or disjoint
    assert total == max(o + life.floats for o, life in zip(offsets, lives, strict=True))


@built
def test_the_face_runs_a_checkpoint_by_the_engine_and_knows_its_results(tmp_path: Path) -> None:
    """`engine="native"` gives torch's 8-bit values; a result of either engine is not done twice."""
    task, model = make_task("sr", scale=4), tiny("rfdn")
    clean = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    write_png(tmp_path / "in" / "a.png", clean)
    outs = [tmp_path / name for name in ("torch", "native")]
    for out in outs:
        done = thinlens.restore(model, tmp_path / "in", out, task=task, engine=out.name)
        assert done.done == 1
    one, other = (read_image(out / "a.png").int() for out in outs)
    assert (one - other).abs().max() <= 1
    again = thinlens.restore(model, tmp_path / "in", outs[1], task=task, engine="torch")
    assert (again.done, again.skipped) == (0, 1)


class InPlace(nn.Module):
    """Writes into its tensors, and computes with tensors that it keeps as plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.mean, self.table = torch.rand(1, 8, 1, 1), nn.Parameter(torch.rand(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.a(x), 0.1, inplace=True)
        y += self.mean.expand(1, 8, 1, 1) * 2
        y.add_(self.table[torch.arange(4)].reshape(1, 8, 1, 1))
        return self.b(y).add_(x).relu_()


@built
def test_what_is_written_in_place_gives_what_torch_gives() -> None:
    torch.manual_seed(0)
    module, image = InPlace().eval(), torch.rand(2, 3, 9, 11)
    fast = Compiled(module, 1)
    with torch.inference_mode():
        torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)
    assert fast.plan(Size(3, 9, 11)).layers[1:] == ["a", "", "b", ""]
