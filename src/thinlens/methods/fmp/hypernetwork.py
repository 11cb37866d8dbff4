"""Hypernetwork of FMP: generate a network's weights from channel vectors and weight indicators.

FMP's supplement names its components: a hypernetwork, channel vectors, weight indicators, no
pretrained network. How they compute is reconstructed: the hypernetwork is that of DHP (Li et al.,
ECCV 2020), which FMP extends, and the indicator multiplies the generated weights. Which channels
share an entry of a vector is traced in the network (`sparsity.channels`), not designed by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from thinlens.errors import UsageError, check_choice
from thinlens.methods.channels.order import coupled_groups, filter_norms
from thinlens.methods.reset import reset_parameters
from thinlens.models.copying import copy_network
from thinlens.sparsity.channels import CoupledChannels
from thinlens.sparsity.prunable import Layer

HypernetworkStart = Literal["fresh", "weights"]
"""Initial weights: random, or those of the dense network."""

Indicator = Literal["weight", "kernel", "nm"]
"""What has an indicator: every weight (nm too), or every kernel, a pair of channels."""

MIN_MAGNITUDE = 0.05
"""Lower bound on initial magnitudes of entries and indicators, relative to the RMS; the maps
compensate."""


@dataclass(frozen=True)
class HypernetworkConfig:
    """Initialisation and granularity of a hypernetwork."""

    start: HypernetworkStart = "fresh"
    """fresh: random, as FMP. weights: it generates the weights of the dense network at first."""
    indicator: Indicator = "weight"
    embedding: int = 8
    """Length of the vector between DHP's two maps (8 there; FMP's is not known)."""
    checkpointed: bool = False
    """Recompute the generation of weights in the backward pass (gradient checkpointing)."""

    def __post_init__(self) -> None:
        check_choice("start", self.start, get_args(HypernetworkStart))
        check_choice("indicator", self.indicator, get_args(Indicator))
        if self.embedding < 1:
            raise UsageError(f"embedding {self.embedding}: wanted 1 or more")


class WeightGenerator(nn.Module):
    """Generates one weight, whose first two axes `[A, B]` are channels, for all pairs at once.

    Every pair has separate maps (DHP, section 3.2): `kernel = W2 (w1 (z_a z_b + b0) + b1) + b2`,
    times its indicator.
    """

    first: Tensor
    """Indices of the entries of axis 0, 0 being the constant one: `[A]`."""
    second: Tensor

    def __init__(
        self, weight: Tensor, first: Tensor, second: Tensor, config: HypernetworkConfig
    ) -> None:
        super().__init__()
        self.shape = weight.shape
        pairs, positions, size = prod(weight.shape[:2]), prod(weight.shape[2:]), config.embedding
        self.register_buffer("first", first.to(weight.device), persistent=False)
        self.register_buffer("second", second.to(weight.device), persistent=False)
        self.b0 = nn.Parameter(weight.new_zeros(pairs, 1))
        self.w1 = nn.Parameter(weight.new_empty(pairs, size).uniform_(-(3**0.5), 3**0.5))
        self.b1 = nn.Parameter(weight.new_zeros(pairs, size))
        self.w2 = nn.Parameter(weight.new_zeros(pairs, positions, size))
        self.b2 = nn.Parameter(weight.new_zeros(pairs, positions))
        ones = (1,) * len(weight.shape[2:])
        indicated = (*weight.shape[:2], *ones) if config.indicator == "kernel" else weight.shape
        self.indicator = nn.Parameter(weight.new_ones(indicated))

    @torch.no_grad()
    def initialize(self, fan_in: int) -> None:
        """Initialise to weights of variance 1 / `fan_in` for vectors of variance 1 (DHP).

        Indicators are initialised as vectors are: equal ones would all be pruned at once.
        """
        bound = (3 / (self.w2.shape[2] * fan_in)) ** 0.5
        self.w2.uniform_(-bound, bound)
        nn.init.normal_(self.indicator)

    @torch.no_grad()
    def reproduce(self, weight: Tensor, entries: Tensor) -> None:
        """Initialise to `weight`; indicators are its magnitudes, and it scales with `entries`."""
        axes = [axis for axis in range(2, weight.ndim) if self.indicator.shape[axis] == 1]
        sizes = weight.square().mean(axes, keepdim=True) if axes else weight.square()
        mean = sizes.mean().clamp_min(torch.finfo(weight.dtype).tiny)
        self.indicator.copy_((sizes / mean).sqrt().clamp_min(MIN_MAGNITUDE))
        kernels = (weight / self.indicator).reshape(len(self.w1), -1, 1)
        latent = (entries[self.first][:, None] * entries[self.second]).reshape(-1, 1)
        self.w2.copy_(kernels * (self.w1 / (latent * self.w1.square().sum(1, True)))[:, None])

    def forward(self, entries: Tensor) -> Tensor:
        """Generate the weight from the vectors' `entries`, the constant one first."""
        latent = (entries[self.first][:, None] * entries[self.second]).reshape(-1, 1) + self.b0
        embedded = self.w1 * latent + self.b1
        kernels = (self.w2 * embedded[:, None]).sum(2) + self.b2
        return kernels.view(self.shape) * self.indicator


