"""Instructions of the inner loops of a disassembly, beside their multiply-adds.

`inner_loops` reads what `aarch64-linux-gnu-objdump -d --no-show-raw-insn OBJECT` prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

FUNCTION = re.compile(r"^[0-9a-f]+ <(?P<name>.+)>:$")
INSTRUCTION = re.compile(r"^\s*(?P<address>[0-9a-f]+):\s+(?P<text>\S.*)$")
BRANCH = re.compile(r"^(?:b|b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+, #\w+,)\s+(?P<target>[0-9a-f]+)\b")
MULTIPLY_ADD = ("fmla", "bfdot")


@dataclass(frozen=True)
class Loop:
    """A loop without another one in it."""

    function: str
    multiply_adds: int
    instructions: int

    @property
    def ratio(self) -> float:
        """Instructions for one multiply-add."""
        return self.instructions / self.multiply_adds


def inner_loops(disassembly: str) -> list[Loop]:
    """List the innermost loops that multiply and add."""
    return [loop for name, body in _functions(disassembly) for loop in _loops(name, body)]


def best_loop(loops: list[Loop], function: str) -> Loop:
    """Return the tightest of the loops with the most multiply-adds in functions of that name."""
    named = [loop for loop in loops if function in loop.function]
    most = max(loop.multiply_adds for loop in named)
    return min((x for x in named if x.multiply_adds == most), key=lambda loop: loop.ratio)


def _functions(disassembly: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Yield the name of every function, and its instructions with their addresses."""
    name, body = "", []
    for line in disassembly.splitlines():
        if begin := FUNCTION.match(line):
            yield name, body
            name, body = begin["name"], []
        elif one := INSTRUCTION.match(line):
            body.append((int(one["address"], 16), one["text"]))
    yield name, body


def _loops(name: str, body: list[tuple[int, str]]) -> Iterator[Loop]:
    places = {address: index for index, (address, _) in enumerate(body)}
    backward = []
    for index, (_, text) in enumerate(body):
        branch = BRANCH.match(re.sub(r"\s+", " ", text))
        target = places.get(int(branch["target"], 16)) if branch else None
        if target is not None and target <= index:
            backward.append((target, index))
    for first, last in backward:
        if any(first <= a and b < last for a, b in backward):
            continue  # another loop is in it
        texts = [text for _, text in body[first : last + 1]]
        count = sum(text.startswith(MULTIPLY_ADD) for text in texts)
        if count:
            yield Loop(name, count, len(texts))
