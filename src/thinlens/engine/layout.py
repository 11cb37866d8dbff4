"""In which buffer, at which channel and on which grid does each tensor of a network lie?

A grid is S, the vectors in a row: lane l of vector s holds column l S + s (see csrc/layout.h).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from thinlens.engine.graph import Node, reachable

FRESH = {"input", "pool", "resize", "pad"}
"""Kinds of nodes whose rows are laid out anew."""

TOGETHER = {"conv", "add", "gate", "concat"}
"""Kinds of nodes whose inputs must lie on one grid; a convolution's residual on its output's."""

WIDE = {"conv", "affine", "add", "gate"}
"""Kinds of nodes that can store float32."""


@dataclass(eq=False)
class Buffer:
    """Channels that lie in one block of memory: a tensor, or all parts of a concatenation."""

    channels: int
    height: int
    width: int
    columns: int
    halo: int = 0
    wide: bool = False
    """Holds float32 whatever the kernels store: the output of a network, which is rounded once."""


@dataclass
class Layout:
    """The grid, the buffer and the first channel of each node, and the order of the steps."""

    order: list[Node]
    columns: dict[Node, int] = field(default_factory=dict)
    home: dict[Node, tuple[Buffer, int]] = field(default_factory=dict)


def lay_out(output: Node, lanes: int) -> Layout:
    """Choose grids front to back, then buffers back to front."""
    halos = [node.kernel.halo for node in reachable(output) if node.kernel is not None]
    least = max([1, *halos])  # a row is at least as long as its halo
    output = _regridded(output, lanes, least)
    layout = Layout(reachable(output))
    _grids(layout, lanes, least)
    for node in reversed(layout.order):
        _house(layout, node)
    last = layout.order[-1]
    layout.home[last][0].wide = last.kind in WIDE
    for node in layout.order:
        for index, source in enumerate(node.inputs):
            buffer = layout.home[source][0]
            if node.kind == "conv" and index == 0 and node.kernel is not None:
                buffer.halo = max(buffer.halo, node.kernel.halo)
    return layout


def _grids(layout: Layout, lanes: int, least: int) -> None:
    grain = _grain(layout.order)
    by_width: dict[int, int] = {}
    for node in layout.order:
        wanted = _grid(node, layout.columns, lanes, least * grain, grain)
        if node.kind in ("pool", "resize"):
            wanted = by_width.get(node.size.width, wanted)
        layout.columns[node] = node.grid or wanted
        by_width.setdefault(node.size.width, wanted)


def _grain(order: list[Node]) -> int:
    """Return how often rows are parted by strides before they are laid out anew, multiplied."""
    parted: dict[Node, int] = {}
    for node in order:
        before = 1 if node.kind in FRESH else max(parted[source] for source in node.inputs)
        parted[node] = before * (node.kernel.stride if node.kernel is not None else 1)
    return max(parted.values())


def _grid(node: Node, columns: dict[Node, int], lanes: int, least: int, grain: int) -> int:
    fresh = max(least, -(-node.size.width // lanes))
    if node.kind in FRESH:
        return -(-fresh // grain) * grain
    first = columns[node.inputs[0]]
    if node.kernel is not None:
        return first // node.kernel.stride * node.shuffle
    return first


def _regridded(output: Node, lanes: int, least: int) -> Node:
    """Put a resize to the same size, which changes nothing but the grid, where grids differ.

    Each is told its grid, and what comes before it was mended before: so this ends.
    """
    while True:
        layout = Layout(reachable(output))
        _grids(layout, lanes, least)
        if not _mend(layout, least):
            return output


def _mend(layout: Layout, least: int) -> bool:
    for node in layout.order:
        for index, source in enumerate(node.inputs):
            have = layout.columns[source]
            if node.kernel is not None and index == 0:
                stride = node.kernel.stride
                wanted = max(least, -(-have // stride)) * stride
            elif node.kind in TOGETHER:
                wanted = layout.columns[node]
            else:
                continue
            if have != wanted:
                node.inputs[index] = Node("resize", [source], source.size, grid=wanted)
                return True
    return False


def _house(layout: Layout, node: Node) -> None:
    """Give `node` a buffer unless a concatenation has; a concatenation's parts lie inside it."""
    size = node.size
    if node not in layout.home:
        buffer = Buffer(size.channels, size.height, size.width, layout.columns[node])
        layout.home[node] = (buffer, 0)
    if node.kind == "concat":
        buffer, first = layout.home[node]
        for part in node.inputs:
            if part not in layout.home:
                layout.home[part] = (buffer, first)
            first += part.size.channels
    if node.kind == "crop":
        layout.home[node.inputs[0]] = layout.home.get(node.inputs[0], layout.home[node])
