"""Bundles: training, evaluation, the folder format, and refusal of what is inconsistent."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from cli_cases import contents, denoising_checkpoint, images, run, sr_checkpoint
from thinlens.adaptive.adapt import AdaptOptions, adapt, choose_tiling
from thinlens.adaptive.bundle import Bundle
from thinlens.adaptive.bundle_format import is_bundle, load_bundle, save_bundle
from thinlens.adaptive.candidates import Candidate, count_macs
from thinlens.adaptive.estimator import (
    EstimatorObjective,
    LearnedEstimator,
    evaluate_estimator,
    spearman,
    train_estimator,
)
from thinlens.adaptive.laplacian import LaplacianTable, fit_laplacian, log_laplacian_energy
from thinlens.adaptive.options import RoutingOptions
from thinlens.adaptive.sweep import CURVE_POINTS, sweep
from thinlens.adaptive.tile_errors import ErrorMeasurement, TileErrors, measure_tile_errors
from thinlens.api import load
from thinlens.checkpoints.format import Checkpoint
from thinlens.errors import UsageError
from thinlens.images.resize import bicubic_upsample
from thinlens.images.tiles import Tiling
from thinlens.models import create
from thinlens.restoration.tiled import restore_image
from thinlens.tasks import make_task
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings


def plain(module: nn.Module) -> nn.Module:
    return module


@functools.cache
def folder() -> Path:
    """Two networks, some images and a bundle, made once for all tests."""
    place = Path(mkdtemp(prefix="thinlens-bundle-"))
    sr_checkpoint(place / "thin")
    sr_checkpoint(place / "wide", width=12)
    images(place / "clean", count=3, height=64, width=72)
    names = ("thin", "wide")
    choices = AdaptOptions(tile=(16, 16), margin=2, steps=1)
    found = adapt({n: load(place / n) for n in names}, place / "clean", choices, run=plain)
    save_bundle(place / "bundle", found)
    return place


def bundle() -> Bundle:
    return load_bundle(folder() / "bundle")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A bundle that may be spoilt."""
    return Path(shutil.copytree(folder() / "bundle", tmp_path / "bundle"))


# --- Estimators -----------------------------------------------------------------------------------


def samples(count: int = 96, side: int = 12) -> TileErrors:
    """Noise of several strengths, whose error grows with the strength."""
    generator = torch.Generator().manual_seed(0)
    strength = torch.rand(count, 1, 1, 1, generator=generator)
    tiles = 0.5 + strength * (torch.rand(count, 3, side, side, generator=generator) - 0.5)
    level = strength.view(-1, 1)
    return TileErrors(tiles, torch.cat([level - 3, 2 * level - 3], dim=1), batch_size=16)


def test_an_estimator_is_trained_to_rank_tiles() -> None:
    found = samples()
    # a table of the means alone
    blind = LaplacianTable([0.0], [found.errors.mean(0).tolist()])
    settings = Settings(steps=60, warmup=5, optimizer="adam", learning_rate=2e-3)
    untrained = train_estimator(found, blind, Trainer(replace(settings, steps=0)))
    module = train_estimator(found, blind, Trainer(settings))
    before, after = (
        evaluate_estimator(LearnedEstimator(x, blind), found) for x in (untrained, module)
    )
    assert before == evaluate_estimator(blind, found)  # it begins at the table
    assert min(after.rank_correlation) > 0.9
    assert max(after.error) < max(before.error) / 2
    assert len(after.gain_correlation) == 1
    assert [len(points) for points in after.calibration] == [10, 10]


