"""Memory layout: each tensor's vectors per row, its buffer and its first channel there.

With S vectors per row, lane l of vector s holds column l S + s (see csrc/tensor.h). Operations need
inputs of certain S; where producer and consumer disagree, a relayout is inserted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from thinlens.engine.graph import Node, topological_order
from thinlens.engine.ops.resize import Relayout


@dataclass(eq=False)
class Buffer:
    """A block of memory: one tensor, or all inputs of a concatenation."""

    channels: int
    height: int
    width: int
    row_vectors: int
    halo: int = 0
    """Rows and columns of padding on every side."""
    fp32_storage: bool = False
    """Holds float32 whatever the kernels store: a network's output, which is rounded once."""


Placements = Mapping[Node, tuple[Buffer, int]]
"""By node, the buffer and the first channel of its output."""


@dataclass
class Layout:
    """The order of the operations, and where each one's output lies."""

    order: list[Node]
    row_vectors: dict[Node, int] = field(default_factory=dict)
    placement: dict[Node, tuple[Buffer, int]] = field(default_factory=dict)

    @cached_property
    def users(self) -> dict[Buffer, set[Node]]:
        """By buffer, the nodes that write or read it. Only after all have their place."""
        users: dict[Buffer, set[Node]] = {}
        for node in self.order:
            for touched in (node, *node.inputs):
                users.setdefault(self.placement[touched][0], set()).add(node)
        return users


def lay_out(output: Node, lanes: int) -> Layout:
    """Choose vectors per row front to back, then buffers back to front."""
    layout = _with_relayouts(output, lanes)
    for node in reversed(layout.order):
        if node.view_start is None:
            _assign_buffer(layout, node)
    for node in layout.order:
        if node.view_start is not None:
            buffer, start = layout.placement[node.inputs[0]]
            layout.placement[node] = (buffer, start + node.view_start)
    last = layout.order[-1]
    layout.placement[last][0].fp32_storage = last.can_store_fp32
    for node in layout.order:
        for index, source in enumerate(node.inputs):
            buffer = layout.placement[source][0]
            buffer.halo = max(buffer.halo, node.halo(index))
    return layout


def _assign_row_vectors(layout: Layout, lanes: int) -> None:
    """Choose the vectors per row of every node; free rows of one width have the same."""
    multiple = _stride_product(layout.order)
    by_width: dict[int, int] = {}
    for node in layout.order:
        width = node.size.width
        if node.free_rows:
            fewest = -(-width // lanes)
            row_vectors = by_width.get(width, -(-fewest // multiple) * multiple)
        else:
            row_vectors = node.row_vectors([layout.row_vectors[x] for x in node.inputs])
        layout.row_vectors[node] = node.fixed_row_vectors or row_vectors
        by_width.setdefault(width, row_vectors)


def _stride_product(order: list[Node]) -> int:
    """Return the largest product of strides between nodes with free rows.

    Free row lengths are multiples of it, so that every stride on the way divides them.
    """
    products: dict[Node, int] = {}
    for node in order:
        if node.free_rows:
            products[node] = 1
        else:
            before = max(products[source] for source in node.inputs)
            products[node] = before * max(1, node.footprint(0).stride)
    return max(products.values())


def _with_relayouts(output: Node, lanes: int) -> Layout:
    """Insert a relayout where an input's vectors per row are not those that its reader needs.

    Terminates: nodes are visited in order and each insertion settles its edge.
    """
    while True:
        layout = Layout(topological_order(output))
        _assign_row_vectors(layout, lanes)
        if not _insert_relayout(layout, lanes):
            return layout


def _insert_relayout(layout: Layout, lanes: int) -> bool:
    """Insert the first relayout that is needed, and return whether one was."""
    for node in layout.order:
        output, shortest = layout.row_vectors[node], -(-node.size.width // lanes)
        for index, source in enumerate(node.inputs):
            current = layout.row_vectors[source]
            required = node.required_row_vectors(index, current, output, shortest)
            if current != required:
                node.inputs[index] = Relayout([source], source.size, target_row_vectors=required)
                return True
    return False


def _assign_buffer(layout: Layout, node: Node) -> None:
    """Give `node` a buffer unless it lies in a reader's; its nested inputs lie inside it."""
    if node not in layout.placement:
        layout.placement[node] = _place_of_inputs(layout, node) or (_new_buffer(layout, node), 0)
    buffer, start = layout.placement[node]
    for source, first in node.nested_inputs():
        if source.view_start is None:  # else it lies where its own source does
            layout.placement.setdefault(source, (buffer, start + first))


def _place_of_inputs(layout: Layout, node: Node) -> tuple[Buffer, int] | None:
    """Return where all nested inputs of `node` already lie one after the other, or None.

    In a dense block, `cat([x, a])` is the beginning of `cat([x, a, b])`.
    """
    nested, placement = node.nested_inputs(), layout.placement
    if not nested or any(source not in placement for source, _ in nested):
        return None
    places = {(placement[x][0], placement[x][1] - first) for x, first in nested}
    if len(places) > 1:
        return None
    buffer, start = places.pop()
    return (buffer, start) if buffer.row_vectors == layout.row_vectors[node] else None


def _new_buffer(layout: Layout, node: Node) -> Buffer:
    size = node.size
    return Buffer(size.channels, size.height, size.width, layout.row_vectors[node])
