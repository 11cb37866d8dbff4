"""Networks equal a literal implementation of their papers, with published weights too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from small_networks import RandomData
from thinlens.models import MODELS, create, rrdb
from thinlens.training.loop import Settings, Trainer
from thinlens.training.objective import PlainObjective


def tiny(name: str, **options: int) -> nn.Module:
    torch.manual_seed(0)
    return create(name, **{**MODELS[name].tiny, **options})


# Each network once more, literally from its description and a state dict.


def conv(state: dict[str, Tensor], name: str, x: Tensor, **how: int) -> Tensor:
    weight = state[f"{name}.weight"]
    how = how or {"padding": weight.shape[-1] // 2}
    return F.conv2d(x, weight, state.get(f"{name}.bias"), **how)


def literal_edsr(state: dict[str, Tensor], image: Tensor, scale: int) -> Tensor:
    mean = torch.tensor([0.4488, 0.4371, 0.4040], dtype=image.dtype).view(1, 3, 1, 1) * 255
    x = head = conv(state, "head.0", image * 255 - mean)
    blocks = MODELS["edsr"].tiny["blocks"]
    for block in range(blocks):
        inner = F.relu(conv(state, f"body.{block}.body.0", x))
        x = x + conv(state, f"body.{block}.body.2", inner)
    x = conv(state, f"body.{blocks}", x) + head
    for step in range(2 if scale == 4 else 1):
        x = F.pixel_shuffle(conv(state, f"tail.0.{2 * step}", x), 3 if scale == 3 else 2)
    return (conv(state, "tail.1", x) + mean) / 255


def literal_carn(state: dict[str, Tensor], image: Tensor, scale: int) -> Tensor:
    def unit(name: str, x: Tensor) -> Tensor:
        inner = F.relu(conv(state, f"{name}.body.0", x))
        return F.relu(conv(state, f"{name}.body.2", inner) + x)

    def cascade(name: str, x: Tensor, deeper: bool) -> Tensor:
        seen = [x]
        for i in range(3):
            below = f"{name}.units.{i}"
            seen.append(cascade(below, x, deeper=False) if deeper else unit(below, x))
            x = F.relu(conv(state, f"{name}.fusions.{i}.0", torch.cat(seen, 1)))
        return x

    mean = torch.tensor([0.4488, 0.4371, 0.4040], dtype=image.dtype).view(1, 3, 1, 1) * 255
    x = cascade("body", conv(state, "entry", image * 255 - mean), deeper=True)
    for step in range(2 if scale == 4 else 1):
        large = conv(state, f"upsampler.{3 * step}", x)
        x = F.relu(F.pixel_shuffle(large, 3 if scale == 3 else 2))
    return (conv(state, "exit", x) + mean) / 255


def literal_rfdn(state: dict[str, Tensor], image: Tensor, scale: int, times: float) -> Tensor:
    def act(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.05 * x)

    def attention(name: str, x: Tensor) -> Tensor:
        a = conv(state, f"{name}.conv1", x)
        b = F.max_pool2d(conv(state, f"{name}.conv2", a, stride=2), 7, 3)
        b = F.relu(conv(state, f"{name}.conv3", F.relu(conv(state, f"{name}.conv_max", b))))
        b = conv(state, f"{name}.conv3_", b)
        b = F.interpolate(b, x.shape[2:], mode="bilinear", align_corners=False)
        b = b + conv(state, f"{name}.conv_f", a)
        return x * conv(state, f"{name}.conv4", b).sigmoid()

    def block(name: str, x: Tensor) -> Tensor:
        distilled = []
        for i in (1, 2, 3):
            distilled.append(act(conv(state, f"{name}.c{i}_d", x)))
            x = act(conv(state, f"{name}.c{i}_r", x) + x)
        distilled.append(act(conv(state, f"{name}.c4", x)))
        return attention(f"{name}.esa", conv(state, f"{name}.c5", torch.cat(distilled, 1)))

    x = features = conv(state, "fea_conv", image * times)
    outputs = []
    for name in ("B1", "B2"):
        x = block(name, x)
        outputs.append(x)
    x = conv(state, "LR_conv", act(conv(state, "c.0", torch.cat(outputs, 1)))) + features
    return F.pixel_shuffle(conv(state, "upsampler.0", x), scale) / times


def literal_esrb(state: dict[str, Tensor], image: Tensor, scale: int) -> Tensor:
    def act(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.05 * x)

    def attention(name: str, x: Tensor) -> Tensor:
        a = conv(state, f"{name}.conv1", x)
        b = F.max_pool2d(conv(state, f"{name}.conv2", a, stride=2), 7, 3)
        b = conv(state, f"{name}.conv3", b)
        b = F.interpolate(b, x.shape[2:], mode="bilinear", align_corners=False)
        b = b + conv(state, f"{name}.conv_f", a)
        return x * conv(state, f"{name}.conv4", b).sigmoid()

    x = features = conv(state, "head", image)
    for name in ("body.0", "body.1"):
        y = act(conv(state, f"{name}.conv2", act(conv(state, f"{name}.conv1", x)))) + x
        x = attention(f"{name}.esa", conv(state, f"{name}.conv3", y))
    x = conv(state, "body.2", x) + features
    return F.pixel_shuffle(conv(state, "tail.0", x), scale)


def padded(image: Tensor, side: int) -> Tensor:
    height, width = image.shape[2:]
    rows = torch.arange(-(-height // side) * side).clamp(max=height - 1)
    columns = torch.arange(-(-width // side) * side).clamp(max=width - 1)
    return image[:, :, rows][:, :, :, columns] * 255 - 127.5


def residual(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x + conv(state, f"{name}.body.2", F.relu(conv(state, f"{name}.body.0", x)))


def shuffled(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.pixel_shuffle(conv(state, f"{name}.0", x), 2)


def literal_unet(state: dict[str, Tensor], image: Tensor) -> Tensor:
    x = padded(image, 4)
    full = conv(state, "head", x)
    half = conv(state, "down1", full, stride=2, padding=1)
    y = conv(state, "down2", half, stride=2, padding=1)
    for block in (0, 1):
        y = residual(state, f"body.{block}", y)
    y = shuffled(state, "up1", shuffled(state, "up2", y) + half) + full
    return (conv(state, "tail", y) + x + 127.5) / 255


def literal_srn(state: dict[str, Tensor], image: Tensor) -> Tensor:
    x = padded(image, 16)
    y = None
    for factor in (0.25, 0.5, 1.0):
        how = {"mode": "bilinear", "align_corners": False}
        small = F.interpolate(x, scale_factor=factor, **how)
        before = small if y is None else F.interpolate(y, scale_factor=2, **how)
        e1 = F.relu(conv(state, "encoder1.0", torch.cat([small, before], 1)))
        e1 = residual(state, "encoder1.2", e1)
        e2 = F.relu(conv(state, "encoder2.0", e1, stride=2, padding=2))
        e2 = residual(state, "encoder2.2", e2)
        e3 = F.relu(conv(state, "encoder3.0", e2, stride=2, padding=2))
        d3 = residual(state, "decoder3.0", residual(state, "encoder3.2", e3))
        d2 = F.relu(shuffled(state, "decoder3.1", d3)) + e2
        d1 = F.relu(shuffled(state, "decoder2.1", residual(state, "decoder2.0", d2))) + e1
        y = conv(state, "decoder1.1", residual(state, "decoder1.0", d1))
    return (y + 127.5) / 255


def literal_dmphn(state: dict[str, Tensor], image: Tensor) -> Tensor:
    def encoder(level: int, y: Tensor) -> Tensor:
        name = f"encoders.{level}"
        y = residual(state, f"{name}.1", conv(state, f"{name}.0", y))
        y = residual(state, f"{name}.3", conv(state, f"{name}.2", y, stride=2, padding=1))
        return residual(state, f"{name}.5", conv(state, f"{name}.4", y, stride=2, padding=1))

    def decoder(level: int, y: Tensor) -> Tensor:
        name = f"decoders.{level}"
        y = shuffled(state, f"{name}.1", residual(state, f"{name}.0", y))
        y = shuffled(state, f"{name}.3", residual(state, f"{name}.2", y))
        return conv(state, f"{name}.5", residual(state, f"{name}.4", y))

    x = padded(image, 4)
    f2 = encoder(1, x)
    f1 = encoder(0, x + decoder(1, f2)) + f2
    return (decoder(0, f1) + 127.5) / 255


class Counted(nn.Module):
    """A parametrization that counts how often it is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.times += 1
        return weight * 1


