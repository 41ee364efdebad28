"""Hosts behind real NATs, each in a network namespace of its own; left out, with the reason, where there are none."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="session")
def home_networks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("home_networks", SCRIPTS / "home_networks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if reason := module.unavailable():
        pytest.skip(reason)
    return module


@pytest.fixture
def internet(home_networks: ModuleType) -> Iterator[Any]:
    with home_networks.Internet() as net:
        yield net
