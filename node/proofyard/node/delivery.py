"""Bringing finished work to its verifiers: commitments and seals, each until it is answered or of no use any more.

Every verifier has a queue and a worker of its own, so that one that went away, or is connected and never answers, holds
up nothing but what it is owed itself.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from proofyard.node.links import VerifierLinks
from proofyard.protocol.messages import Acks, Receipts, Refusal, SubmitCommitments, SubmitSeals
from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.transport import RequestFailed

logger = logging.getLogger("proofyard.node")

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
OVER_EVERY_S = 15.0
"""Between two looks at the chain whether a delivery is still wanted."""
MAX_REFUSALS = 5
"""A verifier whose own chain or disk fails for a moment refuses too; more often it means it."""
LINGER_S, MOST_LINGER_S = 0.1, 1.0
"""How long a delivery waits for others to go with: for any, and for those that are known to come in a moment."""
AT_ONCE = 64
"""Deliveries in one message."""
TRANSIENT = ("busy", "deadline", "internal", "unknown-request")
"""Codes of refusals that say nothing of what was delivered."""


@dataclass(frozen=True)
class Kind:
    """What is delivered in one message: `pack` makes it of several and what goes with them, whose `reply` has an answer
    for each."""

    pack: Callable[[tuple[Any, ...], tuple[bytes, ...]], msgspec.Struct]
    reply: type[Any]


COMMITMENTS = Kind(SubmitCommitments, Receipts)
SEALS = Kind(lambda seals, _: SubmitSeals(seals), Acks)


@dataclass(frozen=True)
class Parcel:
    """One delivery. `taken` hears the answer; `given_up` hears why there will be none. `over` says why the delivery is
    of no use any more, empty while it is; it is asked only after a first attempt has failed. `rests_on` are artifacts
    that it promises, and `leftovers` deletes what is not needed once these are on the disk."""

    name: str
    kind: Kind
    message: msgspec.Struct
    taken: Callable[[Any], None]
    given_up: Callable[[str], None]
    over: Callable[[], Awaitable[str]]
    rests_on: tuple[Cid, ...] = ()
    leftovers: Callable[[], None] | None = None


Secure = Callable[[Sequence[Parcel]], Awaitable[None]]
"""Has what parcels promise on the disk itself, so that no power cut takes it. Raises a `ProofyardError`."""


Beside = Callable[[Kind, Sequence[Any]], tuple[bytes, ...]]
"""Small artifacts that go with what is delivered; looked up at once."""


Linger = Callable[[Address, Kind], float]
"""For how many seconds a delivery of a kind to a verifier waits for others to go with."""


@dataclass
class Waiting:
    """A parcel and its next attempt, in the event loop's time. `secured` once what it promises lasts."""

    parcel: Parcel
    due: float
    asked: float
    retry: float
    refusals: int = 0
    secured: bool = False


@dataclass
class Queue:
    parcels: list[Waiting] = field(default_factory=list)
    added: asyncio.Event = field(default_factory=asyncio.Event)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    worker: asyncio.Task[None] | None = None


