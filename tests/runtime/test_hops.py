"""Work that shares a hop to a thread: everybody hears of its own outcome."""

import asyncio
import threading

import pytest

from proofyard.runtime import hops as hops_module
from proofyard.runtime.hops import AT_ONCE, Hops


async def test_each_piece_has_its_own_outcome_in_a_thread() -> None:
    hops, here = Hops("short"), threading.get_ident()

    def piece(number: int) -> tuple[int, int]:
        if number % 3 == 0:
            raise ValueError(number)
        return number, threading.get_ident()

    count = 2 * AT_ONCE + 1
    work = [hops.run(lambda number=number: piece(number)) for number in range(count)]  # type: ignore[misc]
    found = await asyncio.gather(*work, return_exceptions=True)
    for number, outcome in enumerate(found):
        if number % 3 == 0:
            assert isinstance(outcome, ValueError) and outcome.args == (number,)
        else:
            assert isinstance(outcome, tuple) and outcome[0] == number and outcome[1] != here
    assert len({outcome[1] for outcome in found if isinstance(outcome, tuple)}) == 1
    hops.close()


async def test_who_gives_up_holds_up_nobody() -> None:
    hops, gate = Hops("short"), threading.Event()
    first = asyncio.create_task(hops.run(lambda: gate.wait(60)))
    second = asyncio.create_task(hops.run(lambda: "done"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert await second == "done"
    hops.close()


async def test_what_comes_while_the_thread_is_busy_goes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    hops, gate, sizes = Hops("short"), threading.Event(), list[int]()
    tried = hops_module._tried
    monkeypatch.setattr(hops_module, "_tried", lambda works: (sizes.append(len(works)), tried(works))[1])
    first = asyncio.create_task(hops.run(lambda: gate.wait(60)))
    while not sizes:
        await asyncio.sleep(0.001)
    later = [asyncio.create_task(hops.run(lambda number=number: number)) for number in range(10)]  # type: ignore[misc]
    await asyncio.sleep(0.01)
    gate.set()
    assert await asyncio.gather(*later) == list(range(10)) and await first
    assert sizes == [1, 10]
    hops.close()


async def test_without_a_name_it_borrows_one_thread_at_a_time() -> None:
    hops, busy = Hops(None), threading.Lock()

    def alone(number: int) -> int:
        assert busy.acquire(blocking=False)
        try:
            return number
        finally:
            busy.release()

    assert await asyncio.gather(*(hops.run(lambda n=n: alone(n)) for n in range(200))) == list(range(200))  # type: ignore[misc]
    hops.close()


async def test_where_no_thread_is_to_be_had_those_that_asked_hear_of_it_and_later_ones_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    hops = Hops("short")
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        async with asyncio.timeout(30):
            found = await asyncio.gather(*(hops.run(lambda: 1) for _ in range(AT_ONCE + 1)), return_exceptions=True)
    assert {str(each) for each in found} == {"can't start new thread"}
    async with asyncio.timeout(30):
        assert await hops.run(lambda: 2) == 2
    hops.close()
