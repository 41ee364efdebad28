"""What a juror finds on a challenge: pure evidence, the same for every juror that can get it.

A segment is executed again, from what was committed; so is that of a fault, and an auditor is held against what it
sealed. Either way the evidence is what executing gave, so that nobody is paid who has only guessed. No record is
believed for that, and none is needed. A record is right if all of it follows and can be had. What a workload that is
not exact gives is no evidence: nobody's stake depends on it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from proofyard.artifacts import ArtifactError
from proofyard.chain import ChainClient, ChallengeRecord, Kind, SlashRecord
from proofyard.disputes.committed import Committed, load_committed
from proofyard.disputes.errors import (
    InputsUnknown,
    ListWithheld,
    NoSuchPlace,
    NotSettled,
    RecordWithheld,
    StateWithheld,
)
from proofyard.disputes.network import Network
from proofyard.disputes.replaying import Replayer, SegmentExecutor
from proofyard.disputes.settled import Settled, cid_of_record, load_settled
from proofyard.protocol.findings import told
from proofyard.protocol.mark import SALT_BYTES, opens
from proofyard.protocol.record import AuditVote, faulty_audit
from proofyard.protocol.seal import (
    UNAVAILABLE,
    UNKEYED,
    jury_seed,
    keyed_digest,
    keyed_is_checked,
    seal_of,
    seal_struct_hash,
)
from proofyard.protocol.settlement import RESULT, FaultReason
from proofyard.protocol.signature import signed_by
from proofyard.protocol.types import Address, BatchId, Digest
from proofyard.protocol.validate import RecordInvalid
from proofyard.workloads.workload import is_exact, workload_of

WRONG, RIGHT = Digest((1).to_bytes(32, "big")), Digest((2).to_bytes(32, "big"))
"""What a juror reveals on a record."""
RETRY_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What a juror votes. `wrong`: what is challenged is wrong, so the challenge is right. `evidence` says so to the
    Court: for a segment the digest of the juror's own state, or an answer that is none; for a fault `on_fault` of
    that. `keyed` is `keyed_digest` of the bytes that this was found in, under the jury's seed and the juror's owner;
    `UNKEYED` where there are none."""

    evidence: Digest
    keyed: Digest
    wrong: bool
    reason: str


async def judge(
    chain: ChainClient,
    network: Network,
    executor: SegmentExecutor,
    challenge: ChallengeRecord,
    *,
    owner: Address,
    patience_s: float,
) -> Finding:
    """Look at the evidence of a challenge that a jury decides, as a juror for `owner`. A state or a record that nobody
    delivers within `patience_s` counts as wrong: those who named it owe it. At most twice that is waited in all.

    Raises what stands between this machine and a finding: `ArtifactError`, `ExecutionError`, `InputsUnknown`.
    """
    match challenge.kind:
        case Kind.SEGMENT:
            try:
                return await _judge_segment(chain, network, executor, challenge, owner, patience_s)
            except (ListWithheld, InputsUnknown) as error:
                # Not the worker's to deliver: challenge the record.
                return Finding(challenge.claimed, UNKEYED, False, f"nothing is shown against the worker: {error}")
        case Kind.RECORD:
            return _plain(*await judge_record(chain, network, challenge.batch, patience_s=patience_s))
        case Kind.FAULT:
            fault = (await asyncio.to_thread(chain.slashes, challenge.batch))[challenge.entry]
            seen = await _see_fault(chain, network, executor, challenge.batch, fault, patience_s)
            keyed = _keyed(challenge, owner, seen.state)
            return Finding(on_fault(seen.answer, seen.wrong), keyed, seen.wrong, seen.reason)
        case _:
            raise NoSuchPlace(challenge.batch, f"case for a jury in challenge {challenge.id}", "no such kind")


def on_fault(answer: Digest, false: bool) -> Digest:
    """What a juror of a fault reveals that found `answer`: its lowest bit says whether the fault is false."""
    return Digest(answer[:-1] + bytes([answer[-1] & 0xFE | false]))


@dataclass(frozen=True)
class _Seen:
    """Whether a fault is false and why; the answer that executing gave and the bytes that it was found in, if any."""

    wrong: bool
    reason: str
    answer: Digest = UNAVAILABLE
    state: bytes | None = None


def _time() -> float:
    return asyncio.get_running_loop().time()


