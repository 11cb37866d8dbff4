"""Frames of uncompressed video: YUV4MPEG2 and raw RGB or grey, to and from pixels in [0, 1]."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thinlens.errors import RunError, UsageError

MAGIC = b"YUV4MPEG2"
MAX_HEADER = 4096
"""Bytes after which a line is no header."""

MAX_SIDE = 2**15
"""Pixels along a side; more is taken for a damaged header."""

LARGE_HEIGHT = 720
"""Rows from which a video is taken to be in the colours of BT.709; smaller ones in BT.601."""

LUMA = {601: (0.299, 0.114), 709: (0.2126, 0.0722)}
"""The weights of red and blue in luma (ITU-R BT.601 and BT.709)."""

SUBSAMPLINGS = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "411": (4, 1), "440": (1, 2)}
"""Luma samples per chroma sample, across and down."""

RAW_PIXELS = {"rgb24": (3, 8), "rgb48le": (3, 16), "gray": (1, 8), "gray16le": (1, 16)}
"""ffmpeg's names of raw pixel formats: channels and bits."""

_COLOURS = re.compile(r"(mono|420|422|444|411|440)(jpeg|mpeg2|paldv|alpha)?(?:p?(9|10|12|14|16))?")

Kind = Literal["rgb", "grey", "yuv"]


