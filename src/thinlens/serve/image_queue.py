"""The queue of the server: one thread restores the uploaded images, one after another.

It runs the code of `restore` (`restoration.job`): the same reading, limits and writing. While a
result is encoded, the network computes the next image.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from http import HTTPStatus
from pathlib import Path

from thinlens.errors import UsageError
from thinlens.restoration.clipping import clipping_sentence, counted_clipping
from thinlens.restoration.codecs import Codecs
from thinlens.restoration.forecast import FORECAST_SIDE
from thinlens.restoration.job import FileState, Job
from thinlens.restoration.options import RestoreOptions
from thinlens.serve.limits import ServerLimits
from thinlens.serve.networks import NetworkChoice, NetworkTable
from thinlens.serve.refusals import RefusedError
from thinlens.serve.served_image import (
    UNFINISHED,
    ImageStopped,
    ServedImage,
    UploadedImage,
    WatchedRestorer,
)

IDENTITY_BYTES = 12
"""Random bytes of an image's name, which nobody guesses."""

SWEEP_SECONDS = 5.0
"""Between two looks at results that are no longer used."""

CLOSE_SECONDS = 10.0
"""For which the end of the server waits for the current band."""

MOST_UNWRITTEN_RESULTS = 1
"""Results that are computed and not written yet, at most."""


