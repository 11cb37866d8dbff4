"""What moves values between rows, columns and channels gives in the engine what torch gives."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from native_engine import KERNELS, built
from thinlens.engine import stream
from thinlens.engine.compiled import Compiled

pytestmark = built

CHANNELS = 8


class Between(nn.Module):
    """An operation on what a convolution computes, and a convolution of what it returns."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation
        self.before = nn.Conv2d(2, CHANNELS, 3, padding=1)
        with torch.no_grad():
            channels = operation(torch.zeros(1, CHANNELS, 24, 24)).shape[1]
        self.after = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.operation(self.before(x)))


def written_slice(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 2:5] = torch.relu(x[:, 3:6])
    return x


def gated_halves(x: Tensor) -> Tensor:
    one, other = x.chunk(2, dim=1)
    return torch.cat([other * torch.sigmoid(one), one, x[:, 1:7:2]], dim=1)


def repeated_base(x: Tensor) -> Tensor:
    """PLKSR's output: a pixel shuffle of a sum with repeated channels."""
    return F.pixel_shuffle(conv_32(x) + torch.relu(x).repeat_interleave(4, dim=1), 2)


def conv_32(x: Tensor) -> Tensor:
    torch.manual_seed(3)
    return F.conv2d(x, torch.randn(32, CHANNELS, 1, 1).to(x) / 4)


def resized(**options: object) -> Callable[[Tensor], Tensor]:
    return lambda x: F.interpolate(x, **options)  # type: ignore[arg-type]


def padded(sides: tuple[int, ...], mode: str = "constant", value: float = 0.0) -> nn.Module:
    class Padding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.pad(x, sides, mode, value) if mode == "constant" else F.pad(x, sides, mode)

    return Padding()


def conv(c_out: int, kernel: int | tuple[int, int], **options: object) -> nn.Module:
    torch.manual_seed(1)
    return nn.Conv2d(CHANNELS, c_out, kernel, **options)  # type: ignore[arg-type]


