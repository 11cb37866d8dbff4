"""Failures of a network's forward pass: lack of memory, and refusals as sentences."""

from __future__ import annotations

import torch
from torch import Tensor

from thinlens.errors import UsageError

_MORE_INPUTS = ("required positional argument", "required keyword-only argument")
"""What Python's sentence on a call with too few arguments holds."""


def out_of_memory(error: Exception) -> bool:
    """Return whether an exception means that memory does not suffice."""
    # torch on a CPU raises a plain RuntimeError: only its message differs.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate" in str(error)


def needs_more_inputs(error: Exception) -> bool:
    """Return whether a network was called with too few inputs."""
    return isinstance(error, TypeError) and any(words in str(error) for words in _MORE_INPUTS)


def refusal(error: Exception, images: Tensor) -> UsageError:
    """Return the sentence for an exception that a network raised on `images` `[B, C, h, w]`.

    >>> refusal(RuntimeError("odd height"), torch.zeros(1, 3, 5, 7))
    UsageError('the network cannot run on an image of 7x5 with 3 channels: odd height')
    """
    if isinstance(error, UsageError):
        return error
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if needs_more_inputs(error):
        return UsageError(
            f"the network takes more than an image ({reason}): wanted a module whose forward takes "
            "the image alone and calls the network with the other inputs"
        )
    *_, channels, height, width = images.shape
    return UsageError(
        f"the network cannot run on an image of {width}x{height} with {channels} channels: {reason}"
    )
