"""Which operations does a module perform on an input of one size?

The module runs once on meta tensors, which have sizes but no values, while a dispatch mode writes
down every ATen operation: control flow that looks at sizes needs no special case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thinlens.engine.graph import Array, Kernel, Node, Size
from thinlens.errors import UsageError
from thinlens.models.tile_position import LowMap, watched
from thinlens.sparsity.operations import called


def capture(module: nn.Module, channels: int, height: int, width: int) -> Node:
    """Return the node of `module`'s output for an image `[1, channels, height, width]`.

    Raises `UsageError` naming the operation if one is not among the engine's.
    """
    # Inference mode would show the recorder compound operations.
    with torch.inference_mode(False), torch.no_grad():
        return _capture(module, Size(channels, height, width))


def _capture(module: nn.Module, size: Size) -> Node:
    constants = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    stand_ins = {name: torch.empty_like(t, device="meta") for name, t in constants.items()}
    recorder = Recorder({id(stand_ins[name]): t.detach() for name, t in constants.items()})
    recorder.names = {id(stand_in): name for name, stand_in in stand_ins.items()}
    image = torch.empty(1, size.channels, size.height, size.width, device="meta")
    recorder.nodes[id(image)] = Node("input", [], size)
    with watched(recorder.low_map), recorder:
        output = functional_call(module, stand_ins, (image,))
    if not isinstance(output, Tensor):
        raise UsageError("the engine runs modules that return one tensor")
    return recorder.node(output)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Write down what is done to the input, as a graph of nodes."""

    def __init__(self, constants: Mapping[int, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.constants = constants
        self.names: dict[int, str] = {}
        self.nodes: dict[int, Node] = {}
        self.alive: list[Any] = []
        """Keeps every tensor, so that no identity is used twice."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.alive += [args, result]
        if not any(id(leaf) in self.nodes for leaf in tree_leaves((args, kwargs))):
            return result  # nothing of the input is in it
        name, bound = called(func, args, kwargs)
        if name not in LOWER:
            raise UsageError(f"the engine does not know the operation {name!r}")
        output = result[0] if isinstance(result, tuple) else result
        node = LOWER[name](self, bound, size_of(output))
        if node is None:
            raise UsageError(f"the engine does not know this use of the operation {name!r}")
        self.nodes[id(output)] = node
        return result

    def low_map(self, low_map: LowMap, resized: Tensor) -> None:
        """Note that a resize depends on where in a larger image the input lies."""
        if id(resized) in self.nodes:
            self.nodes[id(resized)].low_map = low_map

    def node(self, tensor: Tensor) -> Node:
        """The node that made `tensor`."""
        if id(tensor) not in self.nodes:
            raise UsageError("the engine cannot compute with constants alone")
        return self.nodes[id(tensor)]

    def constant(self, value: Any, channels: int) -> Array | None:
        """`value` by channel if it is a number or a constant with one value a channel."""
        if isinstance(value, int | float):
            return np.full(channels, value, np.float32)
        if not isinstance(value, Tensor) or id(value) not in self.constants:
            return None
        tensor = self.constants[id(value)].float()
        if tensor.numel() == 1:
            return np.full(channels, float(tensor), np.float32)
        if tensor.dim() >= 3 and tensor.shape[-3:] == (channels, 1, 1) == tensor.shape[-3:]:
            return tensor.reshape(channels).numpy().copy() if tensor.numel() == channels else None
        return None

    def weights(self, value: Tensor | None, channels: int) -> Array:
        """A parameter's values; zeros where there is no parameter."""
        if value is None:
            return np.zeros(channels, np.float32)
        if id(value) not in self.constants:
            raise UsageError("the engine wants weights that are parameters, not computed ones")
        return np.ascontiguousarray(self.constants[id(value)].float().numpy())


Arguments = Mapping[str, Any]
Lowering = Callable[[Recorder, Arguments, Size], Node | None]


def size_of(tensor: Tensor) -> Size:
    """The size of one image's tensor."""
    if tensor.dim() != 4 or tensor.shape[0] != 1:
        raise UsageError(f"the engine runs tensors [B, C, H, W], not {tuple(tensor.shape)}")
    return Size(*tensor.shape[1:])


def _pair(values: list[int]) -> int | None:
    return values[0] if len(set(values)) == 1 else None


def _conv(recorder: Recorder, a: Arguments, size: Size) -> Node | None:
    padding, stride, dilation = _pair(a["padding"]), _pair(a["stride"]), _pair(a["dilation"])
    if a["transposed"] or a["groups"] != 1 or stride not in (1, 2):
        return None
    if padding is None or dilation is None:
        return None
    weight = recorder.weights(a["weight"], 0)
    bias = recorder.weights(a["bias"], size.channels)
    layer = recorder.names.get(id(a["weight"]), "").rpartition(".")[0]
    kernel = Kernel(weight, bias, padding, stride, dilation, layer)
    return Node("conv", [recorder.node(a["input"])], size, kernel)


def _affine(x: Node, scale: Array, shift: Array, slope: float = 1.0) -> Node:
    return Node("affine", [x], x.size, scale=scale, shift=shift, slope=slope)


def _activation(slope_name: str | None) -> Lowering:
    def lower(recorder: Recorder, a: Arguments, size: Size) -> Node:
        one, zero = np.ones(size.channels, np.float32), np.zeros(size.channels, np.float32)
        slope = float(a[slope_name]) if slope_name else 0.0
        return _affine(recorder.node(a["self"]), one, zero, slope)

    return lower


def _sum(sign: float) -> Lowering:
    def lower(recorder: Recorder, a: Arguments, size: Size) -> Node | None:
        factor = sign * float(a["alpha"])
        one = np.ones(size.channels, np.float32)
        shift = recorder.constant(a["other"], size.channels)
        if shift is not None:
            return _affine(recorder.node(a["self"]), one, shift * factor)
        shift = recorder.constant(a["self"], size.channels)
        if shift is not None:
            return _affine(recorder.node(a["other"]), one * factor, shift)
        x, y = recorder.node(a["self"]), recorder.node(a["other"])
        same = x.size == y.size
        return Node("add", [x, y], size, factor=factor) if same else None

    return lower


def _product(recorder: Recorder, a: Arguments, size: Size) -> Node | None:
    zero = np.zeros(size.channels, np.float32)
    for one, other in ((a["self"], a["other"]), (a["other"], a["self"])):
        scale = recorder.constant(other, size.channels)
        if scale is not None:
            return _affine(recorder.node(one), scale, zero)
    x, y = recorder.node(a["self"]), recorder.node(a["other"])
    return Node("product", [x, y], size) if x.size == y.size else None


def _quotient(recorder: Recorder, a: Arguments, size: Size) -> Node | None:
    scale = recorder.constant(a["other"], size.channels)
    if scale is None:
        return None
    zero = np.zeros(size.channels, np.float32)
    return _affine(recorder.node(a["self"]), np.float32(1) / scale, zero)


def _norm(recorder: Recorder, a: Arguments, size: Size) -> Node | None:
    if a.get("training") or a.get("train"):
        return None
    channels = size.channels
    gamma = np.ones(channels, np.float32)
    if a["weight"] is not None:
        gamma = recorder.weights(a["weight"], channels)
    beta = recorder.weights(a["bias"], channels)
    mean = recorder.weights(a["running_mean"], channels).astype(np.float64)
    variance = recorder.weights(a["running_var"], channels).astype(np.float64)
    scale = gamma / np.sqrt(variance + a["eps"])
    shift = beta - mean * scale
    x = recorder.node(a["input"])
    return _affine(x, scale.astype(np.float32), shift.astype(np.float32))


def _simple(kind: str) -> Lowering:
    return lambda recorder, a, size: Node(kind, [recorder.node(a["self"])], size)


def _concat(recorder: Recorder, a: Arguments, size: Size) -> Node | None:
    parts = [recorder.node(tensor) for tensor in a["tensors"]]
    return Node("concat", parts, size) if a["dim"] in (1, -3) else None


def _shuffle(recorder: Recorder, a: Arguments, size: Size) -> Node:
    return Node("shuffle", [recorder.node(a["self"])], size, shuffle=a["upscale_factor"])


def _pool(recorder: Recorder, a: Arguments, size: Size) -> Node | None:
    window, stride = _pair(a["kernel_size"]), _pair(a["stride"] or a["kernel_size"])
    if window is None or stride is None or any(a["padding"]) or a["ceil_mode"]:
        return None
    if set(a["dilation"]) != {1}:
        return None
    return Node("pool", [recorder.node(a["self"])], size, window=(window, stride))


def _resize(recorder: Recorder, a: Arguments, size: Size) -> Node | None:
    factors = [a.get("scale_factors"), a.get("scales_h"), a.get("scales_w")]
    if a["align_corners"] or any(factor is not None for factor in factors):
        return None
    return Node("resize", [recorder.node(a.get("input", a.get("self")))], size)


def _slice(recorder: Recorder, a: Arguments, size: Size) -> Node | None:
    x = recorder.node(a["self"])
    if x.size == size:
        return x
    crops = a["dim"] in (2, 3, -1, -2) and not a["start"] and a["step"] == 1
    return Node("crop", [x], size) if crops else None


def _pad(recorder: Recorder, a: Arguments, size: Size) -> Node | None:
    left, _, top, _ = a["padding"]
    return Node("pad", [recorder.node(a["self"])], size) if left == 0 and top == 0 else None


def _same(recorder: Recorder, a: Arguments, size: Size) -> Node:
    return recorder.node(a["self"])


LOWER: dict[str, Lowering] = {
    "alias": _same,
    "detach": _same,
    "convolution": _conv,
    "relu": _activation(None),
    "leaky_relu": _activation("negative_slope"),
    "add": _sum(1.0),
    "sub": _sum(-1.0),
    "mul": _product,
    "div": _quotient,
    "sigmoid": _simple("sigmoid"),
    "cat": _concat,
    "pixel_shuffle": _shuffle,
    "max_pool2d_with_indices": _pool,
    "upsample_bilinear2d": _resize,
    "slice": _slice,
    "replication_pad2d": _pad,
    "native_batch_norm": _norm,
    "_native_batch_norm_legit_no_training": _norm,
    "cudnn_batch_norm": _norm,
    "batch_norm": _norm,
}
"""How each ATen operation becomes a node; None for a use of it that the engine does not know."""
