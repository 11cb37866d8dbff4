"""How does one whole image go through a network?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from thinlens.errors import RunError, UsageError
from thinlens.restoration.memory import check_fits

Network = Callable[[Tensor], Tensor]
"""Maps float `[B, C, h, w]` to `[B, C, scale h, scale w]`: a module, or what an engine made."""


def restore_image(network: Network, image: Tensor, channels: int | None = None) -> Tensor:
    """Restore float `[C, h, w]` in [0, 1] to `[C, H, W]`, clipped to [0, 1], on the CPU.

    `channels` are the network's, by default the image's: an RGB image goes through a grey network
    channel by channel. A module runs in evaluation mode, on its own device, and is left as it was.
    An image that does not fit into memory is a `UsageError`, a result with NaN a `RunError`.
    """
    height, width = image.shape[-2:]
    batch = image.reshape(-1, channels or len(image), height, width).to(_device(network))
    try:
        with torch.inference_mode(), evaluating(network):
            check_fits(network, batch)
            large = network(batch)
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        raise RunError(f"a {width}x{height} image does not fit into memory as a whole") from error
    if large.ndim != batch.ndim:
        raise UsageError("the network answers something else than images: it cannot restore one")
    if not torch.isfinite(large).all():
        raise RunError("the network gave NaN or infinity: its weights may be damaged")
    return large.clamp(0, 1).flatten(0, 1).float().cpu()


def _out_of_memory(error: Exception) -> bool:
    # A CPU out of memory is a plain RuntimeError, told apart by its words alone.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate" in str(error)


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


def _device(network: Network) -> torch.device:
    weights = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((weight.device for weight in weights), torch.device("cpu"))
