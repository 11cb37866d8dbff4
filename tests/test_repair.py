"""Repair: the whole network comes nearer to the dense one, on inputs alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from small_networks import RandomData, crossed
from thinlens.errors import UsageError
from thinlens.methods.repair import Repair, RepairObjective, augmented
from thinlens.signals import Interrupted
from thinlens.sparsity.budget import Budget
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

TRAINED = Settings(steps=40, learning_rate=2e-2, warmup=0, save_every=10)


class Inputs:
    """Inputs whose targets say nothing: no method may learn from them."""

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        image = RandomData().batch(seed, epoch, step)[0]
        return image, torch.full_like(image, torch.nan)


def method(**options: Any) -> Repair:
    shared: dict[str, Any] = {
        "budget": Budget.parse("1/4"),
        "example": (1, 3, 16, 16),
        "m": 4,
        "pixels": 1024,
    }
    shared |= {"importance": "magnitude"}  # a quick start that leaves much to repair
    return Repair(**{**shared, **options})


def plain() -> nn.Module:
    """A chain of convolutions whose outputs vary with the image."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        chain: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1)]
        for c_out in (8, 8, 8, 8, 3):
            chain += [nn.PReLU(8), nn.Conv2d(8, c_out, 3, padding=1)]
        network = nn.Sequential(*chain)
        for layer in network[::2]:
            nn.init.orthogonal_(layer.weight)
    return network


def missed(thin: nn.Module, dense: nn.Module) -> float:
    """The mean squared difference of two networks on images of neither data set."""
    image = torch.cat([RandomData().batch(9, 0, step)[0] for step in range(4)])
    with torch.no_grad():
        return float((thin.eval()(image) - copy.deepcopy(dense).eval()(image)).square().mean())


def test_repair_comes_nearer_to_the_dense_network_without_any_ground_truth() -> None:
    model = plain()
    solved = method().solved(model, Inputs())
    repaired = method().run(model, Inputs(), Trainer(TRAINED))
    assert missed(repaired.module, model) < 0.97 * missed(solved.module, model)
    assert repaired.record["held_out_db"] > repaired.record["start_db"] + 0.1
    for name, pattern in repaired.patterns.items():
        assert torch.equal(pattern.mask, solved.patterns[name].mask)
        assert not repaired.module.get_submodule(name).weight[~pattern.mask].any()


def test_statistics_of_batch_norms_are_those_of_the_dense_network() -> None:
    model = crossed()
    repaired = method().run(model, Inputs(), Trainer(Settings(steps=2, warmup=0)))
    running = model.get_submodule("norm").running_mean
    assert torch.equal(repaired.module.get_submodule("norm").running_mean, running)


def test_the_result_is_never_worse_than_the_start_on_held_out_inputs() -> None:
    harmful = Settings(steps=4, learning_rate=0.9, warmup=0)
    repaired = method().run(crossed(), Inputs(), Trainer(harmful))
    solved = method().solved(crossed(), Inputs())
    assert repaired.record["held_out_db"] == repaired.record["start_db"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            repaired.module.state_dict().values(), solved.module.state_dict().values(), strict=True
        )
    )


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    straight = method().run(plain(), Inputs(), Trainer(TRAINED))

    def stop(step: int, _: int, __: object) -> None:
        if step == 15:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        method().run(plain(), Inputs(), Trainer(TRAINED, tmp_path, stop))
    assert (tmp_path / "training-repair.pt").exists()
    resumed = method().run(plain(), Inputs(), Trainer(TRAINED, tmp_path))
    for one, other in zip(
        straight.module.state_dict().values(), resumed.module.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


def test_minutes_become_steps_and_an_interrupted_run_keeps_their_number(tmp_path: Path) -> None:
    untrained = Settings(steps=0, warmup=0)
    repaired = method(minutes=0.005).run(crossed(), Inputs(), Trainer(untrained, tmp_path))
    steps = repaired.record["steps"]
    assert steps >= 1
    again = method(minutes=0.02).run(crossed(), Inputs(), Trainer(untrained, tmp_path))
    assert again.record["steps"] == steps


def test_hard_inputs_come_back() -> None:
    """Every third batch consists of the inputs that were furthest from the dense output."""
    model, seen = crossed().eval(), []
    thin = method().solved(model, Inputs()).module
    objective = RepairObjective(method(augment=False), thin, model, Inputs(), TRAINED)
    for step in range(6):
        image = Inputs().batch(0, 0, step)[0]
        objective.loss(lambda x: seen.append(x) or thin(x), (image, image)).backward()
        objective.after_step(step + 1)
    fresh = torch.cat(seen[:2])
    with torch.no_grad():
        errors = (thin(fresh) - model(fresh)).square().mean((1, 2, 3))
    hardest = fresh[errors.argsort(descending=True)[:4]]
    assert {x.sum().item() for x in hardest} == {x.sum().item() for x in seen[2]}
    assert not torch.equal(seen[5], seen[2])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9), channels=st.integers(1, 4), high=st.sampled_from([1.0, 255.0]))
def test_augmented_inputs_stay_in_range_and_are_reproducible(
    seed: int, channels: int, high: float
) -> None:
    image = high * torch.rand(3, channels, 6, 5)
    one, other = (augmented(image, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == image.shape
    assert one.min() >= image.min()
    assert one.max() <= image.max()


def test_bad_options_are_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"minutes -1: wanted"):
        method(minutes=-1)
    with pytest.raises(UsageError, match=r"layer_weight nan: wanted"):
        method(layer_weight=float("nan"))
    with pytest.raises(UsageError, match="40 steps and 2 minutes: wanted one of the two"):
        method(minutes=2).run(crossed(), Inputs(), Trainer(TRAINED))
