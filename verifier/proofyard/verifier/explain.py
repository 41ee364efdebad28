"""Why: a task was given to whom, waits, or a node gets none; somebody was audited, found faulty, slashed, or paid what.

Each statement says where it can be checked: the batch, the CID of its record, and the command that replays it. What a
verifier alone knows (who was connected and had room) has nothing to show but its log. Statements are pure functions of
facts; `Explainer` gathers them: the database and the chain in threads, what the engine knows in the verifier's loop.
"""

import logging
import threading
from collections import Counter as Tally
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import select

from proofyard.artifacts import ArtifactError
from proofyard.chain.events import BatchSettled
from proofyard.protocol.codec import CodecError, decode
from proofyard.protocol.dial import WAD, p_trust, per_task, stake_at_risk, tasks_alike
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.members import MAX_MEMBERS_BYTES, Member, decode_members
from proofyard.protocol.plan import exposure_of, odds_of, task_reward
from proofyard.protocol.record import BatchRecord, RecordedPayout, RecordedRedress, decode_record
from proofyard.protocol.types import Address, BatchId, Cid, JobId, ProofyardError, Wei
from proofyard.protocol.view import BatchView
from proofyard.verifier import api_queries as queries
from proofyard.verifier import api_types as out
from proofyard.verifier.context import Context
from proofyard.verifier.engine import rows, scheduling
from proofyard.verifier.engine.world import World
from proofyard.verifier.store.tables import TABLES, row_of

logger = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS, SEGMENTS, NODES, BATCHES, LINES = 20, 50, 100, 10, 500
"""So many of each an explanation shows at most."""
MAX_RECORD_BYTES = 32 << 20
"""A larger record is not read for an explanation: the replay command reads any."""
KEPT = 32
TOKEN = 10**18
NOWHERE = out.Shown(batch=None, record=None, replay="")


@dataclass(frozen=True)
class Dial:
    """What the audit plan reckoned with for one task; rewards and stakes in base units, chances in 1e-18."""

    consecutive_valid: int
    stake: int
    at_risk: int
    in_flight: int
    reward: int
    trust: int
    fake_seen: int
    chance: int
    segments: int


@dataclass(frozen=True)
class Standing:
    """A connected node as the scheduler sees it for one job's tasks."""

    node: Address
    owner: Address
    executes: bool
    guilty: bool
    rests: bool
    stake: int
    in_flight: int
    holds: int
    room: int
    lost: int
    done: int
    others: int
    """Owners here that could audit it."""


@dataclass(frozen=True)
class Kind:
    """Tasks of a job that are alike: one reward, one number of segments. `ready`: how many of them wait for a node."""

    reward: int
    segments: int
    ready: int


@dataclass(frozen=True)
class Here:
    """What the engine knows of a job now."""

    nodes: tuple[Standing, ...]
    kinds: tuple[Kind, ...]
    collusion_bps: int
    given_back_bps: int


# What the engine knows: called in the verifier's loop


def look_around(world: World, number: int) -> Here:
    """In one go over the nodes that are connected, `NODES` at most."""
    board, job = world.memory(scheduling.Board), world.rows.jobs.get(JobId(number))
    workload = job.workload_name if job else ""
    owners = board.here.get(workload) or Tally[Address]()
    found = []
    for node in list(world.nodes.values())[:NODES]:
        requester = job is not None and job.requester in owners and job.requester != node.owner
        found.append(
            Standing(
                node=node.node,
                owner=node.owner,
                executes=workload in node.workloads,
                guilty=node.owner in world.rows.guilty,
                rests=node.node in board.resting,
                stake=node.stake,
                in_flight=board.exposure.get(node.owner, 0) + world.elsewhere.get(node.owner, 0),
                holds=len(node.holds),
                room=node.tasks,
                lost=board.losses.get(node.node, 0),
                done=board.load.get(node.node, 0),
                others=len(owners) - (node.owner in owners) - requester,
            )
        )
    kinds = [
        Kind(queue.reward, queue.segments, queue.size)
        for key, queue in list(board.queues.items())[:1000]
        if key[0] == number
    ]
    rules = world.rules
    return Here(tuple(found), tuple(kinds[:NODES]), rules.collusion_bps, rules.given_back_bps)


