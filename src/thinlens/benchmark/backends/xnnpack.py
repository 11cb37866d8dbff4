"""XNNPACK as a backend: ExecuTorch lowers a graph of `torch.export` to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thinlens.benchmark.backends.backend import (
    BackendSettings,
    PreparedRun,
    UnavailableError,
    no_warnings,
    require_packages,
)
from thinlens.benchmark.backends.silence import silence


def xnnpack(module: nn.Module, image: Tensor, setting: BackendSettings) -> PreparedRun:
    """Run it by XNNPACK in float32; what it does not have runs by ExecuTorch's portable kernels."""
    require_packages("executorch")
    if setting.precision != "fp32":
        raise UnavailableError(f"ExecuTorch has no {setting.precision} for a network of floats")
    with silence(), no_warnings():
        from executorch.backends.xnnpack.partition import xnnpack_partitioner
        from executorch.exir import to_edge_transform_and_lower
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        with torch.no_grad():
            graph = torch.export.export(module, (image,))
        edge = to_edge_transform_and_lower(
            graph, partitioner=[xnnpack_partitioner.XnnpackPartitioner()]
        )
        # methods hold the pool that they are loaded with
        if portable_lib._threadpool_get_thread_count() != setting.threads:
            portable_lib._unsafe_reset_threadpool(setting.threads)
        buffer = edge.to_executorch().buffer
        program = Runtime.get().load_program(buffer)
        method = program.load_method("forward")
        method.execute([image])  # it prints what it reads of the CPU

    def run(held: tuple[Any, ...] = (buffer, program)) -> Tensor:  # the method needs both
        result: Tensor = method.execute([image])[0]
        return result.clone()  # the next run writes over it

    return run
