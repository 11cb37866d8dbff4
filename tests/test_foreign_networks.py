"""Networks of other packages are imported, saved and loaded; nothing else of a file runs."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import thinlens
from thinlens.checkpoints.pretrained import import_network
from thinlens.checkpoints.spandrel_networks import build_published
from thinlens.checkpoints.state_dicts import WRAPPER_KEYS
from thinlens.cli.main import main
from thinlens.errors import UsageError
from thinlens.models import MODELS, create
from thinlens.models.source import NetworkSource, set_source, source_of
from thinlens.tasks import make_task

needs_spandrel = pytest.mark.skipif(
    importlib.util.find_spec("spandrel") is None, reason="spandrel is not installed"
)

SMALL: dict[str, dict[str, Any]] = {
    "ESRGAN": {"num_filters": 8, "num_blocks": 1, "scale": 4},
    "SPAN": {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8, "upscale": 2},
    "DnCNN": {"in_nc": 1, "out_nc": 1, "nc": 8, "nb": 4, "act_mode": "R"},
    "RealCUGAN.UpCunet2x": {},
    "PLKSR.RealPLKSR": {"dim": 16, "n_blocks": 1, "upscaling_factor": 2},
}
"""Architectures by name and parameters that make them small."""

PREFIXES = ("module.", "_orig_mod.", "net_g.", "model.", "generator.", "netG.", "my_network.")


def random_network() -> nn.Module:
    torch.manual_seed(0)
    return create("dncnn-17", depth=3, width=4)


def assert_same(module: nn.Module, state: dict[str, Tensor]) -> None:
    loaded = module.state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def image(module: nn.Module, channels: int, side: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        result: Tensor = module(torch.rand(1, channels, side, side, generator=generator))
    return result


def test_torchvision_is_absent() -> None:
    """What is tested here works without it."""
    assert importlib.util.find_spec("torchvision") is None


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wrappers=st.lists(st.sampled_from(WRAPPER_KEYS), max_size=3),
    prefixes=st.lists(st.sampled_from(PREFIXES), max_size=3),
    counter=st.booleans(),
    half=st.booleans(),
    suffix=st.sampled_from((".pth", ".PTH", ".ckpt", ".bin", ".pt")),
)
def test_any_wrapper_and_prefix_is_taken_off(
    tmp_path: Path, wrappers: list[str], prefixes: list[str], counter: bool, half: bool, suffix: str
) -> None:
    state = random_network().state_dict()
    if half:
        state = {name: tensor.half().float() for name, tensor in state.items()}
    stored = {name: tensor.half() if half else tensor for name, tensor in state.items()}
    content: dict[str, Any] = {"".join(prefixes) + name: x for name, x in stored.items()}
    if counter:
        content |= {"step": torch.tensor(7), "epoch": 3, "note": "text"}
    for wrapper in wrappers:
        content = {wrapper: content, "optimizer": {"lr": 0.1}, "iteration": 5}
    path = tmp_path / f"a{suffix}"
    torch.save(content, path)
    imported = import_network(path)
    assert imported.model == "dncnn-17"
    assert_same(imported.module, state)


@pytest.mark.parametrize("name", MODELS)
def test_our_networks_are_detected_by_their_tensors(name: str, tmp_path: Path) -> None:
    entry = MODELS[name]
    torch.manual_seed(0)
    module = entry.build(entry.make_config(**entry.tiny))
    torch.save(module.state_dict(), tmp_path / "a.pth")
    try:
        imported = import_network(tmp_path / "a.pth")
    except UsageError as error:  # networks that differ in what no tensor shows
        assert f"--model {name}" in str(error)
        return
    assert type(imported.module) is type(module)
    assert_same(imported.module, module.state_dict())


def test_a_critic_beside_the_generator_is_left_out(tmp_path: Path) -> None:
    state = random_network().state_dict()
    names = {f"net_g.{name}": tensor for name, tensor in state.items()}
    critic = {"net_d.0.weight": torch.ones(3), "loss.weight": torch.ones(2)}
    torch.save({"state_dict": {**critic, **names}}, tmp_path / "a.ckpt")
    assert_same(import_network(tmp_path / "a.ckpt").module, state)


def test_objects_of_other_programs_do_not_run(tmp_path: Path) -> None:
    class Options:
        def __init__(self) -> None:
            self.width = 4

    Options.__module__, Options.__qualname__ = __name__, "Options"
    globals()["Options"] = Options
    state = random_network().state_dict()
    torch.save({"params": state, "args": Options()}, tmp_path / "a.pth")
    del globals()["Options"]
    assert_same(import_network(tmp_path / "a.pth").module, state)


def test_a_file_named_in_capitals_loads(tmp_path: Path) -> None:
    state = random_network().state_dict()
    safetensors.torch.save_file(state, tmp_path / "a.SAFETENSORS")
    assert_same(import_network(tmp_path / "a.SAFETENSORS").module, state)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"7767517\n75 83\n", "ncnn model"),
        (b"\x08\x07\x12\x07pytorch\x1a\x051.9", "ONNX model"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UsageError, match=reason):
        import_network(tmp_path / "a.pth")


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state = random_network().state_dict()
    next(iter(state.values()))[0] = float("nan")
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UsageError, match="NaN or infinite"):
        import_network(tmp_path / "a.pth")


def test_an_unknown_file_is_described(tmp_path: Path) -> None:
    state = random_network().state_dict()
    state["model.8.weight"] = torch.ones(2, 2)
    torch.save({"params": state}, tmp_path / "a.pth")
    with pytest.raises(UsageError) as caught:
        import_network(tmp_path / "a.pth")
    for part in ("holds 7 tensors under 'params'", "model.0.weight", "near are dncnn-"):
        assert part in str(caught.value)


def test_a_file_of_weights_is_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(random_network().state_dict(), tmp_path / "a.pth")
    assert thinlens.load(tmp_path / "a.pth").model == "dncnn-17"
    assert main(["info", str(tmp_path / "a.pth"), "--size", "32x32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "dncnn-17"


@needs_spandrel
@pytest.mark.parametrize("name", SMALL)
def test_networks_of_spandrel_round_trip(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = build_published(name, SMALL[name]).eval()
    thinlens.save(tmp_path / "saved", module)
    loaded = thinlens.load(tmp_path / "saved")
    channels = 1 if name == "DnCNN" else 3
    assert loaded.model == f"spandrel:{name}"
    torch.testing.assert_close(image(loaded.module, channels, 32), image(module, channels, 32))
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert not {"merged", "output", "stored", "narrowed"} & config.keys()


@needs_spandrel
def test_weights_of_spandrel_are_detected(tmp_path: Path) -> None:
    module = build_published("SPAN", SMALL["SPAN"]).eval()
    torch.save({"params": module.state_dict()}, tmp_path / "a.pth")
    imported = import_network(tmp_path / "a.pth")
    assert (imported.model, imported.task) == ("spandrel:SPAN", make_task("sr", scale=2))
    named = import_network(tmp_path / "a.pth", "spandrel:SPAN")
    assert torch.equal(image(named.module, 3), image(module, 3))
    with pytest.raises(UsageError, match="does not fit spandrel:ESRGAN"):
        import_network(tmp_path / "a.pth", "spandrel:ESRGAN")


@needs_spandrel
def test_a_pruned_network_is_saved_without_arguments(tmp_path: Path) -> None:
    module = build_published("DnCNN", SMALL["DnCNN"]).eval()
    pruned = thinlens.prune(module, budget="1/2", method="one-shot", m=4, size=(16, 16))
    thinlens.save(tmp_path / "thin", pruned)
    loaded = thinlens.load(tmp_path / "thin")
    assert loaded.patterns.keys() == pruned.patterns.keys()
    assert torch.equal(image(loaded.module, 1), image(pruned.module, 1))


@needs_spandrel
@pytest.mark.parametrize(
    "config",
    [
        {"num_filters": 2**40},
        {"num_filters": 60_000},
        {"num_blocks": 65_536},
        {"scale": 2**16},
        {"num_filters": "8"},
        {"surprise": 1},
        {"in_nc": [[[[[[[[[[1]]]]]]]]]]},
        {"num_filters": float("inf")},
    ],
)
def test_absurd_parameters_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    thinlens.save(tmp_path, build_published("ESRGAN", SMALL["ESRGAN"]))
    content = json.loads((tmp_path / "config.json").read_text())
    content["config"] |= config
    (tmp_path / "config.json").write_text(json.dumps(content))
    started = time.process_time()
    with pytest.raises(UsageError, match="cannot be used"):
        thinlens.load(tmp_path)
    assert time.process_time() - started < 3


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of a user, which leaves a trace where it is imported."""
    (tmp_path / "user_networks.py").write_text(
        f"""
from pathlib import Path
from torch import nn
Path({str(tmp_path / "imported")!r}).touch()

def make(width=8):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 1))

def make_normed():
    middle = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), middle, nn.Conv2d(8, 3, 1))
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "user_networks", raising=False)
    return "user_networks"


def test_a_factory_is_imported_where_it_is_allowed_only(package: str, tmp_path: Path) -> None:
    folder, trace = tmp_path / "saved", tmp_path / "imported"
    network = __import__(package).make(4)
    thinlens.save(folder, network, model=f"{package}:make", arguments={"width": 4})
    trace.unlink()
    del sys.modules[package]
    with pytest.raises(UsageError, match=f"--allow {package}"):
        thinlens.load(folder)
    with pytest.raises(UsageError, match="not allowed"):
        thinlens.load(folder, allow=("user",))
    assert not trace.exists()
    loaded = thinlens.load(folder, allow=(package,))
    assert trace.exists()
    assert torch.equal(image(loaded.module, 3), image(network, 3))
    thinlens.save(tmp_path / "again", loaded)
    assert main(["info", str(folder), "--size", "32x32"]) == 2
    assert main(["info", str(folder), "--size", "32x32", "--allow", package]) == 0


def test_merged_weights_are_merged_again_before_they_are_loaded(
    package: str, tmp_path: Path
) -> None:
    network = __import__(package).make_normed().eval()
    set_source(network, NetworkSource(f"{package}:make_normed"))
    pruned = thinlens.prune(network, budget="1/2", method="one-shot", m=4, size=(16, 16))
    thinlens.save(tmp_path / "thin", pruned)
    loaded = thinlens.load(tmp_path / "thin", allow=(package,))
    source = source_of(loaded.module)
    assert source is not None
    assert source.merged
    assert torch.equal(image(loaded.module, 3), image(pruned.module, 3))
    pruned = thinlens.prune(
        __import__(package).make_normed(), budget="1/2", m=4, size=(16, 16), method="one-shot"
    )
    thinlens.save(tmp_path / "named", pruned, model=f"{package}:make_normed")
    loaded = thinlens.load(tmp_path / "named", allow=(package,))
    assert torch.equal(image(loaded.module, 3), image(pruned.module, 3))


def test_a_factory_that_builds_another_network_is_refused(package: str, tmp_path: Path) -> None:
    network = __import__(package).make(4)
    for model, arguments, reason in (
        (f"{package}:make", {"width": 8}, "builds 0.weight shaped"),
        (f"{package}:make", {"depth": 8}, "fails with these arguments"),
        (f"{package}:build", {}, "no function build"),
        ("no_such_package:make", {}, "cannot be imported"),
        ("__main__:make", {}, "script"),
        (None, None, "wanted model='package.module:function'"),
    ):
        with pytest.raises(UsageError, match=reason):
            thinlens.save(tmp_path / "no", network, model=model, arguments=arguments)
        assert not (tmp_path / "no").exists()


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    network = create("dncnn-17", depth=4, width=32)
    whole = thinlens.save(tmp_path / "whole", network)
    half = thinlens.save(tmp_path / "half", network, store="fp16")
    assert half < 0.6 * whole
    loaded = thinlens.load(tmp_path / "half").module
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    expected = {n: x.half().float() for n, x in network.state_dict().items()}
    assert_same(loaded, expected)
    with torch.no_grad():
        next(network.parameters()).fill_(1e6)
    with pytest.raises(UsageError, match="float16 does not hold"):
        thinlens.save(tmp_path / "no", network, store="fp16")
    with pytest.raises(UsageError, match="wanted fp16"):
        thinlens.save(tmp_path / "no", network, store="fp8")


@pytest.mark.needs_data
def test_every_published_file_is_detected(data: Path, tmp_path: Path) -> None:
    expected = {
        "dncnn_25": "dncnn-17",
        "DnCNN-B": "dncnn-20",
        "DnCNN-S-15": "dncnn-17",
        "wacv_gcanet_dehaze": "gcanet-edge",
        "RFDN_AIM": "rfdn-aim",
        "realesr-animevideov3": "srvgg",
        "realesrgan-x4plus-anime": "rrdb",
    }
    if importlib.util.find_spec("spandrel") is not None:
        expected |= {
            "spanx4-ch48": "spandrel:SPAN",
            "realcugan-se-up2x-no-denoise": "spandrel:RealCUGAN.UpCunet2x",
        }
    files = {path.stem: path for path in (data / "weights").rglob("*.pth")}
    for stem, model in expected.items():
        assert import_network(files[stem]).model == model
