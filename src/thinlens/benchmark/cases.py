"""Which engines take part in a comparison on one network, and why do the others not?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.benchmark.backends import PEERS, PRECISIONS, Setting, UnavailableError
from thinlens.benchmark.interleaved import Entrant
from thinlens.engine.automatic import is_thin
from thinlens.engine.compiled import Compiled
from thinlens.engine.native import fastest, native
from thinlens.engine.tuner import always_dense
from thinlens.errors import UsageError

OURS = "thinlens"

FAMILIES = {"torch": ("torch", "torch-channels-last", "torch-compile"), "none": ()}
"""Words that stand for several engines, or for none."""


@dataclass(frozen=True)
class Ours:
    """Our engine with the network and the image that it runs."""

    engine: Compiled
    image: Tensor

    def run(self) -> Tensor:
        """Run it once."""
        return self.engine(self.image)


@dataclass
class LineUp:
    """Who takes part."""

    entrants: list[Entrant] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)
    """Engine, precision and the reason, in one sentence."""
    thin: Ours | None = None
    """Our engine in float32, with as few weights as there are, for what it knows of its plan."""

    def leave_out(self, engine: str, precision: str, why: str) -> None:
        """Note an engine that does not take part."""
        self.missing.append({"engine": engine, "precision": precision, "why": why})


def engines(words: str) -> list[str]:
    """Read `--against`: names, and `torch` for its three ways."""
    names: list[str] = []
    for word in words.split(","):
        family = FAMILIES.get(word, (word,))
        for name in family:
            if name not in PEERS:
                known = ", ".join(["none", *PEERS])
                raise UsageError(f"--against {word!r}: wanted names among {known}")
        names += [name for name in family if name not in names]
    return names


def precisions(words: str) -> list[str]:
    """Read `--precision`."""
    names = list(dict.fromkeys(words.split(",")))
    for name in names:
        if name not in PRECISIONS:
            raise UsageError(f"--precision {name!r}: wanted names among {', '.join(PRECISIONS)}")
    return names


def line_up(
    module: nn.Module, image: Tensor, setting: Sequence[Setting], against: Sequence[str]
) -> LineUp:
    """Prepare `module` for every engine and setting; what cannot run is missing with a reason.

    Peers multiply by every zero that `module` has. Ours does so in a row of its own.
    """
    found = LineUp()
    expected = reference(module, image)
    for one in setting:
        _add_ours(found, module, image, one, expected)
        for name in against:
            try:
                run = PEERS[name](module, image, one)
                run()
            except UnavailableError as error:
                found.leave_out(name, one.precision, str(error))
            except Exception as error:  # other people's engines fail in ways of their own
                reason = (str(error) or type(error).__name__).strip().partition("\n")[0]
                found.leave_out(name, one.precision, f"it failed: {reason}")
            else:
                found.entrants.append(Entrant(name, one.precision, False, run, expected))
    return found


def reference(module: nn.Module, image: Tensor) -> Tensor:
    """Run torch in float32, which all engines are compared with."""
    with torch.inference_mode():
        output: Tensor = module(image)
    return output


def _add_ours(
    found: LineUp, module: nn.Module, image: Tensor, setting: Setting, expected: Tensor
) -> None:
    if native() is None:
        found.leave_out(OURS, setting.precision, "the native engine was not built")
        return
    thin = is_thin(module)
    variants: list[tuple[bool, Any]] = [(False, always_dense), *([(True, None)] if thin else [])]
    for sparse, choose in variants:
        try:
            engine = Compiled(module, setting.threads, fastest(setting.precision), choose)
            engine(image)
        except UsageError as error:
            found.leave_out(OURS, setting.precision, str(error))
            return
        ours = Ours(engine, image)
        if setting.precision == "fp32":
            found.thin = ours
        found.entrants.append(Entrant(OURS, setting.precision, sparse, ours.run, expected))
