"""GCANet: gated context aggregation for dehazing (Chen et al., WACV 2019).

The input of `gcanet` is the image alone, as in ClassPruning's counts; that of `gcanet-edge` is the
image and its edge map, and the published weights load.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.models.entry import ModelEntry
from thinlens.models.layers import check_positive, conv, pad_to_multiple
from thinlens.models.shape_options import ShapeOptions

_SIZE_MULTIPLE = 4
"""Heights and widths are padded to a multiple of this, as the authors require."""

_DILATIONS = (2, 2, 2, 4, 4, 4)
"""Dilations of the smoothed residual blocks."""
_MIDDLE_BLOCK = 4
"""The block whose output is the middle level of the gate."""

_INPUT_RANGE = 255.0
_INPUT_CENTRE = 128.0
"""The network's input is on 0..255, less 128; its output is a residual on the same range."""


@dataclass(frozen=True)
class Config:
    """Which GCANet."""

    width: int = 64
    edge: bool = False
    """Whether a fourth input channel holds the edge map."""

    def __post_init__(self) -> None:
        check_positive(width=self.width)


class SharedSmoothing(nn.Module):
    """One smoothing kernel for all channels, against the grid artefacts of dilated convolutions.

    It is initialised to the identity. No count of the papers includes it.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, kernel, kernel))
        with torch.no_grad():
            self.weight[0, 0, kernel // 2, kernel // 2] = 1

    def forward(self, x: Tensor) -> Tensor:
        channels, kernel = x.shape[1], self.weight.shape[-1]
        kernels = self.weight.expand(channels, 1, kernel, kernel).contiguous()  # twice as fast
        return F.conv2d(x, kernels, padding=kernel // 2, groups=channels)


class DilatedResidualBlock(nn.Module):
    """Two dilated convolutions, each after a smoothing if the dilation is more than 1."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        kernel = 2 * dilation - 1
        smoothed = dilation > 1
        self.pre_conv1: nn.Module = SharedSmoothing(kernel) if smoothed else nn.Identity()
        self.conv1 = conv(width, width, 3, bias=False, dilation=dilation)
        self.norm1 = nn.InstanceNorm2d(width, affine=True)
        self.pre_conv2: nn.Module = SharedSmoothing(kernel) if smoothed else nn.Identity()
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
        for index, dilation in enumerate((*_DILATIONS, 1), start=1):
            self.add_module(f"res{index}", DilatedResidualBlock(width, dilation))
        self.gate = conv(3 * width, 3, 3)
        self.deconv3 = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.norm4 = nn.InstanceNorm2d(width, affine=True)
        self.deconv2 = conv(width, width, 3)
        self.norm5 = nn.InstanceNorm2d(width, affine=True)
        self.deconv1 = conv(width, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, _SIZE_MULTIPLE)
        scaled = padded * _INPUT_RANGE
        if self.config.edge:
            scaled = torch.cat([scaled, edge_map(scaled)], dim=1)
        residual = self._residual(scaled - _INPUT_CENTRE)
        return (padded + residual / _INPUT_RANGE)[..., :height, :width]

    def _residual(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.relu(self.norm3(self.conv3(x)))
        levels = [x]
        for index in range(1, len(_DILATIONS) + 2):
            x = self.get_submodule(f"res{index}")(x)
            if index in (_MIDDLE_BLOCK, len(_DILATIONS) + 1):
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

    >>> edge_map(torch.tensor([[[[0.0, 4.0, 4.0]]]]))
    tensor([[[[1., 1., 0.]]]])
    """
    across = (image[..., :, 1:] - image[..., :, :-1]).abs()
    down = (image[..., 1:, :] - image[..., :-1, :]).abs()
    differences = F.pad(across, (1, 0)) + F.pad(across, (0, 1))
    differences = differences + F.pad(down, (0, 0, 1, 0)) + F.pad(down, (0, 0, 0, 1))
    return differences.mean(dim=1, keepdim=True) / 4


TINY = {"width": 8}

_DETECT = ShapeOptions({"width": ("conv1.weight", 0)}, others=("gate.weight", "deconv1.weight"))

NETWORKS = {
    "gcanet": ModelEntry(GCANet, Config(), "dehaze", tiny=TINY, detect=_DETECT),
    "gcanet-edge": ModelEntry(GCANet, Config(edge=True), "dehaze", tiny=TINY, detect=_DETECT),
}