class Courier:
    """The queues to all verifiers. What they hold is in the journal too, so nothing is lost with the process."""

    def __init__(
        self,
        links: VerifierLinks,
        secure: Secure,
        linger_s: Linger = lambda *_: LINGER_S,
        beside: Beside = lambda *_: (),
    ) -> None:
        self._links = links
        self._secure = secure
        self._beside = beside
        self._linger_s = linger_s
        self._queues: dict[Address, Queue] = {}

    def send(self, verifier: Address, parcel: Parcel) -> None:
        """Deliver in the background, once for each name."""
        queue = self._queues.setdefault(verifier, Queue())
        if any(waiting.parcel.name == parcel.name for waiting in queue.parcels):
            return
        now = asyncio.get_running_loop().time()
        due = now + self._linger_s(verifier, parcel.kind)
        queue.parcels.append(Waiting(parcel, due=due, asked=now, retry=FIRST_RETRY_S))
        queue.added.set()
        queue.empty.clear()
        if queue.worker is None:
            queue.worker = asyncio.create_task(self._work(verifier, queue))

    def waiting(self, verifier: Address) -> int:
        """Deliveries that this verifier has not answered yet."""
        queue = self._queues.get(verifier)
        return len(queue.parcels) if queue else 0

    async def answered(self, verifier: Address) -> None:
        """Until a verifier has answered every delivery."""
        if self.waiting(verifier):
            await self._queues[verifier].empty.wait()

    async def close(self) -> None:
        workers = [queue.worker for queue in self._queues.values() if queue.worker is not None]
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, verifier: Address, queue: Queue) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            queue.added.clear()
            if not queue.parcels:
                queue.empty.set()
                await queue.added.wait()
                continue
            waiting = min(queue.parcels, key=lambda waiting: waiting.due)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, waiting.due - clock())):
                    await queue.added.wait()
                    continue
            kind, now = waiting.parcel.kind, clock()
            alike = [each for each in queue.parcels if each.parcel.kind is kind]
            due = [each for each in alike if each.due <= now or not each.secured][:AT_ONCE]
            for each, done in zip(due, await self._deliver(verifier, kind, due), strict=True):
                if done or await self._is_over(verifier, each, clock()):
                    queue.parcels.remove(each)
                else:
                    each.due = clock() + each.retry
                    each.retry = min(2 * each.retry, LAST_RETRY_S)

    async def _deliver(self, verifier: Address, kind: Kind, due: Sequence[Waiting]) -> list[bool]:
        """One attempt; which deliveries are done with, be it by a refusal. Nothing leaves before it lasts."""
        if fresh := [waiting for waiting in due if not waiting.secured]:
            try:
                await self._secure([waiting.parcel for waiting in fresh])
            except ProofyardError as error:
                logger.warning("%s deliveries to %s wait for this machine's disk: %s", len(due), verifier, error)
                return [False] * len(due)
            for waiting in fresh:
                waiting.secured = True
        try:
            delivered = tuple(waiting.parcel.message for waiting in due)
            message = kind.pack(delivered, self._beside(kind, delivered))
            found = await self._links.try_request(verifier, message, kind.reply, refusals=True)
        except RequestFailed as error:
            return [self._refused(verifier, waiting, error.code, str(error)) for waiting in due]
        if found is None or len(found.answers) != len(due):
            return [False] * len(due)
        return [self._taken(verifier, waiting, answer) for waiting, answer in zip(due, found.answers, strict=True)]

    def _refused(self, verifier: Address, waiting: Waiting, code: str, reason: str) -> bool:
        waiting.refusals += code not in TRANSIENT
        if waiting.refusals < MAX_REFUSALS:
            return False
        self._end(waiting.parcel, f"{verifier} refuses it: {reason}")
        return True

    def _taken(self, verifier: Address, waiting: Waiting, answer: object) -> bool:
        parcel = waiting.parcel
        if isinstance(answer, Refusal):
            return self._refused(verifier, waiting, answer.code, answer.reason)
        try:
            parcel.taken(answer)
        except ProofyardError as error:
            logger.warning("what %s answers to %s is no answer: %s", verifier, parcel.name, error)
            waiting.refusals += 1
            if waiting.refusals < MAX_REFUSALS:
                return False
            self._end(parcel, f"{verifier} answers it with nothing of use: {error}")
        return True

    async def _is_over(self, verifier: Address, waiting: Waiting, now: float) -> bool:
        if now - waiting.asked < OVER_EVERY_S:
            return False
        waiting.asked = now
        try:
            reason = await waiting.parcel.over()
        except ProofyardError as error:
            logger.info("whether %s is still wanted cannot be told: %s", waiting.parcel.name, error)
            return False
        if reason:
            self._end(waiting.parcel, f"{verifier} did not take it, and {reason}")
        return bool(reason)

    def _end(self, parcel: Parcel, reason: str) -> None:
        logger.warning("%s is dropped: %s", parcel.name, reason)
        parcel.given_up(reason)
