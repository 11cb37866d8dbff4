"""docs/your-network.md, executed: a network of another file is pruned, saved, loaded and used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import thinlens
from guides import code_blocks, imported

GUIDE = Path(__file__).parents[1] / "docs" / "your-network.md"

FILE = "python imdn.py"
PRUNE = "python"
USE = "python use"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a folder with photographs; the guide's file can be imported there."""
    blocks = code_blocks(GUIDE)
    assert set(blocks) == {"sh", FILE, PRUNE, USE}
    module = imported(tmp_path / "imdn.py", blocks[FILE], "imdn")
    monkeypatch.setitem(sys.modules, "imdn", module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    yield tmp_path


def test_the_guide_runs(folder: Path) -> None:
    names: dict[str, object] = {}
    for key in (PRUNE, USE):
        exec(compile(code_blocks(GUIDE)[key], str(GUIDE), "exec"), names)
    with Image.open(folder / "large" / "a.png") as image:
        assert image.size == (4 * 48, 4 * 40)


def test_a_factory_is_imported_only_where_it_is_allowed(folder: Path) -> None:
    exec(compile(code_blocks(GUIDE)[PRUNE], str(GUIDE), "exec"), {})
    del sys.modules["imdn"]
    with pytest.raises(thinlens.UsageError, match="allow"):
        thinlens.load("thin")
    assert "imdn" not in sys.modules
