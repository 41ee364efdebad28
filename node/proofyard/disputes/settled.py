"""A settled batch with its record: read from chain and artifacts, and held against both.

`check_record` says whether the settlement follows from what was committed, drawn, sealed and signed; `check` looks at
the states and results too that a record calls against a law. What is left is whether the states are right, which only
execution tells (`replaying`).
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proofyard.artifacts import ArtifactError
from proofyard.chain import BatchSettled, ChainClient
from proofyard.chain.refusals import UnknownBatch
from proofyard.disputes.committed import Committed, Read, graph_of, load_members
from proofyard.disputes.errors import ListWithheld, NotSettled, RecordWithheld
from proofyard.disputes.refusals import check_keyed, check_refusals
from proofyard.protocol.codec import CodecError
from proofyard.protocol.earnings import accepted
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, TaskSpec, decode_manifest
from proofyard.protocol.members import Member, TaskKey
from proofyard.protocol.record import MAX_RECORD_BYTES, BatchRecord, decode_record
from proofyard.protocol.settlement import payout_root
from proofyard.protocol.settling import settlement_of
from proofyard.protocol.types import BatchId, Cid, Digest, JobId, ProofyardError, SegmentIndex, TaskIndex
from proofyard.protocol.validate import RecordInvalid, validate_record
from proofyard.protocol.view import BatchView
from proofyard.workloads.errors import WorkloadError
from proofyard.workloads.workload import load_workload

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """A settled batch: the chain's event and view, the record that it names, and what that is held against. `members`
    are the lists of `record.counted`, `paid` the tasks that earlier records pay."""

    event: BatchSettled
    record: BatchRecord
    view: BatchView
    manifests: Mapping[JobId, Manifest]
    graphs: Mapping[JobId, tuple[TaskSpec, ...]]
    members: Mapping[BatchId, Sequence[Member]]
    paid: frozenset[TaskKey]

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
        """Whether each job's workload gives the same bytes everywhere."""
        return {job: load_workload(manifest.workload).exact for job, manifest in self.manifests.items()}

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
            paid=self.paid,
            exact=self.exact,
            now=None,
        )
        compare_with_settlement(self.event, self.record, self.view)

    async def check(self, read: Read) -> None:
        """`check_record`, and with `read` the states and results that were refused and the keyed digests that everybody
        checks. Raises `RecordInvalid`, and what `read` raises."""
        await asyncio.to_thread(self.check_record)
        await check_refusals(self.record, self.manifests, self.graphs, read)
        await check_keyed(self.view, self.record, self.manifests, read)


class Accepted:
    """What settled records pay, by batch and record, of the last `limit` that were looked at. Who owned a node when its
    batch was drawn is part of the answer, so a reorganisation clears it (`clear`)."""

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._known: OrderedDict[tuple[BatchId, Cid], frozenset[TaskKey]] = OrderedDict()

    def get(self, batch: BatchId, record: Cid) -> frozenset[TaskKey] | None:
        return self._known.get((batch, record))

    def put(self, batch: BatchId, record: Cid, paid: frozenset[TaskKey]) -> None:
        self._known[batch, record] = paid
        while len(self._known) > self._limit:
            self._known.popitem(last=False)

    def clear(self) -> None:
        self._known.clear()


async def load_settled(chain: ChainClient, read: Read, batch: BatchId, known: Accepted | None = None) -> Settled:
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
        graphs = {job: await graph_of(manifest) for job, manifest in manifests.items()}
        members = {number: await _list_of(read, view, number) for number, _ in record.counted}
    except (ArtifactError, ListWithheld) as error:
        raise RecordWithheld(batch, event.record, str(error)) from None
    except (CodecError, WorkloadError, ValueError) as error:
        raise RecordInvalid(batch, "version", f"it cannot be read: {error}") from None
    paid = await paid_before(chain, read, view, known)
    return Settled(event, record, view, manifests, graphs, members, paid)


async def load_settled_of_job(chain: ChainClient, read: Read, job: JobId) -> list[Settled]:
    """All settled batches with a line of a job, without those whose settlement was voided and not replaced."""
    numbers = sorted({event.batch for event in await asyncio.to_thread(chain.settled, job)})
    states = [await asyncio.to_thread(chain.batch, number) for number in numbers]
    return [await load_settled(chain, read, state.id) for state in states if state.settled_at and not state.voided]


async def paid_before(
    chain: ChainClient, read: Read, view: BatchView, known: Accepted | None = None
) -> frozenset[TaskKey]:
    """The tasks that the records of `view.settled_before` pay; those in `known` are not read again.

    A record that cannot be had, or that is none, pays nothing here: whoever signed it answers for it, and those who
    settle later batches must not be at the mercy of those who withhold earlier ones.
    """
    found = []
    known = known or Accepted(1)
    for batch, cid in view.settled_before:
        paid = known.get(batch, cid)
        if paid is None:
            try:
                record = decode_record(await read(cid, MAX_RECORD_BYTES))
                before = await asyncio.to_thread(chain.view, batch, record.attempt)
                paid = await asyncio.to_thread(accepted, before, record)
            except (ProofyardError, LookupError) as error:
                logger.warning("what batch %s paid cannot be told: %s", batch, error)
                continue
            known.put(batch, cid, paid)
        found.append(paid)
    return frozenset().union(*found)


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
            [share.paid_units for share in settlement.shares],
            [line.paid_units for line in event.lines],
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


def cid_of_record(chain: ChainClient, batch: BatchId) -> Cid | None:
    """The record of a batch's settlement, None where it has none that stands."""
    try:
        return settled_event(chain, batch).record
    except NotSettled:
        return None
