"""How does an image in memory go through a network?"""

from __future__ import annotations

import torch
from torch import Tensor

from thinlens.images.rows import WholeRows
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.tiled import Tiler


def restore_image(
    network: Network | Restorer,
    image: Tensor,
    channels: int | None = None,
    *,
    tile: int | None = None,
    blend: int = 0,
) -> Tensor:
    """Restore float `[C, h, w]` in [0, 1] to `[C, H, W]`, clipped to [0, 1], on the CPU.

    `channels` are the network's, by default the image's: an RGB image goes through a grey network
    channel by channel. A module runs in evaluation mode, on its own device, and is left as it was.
    Large images are cut into tiles (`Tiler` says how, and what `tile` and `blend` mean). One that
    does not fit into memory is a `UsageError` or a `RunError`, as is a result with NaN.
    """
    restorer: Restorer
    if isinstance(network, Restorer):
        restorer = network
    else:
        restorer = Tiler(network, channels or len(image), tile=tile, blend=blend)
    return torch.cat(list(restorer.bands(WholeRows(image), torch.Tensor.contiguous)), dim=1)
