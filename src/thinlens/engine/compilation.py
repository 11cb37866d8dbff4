"""Compile a network for the native engine, in a precision by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from thinlens.engine.compiled import Compiled, check_threads
from thinlens.engine.first_image import FirstImageEngine
from thinlens.engine.native import fastest, native
from thinlens.engine.plan import InputRanges
from thinlens.engine.precision import FAST, find_precision
from thinlens.models.copying import copy_network
from thinlens.sparsity.pattern import Pruned


def compile(
    model: nn.Module | Pruned,
    precision: str = "fp32",
    threads: int | None = None,
    input_ranges: InputRanges | None = None,
    *,
    least_work: float = 0.0,
) -> Callable[[Tensor], Tensor]:
    """Return a callable that maps images `[B, C, H, W]` as `model` does, in evaluation mode.

    It holds a copy of the current weights and plans a size on its first use. Results agree with
    torch to a few 1e-6 of their size; with `precision="bf16"`, which stores weights and all
    activations but the output in bfloat16 and needs a CPU with AVX512_BF16, to about 1e-2; with
    `"int16"`, whose convolutions multiply 16-bit integers where that is faster, to about 1e-3.
    `"fast"` is the fastest of them within 0.01 dB of float32 on the first image.
    `input_ranges` are int16's, by layer (`engine.input_ranges.measure_input_ranges`); without them
    they are measured on the first image.
    What the engine does not know runs in torch; so does a segment between such parts with at most
    `least_work` multiply-adds for each value that is copied between both.
    torch.compile and torch.export take it as one operation, without a gradient, which can run as
    long as the callable exists. Without the C++ core torch runs the module, after one warning.
    Raises `UsageError` for an operation that the engine does not know, or for a wrong input.
    """
    module = model.module if isinstance(model, Pruned) else model
    if threads is not None:
        check_threads(threads)
    kernels = fastest("fp32" if precision == FAST else precision)
    frozen = copy_network(module).eval().requires_grad_(False)
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in frozen.parameters()):
        frozen = frozen.float()  # activations are float32, or the bfloat16 of the kernels
    if native() is None:
        return torch.inference_mode()(frozen)
    threads = threads or torch.get_num_threads()
    int16 = precision != FAST and find_precision(precision).int16
    if precision == FAST or (int16 and input_ranges is None):
        return FirstImageEngine(frozen, threads, precision, input_ranges, least_work)
    ranges = input_ranges if int16 else None
    return Compiled(frozen, threads, kernels, least_work=least_work, input_ranges=ranges)
