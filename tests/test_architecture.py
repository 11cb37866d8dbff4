"""The journeys and terms of the documentation lead to the code that they name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import thinlens

PACKAGE = Path(thinlens.__file__).parent
ROOT = PACKAGE.parents[1]
JOURNEY = re.compile(r"^\d+\. `([\w/.]+):([\w.:]+)` - ", re.M)
STEPS = JOURNEY.findall((ROOT / "docs" / "architecture.md").read_text())

TERMS = {
    "SLS, equation 4 (M units behind priorities)": ("sparsity/rank_mask.py", r"equations? 1 to 4"),
    "SLS, equation 7 (annealing)": ("methods/sls/annealing.py", "equation 7"),
    "SLS, equation 8 (adaptive inference)": ("adaptive/rule.py", "equation 8"),
    "ClassPruning, equations 4 to 7": ("methods/classpruning/stages.py", "[Ee]quations 4 to 7"),
    "a budget in milliseconds": ("methods/method.py", "def settle_budget"),
    "where a PReLU goes in the engine": ("engine/ops/activation.py", "ReLU"),
    "what writes the packed file": ("checkpoints/packing.py", "def pack"),
    "weight masks in training": ("sparsity/masking.py", "class FixedMask"),
    "cost table": ("sparsity/allocation.py", "def cost_tables"),
    "dependency groups": ("sparsity/channels.py", "[Dd]ependency group"),
    "knowledge distillation": ("training/distillation.py", "class DistilledTargets"),
    "receptive field": ("restoration/receptive_field.py", "def measure_receptive_field"),
    "tiled inference": ("restoration/tiled.py", "class Tiler"),
    "PSNR": ("tasks/metrics.py", "def psnr"),
    "operator fusion": ("engine/fuse.py", "def fuse"),
    "kernel selection": ("engine/tuner.py", "[Kk]ernel selection"),
    "interleaved timing": ("engine/timings.py", "def measure_interleaved"),
    "straight-through estimator": ("sparsity/rank_mask.py", "[Ss]traight-through"),
}
"""Terms of the field, the file that defines each, and a pattern in it."""


@pytest.mark.parametrize(("file", "name"), STEPS, ids=lambda x: str(x).replace("/", "."))
def test_a_step_of_a_journey_exists(file: str, name: str) -> None:
    if file.startswith("csrc/"):
        text = (ROOT / file).read_text()
        assert re.search(rf"\b{re.escape(name)}\(", text)
        return
    assert (PACKAGE / file).is_file()
    thing = importlib.import_module("thinlens." + file.removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        thing = getattr(thing, part)


def test_the_journeys_were_read() -> None:
    assert len(STEPS) == 26


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_defined_in_the_file_of_its_name(term: str) -> None:
    file, pattern = TERMS[term]
    assert re.search(pattern, (PACKAGE / file).read_text())


def test_nothing_below_imports_the_api() -> None:
    """The API is entered once: only what stands above it may import it."""
    above = {"api", "__init__.py", "experiments", "serve", "cli"}
    files = (p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] not in above)
    assert not [p for p in files if re.search(r"thinlens\.api|thinlens import api", p.read_text())]


def test_moved_files_are_where_the_table_has_them() -> None:
    rows = re.findall(
        r"^\| `[^`]+` \| `([^`]+)`", (ROOT / "docs" / "moved-files.md").read_text(), re.M
    )
    assert len(rows) > 100
    outside = ("csrc/", "docs/", "tests/")
    paths = [ROOT / row if row.startswith(outside) else PACKAGE / row for row in rows]
    assert not [path for path in paths if not path.exists()]