def transposed(kernel: int, stride: int, **options: object) -> nn.Module:
    torch.manual_seed(2)
    return nn.ConvTranspose2d(CHANNELS, 4, kernel, stride, **options)  # type: ignore[arg-type]


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "depthwise": conv(CHANNELS, 3, padding=1, groups=CHANNELS),
    "depthwise, twice the channels": conv(16, 5, padding=2, groups=CHANNELS),
    "groups": conv(12, 3, padding=1, groups=4),
    "stride 3": conv(5, 3, stride=3),
    "strides by axis": conv(5, (3, 5), stride=(1, 2), padding=(0, 2)),
    "stride 4, groups": conv(8, 7, stride=4, padding=3, groups=2),
    "dilation by axis": conv(5, 3, padding=(2, 3), dilation=(2, 3)),
    "kernel 17": conv(4, 17, padding=8),
    "kernel 1x7": conv(5, (1, 7), padding=(0, 3)),
    "more padding than kernel": conv(5, 1, padding=3),
    "asymmetric padding": nn.Sequential(nn.ZeroPad2d((1, 2, 0, 3)), conv(5, 4)),
    "padding reflect": conv(5, 3, padding=2, padding_mode="reflect"),
    "padding replicate": conv(5, 3, padding=(1, 2), padding_mode="replicate"),
    "transposed 2x2": transposed(2, 2),
    "transposed 4x4": transposed(4, 2, padding=1),
    "transposed 4x4, cut": transposed(4, 2, padding=3),
    "transposed 3x3": transposed(3, 2, padding=1),
    "transposed 3x3, output padding": transposed(3, 2, padding=1, output_padding=1),
    "transposed 9x9": transposed(9, 3, padding=4, output_padding=2),
    "transposed, groups": transposed(4, 2, padding=1, groups=2),
    "transposed, dilated": transposed(3, 2, padding=1, dilation=2),
    "transposed, stride 1": transposed(3, 1),
    "nearest x2": resized(scale_factor=2),
    "nearest x3": resized(scale_factor=3, mode="nearest"),
    "nearest by axis": resized(scale_factor=(2.0, 1.5), mode="nearest"),
    "nearest to a size": resized(size=(13, 50)),
    "nearest exact": resized(size=(13, 50), mode="nearest-exact"),
    "bilinear x2": resized(scale_factor=2, mode="bilinear"),
    "bilinear by 0.6": resized(scale_factor=0.6, mode="bilinear"),
    "bilinear, corners": resized(scale_factor=2, mode="bilinear", align_corners=True),
    "bilinear, antialias": resized(size=(7, 9), mode="bilinear", antialias=True),
    "bicubic x2": resized(scale_factor=2, mode="bicubic"),
    "bicubic to a size": resized(size=(30, 7), mode="bicubic", align_corners=True),
    "bicubic, antialias": resized(scale_factor=0.4, mode="bicubic", antialias=True),
    "average pool": nn.AvgPool2d(2),
    "average pool, padded": nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True),
    "average pool, own count": nn.AvgPool2d((3, 2), padding=1, count_include_pad=False),
    "average pool, divisor": nn.AvgPool2d(3, stride=1, divisor_override=5),
    "adaptive average pool": nn.AdaptiveAvgPool2d((5, 7)),
    "max pool": nn.MaxPool2d(2),
    "max pool, padded": nn.MaxPool2d((3, 5), stride=(2, 1), padding=(1, 2)),
    "max pool, ceil": nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
    "adaptive max pool": nn.AdaptiveMaxPool2d((5, 7)),
    "pad zeros": padded((1, 2, 3, 0)),
    "pad many zeros": padded((10, 11, 12, 9)),
    "pad a constant": padded((1, 2, 3, 0), value=0.5),
    "pad reflect": padded((5, 4, 3, 6), "reflect"),
    "pad replicate": padded((9, 4, 3, 8), "replicate"),
    "pad negative": padded((-2, -1, -3, 2)),
    "pad, then crop": lambda x: F.pad(x, (4, 4, 4, 4), "reflect")[..., 2:-3, 1:-2],
    "crop": lambda x: x[..., 3:9, 2:],
    "first rows": lambda x: x[..., :7, :],
    "every other": lambda x: x[..., 1::2, ::3],
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x[..., :20, :20], 4),
    "pixel shuffle of a sum": lambda x: F.pixel_shuffle(x + torch.relu(x), 2),
    "pixel shuffle twice": lambda x: F.pixel_shuffle(torch.cat([x, x], 1), 4),
    "pixel shuffle of repeats": repeated_base,
    "channel slice": lambda x: x[:, 2:5],
    "channel slices of slices": lambda x: x[:, 1:][:, 1:5] + x[:, -4:],
    "channel step": lambda x: x[:, 1::3],
    "chunk": gated_halves,
    "split": lambda x: torch.cat(x.split([1, 4, 3], dim=1)[::-1], 1),
    "slice written": written_slice,
    "channel shuffle": lambda x: x.view(1, 4, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
    "flip of channels": lambda x: x.flip(1),
    "repeat": lambda x: x.repeat(1, 2, 1, 2),
    "picked channels": lambda x: x.index_select(1, torch.tensor([3, 0, 0, 7])),
}


def references(module: nn.Module, images: list[Tensor]) -> list[Tensor]:
    precise = copy.deepcopy(module).double()
    with torch.no_grad():
        return [precise(image.double()).float() for image in images]


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return Between(OPERATIONS[name]).eval().requires_grad_(False)


IMAGES = [(24, 21), (31, 70)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_what_torch_gives_in_float64(name: str) -> None:
    module = network(name)
    images = [torch.randn(1, 2, *size) for size in IMAGES]
    expected = references(module, images)
    for turn, kernels in enumerate(KERNELS):
        image, wanted = images[turn % 2], expected[turn % 2]
        fast = Compiled(module, 1 + turn % 2, kernels)
        torch.testing.assert_close(fast(image), wanted, rtol=2e-5, atol=2e-5)


STREAMED = [
    "pad reflect",
    "pad many zeros",
    "crop",
    "every other",
    "average pool, padded",
    "transposed 9x9",
    "nearest x3",
    "kernel 17",
    "stride 4, groups",
    "chunk",
    "slice written",
]


@pytest.mark.parametrize("name", STREAMED)
def test_streaming_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, image = network(name), torch.randn(1, 2, 41, 30)
    monkeypatch.setattr(stream, "CACHE_BYTES", 0)
    whole = Compiled(module, 1)(image)
    monkeypatch.undo()
    monkeypatch.setattr(stream, "MIN_BLOCK_ROWS", 2)
    assert torch.equal(Compiled(module, 3)(image), whole)
