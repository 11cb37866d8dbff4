"""Batch normalization in evaluation mode: a scale and a shift per channel."""

from __future__ import annotations

import numpy as np

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.affine import affine
from thinlens.engine.ops.lowering import Arguments, TraceContext


def lower_batch_norm(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `batch_norm`: `(x - mean) / sqrt(variance + eps) * weight + bias`."""
    if a.get("training") or a.get("train"):
        return None
    channels = size.channels
    gamma = np.ones(channels, np.float32)
    if a["weight"] is not None:
        gamma = context.weights(a["weight"], channels)
    beta = context.weights(a["bias"], channels)
    mean = context.weights(a["running_mean"], channels).astype(np.float64)
    variance = context.weights(a["running_var"], channels).astype(np.float64)
    scale = gamma / np.sqrt(variance + a["eps"])
    shift = beta - mean * scale
    x = context.node(a["input"])
    return affine(x, scale.astype(np.float32), shift.astype(np.float32))
