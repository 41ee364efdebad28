"""A settled batch with its record: read from chain and artifacts, and held against both.

`check_record` says whether the settlement follows from what was committed, drawn, sealed and signed; `check` looks at
the states and results too that a record calls against a law. What is left is whether the states are right, which only
execution tells (`replaying`).
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from proofyard.artifacts import ArtifactError
from proofyard.chain import BatchSettled, ChainClient
from proofyard.chain.events import Position
from proofyard.chain.refusals import UnknownBatch
from proofyard.chain.timeline import when
from proofyard.disputes.committed import Committed, Read, graph_of, load_members
from proofyard.disputes.errors import ListWithheld, NoSuchPlace, NotSettled, RecordWithheld
from proofyard.disputes.refusals import check_keyed, check_refusals
from proofyard.protocol.codec import CodecError
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, TaskSpec, decode_manifest
from proofyard.protocol.mark import opens
from proofyard.protocol.members import Member, TaskKey
from proofyard.protocol.record import MAX_RECORD_BYTES, BatchRecord, decode_record
from proofyard.protocol.redress import Earlier, outcome_of
from proofyard.protocol.settlement import payout_root
from proofyard.protocol.settling import settlement_of
from proofyard.protocol.types import BatchId, Cid, Digest, JobId, ProofyardError, SegmentIndex, TaskIndex
from proofyard.protocol.validate import RecordInvalid, validate_record
from proofyard.protocol.view import BatchView
from proofyard.workloads.errors import WorkloadError
from proofyard.workloads.workload import auditors_of, is_exact, workload_of

logger = logging.getLogger(__name__)

Over = Sequence[tuple[BatchId, Cid | None]]
"""`BatchRecord.over`."""


@dataclass(frozen=True)
class Settled:
    """A settled batch: the chain's event and view, the record that it names, and what that is held against. `members`
    are the lists of `record.counted`, `earlier` what earlier records say."""

    event: BatchSettled
    record: BatchRecord
    view: BatchView
    manifests: Mapping[JobId, Manifest]
    graphs: Mapping[JobId, tuple[TaskSpec, ...]]
    members: Mapping[BatchId, Sequence[Member]]
    earlier: Earlier

    @property
    def committed(self) -> Committed:
        """The batch as it was committed; what the record says of it is not used."""
        entries = tuple(self.members[self.view.batch])
        return Committed(self.view.batch, self.event.record, self.view.header, self.manifests, self.graphs, entries)

    @property
    def tasks(self) -> list[TaskKey]:
        return [task.key for task in self.record.tasks]

    @property
    def exact(self) -> dict[JobId, bool]:
        """Whether verdicts on each job's segments cost stake."""
        return {job: is_exact(workload_of(manifest), manifest) for job, manifest in self.manifests.items()}

    def position(self, job: JobId, task: TaskIndex) -> int:
        return self.committed.position(job, task)

    def member(self, job: JobId, task: TaskIndex) -> Member:
        return self.committed.member(job, task)

    def segment(self, job: JobId, task: TaskIndex, segment: SegmentIndex) -> Member:
        return self.committed.segment(job, task, segment)

    def spec(self, job: JobId, task: TaskIndex) -> TaskSpec:
        return self.committed.spec(job, task)

    def proof(self, job: JobId, task: TaskIndex) -> list[Digest]:
        return self.committed.proof(job, task)

    def check_record(self) -> None:
        """Raise `RecordInvalid` unless the settlement on chain follows from its record, and that from all the rest."""
        validate_record(
            self.view,
            self.record,
            self.manifests,
            self.graphs,
            self.members,
            earlier=self.earlier,
            exact=self.exact,
            now=None,
            named=auditors_of(self.manifests, workload_of),
        )
        compare_with_settlement(self.event, self.record, self.view)

    async def check(self, read: Read) -> None:
        """`check_record`, and with `read` the states and results that were refused and the keyed digests that everybody
        checks. Raises `RecordInvalid`, and what `read` raises."""
        await asyncio.to_thread(self.check_record)
        await check_refusals(self.record, self.manifests, self.graphs, read)
        await check_keyed(self.view, self.record, self.manifests, read)


