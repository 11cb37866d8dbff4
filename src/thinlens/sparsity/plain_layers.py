"""Plain layers that compute what a module with computed weights does."""

from __future__ import annotations

import inspect
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from thinlens.errors import UsageError
from thinlens.sparsity.constant_trace import CONVOLUTIONS, bound

PARAMETER_FREE: Mapping[Callable[..., Any], type[nn.Module]] = {
    F.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    torch.relu_: nn.ReLU,
    F.relu6: nn.ReLU6,
    F.leaky_relu: nn.LeakyReLU,
    F.elu: nn.ELU,
    F.silu: nn.SiLU,
    F.gelu: nn.GELU,
    F.mish: nn.Mish,
    F.hardswish: nn.Hardswish,
    F.softplus: nn.Softplus,
    F.sigmoid: nn.Sigmoid,
    torch.sigmoid: nn.Sigmoid,
    F.tanh: nn.Tanh,
    torch.tanh: nn.Tanh,
}
"""Activation modules by function; their options have the names of the function's arguments."""

PADS: Mapping[str, type[nn.Module]] = {
    "reflect": nn.ReflectionPad2d,
    "replicate": nn.ReplicationPad2d,
    "circular": nn.CircularPad2d,
}
"""Padding modules by mode."""


def plain_layers(module: nn.Module, name: str, inputs: tuple[Any, ...]) -> nn.Module:
    """Return plain layers for `module`, whose weights are the result of a computation.

    The forward pass is recorded on symbolic input, while everything that does not depend on the
    input is computed. A chain of layers becomes an `nn.Sequential`, one convolution without
    children of its own that convolution, and anything else a graph of layers. Raises `UsageError`
    with the `name` of a module that cannot be recorded.
    """
    try:
        with torch.no_grad():
            module(*inputs)  # a weight that the pass stores has its value now
            graph = _Recorder().trace(module)
    except Exception as error:
        raise UsageError(
            f"{name} computes the weights of its convolutions in every forward pass, and cannot be "
            f"replaced by plain layers ({error}): wanted plain weights"
        ) from error
    recorded = fx.GraphModule(module, graph, type(module).__name__)
    for node in list(graph.nodes):
        if node.op == "call_function" and (layer := _layer(node, recorded)) is not None:
            _replace(node, layer, recorded)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    plain = fx.GraphModule(recorded, graph, type(module).__name__)  # with what the graph uses
    plain.train(module.training).requires_grad_(True)
    return _as_chain(plain, keep_name=any(True for _ in module.children()))


class _Recorder(fx.Tracer):
    """Record what depends on the input; compute all else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        plain: bool = super().is_leaf_module(m, module_qualified_name)
        return plain and not m._forward_pre_hooks

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val  # a parameter is its value


def _layer(node: fx.Node, root: nn.Module) -> nn.Module | None:
    """Return the layer that a call of a function is; None if it is none."""
    function: Any = node.target
    if function in CONVOLUTIONS:
        arguments = bound(function, node.args, node.kwargs)
        values = {key: _value(argument, root) for key, argument in arguments.items()}
        return _convolution(function, values) if isinstance(values["weight"], Tensor) else None
    if function in PARAMETER_FREE:
        names = inspect.signature(PARAMETER_FREE[function]).parameters
        options = {k: v for k, v in node.kwargs.items() if k in names and k != "inplace"}
        return PARAMETER_FREE[function](**options) if len(node.args) == 1 else None
    if function in (F.prelu, torch.prelu):
        slope = _value(node.args[1], root) if len(node.args) > 1 else None
        return _prelu(slope) if isinstance(slope, Tensor) else None
    if function is F.pad and len(node.args) > 1:
        positional = zip(("x", "pad", "mode", "value"), node.args, strict=False)
        return _pad({**dict(positional), **node.kwargs})
    return None


def _value(argument: Any, root: nn.Module) -> Any:
    """Return the value of an argument of a node: of an attribute, or the argument itself."""
    if isinstance(argument, fx.Node) and argument.op == "get_attr":
        return operator.attrgetter(str(argument.target))(root)
    return argument


def _convolution(function: Callable[..., Any], values: dict[str, Any]) -> nn.Module:
    weight, bias = values["weight"].detach(), values.get("bias")
    biased = bias is not None
    layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    if function is F.linear:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=biased)
    else:
        names = ("stride", "padding", "output_padding", "dilation")
        options = {name: _pair(values[name]) for name in names if name in values}
        groups = values.get("groups", 1)
        options |= {"groups": groups, "bias": biased, "kernel_size": tuple(weight.shape[2:])}
        if function is F.conv2d:
            layer = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], **options)
        else:
            layer = nn.ConvTranspose2d(weight.shape[0], weight.shape[1] * groups, **options)
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _pair(value: Any) -> Any:
    """Return a stride or padding for both axes; a word such as `same` stays."""
    if isinstance(value, str):
        return value
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


def _prelu(slope: Tensor) -> nn.Module:
    layer = nn.PReLU(slope.numel())
    layer.weight = nn.Parameter(slope.detach().clone())
    return layer


def _pad(arguments: dict[str, Any]) -> nn.Module | None:
    """Return the padding layer for a call of `F.pad`; None if it pads other axes."""
    pad, mode = tuple(arguments["pad"]), arguments.get("mode", "constant")
    if len(pad) != 4 or not all(isinstance(side, int) for side in pad):
        return None
    if mode == "constant":
        return nn.ConstantPad2d(pad, arguments.get("value") or 0.0)
    return PADS[mode](pad)


def _replace(node: fx.Node, layer: nn.Module, root: fx.GraphModule) -> None:
    """Let `node` call `layer`, under a name that the structure of the graph alone determines."""
    weight = node.args[1] if len(node.args) > 1 else None
    name = ""
    if isinstance(weight, fx.Node) and str(weight.target).endswith(".weight"):
        name = str(weight.target).removesuffix(".weight").replace(".", "_")
    while not name or hasattr(root, name):
        name = f"{name or type(layer).__name__.lower()}_" if name else type(layer).__name__.lower()
    root.add_submodule(name, layer)
    with root.graph.inserting_before(node):
        call = root.graph.call_module(name, (node.args[0] if node.args else node.kwargs["input"],))
    node.replace_all_uses_with(call)
    root.graph.erase_node(node)


def _as_chain(graph: fx.GraphModule, keep_name: bool) -> nn.Module:
    """Return an `nn.Sequential` if the graph is a chain of layers, else the graph."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    previous: Any = None
    for node in graph.graph.nodes:
        if node.op == "placeholder" and previous is None:
            previous = node
            continue
        if tuple(node.args) != (previous,) or node.kwargs or len(node.users) > 1:
            return graph
        if node.op == "call_module":
            name = str(node.target).replace(".", "_")
            if name in layers:
                return graph
            layers[name] = graph.get_submodule(str(node.target))
            previous = node
        elif node.op != "output":
            return graph
    if len(layers) == 1 and not keep_name:
        return next(iter(layers.values()))
    return nn.Sequential(layers)
