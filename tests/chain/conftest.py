"""A real anvil for the whole run, and a network of contracts for each test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from proofyard.chain import Anvil, ChainClient, Deployment, Params, Wallet, deploy_network
from proofyard.protocol.types import Wei

CREDIT = 10**18


@dataclass
class Network:
    """A fresh deployment with a deployer that holds all tokens."""

    anvil: Anvil
    deployment: Deployment
    deployer: ChainClient
    _used: list[Wallet] = field(default_factory=list)

    def client(self, wallet: Wallet | None) -> ChainClient:
        return ChainClient(self.anvil.rpc_url, self.deployment.registry, wallet, patience=5)

    def owner(self, credits: int) -> ChainClient:
        """A new wallet with ether and so many tokens."""
        wallet = self.key()
        self.deployer.transfer(wallet.address, Wei(credits * CREDIT))
        return self.client(wallet)

    def key(self) -> Wallet:
        """A new wallet with ether for gas."""
        wallet = Wallet.generate()
        self.anvil.fund(wallet.address)
        return wallet


@pytest.fixture(scope="session")
def anvil() -> Iterator[Anvil]:
    with Anvil() as running:
        yield running


@pytest.fixture
def deploy(anvil: Anvil) -> Callable[..., Network]:
    def make(params: Params | None = None) -> Network:
        deployer = anvil.wallet(0)
        deployment = deploy_network(anvil.rpc_url, deployer, params)
        return Network(anvil, deployment, ChainClient(anvil.rpc_url, deployment.registry, deployer))

    return make


@pytest.fixture
def network(deploy: Callable[..., Network]) -> Network:
    return deploy()
