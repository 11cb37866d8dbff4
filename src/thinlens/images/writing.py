"""Write images to files, whole or not at all, in any format that has an encoder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from thinlens.errors import UsageError
from thinlens.files import atomic_write
from thinlens.images.encoders.content import Content
from thinlens.images.formats import FORMATS, ImageFormat, load_plugin
from thinlens.images.metadata import Metadata


def write_png(path: Path, image: Tensor, profile: bytes | None = None) -> None:
    """Write uint8 `[C, H, W]`, RGB or grey, as PNG; `path` changes whole or not at all.

    `profile` is the ICC profile to keep. A failing write is a `RunError` that names `path`.
    """
    channels, height, width = image.shape
    write_rows(path, (channels, height, width), [image], profile)


def write_rows(
    path: Path, shape: tuple[int, int, int], bands: Iterable[Tensor], profile: bytes | None = None
) -> None:
    """Write uint8 `bands` `[C, rows, W]` of an image of `shape`, as `write_png` does.

    Only one band is in memory. An exception of `bands` is passed on, and nothing is written then.
    """
    write_content(path, FORMATS["png"], Content(shape, bands, metadata=Metadata(icc=profile)))


def write_content(path: Path, image_format: ImageFormat, content: Content) -> None:
    """Write an image in a format; `path` changes whole or not at all.

    Raises `UsageError` where the format cannot hold it, `RunError` where it cannot be written; an
    exception of the bands is passed on.
    """
    if image_format.encoder is None:
        raise UsageError(f"{image_format.name} is not written: wanted another --format")
    _, height, width = content.shape
    if max(height, width) > image_format.max_side:
        raise UsageError(
            f"a result of {width}x{height} does not fit into {image_format.name}, which holds "
            f"{image_format.max_side} pixels a side"
        )
    load_plugin(image_format)
    with atomic_write(path) as file:
        image_format.encoder(file, content)
