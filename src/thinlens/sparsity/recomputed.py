"""Networks whose weights are the result of a computation: merge them into plain parameters.

Weight and spectral normalisation, re-parameterised branches, standardised weights: a forward pass
computes the weight of a convolution again, and overwrites what pruning has set. One forward pass
with all tensors followed finds every such weight; the module that computes it is then replaced by
plain layers with the weight's value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves

from thinlens.errors import UsageError
from thinlens.models.copying import copy_network
from thinlens.models.running import weight_like
from thinlens.models.source import set_source, source_of
from thinlens.sparsity.constant_trace import ConstantTrace, common_prefix
from thinlens.sparsity.dry_run import runnable
from thinlens.sparsity.masking import remove_parametrization, weight_first
from thinlens.sparsity.plain_layers import plain_layers

TRACED_SIDE = 64
"""Height and width, at most, of the image on which weights are followed, where the network takes
it."""

TOLERANCE = 1e-4
"""Largest change of the output by merging, as a fraction of its range: rounding."""


def merge_recomputed(module: nn.Module, example: Sequence[int]) -> nn.Module:
    """Return a copy of `module` in which every weight that a forward pass computes is a parameter.

    A network without such weights is returned itself. `example` is the shape of an input. The copy
    has the names of `module` as far as it has the layers; parameters of which a weight was computed
    are left out. The structure of the result depends on that of `module` alone, not on its values.
    Raises `UsageError` with the name of a module that cannot be replaced by plain layers.

    >>> layer = nn.utils.spectral_norm(nn.Conv2d(3, 8, 3))
    >>> sorted(merge_recomputed(nn.Sequential(layer), (1, 3, 16, 16)).state_dict())
    ['0.bias', '0.weight']
    """
    network = copy_network(module)
    modes = {part: part.training for part in network.modules()}
    network.eval()
    changed = _remove_normalisations(network)
    image, owners, written = _follow(network, example)
    if not (changed or owners or written):
        return module
    if owners or written:  # what is computed at the first forward pass alone is a parameter now
        image, owners, _ = _follow(network, example)
    with torch.no_grad():
        expected = copy_network(network)(image)
        network = _replaced(network, owners, image)
        _check_equal(network, image, expected)
    for part in network.modules():
        part.training = modes.get(part, module.training)
    source = source_of(module)
    if source is not None:
        set_source(network, replace(source, merged=True))
    return network


def _remove_normalisations(network: nn.Module) -> bool:
    """Compute weights that torch's own hooks and parametrizations compute, once and for all."""
    changed = False
    for layer in network.modules():
        for hook in list(layer._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(layer, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(layer, hook.name)
                _remove_load_hooks(layer)
            else:
                continue
            weight_first(layer)
            changed = True
        if parametrize.is_parametrized(layer):
            for name in [*layer.parametrizations]:  # type: ignore[misc]
                remove_parametrization(layer, name)
            _remove_load_hooks(layer)
            weight_first(layer)
            changed = True
    return changed


def _remove_load_hooks(layer: nn.Module) -> None:
    """Remove the normalisations' hooks on loading, which torch keeps: they expect its tensors."""
    hooks: Any = layer._load_state_dict_pre_hooks
    for key, hook in list(hooks.items()):
        origin: str = getattr(hook, "hook", hook).__module__
        if origin.startswith(nn.utils.__name__):
            del hooks[key]


@dataclass(frozen=True)
class _Owner:
    """A module that computes the weight of a convolution in its forward pass."""

    path: tuple[nn.Module, ...]
    """The modules that were running, outermost first; the last is the owner."""


def _follow(network: nn.Module, example: Sequence[int]) -> tuple[Tensor, list[_Owner], bool]:
    """Run the network once; return the image, the owners of weights and whether it set any."""
    image = small_image(network, example)
    before = {name: (p, p.detach().clone()) for name, p in network.named_parameters()}
    paths: list[tuple[nn.Module, ...]] = []
    trace = ConstantTrace(network)
    with _stack(network, trace), torch.no_grad(), runnable(image.shape), trace:
        network(image)
    for use in trace.convolutions:
        if not use.computes_weight:
            continue  # a bias that is computed may stay: it is not pruned
        paths += [
            common_prefix(use.modules, origin.modules)
            for origin in use.constants
            if origin.computed and origin.of_parameters
        ]
    after = dict(network.named_parameters())
    written = before.keys() != after.keys() or any(
        _differs(old, after[name]) for name, (_, old) in before.items()
    )
    outermost = [p for p in paths if not any(q != p and p[: len(q)] == q for q in paths)]
    distinct = {id(p[-1]): _Owner(p) for p in outermost}
    return image, list(distinct.values()), written


def _differs(old: Tensor, new: Tensor) -> bool:
    same = old.shape == new.shape and torch.allclose(old, new, rtol=0, atol=0, equal_nan=True)
    return not same


def small_image(network: nn.Module, example: Sequence[int]) -> Tensor:
    """Return an image of random values: small, if the network takes it, else shaped `example`.

    >>> small_image(nn.Conv2d(3, 3, 3), (1, 3, 180, 40)).shape
    torch.Size([1, 3, 64, 40])
    """
    kind = weight_like(network)
    generator = torch.Generator().manual_seed(0)

    def draw(shape: Sequence[int]) -> Tensor:
        return torch.rand(tuple(shape), generator=generator).to(kind)

    small = tuple(min(length, TRACED_SIDE) for length in example[2:])
    if len(example) == 4 and prod(small) < prod(example[2:]):  # [B, C, h, w]
        image = draw((1, example[1], *small))
        try:
            with torch.no_grad():
                copy_network(network)(image)
        except Exception:  # it wants another size
            return draw(example)
        return image
    return draw(example)


@contextmanager
def _stack(network: nn.Module, trace: ConstantTrace) -> Iterator[None]:
    """Keep the running modules up to date in the trace."""
    handles = []
    for part in network.modules():
        enter = part.register_forward_pre_hook(
            lambda module, _: trace.modules.append(module), prepend=True
        )
        exit_ = part.register_forward_hook(
            lambda module, _, output: trace.finish(module), always_call=True
        )
        handles += [enter, exit_]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _replaced(network: nn.Module, owners: list[_Owner], image: Tensor) -> nn.Module:
    """Return the network with every owner replaced by plain layers, at all its names."""
    names: dict[nn.Module, list[str]] = {}
    for name, part in network.named_modules(remove_duplicate=False):
        names.setdefault(part, []).append(name)
    inputs = _inputs(network, [owner.path[-1] for owner in owners], image)
    for owner in owners:
        part = owner.path[-1]
        name = names[part][0] or "the network"
        plain = plain_layers(part, name, inputs[part])
        if part is network:
            plain._forward_hooks = network._forward_hooks  # which output is kept
            return plain
        for path in names[part]:
            parent, _, child = path.rpartition(".")
            setattr(network.get_submodule(parent), child, plain)
    return network


def _inputs(
    network: nn.Module, parts: list[nn.Module], image: Tensor
) -> dict[nn.Module, tuple[Any, ...]]:
    """Return copies of the arguments of the first call of every part."""
    inputs: dict[nn.Module, tuple[Any, ...]] = {}

    def note(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = tuple(v.clone() if isinstance(v, Tensor) else v for v in args)
        inputs.setdefault(part, (*values, *kwargs.values()))

    handles = [part.register_forward_pre_hook(note, with_kwargs=True) for part in parts]
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def _check_equal(network: nn.Module, image: Tensor, expected: Any) -> None:
    """Raise `UsageError` unless the merged network computes what the original does."""
    try:
        outputs = tree_leaves(network(image))
    except Exception as failure:  # a recorded pass takes the way of the first call only
        raise UsageError(
            "the weights that this network computes in every forward pass cannot be merged: it "
            f"does not run with them ({failure}): wanted a network with plain weights"
        ) from failure
    for merged, dense in zip(outputs, tree_leaves(expected), strict=True):
        if not isinstance(dense, Tensor):
            continue
        scale = (dense.max() - dense.min()).clamp_min(torch.finfo(dense.dtype).tiny)
        error = float((merged - dense).abs().max() / scale)
        coarse = max(TOLERANCE, 16 * torch.finfo(dense.dtype).eps)
        if not error <= coarse:
            raise UsageError(
                "the weights that this network computes in every forward pass cannot be merged: "
                f"its output changed by {error:.1e} of its range: wanted a network with plain "
                "weights"
            )