class Hypernetwork(nn.Module):
    """A network whose layers' weights are generated from channel vectors and indicators.

    All vectors are one parameter: coupled channels use the same entry, the s^2 channels of a
    pixel shuffle too, and unprunable channels, such as the image's, use a constant 1. Biases and
    norms are parameters of the network.
    """

    pinned: Tensor

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        channels: CoupledChannels,
        config: HypernetworkConfig,
    ) -> None:
        super().__init__()
        self.config = config
        self.network = copy_network(model).requires_grad_(True)
        if config.start == "fresh":
            reset_parameters(self.network)
        self.channel_ids = sorted(x for group in coupled_groups(channels) for x in group)
        """The channel id (see `CoupledChannels`) of each entry of the vector."""
        device = next(self.network.parameters()).device
        self.register_buffer("pinned", torch.ones(1, device=device), persistent=False)
        self.vector = nn.Parameter(torch.randn(len(self.channel_ids)).to(device))
        if config.start == "weights":
            self.vector.data = self._sizes(channels).to(device)
        self.names = [x.name for x in layers if x.calls and f"{x.name}.weight" in channels.axes]
        """The layers whose weights are generated."""
        fans = {x.name: x.in_channels_per_group * prod(x.kernel) for x in layers}
        self.generators = nn.ModuleList(self._generator(x, channels, fans[x]) for x in self.names)

    def forward(self, image: Tensor) -> Tensor:
        output: Tensor = functional_call(self.network, self.weights(), (image,))
        return output

    def weights(self) -> dict[str, Tensor]:
        """Generate all weights, by state-dict name."""
        entries = torch.cat([self.pinned, self.vector])
        recompute = self.config.checkpointed and torch.is_grad_enabled()
        return {
            f"{name}.weight": checkpoint(generator, entries, use_reentrant=False)
            if recompute
            else generator(entries)
            for name, generator in zip(self.names, self.generators, strict=True)
        }

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """Return a copy of the network with the current generated weights as parameters."""
        network = copy_network(self.network).requires_grad_(True)
        parameters = dict(network.named_parameters())
        for name, weight in self.weights().items():
            parameters[name].data = weight.clone(memory_format=torch.contiguous_format)
        return network

    def indicators(self) -> list[Tensor]:
        """Return the indicators of all layers, as long as `names`."""
        return [generator.get_parameter("indicator") for generator in self.generators]

    def axis_entries(self) -> list[tuple[Tensor, Tensor]]:
        """Return the entry of every row and column of all weights, 0 being the constant one."""
        return [(x.get_buffer("first"), x.get_buffer("second")) for x in self.generators]

    def _generator(self, name: str, channels: CoupledChannels, fan_in: int) -> WeightGenerator:
        weight = self.network.get_parameter(f"{name}.weight").requires_grad_(False)
        entries = {channel: entry for entry, channel in enumerate(self.channel_ids, start=1)}
        first, second = (
            torch.tensor(
                [entries.get(channel, 0) for channel in ids.tolist()]
                if ids is not None
                else [0] * size
            )
            for ids, size in zip(channels.axes[f"{name}.weight"][:2], weight.shape[:2], strict=True)
        )
        generator = WeightGenerator(weight.detach(), first, second, self.config)
        if self.config.start == "fresh":
            generator.initialize(fan_in)
        else:
            generator.reproduce(weight.detach(), torch.cat([self.pinned, self.vector.detach()]))
        return generator

    def _sizes(self, channels: CoupledChannels) -> Tensor:
        """Return the filter norms of every channel id, relative to the RMS of its coupled group."""
        norms = filter_norms(self.network, channels, 2)
        sizes: dict[int, float] = {}
        for group in coupled_groups(channels):
            rms = (sum(norms[channel] ** 2 for channel in group) / max(1, len(group))) ** 0.5 or 1.0
            sizes |= {channel: max(MIN_MAGNITUDE, norms[channel] / rms) for channel in group}
        return torch.tensor([sizes[channel] for channel in self.channel_ids])
