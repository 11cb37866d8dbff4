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
    "alias": alias.lower_alias,
    "detach": alias.lower_alias,
    "convolution": conv.lower_convolution,
    "relu": activation.lower_relu,
    "leaky_relu": activation.lower_leaky_relu,
    "add": arithmetic.lower_add,
    "sub": arithmetic.lower_sub,
    "mul": arithmetic.lower_mul,
    "div": arithmetic.lower_div,
    "sigmoid": gate.lower_sigmoid,
    "cat": concat.lower_cat,
    "pixel_shuffle": pixel_shuffle.lower_pixel_shuffle,
    "max_pool2d_with_indices": max_pool.lower_max_pool,
    "upsample_bilinear2d": resize.lower_upsample_bilinear,
    "slice": slice.lower_slice,
    "replication_pad2d": pad.lower_pad,
    "native_batch_norm": batch_norm.lower_batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm.lower_batch_norm,
    "cudnn_batch_norm": batch_norm.lower_batch_norm,
    "batch_norm": batch_norm.lower_batch_norm,
}
"""By the name of an ATen operation, how it becomes a node."""
