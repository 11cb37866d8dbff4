"""Reductions, norms and softmax: against float64, in all kernels, streamed, on several threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from native_engine import BF16, CORE, KERNELS, built
from test_engine_pointwise import Network, values
from thinlens.engine import stream
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.ops import OPERATIONS, norm, reduce, softmax
from thinlens.errors import UsageError

pytestmark = built

CHANNELS, SPACE = [1], [2, 3]


def both(reduction: Callable[[Tensor, list[int]], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Over channels by pixel and over space by channel, broadcast to one image."""
    return lambda x, c: reduction(x, CHANNELS) + 2 * reduction(x, SPACE)


OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": both(lambda x, axes: x.sum(axes, keepdim=True)),
    "mean": both(lambda x, axes: x.mean(axes, keepdim=True) + (x * x).mean(axes, keepdim=True)),
    "amax": both(lambda x, axes: (x - 9).amax(axes, keepdim=True)),
    "amin": both(lambda x, axes: (x + 9).amin(axes, keepdim=True)),
    "max": lambda x, c: x.max(1, keepdim=True)[0] + torch.max(x, -x),
    "min": lambda x, c: x.min(1, keepdim=True)[0] + torch.min(x, -x),
    "var": both(lambda x, axes: (x + 7).var(axes, keepdim=True, unbiased=False)),
    "std": both(lambda x, axes: (x - 7).std(axes, keepdim=True)),
    "var_mean": lambda x, c: sum(torch.var_mean(x, SPACE, correction=1, keepdim=True)) + x,
    "linalg_vector_norm": both(lambda x, axes: x.norm(dim=axes, keepdim=True)),
    "_adaptive_avg_pool2d": lambda x, c: F.adaptive_avg_pool2d(x, 1),
    "adaptive_avg_pool2d": lambda x, c: x * F.adaptive_avg_pool2d(x, (1, 1)),
    "adaptive_max_pool2d": lambda x, c: F.adaptive_max_pool2d(x - 9, 1) * x,
    "native_group_norm": lambda x, c: F.group_norm(x, 1, c.flatten(), -c.flatten()),
    "_softmax": lambda x, c: torch.softmax(3 * x, 1),
    "_log_softmax": lambda x, c: torch.log_softmax(3 * x, 1),
}
"""By ATen name, a use of it on three channels."""


def test_every_operation_of_the_family_has_a_use() -> None:
    family = {
        f.__module__ for f in (reduce.lower_mean, norm.lower_group_norm, softmax.lower_softmax)
    }
    lowered = {name for name, f in OPERATIONS.items() if f.__module__ in family}
    assert lowered <= {*OPERATORS, "native_layer_norm"}  # of tokens: see there


@pytest.mark.parametrize("kernels", [*KERNELS, *BF16])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operation_is_that_of_torch_in_float64(name: str, kernels: str) -> None:
    module, constant = Network(OPERATORS[name]), Network(OPERATORS[name]).constant
    sizes = (
        [(2, 1), (7, 35)] if "norm" in name or name in ("std", "var_mean") else [(1, 1), (21, 83)]
    )
    for size in sizes:
        image = values(*size)
        expected = OPERATORS[name](image.double(), constant.double())
        one, two = (Compiled(module, threads, kernels)(image) for threads in (1, 2))
        assert torch.equal(one, two)
        error = (one.double() - expected).abs()
        bound = 2.0**-5 if kernels in BF16 else 2e-6
        assert (error <= bound * (1 + expected.abs().max())).all(), float(error.max())


def test_a_sum_of_a_large_image_is_exact() -> None:
    image = torch.rand(1, 1, 700, 900)
    got = Compiled(Network(lambda x, c: x.mean(SPACE, keepdim=True)), 1)(image)
    assert abs(got.item() / image.double().mean().item() - 1) <= 2e-7