@dataclass(frozen=True)
class VideoFormat:
    """How the frames of a stream are stored."""

    width: int
    height: int
    kind: Kind
    depth: int = 8
    """Bits a sample; from 9 on they are 16-bit words, least significant byte first."""
    subsampling: tuple[int, int] = (1, 1)
    full_range: bool = False
    """Whether luma goes from 0 to the largest value (otherwise from 16 to 235 of 255)."""
    matrix: int = 601
    parameters: tuple[str, ...] = ()
    """The words of a YUV4MPEG2 header except the size; none: frames are raw."""

    @property
    def is_raw(self) -> bool:
        """Whether the stream has no headers."""
        return not self.parameters

    def enlarged(self, scale: int) -> VideoFormat:
        """Return the format of frames that are `scale` times as large, in the same colours."""
        return replace(self, width=self.width * scale, height=self.height * scale)

    def plane_sizes(self) -> list[tuple[int, int]]:
        """Return (height, width) of the planes of a frame; raw RGB is three of them in one."""
        whole = (self.height, self.width)
        if self.kind == "grey":
            return [whole]
        if self.kind == "rgb":
            return [(self.height, self.width * 3)]
        across, down = self.subsampling
        chroma = (-(-self.height // down), -(-self.width // across))
        return [whole, chroma, chroma]

    def frame_bytes(self) -> int:
        """Return the bytes of a frame without its header."""
        return sum(h * w for h, w in self.plane_sizes()) * (1 if self.depth == 8 else 2)

    def header(self) -> bytes:
        """Return the first line of the stream; empty for raw frames."""
        if self.is_raw:
            return b""
        words = [f"W{self.width}", f"H{self.height}", *self.parameters]
        return MAGIC + b" " + " ".join(words).encode() + b"\n"


def raw_format(width: int, height: int, pixels: str) -> VideoFormat:
    """Return the format of raw frames; `pixels` is a key of `RAW_PIXELS`."""
    channels, depth = RAW_PIXELS[pixels]
    return VideoFormat(width, height, "rgb" if channels == 3 else "grey", depth, full_range=True)


def read_header(stream: BinaryIO) -> VideoFormat:
    """Read the first line of a YUV4MPEG2 stream; `UsageError` where it is none.

    >>> import io
    >>> read_header(io.BytesIO(b"YUV4MPEG2 W320 H180 F25:1 Ip C420jpeg\\n")).frame_bytes()
    86400
    """
    line = stream.readline(MAX_HEADER)
    words = line.decode("ascii", errors="replace").split()
    if not line.startswith(MAGIC) or not line.endswith(b"\n"):
        raise UsageError(
            "standard input is no YUV4MPEG2 stream: wanted that (ffmpeg -f yuv4mpegpipe), or --raw "
            "WIDTHxHEIGHT for raw frames"
        )
    values = {word[0]: word[1:] for word in words[1:] if word[0] != "X"}
    sides = [values.get(key, "") for key in "WH"]
    if not all(re.fullmatch(r"[1-9]\d{0,5}", side) and int(side) <= MAX_SIDE for side in sides):
        raise UsageError(f"the YUV4MPEG2 header has no usable size: {' '.join(words)}")
    if values.get("I", "p") not in ("p", "?"):
        raise UsageError("the video is interlaced: wanted whole frames (ffmpeg -vf bwdif)")
    colours = values.get("C", "420jpeg")
    match = _COLOURS.fullmatch(colours)
    if match is None or match[2] == "alpha":
        raise UsageError(f"colours C{colours} are not known: wanted C420, C422, C444 or Cmono")
    width, height = map(int, sides)
    kept = tuple(word for word in words[1:] if word[0] not in "WH")
    return VideoFormat(
        width,
        height,
        "grey" if match[1] == "mono" else "yuv",
        int(match[3] or 8),
        SUBSAMPLINGS.get(match[1], (1, 1)),
        "XCOLORRANGE=FULL" in words,
        709 if height >= LARGE_HEIGHT else 601,
        kept or ("C420jpeg",),
    )


def read_frame(stream: BinaryIO, video: VideoFormat, number: int) -> bytes | None:
    """Return the samples of the next frame, or None at the end of the stream.

    A stream that ends within a frame, or is damaged, is a `RunError` with the frame's number.
    """
    if not video.is_raw:
        line = stream.readline(MAX_HEADER)
        if not line:
            return None
        if not line.startswith(b"FRAME") or not line.endswith(b"\n"):
            raise RunError(f"frame {number} of the input does not begin with FRAME")
    content = stream.read(video.frame_bytes())
    if not content and video.is_raw:
        return None
    if len(content) < video.frame_bytes():
        raise RunError(f"the input ends within frame {number}")
    return content


def decode_frame(content: bytes, video: VideoFormat) -> list[Tensor]:
    """Return the planes of a frame as float32: `[1, H, W]` of 0 to 1 for grey and luma, `[2, h, w]`
    of -0.5 to 0.5 for chroma, `[3, H, W]` for RGB."""
    kind = np.uint8 if video.depth == 8 else np.dtype("<u2")
    samples = torch.from_numpy(np.frombuffer(content, kind).astype(np.float32))
    if video.kind == "rgb":
        image = samples.view(video.height, video.width, 3).permute(2, 0, 1)
        return [image / (2**video.depth - 1)]
    sizes = video.plane_sizes()
    parts = torch.split(samples, [height * width for height, width in sizes])
    planes = [part.view(1, *size) for part, size in zip(parts, sizes, strict=True)]
    low, span, chroma_span = _levels(video)
    luma = ((planes[0] - low) / span).clamp(0, 1)
    if video.kind == "grey":
        return [luma]
    middle = 2 ** (video.depth - 1)
    return [luma, (torch.cat(planes[1:]) - middle) / chroma_span]


def encode_frame(planes: list[Tensor], video: VideoFormat) -> bytes:
    """Return the samples of the planes that `decode_frame` returns, rounded."""
    largest = 2**video.depth - 1
    kind = np.uint8 if video.depth == 8 else np.dtype("<u2")
    if video.kind == "rgb":
        levels = (planes[0].clamp(0, 1) * largest).round()
        return bytes(levels.permute(1, 2, 0).numpy().astype(kind).tobytes())
    low, span, chroma_span = _levels(video)
    stored = [planes[0].clamp(0, 1) * span + low]
    if video.kind == "yuv":
        stored.append(planes[1] * chroma_span + 2 ** (video.depth - 1))
    return b"".join(p.round().clamp(0, largest).numpy().astype(kind).tobytes() for p in stored)


def to_rgb(luma: Tensor, chroma: Tensor, video: VideoFormat) -> Tensor:
    """Return RGB `[3, H, W]` of luma `[1, H, W]` and chroma `[2, h, w]`, which is enlarged."""
    across, down = video.subsampling
    full = chroma
    if video.subsampling != (1, 1):
        size = (chroma.shape[1] * down, chroma.shape[2] * across)
        full = F.interpolate(chroma[None], size, mode="bicubic", antialias=True)[0]
        full = full[:, : luma.shape[1], : luma.shape[2]]
    red_weight, blue_weight = LUMA[video.matrix]
    blue, red = full[:1] * 2 * (1 - blue_weight) + luma, full[1:] * 2 * (1 - red_weight) + luma
    green = (luma - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    return torch.cat([red, green, blue])


def from_rgb(image: Tensor, video: VideoFormat) -> list[Tensor]:
    """Return luma and chroma of RGB `[3, H, W]`; chroma is the mean of the pixels that share it."""
    red_weight, blue_weight = LUMA[video.matrix]
    red, green, blue = torch.split(image, 1)
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = torch.cat(
        [(blue - luma) / (2 * (1 - blue_weight)), (red - luma) / (2 * (1 - red_weight))]
    )
    across, down = video.subsampling
    if video.subsampling != (1, 1):
        chroma = F.avg_pool2d(
            chroma[None], (down, across), ceil_mode=True, count_include_pad=False
        )[0]
    return [luma, chroma]


def _levels(video: VideoFormat) -> tuple[float, float, float]:
    """Return luma's lowest value, its span, and that of chroma (ITU-R BT.601, 2.5.3)."""
    if video.full_range:
        span = float(2**video.depth - 1)
        return 0.0, span, span
    step = float(2 ** (video.depth - 8))
    return 16 * step, 219 * step, 224 * step
