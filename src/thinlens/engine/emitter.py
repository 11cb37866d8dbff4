"""Emission: append the steps of the graph's operations to a native program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from thinlens.engine.graph import Node, Size
from thinlens.engine.island import Enter, Island, IslandRead
from thinlens.engine.kernel_choice import KernelChoice
from thinlens.engine.layout import Buffer, Layout
from thinlens.engine.native import Core
from thinlens.engine.ops.resize import Resize

if TYPE_CHECKING:
    from thinlens.engine._native import Program, Slice
    from thinlens.engine.ops.conv import WeightStore


class Emitter:
    """The program under construction, as an operation's `emit` uses it."""

    def __init__(
        self,
        core: Core,
        program: Program,
        layout: Layout,
        tensors: Mapping[Buffer, int],
        value_bytes: int,
        weights: WeightStore,
    ) -> None:
        self.core, self.program, self.weights = core, program, weights
        self.resizes: list[Resize] = []
        """The program's resizes, in order: they take a tile's position when it runs."""
        self.steps: list[str] = []
        self.layers: list[str] = []
        """By step, the module whose weights it uses; empty where it uses none."""
        self.kernels: dict[int, KernelChoice] = {}
        """The kernel of each step that is a convolution."""
        self.multiply_adds = 0
        """Of non-zero weights, for one image."""
        self.traffic = 0
        """Bytes that the steps read and write; a tensor that is read twice counts twice."""
        self.inputs: list[Enter] = []
        """What the program reads beside the image: inputs 1 and on."""
        self.outputs: list[IslandRead] = []
        """What the program writes for islands, in the order of its outputs."""
        self.parts: list[tuple[int, Island]] = []
        """Islands, each with the number of steps that run before it."""
        self.recorded: list[str] | None = None
        """The layers whose inputs' ranges the program records, in order; None: it records none."""
        self._layout, self._tensors = layout, tensors
        self._value_bytes = value_bytes

    def slice(self, node: Node) -> Slice:
        """Return the channels of a native tensor that hold a node's output."""
        buffer, channel = self._layout.placement[node]
        return self.core.Slice(self._tensors[buffer], channel, node.size.channels)

    def row_vectors(self, node: Node) -> int:
        """Return the vectors per row of a node's output."""
        return self._layout.row_vectors[node]

    def readers(self, node: Node) -> list[Node]:
        """List the nodes that read a node's output."""
        return [reader for reader in self._layout.order if node in reader.inputs]

    def add_input(self, node: Enter) -> int:
        """Return the number of an input that an island computes."""
        self.inputs.append(node)
        return len(self.inputs)

    def add_output(self, read: IslandRead) -> int:
        """Return the number of an output that an island reads."""
        self.outputs.append(read)
        return len(self.outputs) - 1

    def end_part(self, island: Island) -> None:
        """Let an island run before the steps that follow."""
        self.parts.append((len(self.steps), island))

    def record_range(self, node: Node, layer: str) -> None:
        """Let the program record the largest magnitude of what `layer` reads, if it is to."""
        if self.recorded is not None and layer:
            self.program.record_range(self.slice(node))
            self.recorded.append(layer)
            self.record_step("range", [node.size])

    def record_conv(self, node: Node, layer: str, kernel: KernelChoice, multiply_adds: int) -> None:
        """Note the convolution that was appended for `node`, its kernel and its cost."""
        self.kernels[len(self.steps)] = kernel
        self.record(node, layer, multiply_adds)

    def record(self, node: Node, layer: str = "", multiply_adds: int = 0) -> None:
        """Note the step that was appended for `node`, with its cost."""
        sources = node.inputs or [node]  # packing reads an image of the tensor's own size
        self.record_step(node.name, [node.size, *(source.size for source in sources)], layer)
        self.multiply_adds += multiply_adds

    def record_step(self, name: str, touched: Sequence[Size], layer: str = "") -> None:
        """Note a step by its name and the tensors that it reads and writes."""
        self.steps.append(name)
        self.layers.append(layer)
        self.traffic += sum(self._value_bytes * x.channels * x.height * x.width for x in touched)
