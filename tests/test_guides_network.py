"""docs/adding-a-network.md, executed: one file and one line are a network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import thinlens
from guides import code_blocks, imported
from thinlens.checkpoints.format import load
from thinlens.models import MODELS, create, image_channels, registry_name
from thinlens.models.fingerprint import fingerprint
from thinlens.sparsity.prunable import find_layers
from thinlens.tasks import TASKS, make_task

GUIDE = Path(__file__).parents[1] / "docs" / "adding-a-network.md"

FILE = "python src/thinlens/models/espcn.py"
LINE = "python src/thinlens/models/__init__.py"
USE = "python"


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Add the guide's file and line from outside the package; return the network's name."""
    blocks = code_blocks(GUIDE)
    assert set(blocks) == {FILE, LINE, USE}
    module = imported(tmp_path / "espcn.py", blocks[FILE], "thinlens.models.espcn")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    added = eval(f"{{{blocks[LINE]}}}", {"espcn": module})
    for key, entry in added.items():
        monkeypatch.setitem(MODELS, key, entry)
    monkeypatch.chdir(tmp_path)
    (key,) = added
    yield key


def tiny(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create(name, **MODELS[name].tiny).eval()


def test_the_file_begins_with_a_statement() -> None:
    first = code_blocks(GUIDE)[FILE].splitlines()[0]
    assert first.startswith('"""')
    assert first.endswith('."""')


def test_the_entry_is_consistent(name: str) -> None:
    entry, network = MODELS[name], create(name)
    assert entry.task in TASKS
    assert set(entry.widths) <= set(vars(entry.config))
    assert (network.config, type(network)) == (entry.config, entry.build)
    assert registry_name(network) == name
    assert image_channels(network) == entry.channels
    assert sum(p.numel() for p in tiny(name).parameters()) < 20_000
    assert name in thinlens.list_models("esp*")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_any_size_gives_an_image_of_the_right_size(name: str, scale: int) -> None:
    network = create(name, **{**MODELS[name].tiny, "scale": scale})
    for height, width in [(1, 1), (2, 17), (17, 3)]:
        with torch.no_grad():
            output = network(torch.rand(2, 3, height, width))
        assert output.shape == (2, 3, scale * height, scale * width)
        assert output.isfinite().all()


def test_every_parameter_has_a_gradient(name: str) -> None:
    network = tiny(name).train()
    network(torch.rand(1, 3, 33, 35)).square().mean().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_its_layers_are_prunable(name: str) -> None:
    layers = find_layers(create(name), (1, 3, 24, 24), m=32)
    assert {layer.name: layer.prunable for layer in layers} == {
        "head.0": False,  # the first convolution
        "body.0": True,
        "tail.0": True,
    }


def test_a_pruned_network_round_trips(name: str, tmp_path: Path) -> None:
    pruned = thinlens.prune(tiny(name), budget="1/2", method="one-shot", m=4, size=(24, 24))
    image = torch.rand(1, 3, 20, 21)
    thinlens.save(tmp_path / "saved", pruned, model=name, task=make_task("sr"))
    loaded = load(tmp_path / "saved")
    assert torch.equal(loaded.module(image), pruned.module(image))
    assert loaded.patterns.keys() == pruned.patterns.keys()
    assert loaded.task == {"name": "sr", "scale": 4}


def test_a_fingerprint_holds_the_name(name: str) -> None:
    network = tiny(name)
    before = fingerprint(network)
    assert before == fingerprint(tiny(name))
    del MODELS[name]  # restored with the fixture
    assert fingerprint(network) != before


@pytest.mark.usefixtures("name")
def test_the_use_of_the_guide_runs() -> None:
    exec(compile(code_blocks(GUIDE)[USE], str(GUIDE), "exec"), {})
