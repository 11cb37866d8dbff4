"""Are ClassPruning's rivals what its Table 2 counts, and do members share what they say?"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cli_cases import images, run
from native_engine import built
from test_classpruning import Noisy
from thinlens.api import evaluate, load, save
from thinlens.dynamic.router import ImageRouter
from thinlens.dynamic.subnets import RoutedSubnets, shared_names
from thinlens.errors import UsageError
from thinlens.images.writing import write_png
from thinlens.methods import METHODS
from thinlens.methods.classpruning.routed_training import RoutedTraining
from thinlens.methods.classpruning.stages import recalibrate
from thinlens.models import MODELS, create
from thinlens.sparsity.budget import Budget
from thinlens.tasks import make_task
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

RIVALS = ("multi-width", "multi-depth", "channel-skip", "layer-skip")
SHARED = ("channel-skip", "layer-skip")


def rival(name: str, **options: Any) -> RoutedTraining:
    given = {"budget": Budget.parse("80%"), "example": (1, 1, 64, 64), **options}
    method = METHODS[name](**given)
    assert isinstance(method, RoutedTraining)
    return method


def family(name: str, depth: int = 8, width: int = 16, **options: Any) -> RoutedSubnets:
    model = create("dncnn-20", depth=depth, width=width).eval()
    made = rival(name, **options).wrap(model, 0)
    assert isinstance(made, RoutedSubnets)
    return made.eval()


def image(count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "params", "gflops", "printed_params", "printed_gflops"),
    [
        ("multi-width", 1_249_101, 51.208, 1.251, 50.77),
        ("multi-depth", 1_270_758, 52.198, 1.272, 52.11),
        ("channel-skip", 752_312, 51.208, 0.754, 50.71),
        ("layer-skip", 751_332, 52.198, 0.754, 51.58),
    ],
)
def test_table_2_counts(
    name: str, params: int, gflops: float, printed_params: float, printed_gflops: float
) -> None:
    """A third of the images to each branch, as noise levels 15, 25 and 50 go."""
    made = rival(name, example=(1, 1, 256, 256)).wrap(create("dncnn-20"), 0)
    assert sum(p.numel() for p in made.parameters()) == params
    assert params / 1e6 == pytest.approx(printed_params, rel=0.005)
    router = ImageRouter(made)
    router.classes += [0, 1, 2]
    bill = router.cost_report()
    assert bill["mean_flops"] / 1e9 == pytest.approx(gflops, abs=0.01)
    assert gflops == pytest.approx(printed_gflops, rel=0.012)
    assert bill["branch_flops"] == sorted(bill["branch_flops"])


@pytest.mark.parametrize("name", RIVALS)
def test_every_member_costs_its_part(name: str) -> None:
    made = family(name, depth=20, width=64)
    flops = made.flops((1, 1, 64, 64))
    for cost, part in zip(flops, (0.25, 0.5, 1.0), strict=True):
        assert part - 0.01 <= cost / flops[-1] < part + 0.04
    assert made.branches.kept == (1, 2, 4)


@pytest.mark.parametrize("name", RIVALS)
def test_the_fullest_member_is_the_network_bit_for_bit(name: str) -> None:
    model = create("dncnn-20", depth=8, width=16).eval()
    made = rival(name).wrap(model, 0).eval()
    with torch.no_grad():
        assert torch.equal(made.branch(image(), 2), model(image()))
        outputs = [made.branch(image(), index) for index in range(3)]
    assert not torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("name", RIVALS)
def test_shared_weights_are_one_and_own_weights_are_not(name: str) -> None:
    made, changed = family(name), "model.2.weight"
    with torch.no_grad():
        before = [made.branch(image(), index) for index in range(3)]
        made.network.get_parameter(changed).mul_(1.5)
        after = [made.branch(image(), index) for index in range(3)]
    same = [torch.equal(x, y) for x, y in zip(before, after, strict=True)]
    assert same == ([False] * 3 if name in SHARED else [True, True, False])


@pytest.mark.parametrize("name", RIVALS)
def test_members_start_from_the_networks_weights(name: str) -> None:
    """So own and shared weights begin as the same functions."""
    model = create("dncnn-20", depth=8, width=16).eval()
    twin = {"multi-width": "channel-skip", "multi-depth": "layer-skip"}.get(name, name)
    one, other = (rival(x).wrap(model, 0).eval() for x in (name, twin))
    with torch.no_grad():
        for index in range(2):
            torch.testing.assert_close(one.branch(image(), index), other.branch(image(), index))


@pytest.mark.parametrize("name", RIVALS)
def test_a_branch_moves_no_other_statistics(name: str) -> None:
    made = family(name).train()
    for index in range(3):
        before = copy.deepcopy(made.state_dict())
        made.branch(image(4, seed=index), index)
        after = made.state_dict()
        moved = {key for key in after if not torch.equal(before[key], after[key])}
        own = {id(x) for norm in made.branch_norms(index) for x in norm.buffers()}
        assert moved == {key for key, x in made.named_buffers() if id(x) in own}
        assert moved


@pytest.mark.parametrize("name", SHARED)
def test_gradients_reach_the_one_set_of_weights(name: str) -> None:
    made = family(name).train()
    made.branch(image(4), 0).square().mean().backward()  # type: ignore[no-untyped-call]
    gradient = made.network.get_parameter("model.0.weight").grad
    assert gradient is not None
    used = 8 if name == "channel-skip" else 16
    assert gradient[:used].abs().sum() > 0
    assert gradient[used:].abs().sum() == 0


def test_a_shallower_network_is_a_beginning_and_the_end() -> None:
    deep, shallow = create("dncnn-20", depth=8, width=4), create("dncnn-20", depth=4, width=4)
    found = shared_names(shallow, deep)
    assert found["model.0.weight"] == "model.0.weight"
    assert found["model.5.weight"] == "model.5.weight"
    assert found["model.8.weight"] == "model.20.weight"
    with pytest.raises(UsageError, match="not those of the deeper one"):
        shared_names(create("dncnn-20", depth=4, width=5), deep)


@pytest.mark.parametrize("name", RIVALS)
def test_a_checkpoint_gives_back_the_family(name: str, tmp_path: Path) -> None:
    made, task = family(name), make_task("denoise", sigmas=(15.0, 25.0, 50.0))
    with torch.no_grad():
        for norms in (made.branch_norms(index) for index in range(3)):
            norms[0].running_mean.add_(1)  # type: ignore[operator, union-attr]
    save(tmp_path / "saved", made, model="dncnn-20", task=task)
    back = load(tmp_path / "saved")
    assert back.model == "family"
    with torch.no_grad():
        for index in range(3):
            assert torch.equal(back.module.branch(image(), index), made.branch(image(), index))  # type: ignore[operator]
    write_png(tmp_path / "clean" / "a.png", torch.full((1, 24, 24), 90, dtype=torch.uint8))
    found = evaluate(back, tmp_path / "clean", router="1")
    assert found.routing["shares"] == [0, 1, 0]


@pytest.mark.parametrize("name", RIVALS)
def test_recalibrated_members_hold_the_statistics_of_their_images(name: str) -> None:
    made = family(name)
    made.classify = lambda batch: torch.arange(len(batch)) % 3  # type: ignore[method-assign]
    assert recalibrate(made, [image(6), image(3)]) == [3, 3, 3]
    assert not any(part.training for part in made.modules())


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_the_same_stages_train_it(name: str) -> None:
    model = create("dncnn-20", depth=6, width=64)  # dearer than its classifier
    before = copy.deepcopy(model.state_dict())
    method = rival(name, budget=Budget.parse("90%"), example=(1, 1, 12, 12))
    runs = [method.run(model, Noisy(), Trainer(Settings(steps=6))) for _ in range(2)]
    assert all(torch.equal(before[key], x) for key, x in model.state_dict().items())
    ours, theirs = (run.module.state_dict() for run in runs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    record = runs[0].record
    assert record["budget_base"] == "base_flops"
    assert sum(record["shares"]) == pytest.approx(1)


class Nameless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Conv2d(1, 1, 3, padding=1)


@pytest.mark.parametrize("name", RIVALS)
def test_wrong_use_is_one_sentence(name: str) -> None:
    with pytest.raises(UsageError, match="Nameless has no config"):
        rival(name).wrap(Nameless(), 0)
    with pytest.raises(UsageError, match="that nest"):
        rival(name, branches="2:4,1:4")
    with pytest.raises(UsageError, match=r"too small to be so many|no smaller network costs"):
        family(name, depth=4, width=2, branches="97:100,98:100,99:100,100:100")


@pytest.mark.parametrize(
    ("network", "why"),
    [("gcanet", "has none of depth, blocks"), ("srn", "no smaller network costs 1/4")],
)
def test_networks_that_cannot_be_shallower_are_refused(network: str, why: str) -> None:
    entry = MODELS[network]
    model = entry.build(entry.make_config(**entry.tiny))
    with pytest.raises(UsageError, match=why):
        rival("layer-skip", example=(1, 3, 32, 32)).wrap(model, 0)


@pytest.mark.parametrize("name", SHARED)
def test_as_many_members_as_may_share_can_be_saved(name: str, tmp_path: Path) -> None:
    task = make_task("denoise")
    model = create("dncnn-17", depth=12, width=16)  # no norms: all that is saved is shared
    most = rival(name, branches="1:8,2:8,4:8,8:8").wrap(model, 0)
    save(tmp_path / "saved", most, model="dncnn-17", task=task)
    back = load(tmp_path / "saved").module
    assert isinstance(back, RoutedSubnets)
    assert back.flops((1, 1, 32, 32)) == most.flops((1, 1, 32, 32))
    with pytest.raises(UsageError, match="5 branches share weights: wanted at most 4"):
        rival(name, branches="1:8,2:8,4:8,6:8,8:8").wrap(model, 0)


@built
@pytest.mark.parametrize("name", RIVALS)
def test_the_command_line_takes_subnet_methods(name: str, tmp_path: Path) -> None:
    save(tmp_path / "saved", family(name), model="dncnn-20", task=make_task("denoise"))
    images(tmp_path / "clean", count=1, height=24, width=24)
    assert run("info", tmp_path / "saved", "--json").status == 0
    restore = ("restore", tmp_path / "clean", "--model", tmp_path / "saved", "--out")
    assert run(*restore, tmp_path / "out").status == 0
    native = run(*restore, tmp_path / "native", "--engine", "native")
    assert native.status == 0, native.err
    for branch, status in ((0, 0), (3, 2)):
        about = ("--branch", branch, "--size", "24x24", "--rounds", 1, "--against", "none")
        assert run("bench", tmp_path / "saved", *about).status == status
