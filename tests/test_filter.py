"""Does filter pruning give SLS's numbers, keep what it must, and survive on disk?"""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cli_cases import images, run, sr_checkpoint
from native_engine import built
from small_networks import RandomData, crossed
from thinlens import engine
from thinlens.api import load, prune, save
from thinlens.checkpoints.format import save as save_folder
from thinlens.errors import UsageError
from thinlens.methods import Pruned
from thinlens.methods.channels.filter import Filter, nearest_eighth, remove_channels
from thinlens.methods.channels.order import pruning_order
from thinlens.models import MODELS, create, image_channels
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.channels import trace_channels
from thinlens.sparsity.cost import cost
from thinlens.sparsity.prunable import find_layers
from thinlens.tasks import make_task
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

HD = (1, 3, 180, 320)


class Enlarged(RandomData):
    """Targets four times as large as their inputs, for networks that enlarge images."""

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        image, target = super().batch(seed, epoch, step)
        return image, target.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)


def pruned(model: nn.Module, budget: str, steps: int = 0, **options: object) -> Pruned:
    given = {"budget": Budget.parse(budget), "example": (1, 3, 16, 16), **options}
    preset = given.pop("preset", None)
    settings = Settings(steps=steps, optimizer="adam", learning_rate=1e-2, warmup=0)
    data = Enlarged() if hasattr(model, "config") else RandomData()
    return Filter.preset(preset, **given).run(model, data, Trainer(settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budget", "width", "params", "gmacs"),
    [("1/4", 32, 380_931, 29.11), ("1/8", 24, 214_851, 16.56), ("1/16", 16, 96_003, 7.52)],
)
def test_edsr_has_the_papers_numbers(budget: str, width: int, params: int, gmacs: float) -> None:
    """SLS, Table 1, and the network that was made narrow from the start."""
    result = pruned(create("edsr"), budget, preset="paper", example=HD)
    total = cost(result.module, HD, find_layers(result.module, HD), {})
    assert (total.params, round(total.macs / 1e9, 2)) == (params, gmacs)
    narrow = create("edsr", width=width).state_dict()
    assert {k: v.shape for k, v in result.module.state_dict().items()} == {
        k: v.shape for k, v in narrow.items()
    }


def test_eighths() -> None:
    kept = [Fraction(1, 2), Fraction(1, 4), Fraction(1, 8), Fraction(1, 16), Fraction(1, 900)]
    assert [8 * nearest_eighth(part) for part in kept] == [6, 4, 3, 2, 1]


def test_the_largest_filters_stay_as_they_were() -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 3, 3)).eval()
    thin = pruned(network, "1/2", metric="params").module
    first, last = network[0], network[2]
    order = first.weight.detach().abs().sum((1, 2, 3)).argsort(descending=True)
    kept = order[: thin[0].out_channels].sort().values  # type: ignore[index]
    assert torch.equal(thin[0].weight, first.weight[kept])  # type: ignore[index]
    assert torch.equal(thin[2].weight, last.weight[:, kept])  # type: ignore[index]
    assert kept.numel() == 5  # 3 + 55 c parameters, dense 663: 5 channels are 278, 6 are 333


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_the_budget_is_the_whole_networks_and_one_more_channel_is_too_much(metric: str) -> None:
    model = create("rfdn", width=16, attention_width=8, blocks=1)
    result = pruned(model, "0.4", metric=metric)
    totals = [
        cost(m, (1, 3, 16, 16), find_layers(m, (1, 3, 16, 16)), {}) for m in (model, result.module)
    ]
    dense, thin = (getattr(total, metric) for total in totals)
    assert result.record["budget_base"] == metric
    assert result.record["achieved"] == thin / dense <= 0.4
    assert thin / dense > 0.36


def test_naive_loses_pixels_and_safe_does_not() -> None:
    model = create("rfdn", width=16, attention_width=8, blocks=1)
    image = torch.rand(1, 3, 20, 20)
    for steps in (0, 2):
        naive = pruned(model, "1/4", steps, preset="paper")
        safe = pruned(model, "1/4", steps)
        with torch.no_grad():
            black = [(x.module(image) == 0).float().mean() for x in (naive, safe)]
        assert black == [0.5, 0.0]
        assert safe.patterns == {}
        mask = naive.patterns["upsampler.0"].mask
        assert mask.flatten(1).all(1).sum() == 24 == (~mask).flatten(1).all(1).sum()


def test_every_layer_keeps_four_channels() -> None:
    model = create("edsr", width=16, blocks=2)
    with pytest.raises(UsageError, match=r"the lowest reachable is (\d+\.\d+)%") as caught:
        pruned(model, "1/1000")
    lowest = float(str(caught.value).split("reachable is ")[1].split("%")[0])
    thin = pruned(model, f"{lowest + 0.01}%").module
    convolutions = [x for x in thin.modules() if isinstance(x, nn.Conv2d)]
    assert {x.out_channels for x in convolutions} == {3, 4, 16}
    assert {x.in_channels for x in convolutions} == {3, 4}


