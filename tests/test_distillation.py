"""A pruned network can be trained on the dense network's outputs for the same inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import thinlens
from thinlens.errors import UsageError
from thinlens.training.distillation import DistilledTargets
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings


class Noise:
    """Inputs and targets that have nothing to do with each other."""

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        source = torch.Generator().manual_seed(hash((seed, epoch, step)) % 2**31)
        return torch.rand(2, 1, 8, 8, generator=source), torch.rand(2, 1, 8, 8, generator=source)


def network() -> nn.Module:
    """Three layers, of which the middle one can be pruned, with a norm that training changes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 1, 3, padding=1),
    )


@given(weight=st.floats(0, 1), step=st.integers(0, 99))
def test_the_target_lies_between_truth_and_teacher(weight: float, step: int) -> None:
    teacher = network().train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    image, target = DistilledTargets(Noise(), teacher, weight).batch(0, 0, step)
    original, truth = Noise().batch(0, 0, step)
    assert torch.equal(image, original)
    assert teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    output = teacher.eval()(image)
    torch.testing.assert_close(target, (1 - weight) * truth + weight * output)
    assert not target.requires_grad


def test_distillation_changes_the_result_and_is_recorded() -> None:
    def pruned(distill_weight: float) -> thinlens.Pruned:
        return thinlens.prune(
            network(),
            budget="1/2",
            method="one-shot",
            m=8,
            data=Noise(),
            trainer=Trainer(Settings(steps=3, warmup=0)),
            distill_weight=distill_weight,
        )

    alone, distilled = pruned(0.0), pruned(1.0)
    assert alone.record["distill_weight"] == 0
    assert distilled.record["distill_weight"] == 1
    image, _ = Noise().batch(0, 0, 0)
    assert not torch.equal(alone.module(image), distilled.module(image))


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_0_to_1_is_refused(weight: float) -> None:
    with pytest.raises(UsageError, match="wanted a fraction of the target"):
        DistilledTargets(Noise(), network(), weight)
