"""How do torch.compile and torch.export see a compiled network? As one operation of torch's."""

from __future__ import annotations

from itertools import count
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thinlens.errors import UsageError


class Engine(Protocol):
    """What runs a network."""

    module: nn.Module

    def execute(self, image: Tensor) -> Tensor:
        """Run it on images `[B, C, H, W]`."""
        ...


_numbers = count()
_engines: WeakValueDictionary[int, Engine] = WeakValueDictionary()
"""Operations take tensors and numbers, so a network goes by a number while it lives."""


def number(engine: Engine) -> int:
    """Give an engine the number that `run` knows it by, in this process."""
    new = next(_numbers)
    _engines[new] = engine
    return new


@torch.library.custom_op("thinlens::run", mutates_args=())
def run(image: Tensor, engine: int) -> Tensor:
    """Run the network with this number. It has no gradient."""
    return _engine(engine).execute(image)


@run.register_fake
def _run_fake(image: Tensor, engine: int) -> Tensor:
    """Give a result its size: the one that the module gives images without values."""
    module = _engine(engine).module
    state = [*module.named_parameters(), *module.named_buffers()]
    stand_ins = {name: image.new_empty(value.shape, dtype=value.dtype) for name, value in state}
    result: Tensor = functional_call(module, stand_ins, (image,))
    return image.new_empty(result.shape)


def _engine(wanted: int) -> Engine:
    engine = _engines.get(wanted)
    if engine is None:
        raise UsageError(f"compiled network {wanted} is gone, or of another process: compile anew")
    return engine
