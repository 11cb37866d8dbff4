"""A checkpoint folder loads exactly what was saved, at every moment."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from small_layers import Toy, ToyConfig, assert_same, thin, toy
from thinlens import models
from thinlens.checkpoints import shipped
from thinlens.checkpoints.format import load, packed_bytes, save
from thinlens.checkpoints.shipped import resolve
from thinlens.errors import UsageError
from thinlens.models import MODELS
from thinlens.models.entry import ModelEntry
from thinlens.sparsity.masking import attach, prunable_layer, strip
from thinlens.sparsity.pattern import Pattern, SharedRanks
from thinlens.sparsity.ranks import magnitude_ranks

TASK = {"name": "sr", "scale": 4}
THIN = {"head": (1, 3), "grouped": (2, 4), "up": (1, 4), "linear": (1, 8)}


@pytest.fixture(autouse=True)
def toy_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(models.MODELS, "toy", ModelEntry(Toy, ToyConfig(), "sr"))
    yield


def assert_same_patterns(one: dict[str, Pattern], other: dict[str, Pattern]) -> None:
    assert list(one) == list(other)
    for mine, yours in zip(one.values(), other.values(), strict=True):
        assert (mine.n, mine.m) == (yours.n, yours.m)
        assert torch.equal(mine.mask, yours.mask)


def prunable_names(network: nn.Module) -> list[str]:
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    return [name for name, part in network.named_modules() if isinstance(part, kinds)]


def test_a_folder_gives_back_what_was_saved(tmp_path: Path) -> None:
    network = toy()
    patterns = thin(network, THIN)
    record = {"method": "least-squares", "budget": 0.25, "record": {"seconds": 1.5, "n": None}}
    size = save(tmp_path, network, model="toy", task=TASK, patterns=patterns, provenance=record)
    checkpoint = load(tmp_path)
    assert_same(checkpoint.module, network)
    assert_same_patterns(checkpoint.patterns, patterns)
    assert (checkpoint.model, checkpoint.task, checkpoint.provenance) == ("toy", TASK, record)
    assert (checkpoint.ranks, checkpoint.module.training) == ({}, False)
    assert checkpoint.module.again is checkpoint.module.grouped
    assert all(parameter.requires_grad for parameter in checkpoint.module.parameters())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "model.safetensors"}
    assert size == checkpoint.bytes == (tmp_path / "model.safetensors").stat().st_size
    assert size == packed_bytes(network, patterns)


def test_config_json_has_the_documented_content(tmp_path: Path) -> None:
    network = toy()
    save(tmp_path, network, model="toy", task=TASK, patterns=thin(network, {"linear": (1, 8)}))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["format"] == 1
    assert config["config"] == {"width": 8, "gain": 1.0, "norm": True}
    assert set(config["versions"]) == {"thinlens", "torch"}
    entries = {entry.pop("name"): entry for entry in config["tensors"]}
    assert entries["linear.weight"] == {
        **{"encoding": "bitmask", "n": 1, "m": 8, "shape": [5, 8], "dtype": "float32"},
    }
    assert entries["norm.num_batches_tracked"]["dtype"] == "int64"
    assert not [name for name in entries if name.startswith("again")]


@pytest.mark.parametrize("name", MODELS)
def test_every_network_comes_back(name: str, tmp_path: Path) -> None:
    entry = MODELS[name]
    torch.manual_seed(0)
    network = entry.build(entry.make_config(**entry.tiny)).eval()
    patterns = thin(network, dict.fromkeys(prunable_names(network)[1:-1], (1, 4)))
    save(tmp_path, network, model=name, task={}, patterns=patterns)
    random = torch.get_rng_state()
    checkpoint = load(tmp_path)
    assert torch.equal(torch.get_rng_state(), random)
    assert_same(checkpoint.module, network)
    assert_same_patterns(checkpoint.patterns, patterns)
    image = torch.rand(1, entry.channels, 9, 10)
    with torch.no_grad():
        assert torch.equal(checkpoint.module(image), network(image))


def test_rfdn_at_4_of_32_is_at_most_0_17_of_the_dense_file(tmp_path: Path) -> None:
    network = MODELS["rfdn"].build(MODELS["rfdn"].config)
    dense = save(tmp_path, network, model="rfdn", task={})
    divisible = [
        name
        for name in prunable_names(network)
        if prunable_layer(network, name).weight.shape[1] % 32 == 0
    ]
    patterns = thin(network, dict.fromkeys(divisible, (4, 32)))
    packed = save(tmp_path, network, model="rfdn", task={}, patterns=patterns)
    assert packed / dense <= 0.17
    assert_same(load(tmp_path).module, network.eval())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_element_type_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    network = toy().to(dtype)
    patterns = thin(network, THIN)
    save(tmp_path, network, model="toy", task={}, patterns=patterns)
    checkpoint = load(tmp_path)
    assert_same(checkpoint.module, network)
    assert_same_patterns(checkpoint.patterns, patterns)


def test_ranks_of_shared_weights_come_back(tmp_path: Path) -> None:
    network = toy()
    ranked = SharedRanks(magnitude_ranks(network.head.weight, network.head, 3), 3)
    save(tmp_path, network, model="toy", task={}, patterns={"head": ranked})
    checkpoint = load(tmp_path)
    assert_same(checkpoint.module, network)
    assert checkpoint.patterns == {}
    assert checkpoint.ranks["head"].m == 3
    assert torch.equal(checkpoint.ranks["head"].ranks, ranked.ranks)


def test_what_strip_gives_is_what_load_gives(tmp_path: Path) -> None:
    network = toy()
    attach(network, thin(toy(), THIN))
    plain, patterns = strip(network)
    save(tmp_path, plain, model="toy", task={}, patterns=patterns)
    assert_same(load(tmp_path).module, plain)


def test_a_channels_last_network_comes_back(tmp_path: Path) -> None:
    network = toy().to(memory_format=torch.channels_last)
    save(tmp_path, network, model="toy", task={}, patterns=thin(network, THIN))
    assert_same(load(tmp_path).module, network)


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    good = toy()
    save(tmp_path, good, model="toy", task={})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    dead = Pattern(torch.zeros_like(good.head.weight, dtype=torch.bool), 1, 3)
    worn = toy()
    attach(worn, {"head": dead})
    wider, narrower = toy(), toy()  # what has lost channels may be narrower, if it runs
    wider.linear = nn.Linear(300, 5, bias=False)
    narrower.linear = nn.Linear(3, 5, bias=False)
    cases = [
        (good, "toy", {"head": dead}, "strip it first"),
        (worn, "toy", {}, "parametrizations"),
        (wider, "toy", {}, "linear.weight"),
        (narrower, "toy", {}, "smaller than those of its config, and so the network cannot run"),
        (good, "rfdn", {}, "no option"),
        (good, "nothing", {}, "unknown network"),
        (nn.Linear(2, 2), "toy", {}, "no config"),
        (good, "toy", {"tail": dead}, "no layer 'tail'"),
    ]
    for network, model, patterns, problem in cases:
        with pytest.raises(UsageError, match=problem):
            save(tmp_path, network, model=model, task={}, patterns=patterns)
    with pytest.raises(TypeError):
        save(tmp_path, good, model="toy", task={}, provenance={"bad": object()})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    save(tmp_path, toy(), model="toy", task={})
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model": "dncnn-17", "config": {"depth": 3}}))
    with pytest.raises(UsageError, match="not those of dncnn-17") as caught:
        load(tmp_path)
    assert str(path) in str(caught.value)


def test_a_record_that_is_not_finite_comes_back(tmp_path: Path) -> None:
    save(tmp_path, toy(), model="toy", task={}, provenance={"psnr": math.inf})
    assert load(tmp_path).provenance == {"psnr": math.inf}


def test_a_name_means_a_folder_or_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path / "weights")
    save(tmp_path / "weights" / "toy-x4", toy(), model="toy", task={})
    save(tmp_path / "mine", toy(), model="toy", task={})
    monkeypatch.chdir(tmp_path)
    assert resolve("mine") == Path("mine")
    assert resolve(tmp_path / "mine") == tmp_path / "mine"
    assert resolve("toy-x4") == tmp_path / "weights" / "toy-x4"
    (tmp_path / "toy-x4").mkdir()
    assert resolve("toy-x4") == tmp_path / "weights" / "toy-x4"
    for wrong in ("toy-x3", "weights", "../weights/toy-x3", "", "\0"):
        with pytest.raises(UsageError, match="toy-x4"):
            resolve(wrong)


def test_the_golden_folder_of_format_1_loads_forever() -> None:
    """Made by `python tests/test_checkpoints.py`; never make it anew for a released format."""
    checkpoint = load(Path(__file__).parent / "golden" / "format-1")
    network, patterns, ranked = golden()
    assert_same(checkpoint.module, network)
    assert_same_patterns(checkpoint.patterns, patterns)
    assert torch.equal(checkpoint.ranks["B1.c4"].ranks, ranked.ranks)
    assert checkpoint.task == {"name": "sr", "scale": 2}
    assert checkpoint.provenance["method"] == "by hand"


def golden() -> tuple[nn.Module, dict[str, Pattern], SharedRanks]:
    """An RFDN with every encoding in it; its weights follow from their place."""
    network = MODELS["rfdn"].build(
        MODELS["rfdn"].make_config(scale=2, width=16, attention_width=2, blocks=1)
    )
    for tensor in network.state_dict(keep_vars=True).values():
        places = torch.arange(tensor.numel(), dtype=torch.float32)
        tensor.data = ((places * 37) % 101 - 50).div(64).reshape(tensor.shape)
    numbers = {"B1.c1_r": (1, 16), "B1.c2_r": (4, 8), "B1.c3_r": (3, 10), "LR_conv": (4, 4)}
    patterns = thin(network, numbers)
    ranked = SharedRanks(magnitude_ranks(network.B1.c4.weight, network.B1.c4, 8), 8)
    return network.eval(), patterns, ranked


def test_any_safetensors_reader_reads_the_file(tmp_path: Path) -> None:
    network = toy()
    save(tmp_path, network, model="toy", task={}, patterns=thin(network, {"linear": (1, 8)}))
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert torch.equal(tensors["head.weight"], network.head.weight)
    assert tensors["linear.weight/values"].shape == (5,)


if __name__ == "__main__":
    module, masks, shared = golden()
    save(
        Path(__file__).parent / "golden" / "format-1",
        module,
        model="rfdn",
        task={"name": "sr", "scale": 2},
        patterns={**masks, "B1.c4": shared},
        provenance={"method": "by hand", "budget": 0.25},
    )
