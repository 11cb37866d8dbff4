"""Shared by the tests of the command line: a runner, small networks, small images."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from thinlens.api import save
from thinlens.cli.main import main
from thinlens.models import create
from thinlens.tasks import make_task

TINY_RFDN = {"scale": 2, "width": 8, "attention_width": 4, "blocks": 1}
TINY_DNCNN = {"depth": 3, "width": 8}
TINY_M = 4


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*words: object) -> Ran:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(word) for word in words])
    return Ran(status, out.getvalue(), err.getvalue())


def sr_checkpoint(folder: Path, **options: int) -> Path:
    torch.manual_seed(0)
    config = TINY_RFDN | options
    module = create("rfdn", **config)
    save(folder, module, model="rfdn", task=make_task("sr", scale=config["scale"]))
    return folder


def denoising_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    module = create("dncnn-17", **TINY_DNCNN)
    save(folder, module, model="dncnn-17", task=make_task("denoise"))
    return folder


def images(folder: Path, count: int = 2, height: int = 160, width: int = 176) -> Path:
    """Write smooth random RGB images."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        generator = np.random.default_rng(index)
        small = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"image{index}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder`, to see whether anything has changed."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
