"""Does ClassPruning label, price, train and route as its equations say?"""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from test_class_pruned import base, class_pruned, image
from thinlens.dynamic.nm_branches import ClassPruned
from thinlens.errors import UsageError
from thinlens.methods import METHODS
from thinlens.methods.classpruning.exchange_rate import best_branches, exchange_rate
from thinlens.methods.classpruning.method import ClassPruning
from thinlens.methods.classpruning.pseudo_labels import (
    Difficulty,
    measure_difficulty,
    residual_variances,
)
from thinlens.methods.classpruning.stages import (
    COLLAPSE_CHECK_STEPS,
    BranchStage,
    JointStage,
    LabelStage,
    LossWeights,
    branch_errors,
    entropy,
    recalibrate,
    weighted_errors,
)
from thinlens.models import create
from thinlens.sparsity.budget import Budget
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

SIGMAS = (15 / 255, 25 / 255, 50 / 255)


class Noisy:
    """Grey images under Gaussian noise of three levels; some are not degraded at all."""

    def __init__(self, clean_every: int = 0) -> None:
        self.clean_every = clean_every

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * seed + 100 * epoch + step)
        clean = torch.rand(6, 1, 12, 12, generator=generator)
        level = torch.tensor(SIGMAS).repeat(2)[:, None, None, None]
        noise = torch.randn(clean.shape, generator=generator) * level
        if self.clean_every:
            noise[:: self.clean_every] = 0
        return clean + noise, clean


def method(**options: object) -> ClassPruning:
    given_ = {"budget": Budget.parse("58%"), "example": (1, 1, 12, 12), **options}
    return ClassPruning(**given_)  # type: ignore[arg-type]


def test_for_gaussian_noise_the_classes_are_the_noise_levels() -> None:
    found = measure_difficulty(Noisy(), seed=0, classes=3, batches=50)
    for variance, sigma in zip(found.variances, SIGMAS, strict=True):
        assert math.sqrt(variance) == pytest.approx(sigma, rel=0.03)


@given(st.integers(0, 99))
def test_a_labelled_image_has_the_variance_of_its_class(seed: int) -> None:
    degraded, clean = Noisy().batch(seed, 0, 0)
    levels = Difficulty((0.001, 0.01, 0.04))
    images, classes = levels.labelled(degraded, clean)
    assert classes.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    for index, label in enumerate(classes.tolist()):
        target = clean[index % 6][None]
        found = residual_variances(images[index][None], target)
        assert float(found) == pytest.approx(levels.variances[label], rel=1e-3)
        residual = (images[index] - target[0]).flatten()
        original = (degraded - clean)[index % 6].flatten()
        assert torch.corrcoef(torch.stack([residual, original]))[0, 1] == pytest.approx(1)


def test_images_that_are_not_degraded_are_skipped_or_refused() -> None:
    levels = Difficulty((0.001, 0.04))
    images, classes = levels.labelled(*Noisy(clean_every=2).batch(0, 0, 0))
    assert len(images) == len(classes) == 2 * 3
    none, _ = levels.labelled(*Noisy(clean_every=1).batch(0, 0, 0))
    assert len(none) == 0
    with pytest.raises(UsageError, match="0 of 12 training images differ"):
        measure_difficulty(Noisy(clean_every=1), 0, 3, batches=2)
    with pytest.raises(UsageError, match="it wants one size"):
        residual_variances(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 8, 8))
    loss = LabelStage(class_pruned().train(), levels).loss(
        lambda x: x, Noisy(clean_every=1).batch(0, 0, 0)
    )
    assert loss.item() == 0
    loss.backward()  # type: ignore[no-untyped-call]


