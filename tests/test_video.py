"""Video from a stream to a stream: frames whole, colours kept, memory constant, runs resumable."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cli_cases import denoising_checkpoint, sr_checkpoint
from thinlens.errors import RunError, UsageError
from thinlens.images.frames import (
    RAW_PIXELS,
    VideoFormat,
    decode_frame,
    encode_frame,
    from_rgb,
    raw_format,
    read_header,
    to_rgb,
)
from thinlens.restoration.tiled import as_restorer
from thinlens.restoration.video import FrameRestorer, restore_stream


def twice(image: Tensor) -> Tensor:
    return F.interpolate(image, scale_factor=2)


def same(image: Tensor) -> Tensor:
    return image


def stream(words: str, frames: int, size: int, seed: int = 0) -> bytes:
    generator = np.random.default_rng(seed)
    body = b"".join(b"FRAME\n" + generator.bytes(size) for _ in range(frames))
    return f"YUV4MPEG2 {words}\n".encode() + body


def through(network: Any, content: bytes, channels: int = 3, **options: Any) -> bytes:
    source, target = io.BytesIO(content), io.BytesIO()
    frames = FrameRestorer(as_restorer(network, channels), channels)
    restore_stream(frames, source, target, read_header(source), **options)
    return target.getvalue()


colours = st.sampled_from(("420jpeg", "420mpeg2", "422", "444", "411", "440", "mono", "420p10"))


@given(st.integers(1, 9), st.integers(1, 9), colours)
def test_a_frame_is_decoded_and_encoded_to_the_bit(width: int, height: int, name: str) -> None:
    header = f"YUV4MPEG2 W{width} H{height} F25:1 C{name} XCOLORRANGE=FULL\n".encode()
    video = read_header(io.BytesIO(header))
    generator = np.random.default_rng(0)
    top = 2**video.depth
    kind = np.uint8 if video.depth == 8 else "<u2"
    count = video.frame_bytes() // np.dtype(kind).itemsize
    content = generator.integers(0, top, count).astype(kind).tobytes()
    assert encode_frame(decode_frame(content, video), video) == content
    assert video.header() == header


@given(st.sampled_from(("444", "422", "420jpeg")), st.sampled_from((601, 709)), st.booleans())
def test_colours_survive_rgb(name: str, matrix: int, full_range: bool) -> None:
    """Smooth chroma inside of RGB comes back; the network's colours are those of the video."""
    from dataclasses import replace

    video = replace(
        read_header(io.BytesIO(f"YUV4MPEG2 W16 H16 C{name}\n".encode())),
        matrix=matrix,
        full_range=full_range,
    )
    luma = torch.linspace(0.3, 0.7, 256).view(1, 16, 16)
    height, width = video.plane_sizes()[1]
    chroma = torch.stack([torch.full((height, width), 0.1), torch.full((height, width), -0.05)])
    again = from_rgb(to_rgb(luma, chroma, video), video)
    torch.testing.assert_close(again[0], luma, rtol=0, atol=1e-6)
    torch.testing.assert_close(again[1], chroma, rtol=0, atol=1e-6)


def test_white_and_primaries_are_those_of_bt601() -> None:
    video = read_header(io.BytesIO(b"YUV4MPEG2 W1 H1 C444\n"))
    # ITU-R BT.601, 2.5.3: white is 235 128 128; red 81 90 240
    planes = decode_frame(bytes([235, 128, 128]), video)
    assert to_rgb(*planes, video).flatten().tolist() == pytest.approx([1, 1, 1])
    planes = decode_frame(bytes([81, 90, 240]), video)
    assert to_rgb(*planes, video).flatten().tolist() == pytest.approx([1, 0, 0], abs=0.01)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("words", "size", "large"),
    [
        ("W8 H6 F25:1 Ip A1:1 C420jpeg", 72, 288),
        ("W7 H5 F25:1 C420mpeg2", 59, 210),
        ("W8 H6 F30000:1001 C444", 144, 576),
        ("W8 H6 Cmono", 48, 192),
        ("W8 H6 C420p10 XYSCSS=420P10", 144, 576),
    ],
)
def test_frames_are_enlarged_and_counted(words: str, size: int, large: int, channels: int) -> None:
    result = through(twice, stream(words, 3, size), channels)
    header, _, body = result.partition(b"\n")
    video = read_header(io.BytesIO(stream(words, 0, 0)))
    expected = words.replace(f"W{video.width}", f"W{2 * video.width}")
    expected = expected.replace(f"H{video.height}", f"H{2 * video.height}")
    assert header.decode() == f"YUV4MPEG2 {expected}"
    assert len(body) == 3 * (6 + large)
    assert body.startswith(b"FRAME\n")


