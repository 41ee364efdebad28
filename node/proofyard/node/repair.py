"""States that a node owes and does not have: which they are, and how to make them again.

A worker owes every state until its batch is final, whatever became of its disk. Some were never kept
(`Retention.keep`), others were deleted or damaged; each follows from an earlier one that is whole, at worst from the
first, which manifest and inputs give. Only what comes out with the committed CID is stored under it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from proofyard.artifacts import ArtifactError, BlockStore, cid_of_bytes
from proofyard.artifacts.dag import all_blocks
from proofyard.node.journal import HeldTask
from proofyard.node.work import Owed
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.mark import mark_cid
from proofyard.protocol.types import Address, Cid
from proofyard.workloads.executor import Executor
from proofyard.workloads.workload import Inputs, load_workload

logger = logging.getLogger("proofyard.node")

MAX_STATE_BYTES = 8 << 30


class Debts:
    """Which state every block belongs to that this node owes: a peer asks for blocks, and a leaf does not say of what.

    Built from the DAG nodes alone; leaves are not read.
    """

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._known: dict[HeldTask, dict[Cid, Owed]] = {}
        self._owed: dict[Cid, Owed] = {}
        self._marks: dict[Cid, HeldTask] = {}

    def follow(self, held: Iterable[HeldTask]) -> None:
        """Know these tasks and no others. Two tasks may owe the same block; it is forgotten with the last of them."""
        known = {task: self._known.get(task) or self._blocks_of(task) for task in held}
        self._marks = {mark_cid(task.submission.commitment.mark): task for task in known}
        self._known, self._owed = known, {cid: owed for blocks in known.values() for cid, owed in blocks.items()}

    def add(self, held: Iterable[HeldTask]) -> None:
        """Know these tasks as well."""
        for task in held:
            if task not in self._known:
                self._known[task] = blocks = self._blocks_of(task)
                self._owed |= blocks
                self._marks[mark_cid(task.submission.commitment.mark)] = task

    def counts(self, verifier: Address) -> tuple[int, int]:
        """Tasks, and decoys, that are owed to a verifier."""
        decoys = [task.decoy for task in self._known if task.verifier == verifier]
        return len(decoys) - sum(decoys), sum(decoys)

    def of(self, block: Cid) -> Owed | None:
        """What has to be made again for a block to be here; None for one that is not owed."""
        return self._owed.get(block)

    def marked(self, block: Cid) -> HeldTask | None:
        """The task whose mark a block opens."""
        return self._marks.get(block)

    def incomplete(self) -> list[Owed]:
        """What should be here and lacks blocks."""
        kept = {owed.cid: owed for owed in self._owed.values() if is_kept(owed)}
        return [owed for owed in kept.values() if not is_here(self._store, owed.cid)]

    def _blocks_of(self, task: HeldTask) -> dict[Cid, Owed]:
        every = [Owed(task, number) for number in range(len(task.submission.trace) + 1)]
        return {block: owed for owed in every for block in _blocks(self._store, owed.cid)}


def is_kept(owed: Owed) -> bool:
    """Whether it was stored when the task was done."""
    return owed.is_result or owed.number % owed.held.every == 0


def is_here(store: BlockStore, cid: Cid) -> bool:
    """Whether every block of an artifact is here, as far as that shows without reading leaves."""
    return not any(store.missing(cid))


def _blocks(store: BlockStore, cid: Cid) -> Iterable[Cid]:
    found = [cid]
    with contextlib.suppress(ArtifactError):  # what is below a block that is not here is known once that is made again
        found += all_blocks(store.get_block, cid)
    return dict.fromkeys(found)


class Workshop:
    """Makes what is owed again, in the node's executor."""

    def __init__(self, store: BlockStore, executor: Executor) -> None:
        self._store = store
        self._executor = executor

    async def make(self, owed: Owed, manifest: Manifest, inputs: Inputs) -> bool:
        """Whether a state, or the result, is whole again. Everything kept that was passed on the way is whole too. What
        is false on purpose does not come out of executing; it is nobody's fault where it is lost."""
        if owed.held.decoy:
            return False
        last = len(owed.held.submission.trace) - 1
        if not owed.is_result:
            return await self._make_state(owed, owed.number, manifest, inputs)
        for number in range(last + 1):
            if not await self._make_state(owed, number, manifest, inputs):
                return False
        read = partial(self._read, owed)
        workload, task = load_workload(manifest.workload), owed.held.offer.task
        result = await asyncio.to_thread(workload.result, manifest, task, read)
        return await self._store_as(owed, result)

    async def _make_state(self, owed: Owed, number: int, manifest: Manifest, inputs: Inputs) -> bool:
        task, trace = owed.held.offer.task, owed.held.submission.trace
        base = await asyncio.to_thread(self._last_whole, trace[: number + 1])
        if base is None:
            first = load_workload(manifest.workload).initial_state
            state, base = await asyncio.to_thread(first, manifest, task, inputs), 0
            if not await self._store_as(Owed(owed.held, 0), state):
                return False
        elif base == number:
            return True
        else:
            state = await asyncio.to_thread(self._read, owed, base)
        for at in range(base, number):
            state = await self._executor.run_segment(manifest, task, at, state, inputs)
            here = Owed(owed.held, at + 1)
            if (at + 1 == number or is_kept(here)) and not await self._store_as(here, state):
                return False
        return True

    async def _store_as(self, owed: Owed, data: bytes) -> bool:
        found = await asyncio.to_thread(cid_of_bytes, data)
        if found == owed.cid:
            await asyncio.to_thread(self._store.put_bytes, data)
            return True
        logger.error(
            "what is owed as %s of job %s task %s comes out as %s: has this machine's software changed?",
            owed.cid,
            owed.held.offer.job,
            owed.held.offer.task.index,
            found,
        )
        return False

    def _last_whole(self, trace: Sequence[Cid]) -> int | None:
        """The number of the last state that can be read; None where not even the first can."""
        return next((number for number in reversed(range(len(trace))) if self._whole(trace[number])), None)

    def _whole(self, cid: Cid) -> bool:
        """Whether an artifact can be read, each of its blocks checked; a damaged one is deleted on the way."""
        try:
            for block in all_blocks(self._store.get_block, cid):
                self._store.get_block(block)
        except ArtifactError:
            return False
        return True

    def _read(self, owed: Owed, number: int) -> bytes:
        return self._store.get_bytes(owed.held.submission.trace[number], max_bytes=MAX_STATE_BYTES)


def check_all(store: BlockStore, cids: Iterable[Cid], pause: Callable[[], None]) -> int:
    """Read every block of these artifacts, so that damaged ones are deleted and show as missing; how many were damaged.
    `pause` is called after each block, to leave the disk to others."""
    damaged = 0
    for cid in cids:
        for block in _blocks(store, cid):
            if store.has(block):
                try:
                    store.get_block(block)
                except ArtifactError:
                    damaged += 1
            pause()
    return damaged
