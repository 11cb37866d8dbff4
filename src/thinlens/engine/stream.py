"""Fuse consecutive operations into row-streaming groups with rolling line buffers.

Cache blocking: a group runs row block by row block, each operation as far as the next one needs, so
that the rows that one writes are in the cache for the next. A buffer that only the group uses
becomes a line buffer: it holds a block's rows and those that later rows still read. Every thread
runs the group on a strip of the image with line buffers of its own: threads do not wait for each
other within a group, and the few rows that two strips need are computed by both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise, takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinlens.engine.graph import Footprint, Node
from thinlens.engine.layout import Buffer, Layout

CACHE_BYTES = 4 << 20
"""Bytes that a thread's line buffers of a group may take: a core's share of a shared cache."""

MIN_BLOCK_ROWS = 12
"""Rows of a block, in those of the group's last operation: whole tiles of 3 and of 4 rows, and
enough that the weights of all layers, which every block reads anew, are less than its rows."""

MIN_STRIP_ROWS = 3
"""Rows of a strip: the height of a tile."""

MAX_BLOCKS = 256
"""Row blocks of a strip; more rows make higher blocks, so that planning takes bounded time."""

RowBytes = Callable[[Buffer], int]
"""Bytes of one row of a buffer."""

Progression = NDArray[np.int64]
"""[row blocks + 1, nodes]: the rows, before its pixel shuffle, where each node begins, then those
that it has reached after each row block."""


class Reader(NamedTuple):
    """A node of a group that reads another one."""

    position: int
    """In the group."""
    footprint: Footprint


class LineRows(NamedTuple):
    """How a line buffer holds its rows."""

    rows: int
    """In memory, the halo's included."""
    wrap: int = 0
    """Rows after which they continue at its beginning; 0: they are moved there."""


@dataclass
class FusedGroup:
    """Operations that stream together."""

    nodes: list[Node]
    strips: list[Progression]
    line_buffers: dict[Buffer, LineRows] = field(default_factory=dict)
    """How the buffers that only this group uses hold their rows."""


def fused_groups(layout: Layout, row_bytes: RowBytes, threads: int) -> list[FusedGroup]:
    """Cut the operations into groups, each as long as its line buffers fit into the cache.

    Operations that run alone are in no group.
    """
    groups: list[FusedGroup] = []
    start = 0
    while start < len(layout.order):
        longest = _longest_group(layout, start, row_bytes, threads)
        if longest is not None:
            groups.append(longest)
        start += len(longest.nodes) if longest else 1
    return groups


def _longest_group(
    layout: Layout, start: int, row_bytes: RowBytes, threads: int
) -> FusedGroup | None:
    """Return the longest useful group of the operations from `start` on.

    Longer groups take more bytes: lengths are doubled, then bisected, so that a plan takes n log n
    steps for n operations.
    """
    nodes = [*takewhile(lambda node: node.can_stream(layout.placement), layout.order[start:])]
    has_blocks = [len(_block_ends(*_strips(node, threads)[0])) > 2 for node in nodes]
    if not any(has_blocks[1:]):
        return None

    @cache
    def group(length: int) -> FusedGroup:
        return _group(layout, nodes[:length], threads)

    def fits(length: int) -> bool:
        first = _group(layout, nodes[:length], threads, strips=1)  # others hold about as much
        return _line_buffer_bytes(first, row_bytes) <= CACHE_BYTES

    fitting, excess = 0, 1
    while excess <= len(nodes) and fits(excess):
        fitting, excess = excess, 2 * excess
    excess = min(excess, len(nodes) + 1)
    while excess - fitting > 1:
        middle = (fitting + excess) // 2
        fitting, excess = (middle, excess) if fits(middle) else (fitting, middle)
    lengths = [length for length in range(fitting, 1, -1) if has_blocks[length - 1]]
    candidates = map(group, lengths)
    return next((x for x in candidates if _is_useful(x) and _strips_are_disjoint(layout, x)), None)


def _is_useful(group: FusedGroup) -> bool:
    """Whether there are a line buffer and several row blocks."""
    return bool(group.line_buffers) and len(group.strips[0]) > 2


