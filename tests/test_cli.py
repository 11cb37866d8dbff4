"""The command line: one sentence and the right status for bad input, nothing half-written."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import thinlens
from cli_cases import (
    TINY_M,
    contents,
    denoising_checkpoint,
    images,
    run,
    sr_checkpoint,
)
from thinlens.cli import values
from thinlens.cli.main import VERBS
from thinlens.cli.verb import Answer
from thinlens.errors import UsageError
from thinlens.experiments.networks import load_mean_weights
from thinlens.experiments.plan import all_runs, read_plan
from thinlens.experiments.recipe import read_recipe, read_toml
from thinlens.methods import METHODS
from thinlens.methods.nm_method import NMMethod
from thinlens.methods.one_shot import OneShot
from thinlens.sparsity.pattern import Pruned
from thinlens.tasks import make_task
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData


@given(st.integers(1, 99_999), st.integers(1, 99_999))
def test_sizes_are_width_by_height(width: int, height: int) -> None:
    assert values.size(f"{width}x{height}") == (height, width)


@given(st.text(max_size=8))
def test_no_text_breaks_a_reader_of_values(text: str) -> None:
    for read in (values.size, values.pattern, values.width):
        try:
            read(text)
        except UsageError as error:
            assert repr(text) in str(error)


BAD_LINES = [
    ("frobnicate", "frobnicate"),
    ("info", "missing from thinlens info: NAME|CHECKPOINT"),
    ("info rfdn --bogus 3", "--bogus"),
    ("info rfdn --scale a", "--scale 'a'"),
    ("info rfdn --scale 5", "scale"),
    ("info dncnn-17 --scale 2", "does not enlarge"),
    ("info rfdn --size 12", "WIDTHxHEIGHT"),
    ("info rfdn --size 2x2", "less than one input pixel"),
    ("info rfdn --pattern 33:32", "1 <= N <= M"),
    ("info rfdn --pattern 8:31", "M = 31 prunes no layer"),
    ("info rfdn --width 3/7", "3/7"),
    ("info rfdn --convention mine", "sls or classpruning or fmp"),
    ("info nowhere", "neither a checkpoint nor a network"),
    ("train nothing --data . --out run", "unknown network 'nothing'"),
    ("train rfdn --data nowhere --out run", "nowhere is not a folder"),
    ("train rfdn --data empty --out run", "empty holds no images"),
    ("train dncnn-17 --data small --out run", "smaller than the patch"),
    ("train classifier --data clean --out run", "classifier makes no images"),
    ("train mse-estimator --data clean --out run", "makes no images: adapt trains it"),
    ("prune sr --method one-shot --out run", "one-shot wants --budget"),
    ("prune sr --method one-shot --budget 1/2 --branches 1:4,4:4 --out run", "has branches"),
    ("prune sr --method sls --budget 1/2 --metric params --out run", "only filter, assl"),
    ("prune sr --method filter --budget 5ms --out run", "filter takes a part"),
    ("prune denoise --method classpruning --budget 1/2 --out run", "wants --target-cost"),
    ("evaluate denoise --data clean --router oracle", "has one branch"),
    ("evaluate denoise --data clean --crop-target 10", "no option 'crop_target'"),
    ("train dncnn-17 --data clean --out run --recipe none.toml", "cannot read the recipe"),
    ("train dncnn-17 --data clean --out run --steps -1", "steps -1"),
    ("import nowhere.pth --model dncnn-17 --out run", "nowhere.pth"),
    ("import clean/image0.png --model dncnn-17 --out run", "cannot be read as weights"),
    ("prune nowhere --method one-shot --budget 1/2 --out run", "nowhere is not a checkpoint"),
    ("prune sr --method magic --budget 1/2 --out run", "method 'magic': wanted one-shot"),
    ("prune sr --method fmp --budget 1/2 --out run", "wanted a number of steps"),
    ("prune sr --method fmp --budget 1/2 --criterion x --out run", "criterion 'x': wanted channel"),
    ("prune sr --method filter --budget 1/2 --criterion total --out run", "only fmp has criterion"),
    ("prune sr --method fmp --budget 1/2 --scale 2 --out run", "is for networks by name"),
    ("prune edsr --method one-shot --budget 1/2 --out run", "a network without weights"),
    ("prune sr --method sls --budget 1/2 --out run", "wanted a number of steps"),
    ("prune sr --method one-shot --budget 0 --out run --m 4", "above 0 and at most 1"),
    ("prune sr --method one-shot --budget 9/8 --out run --m 4", "above 0 and at most 1"),
    ("prune sr --method one-shot --budget x --out run --m 4", "1/8, 0.125 or 12.5%"),
    ("prune sr --method one-shot --budget 1/9 --out run --m 4", "lowest reachable"),
    ("prune sr --method one-shot --budget 1/2 --out run --policy skip", "M = 32 prunes no layer"),
    ("prune sr --method one-shot --budget 1/2 --out run --preset plus", "no presets"),
    ("evaluate sr --data empty", "empty holds no images"),
    ("evaluate sr --data clean --sigma 25", "sigma"),
    ("evaluate sr --data clean --engine warp", "auto, torch or native"),
    ("evaluate sr --data broken", "broken/image0.png"),
    ("restore nowhere --model sr --out run", "nowhere does not exist"),
    ("restore clean --model sr --out clean", "the folder of the inputs"),
    ("demo --data nowhere", "is missing"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    sr_checkpoint(folder / "sr")
    denoising_checkpoint(folder / "denoise")
    images(folder / "clean")
    images(folder / "small", height=16, width=16)
    broken = images(folder / "broken", count=1) / "image0.png"
    broken.write_bytes(broken.read_bytes()[:-400])
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(("line", "fragment"), BAD_LINES)
def test_bad_input_is_one_sentence_and_status_2(
    line: str, fragment: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("thinlens.cli.demo.NETWORK", "sr")
    before = contents(place)
    ran = run(*line.split(), "--json")
    assert ran.status == 2
    assert fragment in ran.json["error"]
    assert "\n" not in ran.json["error"]
    assert ran.err.endswith(f"thinlens: {ran.json['error']}\n")
    assert "Traceback" not in ran.err
    assert contents(place) == before


def test_json_stands_alone_and_text_is_for_people(place: Path) -> None:
    plain, machine = run("info", place / "sr"), run("info", place / "sr", "--json")
    assert plain.status == machine.status == 0
    assert "fea_conv" in plain.out
    assert "it is the first convolution" in plain.out
    assert machine.json["layers"][0]["why"] == "it is the first convolution"


def test_info_counts_slss_rfdn() -> None:
    """SLS, Table 1: 826,800 parameters and 39.86 G; an 8:32 pattern keeps a quarter."""
    dense = run("info", "rfdn", "--json").json
    assert (dense["params"], dense["macs"], dense["budget"]) == (826_800, 39_860_085_120, 1.0)
    thin = run("info", "rfdn", "--pattern", "8:32", "--json").json
    assert thin["budget"] == 0.25
    assert dense["macs"] - thin["macs"] == dense["prunable_macs"] * 3 // 4
    assert thin["bytes"] < 0.3 * dense["bytes"]
    assert sum(layer["n"] == 8 for layer in thin["layers"]) == 63


def test_a_name_and_its_saved_checkpoint_have_the_same_price(tmp_path: Path) -> None:
    out = ("--method", "one-shot", "--budget", "1/2", "--m", TINY_M, "--out", tmp_path / "thin")
    pruned = run("prune", sr_checkpoint(tmp_path / "sr"), *out, "--json").json
    info = run("info", tmp_path / "thin", "--json").json
    for key in ("macs", "params", "bytes", "layers"):
        assert pruned[key] == info[key]
    assert pruned["achieved"] == info["budget"] <= pruned["budget"] == 0.5


def test_a_refused_command_keeps_an_earlier_result(place: Path, tmp_path: Path) -> None:
    thin = tmp_path / "thin"
    command = ("prune", place / "sr", "--method", "one-shot", "--m", TINY_M, "--out", thin)
    assert run(*command, "--budget", "1/2").status == 0
    before = contents(thin)
    assert run(*command, "--budget", "1/99").status == 2
    assert contents(thin) == before


def test_one_bad_image_is_listed_and_the_others_are_done(place: Path, tmp_path: Path) -> None:
    mixed = images(tmp_path / "mixed")
    (mixed / "image1.png").write_bytes(b"no picture")
    ran = run("restore", mixed, "--model", place / "denoise", "--out", tmp_path / "out", "--json")
    assert ran.status == 1
    assert (ran.json["done"], ran.json["failed"]) == (1, 1)
    assert "image1.png" in ran.err
    assert (tmp_path / "out" / "image0.png").is_file()
    again = run("restore", mixed, "--model", place / "denoise", "--out", tmp_path / "out", "--json")
    assert (again.status, again.json["skipped"], again.json["failed"]) == (1, 1, 1)


def test_a_recipe_with_a_misspelt_key_names_it_and_the_known(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    for text, fragments in (
        ("[training]\nstep = 3\n", ("'step'", "steps", "recipe.toml")),
        ("[crops]\npatches = 3\n", ("'patches'", "batch_size")),
        ("[trainning]\n", ("'trainning'", "training")),
        ("[training]\nsteps = 'many'\n", ("steps = 'many'", "int")),
        ("training = 3\n", ("[training]",)),
        ("steps = \n", ("is not TOML",)),
    ):
        recipe.write_text(text)
        with pytest.raises(UsageError) as caught:
            read_recipe(recipe)
        assert all(fragment in str(caught.value) for fragment in fragments)


def test_a_recipe_may_give_the_network_other_sizes(tmp_path: Path) -> None:
    clean, recipe = images(tmp_path / "clean"), tmp_path / "recipe.toml"
    line = ("train", "unet", "--data", clean, "--out", tmp_path / "run", "--steps", 0)
    crops = "[crops]\npatch = 16\n[task]\nreach = 1\n"
    recipe.write_text(f"{crops}[network]\nwidth = 4\nblocks = 1\n")
    ran = run(*line, "--recipe", recipe)
    assert ran.status == 0, ran.err
    assert thinlens.load(tmp_path / "run").module.config.width == 4
    for option, fragment in (("widths = 4", "no option 'widths'"), ("width = 'x'", "wanted int")):
        recipe.write_text(f"{crops}[network]\n{option}\n")
        ran = run(*line, "--recipe", recipe, "--json")
        assert (ran.status, fragment in ran.json["error"]) == (2, True)


def test_training_starts_from_a_checkpoint_of_the_same_network(tmp_path: Path) -> None:
    """No step changes nothing; another network or a pruned one is refused."""
    clean, sr = images(tmp_path / "clean"), sr_checkpoint(tmp_path / "sr")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[crops]\npatch = 16\n[start]\ncheckpoint = 'rfdn-x4'\n")
    more = ("--data", clean, "--out", tmp_path / "run", "--steps", 0, "--recipe", recipe, "--json")
    ran = run("train", "rfdn", "--scale", 4, *more)
    assert ran.status == 0, ran.err
    one, other = (thinlens.load(x).module.state_dict() for x in ("rfdn-x4", tmp_path / "run"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert "wanted dncnn-17" in run("train", "dncnn-17", *more).json["error"]
    thin = ("--method", "one-shot", "--budget", "1/2", "--m", TINY_M, "--out", tmp_path / "thin")
    assert run("prune", sr, *thin).status == 0
    recipe.write_text(f"[start]\ncheckpoint = '{tmp_path / 'thin'}'\n")
    assert run("train", "rfdn", *more).status == 2


def test_training_starts_from_the_mean_of_several_checkpoints(tmp_path: Path) -> None:
    """The mean of a network and of the same with all weights tripled is it with them doubled."""
    one, other = sr_checkpoint(tmp_path / "one"), tmp_path / "other"
    module = thinlens.load(one).module
    before = {key: value.clone() for key, value in module.state_dict().items()}
    module.load_state_dict({key: 3 * value for key, value in before.items()})
    thinlens.save(other, module, model="rfdn", task=make_task("sr", scale=2))
    load_mean_weights([str(one), str(other)], "rfdn", module)
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, 2 * before[key])


def test_a_recipe_starts_from_one_checkpoint_or_from_a_mean(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[start]\nmean_of = ['a', 'b']\n")
    assert read_recipe(recipe).starts == ["a", "b"]
    recipe.write_text("[start]\nmean_of = ['a', 'b']\ncheckpoint = 'c'\n")
    with pytest.raises(UsageError, match="wanted one of them"):
        read_recipe(recipe)


def test_the_shipped_recipes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that name networks are for `compare`, all others for `train`."""
    for folder in ("BSDS500", "TRAIN400", "REDS", "DIV2K", "URBAN100"):
        monkeypatch.setenv(folder, str(tmp_path))
    monkeypatch.delenv("THINLENS_DATA", raising=False)
    recipes = list((Path(__file__).parents[1] / "recipes").glob("*.toml"))
    comparisons = [path for path in recipes if "networks" in read_toml(path)]
    assert comparisons
    for path in comparisons:
        assert all_runs(read_plan(path))
    training = [path for path in recipes if path not in comparisons]
    assert training
    for path in training:
        parsed = read_recipe(path)
        assert parsed.training.steps > 0 or len(parsed.starts) > 1


