"""docs/adding-a-method.md, executed: one file and one line are a pruning method."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import thinlens
from cli_cases import run
from guides import code_blocks, imported
from small_networks import crossed
from thinlens.errors import UsageError
from thinlens.methods import METHODS
from thinlens.sparsity.layout import canonical, in_groups
from thinlens.sparsity.masking import prunable_layer

GUIDE = Path(__file__).parents[1] / "docs" / "adding-a-method.md"

FILE = "python src/thinlens/methods/random_nm.py"
LINE = "python src/thinlens/methods/__init__.py"
USE = "python"


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Add the guide's file and line from outside the package; return the method's name."""
    blocks = code_blocks(GUIDE)
    assert set(blocks) == {FILE, LINE, USE}
    module = imported(tmp_path / "random_nm.py", blocks[FILE], "thinlens.methods.random_nm")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    added = eval(f"{{{blocks[LINE]}}}", {"random_nm": module})
    (key,) = added
    monkeypatch.setitem(METHODS, key, added[key])
    yield key


def test_the_method_of_the_guide_prunes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    scope = {"thinlens": thinlens, "network": crossed()}
    exec(code_blocks(GUIDE)[USE], scope)
    assert capsys.readouterr().out == "0.25\n"
    pruned = scope["pruned"]
    assert pruned.patterns
    for layer_name, pattern in pruned.patterns.items():
        layer = prunable_layer(pruned.module, layer_name)
        assert (in_groups(canonical(pattern.mask, layer), 4, fill=0).sum(1) == 1).all()
        assert (layer.weight[~pattern.mask] == 0).all()


def test_its_options_are_checked(name: str) -> None:
    options = {"budget": "1/4", "method": name, "m": 4, "size": (16, 16)}
    with pytest.raises(UsageError, match="distribution 'luck': wanted uniform or magnitude"):
        thinlens.prune(crossed(), **options, distribution="luck")
    with pytest.raises(UsageError, match=f"{name} has no option 'speed'"):
        thinlens.prune(crossed(), **options, speed=1)
    one, other = (thinlens.prune(crossed(), **options, mask_seed=seed) for seed in (0, 1))
    assert not torch.equal(one.patterns["body"].mask, other.patterns["body"].mask)


def test_its_flags_are_on_the_command_line(name: str) -> None:
    shown = " ".join(run("prune", name, "--help").out.split())
    for text in (
        "--distribution",
        "uniform",
        "--mask-seed",
        "Seed of the random scores.",
        "Keep N random weights",
    ):
        assert text in shown
