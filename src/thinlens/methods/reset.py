"""Weight re-initialisation: give every layer the initial weights of its own type."""

from __future__ import annotations

from torch import nn

from thinlens.errors import UsageError


def reset_parameters(module: nn.Module, *, strict: bool = False) -> None:
    """Call `reset_parameters` of every layer of `module`, in place, with torch's current seed.

    Layers without that method keep their weights; with `strict` they are a `UsageError`.
    """
    for name, layer in module.named_modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
        elif strict and next(layer.parameters(recurse=False), None) is not None:
            raise UsageError(
                f"{name or 'the network'} is a {type(layer).__name__} that cannot make fresh "
                "weights (reset_parameters): wanted the dense start"
            )
