"""What a verifier owes the network beside its own batches, and earns by it: draws before their block hash is lost,
takes over what others leave unsettled, drops what is past saving, shows that it is there, finalizes, and copies what
jobs come to.

All of it follows from `Known`, the batches on chain that are not final, and is safe to repeat: whoever comes second is
refused by the contract.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

from sqlmodel import col, delete, select

from proofyard.chain import BatchState as ChainBatch
from proofyard.chain import Params, Refused
from proofyard.chain.errors import ChainUnreachable
from proofyard.chain.refusals import UnknownBatch, UnknownJob
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES
from proofyard.protocol.members import Member, encode_members
from proofyard.protocol.settlement import Header, OperatorId
from proofyard.protocol.types import BatchId, Cid, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.copies import copy_results
from proofyard.verifier.engine.events import Adopted, Finalized, JobFreed
from proofyard.verifier.evidence import check_members
from proofyard.verifier.membership import find_members
from proofyard.verifier.store.tables import Duty, Known
from proofyard.verifier.turns import in_turn

logger = logging.getLogger(__name__)

POLL_S = 5.0
AFTER_ERROR_S = 30.0
AT_ONCE = 16
"""Batches that are looked at at a time: each may wait for a transaction."""
HASHES = 8191
"""Blocks whose hashes the chain remembers (EIP-2935)."""
DRAW_OWN_AFTER, DRAW_OTHERS_AFTER = 20, 2000
"""Blocks after its draw block in which a batch that nobody drew is drawn by its leader, and by anybody."""
JUDGING_S = 600
"""Nobody takes over a batch that has to be settled within this time, or a quarter of what the Registry gives, if that
is less: whoever leads it when it is dropped pays."""
LOOK_AGAIN_S = 60.0
"""How often it is looked at whether a batch that could not be taken over can be by now."""
TURN_S = 20
"""Verifiers take over what others leave in turns of so many seconds, so that one transaction is sent and not many."""


async def do_duties(context: Context) -> None:
    """Again and again until cancelled. What is looked for among peers holds up nothing that the network is owed."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_again(context, round_of_duties))
        group.create_task(_again(context, look_for_free_jobs))
        group.create_task(_again(context, copy_results))


async def _again(context: Context, duty: Callable[[Context], Awaitable[None]]) -> None:
    while True:
        try:
            if context.leads:
                await duty(context)
        except ProofyardError as error:
            logger.warning("duties: %s; trying again", error)
        except Exception:
            logger.exception("a duty failed; trying again")
            await asyncio.sleep(AFTER_ERROR_S)
        await asyncio.sleep(POLL_S)


async def round_of_duties(context: Context) -> None:
    """One look at everything. A duty that the contract refuses is somebody else's, or done."""
    own = await context.own()
    if own is None:
        return
    await attend(context)
    known = await context.database.ask(lambda session: session.exec(select(Known)).all())
    params, room = await context.params(), asyncio.Semaphore(AT_ONCE)

    async def one(row: Known) -> None:
        async with room:
            await _round_of(context, row, params, own)

    async with asyncio.TaskGroup() as group:
        for row in known:
            group.create_task(one(row))


async def _round_of(context: Context, row: Known, params: Params, own: OperatorId) -> None:
    try:
        state = await context.on_chain(partial(context.chain.batch, BatchId(row.batch)))
    except UnknownBatch:
        await _forget(context, row.batch)
        return
    except ChainUnreachable as error:
        logger.warning("batch %s: %s", row.batch, error)
        return
    try:
        await _look_at(context, row, state, params, led=state.verifier == own)
    except Refused as error:
        logger.info("batch %s: %s", row.batch, error)
    except ProofyardError as error:
        logger.warning("batch %s: %s", row.batch, error)
    except Exception:
        logger.exception("batch %s: a duty failed; the others are done", row.batch)


async def _look_at(context: Context, known: Known, state: ChainBatch, params: Params, *, led: bool) -> None:
    at = context.chain_time()
    if state.dropped:
        await _forget(context, known.batch)
    elif state.settled_at and not state.voided:
        if state.claimable_at <= at and not state.open_challenges:
            await _finalize(context, state)
    elif at > state.opened_at + params.settle_grace:
        await context.send(f"drop {state.id} {state.opened_at}", lambda chain: chain.drop_batch(state.id))
    else:
        await _draw(context, state, params, led=led)
        await _take_over(context, state, params, at, led=led)


async def _finalize(context: Context, state: ChainBatch) -> None:
    """Fees of verifiers and what faults froze are distributed; then nothing is owed for the batch any more, once what
    it means for this verifier's jobs is known."""
    if state.unfinal:
        await context.send(f"finalize {state.id} {state.settled_at}", lambda chain: chain.finalize(state.id))
    if not await context.runner.tell(Finalized(state.id)):
        await _forget(context, state.id)


async def _draw(context: Context, state: ChainBatch, params: Params, *, led: bool) -> None:
    """The chain forgets block hashes: a batch that nobody draws in time has to be drawn anew, which its leader pays."""
    if any(state.seed) or state.voided:
        return
    late = await context.on_chain(context.chain.block_number) - (state.commit_block + params.draw_delay)
    if late > HASHES:
        if led:
            await context.send(f"recommit {state.id} {state.commit_block}", lambda chain: chain.recommit(state.id))
    elif late > (DRAW_OWN_AFTER if led else DRAW_OTHERS_AFTER):
        await context.send(f"draw {state.id} {state.commit_block}", lambda chain: chain.draw(state.id))