class Outcomes:
    """What settled records mean for later batches, by batch and record, of the last `limit` that were read. Who owned
    a node when its batch was drawn is part of the answer, so a reorganisation clears it (`clear`)."""

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._known: OrderedDict[tuple[BatchId, Cid], Earlier] = OrderedDict()

    def get(self, batch: BatchId, record: Cid) -> Earlier | None:
        return self._known.get((batch, record))

    def put(self, batch: BatchId, record: Cid, outcome: Earlier) -> None:
        self._known[batch, record] = outcome
        while len(self._known) > self._limit:
            self._known.popitem(last=False)

    def clear(self) -> None:
        self._known.clear()


async def load_settled(chain: ChainClient, read: Read, batch: BatchId, known: Outcomes | None = None) -> Settled:
    """The settlement that stands for `batch`.

    Raises `NotSettled`; `RecordWithheld` for a record, a manifest or a list that cannot be had; `RecordInvalid` for
    what is no record of this batch.
    """
    event = await asyncio.to_thread(settled_event, chain, batch)
    view = await asyncio.to_thread(chain.view, batch, event.attempt)
    try:
        record = decode_record(await read(event.record, MAX_RECORD_BYTES))
        if (record.batch, record.attempt) != (batch, event.attempt):
            reason = f"it is that of attempt {record.attempt} at batch {record.batch}"
            raise RecordInvalid(batch, "batch", reason)
        manifests = {job.job: decode_manifest(await read(job.manifest, MAX_MANIFEST_BYTES)) for job in record.jobs}
        graphs = {job: await graph_of(chain, read, job, manifest) for job, manifest in manifests.items()}
        members = {number: await _list_of(read, view, number) for number, _ in record.counted}
    except (ArtifactError, ListWithheld) as error:
        raise RecordWithheld(batch, event.record, str(error)) from None
    except (CodecError, WorkloadError, ValueError) as error:
        raise RecordInvalid(batch, "version", f"it cannot be read: {error}") from None
    await asyncio.to_thread(check_over, chain, view, record, event.position)
    earlier = await told_before(chain, read, view, record.over, known)
    return Settled(event, record, view, manifests, graphs, members, earlier)


async def load_settled_of_job(chain: ChainClient, read: Read, job: JobId) -> list[Settled]:
    """All settled batches with a line of a job, without those whose settlement was voided and not replaced."""
    numbers = sorted({event.batch for event in await asyncio.to_thread(chain.settled, job)})
    states = [await asyncio.to_thread(chain.batch, number) for number in numbers]
    return [await load_settled(chain, read, state.id) for state in states if state.settled_at and not state.voided]


async def told_before(
    chain: ChainClient, read: Read, view: BatchView, over: Over, known: Outcomes | None = None
) -> Earlier:
    """What the records of `view.settled_before`, and of those that are `over` since, mean for the view's batch; those
    in `known` are not read again.

    A record that cannot be had, or that is none, says nothing here: whoever signed it answers for it, and those who
    settle later batches must not be at the mercy of those who withhold earlier ones.
    """
    found = Earlier()
    known = known or Outcomes(1)
    for batch, cid in (*view.settled_before, *over):
        if cid is None:
            continue
        outcome = known.get(batch, cid)
        if outcome is None:
            try:
                record = decode_record(await read(cid, MAX_RECORD_BYTES))
                before = await asyncio.to_thread(chain.view, batch, record.attempt)
                outcome = await asyncio.to_thread(outcome_of, before, record)
            except (ProofyardError, LookupError) as error:
                logger.warning("what batch %s paid cannot be told: %s", batch, error)
                continue
            known.put(batch, cid, outcome)
        found |= outcome
    return found


def over_now(chain: ChainClient, view: BatchView) -> Over:
    """What has become of the batches of `view.claimed_before`: those that are settled, with their records, and those
    that were dropped."""
    found: list[tuple[BatchId, Cid | None]] = []
    for batch in (claimed.batch for claimed in view.claimed_before):
        state = chain.batch(batch)
        if state.dropped:
            found.append((batch, None))
        elif state.settled_at and not state.voided:
            found.append((batch, settled_event(chain, batch).record))
    return tuple(found)


