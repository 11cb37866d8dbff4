"""Are the verbs, the flags and the JSON keys still what was promised?

A failure here is not a wrong test but a broken promise: think before changing a line.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli_cases import TINY_M, denoising_checkpoint, images, run, sr_checkpoint

FLAGS = {
    "demo": ["--data", "--json", "--out"],
    "train": ["--data", "--json", "--out", "--recipe", "--scale", "--seed", "--steps"],
    "import": ["--json", "--model", "--out", "--scale"],
    "info": ["--convention", "--json", "--pattern", "--scale", "--size", "--width"],
    "prune": [
        *("--branches", "--budget", "--criterion", "--data", "--indicator", "--json", "--m"),
        *("--method", "--metric", "--out", "--preset", "--scale", "--seed", "--size", "--steps"),
        *("--target-cost", "--threads"),
    ],
    "evaluate": [
        *("--beta", "--crop-target", "--data", "--engine", "--image-budget", "--json", "--out"),
        *("--price", "--rounds", "--router", "--rule", "--seed", "--sigma", "--sweep"),
    ],
    "restore": [
        *("--beta", "--blend", "--engine", "--image-budget", "--json", "--map", "--max-pixels"),
        *("--model", "--out", "--price", "--rule", "--tile"),
    ],
    "bench": [
        *("--against", "--branch", "--json", "--pattern", "--precision", "--rounds", "--size"),
        "--threads",
    ],
    "compare": ["--jobs", "--json", "--out", "--rounds", "--threads"],
    "adapt": [
        *("--data", "--engine", "--estimator", "--exact", "--json", "--margin", "--out"),
        *("--seed", "--steps", "--tile"),
    ],
}

LAYER = ["name", "in_channels", "out_channels", "kernel", "n", "m", "macs", "prunable", "why"]

KEYS = {
    "train": "model task scale steps skipped loss bytes seconds out",
    "import": "model task scale params bytes out",
    "info": (
        "model task scale params macs flops prunable_macs bytes budget budget_base convention "
        "size layers"
    ),
    "prune": "method budget budget_base achieved macs params bytes seconds layers",
    "evaluate": "images psnr ssim lpips protocol per_image macs params",
    "restore": "done failed skipped seconds",
    "bench": "machine rows best_dense speedup missing",
    "compare": "recipe out done failed left_out rows",
    "adapt": ("out task scale candidates tile estimator images tiles held_out_tiles bytes seconds"),
    "evaluate BUNDLE": "images psnr ssim lpips protocol per_image macs params routing",
    "evaluate --sweep": ("images protocol engine use price tile static timed curves above_chord"),
}


def test_the_verbs() -> None:
    help_text = run("--help").out
    listed = re.search(r"\{([a-z,]+)\}", help_text)
    assert listed
    assert listed[1].split(",") == list(FLAGS)


@pytest.mark.parametrize("verb", FLAGS)
def test_the_flags(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ran = run(verb, "--help")
    assert ran.status == 0
    listed = re.findall(r"^[│ ]+(?:-h, )?(--[a-z][a-z-]*)", ran.out, re.M)
    assert sorted(listed) == sorted(["--help", *FLAGS[verb]])


@pytest.mark.parametrize("verb", FLAGS)
def test_every_verb_shows_a_runnable_example(verb: str) -> None:
    assert f"Example: thinlens {verb}" in run(verb, "--help").out


@pytest.mark.slow
def test_the_keys_of_every_answer(tmp_path: Path) -> None:
    """One small network goes the whole line; each verb answers with exactly one object."""
    thin, clean = tmp_path / "thin", images(tmp_path / "clean")
    sr = sr_checkpoint(tmp_path / "sr")
    weights = denoising_checkpoint(tmp_path / "denoise") / "model.safetensors"
    weights.rename(tmp_path / "weights.safetensors")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[crops]\npatch = 16\nbatch_size = 2\n")
    comparison = tmp_path / "comparison.toml"
    what = f'networks = ["{sr}"]\nmethods = ["one-shot"]\nbudgets = ["1/2"]\nm = [{TINY_M}]\n'
    comparison.write_text(f'{what}data = "{clean}"\n[crops]\npatch = 8\n')
    prune = ("--method", "one-shot", "--budget", "1/2", "--m", TINY_M, "--out", thin)
    train = ("--data", clean, "--out", tmp_path / "run", "--steps", 1, "--recipe", recipe)
    kair = ("--model", "dncnn-17", "--out", tmp_path / "kair")
    answers = {
        "train": run("train", "dncnn-17", *train, "--json"),
        "import": run("import", tmp_path / "run" / "model.safetensors", *kair, "--json"),
        "info": run("info", sr, "--json"),
        "prune": run("prune", sr, *prune, "--json"),
        "evaluate": run("evaluate", thin, "--data", clean, "--json"),
        "restore": run("restore", clean, "--model", thin, "--out", tmp_path / "out", "--json"),
        "bench": run(
            "bench", thin, "--size", "24x16", "--rounds", 2, "--against", "none", "--json"
        ),
        "compare": run("compare", comparison, "--out", tmp_path / "compared", "--json"),
    }
    bundle = tmp_path / "bundle"
    tiles = ("--tile", "16x16", "--steps", 1, "--out", bundle)
    answers["adapt"] = run("adapt", sr, "--data", clean, *tiles, "--json")
    judged = ("evaluate", bundle, "--data", clean, "--json")
    answers["evaluate BUNDLE"] = run(*judged)
    answers["evaluate --sweep"] = run(*judged, "--sweep", "--rounds", 0)
    for verb, ran in answers.items():
        assert ran.status == 0, ran.err
        assert set(ran.json) == set(KEYS[verb].split()), verb
        assert len(ran.out.splitlines()) == 1
    for verb in ("info", "prune"):
        assert all(list(layer) == LAYER for layer in answers[verb].json["layers"])
    evaluated = answers["evaluate"].json
    assert list(evaluated["protocol"]) == ["channel", "crop", "rounding", "range"]
    assert list(evaluated["per_image"][0]) == ["name", "psnr", "ssim"]
