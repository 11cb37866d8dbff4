"""Restorers and networks: the protocol of what restores images, and batched inference on tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from thinlens.engine.compiled import Compiled
from thinlens.errors import RunError
from thinlens.images.rows import RowReader
from thinlens.models.running import evaluating
from thinlens.models.tile_position import TilePosition, tile_positions
from thinlens.restoration.clipping import clipped
from thinlens.restoration.failures import out_of_memory
from thinlens.restoration.free_memory import release_cached
from thinlens.restoration.sizes import pad_to, run_at_any_size, size_rule

Network = Callable[[Tensor], Tensor]
"""Maps float `[B, C, h, w]` to `[B, C, scale h, scale w]`: a module, or a compiled engine."""

EngineFactory = Callable[[nn.Module], Network]
"""Maps a module to what runs it: itself, or a compiled engine."""

TILE_BATCH = 16
"""Tiles in one forward pass: memory does not grow with the image."""


@runtime_checkable
class Restorer(Protocol):
    """Restores images of any size by its own method: by tiles, or by several networks."""

    def identities(self) -> tuple[str, ...]:
        """Return fingerprints of all that results depend on except the images.

        Manifests hold the first; the others are those of earlier versions.
        """
        ...

    def bands(
        self,
        image: RowReader,
        finish: Callable[[Tensor], Tensor],
        check: Callable[[], None] | None = None,
    ) -> Iterator[Tensor]:
        """Yield the result from top to bottom, as `restoration.tiled.Tiler.bands` does."""
        ...

    def manifest_fields(self) -> dict[str, Any]:
        """Return the fields of `ManifestRecord` that describe the last image."""
        ...


class TileTooLargeError(RunError):
    """A single tile does not fit into memory."""


def device_of(network: Network) -> torch.device:
    """Return the device of the network's parameters, the CPU if it has no torch parameters."""
    weights = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((weight.device for weight in weights), torch.device("cpu"))


def dtype_of(network: Network) -> torch.dtype:
    """Return the type of the images that a network takes: that of its first floating parameter.

    >>> dtype_of(nn.Conv2d(3, 3, 3).half())
    torch.float16
    """
    weights = network.parameters() if isinstance(network, nn.Module) else iter(())
    kinds = (weight.dtype for weight in weights if weight.is_floating_point())
    return next(kinds, torch.float32)


def run_tiles(network: Network, tiles: Tensor, positions: Sequence[TilePosition] = ()) -> Tensor:
    """Restore float tiles `[T, C, h, w]` to float32 `[T, C, H, W]` in [0, 1], on the CPU.

    The network gets them in its own type and at a size that it accepts (`sizes`).
    `positions` are those of the tiles in their image, or none where tiles are whole images. A batch
    that does not fit into memory is halved. Raises `TileTooLargeError` where a single tile does not
    fit, `RunError` for NaN or infinity in a result.
    """
    results: list[Tensor] = []
    done, batch = 0, TILE_BATCH
    while done < len(tiles):
        inputs = tiles[done : done + batch]
        result = _forward(network, inputs, positions[done : done + batch])
        if result is not None:
            results.append(result)
            done += len(inputs)
        elif len(inputs) > 1:
            batch = len(inputs) // 2
        else:
            size = f"{tiles.shape[-1]}x{tiles.shape[-2]}"
            raise TileTooLargeError(f"a tile of {size} does not fit into memory")
    return torch.cat(results)


def _forward(network: Network, inputs: Tensor, positions: Sequence[TilePosition]) -> Tensor | None:
    """Run one batch; return None if it does not fit into memory."""
    try:
        with torch.inference_mode(), evaluating(network), tile_positions(positions):
            output = run_at_any_size(network, inputs.to(device_of(network), dtype_of(network)))
            return clipped(_finite(output)).float().cpu()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    # Outside of the handler the tensors of the failed forward are released.
    release_cached(device_of(network))
    return None


def run_bands(engine: Compiled, image: Tensor) -> Iterator[Tensor]:
    """Restore a float image `[1, C, h, w]` whole; yield float32 `[1, C, rows, W]` in [0, 1].

    The engine gets it at a size that it accepts (`sizes`). Raises `RunError` for NaN or infinity.
    """
    height, width = image.shape[-2:]
    size = size_rule(engine.module).accepted(height, width)
    scale, top = 0, 0
    for band in engine.bands(pad_to(image, size)):
        scale = scale or band.shape[-1] // size[1]
        rows = band[..., : max(0, height * scale - top), : width * scale]
        top += band.shape[-2]
        if rows.shape[-2]:
            yield clipped(_finite(rows))


def _finite(output: Tensor) -> Tensor:
    """Raise unless a result is finite."""
    if not torch.isfinite(output).all():
        raise RunError("the network gave NaN or infinity: its weights may be damaged")
    return output
