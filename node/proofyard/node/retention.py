"""What a node keeps, and for how long.

A worker owes its states until the challenge window of their batch has closed. Where the disk budget does not allow
all of them, every n-th is kept and the others are computed again when somebody asks. Everything else in the store is
a cache: what no open task or audit needs goes, oldest first, once there is more of it than the cache may hold.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proofyard.artifacts import BlockStore, Keeper, cid_of_bytes, fetch
from proofyard.artifacts.keeper import GRACE_SECONDS
from proofyard.chain import BatchSettled, ChainClient
from proofyard.node.journal import HeldTask, Journal
from proofyard.node.links import VerifierLinks
from proofyard.node.settings import NodeSettings
from proofyard.protocol.cid import DAG_PB, RAW, make_cid
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, decode_manifest
from proofyard.protocol.messages import TaskOffer
from proofyard.protocol.record import MAX_RECORD_BYTES, decode_record
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, ProofyardError
from proofyard.workloads.executor import Executor, TaskTrace
from proofyard.workloads.state_store import states_to_keep

logger = logging.getLogger("proofyard.node")

PASS_S = 300.0
LEASE_S = 3600.0
"""Each pass renews the leases of what is needed, well before they end."""
ABANDONED_S = 24 * 3600.0
"""A task that was handed back leaves states with which it could be resumed, but not for ever."""


class NodeStore(BlockStore):
    """A node's blocks. `on_miss` hears, from any thread, of every block that is asked for and not here."""

    def __init__(self, path: Path) -> None:
        self.on_miss: Callable[[Cid], object] = lambda _: None
        super().__init__(path)

    def has(self, cid: Cid) -> bool:
        found = super().has(cid)
        if not found:
            self.on_miss(cid)
        return found

    def block_size(self, cid: Cid) -> int | None:
        size = super().block_size(cid)
        if size is None:
            self.on_miss(cid)
        return size


@dataclass(frozen=True)
class Thinned:
    """State `number` of a held task, which was not kept; it follows from state `kept`, which was."""

    held: HeldTask
    number: int

    @property
    def kept(self) -> int:
        return self.number - self.number % self.held.every

    @property
    def cid(self) -> Cid:
        return self.held.submission.trace[self.number]


