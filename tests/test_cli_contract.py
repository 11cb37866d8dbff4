"""The frozen command line: verbs, flags and JSON keys.

A failure here is not a wrong test but a broken promise: think before changing a line. Lists may
grow, never shrink.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from cli_cases import TINY_M, denoising_checkpoint, images, run, sr_checkpoint
from thinlens.cli.method_flags import field_docs
from thinlens.methods import METHODS, Method

FLAGS = {
    "demo": ["--data", "--image", "--json", "--out"],
    "train": ["--data", "--json", "--out", "--recipe", "--scale", "--seed", "--steps"],
    "import": ["--arguments", "--json", "--model", "--out", "--output", "--scale", "--store"],
    "info": ["--convention", "--engine", "--json", "--pattern", "--scale", "--size", "--width"],
    "prune": [
        *("--report", "--store"),
        *("--branches", "--budget", "--criterion", "--data", "--indicator", "--json", "--m"),
        *("--method", "--metric", "--out", "--preset", "--scale", "--seed", "--size", "--steps"),
        *("--target-cost", "--threads", "--recipe", "--inputs", "--targets"),
    ],
    "evaluate": [
        *("--beta", "--crop-target", "--data", "--engine", "--image-budget", "--json", "--out"),
        *("--price", "--rounds", "--router", "--rule", "--seed", "--sigma", "--sweep"),
        *("--precision", "--uniform-beta"),
    ],
    "restore": [
        *("--beta", "--blend", "--engine", "--image-budget", "--json", "--map", "--margin"),
        *("--max-pixels", "--model", "--out", "--price", "--rule", "--tile"),
        *("--alpha", "--first-frame", "--format", "--quality", "--resample", "--size"),
        *("--strength", "--strip", "--dry-run", "--preview", "--compression", "--memory"),
        *("--device", "--precision", "--shard", "--ray", "--workers"),
    ],
    "bench": [
        *("--against", "--branch", "--json", "--pattern", "--precision", "--rounds", "--size"),
        *("--report", "--threads"),
    ],
    "export": ["--json", "--out", "--size", "--to"],
    "compare": ["--jobs", "--json", "--out", "--rounds", "--threads"],
    "report": [
        *("--beta", "--data", "--image-budget", "--images", "--json", "--out", "--rounds"),
        *("--size", "--threads"),
    ],
    "adapt": [
        *("--data", "--engine", "--estimator", "--exact", "--json", "--margin", "--out"),
        *("--fixed-tiles", "--seed", "--steps", "--tile"),
    ],
    "pipe": ["--engine", "--json", "--model", "--pixels", "--raw", "--start", "--tile"],
    "serve": [
        *("--engine", "--host", "--json", "--max-bytes", "--max-jobs", "--max-pixels"),
        *("--max-seconds", "--model", "--port", "--tile"),
    ],
    "tune": ["--json", "--precision", "--size"],
    "push-ready": ["--json", "--licence"],
    "doctor": ["--json"],
    "schema": ["--json"],
    "completion": ["--json"],
}

TRAINING_FLAGS = [
    *("--average", "--batch-size", "--candidates", "--epoch-steps", "--floor", "--learning-rate"),
    *("--loss", "--optimizer", "--patch", "--precision", "--save-every", "--schedule", "--warmup"),
]
"""The training settings of `prune`."""

SHARED_FLAGS = [
    *("--report", "--store"),
    *("--data", "--inputs", "--json", "--out", "--preset", "--recipe", "--scale", "--seed"),
    *("--size", "--steps", "--targets", "--threads"),
]
"""The flags of `prune` for every method."""

LAYER = ["name", "in_channels", "out_channels", "kernel", "n", "m", "macs", "prunable", "why"]

KEYS = {
    "train": "model task scale steps skipped loss bytes seconds data out",
    "import": "model task scale params bytes out",
    "info": (
        "model task scale params macs flops prunable_macs bytes budget budget_base convention "
        "size layers prunable_share"
    ),
    "prune": (
        "method budget budget_base achieved macs params bytes seconds merged data data_holds "
        "prunable_share dense_macs layers hard_images"
    ),
    "evaluate": "images data psnr ssim lpips protocol engine per_image macs params",
    "restore": "done failed skipped seconds engine kernels not_taken failures network_seconds "
    "codec_seconds overlap clipped",
    "bench": "machine rows best_dense speedup missing",
    "export": (
        "format files bytes compressed_bytes zero_fraction dynamic sizes multiple error checked"
    ),
    "compare": "recipe out done failed left_out rows",
    "push-ready": "folder ready problems",
    "tune": "model size seconds rows",
    "doctor": (
        "thinlens build python system cpu cores usable_cores instructions kernels torch_threads "
        "cuda engines packages extras cache cache_bytes"
    ),
    "completion": "shell script",
    "report": "out bytes networks featured images",
    "adapt": ("out task scale candidates tile estimator images tiles held_out_tiles bytes seconds"),
    "evaluate BUNDLE": "images data psnr ssim lpips protocol engine per_image macs params routing",
    "evaluate --sweep": ("images protocol engine use price tile static timed curves above_chord"),
}


def test_the_verbs() -> None:
    help_text = run("--help").out
    listed = re.search(r"\{([a-z,-]+)\}", help_text)
    assert listed
    assert listed[1].split(",") == list(FLAGS)


def flags_of(*words: str) -> list[str]:
    """Return the flags that the help of a command lists."""
    ran = run(*words, "--help")
    assert ran.status == 0
    return sorted(re.findall(r"^[│ ]+(?:-h, )?(--[a-z][a-z-]*)", ran.out, re.M))


@pytest.mark.parametrize("verb", FLAGS)
def test_the_flags(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # wider help has panels side by side
    flags = sorted(["--allow", "--help", *FLAGS[verb]])
    if verb != "prune":
        assert flags_of(verb) == flags
        return
    # without a method, `prune` has the flags of all methods
    options = {flag(name) for kind in METHODS.values() for name in method_options(kind)}
    assert set(flags) <= set(flags_of("prune"))
    assert set(flags_of("prune")) == {*flags, *options, *TRAINING_FLAGS}


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def method_options(kind: type[Method]) -> list[str]:
    return [name for name in kind.option_names() if name not in kind.NOT_FLAGS]


@pytest.mark.parametrize("method", METHODS)
def test_every_field_of_a_method_is_a_flag(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # wider help has panels side by side
    kind = METHODS[method]
    budget = "--target-cost" if kind.BUDGET_BASE == "base_flops" else "--budget"
    flags = [
        "--allow",
        "--help",
        budget,
        *SHARED_FLAGS,
        *TRAINING_FLAGS,
        *map(flag, method_options(kind)),
    ]
    assert flags_of("prune", method) == sorted(flags)
    fields = {field.name for field in dataclasses.fields(kind)}
    assert fields - set(method_options(kind)) <= set(kind.NOT_FLAGS)


def test_every_field_has_help() -> None:
    for kind in METHODS.values():
        assert set(method_options(kind)) <= set(field_docs(kind))


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
    answers["push-ready"] = run("push-ready", thin, "--licence", "apache-2.0", "--json")
    answers["tune"] = run("tune", thin, "--size", "24x16", "--json")
    answers["doctor"] = run("doctor", "--json")
    answers["completion"] = run("completion", "bash", "--json")
    shown = ("--data", clean, "--out", tmp_path / "report.html", "--rounds", 0, "--images", 1)
    answers["report"] = run("report", sr, thin, *shown, "--json")
    for verb, ran in answers.items():
        assert ran.status == 0, ran.err
        assert set(ran.json) == set(KEYS[verb].split()), verb
        assert len(ran.out.splitlines()) == 1
    for verb in ("info", "prune"):
        assert all(list(layer) == LAYER for layer in answers[verb].json["layers"])
    evaluated = answers["evaluate"].json
    assert list(evaluated["protocol"]) == ["channel", "crop", "rounding", "range"]
    assert list(evaluated["per_image"][0]) == ["name", "psnr", "ssim"]