@given(st.integers(0, 999), st.floats(0.26, 1.2))
def test_the_exchange_rate_is_the_least_that_meets_the_target(seed: int, target: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    errors = torch.rand(20, 3, generator=generator)
    prices, costs = [0.25, 0.5, 1.0], [0.26, 0.51, 1.01]
    rate = exchange_rate(errors, prices, costs, target)

    def mean_cost(at: float) -> float:
        return float(torch.tensor(costs)[best_branches(errors, prices, at)].double().mean())

    assert mean_cost(rate) <= target + 1e-6
    if rate > 0:
        assert mean_cost(rate * (1 - 1e-6)) > target - 1e-6


def test_the_exchange_rate_of_a_worked_case() -> None:
    # moving the image from the dear branch to the cheap costs 0.3 of error and saves 0.75
    errors = torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    assert exchange_rate(errors, [0.25, 1.0], [0.25, 1.0], 0.5) == pytest.approx(0.4)
    assert exchange_rate(errors, [0.25, 1.0], [0.25, 1.0], 1.0) == 0
    with pytest.raises(UsageError, match=r"target cost 20.0%: .* cost 25.0%"):
        exchange_rate(errors, [0.25, 1.0], [0.25, 1.0], 0.2)


@given(st.lists(st.floats(-8, 8), min_size=3, max_size=3))
def test_entropy_is_between_0_and_log_l(logits: list[float]) -> None:
    share = torch.tensor([logits], dtype=torch.float64).softmax(1)
    found = float(entropy(share))
    assert -1e-12 <= found <= math.log(3) + 1e-12
    assert found == pytest.approx(float(-(share * share.log()).sum()), abs=1e-9)


def test_the_joint_loss_is_equation_7() -> None:
    module = class_pruned().eval()  # batch norms that do not depend on who looks first
    weights = LossWeights(entropy=0.3, cost=0.2, branch_costs=[0.25, 0.5, 1.0])
    joint, batch = JointStage(module, weights, steps=10, images=[]), Noisy().batch(0, 0, 0)
    joint.after_step(5)
    with torch.no_grad():
        share = module.classifier(batch[0]).softmax(1)
        errors = torch.stack(
            [(module.branch(batch[0], i) - batch[1]).abs().mean((1, 2, 3)) for i in range(3)], 1
        )
        expected = (share * errors).sum(1)
        expected += 0.5 * 0.3 * -(share * share.log()).sum(1)
        expected += 0.2 * (share @ torch.tensor([0.25, 0.5, 1.0]))
        found = joint.loss(module, batch)
    torch.testing.assert_close(found, expected.mean())


def test_a_branch_sees_only_the_images_that_count_for_it() -> None:
    """What it minimises is equation 6 all the same, and its statistics are those of its images."""
    module, alone = class_pruned().train(), class_pruned().train()
    degraded, clean = Noisy().batch(0, 0, 0)
    share = torch.tensor([[0.98, 0.01, 0.01], [0.02, 0.68, 0.3]]).repeat(3, 1)
    found = weighted_errors(module, degraded, clean, share)
    errors = torch.zeros(6, 3)
    for index, mine in enumerate(([0, 2, 4], [1, 3, 5], [1, 3, 5])):
        restored = alone.branch(degraded[mine], index)
        errors[mine, index] = (restored - clean[mine]).abs().flatten(1).mean(1)
    weights = torch.tensor([[1, 0, 0], [0, 0.68 / 0.98, 0.3 / 0.98]]).repeat(3, 1)
    torch.testing.assert_close(found, (weights * errors).sum(1))
    for name, value in module.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name])


def test_under_paper_the_loss_is_equation_6_for_a_confident_classifier_too() -> None:
    """Every image passes through all branches, and the classifier learns from their errors.

    Shares (.980, .010, .010) and errors (.30, .20, .05) give .2966, whose gradient by the logits is
    p_i (e_i - L_W); with a least share of .05 they give .3000 and no gradient.
    """
    paper = ClassPruning.preset("paper", budget=Budget.parse("58%"), example=(1, 1, 12, 12))
    assert (paper.least_share, paper.stabilized) == (0.0, False)
    errors = torch.tensor([0.30, 0.20, 0.05])

    class Shifted(ClassPruned):
        def branch(self, image: Tensor, index: int) -> Tensor:
            return image + errors[index]

    module, clean = class_pruned(), torch.rand(1, 1, 12, 12)
    module.__class__ = Shifted
    logits = torch.tensor([[0.98, 0.01, 0.01]]).log().requires_grad_()
    share = logits.softmax(1)
    loss = weighted_errors(module, clean, clean, share, paper.least_share)
    assert loss.item() == pytest.approx(0.98 * 0.30 + 0.01 * 0.20 + 0.01 * 0.05)
    loss.backward()  # type: ignore[no-untyped-call]
    expected = share[0].detach() * (errors - loss.item())
    torch.testing.assert_close(logits.grad, expected[None])
    assert expected.abs().min() > 9e-4
    cut = weighted_errors(module, clean, clean, share.detach())
    assert cut.item() == pytest.approx(0.30)


def test_under_paper_the_joint_loss_is_equation_7_from_the_first_step() -> None:
    """No ramp of w2, no relief of w3, no other statistics at the end."""
    module = class_pruned().eval()
    weights = LossWeights(0.3, 0.2, [0.25, 0.5, 1.0], least_share=0.0, stabilized=False)
    joint, batch = JointStage(module, weights, steps=10, images=[image(4)]), Noisy().batch(0, 0, 0)
    with torch.no_grad():
        share = module.classifier(batch[0]).softmax(1)
        expected = (share * branch_errors(module, *batch)).sum(1)
        expected += 0.3 * entropy(share) + 0.2 * (share @ torch.tensor([0.25, 0.5, 1.0]))
        torch.testing.assert_close(joint.loss(module, batch), expected.mean())
    joint._counts += torch.tensor([1000, 0, 0])
    joint.after_step(COLLAPSE_CHECK_STEPS)
    assert joint.penalty_scale == 1.0
    before = copy.deepcopy(module.state_dict())
    joint.finish()
    assert all(torch.equal(before[key], x) for key, x in module.state_dict().items())


