"""Whole batches, drawn, tallied and paid by the code of the protocol: what strategists and honest owners are paid.

Every batch is played twice from one seed, once honestly and once with the strategy, up to its settlement: no fault is
contested. Margins are the lower bounds of 99.9% intervals over all batches.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt

import msgspec
import numpy as np

from bench_economics_auditors import execution
from bench_economics_court import NODE_STAKE
from bench_economics_setup import (
    AUDIT_FEE,
    FETCH,
    PARAMS,
    SEGMENTS_PER_AUDIT,
    VERIFIER_FEE,
    WORK,
    Bench,
    Cell,
    K,
    share,
    tokens,
    wei,
)
from proofyard.protocol.audit import BatchEntry as Entry
from proofyard.protocol.audit import SegmentAudit, Verdict, audit_plan, tally
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.dial import WAD
from proofyard.protocol.earnings import earnings
from proofyard.protocol.findings import false_audits
from proofyard.protocol.members import Member
from proofyard.protocol.plan import auditor_pool, odds_of, task_reward
from proofyard.protocol.record import AuditedSegment, AuditVote, BatchRecord, RecordedFault
from proofyard.protocol.settlement import FaultReason, Header, Line, OperatorId
from proofyard.protocol.types import Address, BatchId, Digest, JobId, Signature, TaskIndex, Wei
from proofyard.protocol.view import BatchView, JobFacts, OperatorFacts

JOB, BATCH = JobId(1), BatchId(1)
SEGMENTS = 16
"""Of a task here: fewer than elsewhere, so that fewer hashes draw as many fakes."""

TRACE = (raw_cid(b"committed"),) * (SEGMENTS + 1)
CLAIMED, TRUE = cid_digest(TRACE[0]), cid_digest(raw_cid(b"executed"))
SIGMAS = 3.29
"""Of a one-sided 99.95% bound of a normal mean."""


@dataclass(frozen=True)
class Play:
    """`owners` owners with a stake each, the first `colluding` of them as one. Of `tasks` tasks of `reward` in a
    batch the first `faking` owners have `own` each, the others share the rest. `votes`: what colluding auditors
    answer."""

    words: str
    role: str
    owners: int
    colluding: int
    faking: int
    own: int
    votes: str
    stake: float = 100.0
    reputation: int = 100
    tasks: int = 10
    reward: float = 2.0
    batches: int = 2_500


PLAYS = (
    Play("fakes one segment of every task", "worker", 30, 1, 1, 8, "honest"),
    Play("fakes one segment of every task, large", "worker", 60, 1, 1, 8, "honest", reward=8.0),
    Play(
        "fakes one segment of every task, trusted and rich",
        "worker",
        60,
        1,
        1,
        8,
        "honest",
        1_000.0,
        10_000,
        reward=10.0,
    ),
    Play("fakes with a tenth of all owners", "worker", 60, 6, 1, 8, "support"),
    Play("fakes with a quarter of all owners", "worker", 60, 15, 1, 8, "support"),
    Play("fakes with 40% of all owners", "worker", 60, 24, 1, 8, "support"),
    Play("fakes, split over 8 owners", "worker", 60, 8, 8, 1, "support"),
    Play("seals what it makes up", "auditor", 30, 1, 0, 0, "random", batches=500),
    Play("accuses falsely with a quarter of all owners", "auditor", 60, 15, 0, 0, "accuse", batches=500),
)


def cells(bench: Bench) -> Iterator[Cell]:
    for number, play in enumerate(PLAYS):
        batches = 20 if bench.quick else play.batches
        margins = list(played(play, batches, [bench.seed, number]))
        mean, deviation = float(np.mean(margins)), float(np.std(margins, ddof=1))
        bound = mean - SIGMAS * deviation / sqrt(batches)
        where = {
            "stake": play.stake,
            "reputation": play.reputation,
            "tasks": play.own,
            "reward": play.reward,
            "owners": play.owners,
            "colluding": play.colluding / play.owners,
            "batches": batches,
            "mean": round(mean, 3),
        }
        if play.faking and play.colluding == 1:
            where["formula"] = round(formula(play), 3)
        yield Cell(play.role, play.words, where, bound, takes="what its exact cells say", simulated=True)


def formula(play: Play) -> float:
    """The mean to expect where nobody colludes: what a hit costs, less the work that is saved."""
    view = _view(play)
    members = _members(play, view, np.random.default_rng(0))
    odds = next(_entries(play, view, members)).odds
    hit = 1 - (1 - odds.wad / WAD * odds.segments / SEGMENTS) ** play.own
    nominal = play.own * play.reward
    return hit * (play.stake + nominal) - WORK * nominal


def played(play: Play, batches: int, seed: list[int]) -> Iterator[float]:
    """By how much honesty beats the strategy in each of so many batches, for all colluders together."""
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    view = _view(play)
    for _ in range(batches):
        view = replace(view, seed=Digest(random.bytes(32)))
        members = _members(play, view, random)
        plan = audit_plan(view.seed, _entries(play, view, members), auditor_pool(view)).audits
        honest, strategic = (_gain(play, view, members, plan, random, strategic) for strategic in (False, True))
        yield honest - strategic


def _view(play: Play) -> BatchView:
    operators = tuple(
        OperatorFacts(OperatorId(i + 1), _node(i), _owner(i), play.reputation, wei(play.stake), True, True)
        for i in range(play.owners)
    )
    reward = wei(play.tasks * play.reward)
    job = JobFacts(
        manifest=Digest(bytes(32)),
        requester=Address("0x" + "ff" * 20),
        reward=reward,
        audit_fee=Wei(int(reward * AUDIT_FEE)),
        verifier_fee=Wei(int(reward * VERIFIER_FEE)),
        units=play.tasks,
        auditors_per_segment=K,
        segments_per_audit=SEGMENTS_PER_AUDIT,
        workload=0,
        deadline=0,
    )
    line = Line(JOB, play.tasks, Wei(job.reward + job.audit_fee + job.verifier_fee))
    return BatchView(
        chain_id=1,
        registry=Address("0x" + "ee" * 20),
        batch=BATCH,
        attempt=0,
        leader=OperatorId(1),
        header=Header(Digest(bytes(32)), play.tasks, Digest(bytes(32)), (line,)),
        quorum=(),
        commit_block=1,
        draw_block=2,
        drawn_at=0,
        seed=Digest(bytes(32)),
        jobs={JOB: job},
        operators=operators,
        owners={operator.node: (operator.id, operator.owner) for operator in operators},
        open_batches=(),
        claimed_before=(),
        settled_before=(),
        collusion_bps=PARAMS.collusion_bps,
        slash_requester_bps=PARAMS.slash_requester_bps,
        slash_auditor_bps=PARAMS.slash_auditor_bps,
        slash_redress_bps=PARAMS.slash_redress_bps,
    )


def _node(i: int) -> Address:
    return Address(f"0x{i + 1:040x}")


def _owner(i: int) -> Address:
    return Address(f"0x{i + 1 + (1 << 80):040x}")


def _members(play: Play, view: BatchView, random: np.random.Generator) -> tuple[Member, ...]:
    """The batch's commitments: those of the owners that may fake first."""
    others = range(play.faking, play.owners)
    own = [i for i in range(play.faking) for _ in range(play.own)]
    workers = own + [others[i % len(others)] for i in range(play.tasks - len(own))]
    return tuple(
        Member(
            Commitment(
                job=JOB,
                task=TaskIndex(task),
                node=_node(worker),
                manifest=Digest(bytes(32)),
                inputs=Digest(bytes(32)),
                trace_root=Digest(random.bytes(32)),
                segments=SEGMENTS,
                result=TRACE[0],
                work_units=1,
                mark=Digest(bytes(32)),
            ),
            Signature(bytes(65)),
            TRACE,
        )
        for task, worker in enumerate(workers)
    )


