"""The command `doctor`: what this machine and this installation offer, as one block to copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thinlens.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class Doctor(Verb):
    """Print what this machine offers: cores, sets of instructions, kernels, engines, extras, cache;
    one block to copy into a bug report.

    Example: thinlens doctor
    """

    def run(self) -> Answer:
        from thinlens.benchmark.installation import describe_installation

        content = describe_installation()
        return Answer(content, ("\n".join(_lines(content)),))


def _lines(content: Mapping[str, Any]) -> list[str]:
    kernels, extras = content["kernels"], content["extras"]
    complete = [name for name, missing in extras.items() if not missing]
    partial = [f"{name} ({', '.join(x)})" for name, x in extras.items() if x]
    entries = {
        "thinlens": f"{content['thinlens']}, build {content['build']}",
        "system": f"{content['system']}, Python {content['python']}",
        "cpu": f"{content['cpu']}, {content['cores']} cores, {content['usable_cores']} usable",
        "instructions": _listed(content["instructions"]),
        "kernels": f"{_listed(kernels['fp32'])}; selected: {kernels['selected']}",
        "kernels bf16": _listed(kernels["bf16"]),
        "threads": f"{content['torch_threads']} by default; CUDA: "
        f"{'yes' if content['cuda'] else 'no'}",
        "engines": _versions(content["engines"]),
        "packages": _versions(content["packages"]),
        "extras": _listed(complete),
        "not installed": _listed(partial),
        "cache": f"{content['cache']}, {content['cache_bytes']:,} bytes",
    }
    width = max(map(len, entries)) + 1
    return [f"{name + ':':<{width}} {value}" for name, value in entries.items()]


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _versions(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {number or '-'}" for name, number in versions.items())
