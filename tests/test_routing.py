"""Does every image go where its router says, and does the bill add up?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cli_cases import images, run
from test_class_pruned import BRANCHES, base, class_pruned, image
from thinlens.api import evaluate, load, save
from thinlens.errors import UsageError
from thinlens.models import create
from thinlens.models.class_pruned import ClassPruned, Config
from thinlens.restoration.routing import Router, always, dealt, oracle
from thinlens.sparsity.branches import Branches
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.tasks import make_task

BLIND = make_task("denoise", sigmas=(15.0, 25.0, 50.0))


@pytest.mark.parametrize("classes", [[1], [0, 2, 2, 1, 0, 2, 2]])
def test_the_bill_is_the_sum_over_images(classes: list[int], seed: int = 3) -> None:
    module = class_pruned()
    place = iter(classes)

    def choose(batch: Tensor) -> Tensor:
        return torch.tensor([next(place) for _ in batch])

    router = Router(module, choose)
    with torch.no_grad():
        router(image(len(classes)))
    bill = router.bill()
    assert router.classes == classes
    assert bill["shares"] == [classes.count(i) / len(classes) for i in range(3)]
    assert bill["classifier_flops"] == 0  # nobody asked it
    total = sum(bill["branch_flops"][index] for index in classes)
    assert bill["mean_flops"] == pytest.approx(total / len(classes))
    again = Router(module, dealt(classes, seed))
    with torch.no_grad():
        again(image(len(classes)))
    assert sorted(again.classes) == sorted(classes)
    assert again.bill() == bill


def test_a_noise_level_router_costs_what_table_1_prints() -> None:
    """methods.md, 7.5: 15/25/50 to 1:4/2:4/4:4 is 58.33 %; the paper prints 50.88G, 58.3 %."""
    network, found = create("dncnn-20"), Branches.of(BRANCHES[0])
    module = ClassPruned(Config(), network)
    names = [f"model.{2 + 3 * index}" for index in range(18)]
    layers = {name: prunable_layer(network, name) for name in names}
    module.set_ranks({k: magnitude_ranks(x.weight, x, found.m) for k, x in layers.items()})
    router = Router(module)
    router.classes += [0, 1, 2]
    bill = router.bill()
    # ours keeps the ends dense (0.2 % more) and counts the classifier (0.5 %)
    assert bill["of_base"] == pytest.approx(0.5833, abs=0.008)
    assert bill["classifier_flops"] == 408_944_640


def test_the_oracle_knows_the_noise_levels_of_training() -> None:
    for index, sigma in enumerate((15.0, 25.0, 50.0)):
        assert oracle(sigma, BLIND.sigmas)(image(4)).tolist() == [index] * 4  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"oracle knows 15\.0, 25\.0, 50\.0"):
        oracle(30.0, (15.0, 25.0, 50.0))
    assert always(1)(image(3)).tolist() == [1, 1, 1]


def test_noise_of_several_levels_is_drawn_by_the_generator() -> None:
    import numpy as np

    clean = torch.zeros(1, 64, 64)
    seen = set()
    for seed in range(20):
        noisy = BLIND.corrupt(clean, np.random.default_rng(seed))
        assert torch.equal(noisy, BLIND.corrupt(clean, np.random.default_rng(seed)))
        seen.add(min((15, 25, 50), key=lambda s: abs(float(noisy.std()) * 255 - s)))
    assert seen == {15, 25, 50}
    with pytest.raises(UsageError, match="--sigma 300"):
        make_task("denoise", sigmas=[15.0, 300.0])


def test_routers_by_name(tmp_path: Path) -> None:
    images(tmp_path / "clean", count=4, height=24, width=32)
    save(tmp_path / "net", class_pruned(), model="dncnn-20", task=BLIND)
    network, task = load(tmp_path / "net"), make_task("denoise", sigma=25.0)

    def by(router: str) -> object:
        return evaluate(network, tmp_path / "clean", task=task, router=router)

    learned, middle, known = by("learned"), by("1"), by("oracle")
    assert middle.per_image == known.per_image  # type: ignore[attr-defined]
    assert known.routing["shares"] == [0, 1, 0]  # type: ignore[attr-defined]
    random = by("random")
    assert random.routing["shares"] == learned.routing["shares"]  # type: ignore[attr-defined]
    for router in ("3", "best"):
        with pytest.raises(UsageError, match="wanted learned, oracle, random, 0, 1, 2"):
            by(router)
    with pytest.raises(UsageError, match="this network has one branch"):
        evaluate(base(), tmp_path / "clean", task=task, router="oracle")
    with pytest.raises(UsageError, match="class-pruned"):
        evaluate(network, tmp_path / "clean", task=task, engine="native")


@pytest.mark.slow
def test_the_command_line_prunes_and_routes(tmp_path: Path) -> None:
    images(tmp_path / "clean", height=96, width=96)
    save(tmp_path / "base", base(), model="dncnn-20", task=BLIND)
    prune = ("prune", tmp_path / "base", "--method", "classpruning", "--data", tmp_path / "clean")
    out = ("--out", tmp_path / "thin", "--json")
    steps = ("--steps", 4, "--branches", "1:2,2:2")
    for words, reason in (
        # a tiny network's classifier is dearer than the network
        (("--target-cost", "90%", *steps), "the thinnest branch and the classifier alone cost"),
        ((), "classpruning wants --target-cost"),
        (("--budget", "1/2"), "wants --target-cost"),
        (("--budget", "1/2", "--target-cost", "58%"), "--budget 1/2: classpruning takes"),
        (("--target-cost", "58%", "--branches", "1:4,1:2"), "do not nest"),
    ):
        ran = run(*prune, *words, *out)
        assert ran.status == 2
        assert reason in ran.json["error"]
    wide = create("dncnn-20", depth=3, width=64)
    save(tmp_path / "base", wide, model="dncnn-20", task=BLIND)
    ran = run(*prune, "--target-cost", "100%", *steps, *out)
    assert ran.status == 0, ran.err
    assert ran.json["budget_base"] == "base_flops"
    ran = run("evaluate", tmp_path / "thin", "--data", tmp_path / "clean", "--sigma", 25)
    assert ran.status == 0, ran.err
    assert "routed by learned, thinnest branch first" in ran.out
    ran = run("evaluate", tmp_path / "thin", "--data", tmp_path / "clean", "--json")
    routing = json.loads(ran.out)["routing"]
    assert sum(routing["shares"]) == pytest.approx(1)
    assert run("info", tmp_path / "thin", "--json").status == 0
    restored = run(
        "restore", tmp_path / "clean", "--model", tmp_path / "thin", "--out", tmp_path / "o"
    )
    assert restored.status == 0, restored.err
