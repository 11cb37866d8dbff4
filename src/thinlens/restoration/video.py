"""Restoration of video from a stream to a stream, one frame at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor
from torch.nn import functional as F

from thinlens.errors import UsageError
from thinlens.images.frames import (
    VideoFormat,
    decode_frame,
    encode_frame,
    from_rgb,
    read_frame,
    to_rgb,
)
from thinlens.images.rows import InMemoryRowReader
from thinlens.restoration.network import Restorer
from thinlens.restoration.photographs import luma_of


@dataclass(frozen=True)
class FrameRestorer:
    """Restores the frames of one stream. An RGB network gets RGB; a grey one luma alone, while
    chroma is enlarged by bicubic interpolation."""

    restorer: Restorer
    channels: int
    """Of the network's input, 1 or 3."""

    def planes(self, planes: list[Tensor], video: VideoFormat) -> list[Tensor]:
        """Return the planes of a restored frame, as `decode_frame` returns them."""
        if video.kind == "yuv" and self.channels == 3:
            return from_rgb(self._run(to_rgb(planes[0], planes[1], video).clamp(0, 1)), video)
        first, *rest = planes
        source = first if len(first) >= self.channels else first.expand(self.channels, -1, -1)
        result = self._run(source)
        if len(first) == 1 and len(result) == 3:
            result = luma_of(result)
        if not rest:
            return [result]
        across, down = video.subsampling
        size = (-(-result.shape[1] // down), -(-result.shape[2] // across))
        return [result, F.interpolate(rest[0][None], size, mode="bicubic", antialias=True)[0]]

    def _run(self, image: Tensor) -> Tensor:
        bands = self.restorer.bands(InMemoryRowReader(image), Tensor.contiguous)
        return torch.cat(list(bands), dim=1)


def restore_stream(
    frames: FrameRestorer,
    source: BinaryIO,
    target: BinaryIO,
    video: VideoFormat,
    *,
    start: int = 0,
    frame_done: Callable[[int], None] | None = None,
) -> int:
    """Restore the frames of `source` from number `start` on; return the number after the last.

    `frame_done` is called with that number whenever a frame is written whole; what it raises ends
    the work. The header is written before the first frame, also if there is none. An input that
    ends within a frame is a `RunError`, after all frames before are written.
    """
    number, written = 0, None
    while (content := read_frame(source, video, number)) is not None:
        if number >= start:
            planes = frames.planes(decode_frame(content, video), video)
            result = video.enlarged(_scale(planes[0], video))
            if written is None:
                target.write(result.header())
            elif written != result:
                raise UsageError(f"the network returns another size for frame {number}")
            written = result
            target.write(b"" if video.is_raw else b"FRAME\n")
            target.write(encode_frame(planes, result))
            target.flush()
        number += 1
        if frame_done:
            frame_done(number)
    if written is None:
        target.write(video.header())
        target.flush()
    return number


def _scale(plane: Tensor, video: VideoFormat) -> int:
    return plane.shape[-1] // video.width
