"""Routing of images to branches, and the cost that it reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cli_cases import images, run
from native_engine import built
from test_class_pruned import BRANCHES, base, class_pruned, image
from test_families import RIVALS, family
from thinlens.api import evaluate, load, runner, save
from thinlens.dynamic.branches import Branches
from thinlens.dynamic.nm_branches import ClassPruned, ClassPrunedConfig
from thinlens.dynamic.routed import Routed
from thinlens.dynamic.router import ImageRouter, by_noise_level, fixed_branch, shuffled
from thinlens.dynamic.samples import restore_by_branches
from thinlens.errors import UsageError
from thinlens.images.reading import image_size
from thinlens.models import create
from thinlens.report.branch_plots import (
    draw_branch_restorations,
    draw_branch_shares,
    read_branch_shares,
)
from thinlens.restoration.evaluation import Evaluation
from thinlens.restoration.tiled import restore_image
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.tasks import make_task

BLIND = make_task("denoise", sigmas=(15.0, 25.0, 50.0))


@pytest.mark.parametrize("classes", [[1], [0, 2, 2, 1, 0, 2, 2]])
def test_the_cost_report_is_the_sum_over_images(classes: list[int], seed: int = 3) -> None:
    module = class_pruned()
    place = iter(classes)

    def choose(batch: Tensor) -> Tensor:
        return torch.tensor([next(place) for _ in batch])

    router = ImageRouter(module, choose)
    with torch.no_grad():
        assert router.route(image(len(classes))) == classes
    report = router.cost_report()
    assert router.classes == classes
    assert report["shares"] == [classes.count(i) / len(classes) for i in range(3)]
    assert report["classifier_flops"] == 0  # it did not route
    total = sum(report["branch_flops"][index] for index in classes)
    assert report["mean_flops"] == pytest.approx(total / len(classes))
    again = ImageRouter(module, shuffled(classes, seed))
    with torch.no_grad():
        again.route(image(len(classes)))
    assert sorted(again.classes) == sorted(classes)
    assert again.cost_report() == report


def test_a_noise_level_router_costs_what_table_1_prints() -> None:
    """15/25/50 to 1:4/2:4/4:4 is 58.33 %; the paper prints 50.88G, 58.3 %."""
    network, result = create("dncnn-20"), Branches.of(BRANCHES[0])
    module = ClassPruned(ClassPrunedConfig(), network)
    names = [f"model.{2 + 3 * index}" for index in range(18)]
    layers = {name: prunable_layer(network, name) for name in names}
    module.set_ranks({k: magnitude_ranks(x.weight, x, result.m) for k, x in layers.items()})
    router = ImageRouter(module)
    router.classes += [0, 1, 2]
    report = router.cost_report()
    # ours keeps the ends dense (0.2 % more) and counts the classifier (0.5 %)
    assert report["of_base"] == pytest.approx(0.5833, abs=0.008)
    assert report["classifier_flops"] == 408_944_640


def test_the_oracle_knows_the_noise_levels_of_training() -> None:
    for index, sigma in enumerate((15.0, 25.0, 50.0)):
        assert by_noise_level([sigma], BLIND.sigmas, 4)(image(4)).tolist() == [index] * 4  # type: ignore[attr-defined]
    levels = (15.0, 25.0, 50.0)
    assert by_noise_level([50.0, 15.0], levels, 2)(image(4)).tolist() == [2, 2, 0, 0]
    with pytest.raises(UsageError, match=r"oracle knows 15\.0, 25\.0, 50\.0"):
        by_noise_level([30.0], levels, 1)
    with pytest.raises(UsageError, match="this task has none"):
        by_noise_level([], levels, 1)
    assert fixed_branch(1)(image(3)).tolist() == [1, 1, 1]


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


@built
@pytest.mark.parametrize("routed", [class_pruned, *(partial(family, name) for name in RIVALS)])
def test_the_engine_runs_every_branch(
    routed: Callable[[], Routed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone a branch is the same network, which the engine runs as any; the classifier chooses."""
    module, batch = routed().eval(), image(3)
    classes = torch.tensor([0, module.num_branches - 1, 0])
    monkeypatch.setattr(module, "classify", lambda images: classes[: len(images)])
    with torch.inference_mode():
        for index in range(module.num_branches):
            assert torch.equal(module.extract_branch(index)(batch), module.branch(batch, index))
        expected = module(batch)
    for engine in ("native", "auto"):
        assert torch.allclose(runner(module, engine)(batch), expected, atol=1e-5)


