"""IMDN, written by hand and unknown to thinlens, made thin by five lines.

    pip install 'thinlens[demo]'
    python examples/imdn.py            # or: python examples/imdn.py FOLDER_OF_IMAGES

Its weights are random here: load yours before it is pruned. docs/your-network.md has the same
network, saved and restored with.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import thinlens
from thinlens.experiments.photographs import skimage_inputs
from thinlens.sparsity.pattern import Pruned

SLOPE = 0.05


def convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class ContrastAttention(nn.Module):
    """Weigh every channel by its mean and standard deviation."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.weigh = nn.Sequential(
            convolution(channels, hidden, 1),
            nn.ReLU(inplace=True),
            convolution(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        contrast = (x - mean).pow(2).mean((2, 3), keepdim=True).sqrt() + mean
        return x * self.weigh(contrast)


class DistillationBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kept = channels // 4
        self.passed = channels - self.kept
        self.c1 = convolution(channels, channels)
        self.c2 = convolution(self.passed, channels)
        self.c3 = convolution(self.passed, channels)
        self.c4 = convolution(self.passed, self.kept)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)
        self.attention = ContrastAttention(channels)
        self.c5 = convolution(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        sizes = (self.kept, self.passed)
        kept1, passed = torch.split(self.act(self.c1(x)), sizes, dim=1)
        kept2, passed = torch.split(self.act(self.c2(passed)), sizes, dim=1)
        kept3, passed = torch.split(self.act(self.c3(passed)), sizes, dim=1)
        kept = torch.cat([kept1, kept2, kept3, self.c4(passed)], dim=1)
        return self.c5(self.attention(kept)) + x


class IMDN(nn.Module):
    def __init__(self, channels: int = 64, blocks: int = 6, scale: int = 4) -> None:
        super().__init__()
        self.head = convolution(3, channels)
        self.blocks = nn.ModuleList(DistillationBlock(channels) for _ in range(blocks))
        self.fuse = nn.Sequential(
            convolution(blocks * channels, channels, 1), nn.LeakyReLU(SLOPE, inplace=True)
        )
        self.body = convolution(channels, channels)
        self.tail = nn.Sequential(convolution(channels, 3 * scale**2), nn.PixelShuffle(scale))

    def forward(self, image: Tensor) -> Tensor:
        features = x = self.head(image)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return self.tail(self.body(self.fuse(torch.cat(outputs, dim=1))) + features)


def imdn(channels: int = 64, blocks: int = 6, scale: int = 4) -> IMDN:
    """Build the network: a *factory*, which checkpoints name as `imdn:imdn`."""
    return IMDN(channels, blocks, scale)


def main(data: str | None = None, channels: int = 64, blocks: int = 6) -> Pruned:
    """Prune IMDN to a quarter of its multiply-adds; print what it costs, and what it skips."""
    torch.manual_seed(0)
    network = imdn(channels, blocks).eval()  # here you load your weights
    images = data or skimage_inputs(network, {})  # inputs of the network; it is its own teacher

    thin = thinlens.prune(network, budget="1/4", data=images)
    fast = thinlens.compile(thin)  # a callable for [B, C, H, W] that skips the zeros
    print(thin)
    print(f"{thinlens.cost(thin, (180, 320)).total.macs / 1e9:.2f} GMACs for 320x180")
    print(f"result: {tuple(fast(torch.rand(1, 3, 24, 32)).shape)}")
    return thin


if __name__ == "__main__":
    main(*sys.argv[1:2])
