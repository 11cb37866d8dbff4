"""Networks of spandrel's architectures: built from parameters, or from a published state dict."""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.checkpoints.spandrel_package import architectures, is_installed, network_classes
from thinlens.errors import UsageError
from thinlens.models.entry import StateDict
from thinlens.models.input_channels import CHANNELS_ATTRIBUTE
from thinlens.models.source import NetworkSource, set_source, source_of

PREFIX = "spandrel:"
"""What the names of these networks in a checkpoint begin with."""


class ImageCall(nn.Module):
    """A network that is called by a function: one that adds a noise map, or picks an output.

    Maps images `[B, C, H, W]` in [0, 1] to images in [0, 1].
    """

    def __init__(self, network: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self._call = call

    def forward(self, image: Tensor) -> Tensor:
        return self._call(self.network, image)


def load_published(name: str, state: StateDict) -> tuple[nn.Module, Any]:
    """Build the architecture called `name` around a published state dict; also its description.

    The description is spandrel's: `scale`, `input_channels`, `purpose`, `size_requirements`.
    Raises `UsageError` if the state dict is not one of this architecture.
    """
    architecture = _architecture(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            description = architecture.load(dict(state))
    except UsageError:
        raise
    except Exception as error:  # spandrel's readers may raise anything on unusual state dicts
        raise UsageError(f"{PREFIX}{name}: {' '.join(str(error).split())[:300]}") from error
    module = description.model
    parameters = json_parameters(module)
    return _described(
        module, description, NetworkSource(source_name(module) or f"{PREFIX}{name}", parameters)
    )


def build_published(
    name: str, parameters: Mapping[str, Any], *, as_called: bool = True
) -> nn.Module:
    """Build a network with initial weights; `name` is an architecture, or one and a class.

    With `as_called` it is a network of images, else the class itself, which a few of spandrel's
    architectures call with more than an image. Raises `UsageError` for an unknown name or
    parameters that its class does not take.
    """
    architecture = _architecture(name.partition(".")[0])
    module = _constructed(name, parameters)
    source = NetworkSource(source_name(module) or f"{PREFIX}{name}", dict(parameters))
    if not as_called and _has_call(architecture):
        set_source(module, source)
        return module
    try:
        description = _description(architecture, module)
    except UsageError:
        if _has_call(architecture):
            raise
        set_source(module, source)  # spandrel cannot deduce these parameters from names and shapes
        return module
    return _described(module, description, source)[0]


def build_shapes(name: str, parameters: Mapping[str, Any], *, as_called: bool = True) -> nn.Module:
    """Build what has the tensors of `build_published`, and cannot run."""
    module = _constructed(name, parameters)
    wrapped = as_called and _has_call(_architecture(name.partition(".")[0]))
    return ImageCall(module, lambda network, image: image) if wrapped else module


def _constructed(name: str, parameters: Mapping[str, Any]) -> nn.Module:
    kind = _network_class(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind(**parameters)
    except UsageError:
        raise
    except Exception as error:  # a constructor may raise anything on unusual numbers
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{PREFIX}{name} cannot be built from its config: {reason}") from error


def source_name(module: nn.Module) -> str | None:
    """Return the name of the architecture of a network of spandrel; None for other modules.

    It is `spandrel:ESRGAN`, or `spandrel:PLKSR.RealPLKSR` where one has several classes.
    """
    if not is_installed() or not type(module).__module__.startswith("spandrel"):
        return None
    for name, architecture in architectures().items():
        classes = network_classes(architecture)
        for key, kind in classes.items():
            if type(module) is kind:
                return f"{PREFIX}{name}" if len(classes) == 1 else f"{PREFIX}{name}.{key}"
    return None


def carried_name(module: nn.Module) -> str:
    """Return the name of the source that a network of spandrel carries."""
    source = source_of(module)
    if source is None:
        raise UsageError(f"{type(module).__name__} was not built by an architecture of spandrel")
    return source.name


def json_parameters(module: nn.Module) -> dict[str, Any]:
    """Return the arguments by which a network of spandrel was built, as far as JSON holds them.

    What JSON does not hold must be the default; anything else is a `UsageError`.
    """
    signature = inspect.signature(type(module).__init__).parameters
    values = {}
    arguments: Mapping[str, Any] = module.hyperparameters  # type: ignore[assignment]
    for name, value in arguments.items():
        try:
            values[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError) as error:
            default = signature[name].default if name in signature else inspect.Parameter.empty
            if value is not default:
                raise UsageError(
                    f"{type(module).__name__} was built with {name}={value!r}, which a checkpoint "
                    "cannot hold"
                ) from error
    return values


def _architecture(name: str) -> Any:
    known = architectures()
    if name not in known:
        raise UsageError(f"unknown architecture {name[:80]!r}: wanted one of {', '.join(known)}")
    return known[name]


def _network_class(name: str) -> type[nn.Module]:
    architecture, _, key = name.partition(".")
    classes = network_classes(_architecture(architecture))
    if not key and len(classes) == 1:
        return next(iter(classes.values()))
    if key not in classes:
        names = ", ".join(f"{PREFIX}{architecture}.{known}" for known in classes)
        raise UsageError(f"{PREFIX}{name[:80]} is no network: wanted one of {names}")
    return classes[key]


def _has_call(architecture: Any) -> bool:
    """Return whether spandrel calls the networks of an architecture by a function of its own."""
    return "call_fn=" in inspect.getsource(sys.modules[type(architecture).__module__])


def _description(architecture: Any, module: nn.Module) -> Any:
    """Return spandrel's description of a network, deduced from names and shapes alone."""
    state = {
        name: torch.zeros([], dtype=tensor.dtype).expand(tensor.shape)
        for name, tensor in module.state_dict().items()
    }
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            return architecture.load(state)
    except Exception as error:  # as above
        raise UsageError(
            f"spandrel does not recognise its own {architecture.id}: {error}"
        ) from error


def _described(module: nn.Module, description: Any, source: NetworkSource) -> tuple[nn.Module, Any]:
    """Return the network as it is called on images, with its source and what it asks of sizes."""
    if not hasattr(description, "purpose") or description.purpose == "Inpainting":
        raise UsageError(
            f"{source.name} fills masked areas from an image and a mask: wanted a network that "
            "takes one image"
        )
    call = getattr(description, "_call_fn", None)
    if call is not None and call.__module__ != "spandrel.__helpers.model_descriptor":
        module = ImageCall(module, call)
    set_source(module, source)
    module.size_requirements = description.size_requirements
    if description.input_channels > 0:
        setattr(module, CHANNELS_ATTRIBUTE, description.input_channels)
    return module.eval(), description
