"""What does restoration ask of a network?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from thinlens.images.rows import Rows

Network = Callable[[Tensor], Tensor]
"""Maps float `[B, C, h, w]` to `[B, C, scale h, scale w]`: a module, or what an engine made."""


@runtime_checkable
class Restorer(Protocol):
    """Restores images of any size its own way: in tiles, by several networks."""

    def identities(self) -> tuple[str, ...]:
        """Return names of all that results depend on but the images; manifests hold the first, or,
        of earlier versions, one of the others."""
        ...

    def bands(
        self,
        image: Rows,
        finish: Callable[[Tensor], Tensor],
        check: Callable[[], None] | None = None,
    ) -> Iterator[Tensor]:
        """Yield the result from top to bottom, as `restoration.tiled.Tiler.bands` does."""
        ...

    def account(self) -> dict[str, Any]:
        """Return what the manifest says of the last image, by the names of `Record`'s fields."""
        ...


@contextmanager
def evaluating(network: Network) -> Iterator[None]:
    """Put a module into evaluation mode and every part of it back into its own afterwards."""
    parts = list(network.modules()) if isinstance(network, nn.Module) else []
    training = [part for part in parts if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True


def device_of(network: Network) -> torch.device:
    """Return where the network's weights lie, the CPU for what has none of torch's."""
    weights = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((weight.device for weight in weights), torch.device("cpu"))