def _strips(last: Node, threads: int) -> list[tuple[int, int]]:
    """Return where the strips of a group begin and end, in rows of its last node."""
    rows = computed_rows(last)
    count = max(1, min(threads, rows // MIN_STRIP_ROWS))
    return list(pairwise(rows * i // count for i in range(count + 1)))


def _strips_are_disjoint(layout: Layout, group: FusedGroup) -> bool:
    """Whether no two strips write the same row of a buffer that is no line buffer."""
    shared = [
        i
        for i, node in enumerate(group.nodes)
        if node.is_step() and layout.placement[node][0] not in group.line_buffers
    ]
    return all(
        bool((above[-1, shared] == below[0, shared]).all())
        for above, below in pairwise(group.strips)
    )


def _group(
    layout: Layout, nodes: list[Node], threads: int, strips: int | None = None
) -> FusedGroup:
    """Plan strips, all or the first ones, and line buffers of a group of `nodes`."""
    readers = readers_of(nodes)
    cuts = _strips(nodes[-1], threads)[:strips]
    planned = [progression(nodes, readers, _block_ends(begin, end)) for begin, end in cuts]
    inner = [
        buffer
        for buffer in {layout.placement[node][0]: None for node in nodes}
        if _is_internal(layout, nodes, buffer)
    ]
    by_strip = [line_buffer_rows(layout, nodes, strip, inner) for strip in planned]
    return FusedGroup(
        nodes,
        planned,
        {buffer: LineRows(max(rows[buffer] for rows in by_strip)) for buffer in inner},
    )


def _block_ends(begin: int, end: int) -> NDArray[np.int64]:
    """Return where a strip of the last node's rows begins, and where its row blocks end."""
    blocks = min(MAX_BLOCKS, max(1, (end - begin) // MIN_BLOCK_ROWS))
    return begin + -(-(end - begin) * np.arange(blocks + 1) // blocks)


def _line_buffer_bytes(group: FusedGroup, row_bytes: RowBytes) -> int:
    """Count the bytes of a thread's line buffers."""
    return sum(lines.rows * row_bytes(buffer) for buffer, lines in group.line_buffers.items())


def computed_rows(node: Node) -> int:
    """Return a node's rows before its pixel shuffle."""
    return node.size.height // node.upscale


def readers_of(nodes: Sequence[Node]) -> list[list[Reader]]:
    """List, by node, those after it that read it."""
    positions = {node: i for i, node in enumerate(nodes)}
    readers: list[list[Reader]] = [[] for _ in nodes]
    for j, node in enumerate(nodes):
        for index, source in enumerate(node.inputs):
            if source in positions:
                readers[positions[source]].append(Reader(j, node.footprint(index)))
    return readers


def progression(
    nodes: Sequence[Node], readers: list[list[Reader]], ends: NDArray[np.int64]
) -> Progression:
    """List the nodes' rows at the beginning, and after each block, of the last node's rows.

    `ends` are that node's. Nodes compute no more than those after them need, in whole steps of
    theirs.
    """
    last = computed_rows(nodes[-1])
    table = np.empty((len(ends), len(nodes)), np.int64)
    begin, ends = int(ends[0]), ends[1:]
    for i in reversed(range(len(nodes))):
        upscale, rows, step = nodes[i].upscale, computed_rows(nodes[i]), nodes[i].row_step
        if not readers[i]:
            own = np.append(begin, ends) * rows
            table[:, i] = np.minimum(rows, rounded_up(-(-own // last), step))
            continue
        first = min(area.first(int(table[0, j])) for j, area in readers[i])
        table[0, i] = max(0, first // upscale // step * step)
        needed = np.zeros_like(ends)
        for j, area in readers[i]:
            reached = table[1:, j]
            np.maximum(needed, np.where(reached > 0, area.end(reached), 0), out=needed)
        needed = rounded_up(-(-needed // upscale), step)
        table[1:, i] = np.where(ends == last, rows, np.minimum(rows, needed))
    return np.maximum.accumulate(table)


def rounded_up(rows: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """Return the smallest multiples of a step that are not below `rows`."""
    return -(-rows // step) * step


def _is_internal(layout: Layout, nodes: Sequence[Node], buffer: Buffer) -> bool:
    """Whether all nodes that write or read a buffer are among `nodes`."""
    is_output = layout.placement[layout.order[-1]][0] is buffer
    return not is_output and layout.users[buffer] <= set(nodes)


def line_buffer_rows(
    layout: Layout, nodes: Sequence[Node], strip: Progression, buffers: Sequence[Buffer]
) -> dict[Buffer, int]:
    """Count the rows, the halo's included, that each line buffer of a strip holds at most."""
    before, after = strip[:-1], strip[1:]
    starts = {buffer: np.full(len(before), buffer.height) for buffer in buffers}
    ends = {buffer: np.zeros(len(before), np.int64) for buffer in buffers}
    for i, node in enumerate(nodes):
        output = layout.placement[node][0]
        if output in starts:
            # its first row comes with those above the image
            first = np.where(before[:, i] == 0, -output.halo, before[:, i] * node.upscale)
            np.minimum(starts[output], first, out=starts[output])
            np.maximum(ends[output], after[:, i] * node.upscale, out=ends[output])
        for index, source in enumerate(node.inputs):
            read = layout.placement[source][0]
            if read in starts:
                first = node.footprint(index).first(before[:, i])
                np.minimum(starts[read], first, out=starts[read])
    rows = {}
    for buffer in buffers:
        start, end, halo = np.maximum(starts[buffer], -buffer.halo), ends[buffer], buffer.halo
        if start[0] <= 0:
            start[0] = -halo  # the first block holds the rows above the image
        rows[buffer] = int((end + np.where(end == buffer.height, halo, 0) - start).max())
    return rows
