"""What honest work is paid that a fault made worthless: its price, out of the stake that the fault took.

A task that rests on a faulty one within its job's look-ahead, and is thrown away (`findings.thrown_away`), is paid once
for that fault. The Registry sets a part of the slashed stake aside when the fault is final, and pays out of it whoever
shows such a payout: its price, or as large a part of that as what is set aside is of the prices of everything that may
rest on the faulty tasks. So nothing has to be known of other batches, who comes first gets no more than who comes last,
and neither a job's escrow nor anybody else's stake is ever asked. A fault that a jury undoes pays nothing. The prices
stay within what the work's own line has left of its budget, so that a quorum has nothing more to win by inventing them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from proofyard.protocol.earnings import earnings, verifier_fee
from proofyard.protocol.findings import accepted, accusers_of, faulty_tasks, thrown_away
from proofyard.protocol.lookahead import built_on
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.members import TaskKey
from proofyard.protocol.payout import share_by
from proofyard.protocol.record import BatchRecord, RecordedRedress
from proofyard.protocol.settlement import MAX_AMOUNT, Cause, FaultReason
from proofyard.protocol.settling import charged
from proofyard.protocol.types import Address, Cid, JobId, TaskIndex, Wei
from proofyard.protocol.view import BatchView, JobFacts


@dataclass(frozen=True)
class Ruin:
    """A fault on chain that work is paid from, and the tasks of its owner that were found faulty with it."""

    cause: Cause
    owner: Address
    tasks: tuple[TaskKey, ...]


@dataclass(frozen=True)
class Earlier:
    """What earlier records of a batch's jobs say: the results that they accept, what they found faulty, and for which
    faults they pay the work that was thrown away."""

    paid: Mapping[TaskKey, Cid] = field(default_factory=dict)
    ruins: tuple[Ruin, ...] = ()
    redressed: frozenset[tuple[Cause, TaskKey]] = frozenset()

    def __or__(self, other: "Earlier") -> "Earlier":
        paid = {**self.paid, **other.paid}
        return Earlier(paid, self.ruins + other.ruins, self.redressed | other.redressed)


def outcome_of(view: BatchView, record: BatchRecord) -> Earlier:
    """What a settled record means for later batches."""
    redressed = frozenset((paid.cause, paid.task_key) for paid in record.redress)
    return Earlier(accepted(view, record), ruins_of(view, record), redressed)


def ruins_of(view: BatchView, record: BatchRecord) -> tuple[Ruin, ...]:
    """The faults of a record that work is paid from: those that cost stake and that somebody answers for with his."""
    owners = {fault.task_key: view.owners[fault.node][1] for fault in record.faults if not _is_of_auditor(fault.kind)}
    faulty = sorted(faulty_tasks(record))
    found: dict[Address, Ruin] = {}
    for index, fault in enumerate(charged(record, view)):
        owner = view.owners[fault.node][1]
        tasks = tuple(key for key in faulty if owners[key] == owner)
        costly = fault.kind != FaultReason.DISAGREED and accusers_of(record, fault)
        if owner not in found and tasks and costly:
            found[owner] = Ruin(Cause(record.batch, record.attempt, index), owner, tasks)
    return tuple(found.values())


def redress_of(
    view: BatchView,
    record: BatchRecord,
    manifests: Mapping[JobId, Manifest],
    graphs: Mapping[JobId, Sequence[TaskSpec]],
    earlier: Earlier,
) -> tuple[RecordedRedress, ...]:
    """What a record's thrown away tasks are paid, in its order; of the record, all before `redress` is read. A line
    that has too little left of its budget pays the same part of all prices. Where several faults ruined a task it is
    the first one that pays it, never one of the task's own owner."""
    ruins = sorted((*earlier.ruins, *ruins_of(view, record)), key=lambda ruin: ruin.cause)
    if not ruins:
        return ()
    ruined = {
        (ruin.cause, job): _resting(
            graph, (task for where, task in ruin.tasks if where == job), manifests[job].look_ahead
        )
        for ruin in ruins
        for job, graph in graphs.items()
    }
    found = []
    for task in thrown_away(view, record):
        (job, index), operator = task.key, view.operator_of(task.commitment.node)
        assert operator is not None, f"{task.commitment.node} is no node's key"
        causes = (
            ruin
            for ruin in ruins
            if index in ruined[ruin.cause, job]
            and ruin.owner != operator.owner
            and (ruin.cause, task.key) not in earlier.redressed
        )
        ruin = next(causes, None)
        if ruin is None:
            continue
        whole: int = sum(price_of(view.jobs[job], graphs[job][each].work_units) for each in ruined[ruin.cause, job])
        # Each of the jobs that it lied in has an equal part of what is set aside.
        prices = min(MAX_AMOUNT, whole * len({where for where, _ in ruin.tasks}))
        amount = price_of(view.jobs[job], task.commitment.work_units)
        found.append(
            RecordedRedress(
                *task.key,
                operator.id,
                operator.node,
                operator.owner,
                batch=ruin.cause.batch,
                attempt=ruin.cause.attempt,
                fault=ruin.cause.fault,
                amount=str(amount),
                prices=str(prices),
            )
        )
    return _within_budgets(view, record, tuple(found))


def _within_budgets(
    view: BatchView, record: BatchRecord, wanted: tuple[RecordedRedress, ...]
) -> tuple[RecordedRedress, ...]:
    if not wanted:
        return ()
    shares = earnings(view, msgspec.structs.replace(record, redress=wanted)).shares
    found = {each.task_key: each for each in wanted}
    for line, share in zip(view.header.lines, shares, strict=True):
        left = Wei(max(0, line.budget - share.amount - verifier_fee(view.jobs[line.job], share.paid_units)))
        ours = [each for each in wanted if each.job == line.job]
        if share.redress > left:
            parts = share_by(left, [int(each.amount) for each in ours])
            for each, part in zip(ours, parts, strict=True):
                found[each.task_key] = msgspec.structs.replace(each, amount=str(part))
    return tuple(found.values())


def price_of(job: JobFacts, units: int) -> Wei:
    """A task's part of its job's reward."""
    return Wei(job.reward * units // job.units)


def _resting(graph: Sequence[TaskSpec], tasks: Iterable[TaskIndex], look_ahead: int) -> frozenset[TaskIndex]:
    """What may have been started on results of `tasks` before their verdicts."""
    return built_on(graph, [task for task in tasks if task < len(graph)], depth=look_ahead)


def _is_of_auditor(kind: FaultReason) -> bool:
    return kind == FaultReason.FALSE_AUDIT
