"""Read image files safely: decode only plain 8-bit images, and refuse all others in a sentence."""

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
"""Pillow's decoders that may run on untrusted bytes; no other does."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})
"""File name endings of `FORMATS`, in lower case."""

MAX_PIXELS = 178_956_970
"""Pixels above which Pillow refuses an image as a decompression bomb: twice 1 GiB / 4 / 3."""

PLAIN_MODE = {
    **dict.fromkeys(("1", "L", "LA"), "L"),
    **dict.fromkeys(("P", "PA", "RGB", "RGBA", "RGBX"), "RGB"),
}
"""Pillow's modes of at most 8 bits of grey or RGB, and the mode to which they are converted."""

_PNG_HEADER = 25
"""Bytes up to the bit depth, which is at a fixed offset of IHDR (PNG, third edition, 11.2.1)."""

_TIFF_BITS_PER_SAMPLE = 258
"""Tag of TIFF 6.0."""
_ORIENTATION_TAG = 0x0112
"""Tag of EXIF."""
_TRANSPOSED = range(5, 9)
"""EXIF orientations that swap width and height."""

_open_lock = threading.Lock()


def read_image(path: Path, *, channels: int | None = 3, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read an image as uint8 `[C, H, W]`, RGB or grey, the way a viewer would show it.

    `channels` 3 repeats grey three times, 1 turns RGB to grey (ITU-R 601 luma, MATLAB's
    `rgb2gray`), None keeps the file's own. EXIF rotation is applied, palettes become RGB.
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
        # Pillow rotates a TIFF itself, so that its size is that after the rotation.
        rotated = image.format == "TIFF"
        transposed = not rotated and image.getexif().get(_ORIENTATION_TAG) in _TRANSPOSED
        return (width, height) if transposed else (height, width)


def is_streamable(path: Path, min_pixels: int, max_pixels: int = MAX_PIXELS) -> bool:
    """Return whether a file has at least `min_pixels` and can be decoded row by row.

    That is a PNG or JPEG in RGB or grey, upright, without alpha and not interlaced. Raises the
    `UsageError` of `read_image` where the header is refused.
    """
    with _opened(path, max_pixels) as image:
        return (
            image.width * image.height >= min_pixels
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
    """List files with an image suffix below `folder`, sorted by relative path, without hidden ones.

    A folder that is missing or has none is a `UsageError`.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: wanted one that holds images")
    paths = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(name.startswith(".") for name in path.relative_to(folder).parts)
    ]
    if not paths:
        suffixes = " ".join(sorted(SUFFIXES))
        raise UsageError(f"{folder} holds no images: wanted files that end in {suffixes}")
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


@contextmanager
def _opened(path: Path, max_pixels: float = math.inf) -> Iterator[Image.Image]:
    """Open an image and check its header; every failure is a `UsageError`."""
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        try:
            with path.open("rb") as file:
                header = file.read(_PNG_HEADER)
                image = _open_unlimited(file)
                if image.format == "PNG":
                    image.verify()  # otherwise Pillow does not check pixel checksums
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
    for warning in messages:
        log.warning("%s: %s", path, warning.message)


def _open_unlimited(file: BinaryIO) -> Image.Image:
    """Open without Pillow's pixel limit, which `max_pixels` replaces; no pixel is decoded."""
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
    # A phone's MPO has previews after the first frame; frames of other files are images.
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
    """Return the bit depth in the header: Pillow opens 16-bit RGB as if it were 8-bit."""
    if image.format == "PNG":
        return header[-1]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(np.max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, 8)))
    return 8


def _plain(image: Image.Image, path: Path) -> Image.Image:
    """Decode to mode L or RGB; alpha is dropped only if it is opaque everywhere."""
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if alpha is not None and alpha.getextrema() != (255, 255):
        raise UsageError(f"{path} is transparent in places: wanted an image without alpha")
    image.load()
    return image.convert(PLAIN_MODE[image.mode])
