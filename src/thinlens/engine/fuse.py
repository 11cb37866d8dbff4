"""Operator fusion: merge batch norms, activations, sums and pixel shuffles into convolutions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from thinlens.engine.graph import Node, count_readers, topological_order
from thinlens.engine.ops.norm import recognized_norm
from thinlens.errors import UsageError


def fuse(output: Node) -> Node:
    """Return the output of an equal graph with fewer nodes, by each node's rule `fused`.

    Raises `UsageError` where a node is left that no step can run.
    """
    counts = count_readers(topological_order(output), output)
    replaced: dict[Node, Node] = {}
    readers: Counter[Node] = Counter()  # of the nodes of the fused graph
    for node in topological_order(output):
        inputs = [replaced[source] for source in node.inputs]
        fused = replace(node, inputs=inputs).fused(lambda source: readers[source] == 1)
        fused = recognized_norm(fused)
        replaced[node] = fused
        readers[fused] = counts[node]
    for node in topological_order(replaced[output]):
        node.check()
        if any(source.crops_output for source in node.inputs) and not node.crops_output:
            raise UsageError("the engine crops only the output")
    return replaced[output]
