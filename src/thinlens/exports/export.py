"""Export of a network: files of another engine, compared with torch, with what its zeros bring."""

from __future__ import annotations

import copy
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from thinlens.errors import RunError, UsageError, check_choice
from thinlens.exports import EXPORTERS
from thinlens.exports.exporter import (
    Exporter,
    ExportInput,
    UnsupportedNetworkError,
    first_line,
    missing,
    require,
)
from thinlens.files import atomic_write
from thinlens.restoration.sizes import pad_to, run_at_any_size, size_rule
from thinlens.sparsity.recomputed import merge_recomputed

COMPARED_SIZES = ((48, 64), (72, 56))
"""Heights and widths of the images that networks are traced and compared with, unless one size is
chosen."""

EXPORT_TOLERANCE = 2e-3
"""Largest difference from torch, over the range of the result, of a file that is kept: half a step
of 8 bits. Networks that amplify rounding reach 7e-4 on noise."""

ZERO_SHARE = 0.01
"""Share of zero weights from which a sentence says what they bring."""


@dataclass(frozen=True)
class ExportResult:
    """What was written, and how it compares with torch."""

    format: str
    files: tuple[str, ...]
    bytes: int
    compressed_bytes: int
    """Of the same files after zlib, as in a zip archive."""
    zero_fraction: float
    """Zeros among the weights of convolutions and linear layers."""
    dynamic: bool
    """Whether the files take images of any size."""
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths of the images of the comparison, or the only size that is taken."""
    multiple: int
    """Sides of images must be multiples of it."""
    error: float | None
    """Largest difference from torch, over the range of its result; None: not compared."""
    checked: str
    """What the files were compared in, or why they were not."""

    def as_json(self) -> dict[str, Any]:
        """Return what `export --json` prints."""
        return asdict(self)

    def sentences(self) -> tuple[str, ...]:
        """Describe the files, the comparison, the sizes, and what zeros bring, a line each."""
        lines = [f"{', '.join(self.files)}: {self.bytes / 1e6:.2f} MB", self.checked]
        if not self.dynamic:
            height, width = self.sizes[0]
            lines.append(f"the file takes images of {width}x{height} only")
        elif self.multiple > 1:
            lines.append(f"sides of images must be multiples of {self.multiple}: pad and crop")
        if self.zero_fraction >= ZERO_SHARE:
            lines.append(
                f"{self.zero_fraction:.0%} of its weights are zero, which {self.format} engines "
                "multiply as all others: they bring no speed there, and compressed the file has "
                f"{self.compressed_bytes / 1e6:.2f} MB (channels removed by prune --method filter "
                "are faster in every engine)"
            )
        return tuple(lines)


def export_module(
    module: nn.Module,
    channels: int,
    path: Path,
    to: str = "onnx",
    size: tuple[int, int] | None = None,
) -> ExportResult:
    """Write a module that takes images of `channels` to `path` as the files of another engine.

    The ending of `path` may be omitted. Where the format and the network allow it, the files take
    images of any size, else of `size` (height, width). They are run by the format's engine, if that
    is installed, and compared with torch before anything is written. Raises `UsageError` if a
    package is missing or the network cannot be converted, `RunError` if the results differ.
    """
    check_choice("format", to, EXPORTERS)
    exporter = EXPORTERS[to]
    require(exporter)
    frozen = _frozen(module)
    images, multiple = _images(frozen, channels, size)
    frozen = merge_recomputed(frozen, images[0].shape)  # branches of the training are not exported
    with TemporaryDirectory(prefix="thinlens-export-") as folder:
        stem = Path(folder) / "network"
        dynamic, used, error, checked = _converted(exporter, frozen, images, stem)
        contents = {suffix: stem.with_suffix(suffix).read_bytes() for suffix in exporter.SUFFIXES}
    files = []
    for suffix, content in contents.items():
        target = _target(path, exporter, suffix)
        with atomic_write(target) as file:
            file.write(content)
        files.append(str(target))
    return ExportResult(
        format=to,
        files=tuple(files),
        bytes=sum(map(len, contents.values())),
        compressed_bytes=sum(len(zlib.compress(content)) for content in contents.values()),
        zero_fraction=_zero_fraction(frozen),
        dynamic=dynamic,
        sizes=tuple((x.shape[-2], x.shape[-1]) for x in used),
        multiple=multiple,
        error=error,
        checked=checked,
    )


def _frozen(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in float32 and evaluation mode."""
    try:
        copied = copy.deepcopy(module)
    except Exception as error:  # whatever a module raises
        raise UsageError(f"the network cannot be copied: {first_line(error)}") from error
    return copied.cpu().float().eval().requires_grad_(False)