def test_the_same_seed_trains_the_same_weights() -> None:
    found, settings = samples(), Settings(steps=2, optimizer="adam")
    table = fit_laplacian(found)
    one, other = (train_estimator(found, table, Trainer(settings)).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_loss_weighs_gains_and_is_zero_at_the_truth() -> None:
    loss = EstimatorObjective(nn.Identity(), torch.tensor([0.1])).loss
    errors = torch.tensor([[-3.0, -2.5], [-4.0, -3.0]])

    def at(found: Tensor) -> float:
        return float(loss(lambda tiles: found, (torch.empty(2), errors)))

    assert at(errors) == 0
    together, apart = torch.tensor([0.2, 0.2]), torch.tensor([0.2, -0.2])
    assert at(errors + apart) > at(errors + together) > 0


def test_the_laplacian_is_a_table_of_detail() -> None:
    found = samples(400)
    table = fit_laplacian(found)
    assert table.knots == sorted(table.knots)
    metrics = evaluate_estimator(table, found)
    assert min(metrics.rank_correlation) > 0.9
    np.testing.assert_allclose(metrics.bias, [0, 0], atol=0.02)
    assert table.macs((10, 20)) == 1800


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_slope_has_no_detail(level: float, slope: float) -> None:
    ramp = torch.arange(9, dtype=torch.float64) / 9 * slope + level
    tile = ramp.expand(1, 3, 7, 9)
    assert log_laplacian_energy(tile) == pytest.approx(-8, abs=1e-3)
    assert log_laplacian_energy(tile[..., :2]) == pytest.approx(-8)
    assert LaplacianTable([-5.0], [[1.0, 2.0]])(tile.float()).tolist() == [[1.0, 2.0]]


def test_spearman_is_the_correlation_of_ranks() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(x, x**3) == pytest.approx(1)
    assert spearman(x, -np.exp(x)) == pytest.approx(-1)
    assert spearman(x, np.ones(4)) == 0


def test_windows_of_held_out_images_are_not_training_samples() -> None:
    context = bundle().context(plain)
    tiling, task = Tiling((16, 16), (2, 2), full=True), make_task("sr", scale=2)
    measurement = ErrorMeasurement(context.candidates, task, tiling)
    training, held_out, count = measure_tile_errors(measurement, folder() / "clean")
    # 36x32 input pixels hold 2x2 windows of 20x20 that reach the end
    assert (len(training.tiles), len(held_out.tiles), count) == (2 * 4, 4, 3)
    assert training.tiles.shape[1:] == (3, 20, 20)
    assert training.errors.shape == (8, 3)
    assert (
        training.errors[:, 2] < training.errors[:, :2].min(1).values
    ).all()  # bicubic is best here
    large = measure_tile_errors(
        replace(measurement, tiling=Tiling((64, 16), (2, 2))), folder() / "clean"
    )[0]
    assert large.tiles.shape == (4, 3, 32, 20)  # as high as the images, which are lower than tiles
    with pytest.raises(UsageError, match="has 0 images of at least 41x41 input pixels: wanted 2"):
        tiling = Tiling((8, 8), (20, 20))
        measure_tile_errors(replace(measurement, tiling=tiling), folder() / "clean")


def test_an_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    calls: list[int] = []

    def shade(tiles: Tensor) -> Tensor:
        calls.append(len(tiles))
        return F.interpolate(tiles, scale_factor=2)

    only = Candidate("only", shade, lambda size: 1)
    tiling, log = Tiling((16, 16), (2, 2), full=True), tmp_path / "errors.jsonl"
    measurement = ErrorMeasurement([only], make_task("sr", scale=2), tiling)
    whole = measure_tile_errors(measurement, folder() / "clean", log)[0]
    assert len(calls) == 3
    log.write_text(log.read_text()[:-30])  # killed in the last line
    again = measure_tile_errors(measurement, folder() / "clean", log)[0]
    assert len(calls) == 4
    assert torch.equal(whole.errors, again.errors)
    measure_tile_errors(replace(measurement, seed=1), folder() / "clean", log)
    assert len(calls) == 7  # another measurement begins anew


# --- Bundles --------------------------------------------------------------------------------------


def test_a_bundle_comes_back_as_it_was() -> None:
    found = bundle()
    assert list(found.checkpoints) == ["wide", "thin"]  # the most expensive first
    assert found.tiling == Tiling((16, 16), (2, 2), 1, full=True)
    assert found.task == make_task("sr", scale=2)
    for name, checkpoint in found.checkpoints.items():
        original = load(folder() / name).module.state_dict()
        assert all(torch.equal(original[k], v) for k, v in checkpoint.module.state_dict().items())
    assert set(found.metrics) == {"learned", "laplacian"}
    assert is_bundle(folder() / "bundle")
    assert not is_bundle(folder() / "thin")
    assert [c.name for c in found.context(plain).candidates] == ["wide", "thin", "bicubic"]


def test_a_bundle_makes_its_restorer() -> None:
    image = torch.rand(3, 20, 30)
    router = bundle().restorer(plain, RoutingOptions(beta=1e9))
    assert torch.equal(
        restore_image(router, image), bicubic_upsample(image[None], 2)[0].clamp(0, 1)
    )
    assert router.cost_report(2)["shares"] == [0, 0, 1]
    with pytest.raises(UsageError, match="wanted the name of the engine"):
        bundle().restorer(plain, RoutingOptions(price="ms"))


def test_saving_again_removes_the_previous_bundle(copy: Path) -> None:
    found = load_bundle(copy)
    only = {"wide": found.checkpoints["wide"]}
    laplacian = LaplacianTable([0.0], [[1.0, 2.0]])
    module = train_estimator(
        TileErrors(torch.rand(8, 3, 8, 8), torch.rand(8, 2)),
        laplacian,
        Trainer(Settings(steps=0)),
    )
    save_bundle(copy, replace(found, checkpoints=only, laplacian=laplacian, estimator=module))
    assert list(load_bundle(copy).checkpoints) == ["wide"]
    assert len(list((copy / "candidates").iterdir())) == 1
    assert len(list((copy / "estimator").iterdir())) == 1


def test_a_save_that_fails_keeps_the_previous_bundle(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_bundle(copy)
    mark = json.loads((copy / "bundle.json").read_text())

    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("thinlens.adaptive.bundle_format.write_json", full)
    with pytest.raises(OSError, match="No space"):
        save_bundle(copy, replace(found, use="laplacian"))
    assert json.loads((copy / "bundle.json").read_text()) == mark
    assert load_bundle(copy).use == "learned"


def spoil(copy: Path, **changed: object) -> None:
    path = copy / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_other_candidates_and_estimators_are_refused_by_hash(copy: Path) -> None:
    content = json.loads((copy / "bundle.json").read_text())
    wide, thin = (entry["fingerprint"] for entry in content["candidates"])
    spoil(copy, candidates=content["candidates"][:1])
    with pytest.raises(UsageError, match="its estimator was trained on other candidates"):
        load_bundle(copy)
    spoil(copy, candidates=content["candidates"])
    shutil.rmtree(copy / "candidates" / thin)
    with pytest.raises(UsageError, match="thin is missing: there is no folder"):
        load_bundle(copy)
    shutil.copytree(copy / "candidates" / wide, copy / "candidates" / thin)
    with pytest.raises(UsageError, match="holds another network than thin was"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"format": 2}, "format 2 is unknown"),
        ({"candidates": []}, "at least one checkpoint"),
        ({"candidates": [{"name": "x", "fingerprint": "../.."}]}, "the fingerprint"),
        ({"candidates": 5}, "candidates of the bundle is 5: wanted an array"),
        ({"use": "magic"}, "it uses 'magic'"),
        ({"tiling": {}}, "tiling of the bundle lacks 'core'"),
        ({"laplacian": {"knots": [], "values": []}}, "table of the Laplacian is malformed"),
        ({"laplacian": {"knots": [1.0], "values": [[1.0]]}}, "another number of candidates"),
        ({"judged": {"learned": {}}}, "of the bundle lacks"),
    ],
)
def test_a_damaged_bundle_is_one_sentence(
    copy: Path, changed: dict[str, object], reason: str
) -> None:
    spoil(copy, **changed)
    with pytest.raises(UsageError, match=reason):
        load_bundle(copy)


