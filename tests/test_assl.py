"""Do filters agree, shrink and leave as ASSL says?"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fmp_cases import EXAMPLE, NETWORKS, SETTINGS, Enlarged, network
from thinlens.errors import UsageError
from thinlens.methods import Pruned
from thinlens.methods.channels.assl import (
    MAX_COEFFICIENT,
    AlignmentObjective,
    Assl,
    PenaltyObjective,
    ScaledNetwork,
)
from thinlens.methods.channels.order import coupled_groups
from thinlens.progress import Progress
from thinlens.signals import Interrupted
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.channels import trace_channels
from thinlens.sparsity.prunable import find_layers
from thinlens.training.loop import Trainer


def scaled(name: str) -> ScaledNetwork:
    model = network(name)
    layers = [layer.name for layer in find_layers(model, EXAMPLE)]
    return ScaledNetwork(model, trace_channels(model, EXAMPLE), layers)


@pytest.mark.parametrize("name", NETWORKS)
def test_scales_are_the_norms_of_filters_and_change_nothing(name: str) -> None:
    found = scaled(name)
    image = torch.rand(1, 3, 20, 20)
    with torch.no_grad():
        wanted = found.model.eval()(image)
        torch.testing.assert_close(found.merged().eval()(image), wanted, rtol=1e-4, atol=1e-5)
    assert list(found.merged().state_dict()) == list(found.model.state_dict())
    for layer in found.layers:
        axis = found.channels.output_axes[f"{layer}.weight"]
        weight = found.model.get_parameter(f"{layer}.weight").movedim(axis, 0)
        torch.testing.assert_close(found.scales(layer), weight.flatten(1).norm(dim=1))


def test_layers_that_share_channels_come_to_agree() -> None:
    found = scaled("edsr")
    trunk = max(coupled_groups(found.channels), key=len)
    objective = AlignmentObjective(found, trunk[:6], coefficient=1.0)
    tied = [len(layers) for layers, _ in objective._shared]
    assert sorted(tied) == [0, 1, 1, 4]  # behind the shuffle, in the blocks, on the trunk
    before = float(objective.agreement().detach())
    optimizer = torch.optim.Adam(found.module.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        (-objective.agreement()).backward()
        optimizer.step()
    assert float(objective.agreement().detach()) > before
    shared = next(layers for layers, _ in objective._shared if len(layers) == 4)
    small = [set(found.scales(name)[order].argsort()[:6].tolist()) for name, order in shared]
    assert all(len(one & small[0]) >= 4 for one in small)


def test_only_selected_channels_are_penalised_by_a_rising_coefficient() -> None:
    found = scaled("edsr")
    dead = max(coupled_groups(found.channels), key=len)[:5]
    objective = PenaltyObjective(found, dead, steps=10)
    seen = []
    for step in range(1, 11):
        seen.append(objective.coefficient)
        objective.after_step(step)
    assert seen[:3] == pytest.approx(
        [MAX_COEFFICIENT / 7, 2 * MAX_COEFFICIENT / 7, 3 * MAX_COEFFICIENT / 7]
    )
    assert seen[6:] == [MAX_COEFFICIENT] * 4
    objective.squared_norm().backward()
    gradients = {name: p.grad for name, p in found.module.named_parameters()}
    leaving = torch.isin(found.channel_ids("head.0"), torch.tensor(dead))
    for name in ("head.0.parametrizations.weight.original0", "head.0.bias"):
        gradient = gradients[name]
        assert gradient is not None
        assert ((gradient.flatten() != 0) == leaving).all()


def pruned(
    budget: str,
    folder: Path | None = None,
    progress: Progress | None = None,
    steps: int = 12,
    **options: Any,
) -> Pruned:
    rate = options.pop("learning_rate", 1e-2)
    method = Assl(budget=Budget.parse(budget), example=EXAMPLE, **{"min_channels": 2, **options})
    settings = replace(SETTINGS, steps=steps, optimizer="muon", learning_rate=rate)
    return method.run(network("edsr"), Enlarged(), Trainer(settings, folder, progress))


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_pruned_channels_were_penalised_before(metric: str) -> None:
    result = pruned("0.5", metric=metric, steps=60, learning_rate=5e-2)
    assert 0.4 < result.record["achieved"] <= 0.5
    assert result.record["budget_base"] == metric
    assert result.record["pressed"] < 0.5  # of the mean norm of what stays
    assert isinstance(result.module, nn.Module)
    assert not result.patterns
    json.dumps(result.record)


@pytest.mark.parametrize("cut_after", [1, 4, 9])
def test_a_run_that_was_cut_short_ends_with_the_same_bits(cut_after: int, tmp_path: Path) -> None:
    straight = pruned("0.5", tmp_path / "straight").module.state_dict()
    steps: list[int] = []

    def progress(step: int, total: int, values: dict[str, float]) -> None:
        steps.append(step)
        if len(steps) == cut_after:
            os.kill(os.getpid(), 15)

    with pytest.raises(Interrupted):
        pruned("0.5", tmp_path / "cut", progress)
    resumed = pruned("0.5", tmp_path / "cut").module.state_dict()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"steps": 0}, "wanted a number of steps"),
        ({"flavour": "naive"}, "assl has safe alone"),
        ({"align_until": 0.5}, "0 < align_until < press_until < 1"),
        ({"alignment": -1.0}, "alignment -1.0"),
    ],
)
def test_wrong_settings_are_one_sentence(options: dict[str, Any], fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment):
        pruned("0.5", **options)