def test_luma_of_an_unchanged_frame_is_unchanged() -> None:
    content = stream("W8 H6 C420jpeg XCOLORRANGE=FULL", 2, 72)
    grey = through(same, content, 1)
    assert grey == content  # a grey network leaves chroma alone
    # saturated noise has colours outside of RGB: smooth frames have none
    body = b"".join(b"FRAME\n" + bytes([shade] * 48 + [128] * 24) for shade in (9, 99, 199))
    plain = b"YUV4MPEG2 W8 H6 C420jpeg\n" + body.replace(bytes([9] * 48), bytes([19] * 48))
    assert through(same, plain, 3) == plain


@pytest.mark.parametrize("pixels", RAW_PIXELS)
def test_raw_frames_have_no_headers(pixels: str) -> None:
    video = raw_format(4, 3, pixels)
    content = np.random.default_rng(0).bytes(2 * video.frame_bytes())
    source, target = io.BytesIO(content), io.BytesIO()
    frames = FrameRestorer(as_restorer(same, 3), 3)
    assert restore_stream(frames, source, target, video) == 2
    if pixels.startswith("rgb"):
        assert target.getvalue() == content
    assert len(target.getvalue()) == len(content)


def test_a_run_goes_on_where_another_ended() -> None:
    content = stream("W8 H6 C444", 5, 144)
    whole = through(twice, content)
    header, _, body = whole.partition(b"\n")
    rest = through(twice, content, start=3)
    assert rest == header + b"\n" + body[3 * (6 + 576) :]


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (b"", "no YUV4MPEG2 stream"),
        (b"RIFF....", "no YUV4MPEG2 stream"),
        (b"YUV4MPEG2 W8\n", "no usable size"),
        (b"YUV4MPEG2 W0 H6\n", "no usable size"),
        (b"YUV4MPEG2 W99999 H6\n", "no usable size"),
        (b"YUV4MPEG2 W8 H6 It\n", "interlaced"),
        (b"YUV4MPEG2 W8 H6 C420alpha\n", "C420alpha are not known"),
    ],
)
def test_other_streams_are_refused(header: bytes, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        read_header(io.BytesIO(header))


@pytest.mark.parametrize(
    ("cut", "sentence"), [(100, "ends within frame 1"), (-150, "ends within frame 1")]
)
def test_a_stream_that_ends_early_is_named(cut: int, sentence: str) -> None:
    content = stream("W8 H6 C444", 2, 144)
    shorter = content[:-cut] if cut > 0 else content[: len(content) + cut + 50]
    with pytest.raises(RunError, match=sentence):
        through(same, shorter)
    with pytest.raises(RunError, match="does not begin with FRAME"):
        through(same, content.replace(b"FRAME", b"FRAMX"))


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "thinlens", "pipe", *map(str, words)]


