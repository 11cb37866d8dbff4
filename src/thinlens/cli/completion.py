"""The command `completion`: a script that completes commands and flags in a shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.errors import check_choice

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, kw_only=True)
class Completion(Verb):
    """Print a script that completes commands, flags and their values in a shell. Write it to the
    shell's folder of completions: bash ~/.local/share/bash-completion/completions/thinlens, fish
    ~/.config/fish/completions/thinlens.fish, zsh a folder of $fpath, as _thinlens.

    Example: thinlens completion bash
    """

    shell: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="bash|zsh|fish")]
    """The shell."""

    def run(self) -> Answer:
        from thinlens.cli.main import completion_script

        check_choice("shell", self.shell, SHELLS)
        script = completion_script(self.shell)
        return Answer({"shell": self.shell, "script": script}, (script,))
