"""Do the laws of the search hold: cost, freezing, determinism, resume?"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from thinlens.errors import RunError, UsageError
from thinlens.methods.frozen_entries import freeze_entries
from thinlens.methods.least_squares.method import LeastSquares
from thinlens.methods.sls.annealing import MAX_PENALTY_GROWTH, Annealing
from thinlens.methods.sls.method import Sls
from thinlens.methods.sls.search import BudgetNotMetError, SlsSearch
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.pattern import Pruned
from thinlens.training.loop import Settings, Trainer
from tiny_training import torchrun

EXAMPLE = (1, 3, 12, 16)
STEPS = 40


class Noise:
    """Batches whose target is a fixed function of the input; `bad` ones hold a NaN."""

    def __init__(self, bad: range = range(0), stop: int | None = None) -> None:
        self.bad, self.stop = bad, stop

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        if step == self.stop:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(10_000 * seed + 100 * epoch + step)
        image = torch.rand(2, 3, 8, 8, generator=generator)
        target = image.flip(1) * 0.5
        return image, target * math.nan if step in self.bad else target


def network(seed: int = 0) -> nn.Module:
    """Three prunable layers of different price: 8, 16 and 8 input channels, one of stride 2."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 8, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 3, 3, padding=1),
    )


def sls(**settings: Any) -> Sls:
    usual = {
        "budget": Budget.parse("1/4"),
        "example": EXAMPLE,
        "m": 8,
        "start_budget_factor": 0.0,
        "least_squares": False,
    }
    return Sls.preset("plus", **{**usual, **settings})


def trainer(folder: Path | None = None, **settings: Any) -> Trainer:
    return Trainer(
        Settings(
            **{
                "steps": STEPS,
                "learning_rate": 1e-3,
                "optimizer": "adam",
                "warmup": 0,
                "save_every": 20,
                **settings,
            }
        ),
        folder,
    )


def search(**settings: Any) -> SlsSearch:
    return sls(**settings).search(network(), Noise(), trainer())


def brute_force_cost(found: SlsSearch) -> float:
    """Count kept weights times the positions they are used at, and divide by the dense count."""
    positions: dict[str, int] = {}

    def count(name: str) -> Any:
        def note(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            at = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
            positions[name] = at.shape[-1] * at.shape[-2]

        return note

    plain = network()
    for name in found.masks:
        plain.get_submodule(name).register_forward_hook(count(name))
    plain(torch.zeros(EXAMPLE))
    kept = sum(int(m.mask().sum()) * positions[name] for name, m in found.masks.items())
    dense = sum(m.mask().numel() * positions[name] for name, m in found.masks.items())
    return kept / dense


def set_k(found: SlsSearch, value: float) -> None:
    with torch.no_grad():
        for mask in found.masks.values():
            mask.priorities.fill_(value)
    found._project()


def test_4_the_cost_pulls_at_k_n_in_proportion_to_m_minus_n() -> None:
    found = search()
    found.cost_with_gradient().backward()
    for name, costs in found.config.tables.items():
        mask = found.masks[name]
        share = costs[-1] / found.config.dense
        expected = torch.tensor([share * (8 - n) / 8 for n in range(1, 8)])
        torch.testing.assert_close(mask.priorities.grad, expected)


@pytest.mark.parametrize("k", [1.0, 0.95, 0.85, 0.7, 0.3])
def test_5_cost_is_a_brute_force_count(k: float) -> None:
    found = search()
    set_k(found, k)
    assert float(found.cost) == pytest.approx(brute_force_cost(found), abs=1e-12)
    assert found.cost_with_gradient().item() == pytest.approx(float(found.cost), abs=1e-6)


def test_6_nothing_changes_the_cost_after_freezing() -> None:
    found = search()
    before: Mapping[str, int] = {}
    for step in range(1, STEPS + 1):
        if found.frozen_step is not None and not before:
            before = found.n
        with torch.no_grad():
            for mask in found.masks.values():
                mask.priorities.mul_(0.97)
            for parameter in found.module.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.05)
        found.after_step(step)
        if found.frozen_step is not None:
            assert found.cost <= found.config.budget.kept
    assert before == found.n
    assert any(row["flips"] for row in found.history)  # it was ranked anew
    other = search()
    other.load_state_dict(found.state_dict())
    other.module.load_state_dict(found.module.state_dict())
    assert (other.n, other.cost) == (found.n, found.cost)


