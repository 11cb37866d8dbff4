"""Is a graph that is reused for another size the one that would be made anew?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from native_engine import built
from thinlens.engine.graph import Node, Size, topological_order
from thinlens.engine.graphs import Graphs
from thinlens.engine.ops.max_pool import MaxPool
from thinlens.models import MODELS, create, image_channels

sides = st.integers(16, 40)


def described(value: Any, order: dict[Node, int]) -> Any:
    """Return what is compared of a node's field: numbers to the bit."""
    if isinstance(value, Node):
        return order[value]
    if isinstance(value, list | tuple):
        return [described(inner, order) for inner in value]
    if hasattr(value, "tobytes"):
        return value.dtype, value.shape, value.tobytes()
    if is_dataclass(value):
        return {f.name: described(getattr(value, f.name), order) for f in fields(value)}
    return value


def graph_of(root: Node) -> list[Any]:
    order = {node: number for number, node in enumerate(topological_order(root))}
    return [
        (type(node), {key: described(inner, order) for key, inner in vars(node).items()})
        for node in order
    ]


def assert_reused_equal_new(module: nn.Module, channels: int, sizes: list[tuple[int, int]]) -> int:
    """Compare every size's graph with that of a fresh store; return how many forms were made."""
    kept = Graphs(module)
    for height, width in sizes:
        size = Size(channels, height, width)
        traced, lowered = kept.lowered(size)
        fresh_traced, fresh = Graphs(module).lowered(size)
        assert traced.output.shape == fresh_traced.output.shape
        assert len(lowered.islands) == len(fresh.islands)
        if not fresh.islands:  # whose graphs are made anew
            assert graph_of(lowered.root) == graph_of(fresh.root)
        assert len(lowered.native) == len(fresh.native)
    return len(kept._made)


@built
@pytest.mark.parametrize("name", ["edsr", "carn", "rfdn", "dncnn-17", "unet", "esrb-6-256"])
def test_a_reused_graph_of_a_network_is_the_new_one(name: str) -> None:
    torch.manual_seed(0)
    module = create(name, **MODELS[name].tiny).eval()
    channels = image_channels(module)
    assert_reused_equal_new(module, channels, [(32, 32), (48, 32), (64, 80)])


STEPS: list[Callable[[Tensor, Tensor, tuple[int, ...]], Tensor]] = [
    lambda x, y, size: y + x,
    lambda x, y, size: F.leaky_relu(y, 0.1) * 0.5,
    lambda x, y, size: F.interpolate(F.max_pool2d(y, 3, 2), size, mode="bilinear"),
    lambda x, y, size: x * torch.sigmoid(y),
    lambda x, y, size: y if size[0] > 24 else F.relu(y),
    lambda x, y, size: F.pixel_shuffle(torch.cat([x, y, x, y], 1), 2)[..., : size[0], : size[1]],
    lambda x, y, size: F.interpolate(y, scale_factor=2.0, mode="nearest")[:, :, ::2, ::2],
    lambda x, y, size: x + y / size[1],
]
"""Of a value, its convolution and its height and width; some depend on the latter."""


class Drawn(nn.Module):
    """A convolution before each of some steps."""

    def __init__(self, choices: list[int]) -> None:
        super().__init__()
        self.choices = choices
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in choices)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.cat([image, image[:, :1]], 1)
        for choice, conv in zip(self.choices, self.convs, strict=True):
            x = STEPS[choice](x, conv(x), tuple(x.shape[2:]))
        return x


@built
@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(0, len(STEPS) - 1), min_size=1, max_size=5),
    st.lists(st.tuples(sides, sides), min_size=2, max_size=4),
)
def test_a_reused_graph_is_the_new_one(choices: list[int], sizes: list[tuple[int, int]]) -> None:
    assert_reused_equal_new(Drawn(choices).eval(), 3, sizes)


@built
def test_graphs_are_reused_where_only_sizes_differ() -> None:
    module = create("rfdn", **MODELS["rfdn"].tiny).eval()
    assert assert_reused_equal_new(module, 3, [(32, 32), (48, 33), (61, 80)]) <= 2
    graphs = Graphs(module)
    first, again = (graphs.lowered(Size(3, side, 40))[1].root for side in (48, 64))
    assert len(graphs._made) == 1
    pools = [n for n in topological_order(again) if isinstance(n, MaxPool)]
    assert pools and all(len(pool.rows.begins) == pool.size.height for pool in pools)
    assert not set(topological_order(first)) & set(topological_order(again))
