"""Forecast of a folder's restoration: names and sizes of results, seconds and bytes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from thinlens.errors import UsageError
from thinlens.images.decoding import DecodeOptions, photograph_size
from thinlens.images.rows import InMemoryRowReader
from thinlens.restoration.folder import is_file_name
from thinlens.restoration.folder_run import input_record
from thinlens.restoration.manifest import ResultManifest
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.object_stores import object_url
from thinlens.restoration.options import RestoreOptions
from thinlens.restoration.sources import collect_inputs, result_names
from thinlens.tasks.task import Task

FORECAST_SIDE = 192
"""Side in pixels of the noise on which the network's speed is measured."""

BYTES_PER_PIXEL = {"png": 1.5, "jpeg": 0.6, "webp": 0.4, "tiff": 2.2, "jxl": 0.5, "avif": 0.4}
"""Of results in RGB with 8 bits, roughly: of photographs at the default qualities."""

State = Literal["restore", "done", "refused"]


@dataclass(frozen=True)
class PlannedImage:
    """What would be done with one image; sizes are (width, height) in pixels."""

    path: str
    output: str
    state: State
    size: tuple[int, int] | None = None
    result_size: tuple[int, int] | None = None
    reason: str = ""
    """Why it is refused."""


@dataclass(frozen=True)
class Forecast:
    """What `restore` would do."""

    images: tuple[PlannedImage, ...]
    not_taken: tuple[str, ...]
    seconds: float
    """Of the images that would be restored, measured on a small input."""
    bytes: int
    """Of their results, roughly."""
    free_bytes: int
    """On the disk of the results."""

    def count(self, state: State) -> int:
        """Return how many images have this state."""
        return sum(image.state == state for image in self.images)

    def as_json(self) -> dict[str, Any]:
        """Return what `restore --dry-run --json` prints."""
        return {
            "done": 0,
            "failed": self.count("refused"),
            "skipped": self.count("done"),
            "seconds": round(self.seconds, 3),
            "not_taken": list(self.not_taken),
            "failures": {i.path: i.reason for i in self.images if i.state == "refused"},
            "planned": [
                {"path": i.path, "output": i.output, "size": i.size, "result_size": i.result_size}
                for i in self.images
                if i.state == "restore"
            ],
            "bytes": self.bytes,
            "free_bytes": self.free_bytes,
        }


def forecast(
    network: Network | Restorer,
    task: Task,
    source: Path | Sequence[Path],
    out: Path,
    *,
    options: RestoreOptions | None = None,
) -> Forecast:
    """Return what `restore_folder` would do with the same arguments; nothing is written.

    Headers are read, and the network runs on small noise to measure its speed. Raises the
    `UsageError` that `restore_folder` would.
    """
    options = options or RestoreOptions()
    if is_file_name(out):
        raise UsageError(f"{out} is the name of one image: a dry run wants a folder as --out")
    sources = [source] if isinstance(source, Path) else list(source)
    for path in (*sources, out):
        if url := object_url(path):
            raise UsageError(f"{url} is on an object store: a dry run reads headers of files")
    restorer = options.restorer(network, task.channels)
    inputs = collect_inputs(sources, out)
    outputs = result_names(list(inputs.paths), options.suffix_for)
    inputs.check_results(out, outputs)
    manifest, identities = ResultManifest(out), restorer.identities()
    images = []
    for name, path in inputs.paths.items():
        record = input_record(name, path, outputs[name], identities, options)
        if manifest.is_done(record, identities):
            images.append(PlannedImage(name, outputs[name], "done"))
        else:
            images.append(_planned(path, name, outputs[name], task, options))
    pending = [image for image in images if image.state == "restore"]
    seconds = seconds_per_pixel(restorer, task) if pending else 0.0
    pixels = sum(_network_pixels(image, task.scale) for image in pending)
    size = sum(_result_bytes(image, options) for image in pending)
    free = shutil.disk_usage(
        next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    )
    return Forecast(tuple(images), inputs.not_taken, pixels * seconds, size, free.free)


def _planned(
    path: Path, name: str, output: str, task: Task, options: RestoreOptions
) -> PlannedImage:
    try:
        height, width = photograph_size(
            path, DecodeOptions(options.max_pixels, options.first_frame)
        )
    except UsageError as error:
        return PlannedImage(name, output, "refused", reason=str(error))
    wanted = options.result_size
    scaled = (height * task.scale, width * task.scale)
    below, right = scaled if wanted is None else wanted.of(height, width)
    return PlannedImage(name, output, "restore", (width, height), (right, below))


def seconds_per_pixel(restorer: Restorer, task: Task) -> float:
    """Return the seconds of an input pixel, measured on small noise at its second run."""
    noise = torch.rand(task.channels, FORECAST_SIDE, FORECAST_SIDE, generator=torch.Generator())
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        for _ in restorer.bands(InMemoryRowReader(noise), torch.Tensor.contiguous):
            pass
        seconds = time.perf_counter() - start
    return seconds / FORECAST_SIDE**2


def _network_pixels(image: PlannedImage, scale: int) -> int:
    """Return the pixels that the network gets, over all its passes."""
    if image.size is None or image.result_size is None:
        return 0
    width, height = image.size
    total = width * height
    while scale > 1 and width * scale < image.result_size[0]:
        width, height = width * scale, height * scale
        total += width * height
    return total


def _result_bytes(image: PlannedImage, options: RestoreOptions) -> int:
    width, height = image.result_size or (0, 0)
    return round(width * height * BYTES_PER_PIXEL[options.format_for(image.path).name])
