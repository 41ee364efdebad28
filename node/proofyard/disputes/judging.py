"""What a juror finds on a challenge: pure evidence, the same for every juror that can get it.

A segment is executed again. A fault is right if its segment, or for an auditor its sealed answer, is another one than
executing gives. A payout is right if the whole record follows from chain and signatures. What a workload that is not
exact gives is no evidence: nobody's stake depends on it.
"""

import asyncio
from dataclasses import dataclass

from proofyard.chain import ChainClient, ChallengeRecord, Kind, SlashRecord
from proofyard.disputes.errors import NoSuchPlace
from proofyard.disputes.network import Network
from proofyard.disputes.replaying import Replayer, SegmentExecutor
from proofyard.disputes.settled import Settled, load_settled
from proofyard.protocol.audit import Verdict
from proofyard.protocol.false_audit import told
from proofyard.protocol.record import AuditVote
from proofyard.protocol.replay import RecordInvalid
from proofyard.protocol.settlement import FaultReason, OperatorId
from proofyard.protocol.signature import SignatureInvalid
from proofyard.protocol.types import Address, SegmentIndex, TaskIndex
from proofyard.workloads.workload import load_workload


@dataclass(frozen=True)
class Finding:
    """`wrong`: what is challenged is wrong, so the challenge is right."""

    wrong: bool
    reason: str


async def judge(
    chain: ChainClient,
    network: Network,
    executor: SegmentExecutor,
    challenge: ChallengeRecord,
    *,
    patience_s: float,
) -> Finding:
    """Look at the evidence of a challenge that a jury decides. A state that nobody delivers within `patience_s` counts
    as wrong: its worker owes it.

    Raises what stands between this machine and a finding: `ArtifactError`, `ExecutionError`, `InputsUnknown`.
    """
    settled = await load_settled(chain, network.read, challenge.batch)
    replayer = Replayer(settled, chain, network, executor, patience_s=patience_s)
    match challenge.kind:
        case Kind.SEGMENT:
            return await _judge_segment(settled, chain, replayer, challenge)
        case Kind.PAYOUT:
            return await _judge_record(settled, chain, network)
        case Kind.FAULT:
            record = await _judge_record(settled, chain, network)
            if record.wrong:
                return record
            slashes = await asyncio.to_thread(chain.slashes, challenge.batch)
            return await _judge_fault(settled, replayer, slashes[challenge.entry])
        case _:
            raise NoSuchPlace(challenge.batch, f"case for a jury in challenge {challenge.id}", "no such kind")


async def _judge_segment(
    settled: Settled, chain: ChainClient, replayer: Replayer, challenge: ChallengeRecord
) -> Finding:
    """Raises `RecordInvalid` for a record without the committed traces, which is no evidence against the worker."""
    await asyncio.to_thread(settled.check_commitments, chain)
    task = settled.task(challenge.task).commitment
    if _node_of(settled, challenge.accused) != task.node:
        return Finding(True, f"the record has another commitment to task {task.task} than the one challenged")
    if not load_workload(settled.manifest.workload).exact:
        return Finding(False, f"{settled.manifest.workload} is not exact, so that executing it again proves nothing")
    found = await replayer.segment(challenge.task, challenge.segment)
    return Finding(found.holds is not True, str(found))


async def _judge_record(settled: Settled, chain: ChainClient, network: Network) -> Finding:
    try:
        await settled.check(chain, network.read)
    except (RecordInvalid, SignatureInvalid) as error:
        return Finding(True, str(error))
    return Finding(False, "commitments, plan, seals, verdicts and payouts all follow")


async def _judge_fault(settled: Settled, replayer: Replayer, fault: SlashRecord) -> Finding:
    """Whether an operator was slashed for what it did not do."""
    node = _node_of(settled, fault.operator)
    if node is None:
        return Finding(True, f"operator {fault.operator} was not active at the draw")
    if fault.reason == FaultReason.FALSE_AUDIT:
        return await _judge_auditor(settled, replayer, node, fault.task, fault.segment)
    if settled.task(fault.task).commitment.node != node:
        return Finding(True, f"task {fault.task} was not done by the accused")
    if fault.reason == FaultReason.WITHHELD:
        # Nobody can see later whether a state was late; who could deliver a right one had no reason to wait.
        return Finding(False, "the verifiers waited for a state in vain, which leaves nothing to execute")
    if fault.reason == FaultReason.DISAGREED:
        return Finding(False, "it follows from the auditors' signed answers, and no stake depends on it")
    found = await replayer.segment(fault.task, fault.segment)
    if found.holds is not True:
        return Finding(False, str(found))
    audited = [a for a in settled.record.audits if (a.task, a.verdict) == (fault.task, Verdict.FAULT)]
    problem = "" if audited else await replayer.check_result(fault.task)
    return Finding(False, problem) if problem else Finding(True, f"the accused is innocent: {found}")


async def _judge_auditor(
    settled: Settled, replayer: Replayer, node: Address, task: TaskIndex, segment: SegmentIndex
) -> Finding:
    """An auditor's answer against that of an execution of one's own."""
    vote = _vote_of(settled, node, task, segment)
    if vote is None:
        return Finding(True, f"{node} did not audit task {task} segment {segment}")
    own = await replayer.answer(task, segment)
    return Finding(vote.after == own, f"the auditor's answer is {told(vote.after)}, executing gives {told(own)}")


def _vote_of(settled: Settled, node: Address, task: TaskIndex, segment: SegmentIndex) -> AuditVote | None:
    audits = [audit for audit in settled.record.audits if (audit.task, audit.segment) == (task, segment)]
    return next((vote for audit in audits for vote in audit.votes if vote.auditor == node), None)


def _node_of(settled: Settled, operator: OperatorId) -> Address | None:
    return next((o.node for o in settled.record.operators if o.id == operator), None)
