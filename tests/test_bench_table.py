"""Does the script behind `make bench` print its tables, and measure nothing twice?"""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from cli_cases import sr_checkpoint
from native_engine import built

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "engines.py"


@built
def test_the_tables_are_printed_and_measured_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"precision": "fp32", "against": "torch-channels-last", "out": tmp_path / "out"}
    small = str(sr_checkpoint(tmp_path / "small", width=32))
    script = runpy.run_path(str(SCRIPT))["Engines"]
    engines = script(networks=(small,), size="9x8", threads=1, rounds=2, **own)
    engines.run()
    printed = capsys.readouterr().out
    engines.run()
    assert capsys.readouterr().out == printed  # times are never the same twice: they were read
    content = json.loads((tmp_path / "out" / "small.json").read_text())
    ours = [row["pattern"] for row in content["rows"] if row["engine"] == "thinlens"]
    assert ours == ["dense", "8:32", "4:32", "2:32"]
    assert all(row["max_abs_error"] < 1e-4 for row in content["rows"])
    best = content["best_dense"]["fp32"]["ms"]
    for pattern, factor in content["speedup"].items():
        assert f"{factor['fp32']:.2f}" in printed
        (row,) = (row for row in content["rows"] if row["pattern"] == pattern)
        assert factor["fp32"] == pytest.approx(best / row["ms_median"])
    assert content["scaling"] == {}
    replace(engines, threads=2).run()
    content = json.loads((tmp_path / "out" / "small.json").read_text())
    assert content["scaling"]["fp32"].keys() == {"8:32", "4:32", "2:32"}
    assert "2 threads over one" in capsys.readouterr().out
    replace(engines, rounds=1).run()
    assert capsys.readouterr().out != printed  # other settings are another measurement
