"""The sub-commands of `prune`: one for every entry of `METHODS`, and one with all their flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli.prune import DEFAULT_METHOD, OPTIONS, Prune, budget_flag

if TYPE_CHECKING:
    from thinlens.methods import Method


def prune_command(words: Sequence[str]) -> tuple[type[Prune], str, list[str]]:
    """Return the command that `prune WORDS` stands for, its name, and the words that it parses.

    The first word is the method, unless a folder of that name exists: `prune sls CHECKPOINT ...`;
    otherwise `--method` selects it, by default least-squares.
    """
    from thinlens.methods import METHODS

    first = words[0] if words else ""
    if first in METHODS and not Path(first).is_dir():
        return _method_command(METHODS[first]), f"thinlens prune {first}", list(words[1:])
    return general_command(), "thinlens prune", list(words)


def _method_command(kind: type[Method]) -> type[Prune]:
    from thinlens.cli.method_flags import method_flags

    flag = budget_flag(kind)
    presets = f" {', '.join(kind.PRESETS)}; default {kind.DEFAULT_PRESET}." if kind.PRESETS else ""
    budget = "mean cost of an image, as a fraction of the network's FLOPs: 58%"
    if kind.BUDGET_BASE != "base_flops":
        budget = "fraction of the cost that is kept: 1/8, 0.125 or 12.5%"
    if kind.BUDGET_BASE == "prunable_macs":
        budget += "; or the time of one input in the native engine on this machine: 40ms"
    example = f"Example: thinlens prune {kind.NAME} rfdn-x4 {flag} 1/4 --out thin"
    doc = (
        f"{' '.join((kind.__doc__ or '').split())}\n\n{example}{presets and f' Presets:{presets}'}"
    )
    members = [
        _text_flag(flag.removeprefix("--").replace("-", "_"), f"The {budget}."),
        (OPTIONS, method_flags(kind)),
    ]
    return _command(doc, members, kind)


def general_command() -> type[Prune]:
    """Return the command without a method, which has the flags of all methods."""
    from thinlens.cli.method_flags import all_method_flags
    from thinlens.methods import METHODS

    summaries = [
        f"- {name}: {' '.join((kind.__doc__ or '').split('.')[0].split())}."
        for name, kind in METHODS.items()
    ]
    listing = "\n".join(summaries)
    doc = (
        f"{(Prune.__doc__ or '').strip()}\n\nMethods, whose options `thinlens prune METHOD --help` "
        f"lists:\n{listing}"
    )
    members = [
        _text_flag(
            "method", f"One of {', '.join(METHODS)} (default: {DEFAULT_METHOD}).", DEFAULT_METHOD
        ),
        _text_flag(
            "budget",
            "The fraction of the prunable multiply-adds (methods with --metric: of the metric) "
            "that is kept: 1/8, 0.125 or 12.5%; or the time of one input in the native engine on "
            "this machine: 40ms.",
        ),
        _text_flag(
            "target_cost",
            "Methods of routed networks, in place of --budget: the mean cost of an image, "
            "classifier included, as a fraction of the network's FLOPs, such as 58%.",
        ),
        (
            "m",
            Annotated[
                int | None,
                tyro.conf.arg(
                    help="Consecutive input channels in a group (default: 32).",
                    metavar="INT",
                    help_behavior_hint="",
                ),
            ],
            None,
        ),
        (OPTIONS, all_method_flags()),
    ]
    return _command(doc, members, None)


Member = tuple[Any, ...]
"""Name, type and, if it has one, default of a field."""


def _text_flag(name: str, doc: str, default: str | None = None) -> Member:
    argument = tyro.conf.arg(help=doc, metavar="TEXT", help_behavior_hint="")
    return name, Annotated[str | None, argument], default


def _command(doc: str, members: Sequence[Member], kind: type[Method] | None) -> type[Prune]:
    """Return a command with the shared flags, `members` and the training settings."""
    from thinlens.cli.method_flags import options_type, training_flags

    members_list: list[Any] = []
    for name, hint, *default in [*members, ("training", training_flags())]:
        if isinstance(hint, dict):  # a group of flags
            members_list.append((name, options_type(name, hint), field(default_factory=dict)))
        else:
            members_list.append((name, hint, field(default=default[0])))
    command: Any = make_dataclass("Prune", members_list, bases=(Prune,), frozen=True, kw_only=True)
    command.__doc__ = doc
    command.KIND = kind
    prune_class: type[Prune] = command
    return prune_class
