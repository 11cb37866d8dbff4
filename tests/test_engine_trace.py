"""A network is traced for size after size: what it stores while it runs changes nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thinlens.engine.graph import Size
from thinlens.engine.trace import Tracer


class Storing(nn.Module):
    """Keeps something in each run, as networks with masks or positions for the last size do."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.runs, self.table = kind, 0, {"sizes": [0]}
        self.last: Tensor | None = None
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "tensor":
            y = self.conv(x if self.last is None else x + self.last.mean())
            self.last = y
            return y
        if self.kind == "number":
            self.runs += 1
            return self.conv(x) if self.runs == 1 else self.conv(x).relu()
        if self.kind == "nested":
            self.table["sizes"].append(x.shape[-1])
            return self.conv(x) if len(self.table["sizes"]) == 2 else self.conv(x).relu()
        return self.conv(x)


def names(kind: str, sides: tuple[int, ...]) -> list[list[str]]:
    tracer = Tracer(Storing(kind).eval())
    return [
        [operation.name for operation in tracer.trace(Size(3, side, side)).operations]
        for side in sides
    ]


def test_every_size_is_traced_alike() -> None:
    for kind in ("nothing", "tensor", "number", "nested"):
        assert names(kind, (8, 9, 9, 12)) == 4 * [["convolution"]]


def test_a_module_that_holds_itself_is_traced() -> None:
    module = Storing("nothing").eval()
    module.table["self"] = module.table  # type: ignore[assignment]
    tracer = Tracer(module)
    assert [len(tracer.trace(Size(3, 8, 8)).operations) for _ in range(2)] == [1, 1]
    assert torch.equal(module.conv.weight, tracer._module.conv.weight)
