"""Does a run of FMP search, stop, extract, fine-tune, resume with the same bits, and refuse in a
sentence?"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from cli_cases import contents, images, run, sr_checkpoint
from fmp_cases import EXAMPLE, SETTINGS, Enlarged, case, network
from native_engine import built
from small_networks import RandomData
from thinlens import engine
from thinlens.errors import RunError, UsageError
from thinlens.methods import Pruned
from thinlens.methods.fmp.method import Fmp
from thinlens.methods.fmp.selection import Criterion, select
from thinlens.progress import Progress
from thinlens.signals import Interrupted
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.summary import summarize
from thinlens.training.loop import Trainer
from thinlens.training.state import load_state


def pruned(
    model: nn.Module,
    budget: str = "0.6",
    folder: Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Pruned:
    method = {"min_channels": 2, "threshold": 0.05, **options}
    settings = replace(SETTINGS, optimizer="muon", **{"steps": 24, **method.pop("training", {})})
    preset = method.pop("preset", None)
    fmp = Fmp.preset(preset, budget=Budget.parse(budget), example=EXAMPLE, **method)
    return fmp.run(model, Enlarged(), Trainer(settings, folder, progress))


@pytest.mark.parametrize("criterion", get_args(Criterion))
@pytest.mark.parametrize("metric", ["macs", "params"])
def test_every_criterion_ends_under_its_budget(criterion: str, metric: str) -> None:
    model = network("edsr")
    result = pruned(model, criterion=criterion, metric=metric)
    record = result.record
    dense, left = (
        summarize(m, p, EXAMPLE[1:]).total
        for m, p in ((model, {}), (result.module, result.patterns))
    )
    assert record["achieved"] == pytest.approx(getattr(left, metric) / getattr(dense, metric))
    assert record["achieved"] <= 0.6
    parts = record["parts"][metric]
    goals = {"channel": ("channels", 0.4), "weight": ("weights", 0.4), "total": ("left", 0.6)}
    if criterion == "total-fixed":
        assert min(parts["channels"], parts["weights"]) >= 0.2
    elif criterion == "total":
        assert parts["left"] <= 0.6
    else:
        part, least = goals[criterion]
        assert parts[part] >= least
        assert criterion == "channel" or parts["channels"] < 0.5  # weights are left to take
    for name, pattern in result.patterns.items():
        assert (prunable_layer(result.module, name).weight[~pattern.mask] == 0).all()
    json.dumps(record)


def test_the_search_stops_at_the_first_step_that_meets_its_goal(tmp_path: Path) -> None:
    long = {"steps": 60, "save_every": 5}
    result = pruned(network("edsr"), "0.25", tmp_path, training=long, search_until=0.9)
    ended = result.record["search_steps"]
    assert 5 < ended < 54
    lines = [json.loads(x) for x in (tmp_path / "metrics-search.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == ended
    assert lines[-1]["left"] <= 0.25 < lines[-2]["left"]
    state = load_state(tmp_path / "training-search.pt")
    tuned = load_state(tmp_path / "training-tune.pt")
    assert state is not None
    assert tuned is not None
    assert state["counters"]["step"] == ended
    assert tuned["counters"]["step"] == 60 - ended
    assert state["settings"]["optimizer"] == tuned["settings"]["optimizer"] == "adam"


SLOW = {"channel_penalty": 0.01, "weight_penalty": 0.01}
"""So little that only raised thresholds give the budget."""


@pytest.mark.parametrize("stage", ["search", "tune"])
@pytest.mark.parametrize("options", [{}, SLOW])
def test_a_run_that_was_cut_short_ends_with_the_same_bits(
    stage: str, options: dict[str, Any], tmp_path: Path
) -> None:
    options = {**options, "training": {"steps": 48}}
    straight = pruned(network("edsr"), "0.3", tmp_path / "straight", **options)
    searched = straight.record["search_steps"]
    assert searched == 24 if "channel_penalty" in options else 2 < searched < 24
    seen: list[str] = []

    def progress(step: int, steps: int, values: dict[str, float]) -> None:
        seen.append("search" if "task_loss" in values else "tune")
        if seen[-1] == stage and seen.count(stage) == 2:
            os.kill(os.getpid(), 15)

    with pytest.raises(Interrupted):
        pruned(network("edsr"), "0.3", tmp_path / "cut", progress, **options)
    resumed = pruned(network("edsr"), "0.3", tmp_path / "cut", **options)
    one, other = straight.module.state_dict(), resumed.module.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    for name, pattern in straight.patterns.items():
        assert torch.equal(pattern.mask, resumed.patterns[name].mask)
    for name in ("metrics-search.jsonl", "metrics-tune.jsonl"):
        texts = [(tmp_path / folder / name).read_text() for folder in ("straight", "cut")]
        assert texts[0] == texts[1]


def test_presets_and_the_subgradient_step() -> None:
    with pytest.raises(RunError, match="short of its criterion: more steps, higher penalties or"):
        pruned(network("edsr"), preset="paper")
    before = pruned(network("edsr"), prox="vectors", weight_penalty=1.0)
    assert before.record["achieved"] <= 0.6
    assert pruned(network("edsr"), preset="plus").record["start"] == "weights"


def test_a_vector_that_vanishes_is_a_sentence_and_the_state_stays(tmp_path: Path) -> None:
    """Channels alone cannot give the budget, so the search goes on until a vector is 0."""
    options = {"channel_penalty": 1e6, "weight_penalty": 0.0, "training": {"steps": 40}}
    with pytest.raises(RunError, match=r"vector of layer '[\w.]+' vanished at step \d+: wanted a"):
        pruned(network("edsr"), "0.01", tmp_path, threshold=0.9, **options)
    state = load_state(tmp_path / "training-search.pt")
    assert state is None or all(x.isfinite().all() for x in state["module"].values())


class Broken(RandomData):
    """Images that are NaN from a step on, or always."""

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        image, target = Enlarged().batch(seed, epoch, step)
        return image + (torch.nan if step >= 4 else 0), target


def test_nan_in_a_hypernetwork_is_a_sentence_and_the_last_good_state_stays(tmp_path: Path) -> None:
    method = Fmp(budget=Budget.parse("0.2"), example=EXAMPLE, min_channels=2)
    settings = replace(SETTINGS, steps=60)
    with pytest.raises(RunError, match="10 steps in a row gave NaN or infinity"):
        method.run(network("edsr"), Broken(), Trainer(settings, tmp_path))
    state = load_state(tmp_path / "training-search.pt")
    assert state is not None
    assert all(x.isfinite().all() for x in state["module"].values())
    poisoned = case("edsr").module
    with torch.no_grad():
        poisoned.generators[3].b2.fill_(torch.nan)  # type: ignore[union-attr]
    from thinlens.methods.fmp.extraction import masked_network

    with pytest.raises(RunError, match=r"a weight of layer 'body.1.body.0' that is not finite"):
        masked_network(poisoned, select(case("edsr").tracker, *nothing_pruned()))


def nothing_pruned() -> tuple[Any, Any]:
    found = case("edsr", "1")
    return found.search._magnitudes((0.0, 0.0)), found.search.config.target


class Mixed(nn.Module):
    """All its channels meet in a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.softmax(self.first(x), 1))
        return out


