"""What each operator earns in a batch: work by its units, audits by the fee, line by line and within its budget.

Honest work that is done again is never paid out of the reward: a task's units are paid once. What a fault is to blame
for is paid by that (`redress`), everything else, where nobody is, out of what the audits leave of their fee.

All of it is whole numbers and follows from the record and the chain. A line keeps the reward and the verifiers' fee for
all the work it holds, so audits of work that has to be done again never eat what that will be paid from. A budget that
does not suffice pays the same part of everything.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from proofyard.protocol.audit import Verdict
from proofyard.protocol.findings import accepted as accepted
from proofyard.protocol.findings import accepted_tasks, faulty_tasks, guilty_owners, supporters, thrown_away
from proofyard.protocol.members import TaskKey
from proofyard.protocol.payout import share_by
from proofyard.protocol.record import AuditedSegment, BatchRecord, CommittedTask, RecordedPayout, claimed_answer
from proofyard.protocol.settlement import FaultReason, Line, OperatorId, Share
from proofyard.protocol.types import Address, JobId, Wei
from proofyard.protocol.view import BatchView, JobFacts, OperatorFacts

REPUTATION_PRICE = Wei(10**17)
"""What auditors must have been paid for a valid audit that counts: a reputation costs its number times this, in pay to
owners that the draw chose, however the jobs were cut."""

LEAST_SEAT_PAY = Wei(10**15)
"""What auditing a segment must pay: for less nobody would move the state that it takes. Nodes take no work of a job
that pays less, because an audit to which nobody comes leaves a task unpaid."""


class AuditTerms(Protocol):
    """What a job says of its audits: `JobFacts`, a job on chain, or the terms of one to be."""

    @property
    def audit_fee(self) -> Wei: ...
    @property
    def units(self) -> int: ...
    @property
    def auditors_per_segment(self) -> int: ...
    @property
    def segments_per_audit(self) -> int: ...


def seat_price(job: AuditTerms, work_units: int, segments: int) -> Wei:
    """What a seat at a segment of a task is paid before a budget cuts it: the fee's part of the task's units, shared by
    the seats that the job asks for."""
    seats = min(segments, job.segments_per_audit) * job.auditors_per_segment
    return Wei(job.audit_fee * work_units // (job.units * seats))


@dataclass(frozen=True)
class Earnings:
    payouts: tuple[RecordedPayout, ...]
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class _Vote:
    """A vote that earns something: its task, who gave it, and its price before a budget cuts it."""

    key: TaskKey
    operator: OperatorId
    price: Wei


def earnings(view: BatchView, record: BatchRecord, named: Collection[JobId] = ()) -> Earnings:
    """The payouts and shares that follow from the rest of a record (its own `payouts` are not read). On payouts bears
    which jobs have `named` auditors (`plan.Named`): who chooses its own auditors could make its nodes a reputation."""
    paid, thrown = accepted_tasks(view, record), thrown_away(view, record)
    redressed = {each.task_key for each in record.redress}
    unblamed = [task for task in thrown if task.key not in redressed]
    work: Counter[OperatorId] = Counter()
    audits: Counter[OperatorId] = Counter()
    fees: Counter[TaskKey] = Counter()
    votes: defaultdict[JobId, list[_Vote]] = defaultdict(list)
    for vote in _paid_votes(view, record):
        votes[vote.key[0]].append(vote)
    shares = []
    for line in view.header.lines:
        units, reward = _pay_work(view, line, [task for task in paid if task.commitment.job == line.job], work)
        budget = _audit_budget(view.jobs[line.job], line)
        pay = _pay_votes(votes[line.job], budget)
        lost = _pay_thrown_away(
            view, [task for task in unblamed if task.commitment.job == line.job], Wei(budget - sum(pay)), work
        )
        for vote, amount in zip(votes[line.job], pay, strict=True):
            audits[vote.operator] += amount
            fees[vote.key] += amount
        redress = Wei(sum(int(each.amount) for each in record.redress if each.job == line.job))
        shares.append(Share(units, Wei(reward + sum(pay) + lost), redress))
    found = Counter(_finders(view, record))
    done = tuple(task for task in (*paid, *thrown) if task.commitment.job not in named)
    payouts = _payouts(view, work, audits, _valid(view, record, done, fees), found)
    return Earnings(payouts, tuple(shares))


def verifier_fee(job: JobFacts, paid_units: int) -> Wei:
    """What the Registry takes from a line for the verifiers."""
    return Wei(job.verifier_fee * paid_units // job.units)


def _pay_work(view: BatchView, line: Line, tasks: list[CommittedTask], work: Counter[OperatorId]) -> tuple[int, Wei]:
    """Adds what the accepted tasks of a line earn to `work`; returns the units that are paid, and what all of it is.

    A task earns its part of the job's reward, which the dial reckons with, whoever did it: were old nodes paid more, a
    reputation would be worth buying with worthless jobs of one's own."""
    job, done = view.jobs[line.job], sum(task.commitment.work_units for task in tasks)
    if not done:
        return 0, Wei(0)
    reserve = max(1, _reserve(job, done))
    # A base unit for each unit of work is what rounding may have taken from it.
    units = min(done, done * (line.budget + done) // reserve)
    if verifier_fee(job, units) > line.budget:
        units = min(done, done * line.budget // reserve)
    pay = [Wei(job.reward * task.commitment.work_units * units // (job.units * done)) for task in tasks]
    room = Wei(line.budget - verifier_fee(job, units))
    pay = pay if sum(pay) <= room else share_by(room, pay)
    for task, amount in zip(tasks, pay, strict=True):
        work[_operator(view, task.commitment.node).id] += amount
    return units, Wei(sum(pay))


def _pay_thrown_away(view: BatchView, tasks: list[CommittedTask], budget: Wei, work: Counter[OperatorId]) -> Wei:
    """Adds to `work` what honest work earns that is done again through nobody's fault, out of what the votes leave of
    the audits' budget; returns what all of it is. A segment is paid like an audit of it, a task never more than if it
    counted."""
    prices = [_price_thrown_away(view, task) for task in tasks]
    pay = prices if sum(prices) <= budget else share_by(budget, prices)
    for task, amount in zip(tasks, pay, strict=True):
        work[_operator(view, task.commitment.node).id] += amount
    return Wei(sum(pay))


def _price_thrown_away(view: BatchView, task: CommittedTask) -> Wei:
    commitment = task.commitment
    job = view.jobs[commitment.job]
    price = seat_price(job, commitment.work_units, commitment.segments) * commitment.segments
    return Wei(min(price, job.reward * commitment.work_units // job.units))


def _reserve(job: JobFacts, units: int) -> Wei:
    """Reward and verifiers' fee of so many units, rounded up."""
    return Wei(-(-(job.reward + job.verifier_fee) * units // job.units))


def _audit_budget(job: JobFacts, line: Line) -> Wei:
    """The line's part of the audit fee, as far as its budget has it beside what its work may have to be paid."""
    return Wei(min(job.audit_fee * line.units // job.units, max(0, line.budget - _reserve(job, line.units))))


def _paid_votes(view: BatchView, record: BatchRecord) -> Iterator[_Vote]:
    """The votes that the audit fee pays: right ones, and all where nobody knows what is right; not those on faulty
    tasks, which the slash pool pays."""
    guilty, faulty, tasks = guilty_owners(view, record), faulty_tasks(record), record.by_key
    for audit in record.audits:
        if audit.task_key in faulty:
            continue
        job, commitment = view.jobs[audit.job], tasks[audit.task_key].commitment
        price = seat_price(job, commitment.work_units, commitment.segments)
        for auditor in _right(record, audit):
            operator = _operator(view, auditor)
            if operator.owner not in guilty:
                yield _Vote(audit.task_key, operator.id, price)


def _pay_votes(votes: list[_Vote], budget: Wei) -> list[Wei]:
    prices = [vote.price for vote in votes]
    return prices if sum(prices) <= budget else share_by(budget, prices)


def _right(record: BatchRecord, audit: AuditedSegment) -> tuple[Address, ...]:
    if audit.verdict == Verdict.UNDECIDED:
        return tuple(audit.answers())
    return supporters(audit, claimed_answer(record.by_key, audit))


def _finders(view: BatchView, record: BatchRecord) -> Iterator[OperatorId]:
    """Who found a fault with others, its worker's or another auditor's: their share of what was slashed."""
    guilty, faulty = guilty_owners(view, record), faulty_tasks(record)
    false = {(f.job, f.task, f.segment) for f in record.faults if f.kind == FaultReason.FALSE_AUDIT}
    for audit in record.audits:
        if audit.task_key in faulty or audit.key in false:
            for auditor in _right(record, audit):
                operator = _operator(view, auditor)
                if operator.owner not in guilty:
                    yield operator.id


def _valid(
    view: BatchView, record: BatchRecord, done: tuple[CommittedTask, ...], fees: Counter[TaskKey]
) -> Counter[OperatorId]:
    """What each worker's reputation grows by: its audited tasks that were found right, as far as their audits were
    paid."""
    audited = {audit.task_key for audit in record.audits}
    tasks: Counter[OperatorId] = Counter()
    spent: defaultdict[OperatorId, int] = defaultdict(int)
    for task in done:
        if task.key in audited:
            worker = _operator(view, task.commitment.node).id
            tasks[worker] += 1
            spent[worker] += fees[task.key]
    return Counter({worker: min(count, spent[worker] // REPUTATION_PRICE) for worker, count in tasks.items()})


def _payouts(
    view: BatchView,
    work: Counter[OperatorId],
    audits: Counter[OperatorId],
    valid: Counter[OperatorId],
    found: Counter[OperatorId],
) -> tuple[RecordedPayout, ...]:
    """One payout for each operator that gets something, in the order of their ids."""
    return tuple(
        RecordedPayout(
            operator=id_,
            node=view.by_id[id_].node,
            owner=view.by_id[id_].owner,
            work=str(work[id_]),
            audits=str(audits[id_]),
            valid=valid[id_],
            segments=found[id_],
        )
        for id_ in sorted(work.keys() | audits.keys() | valid.keys() | found.keys())
        if work[id_] or audits[id_] or valid[id_] or found[id_]
    )


def _operator(view: BatchView, node: Address) -> OperatorFacts:
    operator = view.operator_of(node)
    assert operator is not None, f"{node} is no node's key"
    return operator
