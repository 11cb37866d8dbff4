"""Manifests that are larger than memory: the index gives what a dictionary of all lines gives."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from thinlens.files import JsonLines
from thinlens.restoration.manifest import compact_manifest
from thinlens.restoration.manifest_index import ManifestIndex

names = st.sampled_from(("a.png", "b.png", "x/ü.png", "\udcff.png"))
lines = st.lists(st.tuples(st.integers(0, 2), names, st.integers(0, 9)), max_size=20)


def write(folder: Path, entries: list[tuple[int, str, int]]) -> None:
    for log, name, value in entries:
        with (folder / f"{log}.jsonl").open("a") as file:
            file.write(json.dumps({"path": name, "value": value}) + "\n")


def logs_of(folder: Path) -> list[JsonLines]:
    return [JsonLines(folder / f"{log}.jsonl") for log in range(3)]


@given(lines, lines)
def test_the_last_line_of_an_input_counts(
    before: list[tuple[int, str, int]], after: list[tuple[int, str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, before)
        index, expected = ManifestIndex(logs_of(folder)), dict[str, Any]()
        for log in range(3):  # later manifests replace earlier ones
            expected |= {entry[1]: entry[2] for entry in before if entry[0] == log}
        assert {n: line["value"] for n in expected if (line := index.get(n))} == expected
        write(folder, after)
        assert len(list(index.added())) == len(after)
        for log in range(3):
            expected |= {entry[1]: entry[2] for entry in after if entry[0] == log}
        assert {n: line["value"] for n in expected if (line := index.get(n))} == expected
        assert index.get("c.png") is None


@given(lines)
def test_compaction_keeps_the_last_lines(entries: list[tuple[int, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, entries)
        index = ManifestIndex(logs_of(folder))
        expected = {entry[1]: entry[2] for log in range(3) for entry in entries if entry[0] == log}
        kept = list(index.last_lines())
        assert {line["path"]: line["value"] for line in kept} == expected
        assert index.is_compact == (len(kept) == len(entries))
        compact_manifest(folder / "2.jsonl")
        again = ManifestIndex(logs_of(folder))
        assert {n: line["value"] for n in expected if (line := again.get(n))} == expected
        assert ManifestIndex(logs_of(folder)[2:]).is_compact


def test_a_line_that_is_cut_or_strange_is_not_compact(tmp_path: Path) -> None:
    path = tmp_path / "0.jsonl"
    for rest in ('{"path": "b', "[]\n", '{"path": 3}\n'):
        path.write_text('{"path": "a.png"}\n' + rest)
        index = ManifestIndex([JsonLines(path)])
        assert not index.is_compact
        assert list(index.last_lines()) == [{"path": "a.png"}]
        index.append({"path": "c.png"})
        assert index.get("c.png") == {"path": "c.png"}
