"""Conversion of CMYK, Lab and YCbCr images to sRGB through their ICC profiles (littleCMS)."""

from __future__ import annotations

import io
import logging
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms

log = logging.getLogger(__name__)

CONVERTED_MODES = ("CMYK", "LAB", "YCbCr")
"""Modes of Pillow that become RGB."""


@cache
def srgb_profile() -> bytes:
    """Return an ICC profile of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def to_srgb(image: Image.Image, profile: bytes | None, path: Path) -> Image.Image:
    """Convert an image to sRGB with relative colorimetric intent and black point compensation.

    Without a usable profile CMYK is converted by the plain formula, which a warning says, and RGB
    is taken for sRGB.
    """
    source = _profile_of(image, profile)
    if source is not None:
        try:
            converted = ImageCms.profileToProfile(
                image,
                source,
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except ImageCms.PyCMSError as error:
            log.warning("%s: its colour profile cannot be used (%s)", path, error)
        else:
            return converted if converted is not None else image
    if image.mode == "CMYK":
        log.warning("%s has no usable profile of its CMYK: converted by the plain formula", path)
    return image.convert("RGB")


def _profile_of(image: Image.Image, profile: bytes | None) -> Any:
    """Return the profile to convert from, or None."""
    if image.mode == "LAB":
        return ImageCms.createProfile("LAB")
    space = {"CMYK": b"CMYK", "RGB": b"RGB "}.get(image.mode)
    if profile is None or profile[16:20] != space:
        return None
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))
