"""RRDBNet: residual blocks of residual dense blocks, enlarged by nearest neighbours.

The generator of ESRGAN (Wang et al., ECCV workshops 2018) and Real-ESRGAN (Wang, Xie, Dong, Shan,
ICCV workshops 2021): `rrdb` is the one of RealESRGAN_x4plus, and with 6 blocks that of
RealESRGAN_x4plus_anime_6B. Names are those of Real-ESRGAN's weights; older ones are converted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.errors import UsageError
from thinlens.models.entry import ModelEntry, StateDict
from thinlens.models.layers import check_positive, check_scale, conv

_SLOPE = 0.2
"""Slope of every LeakyReLU."""

_RESIDUAL = 0.2
"""Factor of what a block adds to its input."""

_DENSE_CONVOLUTIONS = 5

_FACTORS = {2: (2,), 3: (3,), 4: (2, 2)}
"""Enlargements one after the other, by scale."""


@dataclass(frozen=True)
class Config:
    """Which RRDBNet."""

    scale: int = 4
    width: int = 64
    """Channels of the trunk."""
    growth: int = 32
    """Channels that each convolution of a dense block adds."""
    blocks: int = 23

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_positive(width=self.width, growth=self.growth, blocks=self.blocks)


class DenseBlock(nn.Module):
    """Five convolutions, each of which takes the input and all outputs before it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for index in range(_DENSE_CONVOLUTIONS):
            last = index == _DENSE_CONVOLUTIONS - 1
            layer = conv(width + index * growth, width if last else growth, 3)
            self.add_module(f"conv{index + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for index in range(1, _DENSE_CONVOLUTIONS):
            y = self.get_submodule(f"conv{index}")(torch.cat(outputs, dim=1))
            outputs.append(F.leaky_relu(y, _SLOPE))
        last: Tensor = self.get_submodule(f"conv{_DENSE_CONVOLUTIONS}")(torch.cat(outputs, dim=1))
        return last * _RESIDUAL + x


class ResidualInResidual(nn.Module):
    """Three dense blocks, added to the input."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(width, growth)
        self.rdb2 = DenseBlock(width, growth)
        self.rdb3 = DenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return y * _RESIDUAL + x


class RRDBNet(nn.Module):
    """Enlarge an RGB image `[B, 3, H, W]` in [0, 1] to `[B, 3, scale H, scale W]`, of any size."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv_first = conv(3, width, 3)
        blocks = [ResidualInResidual(width, config.growth) for _ in range(config.blocks)]
        self.body = nn.Sequential(*blocks)
        self.conv_body = conv(width, width, 3)
        for index in range(len(_FACTORS[config.scale])):
            self.add_module(f"conv_up{index + 1}", conv(width, width, 3))
        self.conv_hr = conv(width, width, 3)
        self.conv_last = conv(width, 3, 3)

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv_first(image)
        x = features + self.conv_body(self.body(features))
        for index, factor in enumerate(_FACTORS[self.config.scale]):
            large = F.interpolate(x, scale_factor=float(factor), mode="nearest")
            x = F.leaky_relu(self.get_submodule(f"conv_up{index + 1}")(large), _SLOPE)
        output: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(x), _SLOPE))
        return output


_RENAMED = (
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.", r"body.\1.rdb\2."),
    (r"trunk_conv\.", "conv_body."),
    (r"upconv(\d)\.", r"conv_up\1."),
    (r"HRconv\.", "conv_hr."),
    (r"model\.0\.", "conv_first."),
    (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
    (r"model\.1\.sub\.\d+\.(weight|bias)", r"conv_body.\1"),
)
"""Names of ESRGAN's weights and of their first release, as patterns, and Real-ESRGAN's."""

_FIRST_TAIL = 3
"""Where the first enlargement is in the numbered modules of the first release; they follow each
other at this distance, and two convolutions make the image."""


def convert_old_names(state: StateDict) -> StateDict:
    """Rename the tensors of an ESRGAN of any release to Real-ESRGAN's names."""
    converted = {}
    numbers = [int(x.group(1)) for name in state if (x := re.match(r"model\.(\d+)\.", name))]
    last = max(numbers, default=0)
    for old, tensor in state.items():
        name = old
        for pattern, new in _RENAMED:
            name = re.sub(f"^{pattern}", new, name)
        tail = re.fullmatch(r"model\.(\d+)\.(weight|bias)", name)
        if tail:
            name = f"{_tail(int(tail.group(1)), last)}.{tail.group(2)}"
        converted[name] = tensor
    return converted


def _tail(number: int, last: int) -> str:
    """Name a convolution after the trunk by its number in the first release, and the last one's."""
    if number == last:
        return "conv_last"
    return "conv_hr" if number == last - 2 else f"conv_up{number // _FIRST_TAIL}"


def rrdb_options(state: StateDict) -> dict[str, int] | None:
    """Return the config fields of a published state dict; None if it is no RRDBNet of RGB images.

    >>> network = RRDBNet(Config(scale=2, width=8, growth=4, blocks=1))
    >>> rrdb_options(network.state_dict())
    {'scale': 2, 'width': 8, 'growth': 4, 'blocks': 1}
    """
    state = convert_old_names(state)
    first, second = state.get("conv_first.weight"), state.get("body.0.rdb1.conv1.weight")
    if first is None or second is None:
        return None
    blocks = {name.split(".")[1] for name in state if name.startswith("body.")}
    scale = 4 if "conv_up2.weight" in state else 2
    options = {"scale": scale, "width": len(first), "growth": len(second), "blocks": len(blocks)}
    with torch.device("meta"):
        try:
            expected = RRDBNet(Config(**options)).state_dict()
        except UsageError:
            return None
    shapes = {name: tensor.shape for name, tensor in state.items()}
    fits = shapes == {name: tensor.shape for name, tensor in expected.items()}
    return options if fits else None


TINY = {"width": 8, "growth": 4, "blocks": 1}

NETWORKS = {
    "rrdb": ModelEntry(
        RRDBNet,
        Config(),
        "sr",
        tiny=TINY,
        widths=("width", "growth"),
        photographs_are_inputs=True,
        convert_state=convert_old_names,
        detect=rrdb_options,
    )
}