def test_weights_shared_over_three_scales_are_masked_once_a_step() -> None:
    model = tiny("srn")
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    masks = [Counted() for _ in layers]
    for layer, mask in zip(layers, masks, strict=True):
        parametrize.register_parametrization(layer, "weight", mask)
        mask.times = 0
    Trainer(Settings(steps=1, save_every=2)).fit(PlainObjective(model), RandomData())
    assert {mask.times for mask in masks} == {1}


DEBLURRERS = {"unet": literal_unet, "srn": literal_srn, "dmphn": literal_dmphn}


@pytest.mark.parametrize("name", DEBLURRERS)
@pytest.mark.parametrize("size", [(32, 16), (19, 21)])
def test_deblurring_is_wired_as_described(name: str, size: tuple[int, int]) -> None:
    model = tiny(name).double()
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    expected = DEBLURRERS[name](model.state_dict(), image)[..., : size[0], : size[1]]
    torch.testing.assert_close(model(image), expected, rtol=0, atol=1e-9)


def literal_dncnn(state: dict[str, Tensor], image: Tensor) -> Tensor:
    """SaoYan's layout, prefix taken off: [conv, relu], n x [conv, norm, relu], conv."""
    x = F.relu(conv(state, "0", image))
    index = 2
    while f"{index + 1}.running_var" in state:
        gamma, beta, mean, variance = (
            state[f"{index + 1}.{part}"].view(1, -1, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        x = F.relu((conv(state, str(index), x) - mean) / (variance + 1e-5).sqrt() * gamma + beta)
        index += 3
    return image - conv(state, str(index), x)


def literal_srvgg(state: dict[str, Tensor], image: Tensor, scale: int) -> Tensor:
    x = image
    for index in range(MODELS["srvgg"].tiny["depth"] + 1):
        x = conv(state, f"body.{2 * index}", x)
        slopes = state[f"body.{2 * index + 1}.weight"].view(1, -1, 1, 1)
        x = torch.where(x > 0, x, slopes * x)
    x = conv(state, f"body.{2 * MODELS['srvgg'].tiny['depth'] + 2}", x)
    return F.pixel_shuffle(x, scale) + nearest(image, scale)


def nearest(x: Tensor, scale: int) -> Tensor:
    return x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def literal_rrdb(state: dict[str, Tensor], image: Tensor, scale: int) -> Tensor:
    def act(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def dense(name: str, x: Tensor) -> Tensor:
        c1 = act(conv(state, f"{name}.conv1", x))
        c2 = act(conv(state, f"{name}.conv2", torch.cat([x, c1], 1)))
        c3 = act(conv(state, f"{name}.conv3", torch.cat([x, c1, c2], 1)))
        c4 = act(conv(state, f"{name}.conv4", torch.cat([x, c1, c2, c3], 1)))
        return x + 0.2 * conv(state, f"{name}.conv5", torch.cat([x, c1, c2, c3, c4], 1))

    x = first = conv(state, "conv_first", image)
    for block in range(MODELS["rrdb"].tiny["blocks"]):
        inner = x
        for index in (1, 2, 3):
            inner = dense(f"body.{block}.rdb{index}", inner)
        x = x + 0.2 * inner
    x = first + conv(state, "conv_body", x)
    for index, factor in enumerate((2, 2) if scale == 4 else (scale,), 1):
        x = act(conv(state, f"conv_up{index}", nearest(x, factor)))
    return conv(state, "conv_last", act(conv(state, "conv_hr", x)))


def test_weights_of_all_releases_of_esrgan_mean_the_same() -> None:
    state = tiny("rrdb").state_dict()
    renamed = {
        "esrgan": [
            (r"body\.(\d+)\.rdb(\d)", r"RRDB_trunk.\1.RDB\2"),
            ("conv_body", "trunk_conv"),
            (r"conv_up(\d)", r"upconv\1"),
            ("conv_hr", "HRconv"),
        ],
        "first": [
            (r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0"),
            ("conv_body", "model.1.sub.1"),
            ("conv_first", "model.0"),
            ("conv_up1", "model.3"),
            ("conv_up2", "model.6"),
            ("conv_hr", "model.8"),
            ("conv_last", "model.10"),
        ],
    }
    for patterns in renamed.values():
        old = {}
        for name, tensor in state.items():
            new = name
            for pattern, replacement in patterns:
                new = re.sub(f"^{pattern}\\b", replacement, new)
            assert new != name or name.startswith("conv_")
            old[new] = tensor
        converted = MODELS["rrdb"].convert_state(old)
        assert converted.keys() == state.keys()
        assert all(converted[name] is state[name] for name in state)
        assert rrdb.rrdb_options(old) == {"scale": 4, **MODELS["rrdb"].tiny}


LITERAL = ["edsr", "carn", "rfdn", "rfdn-aim", "esrb-6-256", "srvgg", "rrdb"]


@pytest.mark.parametrize("name", LITERAL)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_super_resolution_is_wired_as_described(name: str, scale: int) -> None:
    model = tiny(name, scale=scale).double()
    state = model.state_dict()
    image = torch.rand(1, 3, 16, 19, dtype=torch.float64)
    if name == "edsr":
        expected = literal_edsr(state, image, scale)
    elif name == "carn":
        expected = literal_carn(state, image, scale)
    elif name == "esrb-6-256":
        expected = literal_esrb(state, image, scale)
    elif name in ("srvgg", "rrdb"):
        expected = {"srvgg": literal_srvgg, "rrdb": literal_rrdb}[name](state, image, scale)
    else:
        expected = literal_rfdn(state, image, scale, 255.0 if name == "rfdn-aim" else 1.0)
    # the mean of the colours is stored as float32
    torch.testing.assert_close(model(image), expected, rtol=0, atol=1e-6)


def published(depth: int, channels: int = 1) -> dict[str, Tensor]:
    """Make random weights in the layout of SaoYan's files."""
    state = {"module.dncnn.0.weight": torch.randn(8, channels, 3, 3) / 3}
    for index in range(2, 2 + 3 * (depth - 2), 3):
        state[f"module.dncnn.{index}.weight"] = torch.randn(8, 8, 3, 3) / 9
        for part in ("weight", "bias", "running_mean"):
            state[f"module.dncnn.{index + 1}.{part}"] = torch.randn(8)
        state[f"module.dncnn.{index + 1}.running_var"] = torch.rand(8) + 0.01
    state[f"module.dncnn.{3 * depth - 4}.weight"] = torch.randn(channels, 8, 3, 3) / 9
    return state


@pytest.mark.parametrize(
    ("name", "channels"), [("dncnn-17", 1), ("dncnn-20", 1), ("dncnn-20-rgb", 3)]
)
def test_published_denoisers_mean_the_same_in_ours(name: str, channels: int) -> None:
    model = tiny(name, depth=5).eval()
    torch.manual_seed(2)
    state = published(5, channels)
    model.load_state_dict(MODELS[name].convert_state(state))
    image = torch.rand(1, channels, 12, 13)
    plain = {key.removeprefix("module.dncnn."): t.double() for key, t in state.items()}
    expected = literal_dncnn(plain, image.double())
    torch.testing.assert_close(model(image).double(), expected, rtol=1e-5, atol=1e-5)
    assert set(state) == set(published(5, channels))  # the argument is not changed


def test_foreign_weights_are_handed_to_the_loader_unchanged() -> None:
    for foreign in ({"features.0.weight": torch.ones(2, 2, 3, 3)}, {"x": torch.ones(())}, {}):
        for entry in MODELS.values():
            assert foreign.keys() <= entry.convert_state(foreign).keys()
            with pytest.raises(RuntimeError, match="Missing key"):
                entry.build(entry.make_config(**entry.tiny)).load_state_dict(
                    entry.convert_state(foreign)
                )


def test_edsr_drops_published_colour_shifts() -> None:
    state = tiny("edsr").state_dict()
    shifts = {f"{name}.weight": torch.eye(3)[..., None, None] for name in ("sub_mean", "add_mean")}
    assert MODELS["edsr"].convert_state({**state, **shifts}).keys() == state.keys()


@pytest.mark.needs_data
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("dncnn-17", "DnCNN_SaoYan/DnCNN-S-15.pth"),
        ("dncnn-17", "DnCNN_SaoYan/DnCNN-S-25.pth"),
        ("dncnn-17", "DnCNN_SaoYan/DnCNN-S-50.pth"),
        ("dncnn-20", "DnCNN_SaoYan/DnCNN-B.pth"),
    ],
)
def test_saoyans_weights_denoise_as_in_their_own_layout(data: Path, name: str, file: str) -> None:
    state = torch.load(data / "weights" / file, weights_only=True, map_location="cpu")
    model = create(name).eval()
    model.load_state_dict(MODELS[name].convert_state(state))
    image = torch.rand(1, 1, 24, 20)
    plain = {key.removeprefix("module.dncnn."): t.double() for key, t in state.items()}
    with torch.no_grad():
        expected = literal_dncnn(plain, image.double())
        torch.testing.assert_close(model(image).double(), expected, rtol=0, atol=2e-5)


@pytest.mark.needs_data
@pytest.mark.parametrize(
    ("name", "file", "params"),
    [
        ("dncnn-17", "DnCNN_KAIR/dncnn_25.pth", 555_137),
        ("rfdn-aim", "RFDN_AIM/RFDN_AIM.pth", 433_448),
        ("srvgg", "RealESRGAN/realesr-animevideov3.pth", 621_424),
        ("rrdb", "RealESRGAN/realesrgan-x4plus-anime.pth", 4_467_779),
    ],
)
def test_published_weights_load_directly(data: Path, name: str, file: str, params: int) -> None:
    state = torch.load(data / "weights" / file, weights_only=True, map_location="cpu")
    state = state.get("params_ema", state)
    model = create(name, **({"blocks": 6} if name == "rrdb" else {}))
    model.load_state_dict(MODELS[name].convert_state(state))
    assert sum(p.numel() for p in model.parameters()) == params
    assert all(torch.equal(t, state[key]) for key, t in model.state_dict().items())
