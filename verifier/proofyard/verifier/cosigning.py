"""The co-signer: checks a record that a batch's leader shows, for itself and in full, and signs one for each attempt.

The order is that of cost. Who asks is known from the handshake, so a stranger is refused by what is in memory; what the
chain says of the batch comes next; only then is anything fetched, and signatures are checked last of all.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from proofyard.artifacts import ArtifactError, ArtifactTooLarge, CorruptArtifact, fetch
from proofyard.chain import BatchState as ChainBatch
from proofyard.disputes.refusals import check_keyed, check_refusals
from proofyard.disputes.settled import check_over
from proofyard.protocol.codec import CodecError
from proofyard.protocol.findings import withheld_by
from proofyard.protocol.mark import mark_cid
from proofyard.protocol.messages import CoSign, CoSigned, LeftOut, OpenSeal, SealOpened
from proofyard.protocol.record import MAX_RECORD_BYTES, AuditedSegment, BatchRecord, decode_record
from proofyard.protocol.settlement import FaultReason, OperatorId, settlement_digest
from proofyard.protocol.settling import settlement_of
from proofyard.protocol.types import Address, BatchId, Cid, ProofyardError
from proofyard.protocol.validate import RecordInvalid
from proofyard.protocol.view import BatchView
from proofyard.transport import Body, Connection, RequestFailed
from proofyard.verifier.context import Context
from proofyard.verifier.delivery import MAX_STATE_BYTES
from proofyard.verifier.evidence import Seen, gather_evidence
from proofyard.verifier.follower import LATE, SOUGHT
from proofyard.verifier.left_out import MOST, is_signed
from proofyard.verifier.limits import Limiter
from proofyard.verifier.membership import batches_of, gather_lists
from proofyard.verifier.signing import AlreadySigned, bound_to, sign_once
from proofyard.verifier.store.tables import Known

logger = logging.getLogger(__name__)

REQUESTS_PER_S = 10.0
BURST = 40
CHECKS_AT_ONCE = 4
"""Of different leaders: the batches of one are checked one after the other, and keep one place at most."""
WAITING = 8
"""Requests of one leader that wait for each other."""
CHECK_S = 90.0
"""A leader that does not deliver what its record names holds up nobody else for longer; waiting does not count."""
FAILED_PER_S, FAILED_BURST = 1 / 30, 10
"""Records of one leader that turned out wrong, or came too slowly: who shows more is not looked at for a while."""
RECHECK_S = 1.0
ASK_S = 5.0
ASKED_AT_ONCE = 16


@dataclass
class Line:
    """Requests of one leader, which wait for each other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class AnswersLeftOut(ProofyardError):
    """Auditors that a record calls absent have shown what they signed."""

    def __init__(self, answers: Sequence[LeftOut]) -> None:
        self.answers = tuple(answers)
        super().__init__(f"{answers[0].auditor} is called absent and has answered")


