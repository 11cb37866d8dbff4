"""Registry of restoration tasks and metrics: create a task by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from torch import Tensor

from thinlens.errors import UsageError
from thinlens.tasks.deblurring import Deblurring
from thinlens.tasks.dehazing import Dehazing
from thinlens.tasks.denoising import Denoising
from thinlens.tasks.deraining import Deraining
from thinlens.tasks.jpeg_denoising import JpegDenoising
from thinlens.tasks.metrics import psnr, ssim
from thinlens.tasks.restoration import Restoration
from thinlens.tasks.super_resolution import SuperResolution
from thinlens.tasks.task import MetricProtocol, Task

TASKS: dict[str, type[Task]] = {
    "sr": SuperResolution,
    "denoise": Denoising,
    "denoise-jpeg": JpegDenoising,
    "derain": Deraining,
    "deblur": Deblurring,
    "dehaze": Dehazing,
    "restore": Restoration,
}
"""The tasks by the name that the command line and checkpoints use."""

METRICS: dict[str, Callable[[Tensor, Tensor, MetricProtocol], float]] = {"psnr": psnr, "ssim": ssim}
"""Functions of restored image, target and protocol, by name."""


def make_task(name: str, **options: object) -> Task:
    """Make a task by its name; `dataclasses.asdict(task)` returns its options.

    An unknown name, an unknown option or a value of the wrong type is a `UsageError`.

    >>> make_task("denoise", sigma=15)
    Denoising(channels=1, sigma=15, sigmas=(), sigma_range=())
    """
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}: wanted {' or '.join(TASKS)}")
    # JSON and TOML have no tuples
    options = {key: tuple(x) if type(x) is list else x for key, x in options.items()}
    defaults = {f.name: f.default for f in fields(TASKS[name])}  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in defaults:
            raise UsageError(f"task {name} has no option {key!r}: wanted {', '.join(defaults)}")
        kind = type(defaults[key])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UsageError(f"{key} of task {name} is {value!r}: wanted {kind.__name__}")
    return TASKS[name](**options)
