"""How are a network's weights made from channel vectors and weight indicators? (FMP)

FMP's supplement says what it has: a hypernetwork, channel vectors, weight indicators, no
pretrained network. How they compute is reconstructed: the hypernetwork is that of DHP (Li et al.,
ECCV 2020), which FMP extends, and the indicator multiplies the weights that it makes. Which
channels share an entry of a vector is not designed by hand but found in the network
(`sparsity.channels`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from thinlens.errors import UsageError
from thinlens.methods.channels.order import families, magnitudes
from thinlens.sparsity.channels import Channels
from thinlens.sparsity.prunable import Layer

STARTS = ("fresh", "weights")
INDICATORS = ("weight", "kernel", "nm")

SMALLEST = 0.05
"""Entries and indicators that stand for small weights begin no nearer to 0, in parts of the mean
square: the maps make up for it."""


@dataclass(frozen=True)
class Form:
    """What a hypernetwork is like."""

    start: str = "fresh"
    """fresh: from nothing, as FMP. weights: it makes the weights of the given network at first."""
    indicator: str = "weight"
    """What has an indicator of its own: weight (nm too), or kernel, a pair of channels."""
    embedding: int = 8
    """Length of the vector between DHP's two maps (8 there; FMP's is not known)."""
    checkpointed: bool = False
    """Compute weights again in the backward pass in place of remembering how they were made."""

    def __post_init__(self) -> None:
        for key, known in (("start", STARTS), ("indicator", INDICATORS)):
            if getattr(self, key) not in known:
                raise UsageError(f"{key} {getattr(self, key)!r}: wanted {' or '.join(known)}")
        if self.embedding < 1:
            raise UsageError(f"embedding {self.embedding}: wanted 1 or more")


class Generator(nn.Module):
    """Makes one weight, whose first two axes `[A, B]` are channels, for all pairs at once.

    Every pair has maps of its own (DHP, section 3.2): `kernel = W2 (w1 (z_a z_b + b0) + b1) + b2`,
    times its indicator.
    """

    first: Tensor
    """Where the entries of axis 0 stand, 0 being the pinned one: `[A]`."""
    second: Tensor

    def __init__(self, weight: Tensor, first: Tensor, second: Tensor, form: Form) -> None:
        super().__init__()
        self.shape = weight.shape
        pairs, positions, size = prod(weight.shape[:2]), prod(weight.shape[2:]), form.embedding
        self.register_buffer("first", first.to(weight.device), persistent=False)
        self.register_buffer("second", second.to(weight.device), persistent=False)
        self.b0 = nn.Parameter(weight.new_zeros(pairs, 1))
        self.w1 = nn.Parameter(weight.new_empty(pairs, size).uniform_(-(3**0.5), 3**0.5))
        self.b1 = nn.Parameter(weight.new_zeros(pairs, size))
        self.w2 = nn.Parameter(weight.new_zeros(pairs, positions, size))
        self.b2 = nn.Parameter(weight.new_zeros(pairs, positions))
        ones = (1,) * len(weight.shape[2:])
        indicated = (*weight.shape[:2], *ones) if form.indicator == "kernel" else weight.shape
        self.indicator = nn.Parameter(weight.new_ones(indicated))

    @torch.no_grad()
    def begin(self, fan_in: int) -> None:
        """Begin with weights of variance 1 / `fan_in` where the vectors have variance 1 (DHP).

        Indicators begin as vectors do: from equal values they would all die at once.
        """
        bound = (3 / (self.w2.shape[2] * fan_in)) ** 0.5
        self.w2.uniform_(-bound, bound)
        nn.init.normal_(self.indicator)

    @torch.no_grad()
    def reproduce(self, weight: Tensor, entries: Tensor) -> None:
        """Begin with `weight`, indicators being its sizes; it shrinks as the `entries` do."""
        axes = [axis for axis in range(2, weight.ndim) if self.indicator.shape[axis] == 1]
        sizes = weight.square().mean(axes, keepdim=True) if axes else weight.square()
        mean = sizes.mean().clamp_min(torch.finfo(weight.dtype).tiny)
        self.indicator.copy_((sizes / mean).sqrt().clamp_min(SMALLEST))
        kernels = (weight / self.indicator).reshape(len(self.w1), -1, 1)
        latent = (entries[self.first][:, None] * entries[self.second]).reshape(-1, 1)
        self.w2.copy_(kernels * (self.w1 / (latent * self.w1.square().sum(1, True)))[:, None])

    def forward(self, entries: Tensor) -> Tensor:
        """Make the weight from the vectors' `entries`, the pinned one first."""
        latent = (entries[self.first][:, None] * entries[self.second]).reshape(-1, 1) + self.b0
        embedded = self.w1 * latent + self.b1
        kernels = (self.w2 * embedded[:, None]).sum(2) + self.b2
        return kernels.view(self.shape) * self.indicator