def _entries(play: Play, view: BatchView, members: tuple[Member, ...]) -> Iterator[Entry]:
    job = view.jobs[JOB]
    in_flight = Counter(member.commitment.node for member in members)
    for member in members:
        commitment = member.commitment
        exposure = Wei(in_flight[commitment.node] * task_reward(job, 1))
        yield Entry(
            job=JOB,
            task=commitment.task,
            segments=SEGMENTS,
            leaf=commitment.struct_hash(),
            odds=odds_of(view, commitment, exposure),
            auditors_per_segment=K,
            barred=frozenset((view.owners[commitment.node][1], job.requester)),
        )


def _gain(
    play: Play,
    view: BatchView,
    members: tuple[Member, ...],
    plan: tuple[SegmentAudit, ...],
    random: np.random.Generator,
    strategic: bool,
) -> float:
    """What the colluders gain of a batch: pay, less what executing costs them, less stakes that they lose for good."""
    nodes = {_node(i) for i in range(play.colluding)}
    fakes = play.faking * play.own if strategic else 0
    # One segment of each task is faked: which one is as good as drawn by lot.
    lies = {task: int(random.integers(SEGMENTS)) for task in range(fakes)}
    faked = {segment.key for segment in plan if lies.get(segment.task) == segment.segment}
    votes = play.votes if strategic else "honest"
    audits = tuple(_audited(segment, segment.key in faked, nodes, votes, random) for segment in plan)
    record = _record(view, members, audits)
    payouts = earnings(view, record).payouts
    paid = sum(tokens(payout.amount) for payout in payouts if payout.node in nodes)
    worked = sum(m.commitment.node in nodes for m in members if m.commitment.task >= fakes)
    executed = sum(vote.auditor in nodes for audit in audits for vote in audit.votes) if votes == "honest" else 0
    costs = worked * WORK * play.reward + executed * (execution(play.reward, SEGMENTS) + FETCH)
    guilty = {fault.node for fault in record.faults}
    pool = len(guilty) * min(play.stake, NODE_STAKE) * share(PARAMS.slash_auditor_bps)
    finders = Counter({payout.node: payout.segments for payout in payouts})
    own = sum(finders[node] for node in nodes) / max(1, finders.total())
    # The requester is taken to collude as well, where anybody does.
    back = pool * own + (
        len(guilty) * min(play.stake, NODE_STAKE) * share(PARAMS.slash_requester_bps) if play.colluding > 1 else 0.0
    )
    return paid - costs - play.stake * len(guilty & nodes) + back


