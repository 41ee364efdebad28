"""Work that shares a hop to a thread: everybody hears of its own outcome."""

import asyncio
import threading

from proofyard.verifier.hops import AT_ONCE, Hops


async def test_each_piece_has_its_own_outcome_in_a_thread() -> None:
    hops, here = Hops(), threading.get_ident()

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
    assert len({outcome[1] for outcome in found if isinstance(outcome, tuple)}) <= 3


async def test_who_gives_up_holds_up_nobody() -> None:
    hops, gate = Hops(), threading.Event()
    first = asyncio.create_task(hops.run(lambda: gate.wait(20)))
    second = asyncio.create_task(hops.run(lambda: "done"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert await second == "done"
