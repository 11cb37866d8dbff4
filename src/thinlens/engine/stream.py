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
from itertools import pairwise
from typing import NamedTuple

from thinlens.engine.graph import Footprint, Node
from thinlens.engine.layout import Buffer, Layout

CACHE_BYTES = 4 << 20
"""Bytes that a thread's line buffers of a group may take: a core's share of a shared cache."""

MIN_BLOCK_ROWS = 3
"""Rows of a block, in those of the group's last operation: the height of a tile."""

MAX_BLOCKS = 256
"""Row blocks of a strip; more rows make higher blocks, so that planning takes bounded time."""

RowBytes = Callable[[Buffer], int]
"""Bytes of one row of a buffer."""

Progression = list[int]
"""By node of a group, how many rows it has computed, before its pixel shuffle."""


class Reader(NamedTuple):
    """A node of a group that reads another one."""

    position: int
    """In the group."""
    footprint: Footprint


@dataclass
class FusedGroup:
    """Operations that stream together."""

    nodes: list[Node]
    strips: list[list[Progression]]
    """By strip: the rows where the nodes begin, then those that they have reached by block."""
    line_buffers: dict[Buffer, int] = field(default_factory=dict)
    """Rows, the halo's included, of the buffers that only this group uses."""


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
    """Return the longest useful group of the operations from `start` on."""
    longest: FusedGroup | None = None
    for end, node in enumerate(layout.order[start:], start + 1):
        if not node.can_stream(layout.placement):
            break
        group = _group(layout, layout.order[start:end], threads)
        if _line_buffer_bytes(group, row_bytes) > CACHE_BYTES:
            break
        if _is_useful(group) and _strips_are_disjoint(layout, group):
            longest = group
    return longest


def _is_useful(group: FusedGroup) -> bool:
    """Whether there are a line buffer and several row blocks."""
    return bool(group.line_buffers) and len(group.strips[0]) > 2


def _strips_are_disjoint(layout: Layout, group: FusedGroup) -> bool:
    """Whether no two strips write the same row of a buffer that is no line buffer."""
    shared = [
        i
        for i, node in enumerate(group.nodes)
        if node.is_step() and layout.placement[node][0] not in group.line_buffers
    ]
    return all(
        above[-1][i] == below[0][i] for above, below in pairwise(group.strips) for i in shared
    )


def _group(layout: Layout, nodes: list[Node], threads: int) -> FusedGroup:
    """Plan strips and line buffers of a group of `nodes`."""
    rows = _computed_rows(nodes[-1])
    count = max(1, min(threads, rows // MIN_BLOCK_ROWS))
    cuts = [rows * i // count for i in range(count + 1)]
    readers = _readers(nodes)
    group = FusedGroup(nodes, [_strip(nodes, readers, *cut) for cut in pairwise(cuts)])
    for buffer in {layout.placement[node][0]: None for node in nodes}:
        if _is_internal(layout, nodes, buffer):
            group.line_buffers[buffer] = max(
                _line_buffer_rows(layout, nodes, strip, buffer) for strip in group.strips
            )
    return group


def _line_buffer_bytes(group: FusedGroup, row_bytes: RowBytes) -> int:
    """Count the bytes of a thread's line buffers."""
    return sum(rows * row_bytes(buffer) for buffer, rows in group.line_buffers.items())


def _computed_rows(node: Node) -> int:
    """Return a node's rows before its pixel shuffle."""
    return node.size.height // node.upscale


def _readers(nodes: Sequence[Node]) -> list[list[Reader]]:
    """List, by node, those after it that read it."""
    return [
        [
            Reader(j, nodes[j].footprint(index))
            for j in range(i + 1, len(nodes))
            for index, source in enumerate(nodes[j].inputs)
            if source is node
        ]
        for i, node in enumerate(nodes)
    ]


def _strip(
    nodes: Sequence[Node], readers: list[list[Reader]], begin: int, end: int
) -> list[Progression]:
    """List the nodes' rows before and after each block of the last node's rows [begin, end).

    Nodes compute no more than those after them need, in whole steps of theirs.
    """
    blocks = min(MAX_BLOCKS, max(1, (end - begin) // MIN_BLOCK_ROWS))
    progressions = [_needed_rows(nodes, readers, begin, first=True)]
    for block in range(1, blocks + 1):
        row = begin + -(-(end - begin) * block // blocks)
        needed = _needed_rows(nodes, readers, row, first=False)
        progressions.append([max(pair) for pair in zip(needed, progressions[-1], strict=True)])
    return progressions


def _needed_rows(
    nodes: Sequence[Node], readers: list[list[Reader]], row: int, *, first: bool
) -> Progression:
    """Return, by node, the first row that the last node's rows from `row` on need (`first`), or
    the end of what its rows up to `row` need."""
    last = _computed_rows(nodes[-1])
    needed = [0] * len(nodes)
    for i in reversed(range(len(nodes))):
        node, rows = nodes[i], _computed_rows(nodes[i])
        step = node.row_step
        if not readers[i] or (row == last and not first):
            needed[i] = min(rows, _rounded_up(-(-rows * row // last), step))
        elif first:
            start = min(needed[j] * stride - above for j, (stride, above, _) in readers[i])
            needed[i] = max(0, start // node.upscale // step * step)
        else:
            end = max(
                (needed[j] - 1) * stride + below + 1 if needed[j] else 0
                for j, (stride, _, below) in readers[i]
            )
            needed[i] = min(rows, _rounded_up(-(-end // node.upscale), step))
    return needed


def _rounded_up(row: int, step: int) -> int:
    return -(-row // step) * step


def _is_internal(layout: Layout, nodes: Sequence[Node], buffer: Buffer) -> bool:
    """Whether all nodes that write or read a buffer are among `nodes`."""
    is_output = layout.placement[layout.order[-1]][0] is buffer
    return not is_output and layout.users[buffer] <= set(nodes)


def _line_buffer_rows(
    layout: Layout, nodes: Sequence[Node], strip: list[Progression], buffer: Buffer
) -> int:
    """Count the rows, the halo's included, that a line buffer holds at most."""
    most = 0
    for before, after in pairwise(strip):
        start, end = buffer.height, 0
        for i, node in enumerate(nodes):
            if layout.placement[node][0] is buffer:
                start = min(start, before[i] * node.upscale)
                end = max(end, after[i] * node.upscale)
            for index, source in enumerate(node.inputs):
                if layout.placement[source][0] is buffer:
                    stride, above, _ = node.footprint(index)
                    start = min(start, before[i] * stride - above)
        start = max(start, -buffer.halo)
        if before is strip[0] and start <= 0:
            start = -buffer.halo  # the first block holds the rows above the image
        most = max(most, end + (buffer.halo if end == buffer.height else 0) - start)
    return most
