"""A round's results on this node: which it knows the commitment to, has, and has found right.

A result is right where the first state that was committed to is what the task begins with, and the result what its
workload makes of the last one; both are fetched and looked at before anybody votes for it. Whether the work between is
right audits tell later. Two results of a task are kept at most: the first one, and the one that a leader proposed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from proofyard.artifacts import BlockStore, cid_of_bytes, fetch
from proofyard.node.journal import Journal
from proofyard.node.rounds.ballot import Ballot, delta_of
from proofyard.node.rounds.messages import ShowDelta, ShownDelta
from proofyard.protocol.certificate import Delta
from proofyard.protocol.types import Address, Cid, ProofyardError, TaskIndex
from proofyard.transport import Connection
from proofyard.workloads.workload import begins, carried_by, carries, first_state, load_workload

logger = logging.getLogger("proofyard.node")

Reach = Callable[[Address], Awaitable[Connection]]
"""A connection to a node, the one that there is or a new one. Raises `TransportError`."""

ASK_S = 10.0
WITHIN_S = 600.0
"""So long a result may take to come: whoever shows one that does not has shown nothing."""
AT_ONCE = 2
"""Results that are looked at at a time, in all rounds: each may be as large as a state."""


class DeltaRefused(ProofyardError):
    """A result that this round cannot take, or that is another one than was asked for."""


class Results:
    """Of one round. `max_bytes`: what this node's operator lets a result or state have. `turns` bound what all rounds
    of this node look at together."""

    def __init__(
        self,
        ballot: Ballot,
        store: BlockStore,
        journal: Journal,
        reach: Reach,
        turns: asyncio.Semaphore,
        max_bytes: int,
    ) -> None:
        self._ballot, self._store, self._journal, self._reach = ballot, store, journal, reach
        self._turns, self._max_bytes = turns, max_bytes
        self._workload = load_workload(ballot.manifest.workload)
        self._here: dict[TaskIndex, list[Delta]] = {}
        self._lines: dict[Address | None, asyncio.Lock] = {}

    def known(self) -> list[ShownDelta]:
        """What was found right and kept before this process began; its bytes may have gone since."""
        return self._journal.shown_deltas(self._ballot.round.digest)

    def has(self, task: TaskIndex) -> bool:
        """Whether some result of a task is here."""
        return task in self._here

    def is_here(self, delta: Delta) -> bool:
        return delta in self._here.get(delta.task, ())

    def shown(self, delta: Delta) -> ShownDelta | None:
        """The commitment to a result that was found right."""
        return self._journal.shown_delta(self._ballot.round.digest, delta)

    async def ask(self, node: Address, delta: Delta) -> tuple[ShownDelta, Connection]:
        """The commitment to a result, of whoever proposed that. Raises `TransportError` and `DeltaRefused`."""
        connection = await self._reach(node)
        message = ShowDelta(self._ballot.round.digest, delta)
        shown = await connection.request(message, reply=ShownDelta, timeout=ASK_S)
        if (shown.round, delta_of(shown)) != (message.round, delta):
            raise DeltaRefused(f"{node} shows another result of task {delta.task} than the one that it proposed")
        return shown, connection

    async def take(self, shown: ShownDelta, provider: Connection | None = None) -> Delta:
        """Fetch a result and its last state, look at them and keep the commitment. Raises `DeltaRefused`,
        `ArtifactError`, `TransportError`, `WorkloadError` and `JournalError`."""
        delta = delta_of(shown)
        if self.is_here(delta):
            return delta
        if objection := self._ballot.objection(shown):
            raise DeltaRefused(objection)
        most = self._most_bytes(delta.task)
        providers = [] if provider is None else [provider]
        # One at a time of each provider: whoever delivers slowly holds up its own alone.
        async with self._lines.setdefault(None if provider is None else provider.peer, asyncio.Lock()):
            for cid in (delta.result, shown.trace[-1]):
                await fetch(self._store, cid, providers, max_bytes=most, within_s=WITHIN_S)
            if start := self._begins_with(delta.task):
                await fetch(self._store, start, providers, max_bytes=self._max_bytes, within_s=WITHIN_S)
            for cid in await asyncio.to_thread(self._carried, delta.task, most):
                await fetch(self._store, cid, providers, max_bytes=most, within_s=WITHIN_S)
        async with self._turns:
            await asyncio.to_thread(self._look, shown, most)
        kept = self._here.setdefault(delta.task, [])
        if delta not in kept:
            del kept[1:]
            self._journal.keep_delta(len(kept), shown)
            kept.append(delta)
        return delta

    async def obtain(self, delta: Delta, node: Address) -> bool:
        """Have a result that a round took from a node; whether it is here. A quorum has looked at it."""
        if not await asyncio.to_thread(lambda: any(self._store.missing(delta.result))):
            return True
        try:
            connection = await self._reach(node)
            most = self._most_bytes(delta.task)
            await fetch(self._store, delta.result, [connection], max_bytes=most, within_s=WITHIN_S)
        except ProofyardError as error:
            logger.info("%s does not deliver the result of task %s: %s", node, delta.task, error)
            return False
        return True

    def _most_bytes(self, task: TaskIndex) -> int:
        return min(self._max_bytes, self._workload.max_bytes(self._ballot.manifest, self._ballot.specs[task]))

    def _begins_with(self, task: TaskIndex) -> Cid | None:
        """The manifest's adapter, where a task's first state is made from that."""
        manifest = self._ballot.manifest
        return manifest.adapter if begins(self._workload, manifest, self._ballot.specs[task]) else None

    def _carried(self, task: TaskIndex, most: int) -> tuple[Cid, ...]:
        """What a task's first state is made from beside the results that it rests on: its worker had it."""
        manifest, spec = self._ballot.manifest, self._ballot.specs[task]
        if not carries(self._workload, manifest):
            return ()
        return carried_by(self._workload, manifest, spec, self._read_all(self._ballot.rests_on[task], most))

    def _read_all(self, cids: Iterable[Cid], most: int) -> tuple[bytes, ...]:
        return tuple(self._store.get_bytes(cid, max_bytes=most) for cid in cids)

    def _look(self, shown: ShownDelta, most: int) -> None:
        manifest, spec = self._ballot.manifest, self._ballot.specs[shown.commitment.task]
        result, last = self._read_all((shown.commitment.result, shown.trace[-1]), most)
        self._workload.check_result(manifest, spec, result, last, shown.trace)
        results = self._read_all(self._ballot.rests_on[spec.index], most)
        carried, start = self._read_all(self._carried(spec.index, most), most), self._begins_with(spec.index)
        adapter = None if start is None else self._store.get_bytes(start, max_bytes=self._max_bytes)
        if cid_of_bytes(first_state(self._workload, manifest, spec, results, carried, adapter)) != shown.trace[0]:
            raise DeltaRefused(f"the first state of task {spec.index} is not what it begins with")
