"""What the verifier says, as the process of its API has it: how it is, once a second, and its answers to questions,
which are good enough for a moment."""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from proofyard.protocol.types import ProofyardError
from proofyard.verifier.api import types as out
from proofyard.verifier.api import wire
from proofyard.verifier.api.streams import Streams

FRESH_S, STALE_S = 0.5, 3.0
"""What was answered so long ago is good enough while it is asked again, or not good enough."""
PATIENCE_S = 20.0
"""How long an answer is waited for."""
KEPT = 64
SILENT_S, DEAD_S = 10.0, 60.0
"""A verifier that says nothing for so long is not ready, and not alive."""


class Busy(ProofyardError):
    """More is asked at a time than is answered."""


class NotSaid(ProofyardError):
    """The verifier says why it has no answer."""


class Broken(Exception):
    """The verifier met an error of its own."""


@dataclass(frozen=True)
class _Said:
    at: float
    body: bytes


class Told(Protocol):
    """What routes need of it."""

    def health(self) -> out.Health: ...

    def ready(self) -> out.Ready: ...

    def status(self) -> out.Status: ...

    async def ask(self, question: wire.Question) -> bytes:
        """The answer, in JSON. Raises `Busy`, `NotSaid`, `Broken`."""
        ...


class Link:
    """The API's end. `write` sends a frame."""

    def __init__(self, write: Callable[[bytes], None], streams: Streams) -> None:
        self._write, self._streams = write, streams
        self._beat: tuple[float, wire.Beat] | None = None
        self._number = 0
        self._asked: dict[int, wire.Question] = {}
        self._waiting: dict[wire.Question, asyncio.Future[bytes]] = {}
        self._said: OrderedDict[wire.Question, _Said] = OrderedDict()

    # What is said

    def take(self, message: wire.ToApi) -> None:
        """A message of the verifier's."""
        match message:
            case wire.Beat():
                self._beat = time.monotonic(), message
            case wire.Lines(first, rows):
                self._streams.publish(first, rows)
            case wire.Answer():
                self._take_answer(message)
            case wire.Begin():
                raise ValueError("it has begun already")

    def _take_answer(self, answer: wire.Answer) -> None:
        question = self._asked.pop(answer.number)
        waiting = self._waiting.pop(question)
        if answer.broken:
            waiting.set_exception(Broken(answer.error))
        elif answer.error:
            waiting.set_exception(NotSaid(answer.error))
        else:
            waiting.set_result(answer.body)
            self._said[question] = _Said(time.monotonic(), answer.body)
            self._said.move_to_end(question)
            while len(self._said) > KEPT:
                self._said.popitem(last=False)
        waiting.exception()  # nobody may be waiting any more

    # What routes need

    def _last(self) -> tuple[float, wire.Beat]:
        if self._beat is None:
            raise Busy("the verifier has just started; try again in a moment")
        at, beat = self._beat
        return time.monotonic() - at, beat

    def health(self) -> out.Health:
        silent, beat = self._last()
        if silent < DEAD_S:
            return beat.health
        reasons = [*beat.health.reasons, f"it has said nothing for {silent:.0f} s"]
        return msgspec.structs.replace(beat.health, alive=False, reasons=reasons)

    def ready(self) -> out.Ready:
        silent, beat = self._last()
        if silent < SILENT_S:
            return beat.ready
        reason = f"it has said nothing for {silent:.0f} s"
        checks = [
            msgspec.structs.replace(
                each,
                seconds_ago=round(each.seconds_ago + silent, 3),
                **({"holds": False, "reason": reason} if each.name == "engine" else {}),
            )
            for each in beat.ready.checks
        ]
        return out.Ready(ready=False, checks=checks)

    def status(self) -> out.Status:
        return self._last()[1].status

    async def ask(self, question: wire.Question) -> bytes:
        said = self._said.get(question)
        age = time.monotonic() - said.at if said else STALE_S
        if said is None or age >= STALE_S:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    return await asyncio.shield(self._asking(question))
            raise Busy(f"there was no answer in {PATIENCE_S:.0f} s; try again later")
        if age >= FRESH_S:
            self._asking(question)
        return said.body

    def _asking(self, question: wire.Question) -> asyncio.Future[bytes]:
        """Its answer; whoever asks the same meanwhile waits for the same."""
        found = self._waiting.get(question)
        if found is None:
            self._number += 1
            found = self._waiting[question] = asyncio.get_running_loop().create_future()
            self._asked[self._number] = question
            self._write(wire.framed(wire.Ask(self._number, question)))  # type: ignore[arg-type]
        return found
