"""Reports: tables, figures and pages hold exactly their content."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from thinlens.errors import UsageError
from thinlens.report.layer_plots import draw_layers
from thinlens.report.search_plots import draw_searches, rank_correlation
from thinlens.report.side_by_side import MARGIN, Panel, draw_side_by_side, most_detailed_square
from thinlens.report.tables import Table, format_giga, format_integer
from thinlens.sparsity.pattern import pattern_from_ranks
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.sparsity.summary import CostSummary, summarize

cells = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=6)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(cells, min_size=n, max_size=n))))
def test_every_cell_of_a_table_is_in_its_markdown(rows: list[list[str]]) -> None:
    columns = [f"c{i}" for i in range(len(rows[0]) if rows else 2)]
    lines = Table(columns, rows).markdown().splitlines()
    assert len(lines) == 2 + len(rows)
    for row, line in zip(rows, lines[2:], strict=True):
        columns = re.split(r"(?<!\\)\|", line)[1:-1]
        assert [cell.strip() for cell in columns] == [c.replace("|", "\\|").strip() for c in row]


def test_columns_of_numbers_are_aligned_right() -> None:
    table = Table(("name", "bytes"), [("a", "1,234"), ("b", "-")], "Sizes")
    assert table.markdown() == "**Sizes**\n\n| name | bytes |\n| --- | ---: |\n" + (
        "| a | 1,234 |\n| b | - |\n"
    )
    assert '<td class="number">1,234</td>' in table.html()
    assert "<td>a</td>" in table.html()


def test_html_is_escaped() -> None:
    html = Table(("a<b",), [("<script>",)], "x & y").html()
    assert "<script>" not in html
    assert "a&lt;b" in html
    assert "x &amp; y" in html


def test_a_row_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells under 2"):
        Table(("a", "b"), [("1",)])


def test_numbers_are_written_for_people() -> None:
    assert (format_integer(826800), format_giga(39_860_085_120)) == ("826,800", "39.86")


def test_a_comparison_holds_the_panels_pixels(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 20, 30, generator=generator), torch.rand(1, 20, 30)]
    draw_side_by_side(
        tmp_path / "a.png", [Panel("one\n1 dB", images[0]), Panel("two", images[1])], 2
    )
    with Image.open(tmp_path / "a.png") as picture:
        sheet = np.asarray(picture)
    for index, image in enumerate(images):
        left = MARGIN + index * (60 + MARGIN)
        drawn = sheet[MARGIN : MARGIN + 40 : 2, left : left + 60 : 2]
        wanted = (image * 255).round().expand(3, -1, -1).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(drawn, wanted.astype(np.uint8))


def test_panels_of_two_sizes_are_refused(tmp_path: Path) -> None:
    panels = [Panel("a", torch.zeros(3, 4, 4)), Panel("b", torch.zeros(3, 4, 5))]
    with pytest.raises(UsageError, match="one size"):
        draw_side_by_side(tmp_path / "a.png", panels)
    assert not list(tmp_path.iterdir())


def test_the_detail_is_where_the_texture_is() -> None:
    image = torch.zeros(3, 64, 96)
    image[:, 32:48:2, 64:80] = 1.0
    top, left = most_detailed_square(image, 16)
    assert abs(top - 32) <= 2
    assert abs(left - 64) <= 2


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 3, 3))


def test_a_cost_summary_counts_only_kept_weights() -> None:
    module = small()
    layer = module[1]
    assert isinstance(layer, nn.Conv2d)
    pattern = pattern_from_ranks(magnitude_ranks(layer.weight, layer, 4), 1, 4)
    dense = summarize(module, {}, (3, 16, 16), m=4)
    thin = summarize(module, {"1": pattern}, (3, 16, 16))
    removed = int((~pattern.mask).sum())
    assert dense.total.params - thin.total.params == removed
    assert dense.total.macs - thin.total.macs == removed * 12 * 12
    assert (dense.budget, thin.budget) == (1.0, 0.25)
    entry = thin.entries()[1]
    assert (entry["n"], entry["m"], entry["prunable"]) == (1, 4, True)
    assert entry["macs"] == 8 * 8 * 9 * 12 * 12 // 4
    assert dense.entries()[1]["n"] is dense.entries()[1]["m"] is None


def test_the_layer_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    thin = searched([1, 3])
    draw_layers(tmp_path / "layers.png", thin, "title")
    with Image.open(tmp_path / "layers.png") as picture:
        assert picture.format == "PNG"
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_layers(tmp_path / "none.png", summarize(small(), {}, (3, 16, 16), m=4), "title")


def test_without_matplotlib_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'thinlens\[plots\]'"):
        draw_layers(tmp_path / "layers.png", searched([1, 3]), "title")


def searched(n: Sequence[int], widths: Sequence[int] = ()) -> CostSummary:
    """Return the costs of 3x3 convolutions that keep `n` of 4; a pixel shuffle follows the last."""
    widths = widths or [4 * (index + 1) for index in range(len(n))]
    sizes = [*widths, 12]
    chain = [nn.Conv2d(a, b, 3) for a, b in itertools.pairwise(sizes)]
    module = nn.Sequential(nn.Conv2d(3, widths[0], 3), *chain, nn.PixelShuffle(2))
    patterns = {
        str(i): pattern_from_ranks(magnitude_ranks(layer.weight, layer, 4), keep, 4)
        for i, (layer, keep) in enumerate(zip(chain, n, strict=True), start=1)
    }
    return summarize(module, patterns, (3, 32, 32), m=4)


def test_layers_before_a_pixel_shuffle_are_marked() -> None:
    assert [layer.before_pixel_shuffle for layer in searched([1, 1, 1]).layers] == [
        False,
        False,
        False,
        True,
    ]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.randoms())
def test_the_rank_correlation_is_scipys(n: list[int], random: Random) -> None:
    """Equal ranks included: widths repeat. Without `enlarging` the last layer does not count."""
    stats = pytest.importorskip("scipy.stats")
    thin = searched(n, [random.choice([4, 8, 12]) for _ in n])
    for enlarging in (True, False):
        layers = thin.pruned_layers if enlarging else thin.pruned_layers[:-1]
        macs, kept = [x.macs for x in layers], [thin.n[x.name] for x in layers]
        correlation = rank_correlation(thin, enlarging=enlarging)
        if len(layers) < 3 or len(set(macs)) == 1 or len(set(kept)) == 1:
            assert correlation is None
        else:
            assert correlation == pytest.approx(stats.spearmanr(macs, kept).statistic)


def test_the_history_of_searches_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = [
        {"step": i, "cost": 1 / i, "lambda": 0.1 * i, "task_loss": 1.0 / i, "flips": 5 - i}
        for i in range(1, 5)
    ]
    runs = {"annealed": {"history": history, "frozen_step": 3}}
    runs["constant"] = {"history": history[:2], "frozen_step": None}
    draw_searches(tmp_path / "search.png", runs, "title")
    with Image.open(tmp_path / "search.png") as picture:
        assert picture.format == "PNG"
    for bad in ({}, {"one-shot": {"history": []}}):
        with pytest.raises(UsageError, match="wanted records of sls"):
            draw_searches(tmp_path / "none.png", bad, "title")
    assert not (tmp_path / "none.png").exists()
