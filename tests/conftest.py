"""What do all tests share: real data when it is at hand, one loud line when it is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import settings

settings.register_profile("thinlens", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("thinlens")
torch.set_num_threads(1)

DATA = os.environ.get("THINLENS_DATA")

_CACHE = TemporaryDirectory(prefix="thinlens-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name  # what tests measure is not the user's


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs_data: uses the real images under THINLENS_DATA")
    config.addinivalue_line("markers", "slow: takes more than two seconds")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if DATA:
        return
    for item in items:
        if item.get_closest_marker("needs_data"):
            item.add_marker(pytest.mark.skip(reason="THINLENS_DATA is not set"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason, sentence in (
        ("THINLENS_DATA", "THINLENS_DATA IS NOT SET: {} CHECKS AGAINST REAL DATA WERE SKIPPED"),
        ("NO BROWSER", "NO BROWSER (Chromium, playwright, axe): {} CHECKS OF PAGES WERE SKIPPED"),
    ):
        reports = terminalreporter.getreports("skipped")
        skipped = [report for report in reports if reason in str(report.longrepr)]
        if skipped:
            terminalreporter.write_sep("!", sentence.format(len(skipped)))


@pytest.fixture
def data() -> Path:
    """The folder of real data (see the marker `needs_data`)."""
    return Path(str(DATA))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running Chromium; tests that need it are skipped and counted without."""
    if BROWSER is None:
        pytest.skip("NO BROWSER")
    sync_api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def findings() -> Callable[[Any], list[str]]:
    """Returns what axe-core finds of a page that is serious or critical, one sentence each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="NO BROWSER: no axe")
    checker = axe.Axe()

    def serious(page: Any) -> list[str]:
        rules = checker.run(page).response["violations"]
        return [
            f"{rule['id']}: {rule['help']}, at {node['target']}"
            for rule in rules
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]

    return serious