class Norms(nn.Module):
    """Layer normalization over channels, as published networks write it, and channel attention."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.head, self.tail = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 3, 3, padding=1)
        self.weight, self.bias = (nn.Parameter(torch.randn(10)) for _ in range(2))
        self.squeeze, self.excite = nn.Conv2d(10, 5, 1), nn.Conv2d(5, 10, 1)

    def norm(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        if self.style == "two differences":
            variance = (x - mean).pow(2).mean(1, keepdim=True)
            y = (x - mean) / (variance + 1e-6).sqrt()
        elif self.style == "one difference":
            y = x - mean
            y = y * torch.rsqrt((y * y).mean(1, keepdim=True) + 1e-6)
        elif self.style == "variance":
            y = (x - mean) / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5)
        else:
            return F.group_norm(x, 5, self.weight, self.bias)
        return self.weight.view(1, -1, 1, 1) * y + self.bias.view(1, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        y = self.norm(x)
        attention = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        return self.tail(y * torch.sigmoid(attention) + x)


STYLES = ("two differences", "one difference", "variance")


@pytest.mark.parametrize("kernels", [*KERNELS, *BF16])
@pytest.mark.parametrize("style", [*STYLES, "groups"])
def test_norms_and_channel_attention_run_whole(
    style: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = Norms(style).eval()
    for size in ((3, 4), (26, 51)):
        image = torch.randn(1, 3, *size)
        monkeypatch.setattr(stream, "CACHE_BYTES", 0)
        whole = Compiled(module, 1, kernels)(image)
        monkeypatch.undo()
        with torch.inference_mode():
            near = 0.1 if kernels in BF16 else 2e-5
            torch.testing.assert_close(whole, module(image), rtol=near, atol=near)
        for rows, threads in ((1, 2), (3, 3)):
            monkeypatch.setattr(stream, "MIN_BLOCK_ROWS", rows)
            assert torch.equal(Compiled(module, threads, kernels)(image), whole)
            monkeypatch.undo()


@pytest.mark.parametrize("style", STYLES)
def test_a_norm_is_recognized(style: str) -> None:
    steps = Compiled(Norms(style).eval(), 1).plan(Size(3, 12, 20)).steps
    attention = ["reduce_space", "conv", "conv", "pointwise", "pointwise"]
    assert steps == ["input", "conv", "channel_norm", *attention, "conv", "unpack"]


def test_a_norm_of_a_sum_is_recognized() -> None:
    norms = Norms("two differences")
    norms.weight, norms.bias = (nn.Parameter(torch.randn(3)) for _ in range(2))

    def network(x: Tensor, c: Tensor) -> Tensor:
        y = F.silu(x) - c
        return y + norms.norm(y).relu()

    module, image = Network(network), torch.randn(1, 3, 8, 9)
    fast = Compiled(module, 1)
    with torch.inference_mode():
        torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)
    assert "reduce_channels" not in fast.plan(Size(3, 8, 9)).steps


def test_what_is_like_a_norm_is_none() -> None:
    def other(x: Tensor, c: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        return (x - mean) / (((x - 1) ** 2).mean(1, keepdim=True) + 1e-6).sqrt()

    module, image = Network(other), torch.randn(1, 3, 5, 7)
    fast = Compiled(module, 1)
    torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)
    assert "channel_norm" not in fast.plan(Size(3, 5, 7)).steps


def test_a_reduction_over_one_axis_is_named() -> None:
    with pytest.raises(UsageError, match=r"the mean over axes \[3\]"):
        Compiled(Network(lambda x, c: x + x.mean(3, keepdim=True)), 1)(torch.zeros(1, 3, 4, 4))


class Tokens(nn.Module):
    """Layer normalization of tokens, which are an image's pixels, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 1)
        self.norm, self.linear = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x).flatten(2).transpose(1, 2)
        y = y + F.gelu(self.linear(self.norm(y)))
        return self.tail(y.transpose(1, 2).reshape(1, 6, *x.shape[-2:]))


@pytest.mark.parametrize("kernels", KERNELS)
def test_tokens_are_normalized_over_their_channels(kernels: str) -> None:
    torch.manual_seed(0)
    module = Tokens().eval()
    nn.init.normal_(module.norm.weight)
    nn.init.normal_(module.norm.bias)
    image, fast = torch.randn(1, 3, 9, 13), Compiled(module, 1, kernels)
    with torch.inference_mode():
        torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)
    assert "channel_norm" in fast.plan(Size(3, 9, 13)).steps


def test_a_norm_along_columns_is_none_over_channels() -> None:
    """Even where there are as many channels as columns."""
    module, image = (
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.LayerNorm(6), nn.ReLU()),
        torch.rand(1, 3, 6, 6),
    )
    fast = Compiled(module.eval(), 1)
    with torch.inference_mode():
        torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KERNELS)
def test_parts_of_the_channels_are_reduced_by_the_kernel(name: str) -> None:
    """Output channel c is the sum of channels c and c + 3."""
    kernels = CORE.kernels(name)
    image = torch.randn(1, 6, 5, 19)
    shapes = [CORE.Shape(channels, 5, 19, row_vectors=5, halo=1) for channels in (6, 3)]
    floats = [kernels.floats(shape) for shape in shapes]
    program = CORE.Program(kernels, sum(floats))
    x = CORE.Slice(program.tensor(0, shapes[0]), 0, 6)
    y = CORE.Slice(program.tensor(floats[0], shapes[1]), 0, 3)
    program.pack(x)
    program.reduce_channels(x, y, "sum", count=2, first=1, step=3)
    program.unpack(y)
    output = np.full((1, 3, 5, 19), np.nan, np.float32)
    program.run(CORE.ThreadPool(2), image.numpy(), output)
    assert torch.equal(torch.from_numpy(output), image[:, :3] + image[:, 3:])


@built
def test_a_norm_over_the_batch_is_refused() -> None:
    """Traced with one image it looks like an instance norm, which it is not for a batch."""
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Conv2d(4, 3, 3)).eval()
    with pytest.raises(UsageError, match="layer '1' normalizes by the statistics of each batch"):
        Compiled(network, 1)(torch.rand(2, 3, 8, 8))
