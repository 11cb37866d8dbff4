"""Benchmark cases: one network prepared for every backend and precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from thinlens.benchmark.backends import (
    BACKENDS,
    BENCH_PRECISIONS,
    OUR_PRECISIONS,
    SPARSE_BACKENDS,
    BackendSettings,
    UnavailableError,
)
from thinlens.benchmark.interleaved import NATIVE_NAME, BenchCase
from thinlens.engine.compiled import Compiled
from thinlens.engine.first_image import FirstImageEngine
from thinlens.engine.graph import Size
from thinlens.engine.input_ranges import measure_input_ranges
from thinlens.engine.kernel_report import measure_kernels
from thinlens.engine.native import fastest, native
from thinlens.engine.precision import FAST, find_precision
from thinlens.engine.tuner import KernelSelector, tuner
from thinlens.errors import UsageError

THIN_FROM = 0.1
"""Fraction of zeros in a layer's weights that training alone does not produce."""

BACKEND_GROUPS = {
    "torch": ("torch", "torch-channels-last", "torch-compile"),
    "mnn": ("mnn", "mnn-sparse"),
    "none": (),
}
"""Names that stand for several backends, or for none."""


@dataclass(frozen=True)
class NativeCase:
    """The native engine with a network and the image that it runs on."""

    engine: Compiled
    image: Tensor

    def run(self) -> Tensor:
        """Run it once."""
        return self.engine(self.image)


@dataclass
class Backends:
    """The cases that can run, and the backends that cannot."""

    cases: list[BenchCase] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)
    """Engine, precision and the reason, in one sentence."""
    native: NativeCase | None = None
    """The native engine in float32, with the sparse kernels if the network is thin."""

    def add_missing(self, engine: str, precision: str, reason: str) -> None:
        """Note a backend that cannot run."""
        self.missing.append({"engine": engine, "precision": precision, "why": reason})


def parse_backends(names: str) -> list[str]:
    """Read `--against`: names separated by commas; `torch` stands for its three modes."""
    backends: list[str] = []
    for word in names.split(","):
        group = BACKEND_GROUPS.get(word, (word,))
        for name in group:
            if name not in BACKENDS:
                choices = ", ".join(["none", *BACKENDS])
                raise UsageError(f"--against {word!r}: wanted names among {choices}")
        backends += [name for name in group if name not in backends]
    return backends


def parse_precisions(names: str) -> list[str]:
    """Read `--precision`: names separated by commas."""
    precisions = list(dict.fromkeys(names.split(",")))
    for name in precisions:
        if name not in BENCH_PRECISIONS:
            choices = ", ".join(BENCH_PRECISIONS)
            raise UsageError(f"--precision {name!r}: wanted names among {choices}")
    return precisions


def collect_backends(
    module: nn.Module, image: Tensor, settings: Sequence[BackendSettings], names: Sequence[str]
) -> Backends:
    """Prepare `module` for the native engine and the named backends at all settings.

    Other backends multiply by the zeros of `module`; so does the native engine in a case of its
    own. What cannot run is missing, with a reason.
    """
    backends = Backends()
    expected = torch_output(module, image)
    for setting in settings:
        _add_native(backends, module, image, setting, expected)
        if setting.precision not in OUR_PRECISIONS:
            add_others(backends, module, image, setting, expected, names)
    return backends


def add_others(
    backends: Backends,
    module: nn.Module,
    image: Tensor,
    setting: BackendSettings,
    expected: Tensor,
    names: Sequence[str],
) -> None:
    """Add the named backends, or why they cannot run. `expected` is what torch returns."""
    for name in names:
        try:
            run = BACKENDS[name](module, image, setting)
            run()
        except UnavailableError as error:
            backends.add_missing(name, setting.precision, str(error))
        except Exception as error:  # whatever a backend raises
            reason = (str(error) or type(error).__name__).strip().partition("\n")[0]
            backends.add_missing(name, setting.precision, f"it failed: {reason}")
        else:
            case = BenchCase(name, setting.precision, name in SPARSE_BACKENDS, run, expected)
            backends.cases.append(case)


def torch_output(module: nn.Module, image: Tensor) -> Tensor:
    """Run torch in float32, the reference for all backends' errors."""
    with torch.inference_mode():
        output: Tensor = module(image)
    return output


def is_thin(module: nn.Module) -> bool:
    """Whether some layer has more zeros than training produces."""
    weights = [p for p in module.parameters() if p.dim() in (2, 4)]
    return any(int((p == 0).sum()) > THIN_FROM * p.numel() for p in weights)


def _add_native(
    backends: Backends,
    module: nn.Module,
    image: Tensor,
    setting: BackendSettings,
    expected: Tensor,
) -> None:
    """Add the native engine with the fastest dense kernels and, for a thin network, with sparse
    ones where those are faster."""
    if native() is None:
        reason = "the native engine was not built"
        backends.add_missing(NATIVE_NAME, setting.precision, reason)
        return
    try:
        engines = _native_engines(module, image, setting)
        for _, engine in engines:
            engine(image)
            if setting.precision == FAST:
                measure_kernels(engine, Size(*image.shape[1:]))
                engine(image)
    except UsageError as error:
        backends.add_missing(NATIVE_NAME, setting.precision, str(error))
        return
    for sparse, engine in engines:
        case = NativeCase(engine, image)
        if setting.precision == "fp32":
            backends.native = case
        backends.cases.append(BenchCase(NATIVE_NAME, setting.precision, sparse, case.run, expected))


def _native_engines(
    module: nn.Module, image: Tensor, setting: BackendSettings
) -> list[tuple[bool, Compiled]]:
    """Return engines of a precision, each with whether it skips zeros.

    The ranges of int16 are measured on the timed image.
    """
    threads, thin = setting.threads, is_thin(module)
    if setting.precision == FAST:
        return [(thin, FirstImageEngine(module, threads, FAST))]
    int16 = find_precision(setting.precision).int16
    kernels = fastest(setting.precision)
    ranges = measure_input_ranges(module, [image], threads) if int16 else None
    fastest_kernels = tuner(kernels, int16=int16)
    selectors: list[KernelSelector] = [fastest_kernels.dense]
    selectors += [fastest_kernels] if thin else []
    return [
        (index > 0, Compiled(module, threads, kernels, selector, input_ranges=ranges))
        for index, selector in enumerate(selectors)
    ]
