"""A batch that this verifier leads, as far as chain, other verifiers and bytes are concerned: commit it, draw its plan,
settle its record, read what was settled. What it means is the engine's to say."""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Sequence
from functools import partial

from sqlalchemy import select
from sqlmodel import Session

from proofyard.chain.errors import NotDrawn
from proofyard.chain.refusals import AlreadySettled
from proofyard.disputes.settled import Over, load_settled, over_now
from proofyard.protocol.cid import cid_digest, make_cid
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.findings import withheld_by
from proofyard.protocol.invalid import RecordInvalid
from proofyard.protocol.mark import UNOPENED
from proofyard.protocol.messages import Ack, LeftOut, Publish
from proofyard.protocol.plan import plan_of
from proofyard.protocol.record import MAX_RECORD_BYTES, BatchRecord, decode_record, encode_record
from proofyard.protocol.seal import keyed_is_checked
from proofyard.protocol.settlement import FaultReason, settlement_digest
from proofyard.protocol.settling import settlement_of
from proofyard.protocol.types import Address, BatchId, Cid, JobId, ProofyardError, TaskIndex
from proofyard.protocol.view import BatchView
from proofyard.transport import Connection
from proofyard.verifier.context import Context
from proofyard.verifier.delivery import NotDelivered, owed
from proofyard.verifier.engine import effects
from proofyard.verifier.engine.events import Drawn, DrawnSegment, LooksDue, Place, RecordRefused, Signed, TaskKey
from proofyard.verifier.engine.rows import Batch, BatchState
from proofyard.verifier.evidence import fetch_manifests, gather_evidence
from proofyard.verifier.left_out import news_of
from proofyard.verifier.marks import find_salt
from proofyard.verifier.membership import (
    Lists,
    batches_of,
    gather_lists,
    list_of,
    members_by_key,
    own_list,
)
from proofyard.verifier.planned import Planned
from proofyard.verifier.quorum import NoQuorum, collect
from proofyard.verifier.records import build_record, told
from proofyard.verifier.runner import Permanent
from proofyard.verifier.sending import anchor_of, commit_subject, youngest
from proofyard.verifier.signing import bound_to
from proofyard.verifier.store.tables import TABLES
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.workload import auditors_of, is_exact

logger = logging.getLogger(__name__)

BLOCK_POLL_S = 0.2
SHOW_S, SHOW_AGAIN_S = 20.0, 1.0
"""How long the other seats have to take a member list before it is committed to, and how often those are asked again
that did not."""
MAX_COUNTED_BYTES = 16 << 20
EVENT_S = 60.0
"""How long the event of a transaction that is mined is waited for; then it is looked for again."""


async def commit_batch(context: Context, effect: effects.CommitBatch) -> float | None:
    """Show the member list to the other seats and post its root. Looks for an earlier post first, so that a crash after
    sending does not post twice; the engine hears of it by the chain's own event."""
    batch = context.rows.batches.get(effect.batch)
    job = None if batch is None else youngest(context.rows, batch)
    if batch is None or batch.state != BatchState.FORMED or job is None:
        return EVENT_S
    # As of now: what the rows say while this waits may be of another job.
    anchor = anchor_of(job)
    size, lines = len(await members_by_key(context, batch)), list(batch.lines)
    cid = await asyncio.to_thread(context.store.put_bytes, batch.members)
    if not await _posted(context, batch):
        await _require_units(context, batch)
        await _require_open(context, batch)
        await _show(context, cid, len(batch.members))
        await context.send(
            commit_subject(batch, anchor),
            lambda chain: chain.commit_batch(effect.root, size, cid_digest(cid), lines, anchor),
        )
    return EVENT_S


async def _posted(context: Context, batch: Batch) -> bool:
    """Whether the batch is on chain already and its event still on the way. The same work that is done again in the
    same way has the same root, so a number that another batch has is not meant."""
    own, jobs = await context.own(), context.rows.jobs
    since = min((jobs[job].opened_block for job, _ in batch.lines if job in jobs), default=0)
    found = await context.on_chain(lambda: context.chain.find_batches(batch.root, own, since=since))
    numbers = {event.batch for event in found} - set(context.rows.by_chain_id)
    if numbers:
        numbers -= await context.database.ask(partial(_numbered, numbers))
    return bool(numbers)


