"""Decode image files of any depth and colour model to photographs: upright, in grey or RGB."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import torch
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.bit_depth import bits_per_channel, tiff_directory
from thinlens.images.colour_spaces import CONVERTED_MODES, srgb_profile, to_srgb
from thinlens.images.deep import decode_deep
from thinlens.images.metadata import Metadata, read_metadata, tiff_metadata
from thinlens.images.opening import (
    MAX_PIXELS,
    PLAIN_MODE,
    check_frames,
    check_size,
    open_unlimited,
    opened_file,
    reading_errors,
)
from thinlens.images.orientation import (
    ORIENTATION_TAG,
    TRANSPOSED,
    UPRIGHT,
    has_late_metadata,
    orientation_of,
)
from thinlens.images.photograph import Photograph
from thinlens.images.rows import MIN_STREAMED_PIXELS, InMemoryRowReader, StreamingRowReader

_IMAGE_WIDTH, _IMAGE_LENGTH = 256, 257
"""Tags of TIFF 6.0."""

_YCBCR = 6
"""TIFF's photometric interpretation."""

_FLOAT_BITS = 32

PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
"""Pillow's modes whose colours are multiplied by alpha, and those in which they are not."""

_TURNS = {
    2: lambda image: image.flip(-1),
    3: lambda image: image.flip(-1, -2),
    4: lambda image: image.flip(-2),
    5: lambda image: image.mT,
    6: lambda image: image.mT.flip(-1),
    7: lambda image: image.mT.flip(-1, -2),
    8: lambda image: image.mT.flip(-2),
}
"""By EXIF orientation, what shows an image `[C, H, W]` upright."""


@dataclass(frozen=True)
class DecodeOptions:
    """What may be read, and how."""

    max_pixels: int = MAX_PIXELS
    """Images with more are refused before they are decoded."""
    first_frame: bool = False
    """Read the first image of animations and of files with several pages."""
    srgb: bool = False
    """Convert colours to sRGB, so that no profile is needed."""


def open_photograph(path: Path, options: DecodeOptions | None = None) -> Photograph:
    """Open an image file as a viewer would show it; large plain ones are decoded by rows.

    Orientation is applied; palettes become RGB; CMYK, Lab and YCbCr become sRGB through the file's
    ICC profile; grey stays grey, and 16 bits and floats stay exact. Every refusal is a
    `UsageError` that names the file, before a pixel is decoded where the header suffices.
    """
    options = options or DecodeOptions()
    with reading_errors(path), opened_file(path) as file:
        bits = bits_per_channel(file)
        if bits > 8:
            return _open_deep(file, path, bits, options)
        image = _checked(file, path, options)
        if _is_streamable(image, file) and not (options.srgb and image.info.get("icc_profile")):
            return Photograph(StreamingRowReader(path), metadata=read_metadata(image))
        return _decoded(image, file, path, options)


def _checked(file: BinaryIO, path: Path, options: DecodeOptions) -> Image.Image:
    """Open an image of at most 8 bits a channel and check its header."""
    image = open_unlimited(file)
    check_size(image.size, path, options.max_pixels)
    if not options.first_frame:
        check_frames(image, path)
    if _is_misread(image):
        raise UsageError(
            f"{path} holds YCbCr without compression: wanted another TIFF, or a newer Pillow than "
            f"{PIL.__version__}"
        )
    if image.mode not in PLAIN_MODE and image.mode not in (*CONVERTED_MODES, *PREMULTIPLIED):
        raise UsageError(f"{path} holds {image.mode} colours: wanted RGB, grey, CMYK or Lab")
    return image


def _is_misread(image: Image.Image) -> bool:
    """Return whether Pillow takes YCbCr for RGB with a fourth byte a pixel, as versions up to 12.3
    do where libtiff does not decode it."""
    return (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _YCBCR
        and image.mode == "RGB"
        and any(tile[0] == "raw" for tile in image.tile)
    )


def _is_streamable(image: Image.Image, file: BinaryIO) -> bool:
    """Return whether an image is large, and stored as it is shown, row after row."""
    return (
        image.width * image.height >= MIN_STREAMED_PIXELS
        and find_spec("pyvips") is not None
        and image.format in ("PNG", "JPEG")
        and image.mode in ("L", "RGB")
        and not image.has_transparency_data
        and not has_late_metadata(file)
        and orientation_of(image, file) == UPRIGHT
        and not image.info.get("interlace")
        and not image.info.get("progressive")
    )