def test_stage_two_moves_no_part_of_the_classifier() -> None:
    module = class_pruned().train()
    before = copy.deepcopy(module.classifier.state_dict())
    stage = BranchStage(module)
    stage.loss(module, Noisy().batch(0, 0, 0)).backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(before[k], v) for k, v in module.classifier.state_dict().items())
    assert all(p.grad is None for p in module.classifier.parameters())
    trained = {id(p) for group in stage.param_groups(1.0) for p in group["params"]}
    own = {id(p) for p in [*module.network.parameters(), *module.norms.parameters()]}
    assert trained == own


def test_a_collapse_rings_and_lowers_the_price() -> None:
    weights = LossWeights(0.0, 1.0, [0.25, 0.5, 1.0])
    joint = JointStage(class_pruned(), weights, 5 * COLLAPSE_CHECK_STEPS, [])
    joint._counts += torch.tensor([50, 30, 20])
    joint.after_step(COLLAPSE_CHECK_STEPS)
    assert (joint.collapse_events, joint.penalty_scale) == ([], 1.0)
    joint._counts += torch.tensor([97, 2, 1])
    joint.after_step(2 * COLLAPSE_CHECK_STEPS)
    assert [alarm[0] for alarm in joint.collapse_events] == [2 * COLLAPSE_CHECK_STEPS]
    assert joint.penalty_scale == 0.5
    joint._counts += torch.tensor([0, 0, 100])  # all hard: no cheaper price would help
    joint.after_step(3 * COLLAPSE_CHECK_STEPS)
    assert (len(joint.collapse_events), joint.penalty_scale) == (2, 0.5)
    other = JointStage(class_pruned(), weights, 5 * COLLAPSE_CHECK_STEPS, [])
    other.load_state_dict(json.loads(json.dumps(joint.state_dict())))
    assert other.state_dict() == joint.state_dict()


def test_recalibrated_norms_hold_the_statistics_of_their_own_images() -> None:
    module, images = class_pruned(), [image(8, seed) for seed in range(3)]
    classes = torch.tensor([0, 0, 1, 2, 2, 2, 1, 0])
    module.classify = lambda batch: classes  # type: ignore[method-assign]
    assert recalibrate(module, images) == [9, 6, 9]
    seen: list[Tensor] = []
    layer = module.network.get_submodule("model.2")
    handle = layer.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        for index in range(3):
            seen.clear()
            for batch in images:
                module.branch(batch[classes == index], index)
            mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
            norm = module.branch_norms(index)[0]
            torch.testing.assert_close(norm.running_mean, mean)
    handle.remove()
    assert not module.network.training


def test_a_branch_without_images_keeps_its_statistics() -> None:
    module = class_pruned()
    before = copy.deepcopy(module.state_dict())
    module.classify = lambda batch: torch.zeros(len(batch), dtype=torch.long)  # type: ignore[method-assign]
    assert recalibrate(module, [image(4)]) == [4, 0, 0]
    changed = {k for k, v in module.state_dict().items() if not torch.equal(before[k], v)}
    assert changed
    assert all(name.startswith("norms.0.") for name in changed)


def test_stages_train_in_bf16() -> None:
    run = Trainer(Settings(steps=3, precision="bf16"))
    model = create("dncnn-20", depth=4, width=32)  # dearer than its classifier
    found = method().run(model, Noisy(), run)
    assert all(torch.isfinite(p).all() for p in found.module.parameters())


@pytest.mark.slow
def test_three_stages_end_to_end() -> None:
    model = create("dncnn-20", depth=4, width=32)  # dearer than its classifier
    before = copy.deepcopy(model.state_dict())
    result = method().run(model, Noisy(), Trainer(Settings(steps=12)))
    assert isinstance(result.module, ClassPruned)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    record = json.loads(json.dumps(result.record))
    assert record["budget_base"] == "base_flops"
    assert sum(record["shares"]) == pytest.approx(1)
    bill = sum(s * c for s, c in zip(record["shares"], record["branch_costs"], strict=True))
    assert record["achieved"] == pytest.approx(bill)
    for name, ranked in result.module.rank_structures().items():
        ranked.check(result.module.get_submodule(name))  # type: ignore[arg-type]
    again = method().run(model, Noisy(), Trainer(Settings(steps=12)))
    ours, theirs = result.module.state_dict(), again.module.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.slow
