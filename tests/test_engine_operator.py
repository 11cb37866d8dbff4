"""A compiled network passes through torch.compile and torch.export as one operation."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

import thinlens
from native_engine import built
from thinlens.engine.compiled import Compiled, run
from thinlens.errors import UsageError

pytestmark = built


def network() -> nn.Module:
    torch.manual_seed(0)
    wide = nn.Conv2d(4, 12, 3, padding=1)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), wide, nn.PixelShuffle(2)).eval()


class Around(nn.Module):
    """A module of torch's that holds a compiled one."""

    def __init__(self) -> None:
        super().__init__()
        self.fast = thinlens.compile(network(), threads=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fast(2 * x).clamp(0, 1)


IMAGES = [torch.rand(b, 1, h, w) for b, h, w in ((2, 6, 8), (1, 5, 12), (3, 8, 3))]


def test_the_operation_is_what_torch_wants_of_one() -> None:
    fast = Compiled(network(), 1)
    # Its other checks compile, which takes long and is done below.
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(run, (IMAGES[0], fast._handle), test_utils=checks)
    assert run(IMAGES[0].to("meta"), fast._handle).shape == fast(IMAGES[0]).shape


def test_one_graph_of_torch_compile_takes_all_sizes() -> None:
    around = Around()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    traced = torch.compile(around, fullgraph=True, dynamic=True, backend=backend)
    for image in IMAGES:
        torch.testing.assert_close(traced(image), around(image), rtol=0, atol=0)
    assert "thinlens.run" in graphs[0].code


def test_an_exported_program_runs_while_the_network_lives() -> None:
    around = Around()
    program = export(around, (IMAGES[0],), dynamic_shapes=({0: Dim.DYNAMIC},)).module()
    for batch in (1, 2, 3):
        image = torch.rand(batch, 1, 6, 8)
        torch.testing.assert_close(program(image), around(image), rtol=0, atol=0)
    del around
    gc.collect()
    with pytest.raises(UsageError, match="no longer exists"):
        program(IMAGES[0])


def test_there_is_no_gradient() -> None:
    image = IMAGES[0].clone().requires_grad_()
    with pytest.raises(RuntimeError, match="no autograd formula"):
        thinlens.compile(network(), threads=1)(image).sum().backward()
