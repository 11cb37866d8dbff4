"""The Python API: any network, which is never changed."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import thinlens
from cli_cases import TINY_M, images, sr_checkpoint
from thinlens import api
from thinlens.adaptive.bundle import Bundle
from thinlens.adaptive.options import RoutingOptions
from thinlens.tasks import make_task
from thinlens.training.data import as_batches
from thinlens.training.settings import Settings


class Stranger(nn.Module):
    """A network that thinlens has never seen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.first(image))
        changed: Tensor = self.last(torch.relu(self.body(x)))
        return image + changed


@pytest.fixture
def stranger() -> Stranger:
    torch.manual_seed(0)
    return Stranger()


def pairs(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    clean = [torch.rand(3, 24, 24, generator=generator) for _ in range(count)]
    return [(x + 0.1 * torch.randn(x.shape, generator=generator), x) for x in clean]


@pytest.mark.parametrize("method", ["one-shot", "least-squares"])
def test_any_network_is_pruned_and_never_changed(method: str, stranger: Stranger) -> None:
    before = copy.deepcopy(stranger.state_dict())
    options = {"pixels": 2000} if method == "least-squares" else {}
    thin = api.prune(stranger, budget="1/2", method=method, m=4, data=pairs(), **options)
    assert type(thin.module) is Stranger
    assert list(thin.patterns) == ["body"]
    weight = thin.module.get_parameter("body.weight")
    assert torch.equal(weight == 0, ~thin.patterns["body"].mask)
    assert thin.patterns["body"].kept * 2 == weight.numel()
    for name, value in stranger.state_dict().items():
        assert torch.equal(value, before[name])


def test_least_squares_is_nearer_to_the_dense_network(stranger: Stranger) -> None:
    data = pairs()
    image = torch.stack([x for x, _ in data])

    def error(method: str, **options: int) -> float:
        thin = api.prune(stranger, budget="1/4", method=method, m=4, data=data, **options)
        with torch.no_grad():
            return float((thin.module(image) - stranger(image)).square().mean())

    assert error("least-squares", pixels=2000) < error("one-shot")


def test_a_sequence_a_batch_and_a_loader_feed_the_same_pixels() -> None:
    listed = pairs(1)
    batched = [(x[None], y[None]) for x, y in listed]
    loader = torch.utils.data.DataLoader(listed, batch_size=1)
    fed = [
        as_batches(data, None, training=False).batch(0, 0, 5) for data in (listed, batched, loader)
    ]
    for image, target in fed:
        assert torch.equal(image, fed[0][0])
        assert torch.equal(target, fed[0][1])


def test_a_sequence_is_a_pure_function_of_the_step() -> None:
    data = as_batches(pairs(4), None, training=True)
    first = [data.batch(3, 1, step)[0] for step in range(4)]
    again = [data.batch(3, 1, step)[0] for step in (3, 2, 1, 0)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({float(image.sum()) for image in first}) == 4


def test_a_folder_calibrates(stranger: Stranger, tmp_path: Path) -> None:
    folder = images(tmp_path / "clean")
    thin = api.prune(
        stranger, budget=0.5, m=4, data=folder, task=make_task("denoise", channels=3), pixels=2000
    )
    assert thin.record["budget"] == "1/2"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"method": "magic"}, "method 'magic': wanted one-shot"),
        ({"colour": 3}, "no option 'colour'"),
        ({"budget": 2}, "above 0 and at most 1"),
        ({"data": None}, "images to calibrate"),
        ({"data": []}, "empty sequence"),
        ({"data": [1]}, "pairs of tensors"),
        ({"data": "some/folder"}, "is not a folder"),
        ({"data": "some/folder", "data_holds": "targets"}, "needs task="),
        ({"m": 32, "policy": "skip"}, "prunes no layer"),
    ],
)
def test_bad_input_is_one_sentence(
    changed: dict[str, object], sentence: str, stranger: Stranger
) -> None:
    options: dict[str, object] = {"budget": "1/2", "m": 4, "data": pairs(), **changed}
    with pytest.raises(thinlens.UsageError, match=sentence) as caught:
        api.prune(stranger, **options)  # type: ignore[arg-type]
    (note,) = caught.value.__notes__
    assert note.startswith("in thinlens.prune(Stranger, budget=")


