"""Does one-shot pruning keep the largest weights, and does fine-tuning leave its mask alone?"""

from __future__ import annotations

import torch
from torch import Tensor

from small_networks import RandomData, crossed
from thinlens.methods.one_shot import OneShot
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.layout import canonical, in_groups
from thinlens.sparsity.masking import attach, prunable_layer
from thinlens.training.loop import Trainer
from thinlens.training.objective import PlainObjective
from thinlens.training.settings import Settings

METHOD = OneShot(budget=Budget.parse("1/4"), example=(1, 3, 16, 16), m=4)
FINE_TUNING = Settings(steps=8, optimizer="adam", learning_rate=1e-2, warmup=0)


def test_the_largest_of_every_group_is_kept_as_it_was() -> None:
    model = crossed()
    result = METHOD.run(model, RandomData(), Trainer(Settings(steps=0)))
    for name, pattern in result.patterns.items():
        dense, thin = prunable_layer(model, name), prunable_layer(result.module, name)
        before = in_groups(canonical(dense.weight.detach().abs(), dense), 4, fill=0)
        after = in_groups(canonical(thin.weight.detach().abs(), thin), 4, fill=0)
        assert torch.equal(before.max(1).values, after.sum(1))
        assert torch.equal(thin.weight, dense.weight * pattern.mask)


def test_fine_tuning_trains_what_is_kept_under_the_same_mask() -> None:
    model = crossed()
    plain = METHOD.run(model, RandomData(), Trainer(Settings(steps=0)))
    tuned = METHOD.run(model, RandomData(), Trainer(FINE_TUNING))
    for name, pattern in tuned.patterns.items():
        assert torch.equal(pattern.mask, plain.patterns[name].mask)
        weight = prunable_layer(tuned.module, name).weight
        assert (weight[~pattern.mask] == 0).all()
        assert not torch.equal(weight, prunable_layer(plain.module, name).weight)
    assert tuned.record["steps"] == 8


def test_optimizer_moments_of_masked_weights_stay_zero() -> None:
    model = crossed()
    patterns = METHOD.run(model, RandomData(), Trainer(Settings(steps=0))).patterns
    attach(model, patterns)
    optimizers: list[torch.optim.Optimizer] = []

    class Watching(Trainer):
        def _optimizer(self, objective: PlainObjective) -> torch.optim.Optimizer:  # type: ignore[override]
            optimizers.append(super()._optimizer(objective))
            return optimizers[0]

    Watching(FINE_TUNING).fit(PlainObjective(model), RandomData())
    for name, pattern in patterns.items():
        weight = prunable_layer(model, name).parametrizations["weight"].original  # type: ignore[index]
        state: dict[str, Tensor] = optimizers[0].state[weight]
        for moment in ("exp_avg", "exp_avg_sq"):
            assert (state[moment][~pattern.mask] == 0).all()
            assert (state[moment][pattern.mask] != 0).any()
