"""Batch normalization in evaluation mode: a scale and a shift per channel; instance norm."""

from __future__ import annotations

import numpy as np

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.affine import affine
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.norm import group_norm


def lower_batch_norm(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `batch_norm`: `(x - mean) / sqrt(variance + eps) * weight + bias`."""
    channels = size.channels
    if a.get("training") or a.get("train"):
        return _instance_norm(context, a, channels) if a.get("running_mean") is None else None
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


def _instance_norm(context: TraceContext, a: Arguments, channels: int) -> Node:
    """The statistics of the image itself: the only one, as the engine runs images one by one."""
    weight, bias = (
        None if a[key] is None else context.weights(a[key], channels) for key in ("weight", "bias")
    )
    return group_norm(context.node(a["input"]), 1, weight, bias, float(a["eps"]))