def _numbered(numbers: Collection[BatchId], session: Session) -> set[BatchId]:
    """Those of these numbers on chain that batches have; what is final is in the store alone."""
    number = TABLES[Batch].c.chain_id
    return {BatchId(found) for (found,) in session.execute(select(number).where(number.in_(numbers)))}


async def _require_units(context: Context, batch: Batch) -> None:
    """Raise `Permanent` where the chain takes none of a job any more, `UnitsHeld` for what another try may not meet."""
    params, at = await context.params(), await context.on_chain(context.chain.now)
    for job, units in batch.lines:
        record = await context.on_chain(partial(context.chain.job, job))
        over = at >= record.commits_end(params.receipt_time)
        if over or record.units_paid + units > record.units:
            reason = "its time for commits is over" if over else "its units are paid already"
            raise Permanent(f"job {job} takes no more work: {reason}")
        if units > record.units_left:
            raise UnitsHeld(job, units, record.units_left)


async def _require_open(context: Context, batch: Batch) -> None:
    """Raise `NotOpen` for a batch with tasks of a round that is not open on chain, as after a reorganisation: what is
    committed before its round opens does not count for it. A receipt that falls due goes first."""
    due = min((work.promised_until for work in context.rows.works_of[batch.id]), default=0)
    if context.chain_time() >= due - context.runner.rules.receipt_margin_s:
        return
    last: dict[JobId, TaskIndex] = {}
    for job, task in await members_by_key(context, batch):
        last[job] = max(task, last.get(job, task))
    for job, task in last.items():
        row = context.rows.jobs.get(job)
        if row is not None and row.workers and task >= len(await context.graph_of(job, row.manifest)):
            raise NotOpen(job, task)


class NotOpen(ProofyardError):
    """A task's round is not open on chain."""

    def __init__(self, job: JobId, task: TaskIndex) -> None:
        super().__init__(f"the round of task {task} of job {job} is not open yet")


class UnitsHeld(ProofyardError):
    """The batches of a job that are not settled hold so many of its units that these do not fit beside them."""

    def __init__(self, job: int, units: int, left: int) -> None:
        super().__init__(f"job {job} has {left} units free and the batch holds {units}; its open batches settle first")


async def _show(context: Context, cid: Cid, size: int) -> None:
    """Have two thirds of the seats hold the member list before its root is posted. A seat signs for no batch whose list
    it did not hold at the draw, and who posted may be gone until then. The others may take it later, and nobody is
    waited for beyond `SHOW_S`: receipts fall due."""
    message = Publish(artifacts=(cid,), total_bytes=size)
    seats = {seat.node for seat in await context.verifiers()}
    needed = -(-2 * len(seats) // 3) - (context.wallet.address in seats)
    holding, asked, enough = set[Address](), set[Address](), asyncio.Event()

    async def to(peer: Connection) -> None:
        try:
            with contextlib.suppress(ProofyardError):
                if (await peer.request(message, reply=Ack, timeout=SHOW_S)).proceed:
                    holding.add(peer.peer)
        finally:
            asked.discard(peer.peer)
        if len(holding) >= needed:
            enough.set()

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SHOW_S):
            while len(holding) < needed:
                for peer in await context.others():
                    if peer.peer not in holding | asked:
                        asked.add(peer.peer)
                        context.spawn(to(peer))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SHOW_AGAIN_S):
                        await enough.wait()