def _images(
    module: nn.Module, channels: int, size: tuple[int, int] | None
) -> tuple[list[Tensor], int]:
    """Draw images of sizes that the network accepts; return them and the multiple of their sides.

    With a `size` there is one.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = COMPARED_SIZES if size is None else (size,)
    rough = [torch.rand(1, channels, x + 4, y + 4, generator=generator) for x, y in sizes]
    images = [avg_pool2d(noise, 5, 1) for noise in rough]  # as smooth as photographs
    with torch.inference_mode():
        for image in images:
            run_at_any_size(module, image)
        # 61x67 is a multiple of nothing
        run_at_any_size(module, torch.rand(1, channels, 61, 67, generator=generator))
    rule = size_rule(module)
    fitted = [pad_to(image, rule.accepted(*image.shape[-2:])) for image in images]
    if size is not None and fitted[0].shape != images[0].shape:
        height, width = fitted[0].shape[-2:]
        raise UsageError(
            f"--size {size[1]}x{size[0]}: the network does not take it; wanted {width}x{height}"
        )
    return fitted, rule.multiple


def _converted(
    exporter: Exporter, module: nn.Module, images: list[Tensor], stem: Path
) -> tuple[bool, list[Tensor], float | None, str]:
    """Write the files for any size, or for the first image's where that fails.

    Return whether they take any size, the images that they take, the error, and a sentence on it.
    """
    try:
        if len(images) > 1:
            return True, images, *_compared(exporter, module, images, stem)
    except (UnsupportedNetworkError, RunError):
        pass  # sizes that the network computes are constants of the trace
    try:
        return False, images[:1], *_compared(exporter, module, images[:1], stem)
    except UnsupportedNetworkError as error:
        raise UsageError(f"the network cannot be exported: {error}") from error


def _compared(
    exporter: Exporter, module: nn.Module, images: list[Tensor], stem: Path
) -> tuple[float | None, str]:
    """Write the files, run them on `images` and compare with torch."""
    second = images[1] if len(images) > 1 else None
    exporter.write(module, ExportInput(images[0], second), stem)
    absent = missing([exporter.RUNTIME])
    if absent:
        return None, f"not compared with torch: {absent[0]} is not installed"
    error = 0.0
    try:
        run = exporter.runner(stem)
        for image in images:
            with torch.inference_mode():
                expected = run_at_any_size(module, image)
            result = run(image)
            if result.shape != expected.shape:
                raise RunError(f"the exported network returns {tuple(result.shape)}")
            span = float(expected.abs().max().clamp(min=1))
            error = max(error, float((result - expected).abs().max()) / span)
    except RunError:
        raise
    except Exception as failure:  # whatever an engine raises
        raise RunError(f"{exporter.RUNTIME} cannot run it: {first_line(failure)}") from failure
    if not error <= EXPORT_TOLERANCE:
        raise RunError(f"{exporter.RUNTIME} differs from torch by {error:.2g} of the range")
    places = " and ".join(f"{x.shape[-1]}x{x.shape[-2]}" for x in images)
    return error, f"{exporter.RUNTIME} equals torch to {error:.1e} of the range, at {places}"


def _target(path: Path, exporter: Exporter, suffix: str) -> Path:
    """Return the path of one file: `path`, whose own ending is replaced if it is the format's."""
    stem = path.with_suffix("") if path.suffix.lower() in exporter.SUFFIXES else path
    return stem.with_name(f"{stem.name}{suffix}")


def _zero_fraction(module: nn.Module) -> float:
    """Return the share of zeros among the weights of two or more dimensions."""
    weights = [weight for weight in module.parameters() if weight.ndim > 1]
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / max(total, 1)
