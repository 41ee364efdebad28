"""The verifier's loops outlive what nobody foresaw: one event, job or challenge that it fails at does not end it."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from proofyard.verifier import disputes, duties, elsewhere, follower

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


CONTEXT: Any = SimpleNamespace(runner=SimpleNamespace(recall=[]))


def at_once(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    for name in ("AFTER_ERROR_S", "POLL_S", "RETRY_S", "REST_S"):
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


async def test_challenges_are_answered_on(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing()
    at_once(monkeypatch, disputes)
    context: Any = SimpleNamespace(on_chain=failing, chain=SimpleNamespace(challenge_count=None))
    await survives(failing, disputes.answer_receipts(context))