async def _take_over(context: Context, state: ChainBatch, params: Params, at: float, *, led: bool) -> None:
    """A voided batch waits for anybody, first for its last leader; an overdue one for anybody but its leader."""
    if led:
        await _adopt_left(context, state)
        return
    if not context.settings.takeover:
        return
    since = state.opened_at + 2 * TURN_S if state.voided else state.leader_since + params.settle_time
    left = state.opened_at + params.settle_grace - at
    if at < since + await _turn(context, state.id) * TURN_S or left < min(JUDGING_S, params.settle_grace / 4):
        return
    looked, clock = context.looked_at, time.monotonic()
    if clock < looked.get(state.id, float("-inf")) + LOOK_AGAIN_S:
        return
    looked[state.id] = clock
    header, members = await _judgeable(context, state)
    await context.send(f"take-batch {state.id} {state.attempt}", lambda chain: chain.take_batch(state.id))
    await _adopt(context, await context.on_chain(partial(context.chain.batch, state.id)), header, members)


async def _adopt_left(context: Context, state: ChainBatch) -> None:
    """A batch that this verifier has taken over, and died before it was written down."""
    rows = context.rows
    header = await context.on_chain(partial(context.chain.header, state.id))
    claims = context.claims
    if claims is not None and state.id in await context.database.ask(claims.batches):
        return
    formed = any(batch.root == header.root and batch.chain_id is None for batch in list(rows.batches.values()))
    if state.id in rows.by_chain_id or formed or not state.attempt:
        return
    header, members = await _judgeable(context, state)
    await _adopt(context, state, header, members)


async def _judgeable(context: Context, state: ChainBatch) -> tuple[Header, tuple[Member, ...]]:
    """What a batch is made of. Raises `CannotTake` where nobody delivers it, `RecordInvalid` where no record of it can
    hold."""
    header = await context.on_chain(partial(context.chain.header, state.id))
    found = await find_members(context, header)
    if found is None:
        raise CannotTake(state.id)
    await check_members(context, await context.on_chain(partial(context.chain.view, state.id)), found[1])
    return header, found[1]


async def _adopt(context: Context, state: ChainBatch, header: Header, members: tuple[Member, ...]) -> None:
    await context.runner.tell(
        Adopted(
            chain_id=state.id,
            root=header.root,
            members=encode_members(members),
            lines=tuple((line.job, line.units) for line in header.lines),
            attempt=state.attempt,
            commit_block=state.commit_block,
        )
    )


async def look_for_free_jobs(context: Context) -> None:
    """Jobs that another verifier has: whether that one was silent for too long, and the manifest is to be had."""
    params, looks = await context.params(), context.look_at_jobs
    for job_id in [job for job in looks if job not in context.rows.jobs]:
        del looks[job_id]
    for job in [job for job in context.rows.jobs.values() if job.elsewhere and not job.closed_at]:
        if time.monotonic() < looks.get(job.id, float("-inf")):
            continue
        try:
            record = await context.on_chain(partial(context.chain.job, job.id))
        except UnknownJob:
            continue
        left = record.last_active + params.takeover_timeout - context.chain_time()
        looks[job.id] = time.monotonic() + max(LOOK_AGAIN_S, left)
        if not record.over and left < 0 and await _has_manifest(context, job.manifest):
            context.runner.post(JobFreed(job.id))


async def _has_manifest(context: Context, manifest: Cid) -> bool:
    """Whether a job's manifest is here, or is now: it was published to the verifier that is gone, and whoever worked
    for the job has it."""
    try:
        await context.find(manifest, max_bytes=MAX_MANIFEST_BYTES)
    except ProofyardError as error:
        logger.info(
            "a job whose verifier is silent cannot be taken: its manifest %s is not to be had: %s", manifest, error
        )
        return False
    return True


async def _turn(context: Context, batch: BatchId) -> int:
    """When this verifier's turn is, the same order for everybody and another one for each batch."""
    order = in_turn(batch, [verifier.node for verifier in await context.verifiers()])
    return order.index(context.wallet.address) if context.wallet.address in order else len(order)


async def attend(context: Context) -> None:
    """Once in each period the Registry is shown that this seat is not idle."""
    period = int(context.chain_time()) // (await context.params()).idle_period
    done = await context.database.ask(lambda session: session.get(Duty, "attended"))
    if done is not None and done.value >= period:
        return
    await context.send(f"attend {period}", lambda chain: chain.attend())
    await context.database.ask(lambda session: session.merge(Duty(name="attended", value=period)))


async def _forget(context: Context, batch: int) -> None:
    await context.database.ask(lambda session: session.exec(delete(Known).where(col(Known.batch) == batch)))


class CannotTake(ProofyardError):
    """A batch that its leader left cannot be judged by anybody: its member list is not to be had."""

    def __init__(self, batch: BatchId) -> None:
        super().__init__(f"batch {batch} is left unsettled, and nobody delivers its member list")
