"""Peers that are known by their wallet alone, and reached by what others say of them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from proofyard.chain import Wallet
from proofyard.discovery import Gossip
from proofyard.discovery.messages import ExchangePeers, FindPeers, KnownPeers
from proofyard.discovery.whereabouts import whereabouts
from proofyard.protocol.commitment import Domain
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Address
from proofyard.sdk.peers import Quic
from proofyard.transport import Endpoint, RequestFailed

DOMAIN = Domain(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))


@pytest.fixture
async def ends() -> AsyncIterator[list[Endpoint]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Endpoint(Wallet.generate(), network=DOMAIN, host=f"127.{at}.0.1"))
            for at in range(1, 5)
        ]


async def behind(relay: Endpoint, node: Endpoint) -> Gossip:
    """What a node says of itself that only a relay leads to."""
    relay.become_relay()
    node.stay_relayed()
    await node.reserve(Route("relayed", relay.host, relay.port, relay.address))
    return Gossip(node, routes=lambda: tuple(node.relays()), here=True)


async def test_a_node_behind_a_relay_is_found_by_its_wallet_and_reached(ends: list[Endpoint], tmp_path: Any) -> None:
    relay, node, teller, asker = ends
    hidden, told = await behind(relay, node), Gossip(teller, here=True)
    told.serve()
    to_teller = await node.connect(teller.host, teller.port, expect=teller.address)
    await to_teller.request(ExchangePeers(hidden.record(), 0), reply=KnownPeers)
    asking = await asker.connect(teller.host, teller.port, expect=teller.address)
    stranger = Wallet.generate().address
    found = await whereabouts([node.address, stranger, node.address], [asking], DOMAIN)
    assert list(found) == [node.address]
    quic = Quic(Wallet.generate(), DOMAIN, Any)  # type: ignore[arg-type]
    try:
        connection = await quic.reach(node.address, found[node.address].routes)
        assert (connection.peer, connection.way) == (node.address, "relayed")
    finally:
        await quic.close()


async def test_what_nobody_met_or_asked_for_is_not_believed(ends: list[Endpoint]) -> None:
    relay, node, liar, asker = ends
    hidden = (await behind(relay, node)).record()
    strange = Gossip(relay, routes=lambda: (Route("direct", relay.host, relay.port),), here=True).record()
    answers = [(hidden, strange), (strange,), (hidden[:-1],)]

    async def answer(*_: Any) -> KnownPeers:
        return KnownPeers(b"", answers.pop(0))

    liar.on(FindPeers, answer)
    asking = await asker.connect(liar.host, liar.port, expect=liar.address)
    assert list(await whereabouts([node.address], [asking], DOMAIN)) == [node.address]
    assert not await whereabouts([node.address], [asking], DOMAIN)
    assert not await whereabouts([node.address], [asking], DOMAIN)
    assert not answers and not await whereabouts([], [asking], DOMAIN)


async def test_who_asks_too_often_is_told_nothing(ends: list[Endpoint]) -> None:
    _, node, teller, asker = ends
    Gossip(teller, here=True).serve()
    asking = await asker.connect(teller.host, teller.port, expect=teller.address)
    with pytest.raises(RequestFailed, match="busy"):
        for _ in range(64):
            await asking.request(FindPeers((node.address,)), reply=KnownPeers)
    assert not await whereabouts([node.address], [asking], DOMAIN)