def test_an_unexpected_disk_error_is_a_sentence(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/some/file")

    monkeypatch.setattr(VERBS["info"], "run", fail)
    ran = run("info", place / "sr", "--json")
    assert (ran.status, ran.json) == (1, {"error": "/some/file: No space left on device"})


def test_a_full_disk_keeps_the_previous_checkpoint(place: Path, tmp_path: Path) -> None:
    thin = tmp_path / "thin"
    command = ("prune", place / "sr", "--method", "one-shot", "--m", TINY_M, "--out", thin)
    assert run(*command, "--budget", "1/2").status == 0
    before = contents(thin)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        ran = run(*command, "--budget", "1/4", "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ran.status == 1
    assert ran.json["error"].startswith(f"cannot write {thin}")
    assert contents(thin) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_at_a_saved_step_and_the_same_command_goes_on(
    number: signal.Signals, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_at_two(step: int, steps: int, values: object) -> None:
        if step == 2:
            os.kill(os.getpid(), number)

    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[crops]\npatch = 16\nbatch_size = 1\n")
    out = tmp_path / "run"
    command = ("train", "dncnn-17", "--data", place / "clean", "--out", out, "--steps", 3)
    with monkeypatch.context() as patched:
        patched.setattr("thinlens.cli.train.progress_bar", lambda _: nullcontext(kill_at_two))
        ran = run(*command, "--recipe", recipe, "--json")
    assert ran.status == 128 + number
    assert "interrupted" in ran.json["error"]
    assert sorted(contents(out)) == ["metrics.jsonl", "training.pt"]
    again = run(*command, "--recipe", recipe, "--json")
    assert again.status == 0
    assert "resuming" in again.err
    assert "config.json" in contents(out)


@pytest.mark.slow
def test_the_installed_command_exits_without_a_traceback() -> None:
    command = [sys.executable, "-m", "thinlens", "evaluate", "nowhere", "--data", ".", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "nowhere is not a checkpoint" in json.loads(ran.stdout)["error"]
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.slow
def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from thinlens.cli.main import main; status = main(['info', '--help']); "
        "sys.exit(status or 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ran.returncode == 0


@dataclass(frozen=True, kw_only=True)
class Toy(NMMethod):
    """Keep the first N of every M weights."""

    NAME = "toy"
    NEEDS_DATA = False

    softness: float = 0.5
    """A number that changes nothing."""
    style: Literal["plain", "fancy"] = "plain"
    """One of two words."""

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        thin = OneShot(**self.shared()).run(model, data, trainer)
        record = {**thin.record, "softness": self.softness, "style": self.style}
        return Pruned(thin.module, thin.patterns, record)


def test_a_new_method_has_a_command_with_its_flags(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "toy", Toy)
    monkeypatch.setenv("COLUMNS", "120")
    for words in (("prune", "--help"), ("prune", "toy", "--help")):
        helped = run(*words).out
        assert "--softness FLOAT" in helped
        assert "A number that changes nothing." in helped
        assert "--style {plain,fancy}" in helped
    assert "toy: Keep the first N of every M weights." in run("prune", "--help").out
    flags = ("--budget", "1/2", "--m", TINY_M, "--out", tmp_path / "thin", "--json")
    ran = run("prune", "toy", place / "sr", *flags, "--style", "fancy")
    assert ran.status == 0, ran.err
    record = thinlens.load(tmp_path / "thin").provenance
    assert (record["softness"], record["style"]) == (0.5, "fancy")
    ran = run("prune", place / "sr", "--method", "one-shot", *flags, "--style", "plain")
    assert ran.status == 2
    assert "--style plain: only toy has style" in ran.json["error"]


def test_both_spellings_of_prune_write_the_same_bytes(place: Path, tmp_path: Path) -> None:
    flags = ("--budget", "1/2", "--m", TINY_M, "--data", place / "clean")
    for method in ("one-shot", "least-squares"):
        first, second = tmp_path / f"{method}-1", tmp_path / f"{method}-2"
        assert run("prune", method, place / "sr", *flags, "--out", first).status == 0
        assert run("prune", place / "sr", "--method", method, *flags, "--out", second).status == 0
        one, other = (contents(x)["model.safetensors"] for x in (first, second))
        assert one == other
    default = tmp_path / "default"
    assert run("prune", place / "sr", *flags, "--out", default).status == 0
    assert contents(default)["model.safetensors"] == one


def test_a_folder_named_as_a_method_is_a_checkpoint(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place / "sr", tmp_path / "sls")
    monkeypatch.chdir(tmp_path)
    flags = ("--method", "one-shot", "--budget", "1/2", "--m", TINY_M, "--out", "thin", "--json")
    ran = run("prune", "sls", *flags)
    assert ran.status == 0, ran.err
    assert ran.json["method"] == "one-shot"


def test_training_settings_of_prune_are_flags_and_a_recipe(place: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[training]\nsteps = 2\nwarmup = 1\n[crops]\npatch = 16\nbatch_size = 1\n")
    flags = ("--budget", "1/2", "--m", TINY_M, "--data", place / "clean", "--recipe", recipe)
    out = tmp_path / "thin"
    ran = run("prune", "one-shot", place / "sr", *flags, "--out", out, "--optimizer", "adam")
    assert ran.status == 0, ran.err
    assert thinlens.load(out).provenance["steps"] == 2
    state = torch.load(out / "training.pt", weights_only=False)["settings"]
    assert (state["steps"], state["warmup"], state["optimizer"]) == (2, 1, "adam")
    assert state["learning_rate"] == 1e-3  # that of fine-tuning, for neither names another
    recipe.write_text("[start]\ncheckpoint = 'sr'\n")
    ran = run("prune", "one-shot", place / "sr", *flags, "--out", out, "--json")
    assert (ran.status, "is for thinlens train" in ran.json["error"]) == (2, True)


def test_a_note_is_printed_once_and_a_warning_each_time(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("thinlens.test")

    def spoken(self: object) -> Answer:
        for _ in range(2):
            log.info("a note")
            log.warning("a warning")
        return Answer({}, ())

    monkeypatch.setattr(VERBS["info"], "run", spoken)
    for _ in range(2):
        assert run("info", place / "sr").err.splitlines() == ["a note", *["a warning"] * 2]
