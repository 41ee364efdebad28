"""What waits for a voter that does not take it is bounded; nobody waits for it."""

import asyncio
from typing import Any

from rounds_network import WALLETS

from proofyard.node.rounds.messages import AskRound, Heard
from proofyard.node.rounds.outbox import MOST_WAITING, Outbox, Said
from proofyard.protocol.types import Address, Digest
from proofyard.transport import PeerUnreachable

AWAY, SLOW, QUICK, _ = WALLETS


def said(number: int) -> AskRound:
    return AskRound(Digest(number.to_bytes(32)))


class Peers:
    """One is away, one answers once `answers` is set, the others at once."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.got: dict[Address, list[Said]] = {SLOW: [], QUICK: []}
        self.heard: list[tuple[Address, Said]] = []
        self.outbox = Outbox(self.reach, lambda peer, message, _: self.heard.append((peer, message)))

    async def reach(self, node: Address) -> Any:
        if node == AWAY:
            raise PeerUnreachable(node, 0, "it is away")
        return Peer(self, node)


class Peer:
    def __init__(self, peers: Peers, node: Address) -> None:
        self.peers, self.node = peers, node

    async def request(self, message: Said, **_: Any) -> Heard:
        if self.node == SLOW:
            await self.peers.answers.wait()
        self.peers.got[self.node].append(message)
        return Heard()


async def test_a_voter_that_takes_nothing_holds_up_nobody_and_gets_the_latest() -> None:
    peers = Peers()
    for number in range(3 * MOST_WAITING):
        for node in (AWAY, SLOW, QUICK):
            peers.outbox.send(node, said(number))
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        while len(peers.got[QUICK]) < 3 * MOST_WAITING:
            await asyncio.sleep(0.01)
        peers.answers.set()
        while peers.outbox._waiting:
            await asyncio.sleep(0.01)
    last = [said(number) for number in range(2 * MOST_WAITING, 3 * MOST_WAITING)]
    assert peers.got[SLOW] == [said(0), *last], "the first was on its way, of the others the latest"
    assert {node for node, _ in peers.heard} == {SLOW, QUICK}
    await peers.outbox.close()


async def test_what_waits_is_not_said_twice() -> None:
    peers = Peers()
    for number in (1, 2, 3, 2, 3, 3):
        peers.outbox.send(SLOW, said(number))
        await asyncio.sleep(0)
    peers.answers.set()
    async with asyncio.timeout(20):
        while peers.outbox._waiting:
            await asyncio.sleep(0.01)
    assert peers.got[SLOW] == [said(1), said(2), said(3)]
    await peers.outbox.close()
