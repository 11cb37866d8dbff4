"""Any network is pruned from any data, and what cannot be is one sentence."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import thinlens
from thinlens import api
from thinlens.errors import UsageError
from thinlens.images.writing import write_png
from thinlens.models import MODELS, image_channels
from thinlens.models.output import keep_output, select_output
from thinlens.sparsity.products import find_products
from thinlens.sparsity.prunable import default_policy, find_layers
from thinlens.tasks import make_task
from thinlens.tasks.folders import open_pairs
from thinlens.training.data import as_batches, first_shape, inputs_only
from thinlens.training.loop import Trainer
from thinlens.training.objective import input_batch
from thinlens.training.settings import Settings

WIDTH = 12
"""Channels of the tiny networks: no multiple of 8, 16 or 32."""

QUICK = {"budget": "1/2", "pixels": 600, "positions": 300, "preset": "uniform"}
"""Options of least squares on tiny networks."""


class Tiny(nn.Module):
    """A network in the style of Real-ESRGAN's: activations in place, x2."""

    def __init__(self, channels: int = 3, width: int = WIDTH) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 4 * channels, 3, padding=1),
        )

    def forward(self, image: Tensor) -> Any:
        return F.pixel_shuffle(self.body(image), 2)


class Pyramid(Tiny):
    """A network that returns a list, a tuple or a dictionary of images."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, image: Tensor) -> Any:
        large = super().forward(image)
        images = [F.avg_pool2d(large, 2), large]
        return dict(zip("ab", images, strict=True)) if self.kind is dict else self.kind(images)


def inputs(count: int = 2, channels: int = 3, side: int = 16) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def weights(thin: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in thin.module.parameters()])


class Loader:
    """A loader that can be read again and again."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def test_inputs_in_every_form_give_the_same_network() -> None:
    network, images = Tiny(), inputs(1)
    one = images[0]
    forms: list[Any] = [
        *(images, one, [one], [images], [(one,)], [(one, None)], (one,), [[one]]),
        *(Loader([images]), Loader([(one,)]), DataLoader(TensorDataset(images))),
        [(one, network(images)[0].detach())],
    ]
    for data in forms:
        batches = as_batches(data, None, training=False)
        assert first_shape(batches, 0) == (1, *one.shape)
        assert inputs_only(batches) is (data is not forms[-1])
        assert torch.equal(input_batch(batches, 0, 0, 0), images)
    thins = [thinlens.prune(network, data=data, **QUICK) for data in (images, forms[-1])]
    torch.testing.assert_close(*map(weights, thins))
    assert [thin.record["data_holds"] for thin in thins] == ["inputs", "targets"]


def test_without_targets_training_learns_from_the_dense_network() -> None:
    network = Tiny()
    trainer = Trainer(Settings(steps=3, learning_rate=1e-3))
    images = [*inputs(2)]
    pairs = [(x, network(x[None])[0].detach()) for x in images]
    alone = thinlens.prune(network, data=images, trainer=trainer, **QUICK)
    paired = thinlens.prune(network, data=pairs, trainer=trainer, **QUICK)
    torch.testing.assert_close(weights(alone), weights(paired))
    assert alone.record["distill_weight"] == 1


