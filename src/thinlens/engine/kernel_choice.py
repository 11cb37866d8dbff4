"""Kernels of a convolution: dense, Winograd's, or sparse by groups of input channels."""

from __future__ import annotations

DENSE = 0
"""The dense kernel. A positive choice is the number of input channels that the sparse kernel
traverses together."""

WINOGRAD = -1
"""The dense kernel of Winograd's minimal filtering F(4x4, 3x3) (csrc/micro/winograd.h)."""

WINOGRAD_ROWS = 4
"""Rows of its tiles. Calls begin at multiples of them, so that no result depends on the calls."""

KernelChoice = int
"""`DENSE`, `WINOGRAD` or a number of input channels."""


def kernel_name(choice: KernelChoice) -> str:
    """Return the name of a kernel for reports.

    >>> [kernel_name(choice) for choice in (DENSE, WINOGRAD, 16)]
    ['dense', 'winograd', 'sparse']
    """
    return {DENSE: "dense", WINOGRAD: "winograd"}.get(choice, "sparse")