def test_an_empty_loader_is_refused() -> None:
    class Empty:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter(())

    with pytest.raises(thinlens.UsageError, match="empty loader"):
        as_batches(Empty(), None, training=False).batch(0, 0, 0)


def test_save_load_cost_evaluate_restore(tmp_path: Path) -> None:
    dense = api.load(sr_checkpoint(tmp_path / "sr"))
    thin = api.prune(dense.module, budget="1/2", method="one-shot", m=TINY_M, size=(40, 44))
    task = make_task("sr", scale=2)
    api.save(tmp_path / "thin", thin, model="rfdn", task=task)
    loaded = api.load(tmp_path / "thin")
    assert loaded.provenance["budget"] == "1/2"
    assert api.cost(loaded, (40, 44)).budget == 0.5
    assert api.cost(thin, (40, 44)).total == api.cost(loaded, (40, 44)).total
    clean = images(tmp_path / "clean")
    evaluation = api.evaluate(loaded, clean)
    assert evaluation == api.evaluate(thin, clean, task=task)
    assert evaluation.images == 2
    assert api.restore(loaded, clean, tmp_path / "out").done == 2
    with pytest.raises(thinlens.UsageError, match="holds no task"):
        api.evaluate(thin, clean)


def test_a_module_without_convolutions_has_no_known_input() -> None:
    with pytest.raises(thinlens.UsageError, match="no convolution"):
        api.cost(nn.Linear(3, 3), (4, 4))


@pytest.mark.slow
def test_import_is_light_and_the_face_is_complete() -> None:
    code = """
import sys, thinlens
assert "torch" not in sys.modules
public = [name for name in dir(thinlens) if callable(getattr(thinlens, name))]
assert public == sorted(thinlens.__all__) and len(public) < 20, public
heavy = {"matplotlib", "lightning_fabric", "torchvision", "skimage", "scipy", "rich", "tyro"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_bundle_is_adapted_saved_loaded_evaluated_and_restored(tmp_path: Path) -> None:
    clean = images(tmp_path / "clean", count=3, height=48, width=56)
    sources = [sr_checkpoint(tmp_path / "small"), sr_checkpoint(tmp_path / "large", width=12)]
    bundle = api.adapt(sources, clean, tile=(16, 16), margin=2, steps=1)
    assert api.save(tmp_path / "bundle", bundle) > 0
    loaded = api.load(tmp_path / "bundle")
    assert isinstance(loaded, Bundle)
    cheap, best = (RoutingOptions(beta=beta) for beta in (1e6, 0.0))
    costs = [api.evaluate(loaded, clean, routing=x).routing["hd_macs"] for x in (cheap, best)]
    assert 0 < costs[0] <= costs[1]
    assert api.restore(loaded, clean, tmp_path / "out", route_maps=True).done == 3
    assert len(list((tmp_path / "out").glob("*.routes.png"))) == 3
    with pytest.raises(thinlens.UsageError, match="wanted a bundle"):
        api.restore(bundle.checkpoints["small"], clean, tmp_path / "maps", route_maps=True)
    with pytest.raises(thinlens.UsageError, match="adapt has no option 'colour'"):
        api.adapt(sources, clean, colour=3)
    with pytest.raises(thinlens.UsageError, match="two of the checkpoints have one name"):
        api.adapt([sources[0], sources[0]], clean)


def test_a_pruned_network_keeps_its_masks_in_training(stranger: Stranger) -> None:
    pruned = api.prune(stranger, budget="1/2", method="one-shot", m=4, data=pairs())
    before = pruned.module.get_parameter("body.weight").detach().clone()
    trained = api.train(pruned, pairs(), settings=Settings(steps=2, warmup=0))
    after = trained.get_parameter("body.weight")
    assert not torch.equal(before, after)
    assert torch.equal(before == 0, after == 0)
