"""What a node keeps, and for how long.

A worker owes its states until the challenge window of their batch has closed. Where the disk budget does not allow
all of them, every n-th is kept and the others are computed again when somebody asks. Everything else in the store is
a cache: what no open task or audit needs goes, oldest first, once there is more of it than the cache may hold.
"""

import asyncio
import logging
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from proofyard.artifacts import BlockStore, Keeper, cid_of_bytes, fetch
from proofyard.artifacts.keeper import GRACE_SECONDS
from proofyard.chain import BatchCommitted, BatchState, ChainClient
from proofyard.disputes.committed import load_members
from proofyard.node.journal import HeldTask, Journal
from proofyard.node.links import VerifierLinks
from proofyard.node.receipts import KEPT_S, write_receipt
from proofyard.node.repair import Debts, check_all
from proofyard.node.settings import NodeSettings
from proofyard.node.work import Owed
from proofyard.protocol.cid import DAG_PB, RAW, cid_codec, make_cid
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, decode_manifest
from proofyard.protocol.messages import TaskOffer
from proofyard.protocol.settlement import Header
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, ProofyardError
from proofyard.workloads.executor import Executor, TaskTrace
from proofyard.workloads.state_store import states_to_keep

logger = logging.getLogger("proofyard.node")

PASS_S = 300.0
LEASE_S = 3600.0
"""Each pass renews the leases of what is needed, well before they end."""
ABANDONED_S = 24 * 3600.0
"""A task that was handed back leaves states with which it could be resumed, but not for ever."""
CHECK_EVERY_S = 6 * 3600.0
"""Between two looks at every block that is owed, for damage that nobody has asked for yet."""
CHECK_PAUSE_S = 0.005
SEALS_KEPT_S = 6 * 3600
RECEIPTS_SHOWN_S = 24 * 3600
EMPTY: Mapping[Path, Cid] = MappingProxyType({})
LISTS = 256


class Kept(NamedTuple):
    """What a finished task left in the store: the names of all its states and of its result. Every `every`-th state is
    there; none has more than `state_bytes`."""

    states: tuple[Cid, ...]
    result: Cid
    every: int
    state_bytes: int