# Statements


def because(
    about: str,
    text: str,
    *,
    task: int | None = None,
    node: str | None = None,
    shown: out.Shown = NOWHERE,
    **facts: object,
) -> out.Because:
    said = {name: str(value) for name, value in facts.items()}
    return out.Because(about=about, text=text, task=task, node=node, facts=said, shown=shown)


def credits_of(amount: int) -> str:
    """An amount as people read it, exact."""
    whole, rest = divmod(abs(amount), TOKEN)
    fraction = f".{rest:018d}".rstrip("0") if rest else ""
    return f"{'-' if amount < 0 else ''}{whole}{fraction} CREDIT"


def percent(wad: int) -> str:
    return f"{wad * 100 / WAD:.4g}%"


def shown_by(batch: str | None, record: str | None, place: str = "") -> out.Shown:
    """The record of a batch and the command that replays it; `place` is job:task:segment."""
    if batch is None:
        return NOWHERE
    command = f"proofyard verifier dispute replay {batch}" + (f" --segment {place}" if place else "")
    return out.Shown(batch=batch, record=record, replay=command if record else "")


def why_not(node: Standing, job: rows.Job, kind: Kind | None, barred: Sequence[str], here: Here) -> str:
    """Why a node is not given a task of a job now; empty if nothing keeps it from one."""
    if node.guilty:
        return "its owner has a fault here that costs stake: none of its nodes gets work"
    if not node.executes:
        return f"it does not offer to execute {job.workload_name or 'this workload'}"
    if node.node in barred:
        return "it may not have this task again: it let it go too often, was outvoted on it, or was found faulty"
    if node.holds >= node.room:
        return f"it is busy: it holds {node.holds} of the {node.room} tasks that it takes at a time"
    if node.rests:
        return "it declined or was away a moment ago, and is asked again in seconds"
    if kind is None:
        return ""
    return _objection(
        *(node.stake, kind.reward, node.in_flight, kind.segments, job.segments_per_audit, job.auditors_per_segment),
        *(node.others, here.collusion_bps, here.given_back_bps),
    )


@lru_cache(4096)
def _objection(
    *numbers: int,
) -> str:
    stake, reward, in_flight, segments, m, k, others, collusion_bps, given_back_bps = numbers
    return scheduling.objection(
        Wei(stake),
        Wei(reward),
        Wei(in_flight),
        segments=segments,
        segments_per_audit=m,
        auditors_per_segment=k,
        others=others,
        collusion_bps=collusion_bps,
        given_back_bps=given_back_bps,
    )


def of_nodes(
    here: Here, job: rows.Job, kind: Kind | None, barred: Sequence[str], task: int | None
) -> list[out.Because]:
    """Each connected node: what keeps it from a task, or that nothing does."""
    found = []
    for node in here.nodes:
        reason = why_not(node, job, kind, barred, here)
        found.append(
            because(
                "node",
                reason or "nothing keeps it from work: it is asked when its turn comes",
                task=task,
                node=node.node,
                owner=node.owner,
                stake=node.stake,
                in_flight=node.in_flight,
                holds=node.holds,
                room=node.room,
                lost=node.lost,
                done=node.done,
                other_owners=node.others,
            )
        )
    return found


def of_dial(dial: Dial, drawn: int, task: int, node: str, shown: out.Shown) -> out.Because:
    """Why a task was audited or not, by the numbers of the dial."""
    happened = f"{drawn} of its segments were drawn" if drawn else "it was not drawn"
    if dial.chance >= WAD:
        why = (
            f"its worker has {dial.consecutive_valid} valid audits in a row, and is always audited below 10"
            if dial.trust >= WAD
            else "so much is in flight beside its stake that every task is audited"
        )
    elif dial.chance > dial.trust:
        why = "what its owner has in flight beside its stake sets the chance, not its record"
    else:
        why = f"its worker has {dial.consecutive_valid} valid audits in a row"
    return because(
        "drawn",
        f"{happened}: the chance was {percent(dial.chance)}, of {dial.segments} segments; {why}",
        task=task,
        node=node,
        shown=shown,
        chance_e18=dial.chance,
        trust_e18=dial.trust,
        fake_must_be_seen_e18=dial.fake_seen,
        segments_if_drawn=dial.segments,
        consecutive_valid=dial.consecutive_valid,
        stake=dial.stake,
        stake_at_risk=dial.at_risk,
        in_flight=dial.in_flight,
        task_reward=dial.reward,
    )


