"""A node's loops outlive what nobody foresaw, its own errors and what an endpoint makes up."""

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest
from websockets.asyncio.server import ServerConnection, serve

from proofyard.chain import pushed
from proofyard.chain.errors import ChainUnreachable
from proofyard.node import pay, service
from proofyard.node.news import News
from proofyard.protocol.types import Address

pytestmark = pytest.mark.timeout(60)

NESTED = "[" * 5000 + "]" * 5000
MADE_UP = [
    "no JSON",
    "[]",
    "null",
    '{"params": {"result": {"topics": [1], "address": "0x"}}}',
    '{"params": {"result": {"topics": {"0": "0x"}, "address": 7}}}',
    json.dumps({"params": {"result": {"topics": [], "address": "\udc80"}}}),
    NESTED,
    '{"id": ' + "9" * 5000 + "}",
    b"\xff\xfe",
]


async def outlives(loop: Coroutine[Any, Any, None], enough: asyncio.Event) -> None:
    task, waiting = asyncio.create_task(loop), asyncio.create_task(enough.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    assert not task.done(), task
    for each in (task, waiting):
        each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await each


async def test_what_an_endpoint_pushes_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message that is no log ends its connection at most."""
    monkeypatch.setattr(pushed, "FIRST_RETRY_S", 0.0)
    monkeypatch.setattr(pushed, "LAST_RETRY_S", 0.0)
    left, over = list(MADE_UP), asyncio.Event()

    async def push(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send('{"id": 1, "result": "0x1"}')
        if not left:
            over.set()
            await socket.wait_closed()
        else:
            await socket.send(left.pop())

    async with serve(push, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        await outlives(pushed.follow_logs(f"ws://127.0.0.1:{port}", [], News()), over)


async def test_an_error_of_its_own_where_news_are_heard_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushed, "FIRST_RETRY_S", 0.0)
    thrice, heard = asyncio.Event(), []

    class Failing(News):
        def heard(self, topic: str, address: str) -> None:
            heard.append(topic)
            if len(heard) == 3:
                thrice.set()
            raise KeyError("a defect")

    async def push(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send('{"id": 1, "result": "0x1"}')
        await socket.send('{"params": {"result": {"topics": ["0xab"], "address": "0x1"}}}')
        await socket.wait_closed()

    async with serve(push, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        await outlives(pushed.follow_logs(f"ws://127.0.0.1:{port}", [], Failing()), thrice)


async def test_the_bench_is_looked_at_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pay, "BENCH_EVERY_S", 0.0)
    loop, thrice, asked = asyncio.get_running_loop(), asyncio.Event(), []

    def on_bench(_owner: Address, bit: int) -> bool:
        asked.append(bit)
        if len(asked) == 3:
            loop.call_soon_threadsafe(thrice.set)
        raise KeyError("a defect")

    chain: Any = SimpleNamespace(on_bench=on_bench)
    await outlives(pay.keep_on_bench(chain, Address("0x1"), ("lora",)), thrice)


async def test_a_chain_that_is_away_at_the_start_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "UNREGISTERED_S", 0.0)
    away = ChainUnreachable("http://127.0.0.1:1", "refused")
    says: list[Any] = [away, None, None, away, 7, 7]
    owners: list[Any] = [away, SimpleNamespace(owner="0xowner")]

    def answer(answers: list[Any]) -> Any:
        said = answers.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    chain: Any = SimpleNamespace(operator_of=lambda _: answer(says), operator_state=lambda _: answer(owners))
    found = await service._until_registered(cast(Any, SimpleNamespace(endpoint="")), chain, Address("0xnode"))
    assert found == (7, "0xowner") and not says and not owners