def test_7_without_a_price_and_a_gradient_nothing_is_pruned() -> None:
    class Flat(Noise):
        def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
            image, target = super().batch(seed, epoch, step)
            return image * 0, target * 0

    bare = network()
    for layer in bare:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.zeros_(layer.bias)
    settings = sls(penalty=0.0, finish="refuse", search_until=1.0)
    found = settings.search(bare, Flat(), trainer())
    with pytest.raises(BudgetNotMetError, match=r"stands at 1\.0000"):
        trainer().fit(found, Flat())
    assert set(found.n.values()) == {8}


def test_8_a_huge_price_prunes_to_one_weight_a_group() -> None:
    found = search(
        penalty=1e6,
        anneal_threshold=math.inf,
        budget=Budget.parse("1/8"),
        priority_displacement=3.0,
    )
    trainer().fit(found, Noise())
    assert set(found.n.values()) == {1}
    assert found.cost == Budget.parse("1/8").kept
    assert 10 <= (found.frozen_step or 0) < 24  # by the price, not by the greedy finish


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_9_hold_pruned_keeps_weights_and_moments(optimizer: str) -> None:
    """Over many steps of a frozen mask, what is dead does not change in any bit."""
    found = search(budget=Budget.parse("1"), regroup_until=0.0)
    for mask in found.masks.values():
        mask.set_n(3)
    course = trainer(optimizer=optimizer, steps=5)
    weights = list(found.pruned_entries().items())
    with freeze_entries(found.pruned_entries()):
        before = [w.detach().clone() for w, _ in weights]
        course.fit(found, Noise())
    for (weight, dead), old in zip(weights, before, strict=True):
        assert torch.equal(weight[dead()], old[dead()])
        assert not torch.equal(weight[~dead()], old[~dead()])


def test_9_momentum_moves_pruned_weights_unless_they_are_held() -> None:
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    dead = torch.tensor([True, True, False, False])
    weight.grad = torch.ones(4)
    optimizer.step()
    weight.grad = torch.tensor([0.0, 0.0, 1.0, 1.0])

    def numbers() -> list[Tensor]:
        state = optimizer.state[weight]
        return [weight.detach().clone(), state["exp_avg"].clone(), state["exp_avg_sq"].clone()]

    start = numbers()
    with freeze_entries({weight: lambda: dead}):
        optimizer.step()
    for old, new in zip(start, numbers(), strict=True):
        assert torch.equal(old[dead], new[dead])
        assert not torch.equal(old[~dead], new[~dead])
    optimizer.step()
    assert not torch.equal(start[0][dead], weight[dead])


def test_10_step_zero_is_the_pretrained_network() -> None:
    plain, found = network(), search()
    image = torch.rand(EXAMPLE)
    assert torch.equal(plain(image), found.module(image))


@pytest.mark.parametrize("preset", Sls.PRESETS)
def test_12_the_same_seed_gives_the_same_network(preset: str) -> None:
    settings = Sls.preset(preset, budget=Budget.parse("1/4"), example=EXAMPLE, m=8)
    settings = replace(settings, finish="greedy", search_until=0.6, least_squares=False)
    first, second = (settings.run(network(), Noise(), trainer()) for _ in range(2))
    assert first.record["layers"] == second.record["layers"]
    assert first.record["history"] == second.record["history"]
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name])


