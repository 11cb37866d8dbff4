"""Threads that read images ahead and write results behind, while the network computes.

Decoders, encoders and the engine release Python's lock. At most one image is read ahead; a result
that is computed faster than it is written waits for the writer, so that memory stays bounded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from thinlens.engine.cores import core_in_use
from thinlens.images.decoder_warnings import sort_this_thread, warnings_by_thread

_Result = TypeVar("_Result")

WRITERS = 2
"""Threads that encode: formats that collect an image before they encode it on one thread, as WebP
does, take longer than many networks."""

WAITING_BANDS = 3
"""Bands of rows that may wait for the writer."""


class CanceledError(Exception):
    """The computation of an image ended before its last band."""


class WriterEndedError(Exception):
    """The writer takes no more bands: it failed, or its image is complete."""


@dataclass(frozen=True)
class Timing:
    """How well reading, computing and writing overlapped."""

    seconds: float
    """From the first image to the last, all together."""
    network_seconds: float
    """What the network takes alone: its time, less the share of the processor that codecs took
    meanwhile."""
    codec_seconds: float
    """CPU seconds of decoding, encoding and hashing."""
    threads: int
    """Of the network, and processors that the codecs share with it."""

    @property
    def overlap(self) -> float:
        """The time as a multiple of the least: the network's, plus the codecs' on all threads.

        >>> Timing(seconds=11.0, network_seconds=8.0, codec_seconds=4.0, threads=2).overlap
        1.1
        """
        least = self.network_seconds + self.codec_seconds / self.threads
        return self.seconds / least if least > 0 else 1.0

    def as_json(self) -> dict[str, float]:
        """Return what `restore --json` prints."""
        return {
            "network_seconds": round(self.network_seconds, 3),
            "codec_seconds": round(self.codec_seconds, 3),
            "overlap": round(self.overlap, 3),
        }

    def sentence(self) -> str:
        """Return the line that `restore` prints."""
        return (
            f"network {self.network_seconds:.1f} s, codecs {self.codec_seconds:.1f} CPU s: "
            f"{self.overlap:.2f} times (network + codecs / {self.threads})"
        )


class Codecs:
    """A thread that reads and some that write, and the time that each side takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codec_seconds = self._waited = self._computed = 0.0
        self._start = time.monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(warnings_by_thread())
        pools = [ThreadPoolExecutor(n, initializer=sort_this_thread) for n in (1, WRITERS)]
        self._reader, self._writer = pools
        for pool in pools:
            self._stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        self._start = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, task: Callable[[], _Result]) -> Future[_Result]:
        """Run a task in the reading thread."""
        return self._reader.submit(self._timed, task)

    def write(self, task: Callable[[], _Result]) -> Future[_Result]:
        """Run a task in a writing thread, when fewer than `WRITERS` run."""
        return self._writer.submit(self._timed, task)

    def result(self, future: Future[_Result]) -> _Result:
        """Return a task's result, or raise its exception, when it is done."""
        start = time.monotonic()
        try:
            return future.result()
        finally:
            self._waited += time.monotonic() - start

    def send(self, bands: Iterator[Tensor], channel: BandChannel) -> None:
        """Compute bands and pass them to the writer until there are no more, or it has ended."""
        while True:
            start = time.monotonic()
            band = next(bands, None)
            computed = time.monotonic()
            self._computed += computed - start
            if band is None:
                channel.finish()
                return
            try:
                channel.put(band)
            except WriterEndedError:
                return
            finally:
                self._waited += time.monotonic() - computed

    def computed(self, task: Callable[[], _Result]) -> _Result:
        """Run a task of the network in this thread."""
        start = time.monotonic()
        try:
            return task()
        finally:
            self._computed += time.monotonic() - start

    def timing(self) -> Timing:
        """Return the times so far."""
        threads = torch.get_num_threads()
        # while this thread waited, the codecs took nothing from the network
        shared = max(0.0, self._codec_seconds - self._waited) / threads
        network = max(0.0, self._computed - shared)
        seconds = time.monotonic() - self._start
        return Timing(seconds, network, self._codec_seconds, threads)

    def _timed(self, task: Callable[[], _Result]) -> _Result:
        start = time.thread_time()
        try:
            return task()
        finally:
            with self._lock:
                self._codec_seconds += time.thread_time() - start


class BandChannel:
    """A bounded queue of bands from the thread that computes an image to the one that writes it."""

    def __init__(self, capacity: int = WAITING_BANDS) -> None:
        self._capacity = capacity
        self._bands: deque[Tensor] = deque()
        self._changed = threading.Condition()
        self._is_complete = self._is_closed = False
        self._error: Exception | None = None
        self._encoding = ExitStack()
        """The core of a writer that collects bands, from the last one on."""

    def put(self, band: Tensor) -> None:
        """Add a band, when there is room; `WriterEndedError` once `close` was called."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._bands) < self._capacity)
            if self._is_closed:
                raise WriterEndedError
            self._bands.append(band)
            self._changed.notify_all()

    def finish(self) -> None:
        """State that there are no more bands."""
        self._set("_is_complete", True)

    def fail(self, error: Exception) -> None:
        """State that there are no more bands because of an error, which the writer raises."""
        self._set("_error", error)

    def close(self) -> None:
        """State that no more bands are taken, and that nothing remains to be written."""
        self._encoding.close()
        self._set("_is_closed", True)

    def _set(self, name: str, value: Any) -> None:
        with self._changed:
            setattr(self, name, value)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the bands in their order; raise the error of `fail`."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._bands or self._is_complete or self._error is not None
                )
                if self._error is not None:
                    raise self._error
                if not self._bands:
                    self._encoding.enter_context(core_in_use())
                    return
                band = self._bands.popleft()
                self._changed.notify_all()
            yield band
