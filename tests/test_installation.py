"""`doctor`, `--version` and `completion`: what bug reports and shells need of an installation."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from cli_cases import run
from thinlens.benchmark import installation
from thinlens.benchmark.installation import EXTRAS, folder_bytes
from thinlens.cli.completion import SHELLS
from thinlens.cli.main import VERBS
from thinlens.cli.printing import PIPE_WIDTH
from thinlens.engine.version import version_line

ROOT = Path(__file__).parents[1]


def test_the_extras_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = dict(project["optional-dependencies"])
    del extras["dev"]

    def names(extra: str) -> set[str]:
        packages = {re.split(r"[>=\[; ]", line)[0].lower() for line in extras[extra]}
        nested = re.findall(r"thinlens\[(\w+)\]", " ".join(extras[extra]))
        return (packages - {"thinlens"}).union(*map(names, nested))

    assert {extra: set(packages) for extra, packages in EXTRAS.items()} == {
        extra: names(extra) for extra in extras
    }


def test_doctor_prints_one_block_of_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(installation.EXTRAS, "imagined", ("no-such-package",))
    block, content = run("doctor").out, run("doctor", "--json").json
    assert content["extras"]["imagined"] == ["no-such-package"]
    assert "imagined (no-such-package)" in block
    for key in ("thinlens", "build", "cpu", "cache"):
        assert str(content[key]) in block
    assert all(":" in line for line in block.strip().splitlines())


def test_the_bytes_of_a_folder_are_those_of_its_files(tmp_path: Path) -> None:
    assert folder_bytes(tmp_path / "none") == 0
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"12345")
    (tmp_path / "a" / "b" / "two").write_bytes(b"1234567")
    assert folder_bytes(tmp_path) == 12


def test_the_version_names_build_and_kernels() -> None:
    ran = run("--version")
    assert (ran.status, ran.out) == (0, version_line() + "\n")
    assert re.match(r"thinlens \S+, build \w+, kernels \w+, torch \S+, Python 3\.\d+", ran.out)


def test_doctor_works_without_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "native", lambda: None)
    monkeypatch.setattr(installation, "fastest", lambda: "torch")
    assert run("doctor", "--json").json["kernels"] == {"fp32": [], "bf16": [], "selected": "torch"}


@cache
def script_of(shell: str) -> str:
    ran = run("completion", shell)
    assert ran.status == 0
    return ran.out


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_reads_its_completion(shell: str, tmp_path: Path) -> None:
    text = script_of(shell)
    assert all(verb in text for verb in VERBS)
    assert "sensitivity" in text  # an option of a method of `prune`
    assert max(map(len, text.splitlines())) > PIPE_WIDTH  # nothing was folded
    script = tmp_path / "script"
    script.write_text(text)
    if shutil.which(shell):
        subprocess.run([shell, "-n", script], check=True)


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes_verbs_and_flags(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(script_of("bash"))

    def completed(*words: str) -> set[str]:
        line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}"
        code = f'source {script}; {line}; _tyro_thinlens; printf "%s\\n" "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", code], check=True, capture_output=True, text=True)
        return set(done.stdout.split())

    assert completed("thinlens", "ev") == {"evaluate"}
    assert completed("thinlens", "bench", "--rou") == {"--rounds"}
    assert "--budget" in completed("thinlens", "prune", "--bu")


def test_another_shell_is_one_sentence() -> None:
    ran = run("completion", "tcsh")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert "wanted bash, zsh or fish" in ran.err
