"""What is no image, and weights that are no numbers, are refused before anything is computed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from thinlens import api
from thinlens.checkpoints import format as checkpoint_format
from thinlens.errors import UsageError
from thinlens.models import create
from thinlens.tasks import make_task
from thinlens.training.settings import Settings

IMAGE = torch.rand(1, 1, 12, 16)
DENOISE = make_task("denoise")
BROKEN = (float("nan"), float("inf"), -float("inf"))


def network() -> nn.Module:
    torch.manual_seed(0)
    return create("dncnn-17", depth=3, width=8).eval()


def broken(value: float) -> nn.Module:
    module = network()
    with torch.no_grad():
        next(module.parameters()).view(-1)[5] = value
    return module


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (IMAGE.numpy(), "an image of type ndarray: wanted a tensor"),
        (None, "an image of type NoneType"),
        ([IMAGE], "an image of type list"),
        ("a.png", "an image of type str"),
        (IMAGE.to_sparse(), "wanted image.to_dense()"),
        (IMAGE.to("meta"), "wanted float32 on the CPU, not torch.float32 on meta"),
        ((IMAGE * 255).to(torch.uint8), "not torch.uint8"),
        (IMAGE.long(), "not torch.int64"),
        (IMAGE.double(), "not torch.float64"),
        (IMAGE > 0.5, "not torch.bool"),
        (IMAGE.to(torch.complex64), "not torch.complex64"),
        (IMAGE[0], "wanted images [B, C, H, W]"),
        (torch.empty(0, 1, 8, 8), "none of them 0"),
        (torch.rand(1, 3, 12, 16), "channels"),
        (np.float32(1), "an image of type float32"),
    ],
)
def test_a_compiled_network_refuses_what_is_no_image(image: object, problem: str) -> None:
    fast = api.compile(network(), threads=1)
    with pytest.raises(UsageError, match=re.escape(problem)):
        fast(image)  # type: ignore[arg-type]
    assert fast(IMAGE).isfinite().all()  # and goes on


@pytest.mark.parametrize("value", BROKEN)
def test_weights_that_are_no_numbers_are_refused_everywhere(value: float, tmp_path: Path) -> None:
    module, pairs = broken(value), [(IMAGE[0], IMAGE[0])]
    sentence = "1 of 72 values of .* are NaN or infinite"
    with pytest.raises(UsageError, match=sentence):
        api.save(tmp_path / "saved", module, model="dncnn-17", task=DENOISE)
    with pytest.raises(UsageError, match=sentence):
        api.compile(module)
    with pytest.raises(UsageError, match=sentence):
        api.prune(module, budget="1/2", method="one-shot", m=4, size=(16, 16))
    with pytest.raises(UsageError, match=sentence):
        api.prune(module, budget="1/2", m=4, data=pairs)
    with pytest.raises(UsageError, match=sentence):
        api.train(module, pairs, settings=Settings(steps=1), state=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_such_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_format, "check_finite_network", lambda module: None)
    api.save(tmp_path, broken(float("nan")), model="dncnn-17", task=DENOISE)
    with pytest.raises(UsageError, match=f"{re.escape(str(tmp_path))}.*are NaN or infinite"):
        api.load(tmp_path)


def test_a_buffer_may_hold_infinity_and_no_nan() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    assert api.compile(module.eval())(IMAGE).isfinite().all()
    module[1].running_mean[0] = torch.nan
    with pytest.raises(UsageError, match=r"values of '1.running_mean' are NaN"):
        api.compile(module)