def test_half_a_target_must_have_the_size_of_the_output() -> None:
    trainer = Trainer(Settings(steps=1))
    with pytest.raises(UsageError, match="targets shaped"):
        data = [(x, x) for x in inputs()]
        thinlens.prune(Tiny(), data=data, trainer=trainer, distill_weight=0.5, **QUICK)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_takes_images_in_its_own_numbers(dtype: torch.dtype) -> None:
    thin = thinlens.prune(Tiny().to(dtype), data=inputs(), **QUICK)
    assert thin.module.get_parameter("body.2.weight").dtype == dtype


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (inputs().mul(255).byte(), "uint8 values: wanted floats"),
        (inputs().numpy(), "NumPy array"),
        ([inputs()[0].numpy()], "NumPy array"),
        (np.zeros((16, 16, 3)), "NumPy array"),
        (inputs(side=1), "1x1 pixels"),
        (inputs() / 0, "NaN or infinity"),
        (inputs(channels=1), "cannot run on an input of shape \\(1, 1, 16, 16\\)"),
        (inputs()[0, 0], "wanted \\[C, h, w\\]"),
        ([{"lq": inputs()[0]}], "gives a dict"),
        ((inputs(), inputs()), "tuple of two tensors"),
        ([(inputs()[0], inputs()[0]), inputs()[0]], "1 of 2 inputs have no target"),
        ([(1, 2, 3)], "pairs of tensors"),
        (7, "data is a int"),
        (Loader([]), "empty loader"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_data_is_one_sentence(data: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        thinlens.prune(Tiny(), data=data, **QUICK)
    assert "\n" not in str(caught.value).partition("cannot run")[0]


@pytest.mark.parametrize("kind", [list, tuple, dict])
@pytest.mark.parametrize("output", [None, 0])
def test_one_of_several_outputs_is_kept(kind: type, output: int | None, tmp_path: Path) -> None:
    network = Pyramid(kind)
    key: Any = "a" if kind is dict and output == 0 else output
    before = network(inputs())
    for method, options in (("least-squares", QUICK), ("one-shot", {"budget": "1/2"})):
        thin = thinlens.prune(network, data=inputs(), method=method, output=key, **options)
        image = copy.deepcopy(thin.module)(inputs())
        assert image.shape[-1] == (32 if output is None else 16)
        assert list(thin.module.state_dict()) == list(network.state_dict())
    assert type(network(inputs())) is type(before)
    assert thinlens.cost(thin, (16, 16)).budget == 0.5
    write_png(tmp_path / "in" / "a.png", torch.zeros(3, 16, 16, dtype=torch.uint8))
    for engine in ("torch", "auto") if output is None else ("torch",):
        scale = 2 if output is None else 1
        task = make_task("sr", scale=2) if scale == 2 else make_task("denoise", channels=3)
        out = tmp_path / engine
        assert thinlens.restore(thin, tmp_path / "in", out, task=task, engine=engine).done == 1


def test_a_network_with_several_outputs_is_restored_with_its_last(tmp_path: Path) -> None:
    write_png(tmp_path / "in" / "a.png", torch.zeros(3, 16, 16, dtype=torch.uint8))
    task = make_task("sr", scale=2)
    network = Pyramid(list).eval()
    assert thinlens.restore(network, tmp_path / "in", tmp_path / "out", task=task).done == 1
    assert thinlens.evaluate(network, tmp_path / "in", task=task).images == 1
    assert thinlens.compile(network)(inputs()).shape[-1] == 32
    assert isinstance(network(inputs()), list)


class WritesInput(Tiny):
    """Scales its image where it stands, as RCAN does."""

    def forward(self, image: Tensor) -> Any:
        image *= 3
        return super().forward(image)


def test_a_network_that_writes_into_its_image_sees_it_unchanged(tmp_path: Path) -> None:
    network = WritesInput().eval()
    image = inputs()[:1]
    before = image.clone()
    thin = thinlens.prune(network, data=inputs(), **QUICK).module
    with torch.inference_mode():
        expected = thin(image)
        assert torch.equal(image, before) and torch.equal(thin(image), expected)
        for run in (api.runner(network, "torch"), thinlens.compile(network)):
            first = run(image)
            assert torch.equal(image, before)
            torch.testing.assert_close(first, network(image.clone()), rtol=1e-5, atol=1e-5)
    plain = Tiny().eval()  # the same network, written without the trap
    with torch.no_grad():
        plain.body[0].weight.mul_(3)
    same = thinlens.prune(plain, data=inputs(), **QUICK).module
    torch.testing.assert_close(thin(image), same(image), rtol=1e-4, atol=1e-4)


def test_an_output_that_is_missing_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="returns the tensors 0, 1"):
        thinlens.prune(Pyramid(list), data=inputs(), output=5, **QUICK)
    with pytest.raises(UsageError, match="output True"):
        keep_output(Tiny(), True)
    with pytest.raises(UsageError, match="returns a str"):
        select_output("image")
    assert select_output([[torch.ones(1)], {"x": torch.zeros(1)}]).item() == 0


class TwoInputs(Tiny):
    def forward(self, image: Tensor, sigma: Tensor) -> Tensor:
        return super().forward(image) * sigma


class Locked(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.body[0].lock = threading.Lock()


def test_networks_that_cannot_be_pruned_are_one_sentence() -> None:
    class Flat(Tiny):
        def forward(self, image: Tensor) -> Any:
            return super().forward(image).mean(3)

    for network, sentence in (
        (TwoInputs(), r"takes 2 inputs \(image, sigma\): wanted .* wrap it .* with sigma fixed"),
        (Locked(), "cannot be copied, because of its attribute 'body.0.lock'"),
        (Flat(), r"returns a tensor shaped \(1, 3, \d+\): wanted images"),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 3)), "prunes no layer"),
    ):
        with pytest.raises(UsageError, match=sentence):
            thinlens.prune(network, data=inputs(), **QUICK)


