"""Arithmetic on single values: every operation against float64, in all kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from native_engine import BF16, KERNELS, built
from thinlens.engine import stream
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.ops import OPERATIONS, activation, arithmetic, function
from thinlens.errors import UsageError

pytestmark = built

CONSTANT = torch.tensor([0.5, -1.5, 3.0])[None, :, None, None]
"""One value per channel."""

Function = Callable[[Tensor, Tensor], Tensor]

OPERATORS: dict[str, Function] = {
    "relu": lambda x, c: F.relu(x),
    "leaky_relu": lambda x, c: F.leaky_relu(x, 0.1),
    "prelu": lambda x, c: torch.prelu(x, c.flatten()),
    "_prelu_kernel": lambda x, c: F.prelu(x, c[:, 2].flatten()),
    "relu6": lambda x, c: F.relu6(x),
    "hardtanh": lambda x, c: F.hardtanh(x, -0.5, 0.75),
    "hardsigmoid": lambda x, c: F.hardsigmoid(x),
    "hardswish": lambda x, c: F.hardswish(x),
    "silu": lambda x, c: F.silu(x),
    "gelu": lambda x, c: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "mish": lambda x, c: F.mish(x),
    "elu": lambda x, c: F.elu(x, 0.7) + F.selu(x),
    "celu": lambda x, c: F.celu(x, 2.0),
    "softplus": lambda x, c: F.softplus(x, 2.0),
    "log_sigmoid_forward": lambda x, c: F.logsigmoid(x),
    "abs": lambda x, c: torch.abs(x),
    "sqrt": lambda x, c: torch.sqrt(x.abs()),
    "exp": lambda x, c: torch.exp(x),
    "expm1": lambda x, c: torch.expm1(x),
    "log": lambda x, c: torch.log(x.abs() + 0.01),
    "log1p": lambda x, c: torch.log1p(x.abs()),
    "sigmoid": lambda x, c: torch.sigmoid(x),
    "tanh": lambda x, c: torch.tanh(x),
    "erf": lambda x, c: torch.erf(x),
    "floor": lambda x, c: torch.floor(x),
    "add": lambda x, c: torch.add(x, x.abs(), alpha=0.25) + c,
    "sub": lambda x, c: torch.sub(c, x, alpha=2.0) - x.exp(),
    "rsub": lambda x, c: torch.rsub(x, 0.1, alpha=3.0),
    "mul": lambda x, c: x * x.tanh() * c,
    "div": lambda x, c: (x - 1) / (1 + x * x) / c + 2 / (x.abs() + 0.1),
    "reciprocal": lambda x, c: torch.reciprocal(x.abs() + 0.1),
    "neg": lambda x, c: torch.neg(x),
    "square": lambda x, c: torch.square(x),
    "rsqrt": lambda x, c: torch.rsqrt(x.abs() + 0.01),
    "pow": lambda x, c: x**2 + x**5 + (x.abs() + 0.1) ** -3 + (x.abs() + 0.1) ** 2.2,
    "maximum": lambda x, c: torch.maximum(x, 1 - x),
    "minimum": lambda x, c: torch.minimum(x, x * c),
    "clamp": lambda x, c: x.clamp(-0.3, 0.4),
    "clamp_min": lambda x, c: torch.clamp_min(x, 0.2),
    "clamp_max": lambda x, c: torch.clamp_max(x, 0.2),
    "addcmul": lambda x, c: torch.addcmul(x, x.abs(), x, value=0.5),
    "addcdiv": lambda x, c: torch.addcdiv(x, x.abs(), x.exp(), value=0.5),
    "lerp": lambda x, c: torch.lerp(x, x.abs(), 0.3),
}
"""By ATen name, a use of it."""


class Network(nn.Module):
    """A function as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.constant: Tensor
        self.register_buffer("constant", CONSTANT)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.constant)


def values(*size: int) -> Tensor:
    torch.manual_seed(sum(size))
    return 3 * torch.randn(1, 3, *size)


def test_every_operation_of_the_family_has_a_use() -> None:
    family = {
        f.__module__ for f in (activation.lower_relu, arithmetic.lower_add, function.lower_abs)
    }
    assert {n for n, f in OPERATIONS.items() if f.__module__ in family} == set(OPERATORS)


@pytest.mark.parametrize("kernels", [*KERNELS, *BF16])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operation_is_that_of_torch_in_float64(name: str, kernels: str) -> None:
    module = Network(OPERATORS[name])
    fast = Compiled(module, 2, kernels)
    for size in ((1, 1), (9, 163)):
        image = values(*size)
        if kernels in BF16:
            image = image.bfloat16().float()
        expected = OPERATORS[name](image.double(), CONSTANT.double())
        assert "pointwise" in fast.plan(Size(3, *size)).steps
        error = (fast(image).double() - expected).abs()
        assert (error <= 1e-6 * (1 + expected.abs())).all(), float(error.max())