def test_candidates_that_do_not_go_together() -> None:
    place = folder()
    sr = load(place / "thin")
    other_scale = replace(sr, task={**sr.task, "scale": 3})
    other_task = load(denoising_checkpoint(place / "denoise"))
    classifier = replace(sr, model="classifier")
    for found, reason in (
        ({"a": sr, "b": other_scale}, r"b is for sr \(scale 3\) and a for sr \(scale 2\)"),
        ({"a": sr, "b": other_task}, "wanted candidates of one task and scale"),
        ({"a": sr, "b": sr}, "b and a are the same network"),
        ({"a": classifier}, "wanted networks that make images"),
        ({}, "at least one checkpoint"),
    ):
        with pytest.raises(UsageError, match=reason):
            adapt(found, place / "clean", AdaptOptions(), run=plain)


def test_tiles_are_the_papers_unless_something_is_chosen() -> None:
    thin = {"thin": load(folder() / "thin")}
    sr, deblur = make_task("sr", scale=2), make_task("deblur")
    assert choose_tiling(sr, thin, AdaptOptions()) == Tiling((48, 48), (1, 1), full=True)
    assert choose_tiling(deblur, thin, AdaptOptions()) == Tiling((240, 256), (3, 5), full=True)
    exact = choose_tiling(sr, thin, AdaptOptions(exact=True))
    assert min(exact.margin) > 3
    assert exact.grid == 6  # of RFDN's attention
    with pytest.raises(UsageError, match="margin of exact tiles is measured"):
        AdaptOptions(exact=True, margin=3)
    with pytest.raises(UsageError, match="--margin -1"):
        AdaptOptions(margin=-1)


