"""Tables that building a network gives are not stored, and are verified when it is loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thinlens
from thinlens.checkpoints.built_buffers import SMALLEST_BUFFER
from thinlens.errors import UsageError

NETWORK = """
import torch
from torch import nn

FACTOR = 1

class Table(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Conv2d(3, 3 * width, 3, padding=1)
        self.head = nn.Conv2d(3 * width, 3, 1)
        self.register_buffer("table", FACTOR * torch.arange(400))
        self.register_buffer("noise", torch.rand(400))
        self.register_buffer("trained", torch.zeros(400))
        self.register_buffer("small", torch.arange(4))

    def forward(self, image):
        return self.head(self.body(image) * self.table[7] + self.noise[0] + self.trained[0])

def make(width=4):
    return Table(width)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "table_networks.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "table_networks", raising=False)
    return "table_networks"


def saved(package: str, folder: Path, **options: Any) -> nn.Module:
    network: nn.Module = __import__(package).make().eval()
    network.trained.fill_(0.5)  # type: ignore[operator, union-attr]
    thinlens.save(folder, network, model=f"{package}:make", **options)
    return network


def config(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("store", [None, "fp16"])
def test_what_building_gives_is_not_stored(package: str, tmp_path: Path, store: str | None) -> None:
    network = saved(package, tmp_path / "a", store=store)
    content = config(tmp_path / "a")
    assert list(content["built"]) == ["table"]
    stored = {entry["name"] for entry in content["tensors"]}
    assert stored >= {"noise", "trained", "small"} and "table" not in stored
    assert SMALLEST_BUFFER <= 400 * 8
    loaded = thinlens.load(tmp_path / "a", allow=(package,))
    state = loaded.module.state_dict()
    for name, tensor in network.state_dict().items():
        expected = tensor.half().float() if store and tensor.is_floating_point() else tensor
        assert torch.equal(state[name], expected)
    thinlens.save(tmp_path / "b", loaded)
    assert config(tmp_path / "b")["built"] == content["built"]


def test_a_package_that_builds_another_table_is_refused(package: str, tmp_path: Path) -> None:
    saved(package, tmp_path / "a")
    sys.modules[package].FACTOR = 2  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"a cannot be used: table is not stored, .* another"):
        thinlens.load(tmp_path / "a", allow=(package,))


@pytest.mark.parametrize(
    ("built", "why"),
    [
        ({"body.weight": "0"}, "stored, or of other shapes"),
        ({"table": "0", "nothing": "0"}, "unexpected: 'nothing'"),
        ({"table": 0}, "no object of strings"),
        (["table"], "no object of strings"),
        ({}, "missing: 'table'"),
    ],
)
def test_hostile_lists_are_refused(package: str, tmp_path: Path, built: Any, why: str) -> None:
    saved(package, tmp_path / "a")
    content = config(tmp_path / "a")
    content["built"] = built
    (tmp_path / "a" / "config.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=why):
        thinlens.load(tmp_path / "a", allow=(package,))


def test_a_weight_is_never_left_out(package: str, tmp_path: Path) -> None:
    saved(package, tmp_path / "a")
    content = config(tmp_path / "a")
    content["tensors"] = [x for x in content["tensors"] if x["name"] != "body.weight"]
    content["built"]["body.weight"] = "0"
    (tmp_path / "a" / "config.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"body\.weight is a weight, which the file lacks"):
        thinlens.load(tmp_path / "a", allow=(package,))
