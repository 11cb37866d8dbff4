"""Command line as a module: `python -m thinlens`."""

from __future__ import annotations

import sys

from thinlens.cli.main import main

sys.exit(main())
