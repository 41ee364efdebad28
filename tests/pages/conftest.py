"""A browser for this folder's tests: Debian's Chromium, headless; without one they are skipped."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / name) for name in ("verifier", "node"))]

from browser import Browser, Tab, found


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = found()
    if program is None:
        pytest.skip("no Chromium is installed here: apt-get install chromium")
    with Browser(program, tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    with browser.tab() as opened:
        yield opened
        assert opened.errors == []
        assert opened.elsewhere() == [], "no request leaves this machine"