@pytest.mark.parametrize("kernels", KERNELS[-1:])
@pytest.mark.parametrize("name", OPERATORS)
def test_special_values_are_those_of_torch(name: str, kernels: str) -> None:
    special = [
        float("nan"),
        float("inf"),
        -float("inf"),
        0.0,
        -0.0,
        1e-40,
        90.0,
        -90.0,
        1e30,
        -1e30,
    ]
    image = torch.tensor(special).reshape(1, 1, 1, -1).expand(1, 3, 2, len(special)).contiguous()
    module = Network(OPERATORS[name])
    got, single = Compiled(module, 1, kernels)(image), module(image)
    double = OPERATORS[name](image.double(), CONSTANT.double())
    agree = torch.isclose(got, single, rtol=1e-5, atol=1e-5, equal_nan=True)
    exact = torch.isclose(got.double(), double, rtol=1e-5, atol=1e-5, equal_nan=True)
    # Near the ends of the range of float32 torch's own results depend on its order of operations.
    odd = (got.abs() > 1e20) & (double.abs() > 1e20) | got.isnan() & double.isinf()
    assert (agree | exact | odd).all(), (image[~(agree | exact | odd)], got[~(agree | exact | odd)])


class Inplace(nn.Module):
    """In-place twins, and arithmetic of tensors that are read again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.act = nn.PReLU(8)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.a(x))
        z = F.silu(self.b(y), inplace=True).mul_(0.5).add_(y)
        z.sub_(1.0).div_(2.0).clamp_(-1.0, 1.0)
        return self.act(self.b(z)) * torch.sigmoid_(z * y) - y


@pytest.mark.parametrize("kernels", KERNELS)
def test_in_place_twins_give_what_torch_gives(kernels: str) -> None:
    torch.manual_seed(0)
    module, image = Inplace().eval(), torch.randn(1, 3, 17, 41)
    fast = Compiled(module, 2, kernels)
    with torch.inference_mode():
        torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)
    steps = ["input", "conv", "conv", "pointwise", "conv", "pointwise", "unpack"]
    assert fast.plan(Size(3, 17, 41)).steps == steps


class Broadcasts(nn.Module):
    """A value per channel, a value per pixel and one value, each with a whole tensor."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.head, self.one = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 1, 1)
        self.squeeze, self.tail = nn.Conv2d(5, 5, 1), nn.Conv2d(5, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        per_pixel = self.one(y)
        per_channel = torch.sigmoid(self.squeeze(F.max_pool2d(y, self.side)))
        single = F.max_pool2d(per_pixel, self.side)
        z = F.silu(y) * per_channel + per_pixel / (single.abs() + 1) - per_channel
        return self.tail(torch.maximum(z, per_pixel * per_channel))


@pytest.mark.parametrize("kernels", [*KERNELS, *BF16])
def test_broadcasts_give_what_torch_gives_and_stream(
    kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    for side in (2, 19):
        module, image = Broadcasts(side).eval(), torch.randn(1, 3, side, side)
        monkeypatch.setattr(stream, "CACHE_BYTES", 0)
        whole = Compiled(module, 1, kernels)(image)
        monkeypatch.undo()
        with torch.inference_mode():
            near = 0.05 if kernels in BF16 else 1e-5
            torch.testing.assert_close(whole, module(image), rtol=near, atol=near)
        for rows, threads in ((1, 2), (2, 3)):
            monkeypatch.setattr(stream, "MIN_BLOCK_ROWS", rows)
            fast = Compiled(module, threads, kernels)
            assert torch.equal(fast(image), whole)
            monkeypatch.undo()


PAIRS: list[Function] = [
    lambda x, y: x + 0.5 * y,
    lambda x, y: x * torch.sigmoid(y),
    lambda x, y: torch.maximum(x, y) - 1,
    lambda x, y: x / (1 + y * y),
    lambda x, y: F.leaky_relu(0.3 * x - y, 0.2),
    lambda x, y: F.gelu(x),
    lambda x, y: x,
    lambda x, y: torch.tanh(2 * x + 0.5),
]


class Random(nn.Module):
    """Functions of two earlier tensors each."""

    def __init__(self, plan: list[tuple[int, int, int]]) -> None:
        super().__init__()
        self.plan = plan

    def forward(self, x: Tensor) -> Tensor:
        tensors = [x, x * 0.5 + 1]
        for kind, one, other in self.plan:
            pair = tensors[one % len(tensors)], tensors[other % len(tensors)]
            tensors.append(PAIRS[kind](*pair))
        return tensors[-1] + tensors[-2]


steps = st.tuples(st.integers(0, len(PAIRS) - 1), st.integers(0, 20), st.integers(0, 20))


@settings(max_examples=15)
@given(st.lists(steps, min_size=1, max_size=16))
def test_merging_changes_no_result(plan: list[tuple[int, int, int]]) -> None:
    module, image = Random(plan), torch.randn(1, 2, 5, 33)
    expected = module(image.double())
    error = (Compiled(module, 1)(image).double() - expected).abs()
    assert (error <= 1e-4 * (1 + expected.abs().max())).all()


def test_what_cannot_be_broadcast_is_named() -> None:
    module = Network(lambda x, c: x + c.reshape(1, 1, 3, 1))
    with pytest.raises(UsageError, match=r"one value or one per channel, not \(1, 1, 3, 1\)"):
        Compiled(module, 1)(torch.zeros(1, 3, 3, 5))
