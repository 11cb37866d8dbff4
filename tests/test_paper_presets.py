"""Every constant of a preset called `paper` is that of its source; a change fails here."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cli_cases import images
from thinlens.cli.main import main
from thinlens.experiments.comparison import compare
from thinlens.experiments.plan import all_runs, read_plan
from thinlens.methods.classpruning.method import ClassPruning
from thinlens.methods.classpruning.routed_training import PAPER_STAGES
from thinlens.methods.fmp.method import Fmp
from thinlens.methods.sls.annealing import Annealing
from thinlens.methods.sls.method import Sls, paper_penalty
from thinlens.methods.sr_ste import SrSte
from thinlens.models import create
from thinlens.models.dmphn import DMPHN
from thinlens.models.dmphn import Config as DmphnConfig
from thinlens.models.srn import SRN
from thinlens.models.srn import Config as SrnConfig
from thinlens.models.unet import Config as UnetConfig
from thinlens.models.unet import UNet
from thinlens.sparsity.budget import Budget
from thinlens.tasks import make_task
from thinlens.training.settings import Settings

RECIPES = Path(__file__).parents[1] / "recipes"

SLS_PAPER = {
    "threshold": 0.5,  # section 4.2: tau
    "alpha": 1.1,  # section 4.2
    "anneal_threshold": 0.1,  # section 4.2: T
    "anneal_epochs": 2,  # K: the official code's
    "anneal_window": 2,  # equation 7: during the last K epochs
    "anneal_quantity": "fraction",  # equation 7
    "max_penalty_growth": None,
    "k_max": 1.0,  # equation 4
    "priority_displacement": 30.0,  # the official code: Adam at 1e-4, 300,000 steps
    "ordered": True,
    "regroup_epochs": 1,  # Table 3, the row that Tables 1 and 2 repeat
    "regroup_until": 1.0,
    "refill": False,
    "distill_weight": 0.0,
    "m": 32,  # section 4.2
    "importance": "magnitude",  # section 3.3
    "search_until": 1.0,
    "finish": "refuse",
    "allow_zero": False,
    "start_budget_factor": 0.0,
    "least_squares": False,
    "freeze_pruned": False,
    "penalty": None,
    "lambda_reg": 1e-10,  # section 4.2; 1e-12 for deblurring, below
}

SLS_CODE = {
    **SLS_PAPER,
    "alpha": 1.2,
    "anneal_threshold": 0.2,
    "anneal_window": 1,
    "anneal_quantity": "factor",
    "k_max": 1.03,
}

ADAM = {
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "floor": 0.0,
    "warmup": 0,
    "precision": "fp32",
    "loss": "l1",
    "average": 0.0,
    "batch_size": 16,
    "candidates": 1,
}
SLS_TRAINING = {
    "sr": {**ADAM, "schedule": "step", "epoch_steps": 1000, "patch": 48},
    "deblur": {**ADAM, "schedule": "halvings", "epoch_steps": 131, "patch": 256},
}


def sls(preset: str, **options: Any) -> Sls:
    return Sls.preset(preset, budget=Budget.parse("1/8"), example=(1, 3, 48, 48), **options)


@pytest.mark.parametrize(("preset", "constants"), [("paper", SLS_PAPER), ("code", SLS_CODE)])
def test_the_constants_of_sls(preset: str, constants: dict[str, Any]) -> None:
    method = sls(preset)
    assert {key: getattr(method, key) for key in constants} == constants
    others = {"budget", "example", "latency", "policy", "keep_dense"}
    assert set(constants) | others == set(Sls.option_names()) | {"budget", "example", "latency"}


@pytest.mark.parametrize("task", SLS_TRAINING)
def test_the_training_of_sls(task: str) -> None:
    assert Sls.training_preset("paper", make_task(task)) == SLS_TRAINING[task]
    assert Sls.training_preset("plus", make_task(task)) == {}


def test_the_schedules_of_sls() -> None:
    """The rate halves at epoch 200 of 300; in deblurring at 50, 75 and 90 % of the run."""
    step = Settings(steps=300_000, schedule="step", warmup=0)
    assert [step.lr_factor(x) for x in (0, 199_999, 200_000, 299_999)] == [1, 1, 0.5, 0.5]
    halvings = Settings(steps=262_000, schedule="halvings", warmup=0)
    marks = (130_999, 131_000, 196_500, 235_800)
    assert [halvings.lr_factor(x) for x in marks] == [1, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("network", "penalty"),
    [(UNet(UnetConfig()), 0.000127), (SRN(SrnConfig()), 0.00033), (DMPHN(DmphnConfig()), 0.00027)],
    ids=["unet", "srn", "dmphn"],
)
def test_lambda_of_deblurring_is_that_of_section_4_2(network: nn.Module, penalty: float) -> None:
    """1e-12 a multiply-add of a 256x256 crop, for images in 0..255."""
    options = Sls.task_options(make_task("deblur"))
    assert options == {"lambda_reg": 1e-12}
    method = replace(sls("paper", **options), example=(1, 3, 256, 256))
    value = paper_penalty(method.tables(network), method.lambda_reg)
    assert value == pytest.approx(penalty, rel=0.02)
    assert Sls.task_options(make_task("sr")) == {"lambda_reg": 1e-10}
    assert Sls.task_options(make_task("denoise")) == {}


def test_the_paper_bounds_lambda_by_nothing() -> None:
    annealing = Annealing(1e-9, Budget.parse("1/8"), alpha=1e3, threshold=0.1, max_growth=None)
    costs = [1.0]
    for _ in range(60):
        costs.append(1.0)
        annealing.update(costs, epochs_remaining=100)
    assert annealing.penalty == pytest.approx(1e-9 * 1e3**30)
    assert not annealing.saturated


def test_prune_trains_as_the_preset_unless_flags_say_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thinlens import api

    calls: list[tuple[Any, Any]] = []

    def record(network: Any, **options: Any) -> Any:
        calls.append((options["trainer"].settings, options["data"]))
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "prune", record)
    data = images(tmp_path / "data", 1, 64, 64)
    words = ["prune", "sls", "rfdn-x4", "--budget", "1/8", "--preset", "paper", "--steps", "9"]
    words += ["--data", str(data), "--out", str(tmp_path / "out"), "--patch", "12"]
    main([*words])
    main([*words, "--optimizer", "muon"])
    (settings, crops), (other, _) = calls
    expected = {key: x for key, x in SLS_TRAINING["sr"].items() if hasattr(settings, key)}
    assert {key: getattr(settings, key) for key in expected} == expected
    assert (settings.steps, other.optimizer) == (9, "muon")
    assert (crops.batch_size, crops.candidates, crops.patch) == (16, 1, 12)


CLASSPRUNING_PAPER = {
    "branches": "1:4,2:4,4:4",  # section 3.2: 75 %, 50 % and none pruned
    "scratch": True,
    "stage_rates": "paper",  # section 3.4; tests/test_classpruning.py has the rates
    "least_share": 0.0,  # equation 6
    "stabilized": False,  # equation 7
    "cost_loss": True,
    "single_stage": False,
    "shared_norms": False,
    "search": 0.0,
}


def test_the_constants_of_classpruning() -> None:
    options = {"budget": Budget.parse("58%"), "example": (1, 1, 8, 8)}
    method = ClassPruning.preset("paper", **options)
    assert {key: getattr(method, key) for key in CLASSPRUNING_PAPER} == CLASSPRUNING_PAPER
    assert PAPER_STAGES == {
        "labels": (200, 1e-3, 1e-6),
        "branches": (500, 1e-4, 1e-6),
        "joint": (500, 1e-5, 1e-7),
    }
    training = {"batch_size": 32, "optimizer": "adam", "warmup": 0, "precision": "fp32"}
    assert ClassPruning.training_preset("paper", make_task("derain")) == training


FMP_PAPER = {
    "criterion": "total",  # supplement, section 2.2: the authors' choice
    "start": "fresh",  # no pretraining
    "channel_penalty": 0.1,  # DHP, for EDSR
    "prox": "vectors",  # DHP
    "search_until": 1 / 6,  # DHP: 60 of 360 epochs
    "finish": "refuse",
    "threshold": 5e-3,  # DHP
    "min_channels": 4,  # DHP
    "embedding": 8,  # DHP
    "indicator": "weight",
}
FMP_TRAINING = {
    **{key: ADAM[key] for key in ("optimizer", "learning_rate", "warmup", "precision", "loss")},
    **{"schedule": "step", "epoch_steps": 1000, "batch_size": 16, "patch": 48, "candidates": 1},
}
SR_STE_PAPER = {"decay": 2e-4, "mode": "gradient", "start": "scratch", "freeze_from": 1.0}


def test_the_constants_of_fmp_and_sr_ste() -> None:
    options = {"budget": Budget.parse("1/2"), "example": (1, 3, 8, 8)}
    fmp = Fmp.preset("paper", **options)
    assert {key: getattr(fmp, key) for key in FMP_PAPER} == FMP_PAPER
    assert Fmp.training_preset("paper", make_task("sr")) == FMP_TRAINING
    sr_ste = SrSte.preset("paper", **options)
    assert {key: getattr(sr_ste, key) for key in SR_STE_PAPER} == SR_STE_PAPER


FULL_LENGTH = {
    "sls-table1": ("deblur", 262_000),
    "sls-table-s1": ("deblur", 262_000),
    "sls-fig-s2": ("deblur", 262_000),
    "sls-table2": ("sr", 300_000),
    "sls-table-s2": ("sr", 300_000),
    "sls-fig7": ("sr", 300_000),
}
"""Recipes at SLS's length, by name: the task, and the steps of 2,000 or 300 epochs."""


