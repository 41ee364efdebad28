"""The stage of this folder: a court with two verifiers for each test that wants one."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from court import Answer, Court


@pytest.fixture
def court(tmp_path: Path) -> Iterator[Callable[..., Court]]:
    made: list[Court] = []

    def make(*auditors: Answer, **settings: Any) -> Court:
        made.append(Court(tmp_path, list(auditors), **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
