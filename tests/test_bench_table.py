"""Does the script behind `make bench` print its tables, and measure nothing twice?"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
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
    out = tmp_path / "out"
    own = {"precision": "fp32", "against": "torch-channels-last", "out": out, "one_process": True}
    small = str(sr_checkpoint(tmp_path / "small", width=32))
    script = runpy.run_path(str(SCRIPT))["Engines"]
    engines = script(networks=(small,), size="9x8", threads=1, rounds=2, **own)
    engines.run()
    printed = capsys.readouterr().out
    engines.run()
    assert capsys.readouterr().out == printed  # times are never the same twice: they were read
    ours, others = (
        json.loads((out / "small" / f"{engine}.json").read_text())
        for engine in ("thinlens", "torch")
    )
    assert [row["pattern"] for row in ours["rows"]] == ["dense", "8:32", "4:32", "2:32"]
    (channels_last,) = others["rows"]  # the reference beside it is in our file
    assert all(row["max_abs_error"] < 1e-4 for row in [*ours["rows"], channels_last])
    reference = ours["rows"][0]
    for row in ours["rows"]:
        assert row["speed"] == pytest.approx(reference["ms_median"] / row["ms_median"])
        assert f"{row['speed'] / channels_last['speed']:.2f}" in printed
    assert ours["scaling"] == {}
    replace(engines, threads=2).run()
    ours = json.loads((out / "small" / "thinlens.json").read_text())
    assert ours["scaling"]["fp32"].keys() == {"8:32", "4:32", "2:32"}
    assert "2 threads over one" in capsys.readouterr().out
    replace(engines, rounds=1).run()
    assert capsys.readouterr().out != printed  # other settings are another measurement


def test_an_engine_is_measured_in_a_process_with_the_same_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = runpy.run_path(str(SCRIPT))["Engines"]
    engines = script(networks=("carn",), size="9x8", threads=1, rounds=2, out=tmp_path)
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    engines._measure_once("carn", "openvino")
    ((python, file, *flags),) = commands
    assert (python, file) == (sys.executable, str(SCRIPT))
    options = dict(zip(flags[::2], flags[1::2], strict=True))
    expected = {"--networks": "carn", "--size": "9x8", "--threads": "1", "--rounds": "2"}
    assert expected.items() <= options.items()
    assert (options["--only"], options["--out"]) == ("openvino", str(tmp_path))
    assert options["--against"] == engines.against