def test_the_estimator_of_slss_paper_is_a_network_alone(tmp_path: Path) -> None:
    """No table is added; tiles have 50x50 pixels; beta is spaced evenly in [0, 10]."""
    place = folder()
    choices = AdaptOptions(tile=(16, 16), margin=2, steps=1, use="cnn", fixed_tiles=True)
    save_bundle(
        tmp_path, adapt({"thin": load(place / "thin")}, place / "clean", choices, run=plain)
    )
    found = load_bundle(tmp_path)
    assert (found.use, found.uses) == ("cnn", ("cnn", "laplacian"))
    assert set(found.metrics) == set(found.uses)
    assert not found.tiling.even
    context, tile = found.context(plain), torch.rand(1, 3, 20, 20)
    assert torch.equal(context.estimator(tile), found.estimator(tile))
    assert found.estimator.config.stem == 1
    hd = count_macs(Checkpoint(create("mse-estimator", stem=1), {}, {}, "", {}, {}, 0), found.task)
    assert hd((180, 320)) / 1e9 == pytest.approx(3.45, abs=0.02)
    estimators = {"cnn": (context.estimator, context.estimator_macs)}
    result = sweep(context, estimators, found.task, place / "clean", uniform_beta=True)
    betas = [point.t for point in result.curves["cnn, uniform beta"]]
    assert (betas[0], betas[-1], len(betas)) == (0, 10, CURVE_POINTS)
    assert "cnn, uniform beta" not in sweep(context, estimators, found.task, place / "clean").curves


# --- The command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("restore {clean} --model {thin} --out {out} --beta 0", "--beta is for bundles"),
        ("restore {clean} --model {thin} --out {out} --map", "--map is for bundles"),
        ("restore {clean} --model {bundle} --out {out} --beta -1", "--beta -1.0: wanted"),
        ("restore {clean} --model {bundle} --out {out} --tile 9", "are its own"),
        ("restore {clean} --model {bundle} --out {out} --blend 3", "--blend 3: wanted 0 to 2"),
        (
            "restore {clean} --model {bundle} --out {out} --beta 1 --image-budget 1G",
            "wanted one of them",
        ),
        ("restore {clean} --model {bundle} --out {out} --image-budget x", "--image-budget 'x'"),
        (
            "restore {clean} --model {bundle} --out {out} --image-budget 9ms --price macs",
            "--image-budget in milliseconds: wanted --price ms",
        ),
        (
            "restore {clean} --model {bundle} --out {out} --image-budget 9G --price ms",
            "--image-budget in multiply-adds: wanted --price macs",
        ),
        (
            "restore {clean} --model {bundle} --out {out} --price s",
            "--price 's': wanted macs or ms",
        ),
        ("restore {clean} --model {thin} --out {out} --price ms", "--price is for bundles"),
        ("evaluate {thin} --data {clean} --sweep", "--sweep is for bundles"),
        ("evaluate {bundle} --data {clean} --sweep --beta 1", "--sweep tries all"),
        ("evaluate {bundle} --data {clean} --sigma 3", "--sigma 3: a bundle's task"),
        ("adapt {thin} {thin} --data {clean} --out {out}", "two of the checkpoints have one name"),
        ("adapt {thin} {nothing} --data {clean} --out {out}", "is not a checkpoint"),
        ("adapt {thin} --data {clean} --out {out} --tile 9", "--tile '9': wanted WIDTHxHEIGHT"),
        ("adapt {thin} --data {clean} --out {out} --estimator x", "--estimator 'x'"),
    ],
)
def test_misuse_is_one_sentence_and_writes_nothing(words: str, reason: str, tmp_path: Path) -> None:
    place = folder()
    known = {name: place / name for name in ("clean", "thin", "bundle", "nothing")}
    before = contents(place)
    ran = run(*words.format(**known, out=tmp_path / "out").split())
    assert ran.status == 2
    assert reason in ran.err
    assert len(ran.err.splitlines()) == 1
    assert contents(place) == before
    assert not (tmp_path / "out").exists()


