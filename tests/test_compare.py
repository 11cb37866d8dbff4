"""Comparisons: complete tables, resumption after a kill, and refusal of wrong recipes."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from cli_cases import Ran, contents, images, run, sr_checkpoint
from thinlens.api import save
from thinlens.checkpoints.default_tasks import described
from thinlens.errors import RunError, UsageError
from thinlens.experiments import compare
from thinlens.experiments.networks import uniform_patterns
from thinlens.experiments.plan import Run, all_runs, read_plan
from thinlens.experiments.result_plots import draw_routed, flops_axes
from thinlens.experiments.runs import paper_gmacs
from thinlens.experiments.shared_runs import RunBoard
from thinlens.models import create
from thinlens.sparsity.summary import summarize
from thinlens.tasks import make_task
from tiny_training import Child, exit_status, free_port, torchrun_environment

RECIPE = """
networks = ["sr"]
methods = ["one-shot", "sr-ste:paper", "filter"]
budgets = ["1/2", "1/40"]
m = [4]
data = "clean"

[tests]
twice = "clean"

[training]
steps = 2
warmup = 0
save_every = 1

[crops]
patch = 16
batch_size = 2
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sr_checkpoint(tmp_path / "sr", width=16, attention_width=8)
    images(tmp_path / "clean", count=1, height=48, width=48)
    (tmp_path / "small.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_killed_comparison_resumes_and_lists_unreachable_budgets(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import thinlens.experiments.runs as module

    prune, started = module.prune, []

    def killed_at_the_third(*words: object, **options: object) -> object:
        started.append(options["method"])
        if len(started) == 3:
            raise KeyboardInterrupt
        return prune(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "prune", killed_at_the_third)
    assert run("compare", "small.toml", "--out", "out", "--json").status == 130
    finished = {k: v for k, v in contents(place / "out").items() if "filter" not in k}
    ran = run("compare", "small.toml", "--out", "out", "--json")
    assert ran.status == 0, ran.err
    # Two of six were finished before, one was started; unreachable budgets are tried again.
    assert started[:3] == ["one-shot", "sr-ste", "filter"]
    assert started[3:] == ["filter", "one-shot", "sr-ste", "filter"]
    after = contents(place / "out")
    assert all(after[name] == content for name, content in finished.items() if "table" not in name)
    rows = {(r["method"], r["budget"]): r for r in ran.json["rows"]}
    assert (ran.json["done"], ran.json["failed"]) == (7, 0)
    for method in ("one-shot", "sr-ste", "filter"):
        assert rows[method, "1/2"]["error"] is None
        assert rows[method, "1/2"]["macs"] < rows["dense", "1"]["macs"]
        assert rows[method, "1/2"]["scores"]["twice"]["psnr"] > 0
        assert "lowest reachable" in rows[method, "1/40"]["error"]
    table = list(csv.DictReader((place / "out" / "table.csv").read_text().splitlines()))
    assert [int(r["macs"]) for r in table if r["macs"]] == [
        r["macs"] for r in ran.json["rows"] if not r["error"]
    ]
    markdown = (place / "out" / "table.md").read_text()
    assert "lowest reachable" in markdown
    assert (
        markdown.count("% of all macs |") == 1
    )  # the filter row: no part of prunable multiply-adds
    assert not list((place / "out").rglob("*paper-1-of-40*/*"))


def test_a_comparison_is_drawn_and_timed(place: Path) -> None:
    content = RECIPE.replace('"sr-ste:paper", "filter"', '"sls"').replace('"1/40"', '"1/3"')
    (place / "small.toml").write_text(content)
    ran = run("compare", "small.toml", "--out", "out", "--rounds", 1, "--threads", 1, "--json")
    assert ran.status == 0, ran.err
    assert all(row["ms"] > 0 for row in ran.json["rows"])
    assert "| ms |" in (place / "out" / "table.md").read_text()
    drawn = {str(p.relative_to(place / "out")) for p in (place / "out").rglob("*.png")}
    folder = "sr/sls-1-of-3-m4-seed0"
    assert drawn >= {"trade-off-sr-twice.png", "images-sr-twice.png", f"{folder}/search.png"}
    page = (place / "out" / "report.html").read_text()
    assert page.count('class="viewer"') == 1
    assert "sls 1/3" in page
    assert "What each layer keeps" in page
    assert "for an output of 1280x720" in page
    assert "drawn" in run("compare", "small.toml", "--out", "out").out


@pytest.mark.parametrize("line", [("--rounds", -1), ("--threads", 0), ("--jobs", 0)])
def test_wrong_numbers_are_refused(line: tuple[object, ...], place: Path) -> None:
    ran = run("compare", "small.toml", "--out", "out", *line, "--json")
    assert ran.status == 2
    assert f"{line[0]} {line[1]}: wanted" in ran.json["error"]


def test_a_changed_recipe_is_not_mixed_into_an_old_table(place: Path) -> None:
    recipe = place / "small.toml"
    recipe.write_text(RECIPE.replace('"sr-ste:paper", "filter"', "").replace(', "1/40"', ""))
    assert run("compare", recipe, "--out", "out").status == 0
    recipe.write_text(recipe.read_text().replace("steps = 2", "steps = 3"))
    ran = run("compare", recipe, "--out", "out", "--json")
    assert ran.status == 2
    assert "made by another recipe" in ran.json["error"]


def test_a_run_time_failure_is_listed_and_the_rest_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import thinlens.experiments.runs as module

    prune = module.prune

    def failing(*words: object, **options: object) -> object:
        if options["method"] == "one-shot":
            raise RunError("the disk is full")
        return prune(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "prune", failing)
    (place / "small.toml").write_text(RECIPE.replace('"sr-ste:paper", ', ""))
    ran = run("compare", "small.toml", "--out", "out", "--json")
    assert ran.status == 1
    assert ran.json["failed"] == 2
    assert "one-shot-1-of-2-m4-seed0: the disk is full" in ran.err
    assert any(row["method"] == "filter" for row in ran.json["rows"])


def assert_same_runs(place: Path, alone: Ran, both: Ran) -> None:
    """Assert that the folders `alone` and `both` hold the same rows, but for times, and weights."""
    untimed = [[{**row, "seconds": 0} for row in ran.json["rows"]] for ran in (alone, both)]
    assert untimed[0] == untimed[1]
    weights = [
        {k: v for k, v in contents(place / out).items() if k.endswith(".safetensors")}
        for out in ("alone", "both")
    ]
    assert weights[0] == weights[1]
    assert weights[0]


def test_two_processes_give_the_runs_of_one(place: Path) -> None:
    """Failures and unreachable budgets included; `sls:code` has too few steps for its search."""
    (place / "small.toml").write_text(RECIPE.replace("sr-ste:paper", "sls:code"))
    alone = run("compare", "small.toml", "--out", "alone", "--json")
    both = run("compare", "small.toml", "--out", "both", "--jobs", 2, "--json")
    assert alone.status == both.status == 1
    assert "the search stands at" in both.err
    assert_same_runs(place, alone, both)


def compare_as_rank(
    pipe: Connection, rank: int, port: int, place: Path, words: tuple[str, ...]
) -> None:
    """Compare as one of two processes of torchrun; send what is printed."""
    os.chdir(place)
    os.environ |= torchrun_environment(rank, port)
    with exit_status():
        ran = run("compare", *words)
    pipe.send((ran.status, ran.out, ran.err))


def on_torchrun(place: Path, *words: str) -> list[Ran]:
    """Return what each of two processes printed, the main one's first."""
    port = free_port()
    children = [Child.start(compare_as_rank, rank, port, place, words) for rank in range(2)]
    printed = [child.pipe.recv() for child in children]
    assert [child.end() for child in children] == [0, 0]
    return [Ran(*each) for each in printed]


def test_processes_of_torchrun_give_the_runs_of_one(place: Path) -> None:
    """Each run is trained by one of them, so weights are the same bits; one alone prints."""
    fewer = RECIPE.replace('sr-ste:paper", "filter"', 'sls:code"').replace(', "1/40"', "")
    (place / "small.toml").write_text(fewer)
    words = ("small.toml", "--json", "--out")
    alone = run("compare", *words, "alone")
    main, other = on_torchrun(place, *words, "both")
    assert (alone.status, main.status, other.status, other.out) == (1, 1, 0, "")
    assert "the search stands at" in main.err
    assert_same_runs(place, alone, main)
    assert (place / "both" / "table.md").is_file()


def test_a_mistake_of_one_process_ends_the_others() -> None:
    one, other = (RunBoard(store) for store in [torch.distributed.HashStore()] * 2)
    assert (one.take(0), other.take(0), other.take(1)) == (True, False, True)
    one.publish(0, RunError("the disk is full"))
    assert str(other.outcome(0)) == "the disk is full"
    other.publish(1, UsageError("another recipe"))
    assert not one.take(2)
    assert not one.wait([1])
    with pytest.raises(UsageError, match="another recipe"):
        one.outcome(1)


def test_a_mistake_in_one_process_is_one_sentence_and_ends_the_others(place: Path) -> None:
    assert run("compare", "small.toml", "--out", "out", "--jobs", 2).status == 0
    changed = RECIPE.replace("steps = 2", "steps = 3")
    (place / "small.toml").write_text(changed)
    ran = run("compare", "small.toml", "--out", "out", "--jobs", 2, "--json")
    assert ran.status == 2
    assert "made by another recipe" in ran.json["error"]


def test_a_signal_ends_all_processes_with_their_states_saved(place: Path) -> None:
    (place / "small.toml").write_text(RECIPE.replace("steps = 2", "steps = 10000"))
    words = ("compare", "small.toml", "--out", "out", "--jobs", "2", "--json")
    command = [sys.executable, "-m", "thinlens", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while len(list((place / "out").rglob("training.pt"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143
    assert b"interrupted; what was finished is kept" in errors
    assert len(list((place / "out").rglob("training.pt"))) == 2


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        ("m = [4]", "mm = [4]", "unknown key 'mm'"),
        ("m = [4]", 'm = ["4"]', "wanted a list of int"),
        ("steps = 2", "step = 2", "unknown key of [training] 'step'"),
        ("steps = 2", "seed = 2", "unknown key of [training] 'seed'"),
        ("patch = 16", "patch = 1.5", "patch = 1.5: wanted int"),
        ('"one-shot"', '"two-shot"', "unknown method 'two-shot'"),
        ("sr-ste:paper", "sr-ste:code", "preset 'code'"),
        ('"1/2"', '"2"', "at most 1"),
        ('data = "clean"', 'data = "nowhere"', "nowhere is missing"),
        ('data = "clean"', 'data = "$UNSET/train"', "$UNSET/train is missing"),
        ('twice = "clean"', 'twice = "nowhere"', "nowhere is missing"),
        ('"one-shot"', '"multi-wide"', "unknown method 'multi-wide'"),
        ('"1/2"', '"40ms"', "'40ms'"),
        ('networks = ["sr"]', "", "networks = []: wanted a list of str"),
        ("[crops]", "crops", "is not TOML"),
    ],
)
def test_a_bad_recipe_is_refused_before_any_work(
    old: str, new: str, fragment: str, place: Path
) -> None:
    (place / "small.toml").write_text(RECIPE.replace(old, new))
    ran = run("compare", "small.toml", "--out", "out", "--json")
    assert ran.status == 2
    assert fragment in ran.json["error"]
    assert not (place / "out").exists()


@pytest.mark.parametrize("table", ["task", "evaluation", "judging"])
def test_options_of_another_task_are_refused(table: str, place: Path) -> None:
    (place / "small.toml").write_text(
        RECIPE.replace("[crops]", f"[{table}]\nsigmas = [3.0]\n[crops]")
    )
    ran = run("compare", "small.toml", "--out", "out", "--json")
    assert ran.status == 2
    assert "task sr has no option 'sigmas'" in ran.json["error"]


def test_a_set_without_a_folder_is_skipped_and_named(place: Path) -> None:
    recipe = RECIPE.replace("[tests]", '[tests]\nSet5 = "$UNSET/Set5"')
    (place / "small.toml").write_text(recipe.replace(', "sr-ste:paper", "filter"', ""))
    ran = run("compare", "small.toml", "--out", "out", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["left_out"] == ["Set5"]
    assert all(list(row["scores"]) == ["twice"] for row in ran.json["rows"] if not row["error"])
    assert "Set5 is left out" in run("compare", "small.toml", "--out", "out").out


def test_m_multiplies_only_what_has_groups(place: Path) -> None:
    (place / "small.toml").write_text(RECIPE.replace("m = [4]", "m = [4, 8]\nseeds = [0, 1]"))
    listed = all_runs(read_plan(place / "small.toml"))
    count = {name: sum(c.method == name for c in listed) for name in ("one-shot", "filter")}
    assert count == {"one-shot": 8, "filter": 4}
    assert listed[0] == Run("sr", "dense")
    assert len({c.folder for c in listed}) == len(listed)


@pytest.mark.parametrize(
    ("model", "n", "printed"),
    # SLS, Tables 1 and 2, one-shot rows; the paper rounds the dense total first.
    [
        *(("edsr", 8, 30.09), ("edsr", 2, 8.98), ("carn", 8, 24.20), ("carn", 2, 7.44)),
        *(("rfdn", 8, 10.10), ("rfdn", 2, 2.66)),
    ],
)
def test_paper_gmacs_are_the_printed_ones(model: str, n: int, printed: float) -> None:
    module = create(model)
    priced = summarize(module, uniform_patterns(module, 3, n, 32), (3, 180, 320))
    assert paper_gmacs(model, priced) == pytest.approx(printed, abs=0.011)


def test_the_smoke_recipe_is_readable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = Path(__file__).parents[1] / "recipes" / "smoke.toml"
    monkeypatch.delenv("THINLENS_DATA", raising=False)
    assert len(all_runs(read_plan(recipe))) == 11
    assert read_plan(recipe).skipped_tests == ("Set5",)
    monkeypatch.setenv("THINLENS_DATA", str(tmp_path))
    (tmp_path / "sr_test" / "Set5" / "x4").mkdir(parents=True)
    assert list(read_plan(recipe).tests) == ["Set5"]


FMP_RUNS = {
    **dict.fromkeys(("edsr-x4", "edsr-x4-short"), 9),
    **dict.fromkeys(("esrb-x2", "esrb-x3", "esrb-x4", "esrb-x4-short"), 2),
    "versus-short": 6,
}


@pytest.mark.parametrize("name", FMP_RUNS)
def test_the_recipes_of_fmp_are_readable(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THINLENS_DATA", str(tmp_path))
    (tmp_path / "train" / "BSDS500").mkdir(parents=True)
    for test in ("Set5", "Set14", "B100"):
        for scale in (2, 3, 4):
            (tmp_path / "sr_test" / test / f"x{scale}").mkdir(parents=True)
    folder = Path(__file__).parents[1] / "recipes" / "fmp"
    assert sorted(path.stem for path in folder.iterdir()) == sorted(FMP_RUNS)
    plan = read_plan(folder / f"{name}.toml")
    assert len(all_runs(plan)) == len({run.folder for run in all_runs(plan)}) == FMP_RUNS[name]
    assert not plan.skipped_tests


UNTRAINED = """
networks = ["small"]
methods = ["channels", "filter"]
budgets = ["1/2"]
data = "clean"

[tests]
twice = "clean"

[fresh.small]
model = "edsr"
scale = 2
width = 12
blocks = 1

[variants.channels]
method = "fmp"
criterion = "channel"
least = 2
budget = "60%"

[training]
steps = 4
warmup = 0
save_every = 1

[crops]
patch = 16
batch_size = 2
"""


def test_untrained_networks_are_trained_first_and_variants_record_fractions(
    place: Path,
) -> None:
    (place / "small.toml").write_text(UNTRAINED)
    ran = run("compare", "small.toml", "--out", "out", "--json")
    assert ran.status == 0, ran.err
    dense, channels, filtered = ran.json["rows"]
    assert (dense["parts"], filtered["parts"]) == (None, None)
    assert channels["parts"]["macs"]["channels"] >= 0.4
    assert channels["achieved"] == pytest.approx(channels["parts"]["macs"]["left"])
    assert (place / "out" / "small" / "channels-60%-seed0" / "cell.json").is_file()
    table = list(csv.DictReader((place / "out" / "table.csv").read_text().splitlines()))
    assert float(table[1]["macs_channels"]) == channels["parts"]["macs"]["channels"]
    assert [row["variant"] for row in table] == ["", "channels", ""]
    markdown = (place / "out" / "table.md").read_text()
    assert "by channels (macs / params)" in markdown
    before = contents(place / "out")
    assert run("compare", "small.toml", "--out", "out").status == 0
    assert contents(place / "out") == before
    (place / "small.toml").write_text(UNTRAINED.replace("blocks = 1", "blocks = 2"))
    assert "made by another recipe" in run("compare", "small.toml", "--out", "out").err


ROUTED = """
networks = ["small"]
methods = ["ours", "layer-skip", "half"]
budgets = ["90%"]
m = [4]
data = "grey"

[task]
sigmas = [15.0, 50.0]

[tests]
two = "grey"

[fresh.small]
model = "dncnn-20"
depth = 5
width = 64

[variants.ours]
method = "classpruning"
branches = "2:4,4:4"

[variants.half]
method = "sr-ste"
budget = "1/2"

[training]
steps = 6
save_every = 1
learning_rate = 1e-3
optimizer = "adam"
warmup = 0

[crops]
patch = 16
batch_size = 2
"""


@pytest.mark.slow
def test_routed_networks_are_compared_by_noise_level_and_flops(place: Path) -> None:
    images(place / "grey", count=2, height=24, width=24)
    (place / "small.toml").write_text(ROUTED)
    ran = run("compare", "small.toml", "--out", "out", "--json")
    assert ran.status == 0, ran.err
    dense, ours, skipping, half = ran.json["rows"]
    for row in (dense, ours, skipping, half):
        assert row["error"] is None
        assert [at["sigma"] for at in row["scores"]["two"]["per_sigma"]] == [15.0, 50.0]
    assert half["flops"] < dense["flops"] == ours["flops"]
    score = ours["scores"]["two"]
    assert set(score["routers"]) == {"oracle", "random"}
    assert score["routers"]["oracle"]["shares"] == [0.5, 0.5]
    assert sorted(score["routers"]["random"]["shares"]) == sorted(score["shares"])
    table = list(csv.DictReader((place / "out" / "table.csv").read_text().splitlines()))
    assert [row["router"] for row in table[:4]] == ["", "", "oracle", "random"]
    assert float(table[0]["two_flops"]) == dense["flops"]
    assert float(table[1]["two_flops"]) == score["mean_flops"]
    markdown = (place / "out" / "table.md").read_text()
    for words in ("two, sigma 15", "two, GFLOPs", "ours, oracle router"):
        assert words in markdown
    pytest.importorskip("matplotlib")
    assert (place / "out" / "shares.png").is_file()
    before = contents(place / "out")
    again = run("compare", "small.toml", "--out", "out", "--json")
    assert again.json["rows"] == ran.json["rows"]
    files = [name for name in before if "png" not in name]
    assert {k: contents(place / "out")[k] for k in files} == {k: before[k] for k in files}


def routed_row(network: str, method: str, psnr: float, flops: float) -> dict[str, object]:
    score = {"psnr": psnr, "ssim": 0.9}
    score |= {} if method == "dense" else {"mean_flops": flops, "shares": [0.5, 0.5]}  # type: ignore[dict-item]
    row = {"flops": flops, "scores": {"Set12": score}, "error": None}
    return {**asdict(Run(network, method)), **row}


def test_widths_are_drawn_by_their_flops(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [
        routed_row(f"dncnn-{width}", method, 27 + width / 32, part * width**2 * 2e7)
        for width in (16, 32, 64)
        for method, part in (("dense", 1.0), ("classpruning", 0.58))
    ]
    (axis,) = flops_axes(rows)
    assert list(axis.static) == ["dncnn-16", "dncnn-32", "dncnn-64"]
    assert axis.static["dncnn-64"] == pytest.approx((81.92, 29))
    assert [cost for cost, _ in axis.curves["classpruning"]] == pytest.approx(
        [0.58 * cost for cost, _ in axis.static.values()]
    )
    assert draw_routed(tmp_path, rows) == [f"{tmp_path}: flops.png"]
    assert (tmp_path / "flops.png").is_file()
    assert draw_routed(tmp_path, rows[:2]) == []
    assert draw_routed(tmp_path, [row for row in rows if row["method"] == "dense"]) == []


def test_an_untrained_network_is_not_evaluated(place: Path) -> None:
    (place / "small.toml").write_text(UNTRAINED.replace("blocks = 1", "blocks = 1\nsteps = 0"))
    ran = run("compare", "small.toml", "--out", "out", "--json")
    assert ran.status == 0, ran.err
    assert [len(row["scores"]) for row in ran.json["rows"]] == [0, 1, 1]
    assert "(" in run("compare", "small.toml", "--out", "out").out


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        ('model = "edsr"\n', "", "[fresh.small] wants model"),
        ("width = 12", "wings = 12", "no option 'wings'"),
        ("width = 12", 'width = "12"', "width = '12': wanted int"),
        ("blocks = 1", "blocks = 1\nsteps = -1", "wanted 0 or more"),
        ("least = 2", "last = 2", "fmp has no option 'last'"),
        ('"channel"', '"channels"', "criterion 'channels'"),
    ],
)
def test_a_wrong_network_or_variant_is_refused(
    old: str, new: str, fragment: str, place: Path
) -> None:
    (place / "small.toml").write_text(UNTRAINED.replace(old, new))
    ran = run("compare", "small.toml", "--out", "out", "--json")
    assert ran.status == 2
    assert fragment in ran.json["error"]
    assert not (place / "out").exists()


def test_a_damaged_result_is_named(place: Path) -> None:
    folder = place / "out" / "sr" / "dense"
    folder.mkdir(parents=True)
    (folder / "cell.json").write_text("{}")
    ran = run("compare", "small.toml", "--out", "out")
    assert ran.status == 2
    assert "cell.json is damaged" in ran.err


def test_a_missing_recipe_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="cannot read the recipe"):
        read_plan(Path("nowhere.toml"))


TASKS_OF_PAIRS = ("derain", "deblur", "dehaze")
CLASSPRUNING_RUNS = {
    **{"denoise": 18, "denoise-ablations-short": 19, "denoise-short": 4},
    **{"widths": 10, "widths-short": 6, "sidd": 3},
    **dict.fromkeys((f"{task}{length}" for task in TASKS_OF_PAIRS for length in ("", "-short")), 3),
}


@pytest.mark.parametrize("name", CLASSPRUNING_RUNS)
def test_the_recipes_of_classpruning_are_readable(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = Path(__file__).parents[1] / "recipes" / "classpruning"
    assert sorted(path.stem for path in folder.iterdir()) == sorted(CLASSPRUNING_RUNS)
    text = (folder / f"{name}.toml").read_text()
    for variable in re.findall(r'"\$(\w+)', text):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for path in re.findall(r'"(\$[^"]+)"', text):
        Path(os.path.expandvars(path)).mkdir(parents=True, exist_ok=True)
    plan = read_plan(folder / f"{name}.toml")
    planned = all_runs(plan)
    assert len(planned) == len({run.folder for run in planned}) == CLASSPRUNING_RUNS[name]
    assert not plan.skipped_tests
    with torch.device("meta"):
        tasks = [network.build(0)[1] for network in plan.untrained.values()]
    for task in tasks:  # its options exist
        make_task(**{**described(task), **plan.task, **plan.evaluation_options})


def test_a_comparison_runs_from_python_as_from_the_command_line(place: Path) -> None:
    (place / "small.toml").write_text(RECIPE.replace('"sr-ste:paper", ', ""))
    result = compare("small.toml", "out")
    ran = run("compare", "small.toml", "--out", "out", "--json")
    assert list(result.rows) == ran.json["rows"]
    assert (result.failures, result.skipped_tests) == ((), ())
    assert result.table.markdown() == (place / "out" / "table.md").read_text()


def test_a_comparison_of_91f6d5f_resumes(place: Path) -> None:
    """The identity of its runs holds the old names of options; nothing is pruned again."""
    recipe = UNTRAINED.replace("least = 2", "least = 2\ntaught = 0.0")
    (place / "small.toml").write_text(recipe)
    assert run("compare", "small.toml", "--out", "out").status == 0
    path = place / "out" / "small" / "channels-60%-seed0" / "cell.json"
    record = json.loads(path.read_text())
    options = json.loads(record["made_by"]["cell"]["options"])
    assert {"min_channels", "distill_weight"} < set(options)
    old = {"criterion": "channel", "least": 2, "taught": 0.0}
    record["made_by"]["cell"]["options"] = json.dumps(old, sort_keys=True)
    path.write_text(json.dumps(record))
    before = contents(place / "out")
    assert run("compare", "small.toml", "--out", "out").status == 0
    assert contents(place / "out") == before
    record["made_by"]["cell"]["options"] = json.dumps({**old, "taught": 0.5}, sort_keys=True)
    path.write_text(json.dumps(record))
    assert "made by another recipe" in run("compare", "small.toml", "--out", "out").err


def test_two_names_of_one_table_are_refused(place: Path) -> None:
    (place / "small.toml").write_text(RECIPE + "\n[judging]\n[evaluation]\n")
    assert "unknown second table" in run("compare", "small.toml", "--out", "out").err


def test_lpips_is_a_column_where_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plumbing, by a stub: AlexNet's weights are not to be had in the tests."""
    monkeypatch.setattr(
        "thinlens.restoration.evaluation.lpips_distance", lambda: lambda x, y: 0.125
    )
    torch.manual_seed(0)
    network = create("unet", width=8)
    save(tmp_path / "unet", network, model="unet", task=make_task("deblur"))
    images(tmp_path / "clean", count=1, height=48, width=48)
    recipe = RECIPE.replace('"sr", ', "").replace('["sr"]', f'["{tmp_path / "unet"}"]')
    recipe = recipe.replace('"one-shot", "sr-ste:paper", "filter"', '"one-shot"')
    recipe = recipe.replace('"clean"', f'"{tmp_path / "clean"}"').replace(', "1/40"', "")
    (tmp_path / "lpips.toml").write_text(recipe)
    result = compare(tmp_path / "lpips.toml", tmp_path / "out")
    assert [row["scores"]["twice"]["lpips"] for row in result.rows] == [0.125, 0.125]
    header, *lines = (tmp_path / "out" / "table.csv").read_text().splitlines()
    column = header.split(",").index("twice_lpips")
    assert {line.split(",")[column] for line in lines} == {"0.125"}
    assert "/ 0.1250" in (tmp_path / "out" / "table.md").read_text()
