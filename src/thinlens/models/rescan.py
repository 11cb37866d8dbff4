"""RESCAN: deraining in recurrent stages with squeeze and excitation (Li et al., ECCV 2018).

ClassPruning's Table 1 prints the FLOPs of the network with 24 channels, `rescan-24`, beside the
parameters of the one with 48, `rescan-48`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.errors import UsageError
from thinlens.models.entry import ModelEntry, StateDict
from thinlens.models.layers import check_positive, conv
from thinlens.models.shape_options import ShapeOptions

_SLOPE = 0.2
"""Slope of every LeakyReLU."""

_SQUEEZED = 6
"""Hidden units of every squeeze and excitation. The authors' code has their ratio, 6, as width."""

_DECODER_DEPTH = 2
"""Convolutions of the decoder."""
_SMALLEST_DEPTH = 4
"""The first layer, one dilated layer and the decoder's two."""


@dataclass(frozen=True)
class Config:
    """Which RESCAN."""

    width: int = 24
    depth: int = 7
    """Layers: a first one, dilated ones (1, 2, 4, ...) and the decoder's two."""
    stages: int = 4
    """Predictions of the rain, each from the image without the rain predicted before."""

    def __post_init__(self) -> None:
        check_positive(width=self.width, stages=self.stages)
        if self.depth < _SMALLEST_DEPTH:
            raise UsageError(f"depth {self.depth}: wanted at least {_SMALLEST_DEPTH}")


class SqueezeExcitation(nn.Module):
    """Scale every channel by a factor in (0, 1) that depends on the means of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, _SQUEEZED)
        self.excite = nn.Linear(_SQUEEZED, width)

    def forward(self, x: Tensor) -> Tensor:
        factors = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * factors[..., None, None]


class RecurrentUnit(nn.Module):
    """A convolutional GRU whose state is the unit's own output of the stage before."""

    def __init__(self, c_in: int, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.conv_xz = conv(c_in, width, 3, dilation=dilation)
        self.conv_xr = conv(c_in, width, 3, dilation=dilation)
        self.conv_xn = conv(c_in, width, 3, dilation=dilation)
        self.conv_hz = conv(width, width, 3)
        self.conv_hr = conv(width, width, 3)
        self.conv_hn = conv(width, width, 3)
        self.attention = SqueezeExcitation(width)

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        if state is None:
            h = torch.sigmoid(self.conv_xz(x)) * torch.tanh(self.conv_xn(x))
        else:
            update = torch.sigmoid(self.conv_xz(x) + self.conv_hz(state))
            reset = torch.sigmoid(self.conv_xr(x) + self.conv_hr(state))
            new = torch.tanh(self.conv_xn(x) + self.conv_hn(reset * state))
            h = (1 - update) * state + update * new
        return F.leaky_relu(self.attention(h), _SLOPE)


class RESCAN(nn.Module):
    """Remove rain from an RGB image `[B, 3, H, W]` in [0, 1]; any H and W."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        dilated = config.depth - _DECODER_DEPTH - 1
        units = [RecurrentUnit(3, width, 1)]
        units += [RecurrentUnit(width, width, 2**power) for power in range(dilated)]
        self.units = nn.ModuleList(units)
        self.decoder = nn.Sequential(
            conv(width, width, 3),
            SqueezeExcitation(width),
            nn.LeakyReLU(_SLOPE),
            conv(width, 3, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        states: list[Tensor | None] = [None] * len(self.units)
        clean = image
        for _ in range(self.config.stages):
            x = clean
            for index, unit in enumerate(self.units):
                x = unit(x, states[index])
                states[index] = x
            clean = image - self.decoder(x)
        return clean


TINY = {"width": 8, "depth": 4, "stages": 2}

_SHAPES = ShapeOptions({"width": ("units.0.conv_xz.weight", 0)}, {"depth": r"units\.(\d+)\."})


def rescan_options(state: StateDict) -> dict[str, int] | None:
    """Return the options that a state dict shows; None if it is no RESCAN's."""
    options = _SHAPES(state)
    return options and {**options, "depth": options["depth"] + _DECODER_DEPTH}


NETWORKS = {
    "rescan-24": ModelEntry(RESCAN, Config(), "derain", tiny=TINY, detect=rescan_options),
    "rescan-48": ModelEntry(RESCAN, Config(width=48), "derain", tiny=TINY, detect=rescan_options),
}
