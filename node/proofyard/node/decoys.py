"""Decoys: commitments that are false on purpose, made beside true ones when a verifier orders them; and marks.

A decoy catches auditors that answer what they are handed. It costs its worker some disk and a batch of waiting, and
nothing else: the batch's record opens its mark, whether it is audited or not. What opens a mark is a secret until then,
and told to others only once somebody leads the batch to whom it was not given (`proofyard.protocol.mark`).
"""

import asyncio
import logging
import secrets
import time
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
from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.workloads.errors import WorkloadError
from proofyard.workloads.executor import TaskTrace
from proofyard.workloads.falsify import falsified, still_ones
from proofyard.workloads.workload import load_workload

logger = logging.getLogger("proofyard.node")

MAX_STATE_BYTES = 8 << 30
BPS = 10_000
LOOK_AGAIN_S = 5.0
"""How often the chain is asked who leads a batch, for the same mark."""


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
        self._looked: dict[Cid, float] = {}

    def _is_wanted(self, verifier: Address, offer: TaskOffer) -> bool:
        """Whether a decoy is made beside a task: one is ordered, and not more of a verifier's tasks have one than the
        operator allows. One more is always made, so that a short acquaintance has any."""
        held = [task for task in self._journal.held() if task.verifier == verifier]
        decoys = sum(task.decoy for task in held)
        return offer.decoy and decoys * BPS <= (len(held) - decoys) * self._settings.max_decoys_bps

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
        still = still_ones(trace.states[0].read_bytes(), trace.states[-1].read_bytes())
        false = [self._store.put_file(trace.states[0])]
        for number, path in enumerate(trace.states[1:], 1):
            check = partial(workload.check_state, manifest, offer.task, number)
            false.append(self._store.put_bytes(falsified(path.read_bytes(), random, check, still=still)))
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
        cid, now = mark_cid(held.submission.commitment.mark), time.monotonic()
        if now < self._looked.get(cid, 0.0) + LOOK_AGAIN_S or await asyncio.to_thread(self._store.has, cid):
            return
        self._looked[cid] = now
        try:
            if await self._is_told(held):
                opening = opening_of(held.submission.salt, decoy=held.decoy)
                await asyncio.to_thread(self._store.put_bytes, opening)
        except ProofyardError as error:
            logger.info("whether a mark is a secret cannot be told: %s", error)

    async def _is_told(self, held: HeldTask) -> bool:
        commitment = held.submission.commitment
        for event in await asyncio.to_thread(self._chain.committed, commitment.job):
            batch = await asyncio.to_thread(self._chain.batch, event.batch)
            if batch.attempt and commitment.trace_root in await self._retention.committed_roots(event, held.verifier):
                return True
        return False