def test_a_network_that_keeps_its_last_output_is_pruned() -> None:
    class Recording(Tiny):
        def forward(self, image: Tensor) -> Any:
            self.last = super().forward(image)
            return self.last

    network = Recording()
    network(inputs())
    assert network.last.requires_grad
    assert thinlens.prune(network, data=inputs(), **QUICK).record["achieved"] == 0.5


@given(st.integers(1, 300), st.sampled_from([4, 8, 16, 32]))
@settings(max_examples=40)
def test_every_width_fits_groups(width: int, m: int) -> None:
    conv = nn.Conv2d(width, 2, 1)
    (layer,) = find_layers(conv, (1, width, 2, 2), m=m, policy="fit", keep_dense=[])
    if width < 4:
        assert layer.reason
        return
    assert layer.m is not None
    assert layer.m <= max(m, 4)
    divisors = [size for size in range(min(8, m), m + 1) if width % size == 0]
    if width <= m:
        assert layer.m == width
    elif divisors:
        assert layer.m == max(divisors)
    else:
        assert layer.m >= min(8, m)


@pytest.mark.parametrize("name", MODELS)
def test_networks_of_the_registry_keep_the_policy_of_the_papers(name: str) -> None:
    entry = MODELS[name]
    with torch.device("meta"):
        whole = entry.build(entry.config)
    odd = name in ("rfdn-aim", "rescan-24", "rescan-48")  # 50, 24 and 48 channels
    assert default_policy(whole) == ("fit" if odd else "skip")
    network = entry.build(entry.make_config(**entry.tiny))
    assert not find_products(network, (1, image_channels(network), 32, 32))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(WIDTH, WIDTH, 1),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=2),
        nn.ConvTranspose2d(WIDTH, WIDTH, 3, padding=1),
        nn.Conv2d(WIDTH, WIDTH, (1, 3), padding=(0, 1), padding_mode="reflect"),
    ],
    ids=["1x1", "grouped", "transposed", "asymmetric"],
)
def test_every_kind_of_convolution_is_pruned(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, WIDTH, 3), layer, nn.Conv2d(WIDTH, 3, 3))
    thin = thinlens.prune(network, data=inputs(), **QUICK)
    assert list(thin.patterns) == ["1"]
    assert thin.record["achieved"] == 0.5


