"""Prunable layers of a network: group size and dense cost, or the reason why not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Literal, get_args

from torch import nn

from thinlens.errors import UsageError, check_choice
from thinlens.models import registry_name
from thinlens.sparsity.dry_run import Call, dry_run, is_leaf
from thinlens.sparsity.layout import PRUNABLE_TYPES, PrunableModule
from thinlens.sparsity.ranks import LARGEST_M
from thinlens.sparsity.tied import incompatible_layers, tied_layers

Policy = Literal["skip", "pad", "smaller_m", "fit"]
"""How a layer is pruned whose input channels M does not divide: not at all; with a short last
group; with the largest smaller M that divides them; or (fit) with the largest divisor from 8 to M,
else with the M from 8 to 32 whose last group is the least short."""

SMALLEST_M = 4
"""The least M of policies `smaller_m` and `fit`: groups of 2 or 3 allow few patterns."""

SMALLEST_FIT = 8
"""The least M of policy `fit` for a layer with more input channels than that."""

SMALLEST_GROUP = 2
"""The least M: a group of one has nothing to prune."""

MOST_IMAGE_CHANNELS = 4
"""RGB and alpha: a layer with as many outputs as the network, and at most these, outputs the
image."""


FIRST = "it is the first convolution"
LAST = "it makes the image"
DEPTHWISE = "every output sees one input channel, which makes no group"
"""Reasons why a layer stays dense."""


@dataclass(frozen=True)
class Layer:
    """A convolution, transposed convolution or linear layer, and its dense cost.

    Costs are for one image of the measured size, summed over all calls.
    """

    name: str
    kind: str
    """conv, transposed or linear."""
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    groups: int
    m: int | None
    """Consecutive input channels in a group; None where the layer is not prunable."""
    weights: int
    """Entries of the weight."""
    macs: int
    """Multiply-adds of the dense weight."""
    bias_adds: int
    """One addition per output element, where there is a bias."""
    calls: int
    reason: str
    """Why it is not prunable; empty if it is."""
    output_positions: int = 0
    """Output pixels (rows of a linear layer); ClassPruning counts transposed layers at these."""
    before_pixel_shuffle: bool = False
    """Whether a pixel shuffle enlarges its output."""

    @property
    def prunable(self) -> bool:
        """Whether the layer is pruned N:M."""
        return not self.reason

    @property
    def in_channels_per_group(self) -> int:
        """Input channels of one output: the length that N:M groups divide."""
        return self.in_channels // self.groups


def find_layers(
    model: nn.Module,
    example: Sequence[int],
    *,
    m: int = 32,
    policy: str = "skip",
    keep_dense: Collection[str] | None = None,
) -> list[Layer]:
    """List the layers of `model` in the order they run on an input shaped `example`.

    Prunable is a layer whose input channels (per convolution group) fit groups of `m` under
    `policy`, except the layers named in `keep_dense`; by default those are the first convolution
    and the convolutions that output the image (as in SLS's tables; its text does not mention them).
    `model` is any `nn.Module`, parametrized or not, and is not changed. Layers of one weight are
    one layer under its first name, with the calls of all (`tied_layers`).

    >>> model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 3, 3))
    >>> [(layer.name, layer.m, layer.reason) for layer in find_layers(model, (1, 3, 16, 16))]
    [('0', None, 'it is the first convolution'), ('1', 32, ''), ('2', None, 'it makes the image')]
    """
    if not SMALLEST_GROUP <= m <= LARGEST_M:
        raise UsageError(f"M = {m}: wanted a group size from {SMALLEST_GROUP} to {LARGEST_M}")
    check_choice("policy", policy, get_args(Policy))
    run = dry_run(model, example)
    calls: dict[str, list[Call]] = {}
    modules: dict[str, PrunableModule] = {}
    tied, incompatible = tied_layers(model), incompatible_layers(model)
    for call in run.calls:
        if isinstance(call.module, PRUNABLE_TYPES):
            name = tied.get(call.name, call.name)
            modules.setdefault(name, call.module)
            calls.setdefault(name, []).append(call)
    for name, module in model.named_modules():
        if isinstance(module, PRUNABLE_TYPES) and is_leaf(name, module) and name not in tied:
            modules.setdefault(name, module)
    image_channels = {shape[1] for shape in run.outputs if len(shape) > 1}
    before_shuffle = {
        call.name for call, then in pairwise(run.calls) if isinstance(then.module, nn.PixelShuffle)
    }
    if keep_dense is None:
        dense = _ends(modules, list(calls), image_channels)
    else:
        dense = _requested(modules, [tied.get(name, name) for name in keep_dense])
    for name, other in incompatible.items():
        dense.setdefault(name, f"its weight is also that of {other}, a layer of another kind")
    layers = []
    for name, module in modules.items():
        reason = dense.get(name, "") if name in calls else "the network never calls it"
        measured = _measure(name, module, calls.get(name, []), images=example[0])
        grouped = _grouped(measured, m, policy, reason)
        layers.append(replace(grouped, before_pixel_shuffle=name in before_shuffle))
    return layers


def _requested(modules: Collection[str], keep_dense: Collection[str]) -> dict[str, str]:
    for name in keep_dense:
        if name not in modules:
            raise UsageError(f"keep_dense names {name!r}, which is no layer of the network")
    return dict.fromkeys(keep_dense, "kept dense on request")


def _ends(
    modules: dict[str, PrunableModule], calls: list[str], image_channels: set[int]
) -> dict[str, str]:
    """Return the reason why the first convolution and those that output the image stay dense."""
    convolutions = [name for name in calls if not isinstance(modules[name], nn.Linear)]
    dense = {}
    for name in convolutions:
        channels = modules[name].out_channels
        last = name == convolutions[-1]
        # An up-sampling layer before a pixel shuffle has more outputs than the image (RFDN's 48).
        if channels in image_channels and (last or channels <= MOST_IMAGE_CHANNELS):
            dense[name] = LAST
    if convolutions:
        dense[convolutions[0]] = FIRST
    return dense


def _measure(name: str, module: PrunableModule, calls: list[Call], images: int) -> Layer:
    """Return the dense cost of `module`; `_grouped` adds whether it is prunable."""
    if isinstance(module, nn.Linear):
        c_in, c_out, kernel, groups = module.in_features, module.out_features, (1, 1), 1
    else:
        c_in, c_out, groups = module.in_channels, module.out_channels, module.groups
        kernel = (module.kernel_size[0], module.kernel_size[1])
    transposed = isinstance(module, nn.ConvTranspose2d)
    weights = c_out * (c_in // groups) * prod(kernel)
    inputs = sum(prod(call.input_shape) for call in calls) // c_in // images
    outputs = sum(prod(call.output_shape) for call in calls) // c_out // images
    return Layer(
        name=name,
        kind="linear" if isinstance(module, nn.Linear) else "transposed" if transposed else "conv",
        in_channels=c_in,
        out_channels=c_out,
        kernel=kernel,
        groups=groups,
        m=None,
        weights=weights,
        macs=weights * (inputs if transposed else outputs),
        bias_adds=0 if module.bias is None else c_out * outputs,
        calls=len(calls),
        reason="",
        output_positions=outputs,
    )


def _grouped(layer: Layer, m: int, policy: str, reason: str) -> Layer:
    """Set the group size of `layer`, or the reason why it has none."""
    if not reason and layer.in_channels_per_group == 1:
        reason = DEPTHWISE
    size = None if reason else _group_size(layer.in_channels_per_group, m, policy)
    if size is None and not reason:
        reason = _unfit(layer.in_channels_per_group, m, policy)
    return replace(layer, m=size, reason=reason)


def _group_size(channels: int, m: int, policy: str) -> int | None:
    """Return the group size of a layer with so many input channels; None if it has none."""
    if policy == "fit":
        return _fitting_size(channels, m)
    if channels % m == 0 or policy == "pad":
        return m
    smaller = range(m, SMALLEST_M - 1, -1) if policy == "smaller_m" else ()
    return next((size for size in smaller if channels % size == 0), None)


def _fitting_size(channels: int, m: int) -> int | None:
    """Return the size up to `m` whose last group lacks fewest channels: a divisor, if any.

    Of equal ones it is the largest: larger groups allow more patterns.
    """
    if channels <= m:
        return channels if channels >= SMALLEST_M or channels == m else None
    sizes = range(min(SMALLEST_FIT, m), m + 1)
    return min(sizes, key=lambda size: (-channels % size, -size))


def _unfit(channels: int, m: int, policy: str) -> str:
    if policy == "skip":
        return f"its {channels} input channels are no multiple of M = {m}"
    if policy == "fit":
        return f"its {channels} input channels make no group of {SMALLEST_M}"
    return f"no M from {SMALLEST_M} to {m} divides {channels}"


def default_policy(model: nn.Module, m: int = 32) -> Policy:
    """Return the policy for a network: `skip`, as the papers count, or `fit`.

    `skip` is for networks of `MODELS` of which `m` divides the input channels of some layer. RFDN
    of the AIM challenge, with 50 channels, would have no prunable one.

    >>> default_policy(nn.Conv2d(48, 48, 3))
    'fit'
    """
    if registry_name(model) is None:
        return "fit"
    layers = (x for x in model.modules() if isinstance(x, PRUNABLE_TYPES))
    lengths = [
        x.weight.shape[1] if isinstance(x, nn.Linear) else x.in_channels // x.groups for x in layers
    ]
    return "skip" if any(length % m == 0 for length in lengths) else "fit"
