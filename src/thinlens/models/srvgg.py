"""SRVGGNetCompact: a plain chain of convolutions, one pixel shuffle, and the enlarged image added.

The small networks of Real-ESRGAN (Wang, Xie, Dong, Shan, ICCV workshops 2021): `srvgg` is the one
of realesr-animevideov3 and realesr-general-x4v3 (depth 32), whose published weights load into it.
All work is at the size of the input; each activation is a leaky ReLU with a slope per channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.errors import UsageError
from thinlens.models.entry import ModelEntry
from thinlens.models.layers import check_positive, check_scale, conv

_SLOPE = 0.25
"""Initial slope of every activation."""

_PARTS = 2
"""Modules of a step of the chain: a convolution and its activation."""


@dataclass(frozen=True)
class Config:
    """Which SRVGGNetCompact."""

    scale: int = 4
    width: int = 64
    """Channels of the trunk."""
    depth: int = 16
    """Convolutions between the first and the last."""

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_positive(width=self.width, depth=self.depth)


class SRVGG(nn.Module):
    """Enlarge an RGB image `[B, 3, H, W]` in [0, 1] to `[B, 3, scale H, scale W]`, of any size."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        chain: list[nn.Module] = []
        for index in range(1 + config.depth):
            chain += [conv(width if index else 3, width, 3), nn.PReLU(width, _SLOPE)]
        self.body = nn.Sequential(*chain, conv(width, 3 * config.scale**2, 3))
        self.upsampler = nn.PixelShuffle(config.scale)

    def forward(self, image: Tensor) -> Tensor:
        scale = float(self.config.scale)
        detail: Tensor = self.upsampler(self.body(image))
        return detail + F.interpolate(image, scale_factor=scale, mode="nearest")


def srvgg_options(state: dict[str, Tensor]) -> dict[str, int] | None:
    """Return the config fields of a published state dict; None if it is no SRVGGNetCompact.

    >>> srvgg_options(SRVGG(Config(scale=2, width=8, depth=3)).state_dict())
    {'scale': 2, 'width': 8, 'depth': 3}
    """
    convolutions = 0
    while f"body.{_PARTS * convolutions}.weight" in state:
        convolutions += 1
    options = _options(state, convolutions) if convolutions > _PARTS else None
    if options is None:
        return None
    with torch.device("meta"):
        try:
            expected = SRVGG(Config(**options)).state_dict()
        except UsageError:
            return None
    shapes = {name: tensor.shape for name, tensor in state.items()}
    fits = shapes == {name: tensor.shape for name, tensor in expected.items()}
    return options if fits else None


def _options(state: dict[str, Tensor], convolutions: int) -> dict[str, int]:
    """Return the config of a chain of so many convolutions, by its first and last weight."""
    outputs = len(state[f"body.{_PARTS * (convolutions - 1)}.weight"])
    scale = round((outputs / 3) ** 0.5)
    return {"scale": scale, "width": len(state["body.0.weight"]), "depth": convolutions - 2}


NETWORKS = {
    "srvgg": ModelEntry(
        SRVGG,
        Config(),
        "sr",
        tiny={"width": 8, "depth": 2},
        photographs_are_inputs=True,
        detect=srvgg_options,
    )
}