@built
def test_a_routed_network_is_evaluated_in_the_engine(tmp_path: Path) -> None:
    images(tmp_path / "clean", 3)
    network, task = class_pruned(), make_task("denoise", sigma=25.0)
    by_torch, by_engine = (
        evaluate(network, tmp_path / "clean", task=task, engine=engine)
        for engine in ("torch", "native")
    )
    assert by_engine.psnr == pytest.approx(by_torch.psnr, abs=1e-3)
    assert by_engine.routing == by_torch.routing


def test_a_large_image_is_one_image_whatever_its_tiles() -> None:
    module, whole = class_pruned(), image()[0]
    for tiler in (router := ImageRouter(module))._tilers:
        tiler._tile = 8  # as if no more fitted into memory
    with torch.no_grad():
        chosen = int(module.classify(whole[None]))
        expected = module.branch(whole[None], chosen)[0].clamp(0, 1)
        torch.testing.assert_close(restore_image(router, whole), expected, rtol=0, atol=1e-6)
    assert router.classes == [chosen]
    assert router.manifest_fields() == {"tile": 8, "margin": None}
    with pytest.raises(UsageError, match="an image of 3 channels: the classifier takes 1"):
        restore_image(router, torch.rand(3, 12, 14))


SIGMAS = (15.0, 25.0, 50.0)


def evaluated_at_three_levels(folder: Path, router: str = "learned") -> Evaluation:
    if not folder.exists():
        images(folder / "clean", count=3, height=24, width=32)
        save(folder / "net", class_pruned(), model="dncnn-20", task=BLIND)
    network = load(folder / "net")
    return evaluate(network, folder / "clean", sigmas=SIGMAS, router=router)


def test_several_noise_levels_are_the_sum_of_each_alone(tmp_path: Path) -> None:
    result = evaluated_at_three_levels(tmp_path / "all")
    network = load(tmp_path / "all" / "net")
    separate = [
        evaluate(network, tmp_path / "all" / "clean", task=make_task("denoise", sigma=sigma))
        for sigma in SIGMAS
    ]
    assert [replace(x, sigma=None) for x in result.per_image] == [
        score for one in separate for score in one.per_image
    ]
    for at, one, sigma in zip(result.per_sigma(), separate, SIGMAS, strict=True):
        assert (at["sigma"], at["psnr"], at["ssim"]) == (sigma, one.psnr, one.ssim)
        assert at["shares"] == one.routing["shares"]
        assert at["mean_flops"] == pytest.approx(one.routing["mean_flops"])
    assert result.psnr == pytest.approx(sum(one.psnr for one in separate) / 3)
    costs = [at["mean_flops"] for at in result.per_sigma()]
    assert result.routing["mean_flops"] == pytest.approx(sum(costs) / 3)
    content = json.loads(json.dumps(result.as_json()))
    assert list(content["per_image"][0]) == ["name", "psnr", "ssim", "sigma", "branch"]
    assert [at["sigma"] for at in content["per_sigma"]] == list(SIGMAS)


def test_the_oracle_and_chance_see_all_noise_levels(tmp_path: Path) -> None:
    learned, known, random = (
        evaluated_at_three_levels(tmp_path / "all", router)
        for router in ("learned", "oracle", "random")
    )
    assert [score.branch for score in known.per_image] == [0] * 3 + [1] * 3 + [2] * 3
    assert [at["shares"].index(1) for at in known.per_sigma()] == [0, 1, 2]
    assert random.routing["shares"] == learned.routing["shares"]
    both = [sorted(str(score.branch) for score in x.per_image) for x in (learned, random)]
    assert both[0] == both[1]