class Retention:
    """Keeps states within the budget and lets go of everything that nobody can ask for any more."""

    def __init__(
        self,
        settings: NodeSettings,
        chain: ChainClient,
        links: VerifierLinks,
        store: BlockStore,
        executor: Executor,
        journal: Journal,
    ) -> None:
        self.debts = Debts(store)
        self._settings = settings
        self._chain = chain
        self._links = links
        self._store = store
        self._keeper = Keeper(store)
        self._executor = executor
        self._journal = journal
        self._roots: OrderedDict[BatchId, frozenset[Digest]] = OrderedDict()
        self._checked = 0.0
        self._arriving: set[Cid] = set()
        """States of tasks that run."""
        self.note_held()

    def room(self) -> int:
        """Bytes of states that the budget has room for."""
        return self._settings.state_budget_bytes - self._journal.kept_bytes()

    def receive(self, path: Path) -> Cid:
        """Store a state of a task that runs, on the disk itself; it is needed until `arrived` is told of it."""
        cid = self._store.put_file(path)
        self._arriving.add(cid)
        self._store.sync(cid)
        return cid

    def arrived(self, cids: Iterable[Cid]) -> None:
        """The task of these states is committed to, or nothing will come of it."""
        self._arriving.difference_update(cids)

    def keep(self, trace: TaskTrace, stored: Mapping[Path, Cid] = EMPTY) -> Kept:
        """Store a finished task's result, and its states but for those of `stored`. Raises `OutOfDisk` where the budget
        has no room for even one."""
        size = max(path.stat().st_size for path in trace.states)
        kept = states_to_keep(len(trace.states) - 1, size, self.room())
        fresh = [path for number, path in enumerate(trace.states) if number in kept and path not in stored]
        *new, result = self._store.put_files([*fresh, trace.result])
        known = {**stored, **dict(zip(fresh, new, strict=True))}
        states = tuple(known.get(path) or cid_of_bytes(path.read_bytes()) for path in trace.states)
        return Kept(states, result, kept.step, size)

    async def run(self, mend: Callable[[Owed], object]) -> None:
        """Look after the store until cancelled; `mend` is told of everything that should be here and is not."""
        while True:
            try:
                await self.tidy()
                await self.inspect(mend)
            except ProofyardError as error:
                logger.warning("the store could not be tidied: %s", error)
            except Exception:
                logger.exception("the store could not be tidied")
            await asyncio.sleep(PASS_S)

    async def inspect(self, mend: Callable[[Owed], object]) -> None:
        """Find what is owed and damaged or gone, before anybody asks for it."""
        if time.time() - self._checked >= CHECK_EVERY_S:
            self._checked = time.time()
            kept = [cid for held in self._journal.held() for cid in held.kept]
            damaged = await asyncio.to_thread(check_all, self._store, kept, lambda: time.sleep(CHECK_PAUSE_S))
            if damaged:
                logger.warning("%s blocks that are owed were damaged on disk; they are made again", damaged)
        for owed in await asyncio.to_thread(self.debts.incomplete):
            logger.warning("state %s of job %s is not whole; it is made again", owed.number, owed.held.offer.job)
            mend(owed)

    async def tidy(self, *, grace_s: float = GRACE_SECONDS) -> None:
        """One pass: release what is final, renew the leases of what is not, delete what is in nobody's way."""
        held = [task for task in self._journal.held() if not task.decoy]
        for job in {task.submission.commitment.job for task in held}:
            await self._release(job, [task for task in held if task.submission.commitment.job == job])
        for batch in self._journal.sealed_batches():
            state = await asyncio.to_thread(self._chain.batch, batch)
            # Some hours longer, because pay is claimed from what is known of audits.
            if state.dropped or _is_final(state, await asyncio.to_thread(self._chain.now) - SEALS_KEPT_S):
                self._journal.forget_seals(batch)
        await asyncio.to_thread(self.note_held)
        await asyncio.to_thread(lambda: self._look_at_receipts(self._chain.now()))
        await asyncio.to_thread(self._collect, time.time(), grace_s)

    def _look_at_receipts(self, now: int) -> None:
        """Forget those of long ago, `now` by the chain's clock. Where nothing here looks whether they were honoured,
        write those that fell due into files."""
        if not self._settings.defend:
            for receipt in self._journal.receipts(now - RECEIPTS_SHOWN_S, now):
                write_receipt(self._settings.data_dir / "receipts", receipt)
        if self._journal.receipts(0, now - KEPT_S):
            self._journal.forget_receipts(now - KEPT_S)

    def note_held(self) -> None:
        """Learn from the journal which states may be asked for, and of which tasks none may be any more."""
        self.debts.follow(self._journal.held())

    async def note_finished(self, verifier: Address, offer: TaskOffer) -> None:
        """From now on the states of this task may be asked for."""
        held = self._journal.held_of(verifier, offer)
        if all(cid_codec(cid) == RAW for task in held for cid in task.kept):
            self.debts.add(held)  # nothing is read for it
        else:
            await asyncio.to_thread(self.debts.add, held)

    async def _release(self, job: JobId, tasks: list[HeldTask]) -> None:
        """Let go of those of a job's tasks whose batch is final, and of all when nothing of the job is open."""
        now, record, params = await asyncio.to_thread(
            lambda: (self._chain.now(), self._chain.job(job), self._chain.params())
        )
        roots: set[Digest] = set()
        final = True
        for event in await asyncio.to_thread(self._chain.committed, job):
            batch = await asyncio.to_thread(self._chain.batch, event.batch)
            if _is_final(batch, now):
                roots |= await self.committed_roots(event, tasks[0].verifier)
            elif not batch.dropped:
                final = False
        over = now > record.commits_end(params.receipt_time) or record.units_paid >= record.units
        for task in tasks:
            if (final and over) or task.submission.commitment.trace_root in roots:
                logger.info("job %s task %s is final; its states are let go", job, task.submission.commitment.task)
                self._journal.release(task)

    async def committed_roots(self, event: BatchCommitted, verifier: Address) -> frozenset[Digest]:
        """The trace roots in a batch, from its member list, which every seat has; `verifier` is asked first. None where
        it cannot be had now."""
        if event.batch not in self._roots:
            header = Header(event.root, event.size, event.members, event.lines)
            first = self._links.connection(verifier)
            peers = [*([first] if first else []), *(peer for peer in self._links.live() if peer is not first)]

            async def read(cid: Cid, max_bytes: int) -> bytes:
                await fetch(self._store, cid, peers, max_bytes=max_bytes)
                return await asyncio.to_thread(self._store.get_bytes, cid, max_bytes=max_bytes)

            try:
                members = await load_members(read, event.batch, header)
            except ProofyardError as error:
                logger.info("the member list of batch %s cannot be had: %s", event.batch, error)
                return frozenset()
            self._roots[event.batch] = frozenset(member.commitment.trace_root for member in members)
            while len(self._roots) > LISTS:
                self._roots.popitem(last=False)
        return self._roots[event.batch]

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
        needed: set[Cid] = set(self._arriving)
        for offer in self._journal.open_offers():
            needed |= {offer.manifest, *(offer.inputs if isinstance(offer, TaskOffer) else ())}
            if self._store.has(offer.manifest):
                manifest = decode_manifest(self._store.get_bytes(offer.manifest, max_bytes=MAX_MANIFEST_BYTES))
                needed |= {*manifest.inputs}
        for held in self._journal.held():
            needed |= set(held.kept)
        # States behind answers are here only where a workload compares by more than digests (`Agent`).
        states = {make_cid(answer, codec) for answer in self._journal.answers() for codec in (RAW, DAG_PB)}
        return needed | {cid for cid in states if self._store.has(cid)}


def _is_final(batch: BatchState, now: int) -> bool:
    settled = bool(batch.settled_at) and not batch.voided
    return settled and batch.claimable_at <= now and not batch.open_challenges
