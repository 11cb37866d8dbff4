"""Laws that every network of the registry obeys: shapes, gradients, round trips, golden outputs."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from thinlens.errors import UsageError
from thinlens.models import MODELS, create, image_channels, model_entry, registry_name
from thinlens.sparsity.dry_run import dry_run
from thinlens.tasks import TASKS

GOLDEN = json.loads((Path(__file__).parent / "golden" / "outputs.json").read_text())
"""Outputs of tiny networks, with weights and input from closed formulas, when first written."""

SHIFT = 0.7
"""Any angle: an offset between the sines that fill weights and those that fill the image."""


def tiny(name: str, **options: int) -> nn.Module:
    torch.manual_seed(0)
    return create(name, **{**MODELS[name].tiny, **options})


IMAGES = [name for name in MODELS if MODELS[name].output_kind == "image"]


def scales(name: str) -> list[int]:
    return [2, 3, 4] if hasattr(MODELS[name].config, "scale") else [1]


def in_scale(name: str, scale: int) -> nn.Module:
    return tiny(name, scale=scale) if hasattr(MODELS[name].config, "scale") else tiny(name)


@pytest.mark.parametrize("name", IMAGES)
def test_any_size_gives_a_finite_image_of_the_right_size(name: str) -> None:
    channels = MODELS[name].channels
    for scale in scales(name):
        model = in_scale(name, scale).eval()
        for height in range(1, 18):
            width = 18 - height if scale != 4 else (7 * height) % 17 + 1
            with torch.no_grad():
                output = model(torch.rand(2, channels, height, width))
            assert output.shape == (2, channels, scale * height, scale * width)
            assert output.isfinite().all()


@pytest.mark.parametrize(("name", "width"), [("classifier", 3), ("mse-estimator", 1)])
def test_any_size_gives_finite_estimates(name: str, width: int) -> None:
    model = tiny(name).eval()
    for side in range(1, 18):
        output = model(torch.rand(2, MODELS[name].channels, side, 18 - side))
        assert output.shape == (2, width)
        assert output.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_a_gradient(name: str) -> None:
    model = tiny(name).train()
    # at 33 pixels the attention map of RFDN has more than one position
    model(torch.rand(1, MODELS[name].channels, 33, 35)).square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_a_state_dict_round_trip_changes_no_bit(name: str) -> None:
    model = tiny(name).eval()
    torch.manual_seed(1)
    other = create(name, **MODELS[name].tiny).eval()
    image = torch.rand(1, MODELS[name].channels, 16, 17)
    assert not torch.equal(model(image), other(image))
    other.load_state_dict(MODELS[name].convert_state(model.state_dict()))
    assert torch.equal(model(image), other(image))


def fill(model: nn.Module) -> None:
    """Give every weight a value from a closed formula, which no release of torch changes."""
    for index, (name, tensor) in enumerate(model.state_dict().items()):
        if tensor.is_floating_point():
            angles = torch.arange(tensor.numel(), dtype=torch.float64) * (index + 1) + SHIFT
            waves = angles.sin().abs() if name.endswith("running_var") else angles.sin()
            fan = tensor[0].numel()
            tensor.copy_((waves / fan**0.5).view_as(tensor))


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_golden(name: str) -> None:
    for scale in scales(name):
        model = in_scale(name, scale).eval()
        fill(model)
        image = torch.arange(MODELS[name].channels * 7 * 6, dtype=torch.float64).cos() / 2 + 0.5
        with torch.no_grad():
            output = model(image.float().view(1, MODELS[name].channels, 7, 6)).flatten()
        few = output[:: max(1, output.numel() // 5)]
        torch.testing.assert_close(
            few, torch.tensor(GOLDEN[f"{name} x{scale}"]), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", MODELS)
def test_an_entry_is_consistent(name: str) -> None:
    entry = MODELS[name]
    assert entry.task in TASKS
    assert set(entry.widths) <= set(vars(entry.config))
    model = create(name)
    assert model.config == entry.config
    assert type(model) is entry.build
    assert getattr(entry.config, "channels", 3) == entry.channels
    assert sum(p.numel() for p in tiny(name).parameters()) < 20_000


@pytest.mark.parametrize("name", MODELS)
def test_image_channels_run(name: str) -> None:
    """Not those of the first convolution: SRN's has two images as input, GCANet's an edge map."""
    channels = image_channels(tiny(name))
    assert channels == getattr(MODELS[name].config, "channels", MODELS[name].channels)
    assert dry_run(tiny(name), (1, channels, 24, 24)).outputs


def test_image_channels_of_another_package_are_those_of_the_first_convolution() -> None:
    assert image_channels(nn.Sequential(nn.ReLU(), nn.Conv2d(5, 3, 1), nn.Conv2d(3, 2, 1))) == 5
    with pytest.raises(UsageError, match="has no convolution"):
        image_channels(nn.ReLU())


def test_a_registry_name_is_the_first_of_its_config() -> None:
    assert registry_name(tiny("dncnn-20")) == "dncnn-17"
    assert registry_name(nn.Conv2d(3, 3, 1)) is None


def test_an_unknown_name_or_option_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"unknown network 'vgg': wanted one of carn, .*dncnn-17"):
        model_entry("vgg")
    with pytest.raises(UsageError, match="no option 'wings'"):
        create("edsr", wings=2)
    with pytest.raises(UsageError, match="scale 5: wanted 2, 3 or 4"):
        create("carn", scale=5)
    with pytest.raises(UsageError, match="width 0"):
        create("edsr", width=0)
    with pytest.raises(UsageError, match="not whole"):
        MODELS["rfdn-aim"].scale_widths(MODELS["rfdn-aim"].config, Fraction(3, 8))
