"""Decoys: commitments that are false on purpose, made beside true ones when a verifier orders them; and marks.

A decoy catches auditors that answer what they are handed. It costs its worker some disk and a batch of waiting, and
nothing else: the batch's record opens its mark, whether it is audited or not. What opens a mark is a secret until then,
and told to others only once somebody leads the batch to whom it was not given (`proofyard.protocol.mark`).
"""

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from random import Random

from proofyard.artifacts import BlockStore
from proofyard.chain import ChainClient
from proofyard.node.journal import HeldTask, Journal
from proofyard.node.retention import Retention
from proofyard.node.settings import NodeSettings
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.mark import mark_cid, opening_of
from proofyard.protocol.messages import TaskOffer
from proofyard.protocol.types import Address, Cid, Digest, JobId, ProofyardError
from proofyard.workloads.errors import WorkloadError
from proofyard.workloads.executor import TaskTrace
from proofyard.workloads.falsify import falsified, still_ones
from proofyard.workloads.state import MAX_STATE_BYTES
from proofyard.workloads.workload import load_workload

logger = logging.getLogger("proofyard.node")

BPS = 10_000
LOOK_AGAIN_S = 5.0
"""How often the chain is asked who leads a job's batches, whoever asks for its marks."""
JOBS = 256
"""Jobs of which that is kept."""


class Decoys:
    """Makes decoys, and opens marks to whom they are owed."""

    def __init__(
        self, settings: NodeSettings, chain: ChainClient, store: BlockStore, journal: Journal, retention: Retention
    ) -> None:
        self._settings = settings
        self._chain = chain
        self._store = store
        self._journal = journal
        self._retention = retention
        self._told: OrderedDict[JobId, tuple[float, frozenset[Digest]]] = OrderedDict()
        self._looking = asyncio.Lock()

    def _is_wanted(self, verifier: Address, offer: TaskOffer) -> bool:
        """Whether a decoy is made beside a task: one is ordered, and not more of a verifier's tasks have one than the
        operator allows. One more is always made, so that a short acquaintance has any."""
        if not offer.decoy:
            return False
        tasks, decoys = self._retention.debts.counts(verifier)
        return decoys * BPS <= tasks * self._settings.max_decoys_bps

    async def make(
        self, verifier: Address, manifest: Manifest, offer: TaskOffer, trace: TaskTrace, states: Sequence[Cid]
    ) -> tuple[tuple[Cid, ...], Cid] | None:
        """The states and the result of a decoy of a task with these states, all of them in the store; None where none
        is wanted, where there is no room, or where no false states keep the laws of the workload."""
        if not self._is_wanted(verifier, offer):
            return None
        size = sum(path.stat().st_size for path in trace.states)
        if size > self._settings.state_budget_bytes - self._journal.kept_bytes():
            logger.info("job %s task %s: no room for a decoy of %s bytes", offer.job, offer.task.index, size)
            return None
        try:
            return await asyncio.to_thread(self._falsify, manifest, offer, trace, states)
        except WorkloadError as error:
            logger.info("job %s task %s: no decoy is made: %s", offer.job, offer.task.index, error)
            return None

    def _falsify(
        self, manifest: Manifest, offer: TaskOffer, trace: TaskTrace, states: Sequence[Cid]
    ) -> tuple[tuple[Cid, ...], Cid]:
        workload, random = load_workload(manifest.workload), Random(secrets.randbits(256))
        first = trace.states[0].read_bytes()
        false = [self._store.put_file(trace.states[0])]
        for number, path in enumerate(trace.states[1:], 1):
            state, check = path.read_bytes(), partial(workload.check_state, manifest, offer.task, number)
            false.append(self._store.put_bytes(falsified(state, random, check, still=still_ones(first, state))))
        if not set(false[1:]).isdisjoint(states):
            raise WorkloadError("a false state is one of the true ones")
        result = workload.result(manifest, offer.task, lambda number: self._read(false[number]))
        workload.check_result(manifest, offer.task, result, self._read(false[-1]), false)
        return tuple(false), self._store.put_bytes(result)

    def _read(self, cid: Cid) -> bytes:
        return self._store.get_bytes(cid, max_bytes=MAX_STATE_BYTES)

    async def open_mark(self, held: HeldTask) -> None:
        """Have what opens a mark in the store, if it is no secret any more: its batch has seen another attempt than the
        first, whose leader was given it."""
        commitment = held.submission.commitment
        if await asyncio.to_thread(self._store.has, mark_cid(commitment.mark)):
            return
        try:
            async with self._looking:
                told = await self._told_roots(commitment.job, held.verifier)
            if commitment.trace_root in told:
                opening = opening_of(held.submission.salt, decoy=held.decoy)
                await asyncio.to_thread(self._store.put_bytes, opening)
        except ProofyardError as error:
            logger.info("whether a mark is a secret cannot be told: %s", error)

    async def _told_roots(self, job: JobId, verifier: Address) -> frozenset[Digest]:
        """The trace roots in a job's batches whose marks are no secret, as they were at most `LOOK_AGAIN_S` ago."""
        at, known = self._told.get(job, (float("-inf"), frozenset()))
        if time.monotonic() < at + LOOK_AGAIN_S:
            return known
        roots: set[Digest] = set()
        for event in await asyncio.to_thread(self._chain.committed, job):
            if (await asyncio.to_thread(self._chain.batch, event.batch)).attempt:
                roots |= await self._retention.committed_roots(event, verifier)
        self._told[job] = time.monotonic(), frozenset(roots)
        self._told.move_to_end(job)
        while len(self._told) > JOBS:
            self._told.popitem(last=False)
        return self._told[job][1]
