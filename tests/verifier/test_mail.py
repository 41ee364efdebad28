"""What is about to be sent to a node leaves at one moment, whatever steps it came from."""

import asyncio

import pytest

from proofyard.protocol.types import Address
from proofyard.verifier import mail
from proofyard.verifier.mail import Mail

HERE, THERE = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"), Address("0x" + "11" * 20)


async def test_all_of_a_kind_goes_to_who_asked_first_and_all_kinds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "LINGER_S", 1.0)
    post, left = Mail(), []

    async def collect(kind: str, *items: int) -> list[int]:
        found = await post.collect(HERE, kind, items)
        left.append(asyncio.get_running_loop().time())
        return found

    first = [asyncio.create_task(collect("tasks", 1, 2)), asyncio.create_task(collect("audits", 3))]
    await asyncio.sleep(0.3)
    late = await asyncio.gather(collect("tasks", 4), collect("seals", 5), *first)
    assert late == [[], [5], [1, 2, 4], [3]]
    assert max(left[1:]) - min(left[1:]) < 0.3
    monkeypatch.setattr(mail, "LINGER_S", 0.01)
    assert await post.collect(HERE, "tasks", [6]) == [6]


async def test_what_nobody_waits_for_any_more_keeps_nothing_back() -> None:
    post = Mail()
    gone = asyncio.create_task(post.collect(HERE, "tasks", [1]))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert await post.collect(HERE, "tasks", [2]) == [2]


async def test_the_more_nodes_something_waits_for_the_longer_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "LINGER_S", 0.01)
    monkeypatch.setattr(mail, "NODES_PER_S", 4.0)
    post, start = Mail(), asyncio.get_running_loop().time()

    async def seconds(node: Address) -> float:
        await post.collect(node, "tasks", [1])
        return asyncio.get_running_loop().time() - start

    found = await asyncio.gather(seconds(HERE), seconds(THERE))
    assert 0.25 <= found[0] < found[1]
    assert found[1] >= 0.5
