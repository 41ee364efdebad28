"""A real anvil for the whole run, and a network of contracts for each test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proofyard.chain import Anvil, ChainClient, Params, deploy_network

sys.path.insert(0, str(Path(__file__).parent))

from world import Network


@pytest.fixture(scope="session")
def anvil() -> Iterator[Anvil]:
    with Anvil() as running:
        yield running


@pytest.fixture
def deploy(anvil: Anvil) -> Callable[..., Network]:
    def make(params: Params | None = None) -> Network:
        deployer = anvil.wallet(0)
        deployment = deploy_network(anvil.rpc_url, deployer, params or Params(exposure_bps=40_000))
        return Network(anvil, deployment, ChainClient(anvil.rpc_url, deployment.registry, deployer))

    return make


@pytest.fixture
def network(deploy: Callable[..., Network]) -> Network:
    return deploy()
