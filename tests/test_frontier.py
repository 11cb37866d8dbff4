"""Does the script of the frontier mark what nothing else beats, and draw it?"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "frontier.py"))


def row(ms: float, psnr: float, name: str = "net") -> dict[str, Any]:
    quality = {"Set5": psnr + 3, "Set14": psnr}
    return {
        "network": name, "kept": "1/4", "data": "D", "ms": ms, "engine": "e fp32", "psnr": quality,
    }  # fmt: skip


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(20, 30)), min_size=1, max_size=12))
def test_along_the_frontier_more_time_gives_more_quality(points: list[tuple[int, int]]) -> None:
    rows = [row(*point) for point in points]
    best = [one for one in rows if SCRIPT["is_on_frontier"](one, rows, "Set14")]
    assert best
    for one in best:
        for other in best:
            if one["ms"] < other["ms"]:
                assert one["psnr"]["Set14"] < other["psnr"]["Set14"]


def test_the_table_is_in_order_and_the_picture_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [row(30.0, 28.0, "slow"), row(10.0, 27.0, "fast"), row(40.0, 26.0, "beaten")]
    lines = SCRIPT["table"](rows, ("Set5", "Set14"))
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["**fast**", "**slow**", "beaten"]
    SCRIPT["draw"](rows, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
