"""The log of the commands."""

import io
import logging
from collections.abc import Iterator

import pytest

from proofyard.cli.logs import LogLevel, configure


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    root, package = logging.getLogger(), logging.getLogger("proofyard")
    kept = root.handlers, root.level, package.level
    yield
    root.handlers = kept[0]
    root.setLevel(kept[1])
    package.setLevel(kept[2])


def test_the_log_goes_to_what_stderr_is_now(logging_as_it_was: None, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, current = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", closed)
    configure(LogLevel.INFO)
    closed.close()
    monkeypatch.setattr("sys.stderr", current)
    logging.getLogger("proofyard.node").info("joined %s", "somebody")
    assert current.getvalue().endswith("INFO proofyard.node: joined somebody\n")
