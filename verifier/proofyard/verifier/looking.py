"""What takes bytes: reading manifests, looking at committed states and results, weighing answers, making a job's result
for people. Each tells the engine what it found."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from proofyard.artifacts import ArtifactError, fetch
from proofyard.disputes.settled import load_settled
from proofyard.protocol.closing import Rounds
from proofyard.protocol.codec import CodecError, decode
from proofyard.protocol.findings import accepted
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES
from proofyard.protocol.messages import SealOpened
from proofyard.protocol.seal import CANNOT_EXECUTE, keyed_digest, keyed_is_checked
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, Cid, Digest, JobId, ProofyardError, SegmentIndex, TaskIndex
from proofyard.runtime.hops import SMALL_BYTES
from proofyard.transport import TransportError
from proofyard.verifier import taking
from proofyard.verifier.case import Case, case_of
from proofyard.verifier.context import FIND_S, Context
from proofyard.verifier.delivery import MAX_STATE_BYTES, NotDelivered, owed, owed_all, room
from proofyard.verifier.engine import effects
from proofyard.verifier.engine.events import AnswersWeighed, Expanded, Packed, ResultLooked, RoundsClosed, StateLooked
from proofyard.verifier.engine.rows import SeatState
from proofyard.verifier.likeness import counted_answers
from proofyard.verifier.publications import MAX_PUBLISH_BYTES
from proofyard.verifier.runner import Permanent
from proofyard.verifier.sizing import tell_size
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.workload import (
    InexactWorkload,
    caps_of,
    finals_of,
    is_exact,
    require_size,
    rounds_of,
    write_result,
)

logger = logging.getLogger(__name__)


async def expand(context: Context, effect: effects.Expand) -> None:
    """The task graph of a manifest that is here. One that is not is waited for: `Published` asks again. That of a job
    which this verifier has taken on chain is looked for as well."""
    row = context.rows.jobs.get(effect.job)
    if row is not None and row.taken_block and not row.is_asked and row.manifest == effect.manifest:
        await _find_inputs(context, effect.manifest)
    if not context.store.has(effect.manifest):
        raise NotPublished(effect.manifest)
    try:
        manifest = context.manifest(effect.manifest)
        graph = await asyncio.to_thread(context.graph, effect.manifest)
        workload = context.workload(manifest)
        rounds = rounds_of(workload, manifest)
        if rounds is not None:
            await asyncio.to_thread(lambda: rounds.roster)
    except ProofyardError as error:
        raise Permanent(str(error)) from None
    job = context.rows.jobs.get(effect.job)
    objection = "" if job is None else await taking.refusal(context, job, manifest, graph)
    if objection and job is not None and job.manifest == effect.manifest:
        raise Permanent(objection)
    paid = await _paid_before(context, effect.job) if job is not None and job.units_paid else ()
    await tell_size(context, effect.job, effect.manifest)
    context.runner.post(
        Expanded(
            effect.job,
            effect.manifest,
            manifest.workload,
            is_exact(workload, manifest),
            manifest.look_ahead,
            graph,
            paid,
            0 if rounds is None else rounds.workers,
            _voters(rounds),
            *(caps_of(workload, manifest) or (0, None)),
        )
    )


async def _find_inputs(context: Context, cid: Cid) -> None:
    """What a job takes that was published to another verifier: it was that one's before, or a reorganisation gave its
    number, which this verifier took, to another job. As far as it is to be had: nodes may have the rest."""
    try:
        peers = [*await context.others(), *context.providers()]
        if not context.store.has(cid):
            await fetch(context.store, cid, peers, max_bytes=MAX_MANIFEST_BYTES, within_s=FIND_S)
        manifest = context.manifest(cid)
        for named in manifest.inputs:
            if not await asyncio.to_thread(context.has_all, named):
                await fetch(context.store, named, peers, max_bytes=MAX_PUBLISH_BYTES, within_s=FIND_S)
    except (ArtifactError, TransportError, CodecError) as error:
        logger.info("what job with the manifest %s takes is not all here: %s", cid, error)


async def _paid_before(context: Context, job: JobId) -> tuple[tuple[TaskIndex, Address, Address, Cid], ...]:
    """What settled records of a job accept that another verifier had before. A record that cannot be had, or that does
    not hold, accepts nothing here: what it says is done is done again, and called repeated where that record stands."""

    async def read(cid: Cid, max_bytes: int) -> bytes:
        return await context.find(cid, max_bytes=max_bytes)

    found: dict[TaskIndex, tuple[TaskIndex, Address, Address, Cid]] = {}
    for number in sorted({event.batch for event in await context.on_chain(lambda: context.chain.settled(job))}):
        try:
            settled = await load_settled(context.chain, read, number)
            await asyncio.to_thread(settled.check_record)
            paid = await asyncio.to_thread(accepted, settled.view, settled.record)
        except ProofyardError as error:
            logger.warning("what batch %s paid cannot be told: %s", number, error)
            continue
        nodes = {member.key: member.commitment.node for member in settled.record.tasks}
        for (line, task), result in paid.items():
            if line == job:
                node = nodes[line, task]
                found[task] = task, node, settled.view.owners[node][1], result
    return tuple(found.values())


class NotPublished(ProofyardError):
    """Nobody has given this verifier a job's manifest yet."""

    def __init__(self, cid: Cid) -> None:
        super().__init__(f"the manifest {cid} is not published to this verifier")