def of_audit(audit: out.Audit, shown: out.Shown) -> out.Because:
    """What auditors said of a segment, and what that came to."""
    said = [f"{seat.auditor} {_vote(seat, audit)}" for seat in audit.seats]
    text = f"segment {audit.segment}: {audit.verdict}"
    text += f" ({audit.fault}: {audit.reason})" if audit.fault else ""
    text += f"; {', '.join(said)}" if said else "; nobody was asked"
    return because("audit", text, task=audit.task, node=audit.worker, shown=shown, list=" ".join(audit.auditors[:8]))


def _vote(seat: out.Seat, audit: out.Audit) -> str:
    if seat.copied:
        return "gave an answer that it did not compute"
    if seat.state != "opened":
        return {"away": "gave no answer", "working": "works on it", "sealed": "has sealed its answer"}[seat.state]
    if audit.verdict == "pending":
        return "has answered"
    if seat.reason:
        return f"cannot execute it: {seat.reason}"
    return "came to the same state" if seat.answer == audit.claimed else "came to another state"


def of_fault(
    fault: out.Fault, slashed: Sequence[tuple[str, int, int, int, int, bool]], shown: out.Shown
) -> out.Because:
    """A fault, and what it took. `slashed`: (operator, job, task, segment, amount, absolved) of the settlement."""
    where = f"segment {fault.segment}" if fault.segment is not None else "its result"
    took = [
        (amount, absolved)
        for operator, job, task, segment, amount, absolved in slashed
        if (operator, str(job), task) == (fault.operator, fault.job, fault.task)
        and (fault.segment is None or segment == fault.segment)
    ]
    money = ""
    if took:
        amount, absolved = took[0]
        money = f"; {credits_of(amount)} of its owner's stake were slashed" + (", and given back" if absolved else "")
    return because(
        "slashed" if took else "fault",
        f"{fault.kind} in {where}: {fault.reason}{money}",
        task=fault.task,
        node=fault.node,
        shown=shown,
        owner=fault.owner,
        operator=fault.operator,
        **({"slashed": took[0][0]} if took else {}),
    )


def of_payout(payout: RecordedPayout, task: int | None, shown: out.Shown) -> out.Because:
    """What an operator earned in a batch, over all that it did there."""
    earned = {"for work": int(payout.work), "for audits": int(payout.audits)}
    parts = [f"{credits_of(amount)} {what}" for what, amount in earned.items() if amount]
    if payout.segments:
        count = "one share" if payout.segments == 1 else f"{payout.segments} shares"
        parts.append(f"{count} of what was slashed, for faults that it found")
    text = " and ".join(parts) or "nothing: no work of its was accepted, and audits left nothing of their fee for it"
    return because(
        "paid",
        f"operator {payout.operator} earned {text} in batch {shown.batch}",
        task=task,
        node=payout.node,
        shown=shown,
        operator=payout.operator,
        work=payout.work,
        audits=payout.audits,
        valid_audits=payout.valid,
    )


def of_redress(paid: RecordedRedress, shown: out.Shown) -> out.Because:
    """What a fault pays for a task that it made worthless."""
    return because(
        "paid",
        f"operator {paid.operator} is paid up to {credits_of(int(paid.amount))} for task {paid.task}, which is done "
        f"again, out of the stake that fault {paid.fault} of batch {paid.batch} took, once that is final",
        task=paid.task,
        node=paid.node,
        shown=shown,
        operator=paid.operator,
        redress=paid.amount,
        fault_batch=paid.batch,
        fault=paid.fault,
    )


