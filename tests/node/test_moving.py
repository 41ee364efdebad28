"""A verifier that is somewhere else, as the Registry says while everything runs: its nodes follow."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest
from stand_ins import DOMAIN

from proofyard.chain import ChainClient, Wallet
from proofyard.node import links
from proofyard.node.links import VerifierLinks
from proofyard.protocol.messages import Ack, Announce
from proofyard.transport import Endpoint


async def welcome(*_: Any) -> Ack:
    return Ack()


@pytest.mark.parametrize("leaves", ["before", "after", "never"])
@pytest.mark.parametrize("hosts", [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "[::1]"), ("127.0.0.1", "localhost")])
async def test_a_verifier_that_moves_is_joined_where_it_is(
    leaves: str, hosts: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "REFRESH_S", 0.1)
    wallet = Wallet.generate()
    async with AsyncExitStack() as stack:
        old, new = [
            await stack.enter_async_context(Endpoint(wallet, network=DOMAIN, host=host.strip("[]"))) for host in hosts
        ]
        own = await stack.enter_async_context(Endpoint(Wallet.generate(), network=DOMAIN))
        for each in (old, new):
            each.on(Announce, welcome)
        record = SimpleNamespace(node=wallet.address, endpoint=f"{hosts[0]}:{old.port}")
        chain = cast(ChainClient, SimpleNamespace(active_verifiers=lambda: [record]))
        joined = VerifierLinks(own, chain, lambda: Announce((), 1, 1, "test"))
        running = asyncio.create_task(joined.run())
        async with asyncio.timeout(60):
            await joined.joined()
            if leaves == "before":
                await old.close()
            for target, host in ((new, hosts[1]), (old, hosts[0])) if leaves == "never" else ((new, hosts[1]),):
                record.endpoint = f"{host}:{target.port}"
                while True:
                    connection = joined.connection(wallet.address)
                    if connection is not None and connection.remote[1] == target.port:
                        break
                    await asyncio.sleep(0.01)
                if leaves == "after":
                    await old.close()
                assert not connection.closed.is_set()
                assert await joined.try_request(wallet.address, Announce((), 1, 1, "test"), Ack) == Ack()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert connection.reason == "this node is stopping"


async def test_what_changes_while_a_verifier_answers_is_announced_at_once() -> None:
    """Routes, a model, a pause: what was not in the announcement under way is in the next one."""
    wallet = Wallet.generate()
    heard: list[int] = []
    async with AsyncExitStack() as stack:
        verifier = await stack.enter_async_context(Endpoint(wallet, network=DOMAIN))
        own = await stack.enter_async_context(Endpoint(Wallet.generate(), network=DOMAIN))

        async def hear(_: Any, announce: Announce, _body: Any) -> Ack:
            heard.append(announce.port)
            if len(heard) == 1:
                joined.announce_again()
            return Ack()

        verifier.on(Announce, hear)
        record = SimpleNamespace(node=wallet.address, endpoint=f"127.0.0.1:{verifier.port}")
        chain = cast(ChainClient, SimpleNamespace(active_verifiers=lambda: [record]))
        joined = VerifierLinks(own, chain, lambda: Announce((), 1, 1 + len(heard), "test"))
        running = asyncio.create_task(joined.run())
        async with asyncio.timeout(60):
            while len(heard) < 2:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert heard == [1, 2]
