"""Input of a network: pack the image into the engine's layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from thinlens.engine.graph import Node

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter
    from thinlens.engine.layout import Placements


@dataclass(eq=False)
class Input(Node):
    """The image that a network is called with."""

    name: ClassVar[str] = "input"
    free_rows: ClassVar[bool] = True

    def can_roll(self, placement: Placements) -> bool:
        """Rows of the image are packed one by one."""
        return True

    def emit(self, emitter: Emitter) -> None:
        """Pack the image, unless all readers pack it themselves."""
        readers = emitter.readers(self)
        if not readers or any(not reader.packs_input for reader in readers):
            emitter.program.pack(emitter.slice(self))
            emitter.record(self)
