"""Post-training quantization of an ONNX network to int8."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor


def quantize_onnx(path: Path, image: Tensor) -> bytes:
    """Return the ONNX network at `path` in int8: weights by output channel, activations by tensor.

    ONNX Runtime's static quantization (QDQ) with its defaults: ranges are the minimum and the
    maximum on `image` alone. The speed does not depend on the ranges. The error does, and is
    smallest on the image of the calibration.
    """
    import onnxruntime.quantization as tools

    class Calibration(tools.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._inputs: Iterator[dict[str, Any]] = iter([{"image": image.numpy()}])

        def get_next(self) -> dict[str, Any] | None:
            return next(self._inputs, None)

    target = path.with_suffix(".int8.onnx")
    with _silent():
        tools.quantize_static(
            path,
            target,
            Calibration(),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )
    return target.read_bytes()


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the tool's advice, which goes to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
