"""What the engine has sent to nodes: offers of tasks and audits, cancellations, seals to open. One message for each
node and step; what comes back, or does not, is told to the engine item by item."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from proofyard.artifacts import BlockStore
from proofyard.protocol.audit import UNDECIDED_AFTER_S
from proofyard.protocol.codec import decode
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import (
    SMALL_STATE_BYTES,
    Ack,
    Acks,
    AuditOffer,
    AuditOffers,
    CancelTasks,
    OpenSeal,
    OpenSeals,
    PeerHint,
    SealsOpened,
    TaskOffer,
    TaskOffers,
)
from proofyard.protocol.types import Address, Digest, JobId, ProofyardError
from proofyard.runtime.chance import chance
from proofyard.verifier.case import case_of
from proofyard.verifier.context import Context
from proofyard.verifier.engine import effects
from proofyard.verifier.engine.events import AuditAnswered, Place, SealAnswered, TaskAnswered, TaskKey
from proofyard.workloads.local_data import LACKS

logger = logging.getLogger(__name__)

OFFER_TIMEOUT_S = 20.0
CALM_S = UNDECIDED_AFTER_S / 2
"""Within which an audit's answer is wanted that nobody waits for: others can be asked after that."""
AT_ONCE = 64
"""Items of one message: far below what a frame holds."""
SMALL_LIST = 32
"""A batch of so many tasks has its auditors read its list, once for all their audits; in a larger one each audit comes
with a proof, or every node would read all that all others have done."""
MATES, TASKS_DRAWN = 4, 32
"""Nodes at the same job that each of them is told of, and tasks that are looked at for them."""
T = TypeVar("T")
R = TypeVar("R", bound=msgspec.Struct)


async def offer_tasks(context: Context, effect: effects.OfferTasks) -> None:
    items = await context.mail.collect(effect.node, "tasks", effect.tasks)
    wanted = [item for item in items if item[0] in context.rows.tasks]
    made: list[tuple[TaskKey, TaskOffer]] = []
    mates = {job: _mates(context, job) for job in {key[0] for key, *_ in wanted}}
    for item in wanted:
        try:
            made.append((item[0], _task_offer(context, *item, mates[item[0][0]])))
        except Exception as error:
            _fails_at(context, item[0][0], error)
            context.runner.post(TaskAnswered(effect.node, item[0], taken=False, reason="its offer cannot be made"))
    for part in _parts(made):
        answers = await _ask(context, effect.node, TaskOffers(tuple(offer for _, offer in part)), Acks)
        for (key, _), answer in zip(part, _each(answers, len(part)), strict=True):
            busy = not answer.proceed and answer.reason.startswith("busy")
            lacks = not answer.proceed and answer.reason.startswith(LACKS)
            declined = not (answer.proceed or busy or lacks or isinstance(answers, str))
            context.runner.post(TaskAnswered(effect.node, key, answer.proceed, declined, answer.reason, lacks))


def _task_offer(
    context: Context,
    key: TaskKey,
    attempt: int,
    inputs: tuple[str, ...],
    makers: tuple[Address, ...],
    mates: Sequence[PeerHint],
) -> TaskOffer:
    rows = context.rows
    work = rows.works.get((*key, attempt))
    return TaskOffer(
        job=key[0],
        manifest=rows.jobs[key[0]].manifest,
        task=decode(rows.tasks[key].spec, TaskSpec),
        inputs=inputs,  # type: ignore[arg-type]
        providers=tuple(dict.fromkeys((*_hints(context, makers), *mates))),
        lease_s=context.settings.lease_s,
        decoy=work is not None and work.decoy,
    )


async def cancel_tasks(context: Context, effect: effects.CancelTasks) -> None:
    for part in _parts(effect.tasks):
        await _ask(context, effect.node, CancelTasks(tuple(part), effect.reason), Acks)


async def offer_audits(context: Context, effect: effects.OfferAudits) -> None:
    items = [(effect.batch, place, effect.seed, effect.hurries) for place in effect.places]
    wanted = await context.mail.collect(effect.node, "audits", items)
    made = [await _made(context, effect.node, *item) for item in wanted]
    for part in _parts([offer for offer in made if offer is not None]):
        offers = await context.hops.run(partial(_with_states, context.store, part))
        answers = await _ask(context, effect.node, AuditOffers(tuple(offers)), Acks)
        for offer, answer in zip(offers, _each(answers, len(offers)), strict=True):
            place = (offer.job, offer.task.index, offer.segment)
            busy = not answer.proceed and answer.reason.startswith("busy")
            said = (answer.proceed, busy, answer.reason)
            context.runner.post(AuditAnswered(effect.node, offer.batch, place, offer.seed, *said))


