"""Over real connections: a verifier that takes a node and then never answers, beside a good one."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest
from stand_ins import DOMAIN

from proofyard.chain import ChainClient, Wallet
from proofyard.node import delivery, links
from proofyard.node.delivery import SEALS, Courier, Parcel
from proofyard.node.links import VerifierLinks
from proofyard.protocol.messages import Ack, Acks, Announce, SubmitSeal, SubmitSeals
from proofyard.protocol.types import BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex
from proofyard.transport import Connection, Endpoint

SENT = 5


async def test_a_deaf_verifier_keeps_nothing_from_a_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "LINGER_S", 0.01)
    heard: asyncio.Queue[int] = asyncio.Queue()
    asked = asyncio.Event()

    async def welcome(*_: Any) -> Ack:
        return Ack()

    async def take(_connection: Any, message: SubmitSeals, _body: Any) -> Acks:
        for seal in message.seals:
            heard.put_nowait(seal.task)
        return Acks((Ack(),) * len(message.seals))

    async def never(*_: Any) -> Acks:
        asked.set()
        await asyncio.Event().wait()
        return Acks(())

    async with AsyncExitStack() as stack:
        good, deaf, own = [
            await stack.enter_async_context(Endpoint(Wallet.generate(), network=DOMAIN)) for _ in range(3)
        ]
        for verifier, handler in ((good, take), (deaf, never)):
            verifier.on(Announce, welcome)
            verifier.on(SubmitSeals, handler)
        records = [SimpleNamespace(node=each.address, endpoint=f"127.0.0.1:{each.port}") for each in (good, deaf)]
        chain = cast(ChainClient, SimpleNamespace(active_verifiers=lambda: records))
        joined = VerifierLinks(own, chain, lambda: Announce((), 1, 1, "test"))
        running = asyncio.create_task(joined.run())

        async def secure(_parcels: Any) -> None:
            """It lasts."""

        async def over() -> str:
            return ""

        courier, given_up = Courier(joined, secure), []
        async with asyncio.timeout(60):
            while len(joined.live()) < 2:
                await asyncio.sleep(0.01)
            for number in range(SENT):
                for verifier in (deaf, good):
                    place = (BatchId(1), JobId(1), TaskIndex(number), SegmentIndex(0))
                    seal = SubmitSeal(*place, Digest(bytes(32)), Digest(bytes(32)), Signature(bytes(65)))
                    name = f"{number} to {verifier.address}"
                    courier.send(verifier.address, Parcel(name, SEALS, seal, lambda _: None, given_up.append, over))
                # The deaf one has a request in its hands all the time, and the good one is served all the same.
                await asked.wait()
                assert await heard.get() == number
        assert courier.waiting(deaf.address) == SENT and given_up == []
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await courier.close()


async def pings(connection: Connection) -> None:
    """As an endpoint asks for whoever lets a request wait, and in time for how soon answers are given up here."""
    while True:
        connection._link.ping()
        await asyncio.sleep(0.05)


async def test_who_is_slow_keeps_its_connection_and_who_is_silent_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dialling again gives a verifier that has too much to do more to do."""
    monkeypatch.setattr(links, "ANSWER_S", 1.0)

    async def never(*_: Any) -> Ack:
        await asyncio.Event().wait()
        return Ack()

    async def welcome(*_: Any) -> Ack:
        return Ack()

    async with Endpoint(Wallet.generate(), network=DOMAIN) as slow, Endpoint(Wallet.generate(), network=DOMAIN) as own:
        slow.on(Announce, welcome)
        slow.on(SubmitSeals, never)
        record = SimpleNamespace(node=slow.address, endpoint=f"127.0.0.1:{slow.port}")
        chain = cast(ChainClient, SimpleNamespace(active_verifiers=lambda: [record]))
        joined = VerifierLinks(own, chain, lambda: Announce((), 1, 1, "test"))
        running = asyncio.create_task(joined.run())
        async with asyncio.timeout(60):
            await joined.joined()
            connection = joined.connection(slow.address)
            assert connection is not None
            pinging = asyncio.create_task(pings(connection))
            assert await joined.try_request(slow.address, SubmitSeals(()), Acks) is None
            assert joined.connection(slow.address) is connection and not connection.closed.is_set()
            pinging.cancel()

            deaf = slow.connections[own.address]._link.quic
            monkeypatch.setattr(deaf, "receive_datagrams", lambda group, *_: len(group))
            monkeypatch.setattr(deaf, "datagrams_to_send", lambda *_, **__: [])
            assert await joined.try_request(slow.address, SubmitSeals(()), Acks) is None
            assert connection.closed.is_set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