@pytest.mark.slow
def test_12_two_processes_that_train_as_one_find_the_same_network(tmp_path: Path) -> None:
    torchrun(
        tmp_path,
        "import os, torch, test_sls_invariants as t\n"
        "found = t.sls().run(t.network(), t.Noise(), t.trainer())\n"
        "found.record.pop('seconds')\n"
        f"path = f'{tmp_path}/found-{{os.environ[\"RANK\"]}}.pt'\n"
        "torch.save((found.record, found.module.state_dict()), path)\n",
    )
    (record, weights), (other, others) = (
        torch.load(tmp_path / f"found-{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    for row in (*record["history"], *other["history"]):
        del row["task_loss"]  # each process tells that of its half of the batch
    assert record == other
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert record["achieved"] <= 0.25


def test_9_a_frozen_run_differs_only_by_the_momentum_of_pruned_weights() -> None:
    """`hold_pruned` from the outside: the budget is met, and no mask entry comes back by drift."""
    free, still = (
        sls(freeze_pruned=hold, importance="magnitude", penalty=5e-3).run(
            network(), Noise(), trainer()
        )
        for hold in (False, True)
    )
    assert free.record["achieved"] <= 0.25
    assert still.record["achieved"] <= 0.25
    held_flips = sum(row["flips"] for row in still.record["history"])
    assert held_flips <= sum(row["flips"] for row in free.record["history"])
    names = still.module.state_dict()
    assert any(not torch.equal(names[k], v) for k, v in free.module.state_dict().items())


@pytest.fixture(scope="module")
def straight() -> Pruned:
    return sls().run(network(), Noise(), trainer(save_every=3))


@pytest.mark.parametrize("stop", [5, 17, 31])  # while searching; near freezing; fine-tuning
def test_a_resumed_run_is_the_straight_run_bit_for_bit(
    tmp_path: Path, straight: Pruned, stop: int
) -> None:
    settings = sls()
    cut = trainer(tmp_path, save_every=3)
    with pytest.raises(KeyboardInterrupt):
        settings.run(network(), Noise(stop=stop), cut)
    resumed = settings.run(network(), Noise(), cut)
    assert resumed.record["history"] == straight.record["history"]
    assert resumed.record["frozen_step"] == straight.record["frozen_step"]
    for name, value in straight.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name])


def test_11_ten_bad_steps_end_the_run_and_the_last_good_state_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="10 steps in a row"):
        sls().run(network(), Noise(bad=range(20, 99)), trainer(tmp_path, save_every=10))
    state = torch.load(tmp_path / "training.pt", weights_only=True)
    assert state["counters"]["step"] == 20
    assert all(value.isfinite().all() for value in state["module"].values())


def test_a_few_bad_steps_are_as_if_they_had_not_been() -> None:
    found = sls().run(network(), Noise(bad=range(12, 16)), trainer())
    assert found.record["achieved"] <= 0.25


def test_1_3_with_k_above_one_only_the_leading_run_lives() -> None:
    """Row 1 of the table of paper against code: k = (.495, 1.03) gives p = (1, .495, .5099)."""
    layers = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 3, 1))
    settings = Sls(budget=Budget.parse("1/3"), example=EXAMPLE, m=3, k_max=1.03)
    found = settings.search(layers, Noise(), trainer())
    (mask,) = found.masks.values()
    mask.priorities.data = torch.tensor([0.495, 1.2])
    found._project()
    assert mask.priorities.tolist() == pytest.approx([0.495, 1.03])
    assert mask.n == 1


@pytest.mark.parametrize("k", [-0.3, 1.7])
def test_k_is_projected_and_can_come_back(k: float) -> None:
    found = search()
    set_k(found, k)
    for mask in found.masks.values():
        assert ((mask.priorities >= 0) & (mask.priorities <= 1)).all()
    set_k(found, 0.99)
    assert set(found.n.values()) == {8}


def test_independent_scores_may_drop_a_larger_unit_first() -> None:
    found = search(ordered=False)
    mask = next(iter(found.masks.values()))
    mask.priorities.data[0] = 0.2
    found._project()
    assert mask.kept_units == (True, False, *[True] * 6)
    assert int(mask.mask().sum()) * 8 == mask.mask().numel() * 7


def test_annealing_raises_lambda_only_where_the_network_shrinks_too_little() -> None:
    def after(costs: list[float], **settings: Any) -> float:
        annealing = Annealing(1.0, Budget.parse("1/8"), **settings)
        annealing.update(costs, epochs_remaining=10)
        return annealing.penalty

    code = {"alpha": 1.2, "threshold": 0.2, "window": 1}
    assert after([1, 0.6, 0.55], **code) == 1.2  # the factor moved by 0.15
    assert after([1, 0.9, 0.55], **code) == 1.0
    assert after([1, 0.9, 0.55, 0.55], **code) == 1.0  # an odd epoch
    paper = {"alpha": 1.1, "threshold": 0.1, "quantity": "fraction"}
    assert after([1, 0.95, 0.905], **paper) == 1.1  # the fraction moved by 0.095
    assert after([1, 0.95, 0.895], **paper) == 1.0
    on_time = {"alpha": 1.3, "threshold": None}
    assert after([1, 0.5, 0.25], **on_time) == 1.0  # 3 of the missing 4 in 2 of 10 epochs
    assert after([0.26, 0.25, 0.25], **on_time) == 1.3