def test_ties_that_cannot_be_derived_name_the_operation() -> None:
    with pytest.raises(
        UsageError, match=r"lowest reachable is 100.00% \(.*softmax.* cannot be pruned"
    ):
        pruned(Mixed(), criterion="channel")
    method = Fmp(budget=Budget.parse("1/2"), example=EXAMPLE)
    result = method.run(Mixed(), RandomData(), Trainer(SETTINGS))  # weights alone can give it
    assert result.record["parts"]["macs"]["channels"] == 0
    assert result.record["achieved"] <= 0.5


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"criterion": "both"}, "criterion 'both': wanted channel, weight, total-fixed or total"),
        ({"metric": "bytes"}, "metric 'bytes'"),
        ({"weight_share": 1.0}, "weight_share 1.0: wanted a part"),
        ({"channel_penalty": -1.0}, "channel_penalty -1.0: wanted a finite number"),
        ({"min_channels": 0}, "wanted min_channels from 1"),
        ({"training": {"steps": 0}}, "fmp prunes while it trains: wanted a number of steps"),
    ],
)
def test_wrong_settings_are_one_sentence(options: dict[str, Any], fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment) as caught:
        pruned(network("edsr"), **options)
    assert "\n" not in str(caught.value)


@built
def test_what_is_left_runs_on_the_engine() -> None:
    for options in ({}, {"indicator": "nm", "m": 4}):
        thin = pruned(network("edsr"), "0.3", **options).module.eval()
        image = torch.rand(1, 3, 20, 20)
        with torch.inference_mode():
            torch.testing.assert_close(
                engine.compile(thin)(image), thin(image), rtol=1e-4, atol=1e-4
            )


def test_the_whole_line_from_the_command_line(tmp_path: Path) -> None:
    """From a name, with no checkpoint; then from one, and a failure that leaves it as it was."""
    dense, thin, clean = (tmp_path / name for name in ("dense", "thin", "clean"))
    sr_checkpoint(dense, width=12, attention_width=6)
    images(clean, count=1, height=112, width=112)
    line = ("--method", "fmp", "--criterion", "total", "--metric", "macs", "--data", clean)
    ran = run("prune", dense, *line, "--budget", "60%", "--steps", 4, "--out", thin, "--json")
    assert ran.status == 0, ran.err
    assert ran.json["budget_base"] == "macs"
    info = run("info", thin, "--json").json
    assert info["budget"] == pytest.approx(ran.json["achieved"])
    assert ran.json["achieved"] <= 0.6
    assert (info["params"], info["macs"]) == (ran.json["params"], ran.json["macs"])
    assert run("evaluate", thin, "--data", clean, "--json").json["images"] == 1
    assert run("restore", clean, "--model", thin, "--out", tmp_path / "out", "--json").status == 0
    bench = run("bench", thin, "--size", "24x24", "--rounds", 2, "--against", "none", "--json")
    assert bench.status == 0, bench.err
    before = contents(thin)
    failed = run("prune", dense, *line, "--budget", "1/900", "--steps", 4, "--out", thin)
    assert failed.status == 2
    assert "the lowest reachable is" in failed.err
    assert contents(thin) == before


def test_a_name_is_pruned_without_a_checkpoint(tmp_path: Path, monkeypatch: Any) -> None:
    from thinlens.experiments import networks
    from thinlens.models import create

    monkeypatch.setattr(
        networks, "initialize_network", lambda *_: create("edsr", scale=2, width=12, blocks=1)
    )
    clean = images(tmp_path / "clean", count=1, height=112, width=112)
    line = ("--method", "fmp", "--budget", "60%", "--steps", 2, "--data", clean, "--scale", 2)
    ran = run("prune", "edsr", *line, "--out", tmp_path / "thin", "--json")
    assert ran.status == 0, ran.err
    assert run("info", tmp_path / "thin", "--json").json["scale"] == 2
    refused = run("prune", "edsr", "--method", "one-shot", "--budget", "1/2", "--out", tmp_path)
    assert refused.status == 2
    assert "edsr is a network without weights" in refused.err
