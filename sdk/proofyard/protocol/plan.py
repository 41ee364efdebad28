"""The plan of a batch from public facts alone: what each owner has in flight, what the dial makes of it, who audits.

`members` are the member lists by batch, this batch's among them; a batch whose list nobody delivered is not in it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from proofyard.protocol.audit import AuditPlan, BatchEntry, Operator, Pool, audit_plan, pool_of
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.dial import WAD, AuditOdds, audit_odds, stake_at_risk, tasks_alike
from proofyard.protocol.members import Member
from proofyard.protocol.settlement import Line
from proofyard.protocol.types import Address, BatchId, Digest, JobId, Wei
from proofyard.protocol.view import BatchView, JobFacts

Members = Mapping[BatchId, Sequence[Member]]

Named = Mapping[JobId, frozenset[Address]]
"""Of jobs whose auditors are not drawn from everybody, the owners from whom they are: who was given the data."""

NOBODY: Named = {}


def task_reward(job: JobFacts, work_units: int) -> Wei:
    """A task's part of its job's reward, rounded down."""
    return Wei(job.reward * work_units // job.units)


def exposure_of(view: BatchView, members: Members) -> Counter[Address]:
    """The reward, in base units, that each owner with tasks in this batch has in flight at the draw: over all of its
    nodes and the open batches of all verifiers.

    A commitment counts once, and only if its worker signed it: a verifier cannot make up what somebody else owes.
    """
    owners = {owner for member in members[view.batch] if (owner := _owner(view, member.commitment))}
    exposure: Counter[Address] = Counter()
    seen: set[Digest] = set()
    for batch in view.open_batches:
        lines = {line.job: line for line in batch.header.lines}
        for member in members.get(batch.batch, ()):
            owner, line = _owner(view, member.commitment), lines.get(member.commitment.job)
            if owner in owners and line and _counts(view, member, line, seen):
                exposure[owner] += task_reward(view.jobs[line.job], member.commitment.work_units)
    return exposure


def plan_of(view: BatchView, members: Members, named: Named = NOBODY) -> AuditPlan:
    """The audits of this batch, as everybody computes them."""
    return audit_plan(view.seed, entries_of(view, members, named), auditor_pool(view))


def entries_of(view: BatchView, members: Members, named: Named = NOBODY) -> Iterator[BatchEntry]:
    """What the plan is drawn from: each commitment of the batch with its odds, in the order of the member list. Where
    owners are named, a verdict costs no stake, so that every task is audited.

    Raises `KeyError` for a job that is none of the batch's or a key that no node ever had."""
    exposure = exposure_of(view, members)
    for member in members[view.batch]:
        commitment = member.commitment
        job, (_, owner) = view.jobs[commitment.job], view.owners[commitment.node]
        odds, those = odds_of(view, commitment, Wei(exposure[owner])), named.get(commitment.job)
        yield BatchEntry(
            job=commitment.job,
            task=commitment.task,
            segments=commitment.segments,
            leaf=commitment.struct_hash(),
            odds=odds if those is None else AuditOdds(WAD, odds.segments),
            auditors_per_segment=job.auditors_per_segment,
            barred=frozenset((owner, job.requester)),
            named=those,
        )


def odds_of(view: BatchView, commitment: Commitment, in_flight: Wei) -> AuditOdds:
    """How likely a task of this batch is audited, its owner having `in_flight`. For certain, where its worker is not
    active any more or has another key than the one that it signed with."""
    job, worker = view.jobs[commitment.job], view.operator_of(commitment.node)
    alike = tasks_alike(in_flight, task_reward(job, commitment.work_units))
    stake = stake_at_risk(worker.stake if worker else Wei(0), view.given_back_bps)
    odds = audit_odds(
        worker.consecutive_valid if worker else 0,
        stake,
        alike,
        in_flight,
        view.collusion_bps,
        commitment.segments,
        job.segments_per_audit,
    )
    current = worker is not None and worker.active and worker.node == commitment.node
    return odds if current else AuditOdds(WAD, odds.segments)


def auditor_pool(view: BatchView) -> Pool:
    """The active nodes at the draw but for those of the verifiers' owners that may lead or sign this batch's
    settlement."""
    active: Iterable[Operator] = (Operator(o.node, o.owner) for o in view.operators if o.active)
    return pool_of(active, seated_owners(view))


def seated_owners(view: BatchView) -> Collection[Address]:
    """The owners of the seats that count for this batch: its leaders and all who can sign for it."""
    return {seat.owner for seat in view.quorum}


def _owner(view: BatchView, commitment: Commitment) -> Address | None:
    known = view.owners.get(commitment.node)
    return known[1] if known else None


def _counts(view: BatchView, member: Member, line: Line, seen: set[Digest]) -> bool:
    """Whether a commitment is its worker's, is to its job, and has not been counted before."""
    commitment = member.commitment
    leaf = commitment.struct_hash()
    if leaf in seen or not 0 < commitment.work_units <= line.units:
        return False
    if not commitment.is_signed(view.domain, member.signature):
        return False
    seen.add(leaf)
    return commitment.manifest == view.jobs[line.job].manifest