def _plain(wrong: bool, reason: str) -> Finding:
    return Finding(WRONG if wrong else RIGHT, UNKEYED, wrong, reason)


async def _committed(chain: ChainClient, network: Network, batch: BatchId, patience_s: float) -> Committed:
    """The batch as it was committed, asked for as long as there is patience. Raises `ListWithheld`."""
    record = await asyncio.to_thread(cid_of_record, chain, batch)
    return await _patiently(lambda: load_committed(chain, network.read, batch, record), patience_s)


async def _patiently(get: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """What `get` gets, tried again while it is only that nobody delivers something."""
    give_up = _time() + patience_s
    while True:
        try:
            return await get()
        except (ArtifactError, ListWithheld, RecordWithheld):
            if _time() >= give_up:
                raise
            await asyncio.sleep(RETRY_S)


async def _judge_segment(
    chain: ChainClient,
    network: Network,
    executor: SegmentExecutor,
    challenge: ChallengeRecord,
    owner: Address,
    patience_s: float,
) -> Finding:
    job, task, segment = challenge.job, challenge.task, challenge.segment
    batch = await _committed(chain, network, challenge.batch, patience_s)
    replayer = Replayer(batch, chain, network, executor, patience_s=patience_s, give_up=_time() + patience_s)
    manifest = batch.manifests[job]
    if not is_exact(workload_of(manifest), manifest):
        reason = f"{manifest.workload} is not exact here, so that executing it again proves nothing to a jury"
        return Finding(challenge.claimed, UNKEYED, False, reason)
    found = await replayer.segment(job, task, segment)
    return Finding(found.answer, _keyed(challenge, owner, found.state), found.holds is not True, str(found))


def _keyed(challenge: ChallengeRecord, owner: Address, state: bytes | None) -> Digest:
    if state is None:
        return UNKEYED
    return keyed_digest(jury_seed(challenge.id, challenge.round, challenge.draw_block), owner, state)


async def judge_record(chain: ChainClient, network: Network, batch: BatchId, *, patience_s: float) -> tuple[bool, str]:
    """Whether a record is wrong. One that cannot be had, with what it rests on, is as good as none."""
    try:
        settled = await _patiently(lambda: load_settled(chain, network.read, batch), patience_s)
        await _patiently(lambda: settled.check(network.read), patience_s)
    except NotSettled:
        raise
    except (RecordInvalid, RecordWithheld, ArtifactError) as error:
        return True, str(error)
    return False, "commitments, plan, seals, verdicts and payouts all follow"


async def judge_fault(
    chain: ChainClient,
    network: Network,
    executor: SegmentExecutor,
    number: BatchId,
    fault: SlashRecord,
    *,
    patience_s: float,
) -> tuple[bool, str]:
    """Whether an operator was accused in batch `number` of what it did not do, and why.

    A worker is held against its commitment, an auditor against what it sealed. Whether anything else in the record is
    wrong is another challenge: a guilty worker does not go free, and its accusers do not pay, for what a leader did.
    """
    seen = await _see_fault(chain, network, executor, number, fault, patience_s)
    return seen.wrong, seen.reason


async def _see_fault(
    chain: ChainClient,
    network: Network,
    executor: SegmentExecutor,
    number: BatchId,
    fault: SlashRecord,
    patience_s: float,
) -> _Seen:
    try:
        batch = await _committed(chain, network, number, patience_s)
        replayer = Replayer(batch, chain, network, executor, patience_s=patience_s, give_up=_time() + patience_s)
        manifest = batch.manifests[fault.job]
        exact = is_exact(workload_of(manifest), manifest)
        if fault.reason == FaultReason.DISAGREED or not (exact or fault.reason == FaultReason.WITHHELD):
            return _Seen(False, "it rests on the auditors' own comparison, and no stake depends on it")
        if fault.reason == FaultReason.FALSE_AUDIT:
            return await _judge_auditor(chain, network, replayer, number, fault, patience_s)
        if (fault.reason, fault.segment) == (FaultReason.WITHHELD, RESULT):
            found = await _judge_unopened(chain, network, number, fault, patience_s)
            if found is not None:
                return _Seen(*found)
        return await _judge_worker(chain, batch, replayer, fault, exact=exact)
    except NoSuchPlace as error:
        # Nobody can have done, or not done, what the batch does not hold.
        return _Seen(True, f"the accused is innocent: {error}")
    except (ListWithheld, InputsUnknown, StateWithheld) as error:
        # What cannot be shown at all is the record's fault: challenge that.
        return _Seen(False, str(error))


async def _judge_worker(
    chain: ChainClient, batch: Committed, replayer: Replayer, fault: SlashRecord, *, exact: bool
) -> _Seen:
    """A worker that was said to withhold is acquitted like any other, by a state that turns up and is right; where
    executing proves nothing, by states that turn up and keep the laws."""
    node = batch.member(fault.job, fault.task).commitment.node
    if await asyncio.to_thread(chain.operator_of, node) != fault.operator:
        return _Seen(True, f"task {fault.task} of job {fault.job} was not done by the accused")
    if fault.segment == RESULT:
        problem = await replayer.check_result(fault.job, fault.task)
        return _Seen(not problem, problem or "the accused is innocent: the result follows from the states")
    find = replayer.segment if exact else replayer.shown
    found = await find(fault.job, fault.task, fault.segment)
    reason = f"the accused is innocent: {found}" if found.holds else str(found)
    return _Seen(found.holds is True, reason, found.answer, found.state)


async def _judge_unopened(
    chain: ChainClient, network: Network, number: BatchId, fault: SlashRecord, patience_s: float
) -> tuple[bool, str] | None:
    """Whoever was found faulty and told nobody whether it was on purpose is acquitted by the proof that it was, and by
    nothing else. None where the record says no such thing of the accused."""
    try:
        settled = await _patiently(lambda: load_settled(chain, network.read, number), patience_s)
    except (RecordWithheld, RecordInvalid):
        return None
    record, key = settled.record, (fault.job, fault.task)
    if key not in record.unopened or faulty_audit(record, key) is None:
        return None
    member = settled.member(*key)
    try:
        opening = await _patiently(lambda: network.opening(settled.event.record, member), patience_s)
    except ArtifactError as error:
        return False, f"nobody shows that it is a decoy: {error}"
    decoy = opens(member.commitment.mark, opening[:SALT_BYTES], decoy=True)
    return decoy, "the accused is innocent: it is a decoy" if decoy else "it is no decoy, and was found faulty"


async def _judge_auditor(
    chain: ChainClient,
    network: Network,
    replayer: Replayer,
    number: BatchId,
    fault: SlashRecord,
    patience_s: float,
) -> _Seen:
    """An auditor's sealed answer against that of an execution of one's own. One that nobody shows, or that it has not
    signed, has not been given."""
    try:
        settled = await _patiently(lambda: load_settled(chain, network.read, number), patience_s)
    except (RecordWithheld, RecordInvalid) as error:
        return _Seen(True, f"nobody shows what the accused sealed: {error}")
    job, task, segment = fault.job, fault.task, fault.segment
    vote = _vote_of(settled, fault)
    if vote is None:
        return _Seen(True, f"the accused sealed no answer to segment {segment} of task {task} of job {job}")
    own, state = await replayer.answer(job, task, segment)
    if vote.after != own:
        reason = f"the auditor's answer is {told(vote.after)}, executing gives {told(own)}"
        return _Seen(False, reason, own, state)
    leaf = settled.member(job, task).commitment.struct_hash()
    copied = keyed_is_checked(settled.view.seed, leaf, segment) and vote.keyed != keyed_digest(
        settled.view.seed, vote.auditor, state
    )
    reason = "it has not executed what it answered" if copied else f"executing gives {told(own)} as well"
    return _Seen(not copied, reason, own, state)


def _vote_of(settled: Settled, fault: SlashRecord) -> AuditVote | None:
    """What the accused sealed and signed; None where the record shows nothing of the kind."""
    key, view = (fault.job, fault.task, fault.segment), settled.view
    for vote in (vote for audit in settled.record.audits if audit.key == key for vote in audit.votes):
        operator, _ = view.owners.get(vote.auditor, (None, None))
        sealed = seal_struct_hash(view.batch, *key, view.seed, vote.auditor, vote.seal)
        genuine = seal_of(vote.opening(), vote.auditor) == vote.seal and signed_by(
            view.domain.typed_digest(sealed), vote.signature, vote.auditor
        )
        if operator == fault.operator and genuine:
            return vote
    return None
