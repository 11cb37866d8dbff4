"""Model entries: how to build, train, count, scale and import a network of the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any, Literal

from torch import Tensor, nn

from thinlens.errors import UsageError

StateDict = dict[str, Tensor]
"""Tensors by their names in a module."""

OutputKind = Literal["image", "logits", "log errors"]
"""What a network computes from an image: an image, logits `[B, classes]` of a classifier, or log10
errors `[B, candidates]` of an estimator."""


def _no_options(state: StateDict) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class ModelEntry:
    """An entry of `MODELS`: everything about a network but its weights."""

    build: Callable[[Any], nn.Module]
    """Makes the module from a config; the module keeps it as `module.config`."""
    config: Any
    """The default config, a frozen dataclass. One with a `scale` enlarges images."""
    task: str
    """The key of its task in `TASKS`."""
    channels: int = 3
    """Image channels in and out."""
    tiny: Mapping[str, int] = field(default_factory=dict)
    """Config fields that make the network small enough for a unit test."""
    widths: tuple[str, ...] = ("width",)
    """Config fields that `--width` multiplies."""
    output_kind: OutputKind = "image"
    photographs_are_inputs: bool = False
    """Whether a folder holds inputs when it is pruned: its task does not make inputs like those
    that its published weights are trained on (Real-ESRGAN's second-order degradation)."""
    convert_state: Callable[[StateDict], StateDict] = dict
    """Converts a published state dict to the module's parameter names."""
    detect: Callable[[StateDict], Mapping[str, Any] | None] = _no_options
    """Reads options of the config off a converted state dict; None if it is not of this network.
    A `scale` need not be among them: all are tried."""

    def make_config(self, **options: Any) -> Any:
        """Return the default config with `options`; an unknown option is a `UsageError`."""
        names = {f.name for f in fields(self.config)}
        for key in options:
            if key not in names:
                raise UsageError(f"this network has no option {key!r}: wanted {sorted(names)}")
        return replace(self.config, **options)

    def scale_widths(self, config: Any, factor: Fraction) -> Any:
        """Return `config` with every hidden width multiplied by `factor`.

        SLS compares with such thin dense networks (Table 1, "filter"). A width that is not whole
        then is a `UsageError`.
        """
        widths = {name: factor * getattr(config, name) for name in self.widths}
        for name, width in widths.items():
            if width.denominator != 1 or width < 1:
                raise UsageError(
                    f"--width {factor} of {name} = {getattr(config, name)} is not whole"
                )
        return replace(config, **{name: int(width) for name, width in widths.items()})
