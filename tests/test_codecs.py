"""Reading, computing and writing overlap, and nothing of one image reaches another."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cli_cases import images, run, sr_checkpoint
from thinlens.engine import cores
from thinlens.errors import RunError
from thinlens.images.decoder_warnings import (
    recorded_warnings,
    sort_this_thread,
    warnings_by_thread,
)
from thinlens.images.reading import read_image
from thinlens.restoration import job
from thinlens.restoration.codecs import (
    BandChannel,
    CanceledError,
    Codecs,
    Timing,
    WriterEndedError,
)
from thinlens.restoration.folder import restore_folder
from thinlens.restoration.options import RestoreOptions
from thinlens.tasks import make_task

SAME = make_task("restore")


# --- The channel ----------------------------------------------------------------------------------


@given(st.integers(0, 12), st.integers(1, 4))
def test_bands_arrive_in_their_order(count: int, capacity: int) -> None:
    channel = BandChannel(capacity)
    arrived: list[float] = []
    reader = threading.Thread(target=lambda: arrived.extend(float(band) for band in channel))
    reader.start()
    for index in range(count):
        channel.put(torch.tensor(float(index)))
    channel.finish()
    reader.join()
    assert arrived == list(range(count))


def test_a_failed_computation_ends_the_writer() -> None:
    channel = BandChannel()
    channel.put(torch.zeros(1))
    channel.fail(CanceledError())
    with pytest.raises(CanceledError):
        list(channel)


def test_a_writer_that_ended_takes_no_bands() -> None:
    channel = BandChannel(capacity=1)
    channel.put(torch.zeros(1))
    threading.Timer(0.05, channel.close).start()
    with pytest.raises(WriterEndedError):
        channel.put(torch.zeros(1))


# --- The times ------------------------------------------------------------------------------------


def test_codecs_overlap_with_the_network() -> None:
    def bands() -> Iterator[Tensor]:
        for _ in range(4):
            time.sleep(0.05)
            yield torch.zeros(1)

    with Codecs() as codecs:
        for _ in range(2):
            ahead = codecs.read(lambda: time.sleep(0.15))
            channel = BandChannel()
            written = codecs.write(lambda channel=channel: [time.sleep(0.04) for _ in channel])
            codecs.send(bands(), channel)
            codecs.result(written)
            codecs.result(ahead)
        timing = codecs.timing()
    # 0.4 s of network, 0.3 s of reading, 0.32 s of writing, one after another 1.02 s
    assert timing.seconds < 0.8
    assert timing.network_seconds == pytest.approx(0.4, abs=0.15)


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.integers(1, 64))
def test_the_overlap_is_that_of_the_least_time(network: float, codec: float, threads: int) -> None:
    least = network + codec / threads
    assert Timing(least, network, codec, threads).overlap == pytest.approx(1)
    assert Timing(2 * least + 1, network, codec, threads).overlap >= 1


def test_the_ratio_is_printed_and_in_json(tmp_path: Path) -> None:
    model, source = sr_checkpoint(tmp_path / "net"), images(tmp_path / "in", 2, 24, 30)
    words = ("restore", source, "--model", model, "--engine", "torch", "--out")
    assert "times (network + codecs / " in run(*words, tmp_path / "a").out
    answer = run(*words, tmp_path / "b", "--json").json
    assert answer["overlap"] > 0
    assert answer["codec_seconds"] > 0
    assert "overlap" not in run(*words, tmp_path / "b", "--json").json  # nothing was restored


@given(st.integers(1, 64), st.integers(0, 5), st.integers(1, 64))
def test_the_engine_leaves_cores_to_other_work(threads: int, busy: int, number: int) -> None:
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cores, "usable_cores", lambda: number)
        for _ in range(busy):
            stack.enter_context(cores.core_in_use())
        expected = max(1, min(threads, number - busy)) if busy else threads
        assert cores.threads_beside(threads) == expected
        stack.close()
        assert cores.threads_beside(threads) == threads


def test_a_writer_uses_a_core_from_the_last_band_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    channel, counts = BandChannel(), [cores.threads_beside(8)]
    channel.put(torch.zeros(1))
    bands = iter(channel)
    next(bands)
    counts.append(cores.threads_beside(8))
    channel.finish()
    assert next(bands, None) is None
    counts.append(cores.threads_beside(8))
    channel.close()
    assert [*counts, cores.threads_beside(8)] == [8, 8, 7, 8]


# --- A folder -------------------------------------------------------------------------------------


class Brighter(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image * 0.5 + 0.25


@pytest.mark.parametrize(
    ("file_format", "suffix"), [("png", "png"), ("webp", "webp"), ("tiff", "tif")]
)
@pytest.mark.parametrize("ahead", [True, False])
def test_results_do_not_depend_on_what_is_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool, file_format: str, suffix: str
) -> None:
    monkeypatch.setattr(job, "AHEAD_BYTES", 2**30 if ahead else 0)
    source = images(tmp_path / "in", 5, 40, 52)
    options = RestoreOptions(format=file_format, quality=100 if file_format == "webp" else None)
    outcome = restore_folder(Brighter(), SAME, source, tmp_path / "out", options=options)
    assert (outcome.done, outcome.failures) == (5, {})
    for index in range(5):
        clean = read_image(source / f"image{index}.png").float() / 255
        expected = ((clean * 0.5 + 0.25) * 255).round()
        result = read_image(tmp_path / "out" / f"image{index}.{suffix}").float()
        assert float((result - expected).abs().max()) <= 1


@pytest.mark.parametrize("is_slow", [False, True])
def test_the_seconds_of_images_add_up_to_less_than_the_run(
    is_slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results wait to be written while others are computed: that is not their time."""
    if is_slow:
        write = job.write_content
        monkeypatch.setattr(job, "write_content", lambda *a: (time.sleep(0.05), write(*a))[1])
    source = images(tmp_path / "in", 5, 60, 70)
    result = restore_folder(Brighter(), SAME, source, tmp_path / "out", options=RestoreOptions())
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["seconds"] for line in lines) <= result.seconds + 0.01


def test_a_write_that_fails_stops_the_work_and_keeps_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = images(tmp_path / "in", 4, 24, 30), tmp_path / "out"
    plain = job.write_content

    def full(path: Path, *content: object) -> None:
        if path.name == "image2.png":
            raise RunError(f"cannot write {path}: No space left on device")
        plain(path, *content)  # type: ignore[arg-type]

    monkeypatch.setattr(job, "write_content", full)
    with pytest.raises(RunError, match="No space left"):
        restore_folder(Brighter(), SAME, source, out)
    monkeypatch.undo()
    again = restore_folder(Brighter(), SAME, source, out)
    assert again.skipped >= 2
    assert again.done + again.skipped == 4


def test_no_thread_remains(tmp_path: Path) -> None:
    source = images(tmp_path / "in", 2, 24, 30)
    before = threading.active_count()
    restore_folder(Brighter(), SAME, source, tmp_path / "out")
    assert threading.active_count() == before


def test_warnings_of_two_threads_are_sorted() -> None:
    both = threading.Barrier(2)
    recorded: dict[str, list[str]] = {}

    def decode(name: str) -> None:
        sort_this_thread()
        with recorded_warnings() as messages:
            both.wait()
            warnings.warn_explicit(name, UserWarning, "file", 1, module="PIL.Image")
            both.wait()
        recorded[name] = messages

    before = list(warnings.filters)
    with warnings_by_thread():
        threads = [threading.Thread(target=decode, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert recorded == {"a": ["a"], "b": ["b"]}
    assert list(warnings.filters) == before
