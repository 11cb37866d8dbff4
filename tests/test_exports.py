"""Files of other engines equal torch, at any size, and say what zeros bring."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import thinlens
from cli_cases import TINY_M, denoising_checkpoint, run
from thinlens.errors import RunError, UsageError
from thinlens.exports import EXPORTERS
from thinlens.exports.export import ExportResult, export_module
from thinlens.exports.exporter import (
    Exporter,
    ExportInput,
    ExportRunner,
    UnsupportedNetworkError,
    missing,
)


class StateDict(Exporter):
    """A format that needs no package: the module itself, pickled."""

    SUFFIXES = (".weights", ".graph")
    PACKAGES = ("torch",)
    RUNTIME = "torch"

    def __init__(self, *, any_size: bool = True, shift: float = 0.0) -> None:
        self.any_size, self.shift = any_size, shift

    def write(self, module: nn.Module, example: ExportInput, stem: Path) -> None:
        if example.second is not None and not self.any_size:
            raise UnsupportedNetworkError("one size only")
        torch.save(module, stem.with_suffix(".graph"))
        stem.with_suffix(".weights").write_bytes(bytes(1000))

    def runner(self, stem: Path) -> ExportRunner:
        module = torch.load(stem.with_suffix(".graph"), weights_only=False)
        return lambda image: module(image) + self.shift


class Halved(nn.Module):
    """Takes even sides only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.body(nn.functional.pixel_unshuffle(x, 2)), 2)


def thin_module() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    module = nn.Sequential(*layers).half()
    with torch.no_grad():
        module[2].weight[:, 2:] = 0
    return module


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> object:
    return lambda **options: monkeypatch.setitem(EXPORTERS, "own", StateDict(**options))


def test_an_export_is_compared_and_says_what_zeros_bring(tmp_path: Path, use) -> None:  # type: ignore[no-untyped-def]
    use()
    result = export_module(thin_module(), 3, tmp_path / "thin.graph", "own")
    assert result.files == tuple(str(tmp_path / f"thin{x}") for x in (".weights", ".graph"))
    assert {path.name for path in tmp_path.iterdir()} == {"thin.weights", "thin.graph"}
    assert (result.dynamic, result.error, result.multiple) == (True, 0.0, 1)
    assert result.zero_fraction == pytest.approx(6 / 16)
    assert result.compressed_bytes < result.bytes
    assert "38% of its weights are zero" in result.sentences()[-1]
    assert "bring no speed there" in result.sentences()[-1]


def test_weights_that_a_pass_computes_are_exported_merged(tmp_path: Path, use) -> None:  # type: ignore[no-untyped-def]
    use()
    module = thin_module().float()
    expected = export_module(module, 3, tmp_path / "plain", "own").zero_fraction
    nn.utils.parametrizations.weight_norm(module[0])
    result = export_module(module, 3, tmp_path / "normed", "own")
    assert result.zero_fraction == expected
    written = torch.load(tmp_path / "normed.graph", weights_only=False)
    assert sorted(written.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight"]


def test_sizes_that_an_export_takes_are_said(tmp_path: Path, use) -> None:  # type: ignore[no-untyped-def]
    use(any_size=False)
    fixed = export_module(Halved(), 3, tmp_path / "net", "own")
    assert (fixed.dynamic, fixed.sizes, fixed.multiple) == (False, ((48, 64),), 2)
    assert "takes images of 64x48 only" in fixed.sentences()[2]
    use()
    assert "multiples of 2" in export_module(Halved(), 3, tmp_path / "n", "own").sentences()[2]
    chosen = export_module(Halved(), 3, tmp_path / "net", "own", (6, 8))
    assert (chosen.dynamic, chosen.sizes) == (False, ((6, 8),))
    with pytest.raises(UsageError, match="--size 7x6: the network does not take it; wanted 8x6"):
        export_module(Halved(), 3, tmp_path / "odd", "own", (6, 7))


def test_what_differs_from_torch_is_not_written(tmp_path: Path, use) -> None:  # type: ignore[no-untyped-def]
    use(shift=0.01)
    with pytest.raises(RunError, match=r"torch differs from torch by 0\.01 of the range"):
        export_module(thin_module(), 3, tmp_path / "thin", "own")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for exporter in EXPORTERS.values():
        monkeypatch.setattr(exporter, "PACKAGES", ("no_such_package",))
    for name in EXPORTERS:
        with pytest.raises(UsageError, match=r"needs no_such_package: pip install 'thinlens\[exp"):
            thinlens.export(thin_module(), tmp_path / "thin", to=name)


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_engine_equals_torch(name: str, tmp_path: Path) -> None:
    exporter = EXPORTERS[name]
    absent = missing([*exporter.PACKAGES, exporter.RUNTIME])
    if absent:
        pytest.skip(f"{name}: {', '.join(absent)} is not installed")
    thin = thinlens.prune(
        thinlens.load(denoising_checkpoint(tmp_path / "dense")),
        budget="1/2",
        method="one-shot",
        m=TINY_M,
        size=(16, 16),
    )
    result = thinlens.export(thin, tmp_path / "thin", to=name)
    assert isinstance(result, ExportResult)
    assert result.dynamic
    assert result.error is not None
    assert result.error < 1e-4
    assert all(Path(file).stat().st_size for file in result.files)


def test_the_command_exports(tmp_path: Path, use) -> None:  # type: ignore[no-untyped-def]
    use()
    checkpoint = denoising_checkpoint(tmp_path / "dense")
    ran = run("export", checkpoint, "--to", "own", "--out", tmp_path / "net")
    assert ran.status == 0, ran.err
    assert "torch equals torch to 0.0e+00 of the range, at 64x48 and 56x72" in ran.out
    wrong = run("export", checkpoint, "--to", "coreml", "--out", tmp_path / "net")
    assert (wrong.status, wrong.err) == (
        2, "thinlens: format 'coreml': wanted onnx, openvino, ncnn or own\n"
    )  # fmt: skip
    answer = run("export", checkpoint, "--to", "own", "--out", tmp_path / "n", "--json").json
    assert answer["format"] == "own"
