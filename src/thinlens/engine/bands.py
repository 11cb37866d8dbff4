"""Which steps take turns by bands of rows, so that what one writes is in the cache for the next?

A group of steps that follow each other runs band after band: each step goes as far as the next one
needs. A buffer that only such a group uses holds the rows of a band and what later rows still read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from thinlens.engine.graph import Node
from thinlens.engine.layout import Buffer, Layout

BANDED = {"conv", "affine", "add", "gate", "concat"}
"""Kinds of nodes of which a row needs a few rows of its inputs."""

CACHE = 8 << 20
"""Bytes that the rolling buffers of a group may take: what a core can hope for of a cache that it
shares."""

LEAST_ROWS = 6
"""Of a band, a thread, in the rows of the group's last step: two tiles of the largest."""

MOST_BANDS = 256
"""More rows than this many bands have make longer bands, so that planning takes bounded time."""

RowBytes = Callable[[Buffer], int]


@dataclass
class Group:
    """Nodes that take turns, the rows each has done after each band, the rooms of its buffers."""

    nodes: list[Node]
    ends: list[list[int]]
    rows: dict[Buffer, int] = field(default_factory=dict)


def grouped(layout: Layout, row_bytes: RowBytes, threads: int) -> list[Group]:
    """Cut the steps of a network into groups; steps that stay alone are in none.

    A group grows while its rolling buffers fit into the cache.
    """
    least = LEAST_ROWS * threads
    groups: list[Group] = []
    run: list[Node] = []
    best: Group | None = None
    for node in layout.order:
        tried = _group(layout, [*run, node], least) if _fits_in(layout, node) else None
        if tried is not None and _bytes(tried, row_bytes) <= CACHE:
            run, best = tried.nodes, tried
            continue
        groups += _worth(best)
        alone = _group(layout, [node], least) if _fits_in(layout, node) else None
        run, best = ([node], alone) if alone is not None else ([], None)
    return groups + _worth(best)


def _worth(group: Group | None) -> list[Group]:
    """A group helps if a buffer rolls and there are bands at all."""
    return [group] if group is not None and group.rows and len(group.ends) > 1 else []


def _fits_in(layout: Layout, node: Node) -> bool:
    if node.kind == "concat":  # parts that are copied make steps of their own
        buffer, first = layout.home[node]
        for part in node.inputs:
            if layout.home[part] != (buffer, first):
                return False
            first += part.size.channels
    return node.kind in BANDED


def _group(layout: Layout, nodes: list[Node], least: int) -> Group:
    ends = _ends(nodes, least)
    group = Group(nodes, ends)
    for buffer in {layout.home[node][0]: None for node in nodes}:
        if _inside(layout, nodes, buffer):
            group.rows[buffer] = _room(layout, group, buffer)
    return group


def _bytes(group: Group, row_bytes: RowBytes) -> int:
    return sum(rows * row_bytes(buffer) for buffer, rows in group.rows.items())


def _rows(node: Node) -> int:
    """Rows of a step, before a pixel shuffle."""
    return node.size.height // node.shuffle


def _reach(node: Node, index: int) -> tuple[int, int, int]:
    """Return the stride and how far above and below its own rows a node reads an input."""
    if node.kernel is not None and index == 0:
        tall = (node.kernel.weight.shape[2] - 1) * node.kernel.dilation
        return node.kernel.stride, node.kernel.padding, tall - node.kernel.padding
    return 1, 0, 0


def _ends(nodes: Sequence[Node], least: int) -> list[list[int]]:
    """List, by band, the rows that each node has done: as few as the nodes after it need."""
    last = _rows(nodes[-1])
    bands = min(MOST_BANDS, max(1, last // least))
    ends: list[list[int]] = []
    for band in range(1, bands + 1):
        done = [0] * len(nodes)
        for i in reversed(range(len(nodes))):
            node, rows = nodes[i], _rows(nodes[i])
            readers = [
                (done[j], *_reach(nodes[j], index))
                for j in range(i + 1, len(nodes))
                for index, source in enumerate(nodes[j].inputs)
                if source is node
            ]
            wanted = [-(-rows * band // bands)] if not readers else []
            for end, stride, _, below in readers:
                wanted.append(-(-((end - 1) * stride + below + 1) // node.shuffle) if end else 0)
            before = ends[-1][i] if ends else 0
            done[i] = rows if band == bands else max(before, min(rows, max(wanted)))
        ends.append(done)
    return ends


def _inside(layout: Layout, nodes: Sequence[Node], buffer: Buffer) -> bool:
    """Whether all who write or read a buffer are among `nodes`."""
    among = set(nodes)
    tenants = {node for node in layout.order if layout.home[node][0] is buffer}
    readers = {n for n in layout.order if any(source in tenants for source in n.inputs)}
    return layout.order[-1] not in tenants and tenants | readers <= among


def _room(layout: Layout, group: Group, buffer: Buffer) -> int:
    """Count the rows, its halo's included, that a rolling buffer holds at most."""
    most = 0
    for band, ends in enumerate(group.ends):
        before = group.ends[band - 1] if band else [0] * len(ends)
        start, end = buffer.height, 0
        for i, node in enumerate(group.nodes):
            if layout.home[node][0] is buffer:
                start, end = min(start, before[i] * node.shuffle), max(end, ends[i] * node.shuffle)
            for index, source in enumerate(node.inputs):
                if layout.home[source][0] is buffer:
                    stride, above, _ = _reach(node, index)
                    start = min(start, before[i] * stride - above)
        start = max(start, -buffer.halo) if band else -buffer.halo
        most = max(most, end + (buffer.halo if end == buffer.height else 0) - start)
    return most