def test_the_oracle_wants_a_branch_for_every_level(tmp_path: Path) -> None:
    images(tmp_path / "clean", count=1)
    save(tmp_path / "net", class_pruned("1:4,2:4"), model="dncnn-20", task=BLIND)
    with pytest.raises(UsageError, match="3 noise levels and 2 branches: wanted one"):
        evaluate(load(tmp_path / "net"), tmp_path / "clean", sigmas=SIGMAS, router="oracle")


def test_only_denoising_has_noise_levels(tmp_path: Path) -> None:
    images(tmp_path)
    with pytest.raises(UsageError, match="--sigma 15: only denoising has noise levels"):
        evaluate(nn.Conv2d(3, 3, 1), tmp_path, task=make_task("derain"), sigmas=SIGMAS)


def test_branch_images_have_the_metrics_of_the_evaluation(tmp_path: Path) -> None:
    result = evaluated_at_three_levels(tmp_path / "all")
    network, clean = load(tmp_path / "all" / "net"), tmp_path / "all" / "clean"
    assert isinstance(network.module, ClassPruned)
    shown = {
        f"sigma {sigma:g}": restore_by_branches(
            network.module, make_task("denoise", sigma=sigma), clean
        )
        for sigma in SIGMAS
    }
    for index, one in enumerate(shown.values()):
        score = result.per_image[3 * index]
        assert (one.chosen, one.psnr[one.chosen]) == (score.branch, score.psnr)
        assert len(one.restored) == 3
    pytest.importorskip("matplotlib")
    draw_branch_restorations(tmp_path / "branches.png", shown, ["1:4", "2:4", "4:4"])
    height, width = image_size(tmp_path / "branches.png")
    assert height > 300
    assert width > height
    with pytest.raises(UsageError, match="there is no number 4"):
        restore_by_branches(network.module, BLIND, clean, index=3)


def test_shares_are_drawn_as_training_went(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log = [{"step": s, "loss": 1.0, "share_0": 0.2, "share_1": 0.8} for s in (10, 20)]
    lines = [*log, {"step": 30, "loss": None, "share_0": None, "share_1": None}]
    (tmp_path / "metrics-joint.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    assert read_branch_shares(tmp_path) == log
    assert read_branch_shares(tmp_path / "nowhere") == []
    runs = {"all losses": log, "without L_C": log}
    draw_branch_shares(tmp_path / "shares.png", runs, ["1:2", "2:2"])
    assert image_size(tmp_path / "shares.png")[1] > 600
    with pytest.raises(UsageError, match="there is no training log to draw"):
        draw_branch_shares(tmp_path / "none.png", {"sls": []}, [])


@pytest.mark.slow
def test_the_command_line_prunes_and_routes(tmp_path: Path) -> None:
    images(tmp_path / "clean", height=96, width=96)
    save(tmp_path / "base", base(), model="dncnn-20", task=BLIND)
    prune = ("prune", tmp_path / "base", "--method", "classpruning", "--data", tmp_path / "clean")
    out = ("--out", tmp_path / "thin", "--json")
    steps = ("--steps", 4, "--branches", "1:2,2:2")
    for words, reason in (
        # a tiny network's classifier costs more than the network
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
    assert "shares.png" in ran.err or (tmp_path / "thin" / "shares.png").is_file()
    seen = ("--data", tmp_path / "clean", "--sigma", "15,25,50", "--out", tmp_path / "seen")
    ran = run("evaluate", tmp_path / "thin", *seen)
    assert ran.status == 0, ran.err
    for words in ("mean at sigma 15", "mean at sigma 50", "branches.png"):
        assert words in ran.out
    ran = run("evaluate", tmp_path / "base", *seen)
    assert ran.status == 2
    assert "this network has one branch" in ran.err
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
