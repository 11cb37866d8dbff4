"""The command `pipe`: restore video from standard input to standard output."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from thinlens.cli import values
from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError, check_choice

log = logging.getLogger(__name__)

REPORT_SECONDS = 5.0
"""Between two lines on the speed."""


@dataclass(frozen=True, kw_only=True)
class Pipe(Verb):
    """Restore the frames of a video from standard input to standard output, in constant memory.

    Example: thinlens pipe --model realesr-animevideov3-thin < small.y4m > large.y4m

    Frames are YUV4MPEG2 (ffmpeg -f yuv4mpegpipe), with 8 to 16 bits, or raw. Frames a second are
    printed on stderr, and with --json the object, too.
    """

    ANSWER_STREAM: ClassVar[Literal["stdout", "stderr"]] = "stderr"

    model: Annotated[str, tyro.conf.arg(metavar="CHECKPOINT")]
    """A folder, or a shipped name."""
    engine: Annotated[str, tyro.conf.arg(metavar="auto|torch|native")] = "auto"
    """What runs the network: torch, the native CPU engine, or auto, the faster."""
    raw: Annotated[str | None, tyro.conf.arg(metavar="WIDTHxHEIGHT", help_behavior_hint="")] = None
    """Frames have no headers, and this size."""
    pixels: Annotated[
        str, tyro.conf.arg(metavar="rgb24|rgb48le|gray|gray16le", help_behavior_hint="")
    ] = "rgb24"
    """Of raw frames, in ffmpeg's words (default: rgb24)."""
    start: Annotated[int, tyro.conf.arg(metavar="N", help_behavior_hint="")] = 0
    """Number of the first frame that is restored and written; an interrupted run names it."""
    tile: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Longest side, in input pixels, of the tiles that frames are cut into."""

    def run(self) -> Answer:
        from thinlens.adaptive.bundle import Bundle
        from thinlens.api import load, runner
        from thinlens.images.frames import RAW_PIXELS, raw_format, read_header
        from thinlens.restoration.tiled import as_restorer
        from thinlens.restoration.video import FrameRestorer, restore_stream
        from thinlens.signals import Interrupted, deferred_signals
        from thinlens.tasks import make_task

        check_choice("--pixels", self.pixels, RAW_PIXELS)
        if self.start < 0:
            raise UsageError(f"--start {self.start}: wanted the number of a frame, 0 or more")
        loaded = load(self.model)
        if isinstance(loaded, Bundle):
            raise UsageError(f"pipe runs one network; {self.model} is a bundle")
        channels = make_task(**loaded.task).channels
        source, target = sys.stdin.buffer, sys.stdout.buffer
        if self.raw is None:
            video = read_header(source)
        else:
            height, width = values.size(self.raw, "--raw")
            video = raw_format(width, height, self.pixels)
        restorer = as_restorer(runner(loaded, self.engine), channels, tile=self.tile)
        begin = reported = time.monotonic()
        done = 0
        with deferred_signals() as stop:

            def frame_done(number: int) -> None:
                nonlocal done, reported
                done, now = number, time.monotonic()
                if now - reported > REPORT_SECONDS:
                    reported = now
                    log.info("frame %d, %.2f frames a second", done, self._speed(done, begin))
                stop.check()

            frames = FrameRestorer(restorer, channels)
            try:
                restore_stream(
                    frames, source, target, video, start=self.start, frame_done=frame_done
                )
            except Interrupted:
                log.info("interrupted: go on with --start %d", max(done, self.start))
                raise
        restored = max(0, done - self.start)
        seconds = time.monotonic() - begin
        content = {
            "frames": restored,
            "seconds": round(seconds, 3),
            "frames_per_second": round(self._speed(done, begin), 3),
        }
        line = f"{restored} frames in {seconds:.1f} s, {self._speed(done, begin):.2f} a second"
        return Answer(content, (line,))

    def _speed(self, done: int, begin: float) -> float:
        return max(0, done - self.start) / max(1e-9, time.monotonic() - begin)
