"""Which results a voter fetches: those that their workers show it, and those that a leader proposes.

A worker has one result of a task, so few are looked at; a commitment that was found false is not looked at again.
What a proposal needs is fetched as long as its view lasts.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

from proofyard.node.rounds.ballot import Ballot, delta_of
from proofyard.node.rounds.messages import ShownDelta
from proofyard.node.rounds.results import DeltaRefused, Results
from proofyard.protocol.certificate import Delta
from proofyard.protocol.messages import Ack
from proofyard.protocol.types import Address, Digest, ProofyardError, TaskIndex
from proofyard.transport import Connection, RequestFailed
from proofyard.workloads.errors import StateRefused

logger = logging.getLogger("proofyard.node")

FALSE = (DeltaRefused, StateRefused)
"""What is wrong with a commitment, and not with the way that its result took."""
MOST_TRIED = 4
"""Commitments to one task whose results are fetched: who does it has one."""


class Gathering:
    """Of one round; `deliver` is told of each result that is here and was found right."""

    def __init__(self, ballot: Ballot, results: Results, deliver: Callable[[Delta], None]) -> None:
        self._ballot, self._results, self._deliver = ballot, results, deliver
        self._taking: dict[Delta, asyncio.Task[None]] = {}
        self._wanted: set[asyncio.Task[None]] = set()
        """Those of them that the view's proposal is waited for with."""
        self._tried: defaultdict[TaskIndex, set[Digest]] = defaultdict(set)
        """Struct hashes of commitments."""
        self.false: set[Digest] = set()

    def show(self, connection: Connection, shown: ShownDelta) -> Ack:
        """A voter shows a result of its own, to be fetched from it. Raises `RequestFailed`."""
        delta = delta_of(shown)
        if self._results.has(delta.task):
            return Ack()
        if connection.peer != shown.commitment.node:
            raise RequestFailed("bad-delta", f"task {delta.task} is not yours to show")
        if delta not in self._taking:
            if objection := self._objection(shown):
                raise RequestFailed("bad-delta", objection)
            self.take(shown, connection)
        return Ack(False, "busy: it is being fetched")

    def take(self, shown: ShownDelta, provider: Connection | None = None) -> None:
        """Look at a result soon: one that is in the store, or that `provider` has."""
        if (delta := delta_of(shown)) not in self._taking:
            self._begin(delta, self._take(shown, provider))

    def want(self, leader: Address, delta: Delta) -> None:
        """A leader proposes what is perhaps not here."""
        if self._results.is_here(delta):
            self._deliver(delta)
        elif delta not in self._taking:
            task = self._begin(delta, self._fetch(leader, delta))
            self._wanted.add(task)
            task.add_done_callback(self._wanted.discard)

    def give_up_wanted(self) -> None:
        """The view in which it was proposed is over."""
        for task in self._wanted:
            task.cancel()

    async def close(self) -> None:
        tasks = list(self._taking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, delta: Delta, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._taking[delta] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._taking.pop(delta, None))
        return task

    def _objection(self, shown: ShownDelta) -> str:
        """Why what a commitment is to is not fetched; empty where it is. Its signer alone could have made it false."""
        task = shown.commitment.task
        if objection := self._ballot.objection(shown):
            return objection
        leaf, tried = shown.commitment.struct_hash(), self._tried[task]
        if leaf in self.false:
            return f"that result of task {task} was none"
        if leaf not in tried and len(tried) >= MOST_TRIED:
            return f"{MOST_TRIED} other commitments to task {task} were shown before"
        tried.add(leaf)
        return ""

    async def _fetch(self, leader: Address, delta: Delta) -> None:
        try:
            shown, connection = await self._results.ask(leader, delta)
        except ProofyardError as error:
            logger.info("%s does not show what it proposed for task %s: %s", leader, delta.task, error)
            return
        if objection := self._objection(shown):
            logger.info("what %s proposed for task %s is not fetched: %s", leader, delta.task, objection)
            return
        await self._take(shown, connection)

    async def _take(self, shown: ShownDelta, provider: Connection | None) -> None:
        try:
            delta = await self._results.take(shown, provider)
        except ProofyardError as error:
            if isinstance(error, FALSE):
                self.false.add(shown.commitment.struct_hash())
            logger.info("a result of task %s is not taken: %s", shown.commitment.task, error)
            return
        self._deliver(delta)
