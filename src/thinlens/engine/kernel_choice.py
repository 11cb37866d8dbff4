"""Kernels of a convolution: dense, Winograd's, sparse by groups of input channels, and int16."""

from __future__ import annotations

DENSE = 0
"""The dense kernel. A positive choice is the number of input channels that the sparse kernel
traverses together."""

WINOGRAD = -1
"""The dense kernel of Winograd's minimal filtering F(4x4, 3x3) (csrc/micro/winograd.h)."""

WINOGRAD_ROWS = 4
"""Rows of its tiles. Calls begin at multiples of them, so that no result depends on the calls."""

INT16 = 1 << 17
"""Added to `DENSE` or a number of input channels: the kernel multiplies 16-bit integers. More than
a convolution has channels."""

KernelChoice = int
"""`DENSE`, `WINOGRAD` or a number of input channels, the first and the last also with `INT16`."""


def is_int16(choice: KernelChoice) -> bool:
    """Whether a kernel multiplies 16-bit integers."""
    return choice >= INT16


def channel_group(choice: KernelChoice) -> int:
    """Return what `Program.conv` takes as the number of input channels."""
    return choice - INT16 if is_int16(choice) else choice


def kernel_name(choice: KernelChoice) -> str:
    """Return the name of a kernel for reports.

    >>> [kernel_name(choice) for choice in (DENSE, WINOGRAD, 16, INT16 + 16)]
    ['dense', 'winograd', 'sparse', 'int16 sparse']
    """
    if is_int16(choice):
        return f"int16 {kernel_name(choice - INT16)}"
    return {DENSE: "dense", WINOGRAD: "winograd"}.get(choice, "sparse")
