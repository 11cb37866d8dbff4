"""Cases of the engine's tests as files for CPUs without Python.

`python tests/engine_cases.py OUT`: the suite's own generators make them (convolutions, Winograd's
bound, geometry, pointwise programs, reductions, networks, bands, streams). Programs are planned for
kernels of the named lanes and recorded, not run.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import test_engine
import test_engine_bands
import test_engine_bf16
import test_engine_geometry
import test_engine_int16
import test_engine_kernels
import test_engine_pointwise
import test_engine_reductions
import test_engine_winograd
from case_file import COMMANDS, RUNS, CaseWriter, RecordingCore
from thinlens.engine import compiled, stream
from thinlens.engine import plan as plans
from thinlens.engine.compiled import Compiled
from thinlens.engine.heuristic import Heuristic
from thinlens.engine.kernel_choice import DENSE, WINOGRAD, KernelChoice
from thinlens.engine.ops.conv import ConvParams
from thinlens.engine.tuner import KernelSelector
from thinlens.models import MODELS

NAME = "recorded"
CONVOLUTIONS, WINOGRADS, INTEGERS = 48, 24, 16
"""How many are drawn of each kind."""
BF16_ROUNDING = 2.0**-8


def sparse(params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
    return params.in_channels


def grouped(params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
    return min(5, params.in_channels)


def dense(params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
    return DENSE


def winograd(params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
    return WINOGRAD if params.fits_winograd else DENSE


SELECTORS: list[KernelSelector] = [Heuristic(), sparse, grouped, dense, winograd]


@contextmanager
def recording(core: RecordingCore) -> Iterator[None]:
    """Let the engine and the suite's functions plan for kernels that only record."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "native", lambda: core)
        patch.setattr(test_engine_kernels, "CORE", core)
        patch.setattr(test_engine_kernels, "BF16", core.available_kernels("bf16"))
        yield


