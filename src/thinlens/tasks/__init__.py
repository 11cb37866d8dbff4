"""Registry of restoration tasks and metrics: create a task by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import get_type_hints

from torch import Tensor

from thinlens.errors import UsageError, quoted
from thinlens.stored_values import checked_value
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


def make_task(name: str = "", **options: object) -> Task:
    """Make a task by its name; `dataclasses.asdict(task)` returns its options.

    An unknown name, an unknown option or a value of the wrong type is a `UsageError`.

    >>> make_task("denoise", sigma=15)
    Denoising(channels=1, sigma=15, sigmas=(), sigma_range=())
    """
    if type(name) is not str or name not in TASKS:
        raise UsageError(f"unknown task {quoted(name)}: wanted {' or '.join(TASKS)}")
    # JSON and TOML have no tuples
    options = {key: tuple(x) if type(x) is list else x for key, x in options.items()}
    defaults = {f.name: f.default for f in fields(TASKS[name])}  # type: ignore[arg-type]
    hints = get_type_hints(TASKS[name])
    for key, value in options.items():
        if key not in defaults:
            raise UsageError(f"task {name} has no option {key!r}: wanted {', '.join(defaults)}")
        kind = type(defaults[key])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UsageError(f"{key} of task {name} is {quoted(value)}: wanted {kind.__name__}")
        if kind is tuple:
            checked_value(hints[key], value, f"{key} of task {name}")
    return TASKS[name](**options)