class ImageQueue:
    """Images from their upload to the removal of their results, which are below `folder`."""

    def __init__(self, networks: NetworkTable, folder: Path, limits: ServerLimits) -> None:
        self._networks, self._folder, self._limits = networks, folder, limits
        self._images: dict[str, ServedImage] = {}
        self._waiting: deque[ServedImage] = deque()
        self._unmeasured: deque[NetworkChoice] = deque()
        self._unusable: dict[NetworkChoice, str] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self.codecs = Codecs()
        """The threads that read and write images."""
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._work,), name="thinlens-serve", daemon=True
        )
        self.counts = dict.fromkeys(("done", "failed", "canceled"), 0)
        """Images that were taken, by how they ended."""

    def start(self) -> None:
        """Start the threads; called by the main thread."""
        self.codecs.__enter__()
        self._thread.start()

    def cancel_all(self) -> None:
        """Cancel every image, and take no more."""
        with self._changed:
            self._is_closed = True
            for image in list(self._images.values()):
                self._cancel(image)
            self._changed.notify_all()

    def close(self) -> None:
        """Cancel every image, and end the threads."""
        self.cancel_all()
        self._thread.join(CLOSE_SECONDS)
        self.codecs.__exit__()

    def reserve(self) -> ServedImage:
        """Return a new image with a folder for its files; `RefusedError` where too many wait."""
        with self._changed:
            unfinished = sum(image.state in UNFINISHED for image in self._images.values())
            if self._is_closed:
                raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the server stops")
            if unfinished >= self._limits.waiting:
                raise RefusedError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    f"the queue is full: {unfinished} images are not finished; try again later",
                )
            identity = secrets.token_hex(IDENTITY_BYTES)
            folder = self._folder / identity
            folder.mkdir()
            image = ServedImage(identity, folder, self._limits.seconds)
            self._images[identity] = image
            return image

    def submit(self, image: ServedImage, upload: UploadedImage) -> None:
        """Let an image wait for its turn."""
        with self._changed:
            if self._is_closed:
                raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the server stops")
            image.upload, image.state = upload, "waiting"
            image.expected_seconds = self._expected(upload.choice, upload.pixels)
            self._waiting.append(image)
            self._changed.notify_all()

    def image(self, identity: str) -> ServedImage:
        """Return the image of that name, and keep it longer; `RefusedError` where there is none."""
        image = self._images.get(identity)
        if image is None:
            raise RefusedError(
                HTTPStatus.NOT_FOUND, "there is no such image: it was removed, or never sent"
            )
        image.used = time.monotonic()
        return image

    def remove(self, image: ServedImage) -> None:
        """Cancel an image, whatever its state, and remove its files."""
        with self._changed:
            self._images.pop(image.identity, None)
            self._cancel(image)
        if image.finished.done():
            shutil.rmtree(image.folder, ignore_errors=True)

    def before(self, image: ServedImage) -> tuple[int, float]:
        """Return how many images are restored before this one, and their expected seconds."""
        with self._changed:
            earlier = [x for x in self._images.values() if x.state == "running" and x is not image]
            if image.state == "waiting" and image in self._waiting:
                earlier += list(self._waiting)[: self._waiting.index(image)]
            elif image.state != "waiting":
                return 0, 0.0
            return len(earlier), sum(x.remaining_seconds for x in earlier)

    def estimate(self, choice: NetworkChoice, pixels: int) -> tuple[float | None, float]:
        """Return the expected seconds of an image, and those until its turn.

        The first are None where the network has not run yet: it is measured once no image waits.
        Raises `UsageError` where it cannot run.
        """
        self._networks.check(choice)
        with self._changed:
            measured = choice.plain
            reason = self._unusable.pop(measured, None)
            if reason is not None:
                raise UsageError(reason)
            seconds = self._expected(choice, pixels)
            if seconds is None and measured not in self._unmeasured:
                self._unmeasured.append(measured)
                self._changed.notify_all()
            return seconds, sum(image.remaining_seconds for image in self._images.values())

    def _expected(self, choice: NetworkChoice, pixels: int) -> float | None:
        speed = self._networks.speed(choice)
        return None if speed is None else speed * pixels

    def _cancel(self, image: ServedImage) -> None:
        """Cancel an image; the lock is held."""
        image.cancel()
        if image in self._waiting:
            self._waiting.remove(image)
        if image.state in ("uploading", "waiting"):
            self._end(image, "canceled")

    def _work(self) -> None:
        unwritten: deque[Future[FileState]] = deque()
        while (task := self._next()) is not None:
            written = task()
            if written is not None:
                unwritten.append(written)
            while len(unwritten) > MOST_UNWRITTEN_RESULTS:
                unwritten.popleft().exception()

    def _next(self) -> Callable[[], Future[FileState] | None] | None:
        """Return what is to be done next, as soon as there is something; None at the end."""
        with self._changed:
            while not self._is_closed:
                self._sweep()
                if self._waiting:
                    image = self._waiting.popleft()
                    image.begin()
                    return partial(self._restore, image)
                if self._unmeasured:
                    return partial(self._measure, self._unmeasured.popleft())
                self._changed.wait(SWEEP_SECONDS)
        return None

    def _measure(self, choice: NetworkChoice) -> None:
        """Read a network and time it."""
        try:
            self._networks.running(choice)
        except Exception as error:  # of whatever a network or a damaged file raises
            self._unusable[choice] = _sentence(error)

    def _restore(self, image: ServedImage) -> Future[FileState] | None:
        """Compute an image; return the state of its file, once that is written."""
        upload = image.upload
        if upload is None:
            raise ValueError("an image that was not uploaded waits")
        try:
            image.check()
            network = self._networks.running(upload.choice)
            image.expected_seconds = self._expected(upload.choice, upload.pixels)
            began = time.monotonic()
            options = RestoreOptions(format=upload.format, max_pixels=self._limits.pixels)
            restorer = WatchedRestorer(network.restorer, network.task.channels, options, image)
            with counted_clipping() as clipping:
                written = Job(restorer).start(
                    upload.path, None, image.result, self.codecs, image.check
                )
        except ImageStopped as stop:
            self._end(image, "failed" if str(stop) else "canceled", str(stop) or None)
            return None
        except Exception as error:
            self._end(image, "failed", _named(_sentence(error), upload, image))
            return None
        if upload.pixels >= FORECAST_SIDE**2:
            self._networks.note_speed(upload.choice, (time.monotonic() - began) / upload.pixels)
        if clipping.is_notable:
            image.remark = clipping_sentence({upload.name: clipping.share})
        written.add_done_callback(partial(self._written, image, upload))
        return written

    def _written(self, image: ServedImage, upload: UploadedImage, state: Future[FileState]) -> None:
        failure = state.exception()
        error = _sentence(failure) if failure else state.result().error
        self._end(image, "failed" if error else "done", error and _named(error, upload, image))

    def _end(self, image: ServedImage, state: str, error: str | None = None) -> None:
        with self._changed:
            if image.finished.done():
                return
            removed = image.identity not in self._images
            outcome = "canceled" if removed else state
            image.end(outcome, error)  # type: ignore[arg-type]
            self.counts[outcome] += image.upload is not None  # else it was refused
        if removed:
            shutil.rmtree(image.folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove finished images that are no longer used, or too many; the lock is held."""
        now = time.monotonic()
        finished = [x for x in self._images.values() if x.finished.done()]
        finished.sort(key=lambda image: image.used)
        surplus = len(finished) - self._limits.results
        for index, image in enumerate(finished):
            if index < surplus or now - image.used > self._limits.kept_seconds:
                del self._images[image.identity]
                shutil.rmtree(image.folder, ignore_errors=True)


def _sentence(error: BaseException) -> str:
    """Return what is shown of an error."""
    if isinstance(error, MemoryError):
        return "there is not enough memory: wanted a smaller image"
    return " ".join(str(error).split()) or type(error).__name__


def _named(sentence: str, upload: UploadedImage, image: ServedImage) -> str:
    """Return a sentence in which an image is called by its owner's name for it."""
    for path in (upload.path, image.result):
        sentence = sentence.replace(str(path), upload.name)
    return sentence
