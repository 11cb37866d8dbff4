"""GCANet: gated context aggregation for dehazing (Chen et al., WACV 2019).

`gcanet` sees the image alone, as ClassPruning's counts say theirs does; `gcanet-edge` sees an edge
map beside it, and its published weights load.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.models.layers import check_positive, conv, pad_to_multiple
from thinlens.models.network import Network

STRIDE = 4
"""Heights and widths are padded to a multiple of this, which the authors ask of their inputs."""

DILATIONS = (2, 2, 2, 4, 4, 4)
"""Of the smoothed dilated blocks; the fourth one's output is the gate's middle level."""
MIDDLE_BLOCK = 4

INPUT_RANGE = 255.0
INPUT_CENTRE = 128.0
"""The network sees values of 0..255 less 128, and answers a residual on the same range."""


@dataclass(frozen=True)
class Config:
    """Which GCANet."""

    width: int = 64
    edge: bool = False
    """Whether a fourth input channel holds the edge map."""

    def __post_init__(self) -> None:
        check_positive(width=self.width)


class SharedSmoothing(nn.Module):
    """One kernel that smooths every channel alike, so that dilation leaves no grid behind.

    It starts as the identity. No count of the papers includes it.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, side, side))
        with torch.no_grad():
            self.weight[0, 0, side // 2, side // 2] = 1

    def forward(self, x: Tensor) -> Tensor:
        channels, side = x.shape[1], self.weight.shape[-1]
        kernels = self.weight.expand(channels, 1, side, side).contiguous()  # twice as fast
        return F.conv2d(x, kernels, padding=side // 2, groups=channels)


class ResidualBlock(nn.Module):
    """Two convolutions of a dilation, each smoothed before it where that is more than 1."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        side = 2 * dilation - 1
        smoothed = dilation > 1
        self.pre_conv1: nn.Module = SharedSmoothing(side) if smoothed else nn.Identity()
        self.conv1 = conv(width, width, 3, bias=False, dilation=dilation)
        self.norm1 = nn.InstanceNorm2d(width, affine=True)
        self.pre_conv2: nn.Module = SharedSmoothing(side) if smoothed else nn.Identity()
        self.conv2 = conv(width, width, 3, bias=False, dilation=dilation)
        self.norm2 = nn.InstanceNorm2d(width, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(self.pre_conv1(x))))
        y = self.norm2(self.conv2(self.pre_conv2(y)))
        return F.relu(x + y)


class GCANet(nn.Module):
    """Clear haze from an RGB image `[B, 3, H, W]` in [0, 1]: the image and a predicted residual."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv1 = conv(4 if config.edge else 3, width, 3, bias=False)
        self.norm1 = nn.InstanceNorm2d(width, affine=True)
        self.conv2 = conv(width, width, 3, bias=False)
        self.norm2 = nn.InstanceNorm2d(width, affine=True)
        self.conv3 = conv(width, width, 3, stride=2, bias=False)
        self.norm3 = nn.InstanceNorm2d(width, affine=True)
        for index, dilation in enumerate((*DILATIONS, 1), start=1):
            self.add_module(f"res{index}", ResidualBlock(width, dilation))
        self.gate = conv(3 * width, 3, 3)
        self.deconv3 = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.norm4 = nn.InstanceNorm2d(width, affine=True)
        self.deconv2 = conv(width, width, 3)
        self.norm5 = nn.InstanceNorm2d(width, affine=True)
        self.deconv1 = conv(width, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, STRIDE)
        seen = padded * INPUT_RANGE
        if self.config.edge:
            seen = torch.cat([seen, edge_map(seen)], dim=1)
        residual = self._residual(seen - INPUT_CENTRE)
        return (padded + residual / INPUT_RANGE)[..., :height, :width]

    def _residual(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.relu(self.norm3(self.conv3(x)))
        levels = [x]
        for index in range(1, len(DILATIONS) + 2):
            x = self.get_submodule(f"res{index}")(x)
            if index in (MIDDLE_BLOCK, len(DILATIONS) + 1):
                levels.append(x)
        gates = self.gate(torch.cat(levels, dim=1)).split(1, dim=1)
        low, middle, high = (gate * level for gate, level in zip(gates, levels, strict=True))
        x = F.relu(self.norm4(self.deconv3(low + middle + high)))
        x = F.relu(self.norm5(self.deconv2(x)))
        residual: Tensor = self.deconv1(x)
        return residual


def edge_map(image: Tensor) -> Tensor:
    """Return the mean absolute difference to the four neighbours, `[B, C, H, W]` to `[B, 1, H, W]`.

    A neighbour outside the image counts as equal; channels are averaged.
    """
    across = (image[..., :, 1:] - image[..., :, :-1]).abs()
    down = (image[..., 1:, :] - image[..., :-1, :]).abs()
    differences = F.pad(across, (1, 0)) + F.pad(across, (0, 1))
    differences = differences + F.pad(down, (0, 0, 1, 0)) + F.pad(down, (0, 0, 0, 1))
    return differences.mean(dim=1, keepdim=True) / 4


TINY = {"width": 8}

NETWORKS = {
    "gcanet": Network(GCANet, Config(), "dehaze", tiny=TINY),
    "gcanet-edge": Network(GCANet, Config(edge=True), "dehaze", tiny=TINY),
}
