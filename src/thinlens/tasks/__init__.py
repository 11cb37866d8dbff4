"""What does restoring mean, task by task, and how is each judged?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from torch import Tensor

from thinlens.errors import UsageError
from thinlens.tasks.deblurring import Deblurring
from thinlens.tasks.dehazing import Dehazing
from thinlens.tasks.denoising import Denoising
from thinlens.tasks.deraining import Deraining
from thinlens.tasks.metrics import psnr, ssim
from thinlens.tasks.super_resolution import SuperResolution
from thinlens.tasks.task import Judgement, Task

TASKS: dict[str, type[Task]] = {
    "sr": SuperResolution,
    "denoise": Denoising,
    "derain": Deraining,
    "deblur": Deblurring,
    "dehaze": Dehazing,
}

METRICS: dict[str, Callable[[Tensor, Tensor, Judgement], float]] = {"psnr": psnr, "ssim": ssim}


def make_task(name: str, **options: object) -> Task:
    """Make a task by its name; `dataclasses.asdict(task)` gives the options that make it again.

    An unknown name, an unknown option or a value of the wrong type is a `UsageError`.
    """
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}: wanted {' or '.join(TASKS)}")
    # JSON and TOML have no tuples
    options = {key: tuple(x) if type(x) is list else x for key, x in options.items()}
    known = {f.name: f.default for f in fields(TASKS[name])}  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in known:
            raise UsageError(f"task {name} has no option {key!r}: wanted {', '.join(known)}")
        wanted = type(known[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UsageError(f"{key} of task {name} is {value!r}: wanted {wanted.__name__}")
    return TASKS[name](**options)
