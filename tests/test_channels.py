"""Channels are coupled as their definition demands, however a network moves them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from small_networks import RandomData, crossed
from thinlens.errors import UsageError
from thinlens.methods.channels.filter import Filter, remove_channels, zero_channels
from thinlens.methods.channels.order import pruning_order
from thinlens.models import MODELS, create, image_channels
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.channel_cost import ChannelCost
from thinlens.sparsity.channels import trace_channels
from thinlens.sparsity.cost import cost
from thinlens.sparsity.prunable import find_layers
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

EXAMPLE = (1, 3, 24, 24)


class Net(nn.Module):
    """Two 3x3 convolutions of 8 channels, an operation between, and a layer that makes an image."""

    def __init__(self, act: Callable[[Tensor, Tensor], Tensor], out: int, extra: nn.Module) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.last, self.act, self.extra = nn.Conv2d(out, 3, 1), act, extra

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = self.last(self.extra(self.act(self.one(image), self.two(image))))
        return made


def gated(x: Tensor, y: Tensor) -> Tensor:
    one, other = y.chunk(2, dim=1)
    return torch.cat([x[:, :4] * torch.sigmoid(one), x[:, 4:] + other], dim=1)


def by_halves(x: Tensor, y: Tensor) -> Tensor:
    """NAFNet's gate: one half of the channels times the other."""
    one, other = (x + y).chunk(2, dim=1)
    return one * other


def shuffled(x: Tensor, y: Tensor) -> Tensor:
    """ShuffleNet's exchange between two groups, by a view."""
    return (x * y).view(1, 2, 4, *x.shape[-2:]).transpose(1, 2).flatten(1, 2)


PIXELS = F.interpolate
CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int, nn.Module, list[list[int]]]] = {
    # each list: for a channel of `two`, which channels of `one` leave with it
    "residual": (lambda x, y: F.relu(x) + y, 8, nn.Identity(), [[i] for i in range(8)]),
    "concat": (lambda x, y: torch.cat([x, y], 1), 16, nn.Identity(), [[]] * 8),
    "gate": (gated, 8, nn.Identity(), [[i] for i in range(8)]),
    "halves": (by_halves, 4, nn.Identity(), [[i % 4, i % 4 + 4] for i in range(8)]),
    "exchange": (shuffled, 8, nn.Identity(), [[i] for i in range(8)]),
    "pixel shuffle": (
        lambda x, y: F.pixel_shuffle(y + x, 2),
        *(2, nn.Identity(), [[0, 1, 2, 3]] * 4 + [[4, 5, 6, 7]] * 4),
    ),
    "unshuffle": (
        lambda x, y: F.pixel_unshuffle(x, 2)[:, :8] + y[..., ::2, ::2],
        8,
        nn.Identity(),
        [[0]] * 4 + [[1]] * 4,
    ),
    "batch norm": (lambda x, y: x - y, 8, nn.BatchNorm2d(8), [[i] for i in range(8)]),
    "instance norm": (
        lambda x, y: x - y,
        8,
        nn.InstanceNorm2d(8, affine=True),
        [[i] for i in range(8)],
    ),
    "prelu": (lambda x, y: x - y, 8, nn.PReLU(8), [[i] for i in range(8)]),
    "depthwise": (lambda x, y: x - y, 8, nn.Conv2d(8, 8, 3, groups=8), [[i] for i in range(8)]),
    "grouped": (
        lambda x, y: x - y,
        8,
        nn.Conv2d(8, 8, 3, groups=2),
        [[i % 4, i % 4 + 4] for i in range(8)],
    ),
    "pooling": (
        lambda x, y: F.max_pool2d(x, 2) + F.avg_pool2d(y, 2),
        8,
        nn.Identity(),
        [[i] for i in range(8)],
    ),
    "state": (  # as an LSTM's first, it has the channels of what it is made like
        lambda x, y: torch.tanh(torch.zeros_like(x) * y + y),
        *(8, nn.Identity(), [[i] for i in range(8)]),
    ),
    "attention map": (lambda x, y: x * y[:, :1], 8, nn.Identity(), [[]] * 8),
}


COUNTED = ("gate", "exchange")
"""Cases whose code names the number 4, which is wrong as soon as a channel has left."""


@pytest.mark.parametrize("name", CASES)
def test_which_channels_are_coupled(name: str) -> None:
    act, out, extra, wanted = CASES[name]
    channels = trace_channels(Net(act, out, extra), EXAMPLE)
    one, two = channels.axes["one.weight"][0], channels.axes["two.weight"][0]
    assert one is not None and two is not None
    assert channels.unprunable_ops == []
    found = [[i for i in range(8) if one[i] == label != 0] for label in two]
    assert found == wanted


@pytest.mark.parametrize(
    ("act", "obstacle"),
    [
        (lambda x, y: (x + y).mean(1, keepdim=True), "mean"),
        (lambda x, y: torch.softmax(x + y, 1), "softmax"),
        (lambda x, y: F.group_norm(x + y, 2), "native_group_norm"),
        (lambda x, y: torch.cumsum(x + y, 1), "cumsum"),
    ],
)
def test_what_mixes_channels_keeps_them_and_is_named(
    act: Callable[[Tensor, Tensor], Tensor], obstacle: str
) -> None:
    network = Net(act, 1 if obstacle == "mean" else 8, nn.Identity())
    channels = trace_channels(network, EXAMPLE)
    assert channels.unprunable_ops == [obstacle]
    assert pruning_order(network, channels, 1) == []


def networks() -> dict[str, Callable[[], nn.Module]]:
    own = {
        name: lambda name=name, net=net: create(name, **{**net.tiny, "width": 12})
        for name, net in MODELS.items()
    }
    ours = {
        name: lambda case=case: Net(*case[:3])
        for name, case in CASES.items()
        if name not in COUNTED
    }
    return {"crossed": crossed, **own, **ours}


@pytest.mark.parametrize("name", networks())
def test_the_smaller_network_is_the_masked_one_at_the_predicted_cost(name: str) -> None:
    torch.manual_seed(0)
    model = networks()[name]().eval()
    for tensor in model.buffers():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)  # batch statistics that are not 0 and 1
    example = (1, image_channels(model), 24, 24)
    channels = trace_channels(model, example)
    order = pruning_order(model, channels, min_channels=1)
    dead = [channel.channel_id for channel in order[: -(-len(order) // 2)]]
    before = copy.deepcopy(model.state_dict())
    thin, full = remove_channels(model, channels, dead), zero_channels(model, channels, dead)
    image = torch.rand(2, *example[1:])
    with torch.no_grad():
        torch.testing.assert_close(thin(image), full(image), rtol=0, atol=1e-5)
    assert dead
    prices = ChannelCost(model, example, channels)
    for network, gone in ((model, []), (thin, dead)):
        wanted = cost(network, example, find_layers(network, example), {})
        assert (prices.macs(gone), prices.params(gone)) == (wanted.macs, wanted.params)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", COUNTED)
def test_code_that_counts_channels_is_refused_and_not_broken(name: str) -> None:
    network = Net(*CASES[name][:3])
    method = Filter(budget=Budget.parse("1/2"), example=EXAMPLE, min_channels=1)
    with pytest.raises(UsageError, match="does not bear fewer channels"):
        method.run(network, RandomData(), Trainer(Settings(steps=0)))


def test_a_network_that_does_not_run_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"cannot run on an input of shape \(1, 5, 24, 24\)"):
        trace_channels(crossed(), (1, 5, 24, 24))
