"""What holds for every method of the table?"""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from typing import Any, Literal, get_origin, get_type_hints

import pytest
import torch
from torch import nn

from small_networks import RandomData, crossed
from thinlens.errors import UsageError
from thinlens.methods import METHODS, Pruned
from thinlens.methods.nm_method import NMMethod
from thinlens.methods.option_aliases import OPTION_ALIASES, rename_options
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.layout import canonical, in_groups
from thinlens.sparsity.masking import prunable_layer
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

EXAMPLE = (1, 3, 16, 16)
UNTRAINED = Settings(steps=0)
TRAINED = Settings(steps=3, optimizer="adam", learning_rate=1e-3, warmup=0)
SETTINGS = {name: TRAINED for name, method in METHODS.items() if method.NEEDS_STEPS}
"""Training settings of the methods that prune during training."""

APART = ["sls", *(name for name, method in METHODS.items() if method.ROUTED)]
"""What needs many steps, or stages of training, and gives more than masks; tests of their own."""

NAMES = [name for name in METHODS if name not in APART]
NM_NAMES = [name for name in NAMES if issubclass(METHODS[name], NMMethod)]

SMALL = {
    **{name: {"pixels": 4096} for name in ("least-squares", "repair")},
    **{name: {"min_channels": 2} for name in ("filter", "fmp", "assl")},
}
"""Settings that make a method quick on small networks, or let it prune these."""


def pruned(name: str, model: nn.Module, budget: str, m: int = 4) -> Pruned:
    kind: dict[str, Any] = {"m": m} if name in NM_NAMES else {}
    settings = {**kind, **SMALL.get(name, {})}
    method = METHODS[name](budget=Budget.parse(budget), example=EXAMPLE, **settings)
    return method.run(model, RandomData(), Trainer(SETTINGS.get(name, UNTRAINED)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", ["1/2", "0.6"])
def test_the_budget_is_met(name: str, budget: str) -> None:
    result = pruned(name, crossed(), budget)
    assert 0.7 * Fraction(budget) < result.record["achieved"] <= Fraction(budget)
    assert Budget.parse(result.record["budget"]) == Budget.parse(budget)
    assert result.record["budget_base"] in ("prunable_macs", "macs", "params")
    assert result.record["seconds"] > 0
    json.dumps(result.record)


@pytest.mark.parametrize("name", NM_NAMES)
@pytest.mark.parametrize("budget", ["1/2", "1/4", "0.6"])
def test_masks_hold_in_every_group(name: str, budget: str) -> None:
    result = pruned(name, crossed(), budget)
    assert set(result.patterns) == {"body", "down", "shared", "up", "gate"}
    for layer_name, pattern in result.patterns.items():
        layer = prunable_layer(result.module, layer_name)
        groups = in_groups(canonical(pattern.mask, layer), 4, fill=0)
        assert (groups.sum(1) == pattern.n).all()
        assert (layer.weight[~pattern.mask] == 0).all()
        assert result.record["layers"][layer_name] == [pattern.n, pattern.m]


@pytest.mark.parametrize("name", NAMES)
def test_the_given_network_is_not_touched(name: str) -> None:
    model = crossed()
    before, training = copy.deepcopy(model.state_dict()), model.training
    result = pruned(name, model, "1/2")
    assert model.training is training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert type(result.module) is type(model)
    assert list(result.module.state_dict()) == list(before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in result.module.modules())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_gives_the_same_bits(name: str) -> None:
    one, other = (pruned(name, crossed(), "1/2").module.state_dict() for _ in range(2))
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SETTINGS])
def test_keeping_all_changes_nothing(name: str) -> None:
    model, image = crossed().eval(), RandomData().batch(5, 0, 0)[0]
    with torch.no_grad():
        difference = pruned(name, model, "1").module.eval()(image) - model(image)
    assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_parametrized_network_is_refused(name: str) -> None:
    model = crossed()
    nn.utils.parametrizations.weight_norm(prunable_layer(model, "body"))
    with pytest.raises(UsageError, match="layer 'body' is parametrized"):
        pruned(name, model, "1/2")


def test_a_method_is_declared_under_its_name() -> None:
    assert [method.NAME for method in METHODS.values()] == list(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_needs_steps_refuses_a_run_without(name: str) -> None:
    method = METHODS[name].configure(budget=Budget.parse("1/2"), example=EXAMPLE)
    if METHODS[name].NEEDS_STEPS:
        with pytest.raises(UsageError, match=r"wanted a number of (steps|--steps)"):
            method.run(crossed(), RandomData(), Trainer(UNTRAINED))


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_option_is_refused_and_an_old_name_is_read(name: str) -> None:
    kind = METHODS[name]
    shape: dict[str, Any] = {"budget": Budget.parse("1/2"), "example": EXAMPLE}
    with pytest.raises(UsageError, match=f"{name} has no option 'speed': wanted "):
        kind.configure(**shape, options={"speed": 1})
    for option in ("budget", "example"):
        with pytest.raises(UsageError, match=f"{name} has no option '{option}'"):
            kind.configure(**shape, options={option: 1})
    assert kind.configure(**shape, options={"taught": 0.5}).distill_weight == 0.5
    for old, new in OPTION_ALIASES.items():
        if new in kind.option_names():
            assert old not in kind.option_names()


@pytest.mark.parametrize("name", METHODS)
def test_every_choice_is_checked(name: str) -> None:
    kind = METHODS[name]
    for option, hint in get_type_hints(kind).items():
        if option in kind.option_names() and get_origin(hint) is Literal:
            with pytest.raises(UsageError, match=f"{option} 'luck': wanted "):
                kind.configure(
                    budget=Budget.parse("1/2"), example=EXAMPLE, options={option: "luck"}
                )


def test_aliases_are_applied_once() -> None:
    renamed = rename_options(dict.fromkeys(OPTION_ALIASES, 1))
    assert list(renamed) == list(OPTION_ALIASES.values())
    assert rename_options(renamed) == renamed
