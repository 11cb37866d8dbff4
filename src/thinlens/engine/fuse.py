"""Operator fusion: merge batch norms, activations, sums and pixel shuffles into convolutions."""

from __future__ import annotations

import copy
from collections import Counter

from thinlens.engine.graph import Node, count_readers, topological_order
from thinlens.engine.ops.norm import recognized_norm
from thinlens.errors import UsageError


class UnfusableError(UsageError):
    """A node that no step can run after fusion."""

    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(reason)
        self.node = node
        """The node before fusion."""


def fuse(output: Node) -> tuple[Node, dict[Node, Node]]:
    """Return the output of an equal graph with fewer nodes, by each node's rule `fused`.

    With it the nodes before fusion whose values nodes of that graph compute; not all do.
    Raises `UnfusableError` where a node remains that no step can run.
    """
    counts = count_readers(topological_order(output), output)
    replaced: dict[Node, Node] = {}
    origins: dict[Node, Node] = {}
    readers: Counter[Node] = Counter()  # of the nodes of the fused graph
    for node in topological_order(output):
        inputs = [replaced[source] for source in node.inputs]
        try:
            again = copy.copy(node)
            again.inputs = inputs
            fused = again.fused(lambda source: readers[source] == 1)
            fused = recognized_norm(fused)
        except UsageError as error:
            raise UnfusableError(node, str(error)) from error
        replaced[node] = fused
        origins[fused] = node
        readers[fused] = counts[node]
    for node in topological_order(replaced[output]):
        try:
            node.check()
        except UsageError as error:
            origin = origins.get(node)
            raise UnfusableError(origin or node, str(error)) from error
    return replaced[output], origins
