"""Being called absent: a node that a settled record leaves out executes the segment, and challenges it if it is wrong.

A quorum could call every honest auditor absent and have its own agree; such a record validates. Whoever was left out is
the one to know, and is paid for a challenge that holds.
"""

import asyncio
import logging

from proofyard.chain import BatchSettled, ChainClient, Court
from proofyard.chain.events import topic_of
from proofyard.disputes.committed import load_committed
from proofyard.disputes.network import Network
from proofyard.disputes.replaying import Replayer, SegmentExecutor
from proofyard.node.duties import Duties
from proofyard.node.news import Lookout, News
from proofyard.node.purse import OverBudget, Purse
from proofyard.protocol.audit import Verdict
from proofyard.protocol.record import AuditedSegment, decode_record
from proofyard.protocol.types import Address, BatchId, ProofyardError
from proofyard.workloads.workload import is_exact, workload_of

logger = logging.getLogger("proofyard.node")

LOOK_EVERY_S = 15.0
PATIENCE_S = 20.0
MAX_RECORD_BYTES = 8 << 20
"""Larger records are looked at by whoever has the line for it."""


class Absence:
    """Looks through the records of what is settled for the hot key `key`."""

    def __init__(
        self,
        chain: ChainClient,
        network: Network,
        executor: SegmentExecutor,
        duties: Duties,
        purse: Purse,
        key: Address,
        news: News | None = None,
    ) -> None:
        self._chain = chain
        self._court = Court(chain)
        self._network = network
        self._executor = executor
        self._duties = duties
        self._purse = purse
        self._key = key
        self._lookout = Lookout(news or News(), [BatchSettled], lambda: LOOK_EVERY_S)
        self._done: set[tuple[BatchId, int]] = set()

    async def consider(self, now: int) -> None:
        """Look at what was settled until chain time `now`."""
        if self._lookout.begins():
            self._duties.begin(("records", "that may call this node absent"), lambda: self._look(now))

    def next_at(self) -> float:
        """When it has to consider something if nothing happens, in the event loop's time."""
        return self._lookout.next_at()

    async def _look(self, now: int) -> None:
        events = await asyncio.to_thread(self._chain.recent_events, [topic_of(BatchSettled)])
        for event in events:
            if not isinstance(event, BatchSettled) or (event.batch, event.attempt) in self._done:
                continue
            self._done.add((event.batch, event.attempt))
            if now < event.claimable_at:
                try:
                    await self._look_at(event)
                except ProofyardError as error:
                    logger.info("whether batch %s calls this node absent cannot be told: %s", event.batch, error)
        self._lookout.ended()

    async def _look_at(self, event: BatchSettled) -> None:
        record = decode_record(await self._network.read(event.record, MAX_RECORD_BYTES))
        for audit in record.audits:
            if self._key in audit.absent and audit.verdict == Verdict.VALID:
                await self._check(event, audit, record.salt_of(audit.task_key))

    async def _check(self, event: BatchSettled, audit: AuditedSegment, salt: bytes) -> None:
        """Execute a segment that was found right without this node, and challenge it where it is not."""
        job, task, segment = audit.key
        name = f"segment {segment} of task {task} of job {job} in batch {event.batch}"
        batch = await load_committed(self._chain, self._network.read, event.batch, event.record)
        if not is_exact(workload_of(batch.manifests[job]), batch.manifests[job]):
            return
        replayer = Replayer(batch, self._chain, self._network, self._executor, patience_s=PATIENCE_S)
        found = await replayer.segment(job, task, segment)
        if found.holds is not False:
            logger.info("this node is called absent from %s, which is: %s", name, found)
            return
        try:
            await asyncio.to_thread(self._purse.afford, self._chain.params().court.bond, keep_backing=True)
        except OverBudget as error:
            logger.warning("%s, from which this node is called absent, is wrong (%s), but %s", name, found, error)
            return
        step = batch.step(job, task, segment, salt)
        challenge = await asyncio.to_thread(self._court.challenge_segment, event.batch, step)
        logger.warning("%s, from which this node is called absent, is wrong: %s; challenge %s", name, found, challenge)