class Stubborn(nn.Module):
    """Its code names its number of channels, or computes with it."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.act = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 3, 3), act

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.act(self.first(x)))
        return out


@pytest.mark.parametrize(
    ("act", "fragment"),
    [
        (lambda x: x.view(x.shape[0], 12, *x.shape[2:]), "does not bear fewer channels"),
        (lambda x: x / x.shape[1], "uses its number of channels"),
        (lambda x: torch.softmax(x, 1), "no channel to remove .*softmax"),
    ],
)
def test_what_cannot_be_pruned_is_one_sentence(
    act: Callable[[Tensor], Tensor], fragment: str
) -> None:
    with pytest.raises(UsageError, match=fragment) as caught:
        pruned(Stubborn(act), "1/2")
    assert "\n" not in str(caught.value)


def test_fine_tuning_trains_the_smaller_network() -> None:
    plain, tuned = (pruned(crossed(), "1/2", steps, min_channels=2) for steps in (0, 3))
    one, other = plain.module.state_dict(), tuned.module.state_dict()
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}
    assert not torch.equal(one["body.weight"], other["body.weight"])


@pytest.mark.parametrize("preset", ["paper", "plus"])
def test_a_smaller_network_survives_on_disk(preset: str, tmp_path: Path) -> None:
    model = create("rfdn", scale=2, width=16, attention_width=8, blocks=1)
    result = pruned(model, "1/4", preset=preset)
    task = make_task("sr", scale=2)
    save(tmp_path / "thin", result, model="rfdn", task=task)
    found = load(tmp_path / "thin")
    image = torch.rand(1, 3, 20, 20)
    with torch.no_grad():
        assert torch.equal(found.module(image), result.module.eval()(image))
    assert found.resized
    assert found.patterns.keys() == result.patterns.keys()
    save(tmp_path / "again", found, model="rfdn", task=task)
    one, other = (tmp_path / name / "model.safetensors" for name in ("thin", "again"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", MODELS)
def test_every_network_loses_channels_and_comes_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create(name, **{**MODELS[name].tiny, "width": 8})
    example = (1, image_channels(model), 32, 32)
    channels = trace_channels(model, example)
    order = pruning_order(model, channels, min_channels=2)
    thin = remove_channels(
        model, channels, [channel.channel_id for channel in order[: len(order) // 2]]
    )
    save_folder(tmp_path, thin, model=name, task={})
    found = load(tmp_path)
    assert found.resized
    image = torch.rand(example)
    with torch.no_grad():
        assert torch.equal(found.module(image), thin.eval()(image))


@built
@pytest.mark.parametrize("name", ["edsr", "carn", "rfdn", "dncnn-17"])
def test_the_native_engine_runs_uneven_widths(name: str) -> None:
    torch.manual_seed(0)
    model = create(name, **{**MODELS[name].tiny, "width": 12})
    example = (1, image_channels(model), 16, 16)
    channels = trace_channels(model, example)
    dead = [channel.channel_id for channel in pruning_order(model, channels, min_channels=1)][::2]
    thin, image = remove_channels(model, channels, dead).eval(), torch.rand(example)
    with torch.inference_mode():
        torch.testing.assert_close(engine.compile(thin)(image), thin(image), rtol=1e-5, atol=1e-5)


def test_milliseconds_are_for_methods_that_know_layers() -> None:
    with pytest.raises(UsageError, match="filter takes a part, such as 1/8, and no time"):
        prune(crossed(), budget="5ms", method="filter", size=(16, 16))


def change(folder: Path, act: Callable[[dict[str, object]], None]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    act(content)
    path.write_text(json.dumps(content))


def body(content: dict[str, object], shape: list[int]) -> None:
    tensors = content["tensors"]
    assert isinstance(tensors, list)
    for entry in tensors:
        if entry["name"] == "LR_conv.weight":
            entry["shape"] = shape


@pytest.mark.parametrize(
    ("act", "fragment"),
    [
        (lambda c: c.update(narrowed=False), "is shaped"),
        (lambda c: c.pop("narrowed"), "is shaped"),
        (lambda c: c.update(narrowed=1), "not true or false"),
        (lambda c: body(c, [17, 8, 3, 3]), "wanted at most"),
        (lambda c: body(c, [8, 8, 3]), "wanted at most"),
        (lambda c: body(c, [0, 8, 3, 3]), "wanted at most"),
        (lambda c: body(c, [5, 7, 3, 3]), "cannot run"),
        (lambda c: c["config"].update(width=4096), "256 times as large"),
    ],
)
def test_widths_that_cannot_be_are_refused(
    act: Callable[[dict[str, object]], None], fragment: str, tmp_path: Path
) -> None:
    model = create("rfdn", scale=2, width=16, attention_width=8, blocks=1)
    save(tmp_path, pruned(model, "1/4"), model="rfdn", task=make_task("sr", scale=2))
    change(tmp_path, act)
    with pytest.raises(UsageError, match=fragment):
        load(tmp_path)


def test_the_whole_line_from_the_command_line(tmp_path: Path) -> None:
    dense, thin, clean = (tmp_path / name for name in ("dense", "thin", "clean"))
    sr_checkpoint(dense, width=16, attention_width=8)
    images(clean, count=1, height=64, width=64)
    line = ("--method", "filter", "--budget", "1/2", "--metric", "params", "--out", thin)
    ran = run("prune", dense, *line, "--json")
    assert ran.status == 0, ran.err
    assert ran.json["budget_base"] == "params"
    assert 0.4 < ran.json["achieved"] <= 0.5
    info = run("info", thin, "--json").json
    assert info["budget_base"] == "params"
    assert info["budget"] == pytest.approx(ran.json["achieved"])
    assert info["params"] == ran.json["params"] < run("info", dense, "--json").json["params"]
    assert run("evaluate", thin, "--data", clean, "--json").json["images"] == 1
    assert run("restore", clean, "--model", thin, "--out", tmp_path / "out", "--json").status == 0
