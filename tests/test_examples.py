"""The examples run as they are written, on small networks."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import thinlens
from thinlens.experiments import photographs
from thinlens.tasks import make_task

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def few_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    monkeypatch.setattr(photographs, "CALIBRATION_FILES", ("brick.png",))


def check(thin: Any, kept: float) -> None:
    weights = sum(pattern.mask.numel() for pattern in thin.patterns.values())
    assert sum(pattern.kept for pattern in thin.patterns.values()) <= (kept + 0.05) * weights


def test_a_network_written_by_hand(few_inputs: None) -> None:
    check(example("imdn").main(channels=16, blocks=1), 1 / 4)


def test_the_network_of_the_guide_is_that_of_the_example() -> None:
    guide = (ROOT / "docs" / "your-network.md").read_text()
    block = re.search(r"```python imdn\.py\n.*?SLOPE = 0\.05\n(.*?)\n```", guide, re.S)
    assert block
    assert block[1] in (ROOT / "examples" / "imdn.py").read_text()


def test_a_network_of_spandrel(few_inputs: None) -> None:
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed")
    check(example("spandrel_network").main(channels=16), 1 / 4)


def test_a_classifier_agrees_with_the_dense_one() -> None:
    pytest.importorskip("sklearn")
    classifier = example("classifier")
    agreement = classifier.main(epochs=3, methods=("least-squares",))
    assert agreement["dense accuracy"] > 0.8
    assert agreement["least-squares agreement"] > 0.95


def test_a_classifier_is_saved_and_compiled(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    classifier = example("classifier")
    network, images = classifier.Classifier(8).eval(), torch.rand(3, 1, 8, 8)
    thin = thinlens.prune(network, budget="1/2", method="one-shot", m=4, data=images)
    assert thin.module(images).shape == (3, 10)
    torch.testing.assert_close(thinlens.compile(thin)(images), thin.module(images))
    task = make_task("restore", channels=1)
    thinlens.save(
        tmp_path / "thin", thin, model="classifier:Classifier", arguments={"width": 8}, task=task
    )
    loaded = thinlens.load(tmp_path / "thin", allow=("classifier",))
    torch.testing.assert_close(loaded.module(images), thin.module(images))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_says_how_it_is_run(path: Path) -> None:
    assert f"python examples/{path.name}" in path.read_text()
    assert path.stem in (ROOT / "examples" / "README.md").read_text()
