"""Computation graph of a network: nodes, the sizes of their outputs, and who reads whom.

A node is an operation of `engine/ops/`; its class holds everything that the stages from `fuse` to
`plan` ask about an operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter
    from thinlens.engine.layout import Placements
    from thinlens.engine.ops.conv import Conv

FloatArray = NDArray[np.float32]

Rows = TypeVar("Rows", int, NDArray[np.int64])


@dataclass(frozen=True)
class Size:
    """Shape of one image's tensor, in values."""

    channels: int
    height: int
    width: int


class Footprint(NamedTuple):
    """Rows of an input that one computed row of an operation reads."""

    stride: int = 1
    """Rows of the input from one computed row to the next."""
    above: int = 0
    """Rows read above the computed row's own."""
    below: int = 0
    divisor: int = 1
    """Of the stride: a computed row's own is `row * stride / divisor`, rounded down."""

    def first(self, row: Rows) -> Rows:
        """Return the first row that a computed row, or each of several, reads."""
        return self._scaled(row) - self.above

    def end(self, rows: Rows) -> Rows:
        """Return the row after the last one that the first `rows` computed rows read."""
        return self._scaled(rows - 1) + self.below + 1

    def _scaled(self, row: Rows) -> Rows:
        return row if self.stride == self.divisor else row * self.stride // self.divisor


SingleUse = Callable[["Node"], bool]
"""Whether exactly one node reads the argument, so that it can be merged into that one."""


@dataclass(eq=False)
class Node:
    """An operation: base class of those in `engine/ops/`.

    The defaults are those of an operation on single pixels. A subclass overrides what differs and
    defines `emit`.
    """

    inputs: list[Node]
    size: Size
    """Of the output."""

    name: ClassVar[str]
    """Name of the step in a plan's list of steps."""
    free_rows: ClassVar[bool] = False
    """Whether its rows may have any length, instead of one that follows from its inputs."""
    streams: ClassVar[bool] = False
    """Whether a row needs only the rows in its `footprint`, so that it can run row by row."""
    can_store_fp32: ClassVar[bool] = False
    """Whether it can write float32 where activations are bfloat16: a network's output."""
    packs_input: ClassVar[bool] = False
    """Whether it reads the network's input image itself instead of its input node's tensor."""
    crops_output: ClassVar[bool] = False
    """Whether it only cuts the network's output, which writing the output image does."""

    @property
    def upscale(self) -> int:
        """Output rows per computed row: the factor of a pixel shuffle."""
        return 1

    @property
    def row_step(self) -> int:
        """Computed rows that it advances by; only the last step may be shorter."""
        return 1

    @property
    def fixed_row_vectors(self) -> int:
        """Vectors per row that the output must have; 0: those of the layout rule."""
        return 0

    def fused(self, single_use: SingleUse) -> Node:
        """Return one node that replaces this one and an input, or this node unchanged."""
        return self

    def folded_into(self, reader: Conv, *, is_only_reader: bool) -> Conv | None:
        """Return a convolution of this node's input that equals `reader`, whose input this is.

        None where there is none, or where it would not pay.
        """
        return None

    def check(self) -> None:
        """Raise `UsageError` if no step can run this node after fusion."""

    def footprint(self, index: int) -> Footprint:
        """Return the rows of `inputs[index]` that a computed row reads.

        Streaming uses all of it, the layout only the stride: by which a row's vectors are divided.
        """
        return Footprint()

    def halo(self, index: int) -> int:
        """Return how many rows and columns beyond its border `inputs[index]` is read, at most."""
        return 0

    def row_vectors(self, sources: Sequence[int]) -> int:
        """Return the output's vectors per row from those of the inputs."""
        return sources[0]

    def required_row_vectors(self, index: int, source: int, output: int, shortest: int) -> int:
        """Return the vectors per row that `inputs[index]` must have where it has `source`.

        `output` are those of the output, `shortest` the fewest that hold a row of it.
        """
        return source if self.free_rows else output

    def nested_inputs(self) -> list[tuple[Node, int]]:
        """List inputs that can be computed inside the output's buffer, with their first channel."""
        return []

    @property
    def view_start(self) -> int | None:
        """The first channel of `inputs[0]` that it is, where it is a view of that; else None."""
        return None

    def is_step(self) -> bool:
        """Whether it is one step of a program, where its nested inputs lie in its buffer."""
        return True

    def can_stream(self, placement: Placements) -> bool:
        """Whether it can run row by row with its tensors where they are."""
        return self.streams

    def can_roll(self, placement: Placements) -> bool:
        """Whether it can run row by row when all of the network does, on whole images."""
        return self.can_stream(placement)

    def emit(self, emitter: Emitter) -> None:
        """Append its steps to the native program."""
        raise NotImplementedError(f"{type(self).__name__} has no step")


def count_readers(nodes: Iterable[Node], output: Node) -> Counter[Node]:
    """Count the nodes that read each node; the network's output is read once more."""
    counts = Counter(source for node in nodes for source in node.inputs)
    counts[output] += 1
    return counts


def topological_order(output: Node) -> list[Node]:
    """List the nodes that `output` needs, inputs before those that read them."""
    order: dict[Node, None] = {}
    stack = [(output, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order[node] = None
        elif node not in order:
            stack.append((node, True))
            stack.extend((source, False) for source in reversed(node.inputs))
    return list(order)
