"""The verifier's loops outlive what nobody foresaw: one event, job or challenge that it fails at does not end it."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from proofyard.chain import Params
from proofyard.protocol.settlement import OperatorId
from proofyard.verifier import disputes, duties, elsewhere, follower, health, retention, sharing
from proofyard.verifier.store import claims

pytestmark = pytest.mark.timeout(60)


class Failing:
    """Fails as a defect would, and says when it is asked for the third time."""

    def __init__(self) -> None:
        self.asked = 0
        self.thrice = asyncio.Event()

    async def __call__(self, *_: object) -> Any:
        self.asked += 1
        if self.asked == 3:
            self.thrice.set()
        raise KeyError("what an attacker made up")


async def survives(failing: Failing, loop: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(loop)
    asked = asyncio.create_task(failing.thrice.wait())
    await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
    assert not task.done(), task
    for each in (task, asked):
        each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await each


CONTEXT: Any = SimpleNamespace(leads=True, runner=SimpleNamespace(recall=[]), next_block_in_s=lambda: 0.0)


def at_once(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    for name in ("AFTER_ERROR_S", "POLL_S", "RETRY_S", "REST_S", "PASS_S", "SOON_S", "BEAT_S"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, 0.0)


async def test_the_chain_is_followed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing()
    at_once(monkeypatch, follower)
    monkeypatch.setattr(follower, "Follower", lambda _: SimpleNamespace(advance=failing))
    await survives(failing, follower.follow_chain(CONTEXT))


@pytest.mark.parametrize(
    ("module", "name", "loop"),
    [
        (duties, "round_of_duties", duties.do_duties),
        (elsewhere, "in_flight_elsewhere", elsewhere.watch_exposure),
        (retention, "tidy", retention.look_after_store),
    ],
)
async def test_what_is_done_again_and_again_is_taken_up_again(
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    name: str,
    loop: Callable[[Any], Coroutine[Any, Any, None]],
) -> None:
    failing = Failing()
    at_once(monkeypatch, module)
    monkeypatch.setattr(module, name, failing)
    await survives(failing, loop(CONTEXT))


async def test_health_is_looked_at_on(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing()
    at_once(monkeypatch, health)
    watch = health.Watch(CONTEXT, SimpleNamespace(loop_lag=SimpleNamespace(observe=lambda _: None)))  # type: ignore[arg-type]
    monkeypatch.setattr(watch, "look", failing)
    await survives(failing, watch.run())


@pytest.mark.parametrize("what", ["say that it lives", "come to lead"])
async def test_a_process_goes_on_to_say_that_it_lives(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    failing = Failing()
    at_once(monkeypatch, claims)

    async def ask(work: Callable[[Any], Any]) -> Any:
        await asyncio.sleep(0)
        return work(None)

    database = SimpleNamespace(ask=failing if what == "say that it lives" else ask)
    own = SimpleNamespace(name="first", beat=lambda *_: None, leads=lambda _: True)
    context: Any = SimpleNamespace(database=database, claims=own, members={}, leads=False)
    await survives(failing, sharing.keep_claims(context, failing))


async def test_challenges_are_answered_on(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing()
    at_once(monkeypatch, disputes)
    context: Any = SimpleNamespace(on_chain=failing, chain=SimpleNamespace(challenge_count=None))
    await survives(failing, disputes.answer_receipts(context))


async def test_a_challenge_that_cannot_be_answered_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence to any of them costs stake: the others are answered, and this one is tried again."""
    at_once(monkeypatch, disputes)
    asked: list[int] = []
    thrice = asyncio.Event()

    async def on_chain(call: Callable[[], Any]) -> Any:
        return call()

    async def answer(_context: Any, number: int) -> None:
        asked.append(number)
        if asked.count(2) == 3:
            thrice.set()
        if number == 2:
            raise KeyError("what an attacker made up")

    monkeypatch.setattr(disputes, "answer_receipt", answer)
    chain = SimpleNamespace(challenge_count=lambda: 3, challenge=int)
    task = asyncio.create_task(disputes.answer_receipts(SimpleNamespace(on_chain=on_chain, chain=chain)))  # type: ignore[arg-type]
    await thrice.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert (asked.count(1), asked.count(3)) == (1, 1)


async def test_a_batch_that_cannot_be_looked_at_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    async def look(_context: Any, row: Any, *_rest: Any, **_more: Any) -> None:
        if row.batch == 1:
            raise KeyError("what an attacker made up")
        seen.append(row.batch)

    async def on_chain(call: Callable[[], Any]) -> Any:
        return call()

    monkeypatch.setattr(duties, "_look_at", look)
    context: Any = SimpleNamespace(
        on_chain=on_chain, chain=SimpleNamespace(batch=lambda _: SimpleNamespace(verifier=1))
    )
    for batch in (1, 2):
        await duties._round_of(context, SimpleNamespace(batch=batch), Params(), OperatorId(1))  # type: ignore[arg-type]
    assert seen == [2]