class Hypernetwork(nn.Module):
    """A network whose layers' weights are made from channel vectors and indicators.

    All vectors are one parameter: tied channels read the same entry, the s^2 channels of a pixel
    shuffle too, and what may never leave, such as the image's channels, reads a constant 1.
    Biases and norms are the network's own.
    """

    pinned: Tensor

    def __init__(
        self, model: nn.Module, layers: Sequence[Layer], channels: Channels, form: Form
    ) -> None:
        super().__init__()
        self.form = form
        self.network = copy.deepcopy(model).requires_grad_(True)
        if form.start == "fresh":
            for part in self.network.modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()  # type: ignore[operator]
        self.labels = sorted(label for family in families(channels) for label in family)
        """Which label (see `Channels`) each entry of the vector belongs to."""
        device = next(self.network.parameters()).device
        self.register_buffer("pinned", torch.ones(1, device=device), persistent=False)
        self.vector = nn.Parameter(torch.randn(len(self.labels)).to(device))
        if form.start == "weights":
            self.vector.data = self._sizes(channels).to(device)
        self.names = [x.name for x in layers if x.calls and f"{x.name}.weight" in channels.axes]
        """The layers whose weights are made."""
        fans = {x.name: x.in_channels_per_group * prod(x.kernel) for x in layers}
        self.generators = nn.ModuleList(self._generator(x, channels, fans[x]) for x in self.names)

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = functional_call(self.network, self.weights(), (image,))
        return answer

    def weights(self) -> dict[str, Tensor]:
        """Make all weights, by state-dict name."""
        entries = torch.cat([self.pinned, self.vector])
        again = self.form.checkpointed and torch.is_grad_enabled()
        return {
            f"{name}.weight": checkpoint(make, entries, use_reentrant=False)
            if again
            else make(entries)
            for name, make in zip(self.names, self.generators, strict=True)
        }

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """Return a copy of the network that holds the weights as they are made now."""
        network = copy.deepcopy(self.network).requires_grad_(True)
        own = dict(network.named_parameters())
        for name, weight in self.weights().items():
            own[name].data = weight.clone(memory_format=torch.contiguous_format)
        return network

    def indicators(self) -> list[Tensor]:
        """Return the indicators of all layers, as long as `names`."""
        return [make.get_parameter("indicator") for make in self.generators]

    def places(self) -> list[tuple[Tensor, Tensor]]:
        """Return where rows and columns of every weight stand, 0 being the pinned entry."""
        makers = self.generators
        return [(make.get_buffer("first"), make.get_buffer("second")) for make in makers]

    def _generator(self, name: str, channels: Channels, fan_in: int) -> Generator:
        weight = self.network.get_parameter(f"{name}.weight").requires_grad_(False)
        places = {label: place for place, label in enumerate(self.labels, start=1)}
        first, second = (
            torch.tensor(
                [places.get(label, 0) for label in labels.tolist()]
                if labels is not None
                else [0] * size
            )
            for labels, size in zip(
                channels.axes[f"{name}.weight"][:2], weight.shape[:2], strict=True
            )
        )
        made = Generator(weight.detach(), first, second, self.form)
        if self.form.start == "fresh":
            made.begin(fan_in)
        else:
            made.reproduce(weight.detach(), torch.cat([self.pinned, self.vector.detach()]))
        return made

    def _sizes(self, channels: Channels) -> Tensor:
        """Return the sizes of every label's filters, in parts of their family's mean square."""
        norms = magnitudes(self.network, channels, 2)
        found: dict[int, float] = {}
        for family in families(channels):
            mean = (sum(norms[label] ** 2 for label in family) / max(1, len(family))) ** 0.5 or 1.0
            found |= {label: max(SMALLEST, norms[label] / mean) for label in family}
        return torch.tensor([found[label] for label in self.labels])
