"""Networks that the engine and torch run in turns give what torch gives."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import thinlens
from native_engine import BF16, built
from thinlens.engine.axes import Axes, image_axes, to_image
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.kernel_report import kernel_report
from thinlens.engine.segment_report import segment_report
from thinlens.errors import UsageError

pytestmark = built


class Islands(nn.Module):
    """Operations that no engine knows, between and beside convolutions, several tensors each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu_()
        first, second = torch.sort(y, 2)[0], torch.cumsum(y, 3) * torch.cos(x)[:, :1]
        z = self.b(first) + self.c(second) + y
        return self.d(torch.sort(z, 3)[0]).roll(1, 2) + x


@pytest.mark.parametrize("threads", [1, 3])
def test_islands_between_parts_give_what_torch_gives(threads: int) -> None:
    module, image = Islands().eval(), torch.rand(2, 3, 9, 17)
    fast = Compiled(module, threads)
    with torch.inference_mode():
        torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)
        strided = torch.rand(2, 9, 17, 3).permute(0, 3, 1, 2)
        torch.testing.assert_close(fast(strided), module(strided), rtol=1e-5, atol=1e-5)
    plan = fast.plan(Size(3, 9, 17))
    assert {name for name in plan.layers if name} == {"a", "b", "c", "d"}
    assert {operation.name for operation in plan.reasons} >= {"sort", "cumsum", "cos", "roll"}


class Attention(nn.Module):
    """Windows of tokens, linear layers, a shift, tables as plain attributes; a slice written."""

    def __init__(self, window: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.window, self.head = window, nn.Conv2d(3, 12, 3, padding=1)
        self.norm, self.qkv, self.proj = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.up, self.down = nn.Linear(12, 24), nn.Linear(24, 12)
        self.table, self.tail = torch.rand(2, 16, 16), nn.Conv2d(12, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, h, w = x.shape
        s, y = self.window, self.head(x)
        tokens = y.flatten(2).transpose(1, 2)
        shifted = torch.roll(self.norm(tokens).view(1, h, w, 12), (-2, -2), (1, 2))
        cut = shifted.view(1, h // s, s, w // s, s, 12).permute(0, 1, 3, 2, 4, 5)
        q, k, v = self.qkv(cut.reshape(-1, s * s, 12)).reshape(-1, s * s, 3, 2, 6).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.transpose(-2, -1) + self.table).softmax(-1)
        mixed = self.proj((weights @ v).transpose(1, 2).reshape(-1, s * s, 12))
        whole = mixed.view(1, h // s, w // s, s, s, 12).permute(0, 1, 3, 2, 4, 5)
        tokens = tokens + torch.roll(whole.reshape(1, h, w, 12), (2, 2), (1, 2)).view(1, h * w, 12)
        tokens = tokens + self.down(F.relu(self.up(tokens)))
        y = tokens.transpose(1, 2).reshape(1, 12, h, w)
        y[:, 2:5] *= 2
        return self.tail(y)


def test_linear_layers_on_tokens_are_convolutions() -> None:
    module, image = Attention().eval(), torch.rand(2, 3, 8, 12)
    fast = Compiled(module, 1)
    with torch.inference_mode():
        expected = torch.cat([module(one[None]) for one in image])
        torch.testing.assert_close(fast(image), expected, rtol=1e-5, atol=1e-5)
    layers = {name for name in fast.plan(Size(3, 8, 12)).layers if name}
    assert layers >= {"head", "qkv", "proj", "up", "down", "tail"}


@pytest.mark.skipif(not BF16, reason="this CPU has no AVX512_BF16")
def test_islands_run_in_float32_beside_bf16() -> None:
    module, image = Islands().eval(), torch.rand(1, 3, 9, 17)
    with torch.inference_mode():
        error = (Compiled(module, 1, BF16[-1])(image) - module(image)).abs().max()
    assert error < 0.1


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_views_are_undone(data: st.DataObject) -> None:
    """A tensor that is made of an image by views is that image by its axes, and back."""
    sides = [data.draw(st.sampled_from([1, 2, 4, 6, 12])) for _ in range(3)]
    image = torch.arange(float(torch.Size(sides).numel())).reshape(1, *sides)
    size = Size(*sides)
    axes, tensor = image_axes(size), image
    for _ in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(tensor.dim())))
            axes, tensor = axes.permuted(order), tensor.permute(order)
            continue
        shape = _shape(data, tensor.numel())
        reshaped = axes.reshaped(shape)
        if reshaped is None:
            continue
        axes, tensor = reshaped, tensor.reshape(shape)
    assert axes.shape == tuple(tensor.shape)
    assert torch.equal(axes.from_image(image), tensor)
    assert torch.equal(to_image(tensor, axes, size), image)


def _shape(data: st.DataObject, values: int) -> list[int]:
    shape = []
    while values > 1 and len(shape) < 4:
        divisors = [d for d in range(1, values + 1) if values % d == 0]
        shape.append(data.draw(st.sampled_from(divisors)))
        values //= shape[-1]
    return [*shape, values]


def test_axes_that_no_view_has_are_none() -> None:
    axes = image_axes(Size(4, 6, 5))
    assert axes.reshaped((1, 3, 40)) is None
    tokens = axes.reshaped((1, 4, 30))
    assert tokens is not None and tokens.permuted((0, 2, 1)).shape == (1, 30, 4)
    assert isinstance(tokens, Axes)


def test_a_network_of_torch_alone_is_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"runs no layer of this network: .*'cumsum'"):
        Compiled(Cumulative().eval(), 1)(torch.rand(1, 3, 4, 4))


class Cumulative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 1)


def test_a_compiled_network_is_copied_and_pickled() -> None:
    fast, image = thinlens.compile(Islands().eval(), threads=1), torch.rand(1, 3, 9, 17)
    expected = fast(image)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(other(image), expected)
    assert fast.eval() is fast and fast.to("cpu", torch.float32) is fast
    for wrong in (fast.train, lambda: fast.to(torch.float16), lambda: fast.to("meta")):
        with pytest.raises(UsageError, match="a compiled network"):
            wrong()


def test_a_half_module_runs_in_float32() -> None:
    module, image = Islands().eval(), torch.rand(1, 3, 9, 17)
    fast = thinlens.compile(copy.deepcopy(module).half(), threads=1)
    with torch.inference_mode():
        torch.testing.assert_close(fast(image), module(image), rtol=1e-2, atol=1e-2)


def test_the_report_of_kernels_has_every_convolution() -> None:
    torch.manual_seed(0)
    wide = nn.Conv2d(16, 16, 3, padding=1)
    grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
    module = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), wide, grouped).eval()
    convs = kernel_report(Compiled(module, 1), Size(3, 24, 24))
    assert [conv["layer"] for conv in convs] == ["0", "1", "2"]
    assert [conv["dense_kernel"] for conv in convs] == ["dense", "winograd", "sparse"]
    assert all(conv["ms"] > 0 and conv["dense_ms"] > 0 for conv in convs)


def test_the_report_lists_the_parts_in_order() -> None:
    parts = segment_report(Compiled(Islands().eval(), 1), Size(3, 24, 24))
    assert {part["kind"] for part in parts} == {"engine", "torch"}
    assert sum(part["layers"] for part in parts if part["kind"] == "engine") == 4
    assert all(part["ms"] > 0 for part in parts)
    assert any("'sort'" in why for part in parts for why in part["why"])
