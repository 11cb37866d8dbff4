"""Half precision on another device: the same path on the CPU, as no machine of ours has a GPU."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cli_cases import images, run, sr_checkpoint
from thinlens.engine import on_device, selected_engine
from thinlens.engine.on_device import HalfPrecisionNetwork, resolve_device
from thinlens.engine.selected_engine import SelectedEngine
from thinlens.errors import UsageError
from thinlens.images.reading import read_image
from thinlens.models import create
from thinlens.models.fingerprint import fingerprint
from thinlens.restoration.folder import restore_folder
from thinlens.restoration.network import device_of, dtype_of
from thinlens.restoration.tiled import restore_image
from thinlens.tasks import make_task

CPU = torch.device("cpu")


def denoiser() -> nn.Module:
    torch.manual_seed(0)
    return create("dncnn-17", depth=4, width=16, channels=3).eval()


@pytest.mark.parametrize("tile", [None, 32])
def test_half_precision_is_within_half_a_level(tile: int | None) -> None:
    network, image = denoiser(), torch.rand(3, 70, 90)
    half = HalfPrecisionNetwork(network, CPU)
    assert (device_of(half), dtype_of(half)) == (CPU, torch.float16)
    result = restore_image(half, image, tile=tile)
    assert result.dtype == torch.float32
    assert float((result - restore_image(network, image)).abs().max()) < 0.5 / 255


def test_the_copy_is_channels_last_and_the_network_as_before() -> None:
    network = denoiser()
    half = HalfPrecisionNetwork(network, CPU)
    weights = [p for p in half.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert all(p.dtype == torch.float32 for p in network.parameters())
    assert fingerprint(half) == fingerprint(network)


class Large(nn.Module):
    """Activations beyond 65,504, the largest number of half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 1e4))

    def forward(self, image: Tensor) -> Tensor:
        return image * self.weight * self.weight / self.weight / self.weight


def test_what_half_precision_does_not_hold_runs_in_float32(
    caplog: pytest.LogCaptureFixture,
) -> None:
    half, image = HalfPrecisionNetwork(Large(), CPU), torch.rand(3, 12, 9)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            torch.testing.assert_close(restore_image(half, image), image, atol=1e-3, rtol=0)
    assert [r.message for r in caplog.records] == [
        "half precision does not hold this network's values: float32 from here on"
    ]
    assert dtype_of(half) == torch.float32
    torch.testing.assert_close(restore_image(half, image), image)


def test_a_folder_is_restored_by_the_path_of_a_gpu(tmp_path: Path) -> None:
    source, network = images(tmp_path / "in", 3, 40, 50), denoiser()
    half = HalfPrecisionNetwork(network, CPU)
    task = make_task("denoise", channels=3)
    assert restore_folder(half, task, source, tmp_path / "half").done == 3
    restore_folder(network, task, source, tmp_path / "float")
    for path in source.iterdir():
        one, other = (read_image(tmp_path / kind / path.name) for kind in ("half", "float"))
        assert int((one.int() - other.int()).abs().max()) <= 1


def test_devices_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "_is_present", lambda kind: kind in ("xpu", "mps"))
    assert resolve_device("auto") == torch.device("xpu")
    assert resolve_device("mps") == torch.device("mps")
    assert resolve_device("cpu") == CPU
    with pytest.raises(UsageError, match="--device cuda: torch has none on this machine"):
        resolve_device("cuda")
    with pytest.raises(UsageError, match="wanted"):
        resolve_device("gpu")
    monkeypatch.setattr(on_device, "_is_present", lambda kind: False)
    assert resolve_device("auto") == CPU


def test_the_engine_native_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "_is_present", lambda kind: kind == "cuda")
    with pytest.raises(UsageError, match="the engine native runs on the CPU"):
        SelectedEngine("native", "cuda")
    SelectedEngine("native", "auto")


def test_a_gpu_runs_torch_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of torch that computes nothing stands for a GPU."""
    monkeypatch.setattr(selected_engine, "resolve_device", lambda name: torch.device("meta"))
    make = SelectedEngine("auto", "auto")
    running = make(denoiser())
    assert isinstance(running, HalfPrecisionNetwork)
    assert device_of(running) == torch.device("meta")
    assert make.used == "torch"


def test_the_command_line_takes_a_device(tmp_path: Path) -> None:
    model, source = sr_checkpoint(tmp_path / "net"), images(tmp_path / "in", 1, 24, 30)
    words = ("restore", source, "--model", model, "--out", tmp_path / "out", "--device")
    assert run(*words, "cpu").status == 0
    absent = next((kind for kind in on_device.DEVICES[2:] if not on_device._is_present(kind)), None)
    if absent:
        refused = run(*words, absent)
        assert refused.status == 2
        assert f"--device {absent}: torch has none" in refused.err
