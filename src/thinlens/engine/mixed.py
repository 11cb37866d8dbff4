"""Mixed programs: parts of a native program alternate with islands of torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thinlens.engine.emitter import Emitter
from thinlens.engine.island import Enter, Island, TorchValues
from thinlens.engine.trace import Trace

if TYPE_CHECKING:
    from thinlens.engine._native import Placement, Program, ThreadPool

NOTHING: NDArray[np.float32] = np.zeros((1, 1, 1, 1), np.float32)
"""In place of an input or an output that no step of a part reads or writes."""


class MixedProgram:
    """A program whose parts alternate with islands."""

    def __init__(self, program: Program, emitter: Emitter, traced: Trace) -> None:
        self._program, self._traced = program, traced
        self._inputs, self._outputs = len(emitter.inputs), len(emitter.outputs)
        self.ends = emitter.parts
        """The islands, each with the number of steps that run before it."""
        islands = [island for _, island in emitter.parts]
        numbered = list(enumerate(emitter.inputs, 1))
        self._parts: list[_Part] = []
        first, output = 0, 0
        for index, (end, island) in enumerate(emitter.parts):
            results = {id(x) for operation in island.operations for x in operation.results}
            entering = [(i, node) for i, node in numbered if id(node.tensor) in results]
            later = {id(traced.output)} | _read_by(islands[index + 1 :])
            kept = later | {id(node.tensor) for _, node in entering}
            compute = island.compiled(kept)
            self._parts.append(_Part(first, end, output, island, entering, later, compute))
            first, output = end, output + len(island.reads)
        self._rest = first
        self.seconds = [0.0] * len(islands)
        """Of each island in the last run, with the copies around it."""

    def run(self, pool: ThreadPool, image: Tensor, placements: list[Placement]) -> Tensor:
        """Return the output for one image `[1, C, H, W]`."""
        program, key = self._program, id(self._traced.output)
        values: TorchValues = {id(self._traced.image): image}
        inputs = [image.numpy(), *[NOTHING] * self._inputs]
        outputs = [NOTHING] * self._outputs
        with torch.inference_mode(False), torch.no_grad():
            for index, part in enumerate(self._parts):
                images = [read.new_image() for read in part.island.reads]
                used = slice(part.output, part.output + len(images))
                outputs[used] = [tensor.numpy() for tensor in images]
                program.run_steps(pool, inputs, outputs, placements, part.first, part.end)
                outputs[used] = [NOTHING] * len(images)
                begin = time.perf_counter()
                part.run(values, images)
                for number, node in part.entering:
                    inputs[number] = node.image(values).numpy()
                part.forget(values)
                self.seconds[index] = time.perf_counter() - begin
            if key in values:
                return values[key]
            result = torch.empty(self._traced.output.shape)
            outputs.append(result.numpy())
            program.run_steps(pool, inputs, outputs, placements, self._rest, -1)
        return result


@dataclass(frozen=True)
class _Part:
    """Steps of the program, and the island that runs after them."""

    first: int
    end: int
    output: int
    """The number of its first output."""
    island: Island
    entering: list[tuple[int, Enter]]
    """What it computes for the engine, with the numbers of the inputs."""
    later: set[int]
    """What later islands read."""
    compute: Callable[[TorchValues], None]

    def run(self, values: TorchValues, images: list[Tensor]) -> None:
        """Compute the island from what the engine wrote."""
        for read, image in zip(self.island.reads, images, strict=True):
            for tensor, axes in read.views:
                values[id(tensor)] = axes.from_image(image)
        self.compute(values)

    def forget(self, values: TorchValues) -> None:
        """Drop the values that no later island reads."""
        for key in values.keys() - self.later:
            del values[key]


def _read_by(islands: list[Island]) -> set[int]:
    """Return the identities of all tensors that islands read."""
    return {
        id(source)
        for island in islands
        for operation in island.operations
        for source in operation.sources
    }
