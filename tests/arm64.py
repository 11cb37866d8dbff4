"""Run the engine's cases in its kernels for arm64, cross-compiled and emulated: `make test-arm64`.

Where the cross compiler or the emulator is missing, one line says so and nothing is tested.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from engine_cases import write_cases
from inner_loops import best_loop, inner_loops

ROOT = Path(__file__).parents[1]
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"
DISASSEMBLER = "aarch64-linux-gnu-objdump"

FILES = {"fp32": (4, "cortex-a53"), "bf16": (8, "max")}
"""By storage, the lanes of its kernels and the emulated CPU: one without optional instructions, and
one with all."""

LIMITS = {"sparse_rowsILi1E": 1.6, "run_dense_conv": 1.4, "run_winograd_conv": 1.35}
"""Instructions for one multiply-add of four floats, by a part of the function's name (GCC 12)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "arm64")
    build: Path = parser.parse_args().build
    missing = [name for name in (COMPILER, EMULATOR, DISASSEMBLER) if shutil.which(name) is None]
    if missing:
        print(f"SKIPPED [1] test-arm64: no {', '.join(missing)}")
        return
    driver = build_driver(build)
    print_ratios(build)
    failed = False
    for storage, (lanes, cpu) in FILES.items():
        path = build / f"{storage}.cases"
        write_cases(path, lanes, storage)
        done = subprocess.run([EMULATOR, "-cpu", cpu, driver, path], check=False)
        failed |= done.returncode != 0
    sys.exit(int(failed))


def build_driver(build: Path) -> Path:
    """Compile the driver with all kernels for arm64, without shared libraries."""
    options = {
        "THINLENS_CASES": "ON",
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": COMPILER,
        "CMAKE_EXE_LINKER_FLAGS": "-static",
    }
    words = [f"-D{key}={value}" for key, value in options.items()]
    subprocess.run(
        ["cmake", "-S", ROOT, "-B", build, *words], check=True, stdout=subprocess.DEVNULL
    )
    threads = str(os.cpu_count() or 1)
    command = ["cmake", "--build", build, "--parallel", threads]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return build / "run_cases"


def print_ratios(build: Path) -> None:
    """Print the instructions of the kernels' inner loops; more than the limits are an error."""
    (kernels,) = build.rglob("neon.cpp.o")
    command = [DISASSEMBLER, "-d", "--no-show-raw-insn", kernels]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    loops = inner_loops(done.stdout)
    for function, limit in LIMITS.items():
        loop = best_loop(loops, function)
        line = f"{loop.instructions} instructions for {loop.multiply_adds} multiply-adds"
        print(f"{function}: {line} of 4 floats: {loop.ratio:.2f}, limit {limit}")
        if loop.ratio > limit:
            sys.exit(f"test-arm64: {function} takes more instructions than its limit")


if __name__ == "__main__":
    main()
