"""Restoration of one image file after another: read ahead, computed here, written behind."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from thinlens.errors import RunError, UsageError
from thinlens.files import file_hash
from thinlens.images.decoding import DecodeOptions, open_photograph, photograph_size
from thinlens.images.encoders.content import Content
from thinlens.images.formats import ImageFormat
from thinlens.images.opening import check_regular
from thinlens.images.photograph import Photograph
from thinlens.images.rows import InMemoryRowReader, StreamingRowReader
from thinlens.images.writing import write_content
from thinlens.restoration.codecs import BandChannel, CanceledError, Codecs
from thinlens.restoration.memory_budget import MemoryBudget
from thinlens.restoration.photographs import PhotographRestorer

AHEAD_BYTES = 2**29
"""Most bytes of an image that is decoded ahead."""

AHEAD_SHARE = 4
"""An image that is decoded ahead takes one part in so many of what a forward pass may take."""

DECODED_BYTES = 12
"""Bytes a pixel of an image that is decoded whole: RGB in floats."""


@dataclass(frozen=True)
class FileState:
    """Size and SHA-256 of a file, or why there is none."""

    size: int | None = None
    sha256: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Job:
    """The restoration of files with the same network and options."""

    restorer: PhotographRestorer
    stored: Callable[[], None] | None = None
    """Passes a result on that was written; called in the writing thread."""

    def ahead(self, path: Path) -> Photograph | str | None:
        """Decode an image in the reading thread; return None if that takes too much memory.

        Also returned is the reason why it cannot be decoded.
        """
        budget = MemoryBudget.parse(self.restorer.options.memory)
        share = budget.forward_bytes(torch.device("cpu"))
        most = AHEAD_BYTES if share is None else min(AHEAD_BYTES, share // AHEAD_SHARE)
        try:
            with image_errors():
                height, width = photograph_size(path, self._decoding)
                if height * width * DECODED_BYTES > most:
                    return None
                photograph = open_photograph(path, self._decoding)
                colours = photograph.colours
                if isinstance(colours, StreamingRowReader):
                    colours = InMemoryRowReader(colours.rows(0, height))
                return replace(photograph, colours=colours)
        except _NoResultError as error:
            return str(error)

    def start(
        self,
        path: Path,
        photograph: Photograph | str | None,
        target: Path,
        codecs: Codecs,
        check: Callable[[], None],
    ) -> Future[FileState]:
        """Compute the result of an image; return the state of its file, once it is written.

        `photograph` is what `ahead` returned. Reasons that concern this image alone are an `error`;
        a failed write is the future's `RunError`.
        """
        if isinstance(photograph, str):
            return _completed(FileState(error=photograph))
        image_format = self.restorer.options.format_for(path.name)
        try:
            with image_errors():
                opened = photograph or open_photograph(path, self._decoding)
                content = codecs.computed(
                    lambda: self.restorer.content(opened, image_format, check)
                )
        except _NoResultError as error:
            return _completed(FileState(error=str(error)))
        channel = BandChannel()
        written = codecs.write(
            partial(self._write, target, image_format, replace(content, bands=channel), channel)
        )
        try:
            codecs.send(_guarded(content.bands), channel)
        except _NoResultError as error:
            channel.fail(error)
        except BaseException:
            channel.fail(CanceledError())
            raise
        return written

    def _write(
        self, target: Path, image_format: ImageFormat, content: Content, channel: BandChannel
    ) -> FileState:
        """Write one result in the writing thread."""
        try:
            write_content(target, image_format, content)
            state = file_state(target)
            if self.stored:
                self.stored()
            return state
        except (_NoResultError, UsageError) as error:
            return FileState(error=str(error))
        except CanceledError:
            return FileState(error="interrupted")
        except RunError as error:
            # A name that is too long concerns this image alone; a full disk concerns all.
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG:
                return FileState(error=str(error))
            raise
        finally:
            channel.close()

    @property
    def _decoding(self) -> DecodeOptions:
        options = self.restorer.options
        return DecodeOptions(options.max_pixels, options.first_frame, srgb=options.strip)


def file_state(path: Path) -> FileState:
    """Return a file's size and SHA-256, none if it cannot be read."""
    try:
        check_regular(path)
        return FileState(path.stat().st_size, file_hash(path))
    except (OSError, UsageError):
        return FileState()


def _completed(state: FileState) -> Future[FileState]:
    future: Future[FileState] = Future()
    future.set_result(state)
    return future


class _NoResultError(Exception):
    """An image cannot be read or restored: the others go on, unlike after a failed write."""


@contextmanager
def image_errors() -> Iterator[None]:
    """Turn whatever is raised for one image into an error that concerns it alone."""
    try:
        yield
    except (UsageError, RunError) as error:
        raise _NoResultError(str(error)) from error
    except Exception as error:  # whatever the code of a network or a restorer raises
        raise _NoResultError(f"{type(error).__name__}: {error}") from error


def _guarded(bands: Iterable[Tensor]) -> Iterator[Tensor]:
    with image_errors():
        yield from bands
