"""docs/adding-an-operation.md, executed: one file and one line are an operation of the engine."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thinlens
from guides import code_blocks, imported
from native_engine import KERNELS, built
from thinlens.engine import ops, stream
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Node, Size
from thinlens.errors import UsageError

pytestmark = built

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "adding-an-operation.md"
FOLDER = "python src/thinlens/engine/ops"
FILES = {"softshrink": "soft shrinkage", "channel_shuffle": "channel shuffle"}
USE = "python"


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add the guide's files and lines from outside the package."""
    blocks = code_blocks(GUIDE)
    lines = {stem: f"{FOLDER}/__init__.py, {title}" for stem, title in FILES.items()}
    assert set(blocks) == {*(f"{FOLDER}/{stem}.py" for stem in FILES), *lines.values(), USE}
    for stem, line in lines.items():
        module = imported(tmp_path / f"{stem}.py", blocks[f"{FOLDER}/{stem}.py"], f"toy_{stem}")
        for name, lowering in eval(f"{{{blocks[line]}}}", {stem: module}).items():
            monkeypatch.setitem(ops.OPERATIONS, name, lowering)
    yield


class Network(nn.Module):
    """Channel shuffles after a convolution and after a pooling, soft shrinkage in between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.tail, self.shuffle = nn.Conv2d(8, 4, 3, padding=1), nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle(self.head(x))
        y = F.softshrink(y + F.silu(self.body(y)), 0.2)
        return self.shuffle(F.max_pool2d(self.tail(y), 2))


SIZES = [(2, 2), (19, 37), (40, 83)]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.usefixtures("added")
def test_a_network_with_the_operations_gives_what_torch_gives(kernels: str) -> None:
    network = Network().eval()
    fast = Compiled(network, 2, kernels)
    for height, width in SIZES:
        image = torch.randn(1, 3, height, width)
        with torch.inference_mode():
            torch.testing.assert_close(fast(image), network(image), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("added")
def test_they_are_fused_and_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    network, size = Network().eval(), Size(3, 40, 83)
    plan = Compiled(network, 1).plan(size)
    # The first is the order of a convolution's channels, the last one a step for each channel.
    assert plan.steps == [
        *("input", "conv", "conv", "pointwise", "conv", "pool"),
        *(["channel_shuffle"] * 4),
        "unpack",
    ]
    image = torch.rand(1, 3, 40, 83)
    output = Compiled(network, 2)(image)
    monkeypatch.setattr(stream, "CACHE_BYTES", 0)
    whole = Compiled(network, 1)
    assert plan.bytes < whole.plan(size).bytes
    assert torch.equal(whole(image), output)


@pytest.mark.usefixtures("added")
def test_the_use() -> None:
    printed, network = io.StringIO(), Network().eval().requires_grad_(False)
    names = {"thinlens": thinlens, "network": network, "image": torch.rand(1, 3, 20, 20)}
    with contextlib.redirect_stdout(printed):
        exec(code_blocks(GUIDE)[USE], names)
    assert float(printed.getvalue().strip().removeprefix("tensor(").removesuffix(")")) < 1e-5


def test_without_the_line_the_operation_runs_in_torch_and_is_named() -> None:
    for module, name in ((nn.Softshrink(), "softshrink"), (Network(), "channel_shuffle")):
        try:
            reasons = Compiled(module.eval(), 1).plan(Size(3, 20, 20)).reasons
        except UsageError as error:
            assert f"does not know the operation '{name}'" in str(error)
        else:
            assert name in {operation.name for operation in reasons}


def test_the_guide_names_what_a_node_declares() -> None:
    rows = re.findall(r"^\| (`.*?) \| ", GUIDE.read_text(), re.MULTILINE)
    names = {name.split("(")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {"fused", "footprint", "emit", "streams"} < names
    assert all(hasattr(Node, name) or name in Node.__annotations__ for name in names)


def test_the_guide_names_files_of_the_core() -> None:
    for path in re.findall(r"`((?:csrc|tests)/[\w/]+\.\w+)`", GUIDE.read_text()):
        assert (ROOT / path).exists(), path