class Retention:
    """Keeps states within the budget and lets go of everything that nobody can ask for any more."""

    def __init__(
        self,
        settings: NodeSettings,
        chain: ChainClient,
        links: VerifierLinks,
        store: NodeStore,
        executor: Executor,
        journal: Journal,
    ) -> None:
        self._settings = settings
        self._chain = chain
        self._links = links
        self._store = store
        self._keeper = Keeper(store)
        self._executor = executor
        self._journal = journal
        self._final: dict[BatchId, frozenset[Digest]] = {}
        self._thinned: dict[Cid, Thinned] = {}
        self.note_held()

    def keep(self, trace: TaskTrace) -> tuple[tuple[Cid, ...], int]:
        """Store a finished task's states; returns all their names and the n of "every n-th was kept".

        Raises `OutOfDisk` where the budget has no room for even one.
        """
        size = max(path.stat().st_size for path in trace.states)
        left = self._settings.state_budget_bytes - self._journal.kept_bytes()
        kept = states_to_keep(len(trace.states) - 1, size, left)
        states = tuple(
            self._store.put_file(path) if number in kept else cid_of_bytes(path.read_bytes())
            for number, path in enumerate(trace.states)
        )
        return states, kept.step

    def restorer(self, restore: Callable[[Thinned], object]) -> None:
        """Have `restore` called, in this event loop, for every state that a peer asks for and that was not kept."""
        loop = asyncio.get_running_loop()

        def on_miss(cid: Cid) -> None:
            thinned = self._thinned.get(cid)
            if thinned is not None:
                loop.call_soon_threadsafe(restore, thinned)

        self._store.on_miss = on_miss

    async def run(self) -> None:
        """Look after the store until cancelled."""
        while True:
            try:
                await self.tidy()
            except ProofyardError as error:
                logger.warning("the store could not be tidied: %s", error)
            await asyncio.sleep(PASS_S)

    async def tidy(self, *, grace_s: float = GRACE_SECONDS) -> None:
        """One pass: release what is final, renew the leases of what is not, delete what is in nobody's way."""
        held = self._journal.held()
        for job in {task.submission.commitment.job for task in held}:
            await self._release(job, [task for task in held if task.submission.commitment.job == job])
        for batch in self._journal.sealed_batches():
            if (await asyncio.to_thread(self._chain.batch, batch)).settled_at:
                self._journal.forget_seals(batch)
        self.note_held()
        await asyncio.to_thread(self._collect, time.time(), grace_s)

    def note_held(self) -> None:
        """Learn from the journal which states may be asked for and were not kept."""
        self._thinned = {
            thinned.cid: thinned
            for held in self._journal.held()
            for number in range(len(held.submission.trace))
            if (thinned := Thinned(held, number)).kept != number
        }

    async def _release(self, job: JobId, tasks: list[HeldTask]) -> None:
        """Let go of those of a job's tasks whose batch is final, and of all when nothing of the job is open."""
        now, record, params = await asyncio.to_thread(
            lambda: (self._chain.now(), self._chain.job(job), self._chain.params())
        )
        latest = {event.batch: event for event in await asyncio.to_thread(self._chain.settled, job)}
        roots: set[Digest] = set()
        final = True
        for event in latest.values():
            batch = await asyncio.to_thread(self._chain.batch, event.batch)
            if batch.settled_at and batch.claimable_at <= now and not batch.open_challenges:
                roots |= await self._committed(event, tasks[0].verifier)
            else:
                final = False
        expired = now > record.deadline + params.settle_grace
        over = final and ((record.closed and record.open_tasks == 0) or expired)
        for task in tasks:
            if over or task.submission.commitment.trace_root in roots:
                logger.info("job %s task %s is final; its states are let go", job, task.submission.commitment.task)
                self._journal.release(task)

    async def _committed(self, event: BatchSettled, verifier: Address) -> frozenset[Digest]:
        """The trace roots in a final batch, from its record; none where that cannot be had now."""
        if event.batch not in self._final:
            connection = self._links.connection(verifier)
            try:
                await fetch(self._store, event.record, [connection] if connection else [], max_bytes=MAX_RECORD_BYTES)
                data = await asyncio.to_thread(self._store.get_bytes, event.record, max_bytes=MAX_RECORD_BYTES)
                tasks = decode_record(data).tasks
            except ProofyardError as error:
                logger.info("the record of batch %s cannot be had: %s", event.batch, error)
                return frozenset()
            self._final[event.batch] = frozenset(task.commitment.trace_root for task in tasks)
        return self._final[event.batch]

    def _collect(self, now: float, grace_s: float) -> None:
        needed = self._needed()
        for cid in needed:
            self._keeper.pin(cid, until=now + LEASE_S)
        inputs = self._settings.data_dir / "inputs"
        for folder in inputs.iterdir() if inputs.is_dir() else ():
            # A jury may be using one that no task needs; nothing tells but its age.
            if folder.name not in needed and folder.stat().st_mtime < now - grace_s:
                self._store.unlink(Cid(folder.name))
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        self._executor.sweep(now - ABANDONED_S)
        found = self._keeper.collect(now, quota_bytes=self._settings.cache_bytes, grace_s=grace_s)
        if found.blocks:
            logger.info("%s bytes of cache deleted, %s are left", found.bytes, found.bytes_left)

    def _needed(self) -> set[Cid]:
        """What open tasks, held ones and open audits rest on."""
        needed: set[Cid] = set()
        for offer in self._journal.open_offers():
            needed |= {offer.manifest, *(offer.inputs if isinstance(offer, TaskOffer) else ())}
            if self._store.has(offer.manifest):
                manifest = decode_manifest(self._store.get_bytes(offer.manifest, max_bytes=MAX_MANIFEST_BYTES))
                needed |= {cid for cid in (manifest.model, manifest.data) if cid is not None}
        for held in self._journal.held():
            needed |= {held.submission.commitment.result, *held.submission.trace[:: held.every]}
        # States behind answers are here only where a workload compares by more than digests (`Agent`).
        states = {make_cid(answer, codec) for answer in self._journal.answers() for codec in (RAW, DAG_PB)}
        return needed | {cid for cid in states if self._store.has(cid)}
