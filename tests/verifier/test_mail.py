"""What is about to be sent to a node leaves at one moment, whatever steps it came from."""

import asyncio

import pytest

from proofyard.protocol.types import Address
from proofyard.verifier import mail
from proofyard.verifier.mail import Mail

HERE = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")


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


async def seconds(post: Mail, count: int, kind: str = "tasks") -> list[float]:
    """How long something for each of so many nodes waits that comes at one moment."""
    start = asyncio.get_running_loop().time()

    async def one(number: int) -> float:
        await post.collect(Address(f"0x{number:040x}"), kind, [1])
        return asyncio.get_running_loop().time() - start

    return await asyncio.gather(*map(one, range(count)))


async def test_what_is_for_many_nodes_leaves_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LINGER_S": 0.01, "NODES_PER_S": 4.0, "SAVED_S": 0.0}.items():
        monkeypatch.setattr(mail, name, value)
    found = await seconds(Mail(), 2)
    assert 0.25 <= found[0] < found[1]
    assert found[1] >= 0.5


async def test_after_a_quiet_time_some_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LINGER_S": 0.01, "NODES_PER_S": 0.5, "SAVED_S": 4.0}.items():
        monkeypatch.setattr(mail, name, value)
    found = await seconds(Mail(), 3)
    assert found[1] < 2 <= found[2]


async def test_audits_wait_for_more_of_them_but_no_longer_than_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LINGER_S": 0.01, "NODES_PER_S": 1.0, "SOON_S": 1.5}.items():
        monkeypatch.setattr(mail, name, value)
    one, *_, four = await seconds(Mail(), 4, "audits")
    assert one >= 0.95
    assert 1.45 <= four < 4.0


async def test_nothing_waits_longer_than_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LINGER_S": 0.01, "MOST_LINGER_S": 0.5, "NODES_PER_S": 0.1, "SAVED_S": 0.0}.items():
        monkeypatch.setattr(mail, name, value)
    post = Mail()
    async with asyncio.timeout(30):
        await seconds(post, 3)
        await seconds(post, 3)
