"""Operations of the engine: one file each, one line each in `OPERATIONS`.

A file has the lowering from ATen and, where the operation is not made of others, a `Node` with its
fusion, layout and streaming rules and its steps. See docs/adding-an-operation.md.
"""

from __future__ import annotations

from thinlens.engine.ops import (
    activation,
    alias,
    arithmetic,
    batch_norm,
    concat,
    conv,
    gate,
    max_pool,
    pad,
    pixel_shuffle,
    resize,
    slice,
)
from thinlens.engine.ops.lowering import Lowering

OPERATIONS: dict[str, Lowering] = {
    "alias": alias.lower,
    "detach": alias.lower,
    "convolution": conv.lower,
    "relu": activation.lower_relu,
    "leaky_relu": activation.lower_leaky_relu,
    "add": arithmetic.lower_add,
    "sub": arithmetic.lower_sub,
    "mul": arithmetic.lower_mul,
    "div": arithmetic.lower_div,
    "sigmoid": gate.lower_sigmoid,
    "cat": concat.lower,
    "pixel_shuffle": pixel_shuffle.lower,
    "max_pool2d_with_indices": max_pool.lower,
    "upsample_bilinear2d": resize.lower,
    "slice": slice.lower,
    "replication_pad2d": pad.lower,
    "native_batch_norm": batch_norm.lower,
    "_native_batch_norm_legit_no_training": batch_norm.lower,
    "cudnn_batch_norm": batch_norm.lower,
    "batch_norm": batch_norm.lower,
}
"""By the name of an ATen operation, how it becomes a node."""
