"""Open image files safely: only known decoders run, the header is checked before any pixel."""

from __future__ import annotations

import logging
import math
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from thinlens.errors import UsageError
from thinlens.images.bit_depth import bits_per_channel
from thinlens.images.decoder_warnings import recorded_warnings
from thinlens.images.formats import FORMATS, decoders

log = logging.getLogger(__name__)

MAX_PIXELS = 178_956_970
"""Pixels above which Pillow refuses an image as a decompression bomb: twice 1 GiB / 4 / 3."""

PLAIN_MODE = {
    **dict.fromkeys(("1", "L", "LA"), "L"),
    **dict.fromkeys(("P", "PA", "RGB", "RGBA", "RGBX"), "RGB"),
}
"""Pillow's modes of at most 8 bits of grey or RGB, and the mode to which they are converted."""

_SIGNATURE_BYTES = 32
"""The first bytes, which show what a file holds."""

_open_lock = threading.Lock()


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Turn every exception of a decoder into a `UsageError` that names the file, and log its
    warnings."""
    with recorded_warnings() as messages:
        try:
            yield
        except UsageError:
            raise
        except MemoryError:
            raise
        except OSError as error:
            reason = error.strerror or error
            if isinstance(error, UnidentifiedImageError):
                kinds = ", ".join(entry.decoder for entry in FORMATS.values() if not entry.plugin)
                reason = f"it is not one of {kinds}, or its header is damaged"
            raise UsageError(f"cannot read {path}: {reason}") from error
        except Exception as error:
            # Damaged files make Pillow raise nearly any type (struct.error, SyntaxError, ...).
            raise UsageError(f"cannot read {path}: it is damaged ({error})") from error
    for message in messages:
        log.warning("%s: %s", path, message)


def opened_file(path: Path) -> BinaryIO:
    """Open a regular file for reading."""
    check_regular(path)
    return path.open("rb")


@contextmanager
def opened(path: Path, max_pixels: float = math.inf) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """Open an image of at most 8 bits a channel in grey or RGB, and check its header.

    Yields the image and the file that it reads.

    Every failure is a `UsageError`; no pixel is decoded before the checks.
    """
    with reading_errors(path), opened_file(path) as file:
        bits = bits_per_channel(file)
        image = open_unlimited(file)
        check_size(image.size, path, max_pixels)
        check_frames(image, path)
        if bits > 8:
            raise UsageError(
                f"{path} has {bits} bits a channel: wanted 8 (convert it first; bits are never "
                "dropped silently)"
            )
        if image.mode not in PLAIN_MODE:
            raise UsageError(f"{path} holds {image.mode} colours: wanted RGB or grey")
        yield image, file


def open_unlimited(file: BinaryIO) -> Image.Image:
    """Open without Pillow's pixel limit, which `max_pixels` replaces; no pixel is decoded.

    The checksums of a PNG are verified.
    """
    image = _open(file)
    if image.format == "PNG":
        image.verify()  # otherwise Pillow does not check pixel checksums
        image = _open(file)
    return image


def _open(file: BinaryIO) -> Image.Image:
    file.seek(0)
    allowed = decoders(file.read(_SIGNATURE_BYTES))
    file.seek(0)
    with _open_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=allowed)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def check_regular(path: Path) -> None:
    """Raise `UsageError` for a pipe, a socket or a device, whose reading may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a special file: wanted an image")


def check_size(size: tuple[int, int], path: Path, max_pixels: float) -> None:
    """Raise `UsageError` for an image of too many pixels; `size` is (width, height)."""
    width, height = size
    if width * height > max_pixels:
        raise UsageError(f"{path} has {width}x{height} pixels: wanted at most {max_pixels}")


def check_frames(image: Image.Image, path: Path) -> None:
    """Raise `UsageError` for a file that holds several images."""
    # A phone's MPO has previews after the first frame; frames of other files are images.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise UsageError(f"{path} holds {frames} frames: wanted a single image")


def is_rotated_by_pillow(image: Image.Image) -> bool:
    """Return whether Pillow applies the orientation while it decodes: it does so for TIFF."""
    return isinstance(image, TiffImagePlugin.TiffImageFile)
