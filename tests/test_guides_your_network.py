"""docs/your-network.md, executed: a network of another file is pruned, saved, loaded and used."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import thinlens
from cli_cases import run
from guides import code_blocks, imported
from thinlens.cli.main import main
from thinlens.models.output import select_output

GUIDE = Path(__file__).parents[1] / "docs" / "your-network.md"

FILE = "python imdn.py"
PRUNE = "python"
USE = "python use"
COMMANDS = "sh imdn"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a folder with photographs; the guide's file can be imported there."""
    blocks = code_blocks(GUIDE)
    assert set(blocks) == {"sh", FILE, PRUNE, USE, COMMANDS}
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


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_commands_of_the_guide_run(folder: Path, wrapped: bool) -> None:
    """Weights as a training program wraps them are taken, too."""
    state = sys.modules["imdn"].imdn(16, 2).state_dict()
    if wrapped:
        state = {"params_ema": {f"module.{name}": x.half() for name, x in state.items()}}
    torch.save(state, folder / "weights.pth")
    for line in code_blocks(GUIDE)[COMMANDS].strip().splitlines():
        ran = run(*shlex.split(line)[1:])
        assert ran.status == 0, ran.err
    with Image.open(folder / "large-imdn" / "a.png") as image:
        assert image.size == (4 * 48, 4 * 40)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--arguments", "[1]"], "JSON object"),
        (["--arguments", '{"width": 3}'], "fails with these arguments"),
        (
            ["--arguments", '{"channels": 20, "blocks": 2}'],
            "fit imdn:imdn: head.weight is",
        ),
        (["--arguments", '{"channels": 16}'], "blocks.2.c1.weight is missing"),
        (["--model", "imdn:nothing"], "has no function nothing"),
        (["--model", "rfdn-aim", "--output", "1"], "package.module:function"),
    ],
)
def test_weights_that_do_not_fit_are_a_sentence(
    folder: Path, flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(sys.modules["imdn"].imdn(16, 2).state_dict(), folder / "weights.pth")
    model = [] if "--model" in flags else ["--model", "imdn:imdn"]
    assert main(["import", "weights.pth", "--out", "dense", *model, *flags]) == 2
    assert sentence in capsys.readouterr().err
    assert not (folder / "dense").exists()


def test_the_output_of_several_is_named(folder: Path) -> None:
    """A network that returns a dictionary keeps the image that the command line names."""
    (folder / "scales.py").write_text(SCALES)
    module = imported(folder / "scales.py", SCALES, "scales")
    torch.save(module.scales().state_dict(), folder / "weights.pth")
    for flags, factor in (([], 2), (["--output", "same"], 1)):
        ran = run("import", "weights.pth", "--model", "scales:scales", "--out", "dense", *flags)
        assert ran.status == 0, ran.err
        module = thinlens.load("dense", allow=("scales",)).module
        assert select_output(module(torch.rand(1, 3, 8, 8))).shape[-1] == factor * 8
        shutil.rmtree("dense")


SCALES = """
from torch import nn


class Scales(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image):
        same = self.body(image)
        return {"same": same, "large": nn.functional.interpolate(same, scale_factor=2)}


def scales():
    return Scales()
"""


def test_a_factory_is_imported_only_where_it_is_allowed(folder: Path) -> None:
    exec(compile(code_blocks(GUIDE)[PRUNE], str(GUIDE), "exec"), {})
    del sys.modules["imdn"]
    with pytest.raises(thinlens.UsageError, match="allow"):
        thinlens.load("thin")
    assert "imdn" not in sys.modules
