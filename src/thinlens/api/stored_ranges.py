"""The ranges of int16's inputs that a checkpoint or a pruned network holds."""

from __future__ import annotations

from thinlens.checkpoints.format import Checkpoint
from thinlens.engine.input_ranges import read_input_ranges
from thinlens.engine.plan import InputRanges
from thinlens.sparsity.pattern import Pruned


def stored_input_ranges(network: object) -> InputRanges | None:
    """Return the ranges, by layer, that were measured when a network was pruned, or None."""
    if isinstance(network, Checkpoint):
        return read_input_ranges(network.provenance)
    return read_input_ranges(network.record) if isinstance(network, Pruned) else None
