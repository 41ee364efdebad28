"""A member list is held by two thirds of the seats before its root is posted: who posted may be gone until the draw."""

import asyncio
import time
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.messages import Ack
from proofyard.transport import RequestFailed
from proofyard.verifier import leading

CID = raw_cid(b"list")


class Seat:
    """Another verifier: what it says each time that it is asked."""

    def __init__(self, peer: str, *answers: Any) -> None:
        self.peer, self._answers = peer, list(answers)
        self.asked = self.at_once = self.most_at_once = 0

    async def request(self, _message: Any, *, reply: type, timeout: float) -> Ack:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        try:
            if answer is None:
                await asyncio.Event().wait()
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.at_once -= 1


async def shown(monkeypatch: pytest.MonkeyPatch, *seats: Seat, within_s: float = 20.0, away: int = 0) -> float:
    """Seconds until a leader that has a seat itself would post."""
    monkeypatch.setattr(leading, "SHOW_S", within_s)
    monkeypatch.setattr(leading, "SHOW_AGAIN_S", 0.01)
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.add(asyncio.create_task(work))

    async def others() -> list[Seat]:
        return list(seats)

    async def verifiers() -> list[Any]:
        return [SimpleNamespace(node=name) for name in ("own", *(seat.peer for seat in seats), *range(away))]

    context: Any = SimpleNamespace(
        wallet=SimpleNamespace(address="own"), others=others, verifiers=verifiers, spawn=spawn
    )
    start = time.monotonic()
    await leading._show(context, CID, 10)
    took = time.monotonic() - start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return took


async def test_a_deaf_seat_holds_nobody_up_where_the_others_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    deaf, good = Seat("deaf", None), Seat("good", Ack())
    assert await shown(monkeypatch, deaf, good) < 10
    assert good.asked == 1


async def test_a_seat_that_comes_back_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seat = Seat("b", RequestFailed("failed", "starting"), Ack(False, "disk full"), Ack())
    assert await shown(monkeypatch, seat) < 10
    assert (seat.asked, seat.most_at_once) == (3, 1)


@pytest.mark.parametrize("answer", [None, Ack(False, "no"), RequestFailed("busy", "later")], ids=["deaf", "no", "busy"])
async def test_nobody_is_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    seat = Seat("b", answer)
    assert 0.3 <= await shown(monkeypatch, seat, within_s=0.3) < 10
    assert seat.most_at_once == 1


async def test_seats_that_cannot_be_reached_count_as_those_that_lack_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await shown(monkeypatch, Seat("b", Ack()), Seat("c", Ack()), away=1) < 10
    assert await shown(monkeypatch, Seat("b", Ack()), within_s=0.3, away=2) >= 0.3


async def test_who_is_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await shown(monkeypatch) < 1
