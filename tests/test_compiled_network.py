"""A compiled network where programs expect a module or one of spandrel's descriptors."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import thinlens
from native_engine import built
from thinlens.engine.compiled import Compiled
from thinlens.engine.description import SizeRequirements
from thinlens.errors import UsageError
from thinlens.models import MODELS

pytestmark = built


def network() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.PixelUnshuffle(2), nn.Conv2d(12, 32, 3, padding=1), nn.PReLU(32), nn.PixelShuffle(4)
    )
    module.size_requirements = SizeRequirements(multiple_of=2)
    return module.eval()


def compiled(module: nn.Module) -> Compiled:
    fast = thinlens.compile(module, threads=1)
    assert isinstance(fast, Compiled)
    return fast


def test_copies_and_pickles_compute_the_same_bits() -> None:
    fast, image = compiled(network()), torch.rand(1, 3, 8, 12)
    expected = fast(image)
    copies = (copy.copy(fast), copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)))
    for other in copies:
        assert torch.equal(other(image), expected)
        assert other.scale == 2 and other.description == fast.description


def test_a_copy_has_weights_of_its_own() -> None:
    fast, image = compiled(network()), torch.rand(1, 3, 8, 12)
    expected = fast(image)
    other = copy.deepcopy(fast)
    with torch.no_grad():
        other.module[1].weight.zero_()
    other = copy.deepcopy(other)
    assert not torch.equal(other(image), expected)
    assert torch.equal(fast(image), expected)


def test_it_stays_in_evaluation_mode_and_on_the_cpu() -> None:
    fast = compiled(network())
    assert fast.eval() is fast and fast.train(mode=False) is fast
    assert fast.to("cpu") is fast and fast.to(torch.float32) is fast
    assert fast.to(torch.device("cpu"), non_blocking=True) is fast
    with pytest.raises(UsageError, match=r"cannot be trained: train the module, then compile"):
        fast.train()
    with pytest.raises(UsageError, match=r"runs in float32 on the CPU, not in torch\.bfloat16"):
        fast.to(torch.bfloat16)
    with pytest.raises(UsageError, match="runs in float32 on the CPU, not in cuda"):
        fast.to("cuda")


def test_it_has_the_attributes_of_a_descriptor() -> None:
    fast = compiled(network())
    assert (fast.scale, fast.input_channels, fast.output_channels) == (2, 3, 2)
    assert fast.size_requirements == SizeRequirements(multiple_of=2)
    assert (fast.device, fast.dtype) == (torch.device("cpu"), torch.float32)
    assert not fast.supports_half and not fast.supports_bfloat16
    assert isinstance(fast.model, nn.Module)
    plain = compiled(nn.Sequential(nn.Conv2d(1, 5, 3, padding=1)).eval())
    assert (plain.scale, plain.input_channels, plain.output_channels) == (1, 1, 5)
    assert plain.size_requirements.none


@pytest.mark.parametrize("name", ["rfdn", "dncnn-17", "unet"])
def test_networks_of_ours_describe_themselves(name: str) -> None:
    entry = MODELS[name]
    module = entry.build(entry.make_config(**entry.tiny)).eval()
    fast = compiled(module)
    channels = fast.input_channels
    result = fast(torch.rand(1, channels, 16, 24))
    assert result.shape == (1, fast.output_channels, 16 * fast.scale, 24 * fast.scale)


def test_a_network_that_shrinks_has_no_scale() -> None:
    fast = compiled(nn.Sequential(nn.Conv2d(3, 3, 3)).eval())
    with pytest.raises(UsageError, match="returns 62x62 for 64x64: its scale is no whole number"):
        _ = fast.scale


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 96), st.integers(1, 16))
def test_padding_is_the_least_that_is_taken(
    width: int, height: int, minimum: int, multiple: int
) -> None:
    for square in (False, True):
        rule = SizeRequirements(minimum, multiple, square)
        columns, rows = rule.get_padding(width, height)
        assert columns >= 0 and rows >= 0
        assert rule.check(width + columns, height + rows)
        if columns >= multiple and not square:
            assert width < minimum
