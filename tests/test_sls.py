"""Does SLS take the settings it promises, refuse the others, and agree with the paper's scale?"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.errors import UsageError
from thinlens.methods.importance import importance_scores
from thinlens.methods.sls.method import MAX_PRIORITY_RATE, Sls, paper_penalty
from thinlens.methods.sls.search import BudgetNotMetError
from thinlens.models.rfdn import RFDN, Config
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.masking import attach
from thinlens.training.loop import Settings, Trainer

EXAMPLE = (1, 3, 12, 16)


class Smooth:
    """Batches of one size; the target is the input, blurred."""

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(10_000 * seed + 1_000 * epoch + step)
        image = torch.rand(4, 3, 16, 16, generator=generator)
        return image, F.avg_pool2d(image, 3, 1, padding=1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(8, 3, 3, padding=1),
    )


def sls(**settings: Any) -> Sls:
    return Sls(**{"budget": Budget.parse("1/2"), "example": EXAMPLE, "m": 4, **settings})


def trainer(steps: int = 30) -> Trainer:
    return Trainer(Settings(steps=steps, learning_rate=1e-3, optimizer="adam", warmup=0))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"penalty": -1.0}, "lambda -1.0: wanted a finite number from 0"),
        ({"penalty": math.nan}, "lambda nan: wanted"),
        ({"penalty": math.inf}, "lambda inf: wanted"),
        ({"threshold": 0.0}, "tau 0.0: wanted a threshold between 0 and 1"),
        ({"threshold": 1.0}, "tau 1.0: wanted"),
        ({"alpha": 0.9}, "alpha 0.9: wanted a finite factor from 1"),
        ({"alpha": math.inf}, "alpha inf: wanted"),
        ({"anneal_threshold": -0.1}, "T -0.1: wanted a change from 0"),
        ({"anneal_epochs": 0}, "K 0, window 1: wanted 1 epoch or more"),
        ({"anneal_window": 0}, "K 2, window 0: wanted 1 epoch or more"),
        ({"anneal_quantity": "speed"}, "anneal_quantity 'speed': wanted factor or fraction"),
        ({"k_max": 0.5}, "k_max 0.5: wanted a bound from 1 to 2"),
        ({"priority_displacement": 0.0}, "priority_displacement 0.0: wanted a finite change"),
        ({"importance": "luck"}, "importance 'luck': wanted magnitude, activation or second-order"),
        ({"finish": "maybe"}, "finish 'maybe': wanted refuse or greedy"),
        ({"regroup_epochs": -1}, "regroup_epochs -1: wanted 0 (every step) or more"),
        ({"regroup_until": 1.5}, "regroup_until 1.5: wanted a part of the run, 0 to 1"),
        ({"search_until": -0.5}, "search_until -0.5: wanted a part of the run, 0 to 1"),
    ],
)
def test_a_setting_out_of_range_is_one_sentence(setting: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        sls(**setting)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="preset 'best': wanted paper, code or plus"):
        Sls.preset("best", budget=Budget.parse("1/2"), example=EXAMPLE)


def test_a_budget_below_one_weight_a_group_names_the_lowest() -> None:
    with pytest.raises(UsageError, match=r"lowest reachable is 25\.00%"):
        sls(budget=Budget.parse("1/5")).run(network(), Smooth(), trainer())


def test_a_budget_that_is_met_already_prunes_nothing_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    result = sls(budget=Budget.parse("1")).run(network(), Smooth(), trainer(5))
    assert result.record["achieved"] == 1.0
    assert result.record["frozen_step"] == 0
    assert "meets the budget 1" in caplog.text


def test_a_search_that_does_not_arrive_says_where_it_stands() -> None:
    sentence = r"above the budget 1/4, and its fraction of the run"
    with pytest.raises(BudgetNotMetError, match=sentence):
        sls(budget=Budget.parse("1/4"), penalty=0.0).run(network(), Smooth(), trainer(5))


def test_a_search_too_short_ends_greedily_or_in_a_refusal() -> None:
    with pytest.raises(UsageError, match="wanted a number of steps"):
        sls(penalty=0.0).run(network(), Smooth(), trainer(0))
    with pytest.raises(BudgetNotMetError, match="its fraction of the run is over"):
        sls(penalty=0.0).run(network(), Smooth(), trainer(1))
    result = sls(penalty=0.0, finish="greedy").run(network(), Smooth(), trainer(1))
    assert result.record["achieved"] == 0.5


@pytest.mark.parametrize("preset", Sls.PRESETS)
def test_every_preset_gives_masks_that_are_n_of_m_within_the_budget(preset: str) -> None:
    settings = {"finish": "greedy", "search_until": 0.6, "least_squares": False}
    method = Sls.preset(preset, budget=Budget.parse("0.4"), example=EXAMPLE, m=4, **settings)
    dense = network()
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    result = method.run(dense, Smooth(), trainer())
    for name, pattern in result.patterns.items():
        layer = result.module.get_submodule(name)
        pattern.check(layer)
        assert (layer.weight[~pattern.mask] == 0).all()
    assert result.record["achieved"] <= 0.4
    assert result.record["frozen_step"] <= 18
    for name, value in dense.state_dict().items():
        assert torch.equal(value, before[name])
    attach(dense, result.patterns)  # the masks fit the network that was given


def test_the_record_holds_the_history_of_the_search() -> None:
    result = sls(penalty=0.1, finish="greedy", search_until=0.5).run(network(), Smooth(), trainer())
    history = result.record["history"]
    assert [row["step"] for row in history] == list(range(1, 31))  # an epoch is 1/300, at least 1
    assert set(history[0]) == {"step", "cost", "lambda", "task_loss", "flips"}
    costs = [row["cost"] for row in history]
    assert costs[result.record["frozen_step"] - 1 :] == [0.5] * (31 - result.record["frozen_step"])
    assert history[-1]["task_loss"] < history[0]["task_loss"]
    assert all(row["flips"] == 0 for row in history[-3:])  # ranks stay in the last tenth


@pytest.mark.parametrize("steps", [2_000, 300_000])
def test_periods_and_rates_are_parts_of_the_run(steps: int) -> None:
    config = sls().search_config(network(), steps)
    assert config.epoch_steps == round(steps / 300)
    assert config.priority_rate == pytest.approx(30 / steps)
    assert sls().search_config(network(), 10).priority_rate == MAX_PRIORITY_RATE


def test_the_papers_lambda_is_converted_to_a_fraction_of_rfdns_cost() -> None:
    """1e-10 a multiply-add at 48x48 crops is .158 of C / C_original for 0..255; ours is 0..1."""
    method = Sls(budget=Budget.parse("1/8"), example=(1, 3, 48, 48))
    tables = method.tables(RFDN(Config()))
    assert paper_penalty(tables, 1e-10) * 255 == pytest.approx(0.158, abs=5e-4)


def test_the_least_squares_start_is_taken_only_where_it_is_clearly_better() -> None:
    dense = network()
    method = sls(least_squares=True, finish="greedy")
    good, lost = (method.search(dense, Smooth(), trainer()) for _ in range(2))
    with torch.no_grad():
        for parameter in lost.module.parameters():
            parameter.mul_(5)  # a search that went astray
        for parameter in dense.parameters():
            parameter.add_(1e-3)
    lost._end_above_budget(1, "this is a test")
    assert lost.restarted
    for name, mask in lost.masks.items():  # the mask is the solution's, zeros and all
        weight = lost.module.get_submodule(name).parametrizations.weight.original
        assert torch.equal(weight != 0, mask.mask())
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.mul_(5)  # what a solution would repair is useless
    good._end_above_budget(1, "this is a test")
    assert not good.restarted


def test_saliencies_are_what_they_say() -> None:
    layers = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False))
    with torch.no_grad():
        layers[0].weight.copy_(torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.1, 1.0]])[..., None, None])
    generator = torch.Generator().manual_seed(0)
    images = (
        torch.randn(2, 2, 16, 16, generator=generator) * torch.tensor([3.0, 1.0])[:, None, None]
    )
    weight = layers[0].weight.detach()
    rms = images.square().mean((0, 2, 3)).sqrt()
    seen = importance_scores(layers, ["0"], images, "activation")["0"]
    torch.testing.assert_close(seen, weight.abs() * rms[:, None, None])

    rows = images.permute(0, 2, 3, 1).reshape(-1, 2).double()
    gram = rows.T @ rows / len(rows)
    gram += 0.01 * gram.diagonal().mean() * torch.eye(2)
    loss = weight.double().square() / gram.inverse().diagonal()[:, None, None]
    second = importance_scores(layers, ["0"], images, "second-order")["0"]
    torch.testing.assert_close(second, loss.float())
    assert importance_scores(layers, ["0"], images, "magnitude") == {}
    assert layers.training


@pytest.mark.parametrize("importance", ["activation", "second-order"])
def test_ranks_by_importance_reach_the_budget_too(importance: str) -> None:
    method = sls(importance=importance, penalty=1.0, finish="greedy", regroup_epochs=6)
    result = method.run(network(), Smooth(), trainer(12))
    assert result.record["achieved"] == 0.5
