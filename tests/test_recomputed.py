"""Weights that a forward pass computes: merged before pruning, and the zeros verified after it."""

from __future__ import annotations

import copy
import threading
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from thinlens.api import prune
from thinlens.errors import UsageError
from thinlens.methods.verified import check_zeros_stay
from thinlens.models import MODELS
from thinlens.models.source import NetworkSource, set_source, source_of
from thinlens.sparsity.pattern import Pattern
from thinlens.sparsity.recomputed import merge_recomputed

EXAMPLE = (1, 3, 16, 16)


class Standardized(nn.Conv2d):
    """Weight standardisation: the weight of a subclass, without its mean."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class StandardizedResidual(Standardized):
    """No chain of layers: the input is used twice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.5 * x


class Branches(nn.Module):
    """RepVGG and ECB: branches whose sum is one convolution, which is no module."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, channels, 3, bias=False)
        self.narrow = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
        self.slope = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        variance = self.norm.running_var + self.norm.eps  # type: ignore[operator]
        gain = self.norm.weight / variance.sqrt()
        weight = self.wide.weight + F.pad(self.narrow.weight, (1, 1, 1, 1))
        bias = self.norm.bias - self.norm.running_mean * gain  # type: ignore[operator]
        y = F.conv2d(x, weight=weight * gain[:, None, None, None], bias=bias, padding=1)
        return self.slope(y)  # type: ignore[no-any-return]


class Rewriting(nn.Module):
    """SPAN: the weight of a convolution is overwritten from branches in every forward pass."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 3)
        self.eval_conv = nn.Conv2d(
            channels, channels, 3, padding=1, padding_mode="reflect"
        ).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.first.weight.data, self.second.weight.data.clone().detach()
        self.eval_conv.weight.data = F.conv2d(second, first.permute(1, 0, 2, 3)).contiguous()
        return F.leaky_relu(self.eval_conv(x), negative_slope=0.05)


class MergedOnce(nn.Module):
    """A weight that the first forward pass alone computes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.gain = nn.Conv2d(channels, channels, 1), nn.Parameter(torch.rand(1))
        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.merged:
            self.conv.weight.data = self.conv.weight.data * self.gain
            self.merged = True
        return self.conv(x)  # type: ignore[no-any-return]


class ScaledTokens(nn.Module):
    """Equalised learning rate: a linear layer on pixels whose weight is scaled in every pass."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = ScaledLinear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class ScaledLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * 0.1, self.bias)


def hooked(channels: int) -> nn.Module:
    """A convolution whose hook normalises its weight by hand."""
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    conv.direction = nn.Parameter(conv.weight.detach())
    del conv._parameters["weight"]

    def normalize(module: nn.Module, _: object) -> None:
        module.weight = module.direction / module.direction.norm()

    conv.register_forward_pre_hook(normalize)
    normalize(conv, None)
    return conv


def old(function: str, channels: int) -> nn.Module:
    with warnings.catch_warnings(action="ignore"):
        return getattr(nn.utils, function)(  # type: ignore[no-any-return]
            nn.Conv2d(channels, channels, 3, padding=1)
        )


def new(function: str, channels: int) -> nn.Module:
    return getattr(parametrizations, function)(  # type: ignore[no-any-return]
        nn.Conv2d(channels, channels, 3, padding=1)
    )


KINDS = {
    "standardized": lambda c: Standardized(c, c, 3, padding=1),
    "no chain": lambda c: StandardizedResidual(c, c, 3, padding=1),
    "branches": Branches,
    "rewriting": Rewriting,
    "merged once": MergedOnce,
    "tokens": ScaledTokens,
    "hook": hooked,
    "old weight_norm": lambda c: old("weight_norm", c),
    "old spectral_norm": lambda c: old("spectral_norm", c),
    "new weight_norm": lambda c: new("weight_norm", c),
    "new spectral_norm": lambda c: new("spectral_norm", c),
}


def network(kind: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    body = KINDS[kind](8)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), body, nn.Conv2d(8, 3, 3, padding=1)).eval()


def image(height: int = 11, width: int = 14) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_network_computes_the_same(kind: str) -> None:
    dense = network(kind)
    merged = merge_recomputed(dense, EXAMPLE)
    assert merged is not dense
    with torch.no_grad():
        expected = dense(image())
        scale = expected.max() - expected.min()
        assert (merged(image()) - expected).abs().max() <= 1e-6 * scale
    assert merge_recomputed(merged, EXAMPLE) is merged
    assert all(p.requires_grad for p in merged[1].parameters())


