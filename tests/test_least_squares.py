"""Does least squares lose less than one-shot, and does it reach every kind of layer?"""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from small_networks import RandomData, crossed
from thinlens.errors import UsageError
from thinlens.methods.least_squares.method import ColumnImportance, LeastSquares
from thinlens.methods.one_shot import OneShot
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pattern
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

UNTRAINED = Trainer(Settings(steps=0))


def method(**settings: object) -> LeastSquares:
    shared = {"budget": Budget.parse("1/2"), "example": (1, 3, 16, 16), "m": 4, "pixels": 4096}
    return LeastSquares(**{**shared, **settings})  # type: ignore[arg-type]


def missed(thin: nn.Module, dense: nn.Module) -> float:
    """The mean squared difference of two networks on images that were not calibrated on."""
    image = torch.cat([RandomData().batch(9, 0, step)[0] for step in range(4)])
    with torch.no_grad():
        return float((thin.eval()(image) - copy.deepcopy(dense).eval()(image)).square().mean())


@pytest.mark.parametrize("importance", get_args(ColumnImportance))
def test_every_importance_loses_less_than_half_of_one_shot(importance: str) -> None:
    model = crossed()
    plain = OneShot(budget=Budget.parse("1/2"), example=(1, 3, 16, 16), m=4)
    cut = missed(plain.run(model, RandomData(), UNTRAINED).module, model)
    solved = method(importance=importance).run(model, RandomData(), UNTRAINED)
    assert missed(solved.module, model) < 0.5 * cut
    assert set(solved.record["layer_errors"]) == {*solved.patterns, "tail"}
    assert all(0 <= e <= 1 for e in solved.record["layer_errors"].values())


def test_magnitude_keeps_what_one_shot_keeps() -> None:
    plain = OneShot(budget=Budget.parse("1/2"), example=(1, 3, 16, 16), m=4)
    one = plain.run(crossed(), RandomData(), UNTRAINED).patterns
    other = method(importance="magnitude").run(crossed(), RandomData(), UNTRAINED).patterns
    assert all(torch.equal(one[name].mask, other[name].mask) for name in one)


def test_activation_weighs_weights_by_what_their_inputs_are() -> None:
    """The loud channel's small weights are kept, where magnitude keeps the quiet one's."""

    class Loud:
        def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
            x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(step))
            return x * torch.tensor([10.0, 0.1])[:, None, None], x

    layer = nn.Conv2d(2, 3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0])[None, :, None, None].expand(3, -1, -1, -1))
    settings = {"m": 2, "example": (1, 2, 8, 8), "keep_dense": ()}
    for importance, kept in (("magnitude", 1), ("activation", 0)):
        found = method(importance=importance, **settings).run(
            nn.Sequential(layer), Loud(), UNTRAINED
        )
        assert found.patterns["0"].mask[:, kept].all()


def test_dense_layers_repair_what_is_broken_before_them() -> None:
    model = crossed()
    result = method(budget=Budget.parse("1/4")).run(model, RandomData(), UNTRAINED)
    tail, head = (prunable_layer(result.module, name) for name in ("tail", "head"))
    assert torch.equal(head.weight, prunable_layer(model, "head").weight)
    unrepaired = copy.deepcopy(result.module)
    prunable_layer(unrepaired, "tail").load_state_dict(prunable_layer(model, "tail").state_dict())
    assert (tail.weight != 0).all()
    assert missed(result.module, model) < missed(unrepaired, model)


def test_a_short_last_group_is_solved_too() -> None:
    result = method(m=3, policy="pad", budget=Budget.parse("0.6")).run(
        crossed(), RandomData(), UNTRAINED
    )
    for name, pattern in result.patterns.items():
        pattern.check(prunable_layer(result.module, name))


def test_a_shared_layer_is_settled_once_for_all_its_calls() -> None:
    """Its error counts both calls, so the patterns differ from those of the first call alone."""

    class Twice(nn.Module):
        def __init__(self, calls: int) -> None:
            super().__init__()
            self.calls = calls
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.layer = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, image: Tensor) -> Tensor:
            x = torch.cat([image, image.square(), image[:, :2].flip(-1)], dim=1)
            for _ in range(self.calls):
                x = self.layer(x)
            return x

    found: dict[int, Pattern] = {}
    for calls in (1, 2):
        result = method(keep_dense=(), m=8).run(Twice(calls), RandomData(), UNTRAINED)
        found[calls] = result.patterns["layer"]
        assert found[calls].kept == 8 * 9 * 4
    assert not torch.equal(found[1].mask, found[2].mask)


@pytest.mark.parametrize(
    "wrong", [{"importance": "luck"}, {"ridge": 0.0}, {"pixels": 0}, {"positions": 0}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        method(**wrong)


def test_a_budget_below_one_weight_a_group_names_the_lowest() -> None:
    with pytest.raises(UsageError, match=r"the lowest reachable is 25\.00%"):
        method(budget=Budget.parse("1/8")).run(crossed(), RandomData(), UNTRAINED)


def test_m_that_divides_no_layer_says_why() -> None:
    with pytest.raises(UsageError, match=r"M = 32 prunes no layer.*no multiple of M = 32"):
        method(m=32).run(crossed(), RandomData(), UNTRAINED)