class Transformer(nn.Module):
    """A window of pixels as tokens: attention by hand, by the function and by the module."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.qkv = nn.Linear(8, 24)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        tokens = x.flatten(2).mT
        if self.kind == "module":
            tokens = self.attention(tokens, tokens, tokens)[0]
        else:
            q, k, v = self.qkv(tokens).chunk(3, -1)
            if self.kind == "function":
                tokens = F.scaled_dot_product_attention(q, k, v)
            elif self.kind == "einsum":
                scores = torch.einsum("bqc,bkc->bqk", q, k).softmax(-1)
                tokens = torch.einsum("bqk,bkc->bqc", scores, v)
            else:
                tokens = (q @ k.mT).softmax(-1) @ v
        return self.last(tokens.mT.reshape(x.shape))


@pytest.mark.parametrize("kind", ["matmul", "einsum", "function", "module"])
def test_cost_counts_the_products_of_attention(kind: str) -> None:
    network, tokens = Transformer(kind).eval(), 64
    summary = thinlens.cost(network, (8, 8), convention="fmp")
    products = 2 * tokens * tokens * 8
    convolutions = 2 * 9 * 8 * 3 * tokens
    projections = tokens * 8 * (32 if kind == "module" else 24)
    assert summary.total.macs == convolutions + products + projections
    assert sum(x.macs for x in summary.products if x.attention) == products
    assert not any(entry["prunable"] for entry in summary.entries() if "attention" in entry["name"])


def test_the_share_that_can_be_pruned_is_stated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="thinlens")
    thin = thinlens.prune(Transformer("matmul"), data=inputs(), budget="1/2", method="one-shot")
    assert thin.record["prunable_share"] < 0.8
    (warning,) = [x for x in caplog.records if "can be pruned" in x.getMessage()]
    assert warning.levelname == "WARNING"
    assert "attention products" in warning.getMessage()
    assert set(thin.record["dense_macs"]) == {"attention products", "first and last convolution"}
    depthwise = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 5, groups=8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 3)
    )
    thin = thinlens.prune(depthwise, data=inputs(), budget="1/2", method="one-shot")
    assert any("depthwise" in reason for reason in thin.record["dense_macs"])


class LateFirst(nn.Module):
    """A network whose first registered convolution is a later one, as OmniSR's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.later = nn.Conv2d(8, 8, 3, padding=1)
        self.first = nn.Conv2d(channels, 8, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.later(self.first(image))


def test_channels_are_those_for_which_the_network_runs() -> None:
    for network, channels in (
        (LateFirst(3), 3),
        (LateFirst(1), 1),
        (LateFirst(4), 4),
        (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3)), 3),
        (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4, 8, 3)), 1),
    ):
        assert image_channels(network) == channels
        assert thinlens.cost(network, (32, 32)).total.macs > 0


def test_channels_can_be_stated() -> None:
    any_channels = nn.Sequential(nn.AdaptiveAvgPool3d((8, None, None)), nn.Conv2d(8, 8, 3))
    stated = thinlens.cost(any_channels, (8, 8), channels=5, convention="fmp")
    assert stated.total.macs == 8 * 8 * 9 * 36
    with pytest.raises(UsageError, match="channels 0"):
        thinlens.cost(any_channels, (8, 8), channels=0)
    with pytest.raises(UsageError, match="cannot run"):
        thinlens.prune(Tiny(), budget="1/2", method="one-shot", size=(8, 8), channels=2)


def photos(folder: Path, *sizes: tuple[int, int], name: str = "{}.png") -> Path:
    generator = torch.Generator().manual_seed(0)
    for index, size in enumerate(sizes):
        image = torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)
        write_png(folder / name.format(index), image)
    return folder


def test_a_folder_holds_inputs_of_a_foreign_network(tmp_path: Path) -> None:
    folder = photos(tmp_path, (40, 33), (34, 50), (20, 90))
    thin = thinlens.prune(Tiny(), data=folder, **QUICK)
    assert thin.record["data"] == f"inputs: crops of 32x32 of 2 of 3 images in {folder}"
    task = make_task("sr", scale=2)
    clean = photos(tmp_path / "clean", (200, 200))
    thin = thinlens.prune(Tiny(), data=clean, data_holds="targets", task=task, **QUICK)
    assert thin.record["data"].endswith("of 1 clean images")
    with pytest.raises(UsageError, match="data_holds 'both'"):
        thinlens.prune(Tiny(), data=folder, data_holds="both", **QUICK)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="for a folder"):
        thinlens.prune(Tiny(), data=inputs(), data_holds="inputs", **QUICK)