def test_an_image_whose_budget_is_out_of_reach_is_listed(tmp_path: Path) -> None:
    place = folder()
    source = ("restore", place / "clean", "--model", place / "bundle", "--out", tmp_path)
    ran = run(*source, "--image-budget", "10", "--json")
    assert ran.status == 1
    assert ran.json["failed"] == 3
    assert "a budget of 10 multiply-adds: this image takes" in ran.err
    assert not list(tmp_path.glob("*.png"))


def test_a_budget_in_milliseconds_uses_measured_latencies(tmp_path: Path) -> None:
    """Once measured, times are remembered: the same call again has nothing to do."""
    place = folder()
    restore = ("restore", place / "clean", "--model", place / "bundle", "--out", tmp_path)
    ran = run(*restore, "--image-budget", "100000ms", "--json")
    assert ran.status == 0, ran.err
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines()
    for line in lines:
        routes = json.loads(line)["routes"]
        assert routes["price"] == "ms"
    assert (ran.json["kernels"] is None) == (ran.json["engine"] == "torch")
    again = run(*restore, "--image-budget", "100000ms", "--json").json
    assert again["skipped"] == len(lines)
    ran = run(*restore, "--image-budget", "0.000001ms", "--json")
    assert ran.status == 1
    assert "a budget of 1e-06 milliseconds: this image takes" in ran.err


@pytest.mark.slow
def test_the_command_line_adapts_restores_and_sweeps(tmp_path: Path) -> None:
    place = folder()
    (tmp_path / "tiny").mkdir()
    images(tmp_path / "tiny", count=1, height=24, width=2)  # less than the margin of a tile
    out = tmp_path / "bundle"
    ran = run(
        *("adapt", place / "thin", place / "wide", "--data", place / "clean", "--out", out),
        *("--tile", "16x16", "--margin", 2, "--steps", 1, "--json"),
    )
    assert ran.status == 0, ran.err
    assert [c["name"] for c in ran.json["candidates"]] == ["wide", "thin", "bicubic"]
    restore = ("restore", "--model", out, "--image-budget", "1G", "--map", "--blend", 1)
    for source in (place / "clean", tmp_path / "tiny"):
        ran = run(*restore, source, "--out", tmp_path / "out", "--json")
        assert ran.status == 0, ran.err
    assert (tmp_path / "out" / "image0.routes.png").is_file()
    ran = run("evaluate", out, "--data", place / "clean", "--beta", "0.3", "--json")
    assert ran.status == 0, ran.err
    assert sum(ran.json["routing"]["shares"]) == pytest.approx(1)
    ran = run("evaluate", out, "--data", place / "clean", "--sweep", "--rounds", 0, "--json")
    assert ran.status == 0, ran.err
    assert all(point["ms"] is None for point in ran.json["timed"])
    ran = run("evaluate", out, "--data", place / "clean", "--sweep", "--rounds", 1, "--json")
    assert ran.status == 0, ran.err
    assert {"sweep.json", "sweep.png", "calibration.png"} <= {
        path.name for path in (out / "sweep").iterdir()
    }
    for points in ran.json["curves"].values():
        costs = [point["gmacs"] for point in points]
        assert costs == sorted(costs, reverse=True)
        assert points[-1]["shares"] == [0, 0, 1]
    # a point of the sweep equals an evaluation at its beta
    timed = ran.json["timed"][0]
    one = run("evaluate", out, "--data", place / "clean", "--beta", timed["beta"], "--json").json
    assert one["psnr"] == pytest.approx(timed["psnr"], abs=1e-6)
    assert one["macs"] == pytest.approx(timed["gmacs"] * 1e9, rel=1e-6)
    ran = run(
        *("evaluate", out, "--data", place / "clean", "--sweep", "--rounds", 1), "--price", "ms"
    )
    assert ran.status == 0, ran.err
    assert json.loads((out / "sweep" / "sweep.json").read_text())["price"] == "ms"