def _decoded(image: Image.Image, file: BinaryIO, path: Path, options: DecodeOptions) -> Photograph:
    """Decode an image of at most 8 bits by Pillow."""
    is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
    metadata = tiff_metadata(tiff_directory(file)) if is_tiff else Metadata()
    image.load()
    if not is_tiff:
        metadata = read_metadata(image)  # of a PNG, some stands after the pixels
    # Pillow turns a TIFF while it decodes.
    orientation = UPRIGHT if is_tiff else int(image.getexif().get(ORIENTATION_TAG, UPRIGHT))
    mode, alpha = image.mode, None
    if image.has_transparency_data or mode in PREMULTIPLIED:
        separate = image.convert(PREMULTIPLIED[mode]) if mode in PREMULTIPLIED else image
        image = separate.convert("RGBA")
        alpha = _upright(_tensor(image.getchannel("A")).float() / 255, orientation)
    if mode in CONVERTED_MODES or (options.srgb and metadata.icc and not _is_grey(mode)):
        plain = to_srgb(
            image if mode in CONVERTED_MODES else image.convert("RGB"), metadata.icc, path
        )
        metadata = replace(metadata, icc=srgb_profile())
    else:
        plain = image.convert("L" if _is_grey(mode) else "RGB")
    colours = _upright(_tensor(plain), orientation)
    return Photograph(InMemoryRowReader(colours), alpha, metadata=metadata)


def _is_grey(mode: str) -> bool:
    return PLAIN_MODE.get(PREMULTIPLIED.get(mode, mode)) == "L"


def _tensor(image: Image.Image) -> Tensor:
    """Return an image's pixels, uint8 `[C, H, W]`."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _open_deep(file: BinaryIO, path: Path, bits: int, options: DecodeOptions) -> Photograph:
    """Decode an image of more than 8 bits a channel."""
    header = _deep_header(file, path, options)
    channels, profile = decode_deep(path, header.kind, bits, srgb=options.srgb)
    channels = _upright(channels, header.orientation)
    colours = 1 if len(channels) < 3 else 3
    alpha = channels[colours : colours + 1] if len(channels) in (2, 4) else None
    if len(channels) > 4:
        raise UsageError(f"{path} has {len(channels)} channels: wanted at most RGB and alpha")
    if header.image is None:
        metadata = tiff_metadata(tiff_directory(file))
    else:
        if header.kind == "PNG":
            header.image.load()  # metadata may stand after the pixels
        metadata = read_metadata(header.image)
    if profile:
        metadata = replace(metadata, icc=profile)
    depth = _FLOAT_BITS if bits == _FLOAT_BITS else 16
    return Photograph(InMemoryRowReader(channels[:colours]), alpha, depth, metadata)


@dataclass(frozen=True)
class _DeepHeader:
    kind: str
    """Pillow's name of the format."""
    size: tuple[int, int]
    """Width and height, as stored."""
    orientation: int
    image: Image.Image | None
    """None for a TIFF, whose directory is read in its place."""


def _deep_header(file: BinaryIO, path: Path, options: DecodeOptions) -> _DeepHeader:
    """Check the header of an image of more than 8 bits a channel."""
    try:
        image: Image.Image | None = open_unlimited(file)
    except UnidentifiedImageError:
        image = None  # perhaps a TIFF whose kind of pixels Pillow does not have
    if image is not None and not options.first_frame:
        check_frames(image, path)
    if image is None or isinstance(image, TiffImagePlugin.TiffImageFile):
        directory = tiff_directory(file)
        size = (int(directory[_IMAGE_WIDTH]), int(directory[_IMAGE_LENGTH]))
        header = _DeepHeader("TIFF", size, int(directory.get(ORIENTATION_TAG, UPRIGHT)), None)
    else:
        check_size(image.size, path, options.max_pixels)
        # decoders turn AVIF and HEIC themselves
        orientation = orientation_of(image, file) if image.format == "PNG" else UPRIGHT
        header = _DeepHeader(str(image.format), image.size, orientation, image)
    check_size(header.size, path, options.max_pixels)
    return header


def photograph_size(path: Path, options: DecodeOptions | None = None) -> tuple[int, int]:
    """Return (height, width) of an image as `open_photograph` shows it, without decoding it.

    Raises the `UsageError` of an image that the header shows not to be taken.
    """
    options = options or DecodeOptions()
    with reading_errors(path), opened_file(path) as file:
        if bits_per_channel(file) > 8:
            header = _deep_header(file, path, options)
            (width, height), orientation = header.size, header.orientation
        else:
            image = _checked(file, path, options)
            # The size of a TIFF is that after Pillow has turned it.
            is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
            orientation = UPRIGHT if is_tiff else orientation_of(image, file)
            width, height = image.size
    return (width, height) if orientation in TRANSPOSED else (height, width)


def _upright(image: Tensor, orientation: int) -> Tensor:
    turn = _TURNS.get(orientation)
    return turn(image).contiguous() if turn else image