def test_a_folder_holds_targets_of_a_network_of_the_registry(tmp_path: Path) -> None:
    folder = photos(tmp_path, (100, 100))
    network = api.create("dncnn-17", depth=3, width=32)
    options = {**QUICK, "task": make_task("denoise")}
    thin = thinlens.prune(network, data=folder, **options)
    assert thin.record["data_holds"] == "targets"
    thin = thinlens.prune(network, data=folder, data_holds="inputs", **options)
    assert thin.record["data_holds"] == "inputs"


def test_a_pair_folder_gives_its_inputs(tmp_path: Path) -> None:
    photos(tmp_path / "LR", (80, 80))
    photos(tmp_path / "HR", (160, 160))
    thin = thinlens.prune(Tiny(), data=tmp_path, task=make_task("sr", scale=2), **QUICK)
    assert thin.record["data"].endswith(f"1 inputs of pairs in {tmp_path}")


def test_crops_have_a_size_that_the_network_takes(tmp_path: Path) -> None:
    class Windows(Tiny):
        def forward(self, image: Tensor) -> Any:
            if image.shape[-1] % 48:
                raise ValueError("wanted multiples of 48")
            return super().forward(image)

    thin = thinlens.prune(Windows(), data=photos(tmp_path / "a", (100, 100)), **QUICK)
    assert "crops of 96x96" in thin.record["data"]
    with pytest.raises(UsageError, match="multiples of 48"):
        thinlens.prune(Windows(), data=photos(tmp_path / "b", (40, 40)), **QUICK)
    with pytest.raises(UsageError, match="at most 4 pixels"):
        thinlens.prune(Tiny(), data=photos(tmp_path / "c", (4, 100)), **QUICK)


LAYOUTS = {
    "GTmod12 and LRbicx2": ("GTmod12/{}.png", "LRbicx2/{}.png"),
    "EDSR-PyTorch": ("HR/{}.png", "LR_bicubic/X2/{}x2.png"),
    "DIV2K": ("DIV2K_valid_HR/{}.png", "DIV2K_valid_LR_bicubic/X2/{}x2.png"),
    "SelfExSR": ("image_SRF_2/img_00{}_SRF_2_HR.png", "image_SRF_2/img_00{}_SRF_2_LR.png"),
    "SelfExSR, flat": ("img_00{}_SRF_2_HR.png", "img_00{}_SRF_2_LR.png"),
    "traiNNer": ("gt/{}.png", "lq/{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_super_resolution_are_pairs(layout: str, tmp_path: Path) -> None:
    targets, reduced = LAYOUTS[layout]
    photos(tmp_path, (32, 32), (36, 32), name=targets)
    photos(tmp_path, (16, 16), (18, 16), name=reduced)
    pairs = open_pairs(tmp_path, make_task("sr", scale=2))
    assert [pair.input for pair in pairs] == [tmp_path / reduced.format(x) for x in range(2)]
    assert [pair.target for pair in pairs] == [tmp_path / targets.format(x) for x in range(2)]


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        (("HR", "LR_bicubic/X4"), "holds LR_bicubic but no LR_bicubic/X2"),
        (("GTmod12", "LRbicx4"), "holds LRbicx4 but no LRbicx2"),
        (("HR", "LR_mystery"), "holds LR_mystery beside HR in no known layout"),
        (("clean", "low"), "holds low beside clean"),
    ],
)
def test_unknown_pairs_are_refused(folders: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    for folder in folders:
        photos(tmp_path / folder, (32, 32))
    with pytest.raises(UsageError, match=sentence):
        open_pairs(tmp_path, make_task("sr", scale=2))


def test_progress_is_called_from_python() -> None:
    calls: list[tuple[int, int]] = []
    trainer = Trainer(Settings(steps=2))
    thinlens.prune(
        *(Tiny(),),
        data=inputs(),
        trainer=trainer,
        progress=lambda done, total, values: calls.append((done, total)),
        **QUICK,
    )
    assert (2, 2) in calls


def test_photographs_are_inputs_of_networks_of_other_degradations(tmp_path: Path) -> None:
    network = api.create("srvgg", width=32, depth=1)
    thin = thinlens.prune(network, data=photos(tmp_path, (40, 40)), **QUICK)
    assert thin.record["data_holds"] == "inputs"
