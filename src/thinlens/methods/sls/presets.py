"""Presets of SLS and the training that belongs to them, every constant with its source.

Sources: the paper (section or table); `code`, the official code of super-resolution; `framework`,
the public deblurring framework of SLS's authors, which the paper trains with but does not print.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LAMBDA_REG = {"sr": 1e-10, "deblur": 1e-12}
"""Section 4.2: lambda of equation 6, per multiply-add of a training crop, for images in
[0, 255]."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "threshold": 0.5,  # tau, section 4.2
        "alpha": 1.1,  # section 4.2
        "anneal_threshold": 0.1,  # T, section 4.2
        "anneal_epochs": 2,  # K, which the paper does not print: code
        "anneal_window": 2,  # equation 7: the change during the last K epochs
        "anneal_quantity": "fraction",  # equation 7: C_pruned / C_original
        "max_penalty_growth": None,  # equation 7 has no bound
        "k_max": 1.0,  # equation 4
        "priority_displacement": 30.0,  # Adam at 1e-4 for 300 epochs of 1,000 steps: code
        "ordered": True,  # section 3.4
        # Tables 1 and 2 repeat Table 3's row of one epoch; the text names ten.
        "regroup_epochs": 1,
        "regroup_until": 1.0,  # the paper names no end
        "refill": False,
        "distill_weight": 0.0,
    },
    "code": {
        "threshold": 0.5,
        "alpha": 1.2,
        "anneal_threshold": 0.2,  # its training script
        "anneal_epochs": 2,
        "anneal_window": 1,  # the last epoch alone
        "anneal_quantity": "factor",
        "max_penalty_growth": None,
        "k_max": 1.03,
        "priority_displacement": 30.0,
        "ordered": True,
        "regroup_epochs": 1,
        "regroup_until": 1.0,
        "refill": False,
        "distill_weight": 0.0,
    },
    "plus": {
        "penalty": 5e-4,
        "alpha": 1.3,
        "anneal_threshold": None,
        "anneal_window": 2,
        "priority_displacement": 24.0,
        "regroup_epochs": 4,
        "search_until": 0.6,
        "finish": "greedy",
        "start_budget_factor": 2.0,
        "least_squares": True,
        "distill_weight": 0.5,
    },
}

_SUPER_RESOLUTION = {
    "optimizer": "adam",  # code
    "learning_rate": 1e-4,  # code
    "schedule": "step",  # code: halved at epoch 200 of 300
    "floor": 0.0,
    "warmup": 0,
    "epoch_steps": 1000,  # Table 3: 10,000 iterations are 10 epochs
    "precision": "fp32",
    "loss": "l1",  # section 3.5
    "average": 0.0,
    "batch_size": 16,  # code
    "patch": 48,  # code: 192 pixels of the target at x4
    "candidates": 1,
}

_DEBLURRING = {
    **_SUPER_RESOLUTION,
    "schedule": "halvings",  # framework
    "epoch_steps": 131,  # Table 3: 1,310 iterations are 10 epochs
    "patch": 256,  # framework
}

TRAINING_PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "paper": {"sr": _SUPER_RESOLUTION, "deblur": _DEBLURRING},
    "code": {"sr": _SUPER_RESOLUTION},
}
"""Training settings and crops by preset and task. The length, 300 epochs of super-resolution and
2,000 of deblurring after as many of pretraining (S4), is --steps."""
