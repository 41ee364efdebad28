"""What each operator earns in a batch: work by units and weight, audits by the segment."""

from collections import Counter
from collections.abc import Iterator, Sequence

from proofyard.protocol.audit import Verdict, carried
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.payout import share_reward
from proofyard.protocol.record import BatchRecord, RecordedPayout, claimed_answers
from proofyard.protocol.types import Address, Wei


def earnings(record: BatchRecord, specs: Sequence[TaskSpec]) -> tuple[RecordedPayout, ...]:
    """The payouts that follow from a record's tasks, audits and faults, and from its job's task graph `specs`.

    The batch's share of the job's reward is that of its accepted work units in all work units of the job; it is paid
    out whole. A segment's audit earns the job's audit fee over all seats that its plans can have, and less only when
    audits of repeated tasks would exceed what is left of the fee; a vote against the verdict earns nothing. A task
    that stayed undecided is done again and earns nothing; an operator at fault anywhere in the batch earns nothing in
    it.
    """
    operators = {operator.node: operator for operator in record.operators}
    guilty = {fault.node for fault in record.faults}
    undecided = {audit.task for audit in record.audits if audit.verdict == Verdict.UNDECIDED}
    known = operators.keys() - guilty
    committed = (task.commitment for task in record.tasks)
    accepted = [c for c in committed if c.node in known and c.task not in undecided]
    work = _work(record, specs, accepted)
    valid = Counter(
        c.node for c in accepted if any(a.task == c.task and a.verdict == Verdict.VALID for a in record.audits)
    )
    segments = Counter(node for node in _right_votes(record) if node not in guilty)
    price = _price_per_segment(record, specs, sum(segments.values()))
    return tuple(
        RecordedPayout(
            operator=operators[node].id,
            node=node,
            owner=operators[node].owner,
            work=str(work[node]),
            audits=str(segments[node] * price),
            valid=valid[node],
            segments=segments[node],
        )
        for node in sorted(set(work) | set(segments))
    )


def _right_votes(record: BatchRecord) -> Iterator[Address]:
    """The auditor of every vote that agrees with its verdict."""
    claimed = claimed_answers(record.traces, record.audits)
    for audit in record.audits:
        answers = audit.answers()
        answer = carried(answers.values(), claimed[audit.task, audit.segment], audit.verdict)
        yield from (vote.auditor for vote in audit.votes if answers[vote.owner] == answer)


def _work(record: BatchRecord, specs: Sequence[TaskSpec], accepted: Sequence[Commitment]) -> Counter[Address]:
    trust = {operator.node: operator.consecutive_valid for operator in record.operators}
    work: Counter[Address] = Counter()
    if accepted:
        units = sum(commitment.work_units for commitment in accepted)
        reward = Wei(int(record.reward) * units // sum(spec.work_units for spec in specs))
        shares = share_reward(reward, [(c.node, c.work_units, trust[c.node]) for c in accepted])
        for commitment, share in zip(accepted, shares, strict=True):
            work[commitment.node] += share
    return work


def _price_per_segment(record: BatchRecord, specs: Sequence[TaskSpec], segments: int) -> Wei:
    fee, paid = int(record.audit_fee), int(record.audits_paid_before)
    seats = sum(min(spec.segments, record.segments_per_audit) for spec in specs) * record.auditors_per_segment
    return Wei(min(fee // seats, (fee - paid) // segments) if segments else 0)
