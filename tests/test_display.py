"""The `repr` of pruned networks and checkpoints, and their tables for notebooks."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cli_cases import sr_checkpoint
from thinlens.api import load_checkpoint
from thinlens.sparsity.pattern import Pattern, Pruned


@given(st.integers(1, 6), st.randoms())
def test_a_line_counts_kept_weights(layers: int, random: object) -> None:
    module = nn.Sequential(*(nn.Conv2d(4, 4, 1, bias=False) for _ in range(layers)))
    patterns = {}
    for index, layer in enumerate(module):
        assert isinstance(layer, nn.Conv2d)
        mask = torch.rand(layer.weight.shape) < 0.5
        patterns[str(index)] = Pattern(mask, 4, 4) if index % 2 else Pattern(mask)
    line = repr(Pruned(module, patterns))
    kept = sum(pattern.kept for pattern in patterns.values())
    assert line.startswith(f"Pruned(Sequential: {layers} layers pruned (")
    assert f"; {kept:,} of {16 * layers:,} parameters)" in line
    assert "single weights in" in line


def test_a_checkpoint_names_model_task_and_bytes(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(sr_checkpoint(tmp_path / "sr"))
    assert repr(checkpoint).startswith("Checkpoint(rfdn: sr x2, no layer pruned, ")
    assert repr(checkpoint).endswith(f"{checkpoint.bytes:,} bytes)")
    assert len(repr(checkpoint)) < 200


class Cells(HTMLParser):
    """Collects the cells of a table, and checks that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_notebook_shows_every_layer_in_a_table() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 1))
    html = Pruned(module, {"0": Pattern(torch.eye(4).bool()[..., None, None], 1, 4)})._repr_html_()
    parser = Cells()
    parser.feed(html)
    assert not parser.open
    assert parser.rows == 2
    assert re.search(r"<td>0</td><td>4x4x1x1</td><td>1:4</td><td>25.0%</td>", html)
