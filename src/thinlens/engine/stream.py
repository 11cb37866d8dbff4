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
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinlens.engine.graph import Node, Rows
from thinlens.engine.layout import Buffer, Layout
from thinlens.engine.native import Core

if TYPE_CHECKING:
    from thinlens.engine import _native

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


def fused_groups(core: Core, layout: Layout, row_bytes: RowBytes, threads: int) -> list[FusedGroup]:
    """Cut the operations into groups, each as long as its line buffers fit into the cache.

    Operations that run alone are in no group. csrc/stream_plan.cpp does the arithmetic: longer
    groups take more bytes, so lengths are doubled, then bisected.
    """
    buffers = list(layout.users)
    plan = stream_plan(core, layout, layout.order, buffers, row_bytes)
    limits = core.StreamLimits(CACHE_BYTES, MIN_BLOCK_ROWS, MIN_STRIP_ROWS, MAX_BLOCKS)
    return [
        FusedGroup(
            layout.order[group.first : group.first + group.count],
            [np.array(strip, np.int64) for strip in group.strips],
            {buffers[index]: LineRows(rows) for index, rows in group.line_buffers},
        )
        for group in plan.groups(limits, threads)
    ]


def stream_plan(
    core: Core,
    layout: Layout,
    nodes: Sequence[Node],
    buffers: Sequence[Buffer],
    row_bytes: RowBytes | None = None,
) -> _native.StreamPlan:
    """Describe some of a layout's nodes, in order, and the buffers that they use, to the core."""
    positions = {node: i for i, node in enumerate(nodes)}
    numbers = {buffer: i for i, buffer in enumerate(buffers)}
    placement = layout.placement
    last = placement[layout.order[-1]][0]

    def read(node: Node, index: int, source: Node) -> _native.StreamRead:
        number = numbers[placement[source][0]]
        return core.StreamRead(positions.get(source, -1), number, *node.footprint(index))

    described = [
        core.StreamNode(
            computed_rows(node),
            node.upscale,
            node.row_step,
            numbers[placement[node][0]],
            node.can_stream(placement),
            node.is_step(),
            [read(node, index, source) for index, source in enumerate(node.inputs)],
        )
        for node in nodes
    ]
    return core.StreamPlan(
        described,
        [
            core.StreamBuffer(x.height, x.halo, row_bytes(x) if row_bytes else 0, x is last)
            for x in buffers
        ],
    )


def computed_rows(node: Node) -> int:
    """Return a node's rows before its pixel shuffle."""
    return node.size.height // node.upscale


def rounded_up(rows: Rows, step: int) -> Rows:
    """Return the smallest multiples of a step that are not below `rows`."""
    return rows if step == 1 else -(-rows // step) * step
