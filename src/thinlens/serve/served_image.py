"""An uploaded image and its restoration: state, progress, files, and how it is stopped."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from torch import Tensor

from thinlens.images.encoders.content import Content
from thinlens.images.formats import ImageFormat
from thinlens.images.photograph import Photograph
from thinlens.restoration.options import RestoreOptions
from thinlens.restoration.photographs import Check, PhotographRestorer
from thinlens.serve.band_preview import BandPreview
from thinlens.serve.networks import NetworkChoice

ImageState = Literal["uploading", "waiting", "running", "done", "failed", "canceled"]

UNFINISHED: tuple[ImageState, ...] = ("uploading", "waiting", "running")

SECOND_DIGITS = 3
SHARE_DIGITS_SHOWN = 4


class ImageStopped(BaseException):
    """Raised between bands: the image was canceled, or takes too long, which the sentence says."""


@dataclass(frozen=True)
class UploadedImage:
    """What was uploaded, and what is to be done with it."""

    name: str
    """Of the file, as its owner calls it."""
    path: Path
    size: tuple[int, int]
    """Height and width, upright."""
    choice: NetworkChoice
    format: str = "png"
    """Of the result: a name in `FORMATS` that is written, or `same`."""

    @property
    def pixels(self) -> int:
        """Of the input."""
        return self.size[0] * self.size[1]

    @property
    def result_name(self) -> str:
        """The name under which the result is downloaded."""
        suffix = RestoreOptions(format=self.format).suffix_for(self.name)
        return f"{PurePath(self.name).stem or 'image'}{suffix}"


class ServedImage:
    """One image in the server. The worker changes it; requests read it, and may stop it."""

    def __init__(self, identity: str, folder: Path, most_seconds: float) -> None:
        self.identity, self.folder, self._most_seconds = identity, folder, most_seconds
        self.state: ImageState = "uploading"
        self.upload: UploadedImage | None = None
        self.error: str | None = None
        """Why it has no result, as one sentence."""
        self.remark: str | None = None
        """What its owner should know about the result."""
        self.preview: BandPreview | None = None
        self.result_size: tuple[int, int] | None = None
        """Height and width."""
        self.expected_seconds: float | None = None
        """Of the restoration; None where the network has not run yet."""
        self.finished: Future[None] = Future()
        """Done when there is a result or none will come."""
        self.used = time.monotonic()
        """When somebody last asked for it."""
        self._began: float | None = None
        self._seconds: float | None = None
        self._canceled = False

    @property
    def result(self) -> Path:
        """The file of the result."""
        return self.folder / "result"

    @property
    def seconds(self) -> float | None:
        """Since the restoration began, or that it took."""
        if self._seconds is not None or self._began is None:
            return self._seconds
        return time.monotonic() - self._began

    @property
    def remaining_seconds(self) -> float:
        """Expected until it is restored; 0 where nothing is known."""
        if self.state not in ("waiting", "running") or self.expected_seconds is None:
            return 0.0
        return max(0.0, self.expected_seconds - (self.seconds or 0.0))

    @property
    def share(self) -> float:
        """The part of the result that is restored."""
        return 1.0 if self.state == "done" else self.preview.share if self.preview else 0.0

    def begin(self) -> None:
        """Note that the restoration begins."""
        self.state, self._began = "running", time.monotonic()

    def cancel(self) -> None:
        """Let the restoration end at the next band."""
        self._canceled = True

    def check(self) -> None:
        """Raise `ImageStopped` if the image was canceled or has taken too long."""
        if self._canceled:
            raise ImageStopped
        if (self.seconds or 0.0) > self._most_seconds:
            raise ImageStopped(
                f"it took more than {self._most_seconds:g} s: wanted a smaller image, a faster "
                "network, or a server with a larger --max-seconds"
            )

    def end(self, state: ImageState, error: str | None = None) -> None:
        """Note how it ended; the first end counts."""
        if self.finished.done():
            return
        self._seconds = self.seconds
        self.state, self.error, self.preview = state, error, None
        self.finished.set_result(None)

    def watched(self, content: Content) -> Content:
        """Return the content whose bands are seen in the preview as they are computed."""
        self.result_size = content.shape[1:]
        self.preview = BandPreview(content.shape)
        return replace(content, bands=self._watched_bands(self.preview, content.bands))

    def _watched_bands(self, preview: BandPreview, bands: Iterable[Tensor]) -> Iterator[Tensor]:
        for band in bands:
            preview.add(band)
            yield band
            if preview.share < 1:
                self.check()

    def as_json(self) -> dict[str, Any]:
        """Return what `GET /jobs/ID` answers; sizes are (width, height)."""
        upload, preview = self.upload, self.preview
        choice = upload.choice if upload else None
        seconds = self.seconds
        return {
            "id": self.identity,
            "state": self.state,
            "name": upload.name if upload else None,
            "network": choice.network if choice else None,
            "precision": choice.precision if choice else None,
            "image_budget": choice.image_budget if choice else None,
            "beta": choice.beta if choice else None,
            "format": upload.format if upload else None,
            "size": upload.size[::-1] if upload else None,
            "result_size": self.result_size[::-1] if self.result_size else None,
            "progress": round(self.share, SHARE_DIGITS_SHOWN),
            "expected_seconds": _rounded(self.expected_seconds),
            "seconds": _rounded(seconds),
            "preview": preview
            and {
                "width": preview.size[1],
                "height": preview.size[0],
                "rows": preview.rows,
            },
            "result_name": upload.result_name if upload else None,
            "bytes": self.result.stat().st_size if self.state == "done" else None,
            "remark": self.remark,
            "error": self.error,
        }


@dataclass(frozen=True)
class WatchedRestorer(PhotographRestorer):
    """A `PhotographRestorer` of one image, whose bands can be seen while they are computed."""

    image: ServedImage

    def content(
        self, photograph: Photograph, image_format: ImageFormat, check: Check | None = None
    ) -> Content:
        return self.image.watched(super().content(photograph, image_format, check))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, SECOND_DIGITS)