def of_fees(event: BatchSettled, record: str | None) -> out.Because:
    """What verifiers earn by a batch over all of its jobs."""
    signed = event.signers.bit_count()
    seats = "the one seat that signed" if signed == 1 else f"the {signed} seats that signed"
    return because(
        "fees",
        f"verifiers share {credits_of(event.fees)} for batch {event.batch}: whoever led it and {seats}",
        shown=shown_by(str(event.batch), record),
        fees=event.fees,
        signers=signed,
    )


# Gathering: called in threads


class Explainer:
    """Explanations for one verifier. Views and records of the last few batches are kept; one is read at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._engine = context.database.engine
        self._lock = threading.Lock()
        self._kept: OrderedDict[object, Any] = OrderedDict()

    def job(self, number: int, here: Here) -> out.Explanation | None:
        """Why a job is where it is, who gets work of it, and who was paid in its last batches."""
        job = self._job(number)
        if job is None:
            return None
        found = [because("state", f"job {number} is {job.state}" + (f": {job.reason}" if job.reason else ""))]
        for kind in here.kinds:
            if kind.ready:
                text = f"{kind.ready} tasks of {kind.segments} segments and {credits_of(kind.reward)} wait for a node"
                found.append(because("waits", text, ready=kind.ready, task_reward=kind.reward))
        if job.state not in (rows.JobState.DONE, rows.JobState.FAILED):
            waiting = [kind for kind in here.kinds if kind.ready]
            found += of_nodes(here, job, waiting[0] if waiting else None, (), None)
        faults = queries.faults(self._engine, job=number, after=None, limit=SEGMENTS)
        found += [self._fault(fault) for fault in faults.items]
        detail = queries.job(self._engine, number)
        batches = detail.batches if detail else []
        for batch in batches[-BATCHES:]:
            found += self._batch_paid(batch)
        found += self._fees(number)
        cut = len(batches) > BATCHES or faults.next is not None or len(here.nodes) >= NODES
        return out.Explanation(job=str(number), task=None, state=job.state, because=found, cut=cut)

    def task(self, number: int, index: int, here: Here) -> out.Explanation | None:
        """Everything about one task: who had it and why, what it waits for, its audits, faults and pay."""
        job, task = self._job(number), self._task(number, index)
        if job is None or task is None:
            return None
        works = queries.works(self._engine, number, None, ATTEMPTS, index)
        audits = queries.audits(self._engine, job=number, batch=None, after=None, limit=SEGMENTS, index=index)
        faults = queries.faults(self._engine, job=number, after=None, limit=SEGMENTS, index=index)
        found = list(self._given(number, index, works.items))
        found += self._waiting(job, task, here)
        for work in works.items:
            if work.batch is not None:
                found += self._judged(work, [audit for audit in audits.items if audit.batch == work.batch])
        found += [self._fault(fault) for fault in faults.items]
        for batch in dict.fromkeys(work.batch for work in works.items if work.batch is not None):
            nodes = {work.node for work in works.items if work.batch == batch}
            nodes |= {seat.auditor for audit in audits.items if audit.batch == batch for seat in audit.seats}
            found += self._batch_paid(batch, nodes, index)
        cut = works.next is not None or audits.next is not None
        return out.Explanation(job=str(number), task=index, state=task.state, because=found, cut=cut)

    # Parts

    def _job(self, number: int) -> rows.Job | None:
        found = self._row(rows.Job, TABLES[rows.Job].c.id == number)
        return found if isinstance(found, rows.Job) else None

    def _task(self, number: int, index: int) -> rows.Task | None:
        table = TABLES[rows.Task]
        found = self._row(rows.Task, (table.c.job == number) & (table.c.index == index))
        return found if isinstance(found, rows.Task) else None

    def _row(self, kind: type[rows.Row], where: Any) -> rows.Row | None:
        found = queries.read(self._engine, select(TABLES[kind]).where(where).limit(1))
        return row_of(kind, found[0]) if found else None

    def _given(self, number: int, index: int, works: Sequence[out.Work]) -> Iterator[out.Because]:
        """Each attempt, with what the log says of why its node got it, and what came of it."""
        lines = queries.log(self._engine, number, 0, LINES, index).items
        said = iter([line for line in lines if line.kind == "assigned"])
        for work in works:
            line = next((each for each in said if each.node == work.node), None)
            why = f": {line.text}" if line else ""
            outcome = f", {work.outcome}" if work.outcome else ""
            record = self._record_cid(work.batch)
            yield because(
                "given",
                f"attempt {work.attempt} went to {work.node}{why}; it is {work.state}{outcome}",
                task=index,
                node=work.node,
                shown=shown_by(work.batch, record),
                owner=work.owner,
                attempt=work.attempt,
                **({"log_line": line.seq} if line else {}),
            )
        for line in lines:
            if line.kind in ("lost", "failed", "undone") and line.task == index:
                yield because("given", line.text, task=index, node=line.node, log_line=line.seq)

    def _waiting(self, job: rows.Job, task: rows.Task, here: Here) -> list[out.Because]:
        """Why nobody has it."""
        if task.state == rows.TaskState.WAITING:
            deps = decode(task.spec, TaskSpec).deps
            text = f"it waits for the results of tasks {', '.join(map(str, deps[:20]))}"
            return [because("waits", text, task=task.index)]
        if task.state != rows.TaskState.READY:
            return []
        kind = Kind(int(task.reward), decode(task.spec, TaskSpec).segments, 1)
        reason = job.reason or "every node that may have it is at work"
        return [
            because("waits", f"it is ready: {reason}", task=task.index),
            *of_nodes(here, job, kind, task.barred, task.index),
        ]

    def _judged(self, work: out.Work, audits: Sequence[out.Audit]) -> Iterator[out.Because]:
        """The draw of a committed work and its audits."""
        assert work.batch is not None
        record = self._record_cid(work.batch)
        try:
            dial = self._dials(work.batch).get((int(work.job), work.task))
        except (ProofyardError, LookupError, ValueError) as error:
            text = f"what the dial reckoned with cannot be read now: {str(error)[:200]}"
            yield because("drawn", text, task=work.task, node=work.node, shown=shown_by(work.batch, record))
            dial = None
        if dial is not None:
            yield of_dial(dial, len(audits), work.task, work.node, shown_by(work.batch, record))
        for audit in audits:
            yield of_audit(audit, shown_by(work.batch, record, f"{audit.job}:{audit.task}:{audit.segment}"))

    def _fault(self, fault: out.Fault) -> out.Because:
        place = "" if fault.segment is None else f"{fault.job}:{fault.task}:{fault.segment}"
        shown = shown_by(fault.batch, self._record_cid(fault.batch), place)
        slashed: Sequence[tuple[str, int, int, int, int, bool]] = ()
        if shown.record is not None and fault.batch is not None:
            try:
                slashed = self._slashes(int(fault.batch))
            except ProofyardError as error:
                logger.info("the slashes of batch %s cannot be read: %s", fault.batch, error)
        return of_fault(fault, slashed, shown)

    def _batch_paid(self, batch: str, nodes: set[str] | None = None, task: int | None = None) -> list[out.Because]:
        """What was paid in a settled batch, of these nodes or all (`NODES` at most)."""
        cid = self._record_cid(batch)
        if cid is None:
            return [because("settled", f"batch {batch} is not settled yet: nothing is paid", task=task)]
        shown = shown_by(batch, cid)
        try:
            payouts, redress = self._payouts(Cid(cid))
        except (ProofyardError, OSError) as error:
            text = f"the record of batch {batch} is not read here ({str(error)[:200]}); the command reads it"
            return [because("settled", text, task=task, shown=shown)]
        chosen = [each for each in payouts if nodes is None or each.node in nodes]
        thrown = [each for each in redress if nodes is None or each.node in nodes]
        return [
            *(of_payout(payout, task, shown) for payout in chosen[:NODES]),
            *(of_redress(each, shown) for each in thrown[:NODES]),
        ]

    # What batches say

    def _record_cid(self, batch: str | None) -> str | None:
        found = queries.batch(self._engine, int(batch)) if batch is not None else None
        return found.record if found else None

    def _payouts(self, cid: Cid) -> tuple[tuple[RecordedPayout, ...], tuple[RecordedRedress, ...]]:
        def load() -> tuple[tuple[RecordedPayout, ...], tuple[RecordedRedress, ...]]:
            record: BatchRecord = decode_record(self._context.store.get_bytes(cid, max_bytes=MAX_RECORD_BYTES))
            return record.payouts, record.redress

        return self._keep(("payouts", cid), load)

    def _fees(self, number: int) -> list[out.Because]:
        """What the verifiers share of a job's batches, as their last settlements on chain say."""
        try:
            settlements = {event.batch: event for event in self._context.chain.settled(JobId(number))}
        except ProofyardError as error:
            logger.info("the settlements of job %s cannot be read: %s", number, error)
            return []
        return [of_fees(event, self._record_cid(str(batch))) for batch, event in list(settlements.items())[-BATCHES:]]

    def _slashes(self, batch: int) -> Sequence[tuple[str, int, int, int, int, bool]]:
        def load() -> list[tuple[str, int, int, int, int, bool]]:
            return [
                (str(each.operator), each.job, each.task, each.segment, each.amount, each.absolved)
                for each in self._context.chain.slashes(BatchId(batch))
            ]

        return self._keep(("slashes", batch, self._record_cid(str(batch))), load)

    def _dials(self, batch: str) -> Mapping[tuple[int, int], Dial]:
        """Of every task of a batch. Raises `ProofyardError` where chain or member lists cannot be had."""
        table = TABLES[rows.Batch]
        row = self._row(rows.Batch, table.c.chain_id == int(batch))
        if not isinstance(row, rows.Batch) or not row.seed:
            return {}
        return self._keep(("dials", batch, row.attempt, row.seed), lambda: self._load_dials(row))

    def _load_dials(self, row: rows.Batch) -> dict[tuple[int, int], Dial]:
        view = self._context.chain.view(BatchId(row.chain_id or 0), row.attempt)
        members: dict[BatchId, Sequence[Member]] = {}
        counted = decode(row.counted, tuple[tuple[int, Cid], ...], max_bytes=16 << 20) if row.counted else ()
        for batch, cid in counted:
            try:
                data = self._context.store.get_bytes(cid, max_bytes=MAX_MEMBERS_BYTES)
            except ArtifactError as error:
                raise CodecError(f"the member list of batch {batch} is not kept any more ({error})") from None
            members[BatchId(batch)] = decode_members(data)
        members[view.batch] = decode_members(row.members)
        return dials_of(view, members)

    def _keep(self, key: object, load: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = load()
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            found: T = self._kept[key]
            return found


def dials_of(view: BatchView, members: Mapping[BatchId, Sequence[Member]]) -> dict[tuple[int, int], Dial]:
    """What the plan of a batch reckons with, task by task: the numbers behind `plan.odds_of`."""
    exposure, found = exposure_of(view, members), {}
    for member in members[view.batch]:
        commitment = member.commitment
        job, (_, owner) = view.jobs[commitment.job], view.owners[commitment.node]
        in_flight, worker = Wei(exposure[owner]), view.operator_of(commitment.node)
        stake, valid = (worker.stake, worker.consecutive_valid) if worker else (Wei(0), 0)
        at_risk = stake_at_risk(stake, view.given_back_bps)
        reward = task_reward(job, commitment.work_units)
        odds = odds_of(view, commitment, in_flight)
        alike = tasks_alike(in_flight, reward)
        seen = per_task(at_risk, alike, in_flight, view.collusion_bps)
        found[int(commitment.job), int(commitment.task)] = Dial(
            *(valid, stake, at_risk, in_flight, reward, p_trust(valid), seen, odds.wad, odds.segments)
        )
    return found