def check_over(chain: ChainClient, view: BatchView, record: BatchRecord, before: Position | None = None) -> None:
    """Raise `RecordInvalid` unless what the record says of batches that are over was so: of a settled record `before`
    its settlement, of another one now, and then it must also name those that have been settled for as long as a leader
    has to settle its own (`settle_time`): its signature may bind it to a record that is as old. Once others may take
    the batch over, their attempt has a record of its own."""
    known = {claimed.batch: claimed.header for claimed in view.claimed_before}
    for batch, cid in record.over:
        if batch not in known:
            raise RecordInvalid(view.batch, "over", f"batch {batch} was not open before this one")
        if cid is None and chain.batch(batch).dropped:
            continue
        events = chain.settled(known[batch].lines[0].job)
        found = [event for event in events if event.batch == batch and event.record == cid]
        if not any(before is None or when(event.position) < when(before) for event in found):
            raise RecordInvalid(view.batch, "over", f"batch {batch} had not ended as it says")
    if before is None:
        _check_overlooked(chain, view, known.keys() - {batch for batch, _ in record.over})


def _check_overlooked(chain: ChainClient, view: BatchView, unnamed: Iterable[BatchId]) -> None:
    now, patience = chain.now(), chain.params().settle_time
    for batch in sorted(unnamed):
        state = chain.batch(batch)
        if state.settled_at and not state.voided and state.settled_at + patience < now:
            raise RecordInvalid(view.batch, "over", f"batch {batch} has been settled since {state.settled_at}")


def settled_event(chain: ChainClient, batch: BatchId) -> BatchSettled:
    """The settlement of a batch that stands now. Raises `NotSettled`."""
    try:
        state = chain.batch(batch)
    except UnknownBatch:
        raise NotSettled(batch, "is unknown to the Registry; `proofyard job wait` names a job's batches") from None
    if state.settled_at == 0 or state.voided:
        gone = "was dropped, because nobody settled it in time" if state.dropped else ""
        voided = "its settlement was voided and is to be made again; wait for it" if state.attempt else ""
        raise NotSettled(batch, gone or voided or "is not settled yet; wait for it")
    events = [event for line in chain.header(batch).lines[:1] for event in chain.settled(line.job)]
    found = [event for event in events if event.batch == batch and event.attempt == state.attempt]
    if not found:
        raise NotSettled(batch, "has a settlement whose event this chain's node does not have; ask another one")
    return found[-1]


def compare_with_settlement(event: BatchSettled, record: BatchRecord, view: BatchView) -> None:
    """Raise `RecordInvalid` unless the settlement on chain is the one that follows from its record."""
    settlement = settlement_of(record, view, event.record)
    pairs: Mapping[str, tuple[object, object]] = {
        "batch": (record.batch, event.batch),
        "payouts": (payout_root(event.batch, settlement.payouts), event.payout_root),
        "payout_total": (settlement.total, event.payout_total),
        "audits": (settlement.audit_root, event.audit_root),
        "jobs": (
            [(share.paid_units, share.redress) for share in settlement.shares],
            [(line.paid_units, line.redress) for line in event.lines],
        ),
    }
    for field, (follows, settled) in pairs.items():
        if follows != settled:
            raise RecordInvalid(event.batch, field, "it does not give the settlement on chain")


async def _list_of(read: Read, view: BatchView, batch: BatchId) -> tuple[Member, ...]:
    headers = {known.batch: known.header for known in (*view.open_batches, *view.claimed_before)}
    if batch not in headers:
        raise RecordInvalid(view.batch, "counted", f"batch {batch} does not count")
    return await load_members(read, batch, headers[batch])


async def salt_in_record(read: Read, batch: BatchId, record: Cid | None, key: TaskKey) -> bytes:
    """What opens a task's mark as work, for a challenge of one of its segments. Raises `RecordWithheld`, and
    `NoSuchPlace` for a decoy and for what its batch's record does not open: neither is paid."""
    if record is None:
        raise NotSettled(batch, "is not settled yet; wait for it")
    try:
        found = decode_record(await read(record, MAX_RECORD_BYTES))
        member, salt = found.by_key[key], found.salt_of(key)
    except ArtifactError as error:
        raise RecordWithheld(batch, record, str(error)) from None
    except (CodecError, LookupError) as error:
        raise RecordInvalid(batch, "salts", f"it cannot be read: {error}") from None
    if not opens(member.commitment.mark, salt, decoy=False):
        raise NoSuchPlace(batch, f"work in task {key[1]} of job {key[0]}", "a decoy, or what nobody opens: not paid")
    return salt


def cid_of_record(chain: ChainClient, batch: BatchId) -> Cid | None:
    """The record of a batch's settlement, None where it has none that stands."""
    try:
        return settled_event(chain, batch).record
    except NotSettled:
        return None
