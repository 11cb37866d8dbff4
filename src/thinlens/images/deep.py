"""Decoding of more than 8 bits a channel, by libvips: 16-bit PNG, TIFF and AVIF, float TIFF.

HEIC is decoded by its extra.
Pillow drops the low bits of RGB images. Plain PNM, which libvips' wheel lacks, NumPy reads.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.rows import vips

log = logging.getLogger(__name__)

RGB_CHANNELS = 3
_PNM_HEADER = re.compile(rb"P([56])((?:\s+(?:#[^\n]*\n)?\s*\d+){3})\s")

_LOADERS = {"PNG": "pngload", "TIFF": "tiffload", "AVIF": "heifload"}
"""By Pillow's name of a format, the loader of libvips."""

_FULL_SCALE = {"ushort": 2**16 - 1, "uint": 2**32 - 1, "uchar": 255}
"""By libvips' sample type, the value of white."""


def decode_deep(
    path: Path, kind: str, bits: int, *, srgb: bool = False
) -> tuple[Tensor, bytes | None]:
    """Return all channels `[C, H, W]` of a file, float32, 0 to 1, as stored (not yet rotated).

    They are grey or RGB, with alpha or without, by which colours are not multiplied. The ICC
    profile is returned where colours were converted to sRGB: CMYK, Lab, and with `srgb` all that
    have a profile. `kind` is Pillow's name of the format.
    """
    if kind == "PPM":
        return _decode_pnm(path), None
    if kind == "HEIF":
        return _scaled(_decode_heic(path), "ushort", kind, bits, path), None
    library = vips()
    loader = getattr(library.Image, _LOADERS[kind])
    try:
        image = loader(str(path), fail_on="truncated")
        pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
        if pages > 1:
            raise UsageError(f"{path} holds {pages} frames: wanted a single image")
        image, converted = _as_rgb(image, path, srgb=srgb)
        samples = image.numpy()
    except library.Error as error:
        raise UsageError(f"cannot read {path}: {str(error).strip().splitlines()[-1]}") from error
    samples = samples.reshape(image.height, image.width, image.bands)
    return _scaled(samples, image.format, kind, bits, path), converted


def _as_rgb(image: Any, path: Path, *, srgb: bool) -> tuple[Any, bytes | None]:
    """Convert CMYK and Lab to 16-bit sRGB; return the profile that the image then has."""
    from thinlens.images.colour_spaces import srgb_profile

    if image.interpretation == "cmyk":
        if not image.get_typeof("icc-profile-data"):
            log.warning("%s has no profile of its CMYK: one of usual inks is assumed", path)
        options = {"embedded": True, "depth": 16, "intent": "relative"}
        return image.icc_transform("srgb", **options), srgb_profile()
    if image.interpretation in ("lab", "labs", "labq"):
        return image.colourspace("rgb16"), srgb_profile()
    if srgb and image.bands >= RGB_CHANNELS and image.get_typeof("icc-profile-data"):
        depth16 = {"embedded": True, "depth": 16, "intent": "relative"}
        return image.icc_transform("srgb", **depth16), srgb_profile()
    return image, None


def _scaled(samples: Any, sample_type: str, kind: str, bits: int, path: Path) -> Tensor:
    """Scale samples `[H, W, C]` to float32 `[C, H, W]` in [0, 1]."""
    if sample_type in _FULL_SCALE:
        white = _FULL_SCALE[sample_type]
        if kind in ("AVIF", "HEIF"):
            white -= 2 ** (16 - bits) - 1  # both decoders shift 10 and 12 bits up to 16
        scaled = samples.astype(np.float32)
        scaled /= white
    elif sample_type in ("float", "double"):
        scaled = samples.astype(np.float32)
        if not np.isfinite(scaled).all():
            raise UsageError(f"{path} holds NaN or infinity: wanted values from 0 to 1")
        if scaled.min() < 0 or scaled.max() > 1:
            log.warning("%s: values outside of 0 to 1 are clipped", path)
            scaled = scaled.clip(0, 1)
    else:
        raise UsageError(f"{path} holds {sample_type} samples: wanted unsigned ones, or floats")
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))


def _decode_heic(path: Path) -> Any:
    """Return the samples `[H, W, C]` of a HEIC, which the extra's decoder turns upright."""
    import pillow_heif

    return np.asarray(pillow_heif.open_heif(path, convert_hdr_to_8bit=False, bgr_mode=False))


def _decode_pnm(path: Path) -> Tensor:
    """Read a binary PNM with values above 255: two bytes each, high byte first (netpbm)."""
    content = path.read_bytes()
    header = _PNM_HEADER.match(content)
    if header is None:
        raise UsageError(f"cannot read {path}: its header is damaged")
    numbers = re.sub(rb"#[^\n]*\n", b" ", header[2]).split()
    width, height, largest = (int(number) for number in numbers)
    channels = RGB_CHANNELS if header[1] == b"6" else 1
    count = width * height * channels
    if len(content) - header.end() < 2 * count:
        raise UsageError(f"cannot read {path}: image file is truncated")
    samples = np.frombuffer(content, ">u2", count, header.end()).reshape(height, width, channels)
    scaled = (samples.astype(np.float64) / largest).clip(0, 1).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
