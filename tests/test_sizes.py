"""Networks that accept some sizes, types and outputs only restore images of any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.errors import UsageError
from thinlens.images.reading import read_image
from thinlens.images.writing import write_png
from thinlens.restoration.folder import restore_folder
from thinlens.restoration.receptive_field import measure_receptive_field
from thinlens.restoration.sizes import SizeRule, measure_size_rule, pad_to, run_at_any_size
from thinlens.restoration.tiled import restore_image
from thinlens.tasks import make_task


class Unshuffled(nn.Module):
    """Real-ESRGAN x2's frame: halves, convolves, enlarges twice."""

    def __init__(self, factor: int = 2, scale: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.factor, self.scale = factor, scale
        self.body = nn.Conv2d(3 * factor**2, 3 * (factor * scale) ** 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        body = self.body(F.pixel_unshuffle(x, self.factor))
        large = F.interpolate(x, scale_factor=self.scale)
        return large + 0.1 * F.pixel_shuffle(body, self.factor * self.scale)


class SmallUNet(nn.Module):
    """Pools and enlarges: sides that are no multiple of 8 come back smaller."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(F.avg_pool2d(x, 8), scale_factor=8)


class Ceiled(nn.Module):
    """Pads to a multiple of 8 itself, and does not crop."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return pad_to(x, (-(-height // 8) * 8, -(-width // 8) * 8))


class Windows(nn.Module):
    """Mixes values inside windows of 7x7."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        windows = x.view(batch, channels, height // 7, 7, width // 7, 7)
        return (windows * 0.5 + 0.5 * windows.mean((3, 5), keepdim=True)).view_as(x)


class Reflecting(nn.Module):
    """Refuses images smaller than its padding."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, (6, 6, 6, 6), mode="reflect"), 13, 1)


class Square(nn.Module):
    """Turns: takes squares of an even side only."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == x.shape[-2]
        return F.pixel_shuffle(F.pixel_unshuffle(x.mT, 2), 2).mT


NETWORKS: dict[str, tuple[Callable[[], nn.Module], SizeRule, int]] = {
    "unshuffled": (Unshuffled, SizeRule(2, 2), 2),
    "unshuffled by 3": (lambda: Unshuffled(3, 1), SizeRule(3, 3), 1),
    "unet": (SmallUNet, SizeRule(8, 8), 1),
    "ceiled": (Ceiled, SizeRule(8, 8), 1),
    "windows": (Windows, SizeRule(7, 7), 1),
    "reflecting": (Reflecting, SizeRule(1, 8), 1),
    "square": (Square, SizeRule(2, 2, square=True), 1),
}


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=6)
@given(st.integers(1, 40), st.integers(1, 40))
def test_a_result_has_the_size_of_the_image_times_the_scale(
    name: str, height: int, width: int
) -> None:
    make, rule, scale = NETWORKS[name]
    network = make()
    image = torch.rand(3, height, width)
    result = restore_image(network, image)
    assert result.shape == (3, height * scale, width * scale)
    padded = pad_to(image, rule.accepted(height, width))
    with torch.no_grad():
        expected = network(padded[None])[0, :, : height * scale, : width * scale]
    torch.testing.assert_close(result, expected.clamp(0, 1))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rule_is_measured(name: str) -> None:
    make, rule, scale = NETWORKS[name]
    assert measure_size_rule(make(), torch.rand(1, 3, 1, 1)) == (rule, scale)


def test_a_rule_is_measured_once_and_a_stated_one_not_at_all() -> None:
    calls: list[tuple[int, ...]] = []

    class Counted(SmallUNet):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(tuple(x.shape[-2:]))
            return super().forward(x)

    network = Counted()
    for expected in (None, [(24, 16)]):
        calls.clear()
        restore_image(network, torch.rand(3, 17, 9))
        assert calls == (expected or calls)
    calls.clear()
    network = Counted()
    network.size_requirements = SizeRequirements()
    restore_image(network, torch.rand(3, 17, 9))
    assert calls == [(32, 32)]


class SizeRequirements:
    """What spandrel states of a network."""

    minimum, multiple_of, square = 32, 8, True


@pytest.mark.parametrize("name", ["unshuffled", "windows", "reflecting", "unet"])
def test_tiles_of_such_networks_equal_the_whole_image(name: str) -> None:
    network = NETWORKS[name][0]()
    image = torch.rand(3, 51, 65)
    whole = restore_image(network, image)
    torch.testing.assert_close(restore_image(network, image, tile=25), whole, rtol=0, atol=1e-6)


def test_the_receptive_field_of_a_network_that_refuses_nan_is_the_whole_image() -> None:
    class Careful(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.isnan().any():
                raise ValueError("NaN")
            return x

    assert measure_receptive_field(Careful(), 3).radius is None


# --- Types and outputs ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_gets_images_of_its_own_type(dtype: torch.dtype) -> None:
    network, image = nn.Conv2d(3, 3, 3, padding=1).to(dtype), torch.rand(3, 30, 33)
    result = restore_image(network, image)
    assert result.dtype == torch.float32
    with torch.no_grad():
        expected = network(image[None].to(dtype))[0].clamp(0, 1).float()
    assert torch.equal(result, expected)
    tiles = restore_image(network, image, tile=16)
    torch.testing.assert_close(tiles, result, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    "pack",
    [
        lambda x: [x * 0, x],
        lambda x: (F.avg_pool2d(x, 2), x),
        lambda x: {"small": x * 0, "image": x},
    ],
)
def test_the_last_of_several_images_is_the_result(pack: Callable[[Tensor], Any]) -> None:
    image = torch.rand(3, 20, 21)
    assert torch.equal(restore_image(pack, image), image)


@pytest.mark.parametrize(
    "image", [torch.full((3, 4, 5), 51, dtype=torch.uint8), torch.full((3, 4, 5), 0.2).double()]
)
def test_images_of_other_types_are_accepted(image: Tensor) -> None:
    torch.testing.assert_close(restore_image(nn.Identity(), image), torch.full((3, 4, 5), 0.2))


# --- Refusals -------------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x * sigma


def fixed(x: Tensor) -> Tensor:
    """Takes one size only, of no multiple that is tried."""
    return x.reshape(1, 3, 37, 1001)


@pytest.mark.parametrize(
    ("network", "image", "sentence"),
    [
        (nn.Conv2d(3, 3, 3), torch.rand(3, 9, 9), "returns 7x7 for an image of 9x9: wanted an im"),
        (nn.AvgPool2d(2), torch.rand(3, 9, 9), "returns 4x4 for an image of 9x9"),
        (TwoInputs(), torch.rand(3, 9, 9), "takes more than an image .* whose forward takes the"),
        (fixed, torch.rand(3, 9, 9), "cannot run on an image of 9x9 with 3 channels: shape"),
        (torch.mean, torch.rand(3, 9, 9), "returns no image"),
        (lambda x: None, torch.rand(3, 9, 9), "returns a NoneType: wanted an image"),
        (nn.Identity(), torch.rand(3, 9, 9).numpy(), r"type ndarray: .*permute\(2, 0, 1\)"),
        (nn.Identity(), torch.rand(1, 3, 9, 9), r"shape \(1, 3, 9, 9\): wanted \[C, h, w\]"),
        (nn.Identity(), torch.ones(3, 9, 9).int(), "of torch.int32: wanted floats"),
    ],
)  # fmt: skip
def test_what_cannot_be_restored_is_one_sentence(network: Any, image: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refused:
        restore_image(network, image)
    assert "\n" not in str(refused.value)


def test_an_image_that_fails_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    """Whatever fails: sizes that the network refuses, a bug in its code, channels of no image."""

    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] == 9:
                raise KeyError("nine")
            return torch.cat([x, x], 1) if x.shape[-1] == 10 else x

    for width in (8, 9, 10, 11):
        write_png(tmp_path / "in" / f"{width}.png", torch.full((3, 6, width), 7, dtype=torch.uint8))
    task = make_task("denoise", channels=3)
    result = restore_folder(Picky(), task, tmp_path / "in", tmp_path / "out")
    assert result.done == 2
    assert "nine" in result.failures["9.png"]
    assert result.failures["10.png"] == "the network returns 6 channels: wanted 1 or 3"
    odd = restore_folder(Unshuffled(), make_task("sr", scale=2), tmp_path / "in", tmp_path / "two")
    assert odd.failures == {}
    assert read_image(tmp_path / "two" / "9.png").shape == (3, 12, 18)


def test_a_compiled_network_is_padded_as_its_module() -> None:
    class Engine:
        """Refuses odd sizes as a plan does."""

        def __init__(self) -> None:
            self.module = Unshuffled().eval()

        @torch.inference_mode()
        def __call__(self, x: Tensor) -> Tensor:
            if x.shape[-1] % 2 or x.shape[-2] % 2:
                raise UsageError("no plan")
            return self.module(x)

    engine, image = Engine(), torch.rand(1, 3, 5, 7)
    torch.testing.assert_close(
        run_at_any_size(engine, image), run_at_any_size(engine.module, image)
    )
