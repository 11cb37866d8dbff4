"""The command `schema`: the JSON Schema of recipes, for editors and for checks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.errors import check_choice


@dataclass(frozen=True, kw_only=True)
class Schema(Verb):
    """Print the JSON Schema of the recipes of train and prune (training) or of compare
    (comparison). Editors use it where the recipe's first line names the file: #:schema FILE.

    Example: thinlens schema comparison
    """

    kind: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="training|comparison")]
    """Which recipe."""

    def run(self) -> Answer:
        from thinlens.cli.recipe_schema import SCHEMAS

        check_choice("schema", self.kind, SCHEMAS)
        schema = SCHEMAS[self.kind]()
        return Answer(schema, (json.dumps(schema, indent=2),))
