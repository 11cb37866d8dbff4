"""Which small networks and data do the tests of the methods prune?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Crossed(nn.Module):
    """A residual block, a concatenation, groups, stride, a transposed layer, a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.down = nn.Conv2d(16, 8, 3, stride=2, padding=2, dilation=2, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.shared = nn.Conv2d(8, 8, 1, bias=False)
        self.up = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=2)
        self.gate = nn.Linear(8, 8)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.head(image))
        y = torch.cat([x, F.relu(self.body(x) + x)], dim=1)
        y = self.norm(self.down(y))
        y = self.up(self.shared(F.relu(self.shared(y))))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[..., None, None]
        out: Tensor = self.tail(F.relu(y))
        return out


def crossed() -> nn.Module:
    """The network with weights of its own, and batch statistics that are not 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Crossed()
        network(torch.rand(4, 3, 16, 16))
    return network


@dataclass(frozen=True)
class RandomData:
    """Smooth random images and themselves shifted, all a function of (seed, epoch, step)."""

    size: int = 16

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * seed + 100 * epoch + step)
        rough = torch.rand(4, 3, self.size, self.size, generator=generator)
        image = F.avg_pool2d(rough, 3, 1, 1)
        return image, 1 - image