async def draw(context: Context, effect: effects.Draw) -> None:
    """Once its block is there, and the engine was told of it, compute the plan of a batch."""
    batch = context.rows.batches.get(effect.batch)
    if batch is None or batch.chain_id is None:
        return
    chain_id = batch.chain_id
    while True:
        told_to = context.told_to
        with contextlib.suppress(NotDrawn):
            view = await context.on_chain(partial(context.chain.view, chain_id))
            if view.draw_block <= told_to:
                break
        await asyncio.sleep(BLOCK_POLL_S)
    state = await context.on_chain(partial(context.chain.batch, chain_id))
    own = await own_list(context, view.header, batch)
    lists = await gather_lists(context, view)
    lists.cids[view.batch], lists.members[view.batch] = own
    manifests = await fetch_manifests(context, view)
    plan = await asyncio.to_thread(plan_of, view, lists.members, auditors_of(manifests, context.workload))
    context.plans.put(view.batch, Planned(plan, view, dict(lists.cids)))
    members = await members_by_key(context, batch)
    exact = {job: is_exact(context.workload(manifest), manifest) for job, manifest in manifests.items()}
    segments = []
    for (job, task, index), audit in ((audit.key, audit) for audit in plan.audits):
        member = members[job, task]
        leaf = member.commitment.struct_hash()
        segments.append(
            DrawnSegment(
                place=(job, task, index),
                auditors=tuple(audit.auditors),
                seats=view.jobs[job].auditors_per_segment,
                claimed=cid_digest(member.trace[index + 1]),
                worker=member.commitment.node,
                weigh=not exact[job] or keyed_is_checked(view.seed, leaf, index),
                workload=manifests[job].workload,
                exact=exact[job],
            )
        )
    counted = encode(sorted(lists.cids.items()))
    context.runner.post(
        Drawn(
            batch=effect.batch,
            fork=effect.fork,
            seed=view.seed,
            segments=tuple(segments),
            counted=counted,
            skipped=len(plan.skipped),
            commit_block=view.commit_block,
            drawn_at=view.drawn_at,
            opened_at=state.opened_at,
        )
    )


async def _counted_lists(context: Context, view: BatchView, batch: Batch) -> Lists:
    """The member lists that the plan was drawn with."""
    lists = Lists()
    headers = batches_of(view)
    for number, cid in decode(batch.counted, list[tuple[BatchId, Cid]], max_bytes=MAX_COUNTED_BYTES):
        if number in headers:
            lists.cids[number], lists.members[number] = cid, await list_of(context, headers[number], cid)
    lists.cids[view.batch], lists.members[view.batch] = await own_list(context, view.header, batch)
    return lists


async def settle(context: Context, effect: effects.Settle) -> float | None:
    """Sign the batch's record and post it. The engine hears of it by the chain's own event."""
    batch = context.rows.batches.get(effect.batch)
    if batch is None or batch.chain_id is None:
        return None
    view = await context.on_chain(partial(context.chain.view, batch.chain_id))
    try:
        record, cid = await _record_for(context, view, batch)
    except RecordInvalid as error:
        logger.warning("%s; its batch is judged again", error)
        context.runner.post(RecordRefused(batch.id, str(error)))
        return None
    while await context.on_chain(context.chain.block_number) <= view.draw_block:  # noqa: ASYNC110 -- the chain's block
        await asyncio.sleep(BLOCK_POLL_S)
    settlement = await asyncio.to_thread(settlement_of, record, view, cid)
    digest = settlement_digest(context.domain, view.ref, settlement)
    try:
        signers, signature = await collect(context, view, digest, cid)
    except NoQuorum as refused:
        if await bound_to(context, view.ref) is None:
            due = await _looks_due(context, view, batch, record, refused.left_out)
            if due is not None:
                context.runner.post(due)
                return None
        raise
    context.runner.post(Signed(batch.id, cid))
    with contextlib.suppress(AlreadySettled):
        subject = f"settle {view.batch} {view.attempt} {digest.hex()}"
        await context.send(subject, lambda chain: chain.settle_batch(view.batch, settlement, signers, signature))
    return EVENT_S


async def _record_for(context: Context, view: BatchView, batch: Batch) -> tuple[BatchRecord, Cid]:
    """The batch's record: the one that this verifier is bound to by its signature, else a new one, checked as everybody
    checks it. Raises `RecordInvalid` where the evidence does not hold."""
    bound = await bound_to(context, view.ref)
    if bound is not None:
        data = await asyncio.to_thread(context.store.get_bytes, bound[1], max_bytes=MAX_RECORD_BYTES)
        return decode_record(data), bound[1]
    lists = await _counted_lists(context, view, batch)
    missing = lists.without(batches_of(view))
    if missing and view.attempt > 0:
        # Another attempt may have more batches before it than the plan was drawn with.
        more = await gather_lists(context, view)
        lists.members.update({each: more.members[each] for each in missing if each in more.members})
        lists.cids.update({each: more.cids[each] for each in missing if each in more.cids})
    over = await _over(context, view, batch, lists)
    evidence = await gather_evidence(context, view, lists, over)
    record = await asyncio.to_thread(build_record, context.rows, evidence, batch)
    if not context.settings.blind:
        clock = await context.on_chain(context.chain.now)
        planned = context.plans.get(view.batch)
        plan = planned.plan if planned is not None and planned.fits(view, lists.cids) else None
        await asyncio.to_thread(partial(evidence.check, record, now=clock, plan=plan))
    return record, await asyncio.to_thread(context.store.put_bytes, encode_record(record))


