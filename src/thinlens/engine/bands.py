"""Plan a whole network as one streaming group, so that large images run by bands of rows.

Every tensor becomes a rolling line buffer: it holds the rows that later operations still need, and
no more. Memory then grows with the image's width alone, and no row is computed twice. All threads
share the rows of one operation. A buffer that holds many rows wraps around instead of moving them:
its first rows are repeated past its end, so that what an operation touches is always in one piece.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np

from thinlens.engine.graph import Footprint, Node, Rows
from thinlens.engine.layout import Buffer, Layout, lay_out
from thinlens.engine.native import Core
from thinlens.engine.ops.concat import Concat
from thinlens.engine.ops.conv import Conv
from thinlens.engine.ops.pointwise import copied
from thinlens.engine.stream import (
    FusedGroup,
    LineRows,
    Progression,
    computed_rows,
    rounded_up,
    stream_plan,
)

ROWS_PER_THREAD = 4
"""Rows of a row block for each thread, in those of the input: the height of a tile."""

MAX_CONCAT_ROWS = 32
"""Rows of a concatenation's buffer from which its inputs have buffers of their own."""

LATE_ROWS = 24
"""Rows that wait for a reader from which it comes late: beyond those that wait for the first."""

MAX_RECOMPUTED = 0.015
"""Multiply-adds of a convolution, relative to those of the network, up to which it may be computed
twice."""

WRAP_FROM = 3
"""Rows of a line buffer, relative to those that one operation touches, from which it wraps: fewer
are moved, which takes no memory of its own."""


def can_roll(layout: Layout) -> bool:
    """Whether no operation needs whole tensors."""
    return all(isinstance(node, Concat) or node.can_roll(layout.placement) for node in layout.order)


def rolled(core: Core, layout: Layout, lanes: int, threads: int) -> tuple[Layout, FusedGroup]:
    """Return the layout and the only group of a network that can roll.

    Inputs of concatenations are copied where they cannot lie in the result's buffer, or would wait
    there for long: only the last rows of the others would be needed. Cheap convolutions are
    computed twice where a reader that comes late would keep many rows waiting.
    """
    concats = [node for node in layout.order if isinstance(node, Concat)]
    scattered = [node for node in concats if not node.can_roll(layout.placement)]
    if scattered:
        layout = _with_copies(layout, scattered, lanes)
    group = _band_group(core, layout, threads)
    together = [node for node in concats if node not in scattered]
    late = _read_late(group, _waiting(layout, group, together))
    if late:
        copies = {source: copied(source) for source in late}
        for node in together:
            node.inputs = [copies.get(source, source) for source in node.inputs]
        layout = lay_out(layout.order[-1], lanes)
        group = _band_group(core, layout, threads)
    waiting = _waiting(layout, group, together)
    if waiting:
        layout = _with_copies(layout, waiting, lanes)
        group = _band_group(core, layout, threads)
    if _recompute_for_late_readers(layout, group):
        layout = lay_out(layout.order[-1], lanes)
        group = _band_group(core, layout, threads)
    return layout, group


def _waiting(layout: Layout, group: FusedGroup, concats: Sequence[Node]) -> list[Node]:
    """List the concatenations whose buffer holds many rows."""
    return [
        node
        for node in concats
        if group.line_buffers[layout.placement[node][0]].rows > MAX_CONCAT_ROWS
    ]


def _read_late(group: FusedGroup, concats: Sequence[Node]) -> list[Node]:
    """List the inputs that others read late, so that all of the concatenation waits for them.

    A residual connection around a dense block reads its input so; only that input is copied.
    """
    return [
        source
        for source in dict.fromkeys(source for node in concats for source in node.inputs)
        if any(
            source in reader.inputs and _lag(group, source, reader) > LATE_ROWS
            for reader in group.nodes
            if not isinstance(reader, Concat)
        )
    ]


def _with_copies(layout: Layout, concats: Sequence[Node], lanes: int) -> Layout:
    """Copy the inputs of concatenations; each copy lies in the result's buffer."""
    for node in concats:
        node.inputs = [copied(source) for source in node.inputs]
    return lay_out(layout.order[-1], lanes)


def _recompute_for_late_readers(layout: Layout, group: FusedGroup) -> bool:
    """Let readers that come late read a convolution of their own; return whether any does."""
    convs = [node for node in group.nodes if isinstance(node, Conv)]
    limit = MAX_RECOMPUTED * sum(map(_multiply_adds, convs))
    changed = False
    for node in convs:
        buffer = layout.placement[node][0]
        readers = [reader for reader in group.nodes if node in reader.inputs]
        lags = {reader: _lag(group, node, reader) for reader in readers}
        first = min(lags.values(), default=0)
        late = [reader for reader in readers if lags[reader] > first + LATE_ROWS]
        if not late or buffer.channels != node.size.channels:
            continue
        early = max(lags[reader] for reader in readers if reader not in late)
        most = max(lags[reader] for reader in late)
        saved = (most - early) * buffer.channels * buffer.row_vectors
        sources = {layout.placement[source][0] for source in node.inputs}
        added = sum(
            max(0, most - group.line_buffers[source].rows) * source.channels * source.row_vectors
            for source in sources
        )
        if added < saved and _multiply_adds(node) <= limit:
            again = copy.copy(node)
            again.inputs = list(node.inputs)
            for reader in late:
                reader.inputs = [again if source is node else source for source in reader.inputs]
            changed = True
    return changed