def _audited(
    segment: SegmentAudit, faked: bool, colluders: set[Address], votes: str, random: np.random.Generator
) -> AuditedSegment:
    """Seat auditors until there is a verdict: k at once, then one by one."""
    truth = TRUE if faked else CLAIMED
    given: list[AuditVote] = []
    verdict = Verdict.PENDING
    for auditor in segment.auditors:
        given.append(_vote(auditor, _answer(auditor in colluders, truth, votes, random)))
        if len(given) >= K:
            exhausted = len(given) == len(segment.auditors)
            verdict = tally([vote.after for vote in given], CLAIMED, K, exhausted=exhausted)
            if verdict != Verdict.PENDING:
                break
    verdict = Verdict.UNDECIDED if verdict == Verdict.PENDING else verdict
    return AuditedSegment(segment.job, segment.task, segment.segment, tuple(given), (), verdict)


def _answer(colludes: bool, truth: Digest, votes: str, random: np.random.Generator) -> Digest:
    if not colludes or votes == "honest":
        return truth
    if votes == "random":
        return Digest(random.bytes(32))
    return CLAIMED if votes == "support" else TRUE


def _vote(auditor: Address, after: Digest) -> AuditVote:
    return AuditVote(auditor, Digest(bytes(32)), Signature(bytes(65)), after, Digest(bytes(32)), "", bytes(32))


def _record(view: BatchView, members: tuple[Member, ...], audits: tuple[AuditedSegment, ...]) -> BatchRecord:
    record = BatchRecord(
        chain_id=view.chain_id,
        registry=view.registry,
        batch=BATCH,
        attempt=0,
        leader=view.leader,
        jobs=(),
        tasks=members,
        salts=tuple(bytes(32) for _ in members),
        counted=(),
        uncounted=(),
        over=(),
        repeated=(),
        audits=audits,
        faults=(),
        stale=(),
        redress=(),
        payouts=(),
    )
    workers = tuple(
        RecordedFault(a.job, a.task, record.by_key[a.task_key].commitment.node, FaultReason.MISMATCH, "", a.segment)
        for a in audits
        if a.verdict == Verdict.FAULT
    )
    faults = workers + false_audits(view, record.by_key, audits, {JOB: True})
    return msgspec.structs.replace(record, faults=faults)