def convolutions(writer: CaseWriter, storage: str) -> None:
    """Every kernel, stride, dilation, pixel shuffle, slope and remainder, drawn from a seed."""
    rng = np.random.default_rng(0)
    for index in range(CONVOLUTIONS):
        k = int(rng.choice([1, 3, 5]))
        stride, dilation = [(1, 1), (2, 1), (1, 2), (3, 1)][index % 4]
        padding = int(rng.integers(0, k // 2 * dilation + 1))
        least = max(1, dilation * (k - 1) + 1 - 2 * padding)
        height, width = (int(rng.integers(least, max(41, least + 1))) for _ in range(2))
        c_in, shuffle = int(rng.integers(1, 41)), int(rng.choice([1, 1, 2, 3]))
        c_out = int(rng.integers(1, 7)) * shuffle**2
        shape = (c_out, c_in, k, k)
        weight = test_engine_kernels.nm_weight(rng, shape, int(rng.integers(0, 5)), 4)
        bias = rng.standard_normal(c_out).astype(np.float32)
        stored = test_engine_kernels.stored
        params = ConvParams(stored(NAME, weight), bias, padding, stride, dilation)
        image = stored(NAME, rng.standard_normal((2, c_in, height, width)).astype(np.float32))
        slopes = [1.0, 0.0, 0.1, np.linspace(-0.5, 1.5, c_out).tolist()]
        options = {"shuffle": shuffle, "slope": slopes[index % 3 if index % 5 else 3]}
        if shuffle == 1 and index % 2:
            options["residual"] = True
        wanted = test_engine_kernels.reference(params, image, **options)
        bound = test_engine_kernels.tolerance(params) * max(1.0, float(np.abs(wanted).max()))
        relative = BF16_ROUNDING if storage == "bf16" else 0.0
        if relative and "residual" in options:  # rounded before it is added
            bound += relative * float(np.abs(wanted).max())
        for group in (0, 5, 64):
            test_engine_kernels.run_one(NAME, params, image, group=group, threads=2, **options)
            label = f"conv {index} {k}x{k} stride {stride} dilation {dilation} group {group}"
            writer.add(label, wanted, bound, relative)


def winograds(writer: CaseWriter, storage: str) -> None:
    """Winograd's kernel within its stated bound."""
    rng = np.random.default_rng(1)
    for index in range(WINOGRADS):
        padding = index % 2
        height, width = (int(rng.integers(3, 41)) for _ in range(2))
        c_in, shuffle = int(rng.integers(1, 41)), int(rng.choice([1, 1, 2, 3]))
        c_out = int(rng.integers(1, 7)) * shuffle**2
        stored = test_engine_kernels.stored
        weight = rng.standard_normal((c_out, c_in, 3, 3)).astype(np.float32)
        bias = rng.standard_normal(c_out).astype(np.float32)
        params = ConvParams(stored(NAME, weight), bias, padding, 1, 1)
        image = stored(NAME, rng.standard_normal((1, c_in, height, width)).astype(np.float32))
        options = {"shuffle": shuffle, "slope": [1.0, 0.0, 0.2][index % 3]}
        wanted = test_engine_kernels.reference(params, image, **options)
        test_engine_kernels.run_one(NAME, params, image, group=WINOGRAD, threads=2, **options)
        bound = test_engine_winograd.error_bound(params, image, **options)
        relative = BF16_ROUNDING if storage == "bf16" else 0.0
        writer.add(f"winograd {index} {c_in} to {c_out}", wanted, bound, relative)


def integers(writer: CaseWriter, storage: str) -> None:
    """Convolutions of 16-bit integers within their stated bound."""
    if storage != "fp32":
        return
    rng = np.random.default_rng(2)
    for index in range(INTEGERS):
        k, stride = [(1, 1), (3, 1), (3, 2), (5, 1)][index % 4]
        height, width, c_in = (int(rng.integers(5, 41)) for _ in range(3))
        shuffle = 1 + index % 2
        shape = (int(rng.integers(1, 7)) * shuffle**2, c_in, k, k)
        weight = test_engine_kernels.nm_weight(rng, shape, int(rng.integers(0, 5)), 4)
        bias = rng.standard_normal(shape[0]).astype(np.float32)
        params = ConvParams(weight, bias, k // 2, stride, 1)
        image = rng.standard_normal((1, c_in, height, width)).astype(np.float32)
        options = {"shuffle": shuffle, "slope": [1.0, 0.0, 0.2][index % 3]}
        wanted = test_engine_kernels.reference(params, image, **options)
        for group in (0, 5, 64):
            test_engine_kernels.run_one(
                NAME, params, image, group=group, input_range=6.0, threads=2, **options
            )
            bound = test_engine_int16.error_bound(params, 6.0, **options)
            writer.add(f"int16 {index} {k}x{k} group {group}", wanted, float(bound.max()))


def double(module: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = copy.deepcopy(module).double()(image.double())
    return result


def add_near(writer: CaseWriter, name: str, wanted: Tensor, error: float, storage: str) -> None:
    """Add a case with the suite's bounds: in bfloat16 some roundings of the largest value."""
    if storage == "fp32":
        writer.add(name, wanted, error, error)
    else:
        largest = max(1.0, float(wanted.abs().max()))
        writer.add(name, wanted, 4 * test_engine_bf16.ROUNDING * largest)


def geometry(writer: CaseWriter, storage: str) -> None:
    """Depthwise and grouped convolutions, transposed ones, pooling, resizes, padding, slices."""
    for index, name in enumerate(test_engine_geometry.OPERATIONS):
        module = test_engine_geometry.network(name)
        image = torch.randn(1, 2, *test_engine_geometry.IMAGES[index % 2])
        Compiled(module, 2, NAME, SELECTORS[index % len(SELECTORS)])(image)
        add_near(writer, name, double(module, image), 2e-5, storage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "MIN_BLOCK_ROWS", 2)
        for name in test_engine_geometry.STREAMED:
            module = test_engine_geometry.network(name)
            image = torch.randn(1, 2, 41, 30)
            Compiled(module, 3, NAME, Heuristic())(image)
            add_near(writer, f"streamed {name}", double(module, image), 2e-5, storage)


def functions(writer: CaseWriter, storage: str) -> None:
    """Pointwise programs, then reductions, norms and softmax."""
    suites: Sequence[tuple[str, dict[str, Callable[..., Tensor]], float, bool]] = (
        ("pointwise", test_engine_pointwise.OPERATORS, 1e-6, False),
        ("reduction", test_engine_reductions.OPERATORS, 2e-6, True),
    )
    for kind, operators, exact, is_of_largest in suites:
        for name, function in operators.items():
            module = test_engine_pointwise.Network(function)
            image = test_engine_pointwise.values(7, 35)
            if storage == "bf16":
                image = image.bfloat16().float()
            expected = function(image.double(), module.constant.double())
            Compiled(module, 2, NAME, Heuristic())(image)
            bound = 2.0**-5 if storage == "bf16" and is_of_largest else exact
            if is_of_largest:
                writer.add(f"{kind} {name}", expected, bound * (1 + expected.abs().max()))
            else:
                writer.add(f"{kind} {name}", expected, bound, bound)


def norms(writer: CaseWriter, storage: str) -> None:
    """Normalization over channels and by groups, and channel attention, whole and streamed."""
    for rows, style in enumerate([*test_engine_reductions.STYLES, "groups"], 1):
        torch.manual_seed(0)
        module, image = test_engine_reductions.Norms(style).eval(), torch.randn(1, 3, 26, 51)
        near = 2e-5 if storage == "fp32" else 0.1
        for threads in (1, 3):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(stream, "MIN_BLOCK_ROWS", rows)
                Compiled(module, threads, NAME, Heuristic())(image)
            writer.add(f"norm {style}", double(module, image), near, near)


def networks(writer: CaseWriter, storage: str) -> None:
    """Whole networks, by every kind of kernel; those that can, by bands of rows, too."""
    error = test_engine.FLOAT32_ERROR
    for index, name in enumerate(test_engine.NETWORKS):
        module = test_engine.tiny(name)
        channels = MODELS[name].channels
        for turn, size in enumerate([(16, 15), (19, 37)]):
            image = torch.rand(1, channels, *size)
            selector = SELECTORS[(index + turn) % len(SELECTORS)]
            Compiled(module, 2, NAME, selector)(image)
            add_near(writer, f"network {name} {size}", double(module, image), error, storage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "BAND_BYTES", 0)
        patch.setattr(plans, "BAND_ROWS", 5)
        for name in sorted(test_engine_bands.ROLLING & set(test_engine.NETWORKS)):
            module = test_engine.tiny(name)
            image = torch.rand(1, MODELS[name].channels, 47, 22)
            list(Compiled(module, 2, NAME, Heuristic()).bands(image))
            assert RUNS[-1].bands
            add_near(writer, f"bands {name}", double(module, image), error, storage)


KINDS = (convolutions, winograds, integers, geometry, functions, norms, networks)


def write_cases(path: Path, lanes: int, storage: str) -> int:
    """Write the cases for kernels with so many lanes; return their number."""
    core = RecordingCore(lanes, storage)
    writer = CaseWriter(core)
    torch.manual_seed(0)
    with recording(core), torch.no_grad():
        for kind in KINDS:
            kind(writer, storage)
    missing = set(COMMANDS) - writer.commands
    assert not missing, f"no case of {missing}"
    return writer.write(path)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--storage", choices=["fp32", "bf16"], default="fp32")
    arguments: Any = parser.parse_args(words)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    number = write_cases(arguments.out, arguments.lanes, arguments.storage)
    print(f"{arguments.out}: {number} cases, {arguments.lanes} lanes of {arguments.storage}")


if __name__ == "__main__":
    main()
