"""What a record is held against: the chain's view, manifests and graphs of its jobs, member lists, and what
earlier records say."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proofyard.disputes.settled import Over, told_before
from proofyard.protocol.audit import AuditPlan
from proofyard.protocol.cid import make_cid
from proofyard.protocol.invalid import Ensure
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, TaskSpec
from proofyard.protocol.members import Member
from proofyard.protocol.plan import Named
from proofyard.protocol.record import BatchRecord, RecordedJob
from proofyard.protocol.redress import Earlier
from proofyard.protocol.types import Cid, JobId
from proofyard.protocol.validate import validate_jobs, validate_record, validate_tasks
from proofyard.protocol.view import BatchView
from proofyard.transport import Connection
from proofyard.verifier.context import Context
from proofyard.verifier.membership import Lists
from proofyard.workloads.workload import auditors_of, is_exact


@dataclass(frozen=True)
class Evidence:
    """Everything that `validate_record` takes beside the record."""

    view: BatchView
    manifests: Mapping[JobId, Manifest]
    graphs: Mapping[JobId, Sequence[TaskSpec]]
    exact: Mapping[JobId, bool]
    named: Named
    lists: Lists
    over: Over
    earlier: Earlier

    def check(self, record: BatchRecord, *, now: int | None, plan: AuditPlan | None = None) -> None:
        """Raise `RecordInvalid` for the first field that does not follow. `now` is the chain's time; `plan`, where it
        was computed before from the same view and lists."""
        validate_record(
            *(self.view, record, self.manifests, self.graphs, self.lists.members),
            earlier=self.earlier,
            exact=self.exact,
            now=now,
            plan=plan,
            named=self.named,
        )


async def gather_evidence(
    context: Context, view: BatchView, lists: Lists, over: Over, *, first: Connection | None = None
) -> Evidence:
    """The evidence for a record of `view`'s batch with the member lists that are to be had, and earlier batches that
    are `over` since the draw.

    Raises `ArtifactError` for a manifest or an earlier record that nobody delivers.
    """
    manifests = await fetch_manifests(context, view, first=first)
    cids = {job: make_cid(view.jobs[job].manifest) for job in manifests}
    graphs = {job: await context.graph_of(job, cid, first) for job, cid in cids.items()}

    async def read(cid: Cid, max_bytes: int) -> bytes:
        return await context.find(cid, max_bytes=max_bytes, first=first)

    return Evidence(
        view=view,
        manifests=manifests,
        graphs=graphs,
        exact={job: is_exact(context.workload(manifest), manifest) for job, manifest in manifests.items()},
        named=auditors_of(manifests, context.workload),
        lists=lists,
        over=over,
        earlier=await told_before(context.chain, read, view, over, context.outcomes),
    )


async def fetch_manifests(
    context: Context, view: BatchView, *, first: Connection | None = None
) -> dict[JobId, Manifest]:
    """The manifests of a batch's jobs. Raises `ArtifactError` for one that nobody delivers."""
    found = {}
    for line in view.header.lines:
        cid = make_cid(view.jobs[line.job].manifest)
        await context.find(cid, max_bytes=MAX_MANIFEST_BYTES, first=first)
        found[line.job] = context.manifest(cid)
    return found


async def check_members(context: Context, view: BatchView, members: tuple[Member, ...]) -> None:
    """Raise `RecordInvalid` for a member list of which no record can hold, whoever makes it."""
    manifests = await fetch_manifests(context, view)
    jobs = tuple(RecordedJob(job, make_cid(view.jobs[job].manifest)) for job in manifests)
    graphs = {job.job: await context.graph_of(job.job, job.manifest) for job in jobs}
    blank = BatchRecord(
        chain_id=view.chain_id,
        registry=view.registry,
        batch=view.batch,
        attempt=view.attempt,
        leader=view.leader,
        jobs=jobs,
        tasks=members,
        salts=(),
        counted=(),
        uncounted=(),
        over=(),
        repeated=(),
        audits=(),
        faults=(),
        stale=(),
        redress=(),
        payouts=(),
    )
    await asyncio.to_thread(validate_jobs, view, blank, manifests, Ensure(view.batch, "jobs"))
    await asyncio.to_thread(validate_tasks, view, blank, graphs, Ensure(view.batch, "tasks"))


class Seen:
    """The last few records that were found right, or wrong, with their reason: they are not looked at twice."""

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._found: OrderedDict[object, str] = OrderedDict()

    def note(self, key: object, reason: str = "") -> None:
        self._found[key] = reason
        self._found.move_to_end(key)
        while len(self._found) > self._limit:
            self._found.popitem(last=False)

    def get(self, key: object) -> str | None:
        """Empty for one that was right, None for one that was not looked at."""
        return self._found.get(key)