def test_annealing_that_runs_away_differs_from_one_that_works() -> None:
    annealing = Annealing(1.0, Budget.parse("1/8"), alpha=100.0, threshold=0.2)
    costs = [1.0]
    while not annealing.saturated:
        costs.append(1.0)
        annealing.update(costs, epochs_remaining=1000)
        assert annealing.penalty <= MAX_PENALTY_GROWTH
        assert len(costs) < 50
    assert len(costs) - 1 == 4 + 20  # two rises to the cap, then twenty epochs of patience


def test_a_search_whose_lambda_runs_away_says_so() -> None:
    stuck = sls(
        priority_displacement=1e-9, alpha=1e4, finish="refuse", search_until=1.0, penalty=1e-9
    )
    with pytest.raises(BudgetNotMetError, match="lambda has been at its cap"):
        stuck.run(network(), Noise(), trainer())
    patient = replace(stuck, finish="greedy").run(network(), Noise(), trainer())
    assert patient.record["achieved"] <= 0.25
    assert patient.record["frozen_step"] < STEPS


def test_simultaneous_crossings_freeze_at_the_first_state_within_the_budget() -> None:
    """All k start equal and move in lock-step, so that layers lose units in bursts."""
    found = search(refill=False, search_until=1.0)
    for step in range(1, STEPS):
        set_k(found, 1 - 0.01 * step)
        earlier = found.cost
        found.after_step(step)
        if found.frozen_step is not None:
            break
    assert found.frozen_step == step
    assert len(set(found.n.values())) == 1
    assert found.cost == earlier == Budget.parse("1/4").kept


def test_the_rest_of_the_budget_is_spent_after_freezing() -> None:
    loose = search(budget=Budget.parse("0.3"), refill=False)
    exact = search(budget=Budget.parse("0.3"))
    for found in (loose, exact):
        set_k(found, 0.7)
        found.after_step(1)
    assert loose.cost < exact.cost <= Budget.parse("0.3").kept
    left = (Budget.parse("0.3").kept - exact.cost) * exact.config.dense
    units = [c[exact.n[x] + 1] - c[exact.n[x]] for x, c in exact.config.tables.items()]
    assert all(unit > left for unit in units)


def test_weights_shared_by_two_calls_cost_twice_and_have_one_n() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
            self.tail = nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            once: Tensor = self.body(self.head(x))
            return self.tail(self.body(once))

    found = sls().search(Twice(), Noise(), trainer())
    assert list(found.masks) == ["body"]
    assert found.config.tables["body"][-1] == 2 * 8 * 8 * 9 * 12 * 16
    result = sls().run(Twice(), Noise(), trainer())
    assert result.patterns["body"].n == 2
    assert not parametrize.is_parametrized(copy.deepcopy(result.module).get_submodule("body"))


@pytest.mark.parametrize("drop", [False, True])
def test_a_search_can_start_at_a_knapsack_and_goes_down_from_there(
    tmp_path: Path, drop: bool
) -> None:
    method = sls(start_budget_factor=2.0, allow_zero=drop)
    found = method.search(network(), Noise(), trainer())
    shared = {**method.shared(), "budget": Budget.parse("1/2")}
    solved = LeastSquares(**shared, allocation="knapsack").solved(network(), Noise())
    began = found.n
    assert began == {name: n for name, (n, _) in solved.record["layers"].items()}
    assert 0.25 < float(found.cost) <= 0.5
    image = torch.rand(2, 3, 12, 16)
    with torch.no_grad():
        torch.testing.assert_close(found.module(image), solved.module(image))
    found._project()
    assert found.n == began
    thin = method.run(network(), Noise(), trainer(tmp_path))
    ends = {name: n for name, (n, _) in thin.record["layers"].items()}
    assert thin.record["achieved"] <= 0.25
    assert sum(ends.values()) < sum(began.values())
    again = method.run(network(), Noise(), trainer(tmp_path))  # nothing is left to do
    with torch.no_grad():
        assert torch.equal(again.module(image), thin.module(image))


def test_a_knapsack_below_the_budget_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"start_budget_factor 0\.5: wanted 0, or times the budget from 1"
    ):
        sls(start_budget_factor=0.5)