class ComputedBias(nn.Conv2d):
    """Swin2SR: the bias alone is computed, by a pass with branches that no recording holds."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        bias = torch.cat([self.bias[:4], torch.zeros_like(self.bias[4:])])  # type: ignore[index]
        y = F.conv2d(x, self.weight, bias, padding=1)
        return y if mask is None else y * mask.shape[0]


class TwoWays(Standardized):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x) if mask is None else x * mask.shape[0]


def test_a_computed_bias_needs_no_merging() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), ComputedBias(8, 8, 3)).eval()
    assert merge_recomputed(module, EXAMPLE) is module


def test_a_pass_that_no_recording_holds_is_one_sentence() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), TwoWays(8, 8, 3, padding=1)).eval()
    with pytest.raises(UsageError, match="cannot be merged: it does not run with them"):
        merge_recomputed(module, EXAMPLE)


@pytest.mark.parametrize("name", MODELS)
def test_our_networks_compute_no_weights_that_can_be_pruned(name: str) -> None:
    """GCANet repeats one kernel for all channels in every pass: each output sees one input."""
    entry = MODELS[name]
    module = entry.build(entry.make_config(**entry.tiny)).eval()
    assert merge_recomputed(module, (1, entry.channels, 32, 32)) is module


@pytest.mark.parametrize("kind", KINDS)
def test_another_network_of_the_class_merges_to_the_same_names(kind: str) -> None:
    """A checkpoint is loaded so: build, merge, set the tensors."""
    one = merge_recomputed(network(kind), EXAMPLE)
    other = merge_recomputed(network(kind, seed=1).train(), EXAMPLE).eval()
    frozen = merge_recomputed(network(kind).requires_grad_(False), EXAMPLE)
    shapes, of_frozen, expected = (
        {name: parameter.shape for name, parameter in merged.named_parameters()}
        for merged in (other, frozen, one)
    )
    assert shapes == of_frozen == expected
    assert list(one.state_dict()) == list(frozen.state_dict()) == list(other.state_dict())
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(image()), one(image()))
    copy.deepcopy(one)


@pytest.mark.parametrize("method", ["one-shot", "least-squares"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_zeros_of_a_pruned_network_stay(
    kind: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """field.md A2: old norms and SPAN were called pruned and ran dense."""
    dense = network(kind)
    before = copy.deepcopy(dense.state_dict())
    data = [(image(16, 16), image(16, 16))]
    options = {} if method == "one-shot" else {"pixels": 256, "preset": "uniform"}
    caplog.set_level("INFO", "thinlens")
    pruned = prune(dense, budget="1/2", m=4, method=method, data=data, **options)
    assert pruned.record["merged"]
    assert caplog.text.count("are plain parameters now") == 1
    (name,) = pruned.patterns
    pruned.module(image())
    weight = pruned.module.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    assert not weight[~pruned.patterns[name].mask].any()
    assert weight.count_nonzero() <= weight.numel() // 2
    after = dense.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_plain_network_is_returned_itself() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(), nn.Conv2d(8, 3, 3))
    assert merge_recomputed(plain, EXAMPLE) is plain
    assert plain.training


def test_a_merged_network_says_so_in_its_source() -> None:
    dense = network("branches")
    set_source(dense, NetworkSource("package.module:make"))
    source = source_of(merge_recomputed(dense, EXAMPLE))
    assert source is not None
    assert source.merged


def test_a_module_that_cannot_be_recorded_is_named() -> None:
    class Chooses(Standardized):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.mean() > -100 else x

    dense = nn.Sequential(nn.Conv2d(3, 3, 1), Chooses(3, 3, 3, padding=1))
    with pytest.raises(UsageError, match="1 computes the weights of its convolutions in every"):
        merge_recomputed(dense, EXAMPLE)


def test_zeros_that_a_forward_pass_sets_are_found() -> None:
    dense = network("rewriting")
    mask = torch.zeros(8, 8, 3, 3, dtype=torch.bool)
    with torch.no_grad():
        dense[1].eval_conv.weight.zero_()  # type: ignore[union-attr, index, operator]
    with pytest.raises(UsageError, match=r"layer '1.eval_conv' .* 576 of 576: a forward pass sets"):
        check_zeros_stay(dense, {"1.eval_conv": Pattern(mask)}, EXAMPLE)


class Recording(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        self.last = {"y": super().forward(x)}
        return self.last["y"]


def test_a_network_that_keeps_its_output_is_pruned() -> None:
    """field.md C: `copy.deepcopy` refuses a tensor with a history."""
    dense = Recording(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 3, 3))
    dense(image())
    assert prune(dense, budget="1/2", m=4, method="one-shot", size=(16, 16)).patterns


def test_a_network_that_cannot_be_copied_names_the_attribute() -> None:
    dense = network("standardized")
    dense[1].lock = threading.Lock()  # type: ignore[assignment, index, union-attr]
    with pytest.raises(UsageError, match=r"attribute '1\.lock'"):
        prune(dense, budget="1/2", m=4, method="one-shot", size=(16, 16))