def test_the_command_line(tmp_path: Path) -> None:
    model = sr_checkpoint(tmp_path / "model")
    content = stream("W24 H16 C420jpeg", 3, 24 * 16 * 3 // 2)
    words = command("--model", model, "--engine", "torch", "--json")
    ran = subprocess.run(words, input=content, capture_output=True, check=True)
    assert ran.stdout.startswith(b"YUV4MPEG2 W48 H32 C420jpeg\nFRAME\n")
    assert len(ran.stdout) == 27 + 3 * (6 + 48 * 32 * 3 // 2)
    answer = json.loads(ran.stderr.splitlines()[-1])
    assert set(answer) == {"frames", "seconds", "frames_per_second"}
    assert answer["frames"] == 3
    bad = subprocess.run(words, input=b"no video", capture_output=True, check=False)
    assert (bad.returncode, bad.stdout) == (2, b"")
    assert "no YUV4MPEG2" in json.loads(bad.stderr.splitlines()[-1])["error"]


def test_a_killed_run_names_the_frame_to_go_on_from(tmp_path: Path) -> None:
    model = denoising_checkpoint(tmp_path / "model")
    frame = b"FRAME\n" + bytes(24 * 16)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command("--model", model, "--engine", "torch"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"YUV4MPEG2 W24 H16 Cmono\n" + 2 * frame)
    process.stdin.flush()
    header = b"YUV4MPEG2 W24 H16 Cmono\n"
    assert len(process.stdout.read(len(header) + 2 * len(frame))) == len(header) + 2 * len(frame)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.stdin.write(frame)
    process.stdin.flush()
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    written = 2 + len(rest) // len(frame)
    assert len(rest) % len(frame) == 0
    assert f"interrupted: go on with --start {written}\n".encode() in errors


def test_memory_does_not_grow_with_the_frames() -> None:
    import tracemalloc

    class Endless(io.RawIOBase):
        def __init__(self, frames: int) -> None:
            self.rest = frames * 2

        def readline(self, size: int | None = -1) -> bytes:  # type: ignore[override]
            self.rest -= 1
            return b"FRAME\n" if self.rest > 0 else b""

        def read(self, size: int = -1) -> bytes:
            self.rest -= 1
            return bytes(size)

    class Nowhere(io.RawIOBase):
        def write(self, content: Any) -> int:
            return len(content)

    video = VideoFormat(64, 48, "yuv", parameters=("C444",))
    frames = FrameRestorer(as_restorer(same, 3), 3)
    peaks = []
    for count in (5, 60):
        tracemalloc.start()
        restore_stream(frames, Endless(count), Nowhere(), video)  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] + 10_000


def ffmpeg() -> str:
    """Return the path of ffmpeg: the system's, or that of the package imageio-ffmpeg."""
    system = shutil.which("ffmpeg")
    return system or str(pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe())


def test_a_clip_keeps_its_frames_and_its_sound(tmp_path: Path) -> None:
    """Ten seconds of 320x180 between two ffmpegs, as in docs/photographs.md."""
    program, model = ffmpeg(), denoising_checkpoint(tmp_path / "model")
    sources = [
        *("-f", "lavfi", "-i", "testsrc=duration=10:size=320x180:rate=6"),
        *("-f", "lavfi", "-i", "sine=duration=10"),
    ]
    clip, result = tmp_path / "in.mkv", tmp_path / "out.mkv"
    quiet = [program, "-v", "error", "-y"]
    subprocess.run(
        [*quiet, *sources, "-pix_fmt", "yuv420p", "-c:v", "ffv1", "-c:a", "flac", clip], check=True
    )
    decode = [*quiet, "-i", clip, "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-"]
    encode = [*quiet, "-i", "-", "-i", clip, "-map", "0:v", "-map", "1:a", "-c:v", "ffv1"]
    frames = subprocess.run(decode, capture_output=True, check=True).stdout
    words = command("--model", model, "--engine", "torch")
    restored = subprocess.run(words, input=frames, capture_output=True, check=True)
    assert restored.stderr.splitlines()[-1].startswith(b"60 frames in ")
    subprocess.run([*encode, "-c:a", "copy", result], input=restored.stdout, check=True)
    probe = [program, "-i", result, "-f", "null", "-"]
    report = subprocess.run(probe, capture_output=True, check=True).stderr.decode()
    assert "320x180" in report
    assert "Audio: flac" in report
    assert re.search(r"frame= *60 ", report)
    assert "time=00:00:10.00" in report