def test_sls_searches_an_n_by_layer_for_every_branch() -> None:
    settings = Settings(steps=300, seed=0, learning_rate=1e-2, optimizer="adam")
    chosen = method(branches="2:8,4:8,8:8", search=0.5)
    module = chosen.build(base(), Noisy(), Trainer(settings))
    by_branch = [module.n(index) for index in range(3)]
    assert json.loads(module.config.searched) == {
        name: [n[name] for n in by_branch] for name in by_branch[0]
    }
    assert set(by_branch[2].values()) == {8}
    for part, kept in ((0.25, by_branch[0]), (0.5, by_branch[1])):  # these layers cost the same
        assert sum(kept.values()) <= part * 8 * len(kept)
        assert len(set(kept.values())) > 1
    assert all(
        thin <= half for thin, half in zip(*(n.values() for n in by_branch[:2]), strict=True)
    )
    assert chosen.staged_fraction == 0.5


def test_branch_errors_are_mean_absolute_errors() -> None:
    module, (degraded, clean) = class_pruned(), Noisy().batch(0, 0, 0)
    with torch.no_grad():
        found = branch_errors(module, degraded, clean)
        assert found.shape == (6, 3)
        expected = (module.branch(degraded, 1) - clean)[4].abs().mean()
    torch.testing.assert_close(found[4, 1], expected)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"branches": "2:4,1:4"}, "that nest"),
        ({"branches": "1:3,3:3"}, "M = 3 prunes no layer"),
        ({"decay": 1.0}, "decay 1.0"),
        ({"budget": Budget.parse("1%")}, "target cost 1.0%"),
    ],
)
def test_wrong_use_is_one_sentence(options: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        method(**options).run(base(), Noisy(), Trainer(Settings(steps=6)))


def test_it_is_in_the_table_and_wants_steps() -> None:
    assert METHODS["classpruning"] is ClassPruning
    with pytest.raises(UsageError, match="wanted a number of --steps"):
        method().run(base(), Noisy(), Trainer(Settings(steps=0)))
    scratch = METHODS["classpruning"].preset(
        "paper", budget=Budget.parse("58%"), example=(1, 1, 8, 8)
    )
    assert isinstance(scratch, ClassPruning)
    assert scratch.scratch


def test_weights_are_trained_at_the_pace_of_the_run_or_of_the_paper() -> None:
    run = Trainer(Settings(steps=12, learning_rate=2e-3, optimizer="muon"))
    for pace, rates, optimizer, lengths in (
        ("run", (2e-3, 1e-3), "muon", [1, 4, 7]),
        ("paper", (1e-4, 1e-5), "adam", [2, 5, 5]),
    ):
        method = ClassPruning(budget=Budget.parse("58%"), example=(1, 1, 8, 8), stage_rates=pace)
        stages = [method._stage(run, name).settings for name in ("labels", "branches", "joint")]
        assert [stage.learning_rate for stage in stages] == pytest.approx([1e-3, *rates])
        assert [stage.optimizer for stage in stages] == ["adam", optimizer, optimizer]
        assert [stage.steps for stage in stages] == lengths
        ends = [stage.learning_rate * stage.floor for stage in stages]
        last = {"run": (1e-3, 1e-5), "paper": (1e-6, 1e-7)}[pace]
        assert ends == pytest.approx([1e-6, *last])
        assert {stage.schedule for stage in stages} == {"cosine"}
    with pytest.raises(UsageError, match="stage_rates 'own'"):
        ClassPruning(budget=Budget.parse("58%"), example=(1, 1, 8, 8), stage_rates="own")


def test_branches_may_share_their_norms() -> None:
    """Table 4: without variable BatchNorm, every branch moves the same statistics."""
    shared = method(shared_norms=True).wrap(base(), 0)
    assert not shared.separate_norms
    assert not list(shared.norms)
    assert [shared.branch_norms(i) for i in range(3)] == [shared.branch_norms(2)] * 3
    before = copy.deepcopy(shared.state_dict())
    JointStage(shared, LossWeights(0.0, 0.0, [0.25, 0.5, 1.0]), 1, [image(4)]).finish()
    assert all(torch.equal(before[k], v) for k, v in shared.state_dict().items())
    own = method().wrap(base(), 0)
    assert own.separate_norms
    assert own.branch_norms(0)[0] is not own.branch_norms(2)[0]


def test_without_its_cost_the_joint_loss_has_no_exchange_rate() -> None:
    """Fig. 5: with neither L_C nor L_E, only L_W is left."""
    asked = method(cost_loss=False, entropy=0.0, budget=Budget.parse("90%"))
    module = asked.wrap(base(), 0)
    weights = asked._weights(module, [Noisy().batch(0, 0, 0)], asked.costs(module))
    assert (weights.cost, weights.entropy) == (0.0, 0.0)
    batch = Noisy().batch(0, 0, 1)
    module.eval()
    only = JointStage(module, weights, 10, []).loss(module, batch)
    torch.testing.assert_close(only, BranchStage(module).loss(module, batch))
