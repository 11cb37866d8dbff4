"""Does SR-STE train under masks that move, by the paper's gradient and by the decoupled decay?"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from small_networks import RandomData, crossed
from thinlens.errors import UsageError
from thinlens.methods.reset import reset_parameters
from thinlens.methods.sr_ste import DynamicMask, SrSte
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.layout import canonical, in_groups
from thinlens.sparsity.masking import prunable_layer
from thinlens.training.loop import Trainer
from thinlens.training.objective import PlainObjective
from thinlens.training.settings import Settings

EXAMPLE = (1, 3, 16, 16)
SETTINGS = Settings(steps=6, optimizer="adam", learning_rate=1e-2, warmup=2)


def sr_ste(budget: str = "1/2", preset: str = "plus", **options: object) -> SrSte:
    given = {"budget": Budget.parse(budget), "example": EXAMPLE, "m": 4, **options}
    return SrSte.preset(preset, **given)


@given(st.integers(1, 4), st.sampled_from([0.0, 2e-4, 0.5]), st.integers(0, 9))
def test_the_gradient_is_that_of_the_product_plus_the_decay_of_what_is_pruned(
    n: int, decay: float, seed: int
) -> None:
    """Against central differences in float64: they know nothing of the backward pass."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Conv2d(8, 2, 1, bias=False).double()
    image, target = (torch.rand(1, c, 3, 3, generator=generator).double() for c in (8, 2))
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator).double())
    dense = layer.weight.detach().clone()

    def loss(effective: Tensor) -> Tensor:
        return (nn.functional.conv2d(image, effective) - target).square().sum()

    mask = DynamicMask(layer, n, 4, decay)
    parametrize.register_parametrization(layer, "weight", mask, unsafe=True)
    loss(layer.weight).backward()
    found = layer.parametrizations["weight"].original.grad  # type: ignore[index]
    wanted, step = torch.empty_like(dense), 1e-5
    for index in range(dense.numel()):
        nudge = torch.zeros(dense.numel()).double().index_fill_(0, torch.tensor(index), step)
        nudge = nudge.reshape(dense.shape)
        up, down = (loss(dense * mask.mask + sign * nudge) for sign in (1, -1))
        wanted.view(-1)[index] = (up - down) / (2 * step)
    wanted += decay * ~mask.mask * dense
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", ["gradient", "decoupled"])
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_keeping_all_is_dense_training_bit_for_bit(mode: str, optimizer: str) -> None:
    model = crossed()
    settings = Settings(steps=4, optimizer=optimizer, learning_rate=1e-2, warmup=0)
    dense = copy.deepcopy(model)
    Trainer(settings).fit(PlainObjective(dense), RandomData())
    thin = sr_ste("1", mode=mode, decay=0.5).run(model, RandomData(), Trainer(settings)).module
    assert all(torch.equal(thin.state_dict()[k], v) for k, v in dense.state_dict().items())


def test_decoupled_decay_shrinks_exactly_what_is_pruned() -> None:
    """With a network that learns nothing, a step leaves the decay alone to be seen."""
    model, method = crossed(), sr_ste(decay=0.25, freeze_from=1.0)
    objective = method.objective(copy.deepcopy(model), method.plan(model), SETTINGS)
    objective.module(RandomData().batch(0, 0, 0)[0])
    objective.after_step(1)
    rate = SETTINGS.learning_rate * SETTINGS.lr_factor(0)
    parametrization = objective.module.get_submodule("body").parametrizations["weight"]  # type: ignore[index]
    before, mask = prunable_layer(model, "body").weight, parametrization[0].mask
    assert torch.equal(parametrization.original[mask], before[mask])
    torch.testing.assert_close(parametrization.original[~mask], before[~mask] * (1 - 0.25 * rate))
    assert (~mask).any()


def test_masks_are_the_largest_weights_of_every_step_until_they_freeze() -> None:
    model = crossed()
    settings = Settings(steps=12, optimizer="adam", learning_rate=0.1, warmup=0)
    seen: list[Tensor] = []

    class Watched(RandomData):
        def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
            if step and objective is not None:
                seen.append(parametrization[0].mask.clone())
                now = in_groups(
                    canonical(parametrization.original.detach().abs(), layer), 4, fill=0
                )
                parametrization[0].update(parametrization.original)
                kept = in_groups(canonical(parametrization[0].mask, layer), 4, fill=0)
                if step < 6:
                    smallest = now.masked_fill(~kept.bool(), 9.0).min(1).values
                    assert (smallest >= now.masked_fill(kept.bool(), 0.0).max(1).values).all()
            return super().batch(seed, epoch, step)

    method = sr_ste("1/4", freeze_from=0.5)
    objective = method.objective(copy.deepcopy(model), method.plan(model), settings)
    layer = prunable_layer(objective.module, "body")
    parametrization = layer.parametrizations["weight"]  # type: ignore[index]
    Trainer(settings).fit(objective, Watched())
    assert not torch.equal(seen[0], seen[5])
    assert all(torch.equal(mask, seen[6]) for mask in seen[6:])


def test_from_scratch_the_given_weights_do_not_matter_and_the_seed_does() -> None:
    one, other = crossed(), crossed()
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1)
    bits = [
        sr_ste(preset="paper").run(model, RandomData(), Trainer(settings)).module.state_dict()
        for model, settings in (
            (one, SETTINGS),
            (other, SETTINGS),
            (one, Settings(steps=6, optimizer="adam", learning_rate=1e-2, warmup=2, seed=1)),
        )
    ]
    assert all(torch.equal(bits[0][key], bits[1][key]) for key in bits[0])
    assert not torch.equal(bits[0]["body.weight"], bits[2]["body.weight"])


class Own(nn.Module):
    """A layer whose weights only its author knows how to make."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))


def test_what_cannot_start_from_scratch_is_named() -> None:
    with pytest.raises(UsageError, match="0 is a Own that cannot make fresh weights"):
        reset_parameters(nn.Sequential(Own()), strict=True)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"mode": "both"}, "gradient or decoupled"),
        ({"start": "middle"}, "dense or scratch"),
        ({"decay": -1.0}, "decay -1.0"),
        ({"freeze_from": 1.5}, "freeze_from 1.5"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, object], fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment):
        sr_ste(**options)


def test_it_refuses_to_prune_without_steps() -> None:
    with pytest.raises(UsageError, match="wanted a number of steps"):
        sr_ste().run(crossed(), RandomData(), Trainer(Settings(steps=0)))


@pytest.mark.parametrize("stopped", [3, 5])
def test_a_resumed_run_is_the_straight_run(stopped: int, tmp_path: Path) -> None:
    """Stopped before and after its masks have frozen."""
    long = Settings(steps=6, optimizer="adam", learning_rate=1e-2, warmup=0, save_every=1)
    method = sr_ste(freeze_from=0.7)
    straight = method.run(crossed(), RandomData(), Trainer(long))

    class Killed(Exception):  # noqa: N818
        """What a kill looks like from inside."""

    def kill(step: int, steps: int, values: dict[str, float]) -> None:
        if step > stopped:
            raise Killed

    with pytest.raises(Killed):
        method.run(crossed(), RandomData(), Trainer(long, tmp_path, kill))
    resumed = method.run(crossed(), RandomData(), Trainer(long, tmp_path))
    one, other = straight.module.state_dict(), resumed.module.state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)
    for name, pattern in straight.patterns.items():
        assert torch.equal(pattern.mask, resumed.patterns[name].mask)
