"""Which few operations is a network made of, as the engine sees it?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from thinlens.models.tile_position import LowMap

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Size:
    """What one image's tensor measures."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """The weights of a convolution and how they slide."""

    weight: Array
    """[c_out, c_in, kh, kw]"""
    bias: Array
    padding: int
    stride: int
    dilation: int
    layer: str = ""
    """The name of the module whose weights these are."""

    def scaled(self, scale: Array, shift: Array) -> Kernel:
        """Fold `scale y + shift`, by output channel, into the weights."""
        return replace(
            self,
            weight=self.weight * scale[:, None, None, None],
            bias=self.bias * scale + shift,
        )

    @property
    def reach(self) -> int:
        """How far to the right and down the input is read, from the output's place."""
        largest: int = max(self.weight.shape[2:])
        return (largest - 1) * self.dilation - self.padding

    @property
    def halo(self) -> int:
        """How far past its border the input is read, at most."""
        return max(self.padding, self.reach, 0)


@dataclass(eq=False)
class Node:
    """One operation. Its kinds, with inputs in brackets:

    input; conv [x] or [x, residual]: act(conv(x) + residual), then a pixel shuffle; affine [x]:
    act(scale x + shift) by channel; add [x, y]: act(x + factor y); gate [x, y]: x sigmoid(y);
    sigmoid [x] and product [x, y], which only live until they are a gate; shuffle [x], which
    only lives until it is a convolution's; concat [x, ...]; pool [x]; resize [x]; crop [x];
    pad [x].
    """

    kind: str
    inputs: list[Node]
    size: Size
    kernel: Kernel | None = None
    slope: float = 1.0
    """Of the activation's negative side: 1 is no activation, 0 is ReLU."""
    factor: float = 1.0
    scale: Array = field(default_factory=lambda: np.ones(0, np.float32))
    shift: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    shuffle: int = 1
    window: tuple[int, int] = (1, 1)
    """Of a pool: size and stride."""
    grid: int = 0
    """Columns that its rows are made to have; 0: those that follow from its inputs."""
    low_map: LowMap | None = None
    """Of a resize that depends on where in a larger image the input lies."""


def uses(nodes: Iterable[Node], output: Node) -> Counter[Node]:
    """Count who reads each node; the network's output is read once more."""
    counts = Counter(source for node in nodes for source in node.inputs)
    counts[output] += 1
    return counts


def reachable(output: Node) -> list[Node]:
    """List what `output` needs, inputs before those that read them."""
    order: dict[Node, None] = {}
    stack = [(output, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order[node] = None
        elif node not in order:
            stack.append((node, True))
            stack.extend((source, False) for source in reversed(node.inputs))
    return list(order)
