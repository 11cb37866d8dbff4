"""Refusal of weights that are NaN or infinite, before anything is computed with them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from thinlens.errors import UsageError, quoted


def check_finite(state: Mapping[str, Tensor], where: object) -> None:
    """Raise `UsageError` if a value is NaN or infinite; `where` is what holds it: a file."""
    for name, tensor in state.items():
        if not tensor.is_floating_point() or tensor.is_meta:
            continue
        broken = int((~tensor.detach().isfinite()).sum())
        if broken:
            raise UsageError(
                f"{where} is damaged: {broken:,} of {tensor.numel():,} values of {quoted(name)} "
                "are NaN or infinite"
            )


def check_finite_network(module: nn.Module) -> None:
    """Raise `UsageError` if a weight of a network is NaN or infinite, or a buffer NaN.

    Masks of attention may hold infinity.

    >>> layer = nn.Conv2d(1, 1, 1)
    >>> _ = nn.init.constant_(layer.weight, float("nan"))
    >>> check_finite_network(layer)
    Traceback (most recent call last):
    thinlens.errors.UsageError: this Conv2d is damaged: 1 of 1 values of 'weight' are NaN ...
    """
    where = f"this {type(module).__name__}"
    check_finite(dict(module.named_parameters()), where)
    unknown = {n: x for n, x in module.named_buffers() if not x.is_meta and x.isnan().any()}
    check_finite(unknown, where)