def _with_states(store: BlockStore, offers: Sequence[AuditOffer]) -> list[AuditOffer]:
    """Offers with the states that are small: this verifier has looked at them, and whoever audits need not ask for
    them."""
    small = store.small_artifacts([offer.before for offer in offers], SMALL_STATE_BYTES)
    return [msgspec.structs.replace(offer, state=small.get(offer.before, b"")) for offer in offers]


async def _made(
    context: Context, node: Address, row: int, place: Place, seed: Digest, hurries: bool
) -> AuditOffer | None:
    """An offer; None where nobody waits for the audit any more, or where it cannot be made."""
    try:
        return await _audit_offer(context, row, place, seed, hurries)
    except ProofyardError:
        raise
    except Exception as error:
        _fails_at(context, place[0], error)
        batch = context.rows.batches.get(row)
        if batch is not None and batch.chain_id is not None:
            context.runner.post(AuditAnswered(node, batch.chain_id, place, seed, taken=False))
        return None


async def _audit_offer(context: Context, row: int, place: Place, seed: Digest, hurries: bool) -> AuditOffer | None:
    """None where nobody waits for the audit any more."""
    batch = context.rows.batches.get(row)
    if batch is None or batch.chain_id is None or (row, place) not in context.rows.segments or batch.seed != seed:
        return None
    case = await case_of(context, batch, place)
    return AuditOffer(
        batch=case.batch,
        seed=seed,
        job=case.place[0],
        manifest=case.manifest_cid,
        task=case.spec,
        segment=case.segment,
        before=case.trace[case.segment],
        providers=_hints(context, (case.worker,)),
        lease_s=context.settings.lease_s,
        wanted_s=max(context.settings.audit_s, 0.0 if hurries else CALM_S),
        member=case.membership if len(case.tree.by_key) > SMALL_LIST else None,
    )


async def open_seals(context: Context, effect: effects.OpenSeals) -> None:
    items = [(effect.batch, place) for place in effect.places]
    for part in _parts(await context.mail.collect(effect.node, "seals", items)):
        asked = [(batch, place) for row, place in part if (batch := context.rows.batches.get(row)) is not None]
        wanted = [(batch.chain_id, place, batch.seed) for batch, place in asked if batch.chain_id is not None]
        if not wanted:
            continue
        seals = tuple(OpenSeal(batch, *place) for batch, place, _ in wanted)
        found = await _ask(context, effect.node, OpenSeals(seals), SealsOpened)
        fits = not isinstance(found, str) and len(found.answers) == len(wanted)
        answers = found.answers if fits else (None,) * len(wanted)  # type: ignore[union-attr]
        for (number, place, seed), answer in zip(wanted, answers, strict=True):
            opening = answer.opening() if answer is not None else None
            context.runner.post(SealAnswered(effect.node, number, place, seed, opening))


def _fails_at(context: Context, job: JobId, error: Exception) -> None:
    """One item of a message cannot be made: the others go out."""
    logger.exception("an offer of job %s cannot be made", job)
    context.runner.blame(job, error)


async def _ask(context: Context, node: Address, message: msgspec.Struct, reply: type[R]) -> R | str:
    """A node's reply, or why there is none."""
    member = context.members.get(node)
    if member is None:
        return "it has disconnected"
    try:
        return await member.connection.request(message, reply=reply, timeout=OFFER_TIMEOUT_S)
    except ProofyardError as error:
        logger.info("%s: %s", node, error)
        return str(error)[:500] or "it gave no answer"


def _each(answers: Acks | str, count: int) -> tuple[Ack, ...]:
    """An answer for each item; a reply of another length answers nothing."""
    if isinstance(answers, str):
        return (Ack(False, answers),) * count
    return answers.answers if len(answers.answers) == count else (Ack(False, "another number of answers"),) * count


def _hints(context: Context, nodes: Sequence[Address]) -> tuple[PeerHint, ...]:
    return tuple(context.members[node].hint for node in dict.fromkeys(nodes) if node in context.members)


def _mates(context: Context, job: JobId) -> tuple[PeerHint, ...]:
    """Some nodes that have, or fetch, what every task of a job takes: its model and its data."""
    rows = context.rows
    tasks = rows.tasks_of.get(job, [])
    drawn = chance.sample(tasks, min(len(tasks), TASKS_DRAWN))
    works = [rows.works.get((job, task.index, task.attempt)) for task in drawn]
    nodes = list(dict.fromkeys(work.node for work in works if work is not None))
    return _hints(context, nodes[:MATES])


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]
