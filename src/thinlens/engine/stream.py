"""Which steps take turns by bands of rows, so that what one writes is in the cache for the next?

A group of steps that follow each other runs band after band: each step goes as far as the next one
needs. A buffer that only such a group uses holds the rows of a band and what later rows still read.
Every thread does so on a stripe of the image with such buffers of its own: threads do not wait for
each other within a group, and compute the few rows that two stripes need both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from thinlens.engine.graph import Node
from thinlens.engine.layout import Buffer, Layout

BANDED = {"conv", "affine", "add", "gate", "concat"}
"""Kinds of nodes of which a row needs a few rows of its inputs."""

CACHE = 4 << 20
"""Bytes that a thread's rolling buffers of a group may take: what a core can hope for of a cache
that it shares."""

LEAST_ROWS = 3
"""Of a band, in the rows of the group's last step: a tile."""

MOST_BANDS = 256
"""More rows than this many bands have make longer bands, so that planning takes bounded time."""

RowBytes = Callable[[Buffer], int]

Reader = tuple[int, int, int, int]
"""Which node of a group, its stride, and how far above and below its own rows it reads."""

Rows = list[int]
"""How far each node of a group has come, in rows before its pixel shuffle."""


@dataclass
class Group:
    """Nodes that take turns, what they do on each stripe, and the rooms of their buffers."""

    nodes: list[Node]
    stripes: list[list[Rows]]
    """By stripe: where the nodes begin, then how far they are after each band."""
    rows: dict[Buffer, int] = field(default_factory=dict)


def grouped(layout: Layout, row_bytes: RowBytes, threads: int) -> list[Group]:
    """Cut the steps of a network into groups; steps that stay alone are in none.

    A group is as long as its rolling buffers fit into the cache.
    """
    groups: list[Group] = []
    start = 0
    while start < len(layout.order):
        longest = _longest(layout, start, row_bytes, threads)
        if longest is not None:
            groups.append(longest)
        start += len(longest.nodes) if longest else 1
    return groups


def _longest(layout: Layout, start: int, row_bytes: RowBytes, threads: int) -> Group | None:
    """Return the longest group of the steps from `start` on that is worth being one."""
    best: Group | None = None
    for end, node in enumerate(layout.order[start:], start + 1):
        if not _fits_in(layout, node):
            break
        tried = _group(layout, layout.order[start:end], threads)
        if _bytes(tried, row_bytes) > CACHE:
            break
        if _worth(tried) and _apart(layout, tried):
            best = tried
    return best


def _worth(group: Group) -> bool:
    """A group helps if a buffer rolls and there are bands at all."""
    return bool(group.rows) and len(group.stripes[0]) > 2


def _apart(layout: Layout, group: Group) -> bool:
    """Whether no two stripes write the same row of a buffer that does not roll."""
    shared = [
        i
        for i, node in enumerate(group.nodes)
        if node.kind != "concat" and layout.home[node][0] not in group.rows
    ]
    return all(
        above[-1][i] == below[0][i] for above, below in pairwise(group.stripes) for i in shared
    )


def _fits_in(layout: Layout, node: Node) -> bool:
    if node.kind == "concat":  # parts that are copied make steps of their own
        buffer, first = layout.home[node]
        for part in node.inputs:
            if layout.home[part] != (buffer, first):
                return False
            first += part.size.channels
    return node.kind in BANDED


def _group(layout: Layout, nodes: list[Node], threads: int) -> Group:
    last = _rows(nodes[-1])
    count = max(1, min(threads, last // LEAST_ROWS))
    cuts = [last * i // count for i in range(count + 1)]
    readers = _readers(nodes)
    group = Group(nodes, [_stripe(nodes, readers, *cut) for cut in pairwise(cuts)])
    for buffer in {layout.home[node][0]: None for node in nodes}:
        if _inside(layout, nodes, buffer):
            group.rows[buffer] = max(
                _room(layout, nodes, stripe, buffer) for stripe in group.stripes
            )
    return group


def _bytes(group: Group, row_bytes: RowBytes) -> int:
    """Count what a thread's rolling buffers take."""
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


def _readers(nodes: Sequence[Node]) -> list[list[Reader]]:
    """List, by node, those after it that read it."""
    return [
        [
            (j, *_reach(nodes[j], index))
            for j in range(i + 1, len(nodes))
            for index, source in enumerate(nodes[j].inputs)
            if source is node
        ]
        for i, node in enumerate(nodes)
    ]


def _stripe(nodes: Sequence[Node], readers: list[list[Reader]], begin: int, end: int) -> list[Rows]:
    """List how far each node is before and after each band of the last one's rows [begin, end).

    Nodes go no further than those after them need.
    """
    bands = min(MOST_BANDS, max(1, (end - begin) // LEAST_ROWS))
    found = [_needed(nodes, readers, begin, first=True)]
    for band in range(1, bands + 1):
        done = _needed(nodes, readers, begin + -(-(end - begin) * band // bands), first=False)
        found.append([max(now, before) for now, before in zip(done, found[-1], strict=True)])
    return found


def _needed(nodes: Sequence[Node], readers: list[list[Reader]], row: int, *, first: bool) -> Rows:
    """Return, by node, the first row that the last one's rows from `row` on need, or the end of
    what its rows up to `row` need."""
    last = _rows(nodes[-1])
    needed = [0] * len(nodes)
    for i in reversed(range(len(nodes))):
        node, rows = nodes[i], _rows(nodes[i])
        if not readers[i] or (row == last and not first):
            needed[i] = -(-rows * row // last)
        elif first:
            wanted = min(needed[j] * stride - above for j, stride, above, _ in readers[i])
            needed[i] = max(0, wanted // node.shuffle)
        else:
            wanted = max(
                (needed[j] - 1) * stride + below + 1 if needed[j] else 0
                for j, stride, _, below in readers[i]
            )
            needed[i] = min(rows, -(-wanted // node.shuffle))
    return needed


def _inside(layout: Layout, nodes: Sequence[Node], buffer: Buffer) -> bool:
    """Whether all who write or read a buffer are among `nodes`."""
    among = set(nodes)
    tenants = {node for node in layout.order if layout.home[node][0] is buffer}
    readers = {n for n in layout.order if any(source in tenants for source in n.inputs)}
    return layout.order[-1] not in tenants and tenants | readers <= among


def _room(layout: Layout, nodes: Sequence[Node], stripe: list[Rows], buffer: Buffer) -> int:
    """Count the rows, its halo's included, that a rolling buffer holds at most."""
    most = 0
    for before, after in pairwise(stripe):
        start, end = buffer.height, 0
        for i, node in enumerate(nodes):
            if layout.home[node][0] is buffer:
                start = min(start, before[i] * node.shuffle)
                end = max(end, after[i] * node.shuffle)
            for index, source in enumerate(node.inputs):
                if layout.home[source][0] is buffer:
                    stride, above, _ = _reach(node, index)
                    start = min(start, before[i] * stride - above)
        start = max(start, -buffer.halo)
        if before is stripe[0] and start <= 0:
            start = -buffer.halo  # the rows above the image are there from the beginning
        most = max(most, end + (buffer.halo if end == buffer.height else 0) - start)
    return most
