"""Trial runs of networks of any package: without values where that suffices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thinlens.models.aten_arguments import bind_arguments
from thinlens.models.copying import copy_network, meta_copy
from thinlens.models.dispatch_mode import DispatchMode
from thinlens.models.result_shapes import result_shape, result_without_values
from thinlens.models.running import weight_like

_T = TypeVar("_T")

TrialFunction = Callable[[nn.Module, Tensor], _T]
"""What is done with a copy of a network and an image."""


@torch.inference_mode(mode=False)  # its tensors count their writes
@torch.no_grad()
def trial_run(
    module: nn.Module, shape: Sequence[int], run: Callable[[nn.Module, Tensor], _T]
) -> _T:
    """Return what `run` returns for a copy of `module` and an image of `shape`.

    The copy, in evaluation mode, is on the meta device, where tensors have shapes but no values; a
    network whose control flow reads values runs on its own device, on zeros. Raises what that
    raises. `module` is not changed.

    >>> trial_run(nn.Conv2d(3, 8, 3), (1, 3, 16, 16), lambda copy, image: copy(image).shape)
    torch.Size([1, 8, 14, 14])
    """
    kind = weight_like(module)
    try:
        image = torch.empty(*shape, dtype=kind.dtype, device="meta")
        with _ShapesByRule():
            return run(meta_copy(module).eval(), image)
    except Exception:  # what the meta device cannot run, the network's own device may
        return run(copy_network(module).eval(), kind.new_zeros(tuple(shape)))


class _ShapesByRule(DispatchMode):
    """Computes shapes on the meta device by our rules where there is one: see `result_shapes`."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name, arguments = bind_arguments(func, args, kwargs)
        tensors = [x for x in tree_leaves(arguments) if isinstance(x, Tensor)]
        result = None
        if "out" not in arguments and any(x.is_meta for x in tensors):
            if name.endswith("_") and result_shape(name[:-1], arguments) == tensors[0].shape:
                result = tensors[0]  # written in place
            else:
                result = result_without_values(name, arguments)
        return func(*args, **(kwargs or {})) if result is None else result
