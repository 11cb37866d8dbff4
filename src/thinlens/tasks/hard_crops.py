"""Hard training pairs for networks that enlarge: noise, saturated areas, extremes, drawings.

A network that saw photographs alone may put out anything on other images. Targets of hard pairs lie
in [0, 1], so that training on a share of them keeps its output there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from thinlens.images.resize import bicubic_upsample
from thinlens.tasks.task import Task

LARGEST_NOISE = 80.0
"""Standard deviation of 255, a little above what networks are tried on."""

CONTRASTS = (2.0, 8.0)
"""Least and largest factor by which a photograph's contrast is stretched."""

LARGEST_CELL = 4
"""Side of the squares of extremes, in pixels of the input."""

PERIODS = (2.5, 14.0)
"""Least and largest period of facades, in pixels of the input."""

LINES = (4, 24)
"""Least number of a drawing's lines, and the number below which it is."""

LINE_WIDTHS = (0.3, 2.5)
LINE_LENGTHS = (2.0, 12.0)
"""Least and largest width and length of a line, in pixels of the input."""

_Pair = tuple[Tensor, Tensor]
_Kind = Callable[[Tensor, Tensor, Task, np.random.Generator], _Pair]


def hard_pair(
    image: Tensor, target: Tensor, task: Task, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return a hard pair of the shapes of an ordinary one, `[C, p, p]` and `[C, s p, s p]`, floats.

    Half of the inputs with noise have values outside of [0, 1]; all other values are in it.

    >>> from thinlens.tasks import make_task
    >>> pair = torch.rand(3, 8, 8), torch.rand(3, 32, 32)
    >>> x, y = hard_pair(*pair, make_task("sr", scale=4), np.random.default_rng(0))
    >>> tuple(x.shape), tuple(y.shape), bool((y.clamp(0, 1) == y).all())
    ((3, 8, 8), (3, 32, 32), True)
    """
    kind = HARD_KINDS[int(generator.integers(len(HARD_KINDS)))]
    return kind(image, target, task, generator)


def _noisy(image: Tensor, target: Tensor, task: Task, generator: np.random.Generator) -> _Pair:
    """The image plus Gaussian noise, and its bicubic enlargement: noise is not to be removed."""
    sigma = generator.uniform(0, LARGEST_NOISE) / 255
    noise = torch.from_numpy(generator.standard_normal(image.shape)).float()
    noisy = image + sigma * noise
    return _enlarged(noisy.clamp(0, 1) if generator.integers(2) else noisy, task)


def _saturated(image: Tensor, target: Tensor, task: Task, generator: np.random.Generator) -> _Pair:
    """The pair in a contrast that saturates most of it."""
    contrast = generator.uniform(*CONTRASTS)
    middle = generator.uniform(0, 1, (image.shape[0], 1, 1))
    stretch = torch.from_numpy(middle).float()
    x, y = ((contrast * (x - stretch) + 0.5).clamp(0, 1) for x in (image, target))
    return x, y


def _extreme(image: Tensor, target: Tensor, task: Task, generator: np.random.Generator) -> _Pair:
    """Squares of random values, of two colours in turn, or of one colour."""
    channels, height, width = image.shape
    cell = int(generator.integers(1, LARGEST_CELL + 1))
    rows, columns = -(-height // cell), -(-width // cell)
    pattern = int(generator.integers(3))
    if pattern == 0:
        squares = generator.integers(0, 2, (channels, rows, columns)).astype(np.float32)
    else:
        colours = generator.random((2, channels, 1, 1)).round(int(generator.integers(2)))
        turn = (np.arange(rows)[:, None] + np.arange(columns)) % 2 if pattern == 1 else 0
        squares = np.broadcast_to(
            np.where(turn, colours[0], colours[1]).astype(np.float32), (channels, rows, columns)
        )
    pixels = squares.repeat(cell, 1).repeat(cell, 2)[:, :height, :width]
    return _enlarged(torch.from_numpy(np.ascontiguousarray(pixels)), task)


def _drawing(image: Tensor, target: Tensor, task: Task, generator: np.random.Generator) -> _Pair:
    """Lines as of text, or windows as of a facade, in two colours, reduced by the task."""
    height, width = target.shape[-2:]
    y, x = np.mgrid[:height, :width].astype(np.float32) / task.scale
    mask = (_lines if generator.integers(2) else _facade)(x, y, generator)
    colours = generator.random((2, image.shape[0], 1, 1)).round(int(generator.integers(1, 3)))
    drawn = np.rint(255 * (colours[0] + (colours[1] - colours[0]) * mask)).astype(np.uint8)
    clean = torch.from_numpy(drawn)
    return task.downscale(clean).float() / 255, clean.float() / 255


def _lines(x: np.ndarray, y: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the coverage of random lines, 0 to 1, at positions in pixels of the input."""
    covered = np.zeros_like(x)
    sides = x.max(), y.max()
    thickness = generator.uniform(*LINE_WIDTHS)
    length = generator.uniform(*LINE_LENGTHS)
    for _ in range(int(generator.integers(*LINES))):
        centre = generator.uniform(0, 1, 2) * sides
        angle = generator.choice((0, math.pi / 2, generator.uniform(0, math.pi)))
        along = np.cos(angle) * (x - centre[0]) + np.sin(angle) * (y - centre[1])
        across = np.cos(angle) * (y - centre[1]) - np.sin(angle) * (x - centre[0])
        inside = np.minimum(thickness / 2 - np.abs(across), length / 2 - np.abs(along))
        covered = np.maximum(covered, np.clip(4 * inside + 0.5, 0, 1))
    return covered


def _facade(x: np.ndarray, y: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return 1 in the windows of a wall at an angle and 0 around them."""
    angle = generator.choice((0, generator.uniform(0, math.pi)))
    periods, filled = generator.uniform(*PERIODS, 2), generator.uniform(0.3, 0.7, 2)
    u = np.cos(angle) * x + np.sin(angle) * y
    v = np.cos(angle) * y - np.sin(angle) * x
    inside: np.ndarray = (u / periods[0] % 1 < filled[0]) & (v / periods[1] % 1 < filled[1])
    return inside.astype(np.float32)


def _enlarged(image: Tensor, task: Task) -> _Pair:
    return image, bicubic_upsample(image[None], task.scale)[0]


HARD_KINDS: tuple[_Kind, ...] = (_noisy, _saturated, _extreme, _drawing)
"""What a hard pair is, each as often."""
