"""Receptive fields are measured once for each network, and anew for another one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from native_engine import built
from thinlens.engine.compiled import Compiled
from thinlens.models import create
from thinlens.restoration import field_cache, tiled
from thinlens.restoration.field_cache import FILE_NAME, cached_field
from thinlens.restoration.network import Network
from thinlens.restoration.receptive_field import ReceptiveField
from thinlens.restoration.tiled import Tiler

FIELD = ReceptiveField(radius=7, effective_radius=7, grid=2, error=1e-7)


class Measurement:
    """Returns a field, and counts its calls."""

    def __init__(self, field: ReceptiveField = FIELD) -> None:
        self.field, self.calls = field, 0

    def __call__(self) -> ReceptiveField:
        self.calls += 1
        return self.field


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(field_cache, "cache_folder", lambda: tmp_path)
    return tmp_path


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return create("dncnn-17", width=8, depth=3).eval()


def calls(network: Network, channels: int = 1, margin: int | None = None) -> int:
    """Count the measurements of a network whose field may be stored."""
    measurement = Measurement()
    assert cached_field(network, channels, margin, measurement) == FIELD
    return measurement.calls


def test_a_field_is_measured_once_by_network_channels_and_margin() -> None:
    assert [calls(tiny()) for _ in range(3)] == [1, 0, 0]
    assert calls(tiny(), channels=3) == 1
    assert calls(tiny(), margin=4) == 1
    assert [calls(tiny()), calls(tiny(), channels=3), calls(tiny(), margin=4)] == [0, 0, 0]


def test_changed_weights_layers_and_types_are_measured_anew() -> None:
    calls(tiny())
    weights, layer = tiny(), tiny()
    next(weights.parameters()).data.view(-1)[0] += 1e-6
    name = next(name for name, part in layer.named_modules() if isinstance(part, nn.ReLU))
    layer.set_submodule(name, nn.LeakyReLU())
    assert [calls(x) for x in (weights, layer, tiny().double())] == [1, 1, 1]


@built
def test_the_engine_is_measured_beside_torch() -> None:
    assert [calls(tiny()), calls(Compiled(tiny(), 1)), calls(Compiled(tiny(), 2))] == [1, 1, 1]
    assert calls(Compiled(tiny(), 1)) == 0


def test_networks_of_other_packages_are_measured_every_time(folder: Path) -> None:
    assert [calls(nn.Conv2d(1, 1, 3)) for _ in range(2)] == [1, 1]
    assert not (folder / FILE_NAME).exists()


def test_other_sources_are_other_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls(tiny())
    monkeypatch.setattr(field_cache, "_sources", lambda: "other")
    assert calls(tiny()) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 3}', b"[" * 10**5])
def test_a_damaged_file_counts_as_empty(content: bytes, folder: Path) -> None:
    (folder / FILE_NAME).write_bytes(content)
    assert [calls(tiny()), calls(tiny())] == [1, 0]


@pytest.mark.parametrize(
    "entry",
    [
        [-1, 1, 1, 0.0, None],
        [1, 1, 0, 0.0, None],
        [1, 1, 1, math.nan, None],
        [1, 1, 1, 0.0, 1.5],
        [True, 1, 1, 0.0, None],
        [1, 1, 1, 0.0],
        {},
    ],
)
def test_an_entry_that_is_no_field_is_dropped(entry: object) -> None:
    assert field_cache._field(entry) is None


@pytest.mark.parametrize(
    "field", [FIELD, ReceptiveField(None, 0, 1, math.inf), ReceptiveField(None, 4, 1, 0.5, 4)]
)
def test_every_field_is_stored_as_it_is(field: ReceptiveField) -> None:
    first, second = Measurement(field), Measurement()
    assert cached_field(tiny(), 1, None, first) == cached_field(tiny(), 1, None, second) == field
    assert second.calls == 0


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_cache, "cache_folder", lambda: Path("/dev/null/cache"))
    assert [calls(tiny()), calls(tiny())] == [1, 1]


def test_the_second_tiler_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    field = Tiler(tiny(), 1).receptive_field
    monkeypatch.setattr(tiled, "measure_receptive_field", Measurement(FIELD))
    assert Tiler(tiny(), 1).receptive_field == field != FIELD
