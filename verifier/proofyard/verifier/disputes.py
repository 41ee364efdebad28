"""A verifier's part in disputes: hands on its workers' states to whoever replays a batch, and answers for receipts."""

import asyncio
import logging
from functools import lru_cache, partial
from itertools import islice

from sqlalchemy import and_

from proofyard.artifacts import ArtifactError, BlockMissing
from proofyard.chain import ChallengeId, ChallengeRecord, Court, Kind, Phase, Refused
from proofyard.protocol import merkle
from proofyard.protocol.codec import CodecError
from proofyard.protocol.mark import mark_cid
from proofyard.protocol.members import Member
from proofyard.protocol.messages import Ack, ObtainState
from proofyard.protocol.record import MAX_RECORD_BYTES, BatchRecord, decode_record
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, ProofyardError
from proofyard.runtime.recent import Recent
from proofyard.transport import Body, Connection
from proofyard.verifier.context import Context
from proofyard.verifier.delivery import MAX_STATE_BYTES
from proofyard.verifier.engine.rows import Batch, BatchState, Row
from proofyard.verifier.limits import Limiter
from proofyard.verifier.membership import members_of
from proofyard.verifier.store.tables import TABLES

logger = logging.getLogger(__name__)

RECORDS = 4
"""Decoded records that are kept: a jury asks for several states of one batch."""
NO_RECORDS = 1024
"""Artifacts that turned out to be no record: anybody may name one of a quarter of a gigabyte, again and again."""
POLL_S = 5.0
AFTER_ERROR_S = 30.0
SCANNED = 200
"""Challenges before the newest that a starting verifier looks at."""
STATES_PER_S, STATES_BURST = 50.0, 500
COMMITMENTS = 4
"""Of one task, at most, whose states are fetched for one request: it may have been done again."""


class StateDesk:
    """Serves `ObtainState`: jurors and challengers cannot dial a worker at home, its verifiers can reach it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._limiter = Limiter("states", per_s=STATES_PER_S, burst=STATES_BURST)
        self._record = lru_cache(RECORDS)(self._read_record)
        self._no_records: Recent[Cid, str] = Recent(NO_RECORDS)
        self._looking = asyncio.Lock()
        context.endpoint.on(ObtainState, self.obtain)

    async def obtain(self, connection: Connection, message: ObtainState, _body: Body) -> Ack:
        """Fetch a state that some record in this verifier's store names, so that it can be had from here."""
        self._limiter.take(connection.peer)
        reason = ""
        try:
            async with self._looking:
                states = await asyncio.to_thread(self._find, message)
            for holder, cid in states:
                await self._context.have(cid, holder, max_bytes=MAX_STATE_BYTES)
        except ProofyardError as error:
            logger.info("%s asks for state %s of task %s: %s", connection.peer, message.number, message.task, error)
            reason = str(error)[:500]
        return Ack(not reason, reason)

    def _find(self, message: ObtainState) -> list[tuple[Address, Cid]]:
        """The worker and the CID of a state, by the record; where that is not here, by the batches of this verifier
        that hold the task. Raises `ArtifactError` where neither has it."""
        try:
            task = self._record(message.record).by_key.get((message.job, message.task))
            found = [] if task is None else [task]
        except ArtifactError:
            found = self._committed(message)
            if not found:
                raise
        named = [(t.commitment.node, (*t.trace, mark_cid(t.commitment.mark))) for t in found]
        states = [(node, cids[message.number]) for node, cids in named if 0 <= message.number < len(cids)]
        if not states:
            what = f"task {message.task} of job {message.job} with a state {message.number}"
            raise ArtifactError(f"the record {message.record} has no {what}")
        return states

    def _committed(self, message: ObtainState) -> list[Member]:
        table = TABLES[Batch]
        live = table.c.state.not_in([BatchState.FINAL.value, BatchState.DROPPED.value])
        batches = [batch for batch in self._context.database.rows(Batch, live) if _has_line(batch, message.job)]
        members = (member for batch in batches if isinstance(batch, Batch) for member in members_of(batch))
        wanted = (member for member in members if member.key == (message.job, message.task))
        return list(islice(wanted, COMMITMENTS))

    def _read_record(self, cid: Cid) -> BatchRecord:
        why_not = self._no_records.get(cid)
        if why_not is None:
            try:
                return decode_record(self._context.store.get_bytes(cid, max_bytes=MAX_RECORD_BYTES))
            except BlockMissing:
                raise
            except (ArtifactError, CodecError) as error:
                why_not = self._no_records.put(cid, f"{cid} is no record: {str(error)[:200]}")
        raise ArtifactError(why_not)


async def answer_receipts(context: Context) -> None:
    """Show the batch that honours a receipt whenever one of this verifier's is challenged: silence costs stake."""
    seen, again = 0, dict[int, None]()
    while True:
        try:
            count = await context.on_chain(context.chain.challenge_count)
            for number in [*again, *range(max(seen + 1, count - SCANNED, 1), count + 1)]:
                seen = max(seen, number)
                again[number] = None
                if await _look_at(context, ChallengeId(number)):
                    del again[number]
            while len(again) > SCANNED:
                del again[next(iter(again))]
        except ProofyardError as error:
            logger.warning("challenges cannot be followed: %s; trying again", error)
        except Exception:
            logger.exception("challenges cannot be followed; trying again")
            await asyncio.sleep(AFTER_ERROR_S)
        await asyncio.sleep(POLL_S)


async def _look_at(context: Context, number: ChallengeId) -> bool:
    """Whether a challenge needs no other look. One that cannot be answered now holds up no other."""
    try:
        await answer_receipt(context, await context.on_chain(partial(context.chain.challenge, number)))
    except ProofyardError as error:
        logger.warning("challenge %s: %s; trying again", number, error)
        return False
    except Exception:
        logger.exception("challenge %s cannot be answered; trying again", number)
        return False
    return True


async def answer_receipt(context: Context, record: ChallengeRecord) -> None:
    """Answer one challenge of a receipt, if it is such a one, open, and about this verifier."""
    if (record.kind, record.phase, record.accused) != (Kind.RECEIPT, Phase.ANSWER, await context.own()):
        return
    found = await asyncio.to_thread(_batch_of, context, record.job, record.leaf)
    if found is None:
        logger.error("challenge %s: no batch of this verifier holds the commitment it signed for", record.id)
        return
    batch, leaves = found
    index = leaves.index(record.leaf)
    try:
        proof = merkle.proof(leaves, index)
        subject = f"answer {record.id} {record.leaf.hex()}"
        await context.send(subject, lambda chain: Court(chain).answer_receipt(record.id, batch, index, proof))
        logger.info("challenge %s answered: the commitment is in batch %s", record.id, batch)
    except Refused as error:
        logger.warning("challenge %s: %s", record.id, error)


def _batch_of(context: Context, job: JobId, leaf: Digest) -> tuple[BatchId, list[Digest]] | None:
    """The first batch of a job on chain that holds a commitment and was not dropped, and all of its leaves."""
    table = TABLES[Batch]
    posted = and_(table.c.chain_id.is_not(None), table.c.state != BatchState.DROPPED.value)
    for batch in sorted(context.database.rows(Batch, posted), key=lambda batch: batch.key):
        if isinstance(batch, Batch) and _has_line(batch, job):
            leaves = [member.commitment.struct_hash() for member in members_of(batch)]
            if leaf in leaves:
                return BatchId(batch.chain_id or 0), leaves
    return None


def _has_line(batch: Row, job: JobId) -> bool:
    return isinstance(batch, Batch) and any(line[0] == job for line in batch.lines)