@pytest.mark.parametrize("name", FULL_LENGTH)
def test_recipes_at_full_length_train_as_the_paper(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("THINLENS_DATA", "DIV2K", "URBAN100", "GOPRO"):
        monkeypatch.setenv(variable, str(tmp_path))
    for test_set in ("Set14", "B100"):
        (tmp_path / "sr_test" / test_set / "x4").mkdir(parents=True)
    task, steps = FULL_LENGTH[name]
    plan = read_plan(RECIPES / "paper" / f"{name}.toml")
    settings = {**asdict(plan.training), **plan.crops}
    assert {key: settings[key] for key in SLS_TRAINING[task]} == SLS_TRAINING[task]
    assert plan.training.steps == steps
    runs = all_runs(plan)
    assert {run.steps for run in runs if run.method == "sr-ste"} <= {2 * steps}
    assert {run.preset for run in runs if run.method in ("sls", "filter")} <= {"paper", "code"}
    two_of_four = [run for run in runs if run.variant == "one-shot-2-of-4"]
    assert {(run.m, run.budget) for run in two_of_four} <= {(4, "1/2")}
    if "table" in name:
        assert {run.method for run in runs} == {"dense", "filter", "one-shot", "sr-ste", "sls"}


def test_table_3_has_every_row_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both recipes have the paper's rows; the short one runs on a small network."""
    monkeypatch.setenv("THINLENS_DATA", str(tmp_path))
    for name in ("DIV2K", "URBAN100", "BSDS500"):
        monkeypatch.setenv(name, str(images(tmp_path / name, 1, 64, 64)))
    for name in ("Set5", "Set14", "B100"):
        (tmp_path / "sr_test" / name / "x4").mkdir(parents=True)
    plans = [read_plan(RECIPES / f"sls-table3{end}.toml") for end in ("", "-short")]
    assert plans[0].variants == plans[1].variants
    assert len(plans[0].methods) == 6
    assert plans[0].training.steps == 300_000
    trained = {key: x for key, x in SLS_TRAINING["sr"].items() if key not in plans[0].crops}
    assert {key: getattr(plans[0].training, key) for key in trained} == trained
    assert dict(plans[0].crops) == {"patch": 48, "batch_size": 16, "candidates": 1}

    from thinlens.api import save

    torch.manual_seed(0)
    network = create("rfdn", scale=4, width=8, attention_width=4, blocks=1)
    save(tmp_path / "small", network, model="rfdn", task=make_task("sr"))
    text = (RECIPES / "sls-table3-short.toml").read_text()
    changes = {
        'networks = ["rfdn-x4"]': f'networks = ["{tmp_path / "small"}"]',
        'budgets = ["1/8"]': 'budgets = ["1/2"]',
        "m = [32]": "m = [4]",
        "steps = 450": "steps = 30",
        "patch = 32": "patch = 8",
        'method = "sls:paper"': 'method = "sls:paper"\nfinish = "greedy"',
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    text = text[: text.index("[tests]")] + text[text.index("[training]") :]
    text = text.replace('"sls:paper", "without-pop"', '"every-epoch", "without-pop"')
    text = text.replace('run = "sls:paper"', 'run = "every-epoch"')
    text += '[variants.every-epoch]\nmethod = "sls:paper"\nfinish = "greedy"\n'
    (tmp_path / "short.toml").write_text(text)
    rows = compare(tmp_path / "short.toml", tmp_path / "out").rows
    assert [row["error"] for row in rows] == [None] * 7
    assert all(row["achieved"] <= 0.5 for row in rows[1:])
    records = {row["variant"]: _record(tmp_path / "out", row) for row in rows[1:]}
    annealed, constant = records["every-epoch"], records["without-annealing"]
    assert constant["settings"]["penalty"] == annealed["final_lambda"]
    assert {row["lambda"] for row in constant["history"]} == {annealed["final_lambda"]}
    assert len({row["lambda"] for row in annealed["history"]}) > 1
    assert not any(row["flips"] for row in records["no-update"]["history"])
    assert any(row["flips"] for row in records["every-step"]["history"])


def _record(out: Path, row: dict[str, Any]) -> dict[str, Any]:
    from thinlens.api import load_checkpoint

    network = row["network"].strip("/").replace("/", "_")
    (folder,) = (out / network).glob(f"{row['variant']}-*")
    return dict(load_checkpoint(folder).provenance)


def test_a_reference_to_a_later_run_is_refused(tmp_path: Path) -> None:
    from thinlens.errors import UsageError

    lines = ['networks = ["rfdn-x4"]', 'methods = ["a", "one-shot"]', 'budgets = ["1/2"]']
    lines += ["[variants.a]", 'method = "sls"', 'penalty = {run = "one-shot", entry = "x"}']
    (tmp_path / "a.toml").write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"penalty = .*: wanted a number, or run, an earlier one"):
        read_plan(tmp_path / "a.toml")
    lines[-1] = "steps = 0"
    (tmp_path / "a.toml").write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"steps = 0 of \[variants.a\]: wanted 1 or more"):
        read_plan(tmp_path / "a.toml")
