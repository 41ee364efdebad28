from collections.abc import Iterator

import pytest

from proofyard.chain import Anvil, ChainClient, Params, Wallet, deploy_network
from proofyard.protocol.dial import audit_odds, stake_at_risk, tasks_alike
from proofyard.protocol.types import Address, Wei

TOKEN = 10**18
STAKE = Wei(150 * TOKEN)


@pytest.fixture(scope="module")
def node() -> Iterator[tuple[ChainClient, Address]]:
    """A registry with default parameters and one node in it."""
    with Anvil() as anvil:
        deployment = deploy_network(anvil.rpc_url, anvil.wallet(0))
        chain = ChainClient(anvil.rpc_url, deployment.registry, anvil.wallet(0))
        key = Wallet.from_key(bytes([0x42]) * 32)
        chain.register_node(key, STAKE, 1, "127.0.0.1:4000")
        yield chain, key.address


@pytest.mark.parametrize("segments", [1, 8, 64])
@pytest.mark.parametrize(("reward", "task"), [(0, 0), (TOKEN, TOKEN), (80 * TOKEN, TOKEN), (600 * TOKEN, 90 * TOKEN)])
def test_the_registry_says_what_the_reference_says(
    node: tuple[ChainClient, Address], reward: int, task: int, segments: int
) -> None:
    chain, address = node
    alike = tasks_alike(Wei(reward), Wei(task))
    params = Params()
    at_risk = stake_at_risk(STAKE, params.given_back_bps)
    expected = audit_odds(0, at_risk, alike, Wei(reward), params.collusion_bps, segments, 2)
    assert chain.audit_probability(address, alike, Wei(reward), segments, 2) == expected


def test_a_stranger_is_audited_whole(node: tuple[ChainClient, Address]) -> None:
    chain, _ = node
    odds = chain.audit_probability(Address("0x" + "11" * 20), 1, Wei(TOKEN), 8, 2)
    assert (odds.wad, odds.segments) == (10**18, 8)
