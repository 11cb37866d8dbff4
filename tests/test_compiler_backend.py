"""`torch.compile(module, backend="thinlens")`: equal to torch, and torch for what is not known."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from native_engine import built
from thinlens.engine.compiled import Compiled
from thinlens.engine.compiler_backend import compile_graph

pytestmark = built
ROOT = Path(__file__).parents[1]


class Residual(nn.Module):
    """Convolutions, a batch norm, an activation in place, sizes of the image in its code."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        features = F.relu(self.norm(self.first(image)), inplace=True)
        _, _, height, width = image.shape
        large = F.interpolate(
            image, size=(2 * height, 2 * width), mode="bilinear", align_corners=False
        )
        return F.pixel_shuffle(self.last(features), 2) + large


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the batches that the engine has run."""
    shapes: list[tuple[int, ...]] = []
    execute = Compiled.execute

    def counted(self: Compiled, image: Tensor) -> Tensor:
        shapes.append(tuple(image.shape))
        return execute(self, image)

    monkeypatch.setattr(Compiled, "execute", counted)
    return shapes


def compiled(module: nn.Module, **options: Any) -> Any:
    return torch.compile(module, backend=compile_graph, **options)


def test_the_engine_runs_all_sizes(executed: list[tuple[int, ...]]) -> None:
    module = Residual().eval()
    fast = compiled(module)
    sizes = [(1, 3, 8, 9), (2, 3, 10, 12), (1, 3, 7, 5)]
    with torch.no_grad():
        for size in sizes:
            image = torch.rand(size)
            torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)
    assert executed == sizes


def test_changed_weights_are_seen(executed: list[tuple[int, ...]]) -> None:
    module, image = Residual().eval(), torch.rand(1, 3, 8, 9)
    fast = compiled(module)
    with torch.inference_mode():
        before = fast(image)
    with torch.no_grad():
        module.last.weight.mul_(2.0)
        module.norm.running_mean.add_(0.5)
        torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(before, module(image), atol=1e-2)
    assert len(executed) == 2


def test_torch_records_gradients(executed: list[tuple[int, ...]]) -> None:
    module, image = Residual().eval(), torch.rand(1, 3, 8, 9)
    fast = compiled(module)
    with pytest.warns(UserWarning, match="gradients are recorded: wanted torch.no_grad"):
        fast(image).sum().backward()
    assert module.first.weight.grad is not None and not executed


class TwoImages(nn.Module):
    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return F.avg_pool2d(image, 3, 1, 1) + other


class TwoResults(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return F.relu(image), F.avg_pool2d(image, 2)


class Writing(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(image.mul_(2.0), 2)


class BatchInItsCode(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return F.relu(image.view(image.shape[0], -1, 2, 4))


@pytest.mark.parametrize(
    ("module", "images", "reason"),
    [
        (TwoImages(), 2, "wanted one batch"),
        (TwoResults(), 1, "does not return one tensor"),
        (Writing(), 1, "writes into its image"),
        (BatchInItsCode(), 1, "is for 2 images: wanted torch.compile"),
        (nn.Dropout(0.0).train(), 1, "in training mode: wanted .eval"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_torch_runs_what_is_not_known(
    module: nn.Module, images: int, reason: str, executed: list[tuple[int, ...]]
) -> None:
    batch = [torch.rand(2, 3, 4, 4) for _ in range(images)]
    expected = module(*(image.clone() for image in batch))
    fast = compiled(module)
    with torch.no_grad(), pytest.warns(UserWarning, match=reason):
        results = fast(*batch)
    torch.testing.assert_close(results, expected, rtol=0, atol=0)
    assert not executed


def test_a_double_network_runs_in_torch(executed: list[tuple[int, ...]]) -> None:
    module, image = Residual().eval().double(), torch.rand(1, 3, 8, 9).double()
    with torch.no_grad(), pytest.warns(UserWarning, match="wanted images in float32"):
        torch.testing.assert_close(compiled(module)(image), module(image), rtol=0, atol=0)
    assert not executed


def test_the_name_is_an_entry_point(tmp_path: Path) -> None:
    """In a process of its own, with the metadata of an installed package."""
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert entry["torch_dynamo_backends"] == {
        "thinlens": f"{compile_graph.__module__}:{compile_graph.__name__}"
    }
    metadata = tmp_path / "thinlens_stand_in-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: thinlens-stand-in\nVersion: 0")
    lines = (f"{name} = {value}" for name, value in entry["torch_dynamo_backends"].items())
    (metadata / "entry_points.txt").write_text("\n".join(["[torch_dynamo_backends]", *lines]))
    code = (
        f"import sys; sys.path[:0] = {[str(tmp_path), *sys.path]!r}\n"
        "import torch\n"
        "assert 'thinlens' in torch.compiler.list_backends()\n"
        "module = torch.nn.Conv2d(3, 8, 3).eval()\n"
        "fast, image = torch.compile(module, backend='thinlens'), torch.rand(1, 3, 9, 9)\n"
        "with torch.inference_mode():\n"
        "    torch.testing.assert_close(fast(image), module(image), rtol=1e-5, atol=1e-5)\n"
        "print('thinlens.engine._native' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout == "True\n", done.stderr


def test_nothing_is_said_where_the_engine_runs() -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        compiled(Residual().eval())(torch.rand(1, 3, 6, 7))
