"""Other programs' weights are imported, or refused with the reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from thinlens.checkpoints.pretrained import import_weights
from thinlens.errors import UsageError
from thinlens.models import MODELS, create

SMALL = {"depth": 3, "width": 4}


@pytest.fixture
def source() -> nn.Module:
    torch.manual_seed(0)
    return create("dncnn-17", **SMALL)


def assert_equal(module: nn.Module, state: dict[str, Tensor]) -> None:
    assert list(module.state_dict()) == list(state)
    assert all(torch.equal(module.state_dict()[name], state[name]) for name in state)


@pytest.mark.parametrize("wrapper", [None, "params_ema", "params", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_and_prefixed_weights_load(
    source: nn.Module, tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    state = source.state_dict()
    content = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({wrapper: content, "epoch": 3} if wrapper else content, tmp_path / "a.pth")
    random = torch.get_rng_state()
    module = import_weights(tmp_path / "a.pth", "dncnn-17", **SMALL)
    assert torch.equal(torch.get_rng_state(), random)
    assert not module.training
    assert_equal(module, state)


def test_the_average_is_preferred(source: nn.Module, tmp_path: Path) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in source.state_dict().items()}
    torch.save({"params": zeros, "params_ema": source.state_dict()}, tmp_path / "a.pth")
    assert_equal(import_weights(tmp_path / "a.pth", "dncnn-17", **SMALL), source.state_dict())


def test_safetensors_load(source: nn.Module, tmp_path: Path) -> None:
    safetensors.torch.save_file(source.state_dict(), tmp_path / "a.safetensors")
    module = import_weights(tmp_path / "a.safetensors", "dncnn-17", **SMALL)
    assert_equal(module, source.state_dict())


def test_what_does_not_fit_is_named(source: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    state = source.state_dict()
    first = next(iter(state))
    many = {f"extra.{number}.bias": torch.zeros(1) for number in range(5)}
    for content, problem in (
        ({n: t for n, t in state.items() if "4" not in n}, "missing model.4.weight, model.4.bias"),
        ({**state, **many}, "unexpected 'extra.0.bias', 'extra.1.bias', 'extra.2.bias' and 2 more"),
        ({**state, first: state[first][:2]}, f"misshapen {first} is"),
    ):
        torch.save(content, path)
        with pytest.raises(UsageError, match=re.escape(problem)) as caught:
            import_weights(path, "dncnn-17", **SMALL)
        assert str(path) in str(caught.value)


def test_what_is_no_state_dict_is_refused(tmp_path: Path, source: nn.Module) -> None:
    cases: dict[str, object] = {
        "a list": [1, 2],
        "nothing": {},
        "a whole module": source,
        "numbers": {"a": 1},
        "keys of numbers": {1: torch.ones(1)},
        "sparse": {"a": torch.eye(3).to_sparse()},
        "complex": {"a": torch.ones(1, dtype=torch.complex64)},
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        with pytest.raises(UsageError) as caught:
            import_weights(path, "dncnn-17", **SMALL)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    whole = tmp_path / "whole.pth"
    torch.save({"a": torch.ones(1000)}, whole)
    for content in (b"", b"text", whole.read_bytes()[:2000], b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="cannot be read") as caught:
            import_weights(path, "dncnn-17", **SMALL)
        assert str(path) in str(caught.value)
    with pytest.raises(UsageError, match="is no file"):
        import_weights(tmp_path, "dncnn-17")
    with pytest.raises(UsageError, match="unknown network"):
        import_weights(path, "gan")
    with pytest.raises(UsageError, match="no option 'scale'"):
        import_weights(path, "dncnn-17", scale=2)


@pytest.mark.needs_data
@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("DnCNN_KAIR/dncnn_25.pth", "dncnn-17"),
        ("DnCNN_SaoYan/DnCNN-S-15.pth", "dncnn-17"),
        ("DnCNN_SaoYan/DnCNN-S-25.pth", "dncnn-17"),
        ("DnCNN_SaoYan/DnCNN-S-50.pth", "dncnn-17"),
        ("DnCNN_SaoYan/DnCNN-B.pth", "dncnn-20"),
        ("RFDN_AIM/RFDN_AIM.pth", "rfdn-aim"),
        ("GCANet/wacv_gcanet_dehaze.pth", "gcanet-edge"),
    ],
)
def test_published_weights_load(data: Path, file: str, model: str) -> None:
    """How well they restore is the business of `evaluate`'s tests."""
    path = data / "weights" / file
    module = import_weights(path, model)
    published = torch.load(path, weights_only=True, map_location="cpu")
    image = torch.rand(1, MODELS[model].channels, 20, 20)
    with torch.no_grad():
        change = module(image)[..., :20, :20] - image
    assert torch.isfinite(change).all()
    first = next(tensor for tensor in published.values() if tensor.dim() == 4)
    assert torch.equal(next(module.parameters()), first)


@pytest.mark.needs_data
def test_weights_of_another_network_are_refused(data: Path) -> None:
    for model in ("edsr", "dncnn-17", "dncnn-20", "carn"):
        with pytest.raises(UsageError, match=f"does not fit {model}: missing"):
            import_weights(data / "weights/RFDN_AIM/RFDN_AIM.pth", model)
    for model in ("rfdn-aim", "dncnn-20-rgb"):
        with pytest.raises(UsageError, match=f"does not fit {model}"):
            import_weights(data / "weights/DnCNN_KAIR/dncnn_25.pth", model)
    with pytest.raises(UsageError, match="does not fit rfdn: misshapen"):
        import_weights(data / "weights/RFDN_AIM/RFDN_AIM.pth", "rfdn")
