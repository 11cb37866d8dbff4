"""Whole networks in bfloat16 are near float32, and refused where the CPU has none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import thinlens
from native_engine import BF16, built
from test_engine import NETWORKS, Odd, tiny
from thinlens import engine
from thinlens.engine import native
from thinlens.errors import UsageError
from thinlens.models import MODELS
from thinlens.restoration.evaluation import evaluate
from thinlens.tasks import make_task

can = pytest.mark.skipif(not BF16, reason="this CPU has no AVX512_BF16")

ROUNDING = 2.0**-8


def near(got: Tensor, wanted: Tensor) -> None:
    """Some roundings to 8 bits of what has the size of the largest value."""
    assert (got - wanted).abs().max() <= 4 * ROUNDING * wanted.abs().max().clamp(min=1.0)


@can
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_what_torch_gives(name: str) -> None:
    module = tiny(name)
    fast = engine.compile(module, threads=2, precision="bf16")
    for height, width in [(1, 1), (19, 37), (7, 200)]:
        image = torch.rand(2, MODELS[name].channels, height, width)
        with torch.inference_mode():
            near(fast(image), module(image))


@can
def test_an_odd_network_gives_what_torch_gives() -> None:
    torch.manual_seed(0)
    module = Odd().eval()
    fast = engine.compile(module, threads=1, precision="bf16")
    for height, width in [(4, 3), (21, 70), (40, 83)]:
        image = torch.randn(1, 2, height, width)
        with torch.inference_mode():
            near(fast(image), module(image))


@can
def test_the_output_is_float32() -> None:
    """A constant that bfloat16 cannot hold comes out of the last layer as it is."""
    module = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        module.weight.zero_()
        module.bias.fill_(1.0 + 2.0**-20)  # type: ignore[union-attr]
    out = engine.compile(module, precision="bf16")(torch.rand(1, 1, 3, 70))
    assert (out == 1.0 + 2.0**-20).all()


@can
@pytest.mark.needs_data
@pytest.mark.slow
def test_the_shipped_network_loses_at_most_two_hundredths_of_a_decibel(data: Path) -> None:
    module = thinlens.load("rfdn-x4").module
    task, images = make_task("sr", scale=4), data / "sr_test" / "Set5"
    full, short = (
        evaluate(engine.compile(module, precision=precision), task, images)
        for precision in ("fp32", "bf16")
    )
    assert short.psnr == pytest.approx(full.psnr, abs=0.02)


@built
def test_a_cpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    core = SimpleNamespace(available_kernels=lambda storage: ["avx2"] if storage == "fp32" else [])
    monkeypatch.setattr(native, "native", lambda: core)
    with pytest.raises(UsageError, match="this CPU has no AVX512_BF16"):
        engine.compile(nn.Conv2d(1, 1, 1), precision="bf16")


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(UsageError, match="'int8': wanted fp32, bf16, int16 or fast"):
        engine.compile(nn.Conv2d(1, 1, 1), precision="int8")
