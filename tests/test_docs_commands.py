"""Every command of the documentation: run in a folder of tiny networks and images, or not, and why.

Names of networks stand for tiny ones there, and what takes long is made small (`SMALL`). Commands
that are not run are parsed, and those within sentences have verbs and flags that exist.
"""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import thinlens
from cli_cases import run
from documented_commands import PAGES, Block, blocks, inline_commands, thinlens_words
from site_pages import ROOT, page_name
from thinlens.cli import main as command_line
from thinlens.cli.main import VERBS
from thinlens.cli.verb import Answer
from thinlens.methods import METHODS
from thinlens.models import create
from thinlens.tasks import make_task

LANGUAGES = {"sh", "python", "toml", "cpp", "text", "{toctree}", "{literalinclude}"}
PYTHON_PAGES = ("README.md", "docs/quick-start.md")
"""Pages whose Python runs here; that of the guides runs in tests of their own."""

M = 8
CALIBRATION = {"pixels": 1000, "positions": 300}
PLACE = ["--size", "20x16", "--rounds", 1, "--threads", 1]

SMALL = {
    "bench": [*PLACE, "--against", "torch", "--precision", "fp32"],
    "report": PLACE,
    "info": PLACE[:2],
}
"""Flags by verb that make it quick; those of a command itself are replaced."""

FEWER = {"--steps": 2, "--minutes": 0, "--jobs": 1, "--rounds": 1, "--m": M}
"""Values that replace a command's."""

RECIPE = {"steps": 2, "warmup": 0, "patch": 8, "pixels": 1000, "m": f"[{M}]", "seeds": "[0]"}
"""Values that replace those of a recipe."""

NETWORKS = ("rfdn-x4", "realesr-animevideov3-thin", "dncnn-color-jpeg-thin", "run")
THIN = ("thin", "runs/thin")
WEIGHTS = ("realesr-animevideov3.pth", "realesr.pth")

RUN = [block for page in PAGES for block in blocks(page) if block.language == "sh" and block.is_run]
RUN_PAGES = sorted({block.page for block in RUN})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with what the pages take for granted: networks, weights and images."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    network, task = create("srvgg", width=M, depth=2), make_task("sr", scale=4)
    thin = thinlens.prune(network, budget="1/4", method="one-shot", m=M, size=(16, 20))
    for names, module in ((NETWORKS, network), (THIN, thin)):
        for name in names:
            thinlens.save(folder / name, module, model="srvgg", task=task)
    for name in WEIGHTS:
        torch.save(network.state_dict(), folder / name)
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 10, 3), np.uint8)
        large = Image.fromarray(pixels).resize((80, 64), Image.Resampling.BICUBIC)
        small = large.resize((20, 16), Image.Resampling.BICUBIC)
        files = {f"photos/{index}.png": large, "a.tif": small}
        files |= {f"Set5/x4/HR/{index}.png": large, f"Set5/x4/LR/{index}.png": small}
        for name, image in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(folder / name)
    return folder


@pytest.mark.parametrize("page", RUN_PAGES, ids=page_name)
def test_the_commands_of_a_page_run(
    page: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "place"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    names: dict[str, object] = {}
    small_prune = functools.partial(thinlens.prune, m=M, **CALIBRATION)
    monkeypatch.setattr(thinlens, "prune", small_prune, raising=False)
    for block in blocks(page):
        if block.language == "toml" and block.info != "toml":
            Path(block.info.split()[1]).write_text(small_recipe(block.text))
        if block.language == "python" and block.is_run and page_name(page) in PYTHON_PAGES:
            exec(compile(block.text, str(page), "exec"), names)
        if block.language == "sh" and block.is_run:
            for words in block.commands():
                execute(words)


def execute(words: list[str]) -> None:
    """Run one command as the shell would: its output may go to a file."""
    assert words[0] == "thinlens", f"{words[0]} is run by nothing: wanted a comment with the reason"
    words, _, target = (list(part) for part in split_at(words[1:], ">"))
    ran = run(*small(words))
    assert ran.status == 0, (words, ran.err)
    if target:
        path = Path(target[0]).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ran.out)


def split_at(words: list[str], mark: str) -> tuple[list[str], list[str], list[str]]:
    place = words.index(mark) if mark in words else len(words)
    return words[:place], words[place : place + 1], words[place + 1 :]


def small(words: list[str]) -> list[object]:
    """Return a command with less to do: small sizes, few steps, one round."""
    verb, *rest = words
    extra: list[object] = list(SMALL.get(verb, []))
    if verb == "info" and "--engine" not in rest:
        extra = []
    if verb == "report" and "--data" not in rest:
        extra += ["--data", "photos"]
    if verb == "prune":
        method = rest[0] if rest[0] in METHODS else "least-squares"
        options = {field for field in METHODS[method].option_names() if field in CALIBRATION}
        extra = ["--m", M] if "m" in METHODS[method].option_names() else []
        extra += [word for key in sorted(options) for word in (f"--{key}", CALIBRATION[key])]
        extra += [*PLACE[:2], *PLACE[4:]] * ("--report" in rest)
        extra += ["--steps", 2] * ("--minutes" in rest)
        extra += ["--patch", 8] * ("--minutes" in rest or "--steps" in rest)
    flags = {word for word in extra if str(word).startswith("--")} | {"--minutes"}
    kept: list[object] = []
    pairs = iter(rest)
    for word in pairs:
        if word in flags:
            next(pairs)
        elif word in FEWER:
            next(pairs)
            kept += [word, FEWER[word]]
        else:
            kept.append(word)
    return [verb, *kept, *extra]


def small_recipe(text: str) -> str:
    text = text.replace('"sls"', '"sr-ste"')  # a search would begin with a large calibration
    for key, value in RECIPE.items():
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
    return text


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"a block of {page_name(page)}: {block.text[:60]}"
        note = block.note
        if note.startswith("run by "):
            assert (ROOT / note.removeprefix("run by ")).is_file(), note
        if block.info == "python" and page_name(page) not in PYTHON_PAGES:
            assert not block.is_run, f"Python of {page_name(page)}: wanted a comment with its test"


@functools.cache
def flags_of(verb: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]*", run(verb, "--help").out))


def unrun(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "sh" and not block.is_run]


@pytest.mark.parametrize("page", [page for page in PAGES if unrun(page)], ids=page_name)
def test_commands_that_are_not_run_are_parsed(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "_run", lambda verb: Answer({}))
    for block in unrun(page):
        for line in block.commands():
            for words in thinlens_words(line):
                assert not words or run(*words).status == 0, (words, run(*words).err)


@pytest.mark.parametrize("page", [page for page in PAGES if inline_commands(page)], ids=page_name)
def test_commands_in_sentences_exist(page: Path) -> None:
    for command in inline_commands(page):
        verb = command.split()[1]
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", command))
        if verb in VERBS:
            assert flags <= flags_of(verb) | {"--json"}, command
        else:
            assert verb in ("...", "--version", "VERB", "NAME"), command
