"""N:M branches of one network: nesting, separate statistics, and checkpoints."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from thinlens.api import load, save
from thinlens.dynamic.branches import Branches, branch_flops
from thinlens.dynamic.nm_branches import ClassPruned, ClassPrunedConfig
from thinlens.errors import UsageError
from thinlens.models import create
from thinlens.sparsity.layout import canonical, in_groups
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.prunable import find_layers
from thinlens.sparsity.rank_mask import straight_through_mask
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.tasks import make_task

TINY = {"depth": 5, "width": 8}
LAYERS = ("model.2", "model.5", "model.8")
"""DnCNN's convolutions between the first and the last."""
BRANCHES = ("1:4,2:4,4:4", "2:4,4:4", "1:8,3:8,4:8,8:8", "1:2,2:2")


def base(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = create("dncnn-20", **TINY)
        network.train()(torch.rand(4, 1, 12, 12))  # batch statistics that are not 0 and 1
    return network.eval()


def class_pruned(branches: str = "1:4,2:4,4:4", seed: int = 0, searched: str = "{}") -> ClassPruned:
    nested = Branches.of(branches)
    sizes = {"classifier_width": 4, "classifier_features": 4, "searched": searched}
    config = ClassPrunedConfig(kept=nested.kept, m=nested.m, **sizes)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = ClassPruned(config, base(seed))
    ranks = {}
    for name in LAYERS:
        layer = prunable_layer(module.network, name)
        ranks[name] = magnitude_ranks(layer.weight, layer, nested.m)
    module.set_ranks(ranks)
    return module.eval()


def image(count: int = 2, seed: int = 5) -> Tensor:
    return torch.rand(count, 1, 12, 14, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("branches", BRANCHES)
def test_branches_nest_and_keep_n_of_m(branches: str) -> None:
    module = class_pruned(branches)
    nested = module.branches
    for name in LAYERS:
        layer = prunable_layer(module.network, name)
        before = torch.zeros_like(layer.weight, dtype=torch.bool)
        for index, n in enumerate(nested.kept):
            weight = module.tensors(index).get(f"{name}.weight", layer.weight)
            kept = weight != 0
            assert (in_groups(canonical(kept, layer), nested.m, fill=0).sum(1) == n).all()
            assert torch.equal(weight[kept], layer.weight[kept])  # the same weights
            assert (kept | ~before).all()
            before = kept


def test_the_full_branch_is_the_base_bit_for_bit() -> None:
    module = class_pruned()
    with torch.no_grad():
        assert torch.equal(module.branch(image(), 2), base()(image()))
        assert not torch.equal(module.branch(image(), 0), base()(image()))


def trained(module: nn.Module, run: Any, steps: int = 5) -> dict[str, Tensor]:
    module.train()
    for step in range(steps):
        module.zero_grad()
        (run(image(seed=step)) - image(seed=step)).abs().mean().backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.sub_(1e-2 * parameter.grad)
    return {name: tensor.clone() for name, tensor in module.eval().state_dict().items()}


def test_training_the_full_branch_is_training_the_base_bit_for_bit() -> None:
    module, dense = class_pruned(), base()
    own = trained(module.network, lambda x: module.train().branch(x, 2))
    alone = trained(dense, dense)
    assert own.keys() == alone.keys()
    assert all(torch.equal(own[name], alone[name]) for name in own)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_branch_does_not_change_the_statistics_of_the_others(index: int) -> None:
    module = class_pruned().train()
    before = [copy.deepcopy([n.state_dict() for n in module.branch_norms(i)]) for i in range(3)]
    module.branch(image(), index).square().mean().backward()
    for other in range(3):
        after = [norm.state_dict() for norm in module.branch_norms(other)]
        for was, now, norm in zip(before[other], after, module.branch_norms(other), strict=True):
            same = all(torch.equal(was[key], now[key]) for key in was)
            assert same == (other != index)
            assert all((p.grad is None) == (other != index) for p in norm.parameters())


def test_variable_norms_cost_what_the_paper_prints() -> None:
    network = create("dncnn-20")
    module = ClassPruned(ClassPrunedConfig(), network)
    extra = sum(p.numel() for p in module.norms.parameters())
    assert extra == 4608
    assert round(sum(p.numel() for p in module.parameters()) / 1e6, 3) == 0.754


@given(st.integers(0, 99), st.integers(0, 3), st.floats(0, 1))
def test_the_gradient_goes_straight_through_and_decays_what_is_hidden(
    seed: int, n: int, decay: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(2, 4, generator=generator, dtype=torch.float64) - 0.5
    mask = torch.rand(2, 4, generator=generator) < n / 3
    upstream = torch.rand(2, 4, generator=generator, dtype=torch.float64)
    free = weight.clone().requires_grad_()
    product = straight_through_mask(free, mask, decay)
    assert torch.equal(product, weight * mask)
    (product * upstream).sum().backward()
    assert free.grad is not None
    torch.testing.assert_close(free.grad, upstream + decay * (~mask) * weight)


def test_every_image_goes_through_the_branch_of_its_class() -> None:
    module, batch = class_pruned(), image(6)
    classes = torch.tensor([2, 0, 1, 0, 2, 2])
    with torch.no_grad():
        together = module.dispatch(batch, classes)
        for index, which in enumerate(classes.tolist()):
            alone = module.branch(batch[index : index + 1], which)
            torch.testing.assert_close(together[index : index + 1], alone)
        assert torch.equal(module(batch), module.dispatch(batch, module.classify(batch)))


def test_a_tie_goes_to_the_cheaper_branch() -> None:
    module = class_pruned()
    with torch.no_grad():
        for parameter in module.classifier.decide.parameters():
            parameter.zero_()
        assert module.classify(image(3)).tolist() == [0, 0, 0]
        module.classifier.decide.bias.copy_(torch.tensor([0.0, 1.0, 1.0]))
        assert module.classify(image(3)).tolist() == [1, 1, 1]


def test_a_checkpoint_holds_the_weights_once_and_all_branches(tmp_path: Path) -> None:
    module = class_pruned()
    save(tmp_path, module, model="dncnn-20", task=make_task("denoise"))
    config = json.loads((tmp_path / "config.json").read_text())
    encodings = {entry["name"]: entry["encoding"] for entry in config["tensors"]}
    for name in LAYERS:
        assert encodings.pop(f"network.{name}.weight") == "ranks"
    assert set(encodings.values()) == {"dense"}
    back = load(tmp_path)
    assert isinstance(back.module, ClassPruned)
    assert set(back.ranks) == {f"network.{name}" for name in LAYERS}
    with torch.no_grad():
        for index in range(3):
            assert torch.equal(back.module.branch(image(), index), module.branch(image(), index))
        assert torch.equal(back.module(image()), module(image()))
    assert save(tmp_path / "again", back, model=back.model, task=make_task("denoise")) == back.bytes


def test_layers_may_have_an_n_of_their_own_in_every_branch(tmp_path: Path) -> None:
    own = {LAYERS[0]: [1, 1, 4], LAYERS[2]: [1, 3, 4]}
    module = class_pruned(searched=json.dumps(own))
    save(tmp_path, module, model="dncnn-20", task=make_task("denoise"))
    back = load(tmp_path).module
    assert isinstance(back, ClassPruned)
    assert [back.n(index) for index in range(3)] == [
        dict(zip(LAYERS, n, strict=True)) for n in ((1, 1, 1), (1, 2, 3), (4, 4, 4))
    ]
    for index in range(3):
        assert torch.equal(back.branch(image(), index), module.branch(image(), index))
        for name, n in back.n(index).items():
            layer = prunable_layer(back.extract_branch(index), name)
            kept = in_groups(canonical(layer.weight != 0, layer), 4, fill=0)
            assert (kept.sum(1) == n).all()
    plain, example = class_pruned(), (1, 1, 32, 32)
    assert module.flops(example)[1] == plain.flops(example)[1]  # 1 and 3 of 4 cost what 2 and 2 do


@pytest.mark.parametrize(
    "searched",
    [
        *("", "[]", '{"model.2": 1}', '{"model.2": [1, 2]}', '{"model.2": [2, 1, 4]}'),
        *('{"model.2": [0, 1, 4]}', '{"model.2": [1, 2, 5]}', '{"model.2": [1, "2", 4]}'),
    ],
)
def test_an_n_that_does_not_nest_is_refused(searched: str) -> None:
    with pytest.raises(UsageError, match="searched is n"):
        class_pruned(searched=searched)


def test_a_searched_layer_without_ranks_is_refused() -> None:
    with pytest.raises(UsageError, match="was searched and has no ranks"):
        class_pruned(searched='{"model.0": [1, 2, 4]}').load_rank_structures(
            class_pruned().rank_structures()
        )


def test_a_dry_run_sees_the_classifier_and_the_full_branch() -> None:
    nested = {layer.name: layer for layer in find_layers(class_pruned(), (1, 1, 720, 1280))}
    assert nested["network.model.2"].calls == nested["classifier.decide"].calls == 1


def test_branch_costs_are_charged_by_layer() -> None:
    network = create("dncnn-20")
    pruned = [f"model.{2 + 3 * index}" for index in range(18)]
    thin, half, full = branch_flops(
        network, (1, 1, 256, 256), 4, [dict.fromkeys(pruned, n) for n in (1, 2, 4)]
    )
    # golden/counts.json: 1:4, 2:4 and dense, whose ends stay dense
    assert (thin, half, full) == (22_053_781_504, 43_797_053_440, 87_283_597_312)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1:4", "two or more that nest"),
        ("2:4,1:4", "two or more that nest"),
        ("2:4,2:4", "two or more that nest"),
        ("1:4,2:8", "do not nest: wanted one M"),
        ("0:4,4:4", "1 <= N <= M"),
        ("1:4,5:4", "1 <= N <= M"),
        ("1:4;4:4", "wanted N:M by N:M"),
    ],
)
def test_wrong_branches_are_one_sentence(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Branches.of(text)


@given(st.sampled_from(BRANCHES))
def test_branches_are_read_as_they_are_written(text: str) -> None:
    assert str(Branches.of(text)) == text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network", "class-pruned"),
        ("options", "[]"),
        ("options", "{"),
        ("options", '{"depth": "20"}'),
        ("options", '{"wings": 2}'),
        ("kept", [2, 1]),
    ],
)
def test_a_hostile_config_is_refused(key: str, value: object, tmp_path: Path) -> None:
    save(tmp_path, class_pruned(), model="dncnn-20", task=make_task("denoise"))
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"][key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="cannot be used"):
        load(tmp_path)


def test_functional_weights_do_not_outlive_a_call() -> None:
    module = class_pruned()
    before = module.network.state_dict()["model.2.weight"]
    with torch.no_grad():
        module.branch(image(), 0)
    after = module.network.state_dict()["model.2.weight"]
    assert after.data_ptr() == before.data_ptr()
    assert torch.equal(after, base().state_dict()["model.2.weight"])