async def close_rounds(context: Context, effect: effects.CloseRounds) -> None:
    """Which rounds of a job are closed, by the chain and by the lists that it names."""
    job = context.rows.jobs.get(effect.job)
    if job is not None:
        manifest = context.manifest(job.manifest)
        closed = await context.closed_of(job.id, manifest)
        rounds = rounds_of(context.workload(manifest), manifest)
        key_rounds = 1 if rounds is None else rounds.key_rounds
        context.runner.post(RoundsClosed(job.id, closed, _voters(rounds), key_rounds))


def _voters(rounds: Rounds | None) -> tuple[Address, ...]:
    return () if rounds is None else tuple(voter.node for voter in rounds.closing.voters)


async def look_at_state(context: Context, effect: effects.LookAtState) -> None:
    """Why nobody is to execute the state before a segment. A state that breaks a law of its workload is nobody's to
    execute; one that is larger than this verifier looks at is left to the auditors."""
    batch, segment = context.rows.batches.get(effect.batch), context.rows.segments.get((effect.batch, effect.place))
    if batch is None or segment is None:
        return
    case = await case_of(context, batch, effect.place)
    kind, reason = 0, ""
    try:
        cid = case.trace[case.segment]
        size = await owed(context, case.worker, cid, f"state {case.segment}", patience_s=context.settings.state_due_s)
        require_size(context.workload(case.manifest), case.manifest, case.spec, size, "the state")
        if size <= context.settings.max_state_bytes:
            async with room(context, size):
                await _checked(context, size, partial(_check_state, context, case))
    except NotDelivered as error:
        kind, reason = FaultReason.WITHHELD, str(error)
    except StateRefused as error:
        kind, reason = _broken(context, case), f"state {case.segment}: {error}"
    context.runner.post(StateLooked(effect.batch, effect.place, kind, reason))


async def look_at_result(context: Context, effect: effects.LookAtResult) -> None:
    """The fault of a result that does not follow from its task's states, or is not to be had. This is done for every
    task, audited or not: a result that does not fit its workload would spoil the tasks that rest on it."""
    batch = context.rows.batches.get(effect.batch)
    if batch is None:
        return
    case = await case_of(context, batch, (*effect.task, SegmentIndex(0)))
    last, patience = case.trace[-1], context.settings.state_due_s
    kind, reason = 0, ""
    try:
        named = {case.result: "the result", last: "the last state"}
        sizes = await owed_all(context, case.worker, named, patience_s=patience)
        for what, size in zip(named.values(), sizes, strict=True):
            require_size(context.workload(case.manifest), case.manifest, case.spec, size, what)
        async with room(context, *sizes):
            await _checked(context, sum(sizes), partial(_check_result, context, case))
    except NotDelivered as error:
        kind, reason = FaultReason.WITHHELD, str(error)
    except StateRefused as error:
        kind, reason = _broken(context, case), f"the result: {error}"
    context.runner.post(ResultLooked(effect.batch, effect.task, kind, reason))


def _broken(context: Context, case: Case) -> FaultReason:
    """What breaking a law is called: a record holds no fault that costs stake where the job's are not to."""
    exact = is_exact(context.workload(case.manifest), case.manifest)
    return FaultReason.MISMATCH if exact else FaultReason.DISAGREED


async def _checked(context: Context, size: int, check: Callable[[], None]) -> None:
    """Do a check of so many bytes in a thread: small ones share it."""
    await (context.hops.run(check) if size <= SMALL_BYTES else asyncio.to_thread(check))


def _check_state(context: Context, case: Case) -> None:
    """Raise `StateRefused` for the state before the segment, which is in the store."""
    state = context.store.get_bytes(case.trace[case.segment], max_bytes=MAX_STATE_BYTES)
    context.workload(case.manifest).check_state(case.manifest, case.spec, case.segment, state)


