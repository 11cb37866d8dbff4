"""How is an image file read without being fooled by it?"""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from thinlens.errors import UsageError

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""The only decoders that untrusted bytes reach."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})

MOST_PIXELS = 178_956_970
"""Pillow's own limit, 2 GiB / 4 / 3: what it takes for a decompression bomb."""

PLAIN_MODE = {
    **dict.fromkeys(("1", "L", "LA"), "L"),
    **dict.fromkeys(("P", "PA", "RGB", "RGBA", "RGBX"), "RGB"),
}
"""Pillow's modes that hold at most 8 bits of grey or RGB, and what they become."""

_PNG_HEADER = 25
"""Bytes up to and with the bit depth, which IHDR holds at a fixed place."""

_TIFF_BITS_PER_SAMPLE = 258
_ORIENTATION_TAG = 0x0112
_SIDEWAYS = range(5, 9)
"""EXIF orientations that swap width and height."""

_open_lock = threading.Lock()


def read_image(path: Path, *, channels: int | None = 3, max_pixels: int = MOST_PIXELS) -> Tensor:
    """Read an image as uint8 `[C, H, W]`, RGB or grey, the way a viewer would show it.

    `channels` 3 repeats grey three times, 1 turns RGB to grey (ITU-R 601 luma, MATLAB's
    `rgb2gray`), None keeps what the file holds. EXIF rotation is applied, palettes become RGB.
    Refused, each with one sentence: more than 8 bits a channel, CMYK and other colours, alpha that
    is not opaque everywhere, several frames, more than `max_pixels` (before decoding), anything
    truncated or damaged. Every refusal is a `UsageError` that names the file.
    """
    with _opened(path, max_pixels) as image:
        plain = ImageOps.exif_transpose(_plain(image, path))
        if channels is not None:
            plain = plain.convert("L" if channels == 1 else "RGB")
        pixels = torch.from_numpy(np.array(plain))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) as `read_image` would, without decoding a pixel."""
    with _opened(path) as image:
        width, height = image.size
        # Pillow turns a TIFF itself, so that its size is the turned one.
        turned = image.format == "TIFF"
        sideways = not turned and image.getexif().get(_ORIENTATION_TAG) in _SIDEWAYS
        return (width, height) if sideways else (height, width)


def is_plain(path: Path, least: int, max_pixels: int = MOST_PIXELS) -> bool:
    """Tell whether a file has `least` pixels and holds them as they are shown: any reader will do.

    That is a PNG or JPEG in RGB or grey, upright, without alpha and not interlaced. What
    `read_image` refuses by its header is refused here.
    """
    with _opened(path, max_pixels) as image:
        return (
            image.width * image.height >= least
            and image.format in ("PNG", "JPEG")
            and image.mode in ("L", "RGB")
            and not image.has_transparency_data
            and image.getexif().get(_ORIENTATION_TAG, 1) == 1
            and not image.info.get("interlace")
            and not image.info.get("progressive")
        )


def colour_profile(path: Path, channels: int) -> bytes | None:
    """Return the file's ICC profile if it fits an image of `channels`, so that a copy keeps it."""
    with _opened(path) as image:
        profile = image.info.get("icc_profile")
    # Bytes 16 to 20 of a profile name its colour space (ICC.1:2022, 7.2).
    fits = isinstance(profile, bytes) and profile[16:20] == (b"GRAY" if channels == 1 else b"RGB ")
    return profile if fits else None


def image_paths(folder: Path) -> list[Path]:
    """List what looks like an image below `folder`, sorted by relative path; hidden names are not.

    A folder that is missing or holds none is a `UsageError`.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: wanted one that holds images")
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        wanted = " ".join(sorted(SUFFIXES))
        raise UsageError(f"{folder} holds no images: wanted files that end in {wanted}")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


@contextmanager
def _opened(path: Path, max_pixels: float = math.inf) -> Iterator[Image.Image]:
    """Open an image and check all that its header tells; every failure is a `UsageError`."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            with path.open("rb") as file:
                header = file.read(_PNG_HEADER)
                image = _open_unlimited(file)
                if image.format == "PNG":
                    image.verify()  # Pillow checks pixel checksums only when asked to
                    image = _open_unlimited(file)
                _check_header(image, header, path, max_pixels)
                yield image
        except UsageError:
            raise
        except OSError as error:
            reason = error.strerror or error
            if isinstance(error, UnidentifiedImageError):
                reason = f"it is not one of {', '.join(FORMATS)}, or its header is damaged"
            raise UsageError(f"cannot read {path}: {reason}") from error
        except Exception as error:
            # Damaged files make Pillow raise nearly any type (struct.error, SyntaxError, ...).
            raise UsageError(f"cannot read {path}: it is damaged ({error})") from error
    for warning in told:
        log.warning("%s: %s", path, warning.message)


def _open_unlimited(file: BinaryIO) -> Image.Image:
    """Open without Pillow's pixel limit, whose place `max_pixels` takes; no pixel is decoded."""
    with _open_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_header(image: Image.Image, header: bytes, path: Path, max_pixels: float) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise UsageError(f"{path} has {width}x{height} pixels: wanted at most {max_pixels}")
    # A phone's MPO keeps previews behind the picture; other files' frames are all meant.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise UsageError(f"{path} holds {frames} frames: wanted a single image")
    bits = _bits_per_channel(image, header)
    if bits > 8:
        raise UsageError(
            f"{path} has {bits} bits a channel: wanted 8 (convert it first; bits are never "
            "dropped silently)"
        )
    if image.mode not in PLAIN_MODE:
        raise UsageError(f"{path} holds {image.mode} colours: wanted RGB or grey")


def _bits_per_channel(image: Image.Image, header: bytes) -> int:
    """Read the bit depth off the file: Pillow opens 16-bit RGB as if it were 8-bit."""
    if image.format == "PNG":
        return header[-1]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(np.max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, 8)))
    return 8


def _plain(image: Image.Image, path: Path) -> Image.Image:
    """Decode to mode L or RGB; alpha may go only if it hides nothing."""
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if alpha is not None and alpha.getextrema() != (255, 255):
        raise UsageError(f"{path} is transparent in places: wanted an image without alpha")
    image.load()
    return image.convert(PLAIN_MODE[image.mode])