class CoSigner:
    """Serves `CoSign` requests of other verifiers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._limiter = Limiter("signatures", per_s=REQUESTS_PER_S, burst=BURST)
        self._checks = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._failed = Limiter("records that do not hold", per_s=FAILED_PER_S, burst=FAILED_BURST)
        self._lines: dict[Address, Line] = {}
        self._seen = Seen()
        self._under_way: set[BatchId] = set()
        context.endpoint.on(CoSign, self.cosign)

    async def cosign(self, connection: Connection, message: CoSign, _body: Body) -> CoSigned:
        """Sign a record that holds, for the leader that the chain names; with `sign` false only check it.

        Raises `RequestFailed` for whoever may not ask, `RecordInvalid` for a record that does not hold, `AlreadySigned`
        where another settlement of the attempt was signed.
        """
        await self._admit(connection)
        state = await self._context.on_chain(partial(self._context.chain.batch, message.batch))
        self._require_open(message.batch, state, await self._operator(connection))
        if message.batch in self._under_way:
            raise RequestFailed("busy", f"a record of batch {message.batch} is being checked")
        self._under_way.add(message.batch)
        try:
            async with self._place_of(connection.peer):
                return await self._checked_in_time(connection, message)
        finally:
            self._under_way.discard(message.batch)

    @asynccontextmanager
    async def _place_of(self, leader: Address) -> AsyncGenerator[None]:
        """A place among the checks. A leader has one at a time, so that none keeps the others out."""
        line = self._lines.setdefault(leader, Line())
        if line.waiting >= WAITING:
            raise RequestFailed("busy", f"{WAITING} records of {leader} wait already")
        line.waiting += 1
        try:
            async with line.lock, self._checks:
                yield
        finally:
            line.waiting -= 1
            if line.waiting == 0:
                self._lines.pop(leader, None)

    async def _checked_in_time(self, connection: Connection, message: CoSign) -> CoSigned:
        if not self._failed.has_left(connection.peer):
            raise RequestFailed("busy", f"too many records of {connection.peer} did not hold; try again later")
        try:
            async with asyncio.timeout(CHECK_S):
                return await self._checked(connection, message)
        except TimeoutError:
            self._failed.allows(connection.peer)
            raise RequestFailed("deadline", f"the check of batch {message.batch} took over {CHECK_S:.0f} s") from None
        except (RecordInvalid, CodecError, ArtifactError):
            self._failed.allows(connection.peer)
            raise

    async def _admit(self, connection: Connection) -> None:
        """The cheap checks: only a seated verifier is answered, and not too often."""
        self._limiter.take(connection.peer)
        if all(verifier.node != connection.peer for verifier in await self._context.verifiers()):
            raise RequestFailed("not-a-verifier", f"{connection.peer} has no seat among the verifiers")
        connection.vouch()

    async def _operator(self, connection: Connection) -> OperatorId | None:
        return next((v.id for v in await self._context.verifiers() if v.node == connection.peer), None)

    @staticmethod
    def _require_open(batch: BatchId, state: ChainBatch, operator: OperatorId | None) -> None:
        if state.verifier != operator:
            raise RequestFailed("not-the-leader", f"batch {batch} is led by operator {state.verifier}")
        if state.settled_at or state.dropped or state.voided:
            raise RequestFailed("not-open", f"batch {batch} is not to be settled now")

    async def _checked(self, connection: Connection, message: CoSign) -> CoSigned:
        context = self._context
        view = await context.on_chain(partial(context.chain.view, message.batch))
        bound = await bound_to(context, view.ref)
        if bound is not None and bound[1] != message.record:
            raise AlreadySigned(view.batch, view.attempt, bound[1])
        await fetch(context.store, message.record, [connection], max_bytes=MAX_RECORD_BYTES)
        data = await asyncio.to_thread(context.store.get_bytes, message.record, max_bytes=MAX_RECORD_BYTES)
        record = await asyncio.to_thread(decode_record, data)
        # What a record was held against: a reorganisation may draw the batch anew between a look and a signature.
        key = (message.record, view.ref, view.leader, view.claimed_before, view.settled_before)
        if self._seen.get(key) is None and not context.settings.blind:
            try:
                await self._check(view, record, connection)
            except AnswersLeftOut as found:
                return CoSigned(b"", found.answers)
        self._seen.note(key)
        if not message.sign:
            return CoSigned(b"")
        settlement = await asyncio.to_thread(settlement_of, record, view, message.record)
        digest = settlement_digest(context.domain, view.ref, settlement)
        return CoSigned(await sign_once(context, view.ref, digest, message.record))

    async def _check(self, view: BatchView, record: BatchRecord, connection: Connection) -> None:
        """The whole record: what follows from chain and signatures, and what its leader says it could not get."""
        context = self._context
        if record.batch != view.batch:
            raise RecordInvalid(view.batch, "batch", f"it is that of batch {record.batch}")
        await self._require_list_in_time(view)
        lists = await gather_lists(context, view, first=connection)
        found = sorted(set(record.uncounted) - set(lists.without(batches_of(view))))
        if found:
            raise RecordInvalid(view.batch, "uncounted", f"the member list of batch {found[0]} can be had from here")
        await context.on_chain(partial(check_over, context.chain, view, record))
        evidence = await gather_evidence(context, view, lists, record.over, first=connection)
        clock = await context.on_chain(context.chain.now)
        await asyncio.to_thread(partial(evidence.check, record, now=clock))

        async def read(cid: Cid, max_bytes: int) -> bytes:
            return await context.find(cid, max_bytes=max_bytes, first=connection)

        await check_refusals(record, evidence.manifests, evidence.graphs, read)
        await check_keyed(view, record, evidence.manifests, read)
        await self._check_unopened(record, connection)
        await self._check_withheld(record, connection)
        await self._check_absent(view, record)

    async def _require_list_in_time(self, view: BatchView) -> None:
        """A member list that turned up after the draw may have waited for a kind one: such a batch is never settled.
        What was committed while this verifier was away it cannot tell."""
        known = await self._context.database.ask(lambda session: session.get(Known, view.batch))
        if known is None:
            raise RequestFailed("behind", f"this verifier has not seen the commit of batch {view.batch} yet; ask again")
        if known.held == SOUGHT:
            raise RequestFailed("behind", f"this verifier looks for the member list of batch {view.batch}; ask again")
        if known.held == LATE:
            raise RecordInvalid(view.batch, "tasks", "the member list could not be had when the audits were drawn")

    async def _check_withheld(self, record: BatchRecord, connection: Connection) -> None:
        """States and results that the record calls withheld: who can get one does not sign."""
        for fault in record.faults:
            if fault.kind != FaultReason.WITHHELD:
                continue
            for cid in withheld_by(record, fault):
                if await self._missing(cid, fault.node, connection):
                    break
            else:
                reason = f"what task {fault.task} of job {fault.job} is said to withhold can be had"
                raise RecordInvalid(record.batch, "faults", reason)

    async def _check_unopened(self, record: BatchRecord, connection: Connection) -> None:
        """Marks that the record does not open, of work that it does not pay therefore: who can does not sign."""
        for key in sorted(record.unopened):
            commitment = record.by_key[key].commitment
            if not await self._missing(mark_cid(commitment.mark), commitment.node, connection):
                reason = f"what opens the mark of task {commitment.task} of job {commitment.job} can be had"
                raise RecordInvalid(record.batch, "salts", reason)

    async def _check_absent(self, view: BatchView, record: BatchRecord) -> None:
        """Auditors whose answers the record lacks: one that shows an answer that it signed was left out, or hides it
        from its leader. Either way the leader is given it. Raises `AnswersLeftOut`."""
        limit = asyncio.Semaphore(ASKED_AT_ONCE)
        found: list[LeftOut] = []

        async def ask(audit: AuditedSegment, auditor: Address) -> None:
            member = self._context.members.get(auditor)
            if member is None:
                return
            try:
                async with limit:
                    request = OpenSeal(record.batch, *audit.key)
                    opened = await member.connection.request(request, reply=SealOpened, timeout=ASK_S)
            except ProofyardError:
                return
            answer = LeftOut(*audit.key, auditor, opened)
            if await asyncio.to_thread(is_signed, view, answer):
                found.append(answer)

        await asyncio.gather(*(ask(audit, auditor) for audit in record.audits for auditor in audit.absent))
        if found:
            raise AnswersLeftOut(found[:MOST])

    async def _missing(self, cid: Cid, worker: Address, connection: Connection) -> bool:
        """Whether nobody delivers an artifact within this verifier's own patience. Raises `RequestFailed` where it
        reaches no node but the worker, and so cannot tell whose line it is that fails."""
        context = self._context
        try:
            async with asyncio.timeout(context.settings.recheck_s):
                while True:
                    peers = [*context.providers(worker), connection]
                    try:
                        await fetch(context.store, cid, peers, max_bytes=MAX_STATE_BYTES)
                        return False
                    except (ArtifactTooLarge, CorruptArtifact):
                        return False
                    except ProofyardError as error:
                        logger.debug("what is called withheld: %s", error)
                    await asyncio.sleep(RECHECK_S)
        except TimeoutError:
            if all(node == worker for node in context.members):
                raise RequestFailed(
                    "cut-off", "this verifier reaches no node and cannot tell what is withheld"
                ) from None
            return True
