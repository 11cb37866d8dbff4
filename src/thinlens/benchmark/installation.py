"""Description of an installation for bug reports: machine, kernels, engines, extras and cache."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from thinlens.engine.cores import usable_cores
from thinlens.engine.native import build, fastest, native
from thinlens.engine.timings import cache_folder, cpu_name
from thinlens.engine.version import package_version

EXTRAS: dict[str, tuple[str, ...]] = {
    "plots": ("matplotlib",),
    "lpips": ("lpips",),
    "large": (),
    "jxl": ("pillow-jxl-plugin",),
    "heic": ("pillow-heif",),
    "spandrel": ("spandrel", "spandrel-extra-arches", "einops"),
    "serve": ("starlette", "uvicorn", "python-multipart"),
    "hub": ("pyyaml",),
    "demo": ("matplotlib", "scikit-image"),
    "export": ("onnx", "onnxruntime"),
    "docs": ("sphinx", "furo", "myst-parser"),
    "objects": ("fsspec", "s3fs"),
    "ray": ("ray",),
    "peers": ("onnx", "onnxruntime", "openvino", "ncnn", "pnnx", "mnn", "executorch"),
}
"""The packages of each extra in pyproject.toml."""

REQUIRED = ("numpy", "pillow", "pyvips", "safetensors", "lightning-fabric", "tyro", "rich")
"""Packages beside torch whose versions matter in a bug report."""

ENGINE_PACKAGES = ("torch", "onnxruntime", "openvino", "ncnn")

INSTRUCTIONS = (
    *("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8"),
    *("asimd", "asimddp", "bf16", "i8mm"),
)
"""Flags of /proc/cpuinfo on which kernels depend, of x86-64 and of arm64."""


def describe_installation() -> dict[str, Any]:
    """Return what a bug report needs: versions, CPU, kernels, engines, extras and the cache.

    Nothing is measured, and no image is read.

    >>> kernels = describe_installation()["kernels"]
    >>> kernels["selected"] in ("torch", *kernels["fp32"])
    True
    """
    core = native()
    storages = ("fp32", "bf16")
    supported = {x: core.available_kernels(x) if core else [] for x in storages}
    return {
        "thinlens": package_version(),
        "build": build(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "instructions": [flag for flag in INSTRUCTIONS if flag in cpu_flags()],
        "kernels": {**supported, "selected": fastest()},
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
        "engines": package_versions(ENGINE_PACKAGES),
        "packages": package_versions(REQUIRED),
        "extras": {extra: missing_packages(names) for extra, names in EXTRAS.items()},
        "cache": str(cache_folder()),
        "cache_bytes": folder_bytes(cache_folder()),
    }


def cpu_flags() -> set[str]:
    """Return the flags of the first processor in /proc/cpuinfo; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each distribution, None where it is missing."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def missing_packages(names: Iterable[str]) -> list[str]:
    """Return those of the distributions that are not installed."""
    return [name for name, number in package_versions(names).items() if number is None]


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; 0 where there is none."""
    total = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # removed meanwhile
            continue
    return total