async def _over(context: Context, view: BatchView, batch: Batch, lists: Lists) -> Over:
    """The earlier batches that are over by now: what is accepted there decides on what counts here. Raises `WaitsFor`
    while those that hold what this one's tasks rest on, or the same tasks, are not, as long as this batch can wait."""
    members = lists.members[view.batch]
    await fetch_manifests(context, view)
    graphs = {
        job: await context.graph_of(job, make_cid(view.jobs[job].manifest))
        for job in {member.key[0] for member in members}
    }
    needed = {member.key for member in members}
    needed |= {(job, dep) for job, task in needed for dep in graphs[job][task].deps}
    held = {
        claimed.batch
        for claimed in view.claimed_before
        if claimed.batch < view.batch and any(m.key in needed for m in lists.members.get(claimed.batch, ()))
    }
    over = await context.on_chain(partial(over_now, context.chain, view))
    rules = context.runner.rules
    last = batch.opened_at + rules.settle_grace - rules.last_margin_s
    left = held - {number for number, _ in over}
    if left and context.chain_time() <= last:
        raise WaitsFor(view.batch, sorted(left))
    return over


class WaitsFor(ProofyardError):
    """Earlier batches, whose settlement decides on what counts in this one, are not over."""

    def __init__(self, batch: BatchId, others: Sequence[BatchId]) -> None:
        super().__init__(f"batch {batch} waits for the settlement of batches {', '.join(map(str, others))}")


async def _looks_due(
    context: Context, view: BatchView, batch: Batch, record: BatchRecord, left_out: Sequence[LeftOut]
) -> LooksDue | None:
    """Signers may have member lists that nobody had at the draw, or reach a worker that this verifier did not: what is
    delivered to anybody is not withheld. Or auditors have shown them what they signed."""
    missing = (await _counted_lists(context, view, batch)).without(batches_of(view))
    if missing:
        found = await gather_lists(context, view)
        if any(each in found.members for each in missing):
            return LooksDue(batch.id, redraw=True)
    places: list[Place] = []
    results: list[TaskKey] = []
    for fault in (fault for fault in record.faults if fault.kind == FaultReason.WITHHELD):
        try:
            for cid in withheld_by(record, fault):
                await owed(context, fault.node, cid, "it", patience_s=0)
        except NotDelivered:
            continue
        except StateRefused as error:
            logger.info("task %s of job %s: %s", fault.task, fault.job, error)
        if fault.segment is None:
            results.append(fault.task_key)
        else:
            places.append((fault.job, fault.task, fault.segment))
    salts = [await find_salt(context, record.by_key[key], patience_s=0) for key in sorted(record.unopened)]
    due = LooksDue(
        batch.id,
        redraw=False,
        places=tuple(places),
        results=tuple(results),
        marks=any(salt != UNOPENED for salt in salts),
        shown=await news_of(context, view, batch, left_out),
    )
    return due if due.places or due.results or due.marks or due.shown else None


async def read_record(context: Context, effect: effects.ReadRecord) -> None:
    """What a batch's settlement says, once its record is here and checked: a verdict of others counts as one's own, if
    it follows. Raises `RecordInvalid` for a record that does not hold; a challenge is to void it."""
    batch = context.rows.batches.get(effect.batch)
    if batch is None or batch.chain_id is None:
        return

    async def read(cid: Cid, max_bytes: int) -> bytes:
        return await context.find(cid, max_bytes=max_bytes)

    view = await context.on_chain(partial(context.chain.view, batch.chain_id, effect.attempt))
    bound = await bound_to(context, view.ref)
    if bound is not None:
        record, cid = decode_record(await read(bound[1], MAX_RECORD_BYTES)), bound[1]
    else:
        settled = await load_settled(context.chain, read, batch.chain_id)
        await asyncio.to_thread(settled.check_record)
        view, record, cid = settled.view, settled.record, settled.event.record
    event = await asyncio.to_thread(told, view, record, cid, effect, batch.settled_block, batch.claimable_at)
    context.runner.post(event)
