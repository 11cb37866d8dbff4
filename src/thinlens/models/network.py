"""What must be known of a network to build it, price it, train it and store it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from thinlens.errors import UsageError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Network:
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
    answers: str = "image"
    """What it makes of an image: an image, logits `[B, classes]` of a classifier, or log errors
    `[B, candidates]` of an estimator."""
    adopt: Callable[[State], State] = dict
    """Renames a published state dict to the module's own names."""

    def configured(self, **options: Any) -> Any:
        """Return the default config with `options`; an unknown option is a `UsageError`."""
        known = {f.name for f in fields(self.config)}
        for key in options:
            if key not in known:
                raise UsageError(f"this network has no option {key!r}: wanted {sorted(known)}")
        return replace(self.config, **options)

    def narrowed(self, config: Any, width: Fraction) -> Any:
        """Return `config` with every hidden width multiplied by `width`, as SLS's filter rows."""
        narrow = {name: width * getattr(config, name) for name in self.widths}
        for name, value in narrow.items():
            if value.denominator != 1 or value < 1:
                raise UsageError(
                    f"--width {width} of {name} = {getattr(config, name)} is not whole"
                )
        return replace(config, **{name: int(value) for name, value in narrow.items()})