def _multiply_adds(conv: Conv) -> int:
    """Count a convolution's, of its non-zero weights."""
    rows, columns = computed_rows(conv), conv.size.width // conv.upscale
    return conv.params.nonzeros * rows * columns


def _lag(group: FusedGroup, node: Node, reader: Node) -> int:
    """Count the rows of `node` that wait for `reader`, at most."""
    (strip,) = group.strips
    ahead = strip[1:, group.nodes.index(node)] * node.upscale
    begin = strip[:-1, group.nodes.index(reader)]
    areas = [
        reader.footprint(index) for index, source in enumerate(reader.inputs) if source is node
    ]
    return max(int((ahead - area.first(begin)).max()) for area in areas)


def _band_group(core: Core, layout: Layout, threads: int) -> FusedGroup:
    """Return the group of all operations."""
    nodes = [node for node in layout.order if not _is_packed_by_readers(layout, node)]
    strip = _rolling_rows(nodes, ROWS_PER_THREAD * threads)
    buffers = list({layout.placement[node][0]: None for node in nodes})
    plan = stream_plan(core, layout, nodes, list(layout.users))
    needed = dict(zip(layout.users, plan.buffer_rows(strip.tolist()), strict=True))
    touched = _touched_rows(layout, nodes, strip, buffers)
    lines = {buffer: _line_rows(buffer, needed[buffer], touched[buffer]) for buffer in buffers}
    return FusedGroup(nodes, [strip], lines)


class Advance(NamedTuple):
    """What decides how far a node of a group must be: its readers, and in what steps it goes."""

    readers: list[tuple[int, Footprint]]
    """The position of each, and the rows that it reads."""
    upscale: int
    row_step: int
    rows: int


def _rolling_rows(nodes: Sequence[Node], block: int) -> Progression:
    """List the nodes' rows after each row block, which reads `block` rows of the input or more.

    It begins only when the rows that it needs are there: until then, the others advance as fast as
    afterwards, so that no buffer must hold more rows at the beginning than later.
    """
    advances = _advances(nodes)
    rows, start = advances[-1].rows, 0
    while (most := max(_reached(advances, start, max))) > 0:
        start -= most
    block = max(1, block * rows // nodes[0].size.height)
    ends = np.append(np.arange(start, rows, block), rows)
    heights = np.array([advance.rows for advance in advances])
    table = np.clip(np.stack(_reached(advances, ends, np.maximum), axis=1), 0, heights)
    table[-1] = heights
    return table


def _advances(nodes: Sequence[Node]) -> list[Advance]:
    positions = {node: i for i, node in enumerate(nodes)}
    advances = [Advance([], x.upscale, x.row_step, computed_rows(x)) for x in nodes]
    for j, node in enumerate(nodes):
        for index, source in enumerate(node.inputs):
            if source in positions:
                advances[positions[source]].readers.append((j, node.footprint(index)))
    return advances


def _reached(
    advances: Sequence[Advance], ends: Rows, larger: Callable[[Rows, Rows], Rows]
) -> list[Rows]:
    """Return, by node, the rows needed for `ends` of the last one; below 0 before the image."""
    last = advances[-1].rows
    reached: list[Rows] = [ends] * len(advances)
    for i in reversed(range(len(advances))):
        readers, upscale, step, height = advances[i]
        rows = -(-height * ends // last)
        for number, (j, area) in enumerate(readers):
            end = area.end(reached[j])
            rows = larger(rows, end) if number else end
        if readers:
            rows = rounded_up(rows, upscale) // upscale
        reached[i] = rounded_up(rows, step)
    return reached


def _is_packed_by_readers(layout: Layout, node: Node) -> bool:
    """Whether it is an image that all its readers pack themselves."""
    if node.inputs:
        return False
    readers = [reader for reader in layout.order if node in reader.inputs]
    return bool(readers) and all(reader.packs_input for reader in readers)


def _line_rows(buffer: Buffer, needed: int, touched: int) -> LineRows:
    """Choose how a buffer holds its rows."""
    wrapped = needed + touched - 1
    if needed < WRAP_FROM * touched or wrapped > buffer.height + 2 * buffer.halo:
        return LineRows(needed)
    return LineRows(wrapped, wrap=needed)


def _touched_rows(
    layout: Layout, nodes: Sequence[Node], strip: Progression, buffers: Sequence[Buffer]
) -> dict[Buffer, int]:
    """Count, by buffer, the rows that one step touches in a row block at most, its halo included.

    As csrc/streaming.cpp does.
    """
    most = dict.fromkeys(buffers, 1)
    before, after = strip[:-1], strip[1:]
    for i, node in enumerate(nodes):
        active = after[:, i] > before[:, i]
        if not node.is_step() or not active.any():
            continue
        begin, end = before[active, i], after[active, i]
        output = layout.placement[node][0]
        top, bottom = begin * node.upscale, end * node.upscale
        halo = output.halo
        areas = [
            (output, top - halo * (top == 0), bottom + halo * (bottom == output.height)),
            *(
                (layout.placement[source][0], area.first(begin), area.end(end))
                for area, source in (
                    (node.footprint(index), source) for index, source in enumerate(node.inputs)
                )
            ),
        ]
        for buffer in {buffer for buffer, _, _ in areas if buffer in most}:
            firsts = [first for other, first, _ in areas if other is buffer]
            ends = [last for other, _, last in areas if other is buffer]
            first = np.maximum(reduce(np.minimum, firsts), -buffer.halo)
            last = np.minimum(reduce(np.maximum, ends), buffer.height + buffer.halo)
            most[buffer] = max(most[buffer], int((last - first).max()))
    return most
