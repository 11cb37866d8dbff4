"""Public function `export`: a network as the files of another engine."""

from __future__ import annotations

from pathlib import Path

from thinlens.api.network import AnyNetwork, network_parts, one_output
from thinlens.dynamic.model import model_of
from thinlens.errors import quote_call
from thinlens.exports.export import ExportResult, export_module
from thinlens.methods.preparation import with_channels
from thinlens.models import image_channels


@quote_call
def export(
    network: AnyNetwork,
    path: str | Path,
    *,
    to: str = "onnx",
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> ExportResult:
    """Write a network as the files of another engine: onnx, openvino or ncnn.

    The files take images `[1, C, h, w]` of any size, or only of `size` (height, width). They are
    run by that engine, if it is installed, and compared with torch before anything is written. N:M
    zeros bring no speed in these engines, removed channels (method filter) do. `channels` are those
    of the input, where they cannot be found out. Raises `UsageError` where a package is missing
    (`pip install 'thinlens[export]'`) or a converter does not know the network, `RunError` where
    results differ. Of a routed network the largest branch is written.

    >>> from thinlens.models import create
    >>> export(create("dncnn-17", depth=3, width=8), "thin", to="coreml")
    Traceback (most recent call last):
    thinlens.errors.UsageError: format 'coreml': wanted onnx, openvino or ncnn
    """
    module = one_output(model_of(network_parts(network)[0]).branch(None, "this network"))
    channels = image_channels(with_channels(module, channels))
    return export_module(module, channels, Path(path), to, size)
