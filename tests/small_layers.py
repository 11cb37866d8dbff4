"""Which small layers, weights and masks do the tests of sparsity and packing draw?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from thinlens.sparsity.layout import PrunableModule, canonical
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pattern, pattern_from_ranks
from thinlens.sparsity.ranks import magnitude_ranks


@st.composite
def layers(draw: st.DrawFn) -> PrunableModule:
    """A small convolution, transposed convolution (both grouped or not) or linear layer."""
    kind = draw(st.sampled_from((nn.Conv2d, nn.ConvTranspose2d, nn.Linear)))
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    c_in, c_out = draw(st.integers(1, 9)) * groups, draw(st.integers(1, 3)) * groups
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    layer: PrunableModule
    if kind is nn.Linear:
        layer = nn.Linear(c_in, c_out)
    else:
        layer = kind(c_in, c_out, kernel, groups=groups)
    with torch.no_grad():  # few values, so that many are equal
        layer.weight.copy_(torch.randint(-3, 4, layer.weight.shape, generator=seeded(draw)))
    return layer


def seeded(draw: st.DrawFn) -> torch.Generator:
    return torch.Generator().manual_seed(draw(st.integers(0, 2**16)))


@st.composite
def masks(draw: st.DrawFn, layer: PrunableModule) -> Pattern:
    """Any mask, with the n and m that describe it, or with neither."""
    share = draw(st.sampled_from((0.0, 0.05, 0.3, 0.9, 1.0)))
    random = torch.rand(layer.weight.shape, generator=seeded(draw))
    mask = random < share
    if draw(st.booleans()):
        return Pattern(mask)
    m = draw(st.sampled_from((1, 2, 3, 4, 8, 32, 255)))
    rows = canonical(mask, layer)
    most = max(
        int(rows[..., start : start + m].sum(-1).max()) for start in range(0, rows.shape[-1], m)
    )
    return Pattern(mask, draw(st.integers(max(1, most), m)), m)


def bits(tensor: Tensor) -> bytes:
    """The bytes of a tensor: equal where even -0.0 and the payloads of NaN are equal."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def zeroed(weight: Tensor, mask: Tensor) -> Tensor:
    """The weight with +0.0 where its mask is False."""
    return weight.detach().masked_fill(~mask, 0.0)


@dataclass(frozen=True)
class ToyConfig:
    width: int = 8
    gain: float = 1.0
    norm: bool = True


class Toy(nn.Module):
    """Every kind of layer that a checkpoint may meet, and one module under two names."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(width, width, 2, groups=2)
        self.norm = nn.BatchNorm2d(width) if config.norm else nn.Identity()
        self.linear = nn.Linear(width, 5, bias=False)
        self.again = self.grouped


def toy(seed: int = 0, config: ToyConfig | None = None) -> Toy:
    """A toy with its own random weights."""
    torch.manual_seed(seed)
    return Toy(config or ToyConfig())


def thin(network: nn.Module, numbers: dict[str, tuple[int, int]]) -> dict[str, Pattern]:
    """Zero all but the n largest of m in the named layers, in place; return the patterns."""
    patterns = {}
    for name, (n, m) in numbers.items():
        layer = prunable_layer(network, name)
        patterns[name] = pattern_from_ranks(magnitude_ranks(layer.weight, layer, m), n, m)
        layer.weight.data = zeroed(layer.weight, patterns[name].mask)
    return patterns


def assert_same(one: nn.Module, other: nn.Module) -> None:
    assert type(one) is type(other)
    assert one.config == other.config
    states = one.state_dict(), other.state_dict()
    assert list(states[0]) == list(states[1])
    for name in states[0]:
        assert states[0][name].dtype == states[1][name].dtype, name
        assert states[0][name].shape == states[1][name].shape, name
        assert bits(states[0][name]) == bits(states[1][name]), name
