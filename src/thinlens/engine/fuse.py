"""Which operations of a network are done in one go?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from thinlens.engine.graph import Kernel, Node, reachable, uses
from thinlens.errors import UsageError


def fuse(output: Node) -> Node:
    """Return the output of an equal graph with fewer nodes.

    Batch norms and scalings go into the convolution before them; so do sums, activations and
    pixel shuffles; a product with a sigmoid is a gate.
    """
    counts = uses(reachable(output), output)
    new: dict[Node, Node] = {}
    once: Counter[Node] = Counter()  # readers, of new nodes
    for node in reachable(output):
        inputs = [new[source] for source in node.inputs]
        node_now = replace(node, inputs=inputs)
        for rule in RULES:
            node_now = rule(node_now, lambda x: once[x] == 1)
        new[node] = node_now
        once[node_now] = counts[node]
    return _checked(new[output])


Alone = Callable[[Node], bool]


def _affine(node: Node, alone: Alone) -> Node:
    """Fold an affine step into the convolution or the affine step before it."""
    if node.kind != "affine":
        return node
    (x,) = node.inputs
    if not alone(x) or x.slope != 1.0:
        return node
    if x.kind == "affine":
        scale, shift = node.scale * x.scale, node.scale * x.shift + node.shift
        return replace(node, inputs=x.inputs, scale=scale, shift=shift)
    plain = bool((node.scale == 1).all() and (node.shift == 0).all())
    if x.kind == "conv" and (plain or len(x.inputs) == 1):
        kernel = _kernel(x)
        scale, shift = (np.repeat(a, x.shuffle**2) for a in (node.scale, node.shift))
        return replace(x, kernel=kernel.scaled(scale, shift), slope=node.slope)
    if x.kind == "add" and plain:
        return replace(x, slope=node.slope)
    return node


def _shuffle(node: Node, alone: Alone) -> Node:
    """Store a convolution's output shuffled."""
    if node.kind != "shuffle":
        return node
    (x,) = node.inputs
    if x.kind == "conv" and alone(x) and x.shuffle == 1 and len(x.inputs) == 1:
        return replace(x, size=node.size, shuffle=node.shuffle)
    raise UsageError("the engine does not know a pixel shuffle that follows no convolution")


def _residual(node: Node, alone: Alone) -> Node:
    """Add in the convolution that makes one of the terms."""
    if node.kind != "add":
        return node
    x, y = node.inputs
    terms = [(x, y, 1.0)] if node.factor == 1.0 else []
    for made, other, factor in [(y, x, node.factor), *terms]:
        free = made.kind == "conv" and alone(made) and made.slope == 1.0
        if free and made.shuffle == 1 and len(made.inputs) == 1 and made is not other:
            scale = np.full(made.size.channels, factor, np.float32)
            kernel = _kernel(made).scaled(scale, np.zeros_like(scale))
            return replace(made, inputs=[made.inputs[0], other], kernel=kernel)
    return node


def _gate(node: Node, alone: Alone) -> Node:
    """Make one step of a product with a sigmoid."""
    if node.kind != "product":
        return node
    for x, y in (node.inputs, node.inputs[::-1]):
        if y.kind == "sigmoid" and alone(y):
            return replace(node, kind="gate", inputs=[x, y.inputs[0]])
    return node


RULES: list[Callable[[Node, Alone], Node]] = [_affine, _shuffle, _residual, _gate]


def _kernel(node: Node) -> Kernel:
    if node.kernel is None:
        raise TypeError(f"a {node.kind} has no kernel")
    return node.kernel


def _checked(output: Node) -> Node:
    """Refuse what no step can run."""
    for node in reachable(output):
        if node.kind in ("sigmoid", "product"):
            raise UsageError(f"the engine does not know this use of a {node.kind}")
        if node.kind == "affine" and len(set(node.scale.tolist())) > 1:
            raise UsageError("the engine scales channels apart only after a convolution")
        if node.kind == "pad" and node.inputs[0].kind != "input":
            raise UsageError("the engine pads only the input")
        if any(source.kind == "crop" for source in node.inputs) and node.kind != "crop":
            raise UsageError("the engine crops only the output")
    return output