def _check_result(context: Context, case: Case) -> None:
    """Raise `StateRefused` for the task's result, which is in the store with its last state."""
    result, last = (context.store.get_bytes(cid, max_bytes=MAX_STATE_BYTES) for cid in (case.result, case.trace[-1]))
    context.workload(case.manifest).check_result(case.manifest, case.spec, result, last, case.trace)


async def weigh_answers(context: Context, effect: effects.WeighAnswers) -> None:
    """What opened answers count as: themselves in an exact workload, but for those that a copier sealed; what an
    inexact workload's own metric says of them otherwise."""
    batch, segment = context.rows.batches.get(effect.batch), context.rows.segments.get((effect.batch, effect.place))
    if batch is None or segment is None:
        return
    case = await case_of(context, batch, effect.place)
    openings = {auditor: decode(raw, SealOpened) for auditor, raw in effect.openings}
    answers = {auditor: opening.after for auditor, opening in openings.items()}
    copied: set[Address] = set()
    try:
        workload = context.workload(case.manifest)
        if is_exact(workload, case.manifest):
            copied = await _copied(context, case, effect.seed, openings)
        else:
            earlier = _distinct_answers(context, effect)
            answers = await counted_answers(context, cast(InexactWorkload, workload), case, answers, earlier)
    except NotDelivered as error:
        context.runner.post(AnswersWeighed(effect.batch, effect.place, effect.seed, (), withheld=str(error)))
        return
    counted = tuple(answers.items())
    context.runner.post(AnswersWeighed(effect.batch, effect.place, effect.seed, counted, frozenset(copied)))


def _distinct_answers(context: Context, effect: effects.WeighAnswers) -> dict[Digest, Address]:
    """The answers that were given before and count as themselves, each with an auditor that gave it."""
    seats = context.rows.seats.get((effect.batch, effect.place), {})
    opened = [seat for seat in seats.values() if seat.state == SeatState.OPENED]
    return {seat.answer: seat.auditor for seat in opened if seat.answer == decode(seat.opening, SealOpened).after}


async def _copied(context: Context, case: Case, seed: Digest, openings: Mapping[Address, SealOpened]) -> set[Address]:
    """Those who have not executed: their keyed digests are held against the state's bytes. A state that nobody delivers
    cannot tell."""
    if not keyed_is_checked(seed, case.leaf, case.segment):
        return set()
    copied: set[Address] = set()
    for number, answer in ((case.segment + 1, case.claimed), (case.segment, CANNOT_EXECUTE)):
        voters = {a: opening for a, opening in openings.items() if opening.after == answer}
        if voters:
            copied |= await _wrongly_keyed(context, case, seed, number, voters)
    return copied


async def _wrongly_keyed(
    context: Context, case: Case, seed: Digest, number: int, voters: Mapping[Address, SealOpened]
) -> set[Address]:
    cid = case.trace[number]
    try:
        size = await owed(context, case.worker, cid, f"state {number}", patience_s=context.settings.recheck_s)
    except (NotDelivered, StateRefused) as error:
        logger.info("the keyed digests of %s are not checked: %s", case.name, error)
        return set()
    async with room(context, size):
        state = await _read(context, cid)
        wrong: set[Address] = set()
        await _checked(context, size, lambda: wrong.update(_wrong_keys(seed, state, voters)))
        return wrong


def _wrong_keys(seed: Digest, state: bytes, voters: Mapping[Address, SealOpened]) -> set[Address]:
    return {auditor for auditor, opening in voters.items() if keyed_digest(seed, auditor, state) != opening.keyed}


async def pack(context: Context, effect: effects.Pack) -> None:
    """The job's result in the form that people use."""
    rows = context.rows
    job = rows.jobs.get(effect.job)
    if job is None:
        return
    manifest = context.manifest(job.manifest)
    workload = context.workload(manifest)
    finals = finals_of(workload, manifest, await context.closed_of(job.id, manifest))
    results = {index: rows.works[job.id, index, rows.tasks[job.id, index].attempt].result for index in finals}

    def read(index: TaskIndex) -> bytes:
        return context.store.get_bytes(results[index] or Cid(""), max_bytes=MAX_STATE_BYTES)

    with TemporaryDirectory(dir=context.settings.data_dir) as folder:
        package = Path(folder) / "result"
        await asyncio.to_thread(write_result, workload, manifest, finals, read, package)
        cid = await asyncio.to_thread(context.store.put_directory, package)
    context.runner.post(Packed(job.id, cid))


async def _read(context: Context, cid: Cid) -> bytes:
    return await asyncio.to_thread(context.store.get_bytes, cid, max_bytes=MAX_STATE_BYTES)
