"""Operations of the engine: one file each, one line each in `OPERATIONS`.

A file has the lowering from ATen and, where the operation is not made of others, a `Node` with its
fusion, layout and streaming rules and its steps. See docs/adding-an-operation.md.
"""

from __future__ import annotations

from thinlens.engine.ops import (
    activation,
    alias,
    arithmetic,
    average_pool,
    batch_norm,
    channel_slice,
    concat,
    convolution,
    gate,
    max_pool,
    pad,
    pixel_shuffle,
    repeat,
    slice,
    upsample,
)
from thinlens.engine.ops.lowering import Lowering

OPERATIONS: dict[str, Lowering] = {
    "alias": alias.lower_alias,
    "clone": alias.lower_alias,
    "copy": alias.lower_copy,
    "detach": alias.lower_alias,
    "convolution": convolution.lower_convolution,
    "relu": activation.lower_relu,
    "leaky_relu": activation.lower_leaky_relu,
    "add": arithmetic.lower_add,
    "sub": arithmetic.lower_sub,
    "mul": arithmetic.lower_mul,
    "div": arithmetic.lower_div,
    "sigmoid": gate.lower_sigmoid,
    "cat": concat.lower_cat,
    "pixel_shuffle": pixel_shuffle.lower_pixel_shuffle,
    "pixel_unshuffle": pixel_shuffle.lower_pixel_unshuffle,
    "max_pool2d": max_pool.lower_max_pool,
    "max_pool2d_with_indices": max_pool.lower_max_pool,
    "adaptive_max_pool2d": max_pool.lower_adaptive_max_pool,
    "avg_pool2d": average_pool.lower_average_pool,
    "adaptive_avg_pool2d": average_pool.lower_adaptive_average_pool,
    "_adaptive_avg_pool2d": average_pool.lower_adaptive_average_pool,
    "upsample_bilinear2d": upsample.lower_bilinear,
    "upsample_bicubic2d": upsample.lower_bicubic,
    "upsample_nearest2d": upsample.lower_nearest(exact=False),
    "_upsample_nearest_exact2d": upsample.lower_nearest(exact=True),
    "_upsample_bilinear2d_aa": upsample.lower_antialiased(degree=1),
    "_upsample_bicubic2d_aa": upsample.lower_antialiased(degree=3),
    "slice": slice.lower_slice,
    "split": channel_slice.lower_split,
    "split_with_sizes": channel_slice.lower_split_with_sizes,
    "slice_scatter": channel_slice.lower_slice_scatter,
    "index_select": channel_slice.lower_index_select,
    "flip": channel_slice.lower_flip,
    "channel_shuffle": channel_slice.lower_channel_shuffle,
    "native_channel_shuffle": channel_slice.lower_channel_shuffle,
    "replication_pad2d": pad.lower_replication_pad,
    "reflection_pad2d": pad.lower_reflection_pad,
    "constant_pad_nd": pad.lower_constant_pad,
    "repeat": repeat.lower_repeat,
    "native_batch_norm": batch_norm.lower_batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm.lower_batch_norm,
    "cudnn_batch_norm": batch_norm.lower_batch_norm,
    "batch_norm": batch_norm.lower_batch_norm,
}
"""By the name of an ATen operation, how it becomes a node."""
