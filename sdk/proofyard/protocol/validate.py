"""Does a record hold? The one function that leader, co-signers, jurors, challengers, SDK and replays all run.

It goes through the record field by field, in the order of its fields. What cannot be in a record is left to whoever has
the bytes: that a withheld state is not to be had and that absent auditors are absent (signers, before they sign), that
states and results that are called against a law are so, and the keyed digests of `findings.keyed_checks`.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from proofyard.protocol import merkle
from proofyard.protocol.audit import AuditPlan
from proofyard.protocol.cid import cid_bytes, cid_digest, make_cid
from proofyard.protocol.earnings import earnings
from proofyard.protocol.findings import right_tasks
from proofyard.protocol.invalid import Ensure
from proofyard.protocol.invalid import RecordInvalid as RecordInvalid
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.mark import UNOPENED, opens
from proofyard.protocol.members import Member, TaskKey, members_fit, members_root
from proofyard.protocol.plan import NOBODY, Members, Named
from proofyard.protocol.plan import plan_of as plan_of
from proofyard.protocol.record import RECORD_VERSION, BatchRecord, CommittedTask
from proofyard.protocol.redress import Earlier as Earlier
from proofyard.protocol.redress import redress_of
from proofyard.protocol.seal import NO_STATE
from proofyard.protocol.types import BatchId, Cid, Digest, JobId
from proofyard.protocol.verdicts import validate_audits, validate_faults
from proofyard.protocol.view import BatchView
from proofyard.protocol.workload_bits import workload_bit


def validate_record(
    view: BatchView,
    record: BatchRecord,
    manifests: Mapping[JobId, Manifest],
    graphs: Mapping[JobId, Sequence[TaskSpec]],
    members: Members,
    *,
    earlier: Earlier,
    exact: Mapping[JobId, bool],
    now: int | None,
    plan: AuditPlan | None = None,
    named: Named = NOBODY,
) -> None:
    """Raise `RecordInvalid` for the first field that does not follow.

    `manifests`, `graphs`, `exact` (does a verdict on the job cost stake?) and `named` (`plan.Named`) are by job of the
    record, read from the CIDs that it names; `members` the lists of `record.counted`; `earlier` what the records of
    `view.settled_before` and `record.over` say (`redress.outcome_of`). Whether `record.over` is so the chain alone can
    tell (`disputes.settled.check_over`). `now`, in Unix seconds, is the time while the batch waits for its settlement,
    and that of the settlement afterwards; None leaves out what depends on it. `plan` is what `plan_of` gives for this
    view and these lists, where it is known already."""
    ensure = partial(Ensure, view.batch)
    validate_identity(view, record, ensure("version"))
    validate_jobs(view, record, manifests, ensure("jobs"))
    validate_tasks(view, record, graphs, ensure("tasks"))
    validate_salts(view, record, ensure("salts"))
    validate_counted(view, record, members, ensure("counted"))
    validate_over(view, record, ensure("over"))
    repeated = repeated_tasks(view, record.tasks, members, earlier.paid, dict(record.over))
    ensure("repeated")(record.repeated == repeated, f"the tasks that earlier batches hold or paid are {repeated}")
    if plan is None:
        counted = dict(record.counted)
        lists = {each.batch: members[each.batch] for each in view.open_batches if each.batch in counted}
        plan = plan_of(view, lists, named)
    validate_audits(view, record, plan, exact, now, ensure("audits"))
    validate_faults(view, record, exact, ensure("faults"))
    stale = stale_tasks(view, record, graphs, earlier.paid)
    ensure("stale")(record.stale == stale, f"the tasks that do not rest on accepted results are {stale}")
    redress = redress_of(view, record, manifests, graphs, earlier)
    ensure("redress")(record.redress == redress, f"what faults pay for work that they made worthless is {redress}")
    ensure("payouts")(
        record.payouts == earnings(view, record, named).payouts, "they do not follow from tasks, audits and faults"
    )


def validate_identity(view: BatchView, record: BatchRecord, ensure: Ensure) -> None:
    """`version` to `leader`: the record is one of this batch, this attempt and this leader."""
    ensure(record.version == RECORD_VERSION, f"it is {record.version}, known is {RECORD_VERSION}")
    for field in ("chain_id", "registry", "batch", "attempt", "leader"):
        said, found = getattr(record, field), getattr(view, field)
        Ensure(view.batch, field)(said == found, f"it is {said}, on chain it is {found}")


def validate_jobs(view: BatchView, record: BatchRecord, manifests: Mapping[JobId, Manifest], ensure: Ensure) -> None:
    """`jobs`: those of the batch's lines with the manifests that they were opened with, of workloads that have their
    bit."""
    said, lines = [job.job for job in record.jobs], [line.job for line in view.header.lines]
    ensure(said == lines, f"they are {said}, the batch's lines are {lines}")
    for job in record.jobs:
        facts = view.jobs[job.job]
        ensure(_digest(job.manifest) == facts.manifest, f"the manifest of job {job.job} is not the one on chain")
        bit = workload_bit(manifests[job.job].workload)
        ensure(bit == facts.workload, f"the workload of job {job.job} has bit {bit}, on chain {facts.workload}")


def validate_tasks(
    view: BatchView, record: BatchRecord, graphs: Mapping[JobId, Sequence[TaskSpec]], ensure: Ensure
) -> None:
    """`tasks`: the commitments that the root on chain is of, each to its job, signed by a node and with its trace, no
    task twice, and as many work units as each line says."""
    ensure(len(record.tasks) == view.header.size, f"they are {len(record.tasks)}, on chain {view.header.size}")
    lines = {line.job: line for line in view.header.lines}
    for task in record.tasks:
        ensure(task.commitment.job in lines, f"job {task.commitment.job} is not in the batch")
        _validate_task(view, task, graphs[task.commitment.job], ensure)
    ensure(len(record.by_key) == len(record.tasks), "a task is in it twice")
    ensure(members_root(record.tasks) == view.header.root, "their root is not the one on chain")
    for line in lines.values():
        units = sum(task.commitment.work_units for task in record.tasks if task.commitment.job == line.job)
        ensure(units == line.units, f"job {line.job} has {units} work units in it, its line {line.units}")


def _validate_task(view: BatchView, task: CommittedTask, graph: Sequence[TaskSpec], ensure: Ensure) -> None:
    commitment = task.commitment
    name = f"task {commitment.task} of job {commitment.job}"
    ensure(0 <= commitment.task < len(graph), f"there is no {name}")
    spec, job = graph[commitment.task], view.jobs[commitment.job]
    fits = (commitment.segments, commitment.work_units) == (spec.segments, spec.work_units)
    ensure(min(spec.segments, spec.work_units) > 0, f"{name} has no segments, or no work units")
    ensure(commitment.manifest == job.manifest and fits, f"the commitment to {name} is to something else")
    given = inputs_root(make_cid(job.manifest), ())
    ensure(bool(spec.deps) or commitment.inputs == given, f"{name} has no inputs, its commitment names some")
    ensure(view.operator_of(commitment.node) is not None, f"{commitment.node}, which did {name}, is no node")
    ensure(_trace_fits(task), f"the trace of {name} is not the committed one")
    signed = commitment.is_signed(view.domain, task.signature)
    ensure(signed, f"the commitment to {name} is not signed by {commitment.node}")


def validate_salts(view: BatchView, record: BatchRecord, ensure: Ensure) -> None:
    """`salts`: each opens its commitment's mark, as work or as a decoy. Who was given the commitments was given these
    too; only a later leader may have been told none, and each signer then asks for itself."""
    ensure(len(record.salts) == len(record.tasks), f"they are {len(record.salts)} for {len(record.tasks)} tasks")
    for task, salt in zip(record.tasks, record.salts, strict=True):
        mark, name = task.commitment.mark, f"task {task.commitment.task} of job {task.commitment.job}"
        if salt == UNOPENED:
            ensure(view.attempt > 0, f"the mark of {name} is not opened by whom its worker gave the salt")
        else:
            opened = opens(mark, salt, decoy=False) or opens(mark, salt, decoy=True)
            ensure(opened, f"the salt of {name} does not open its mark")


def trace_is_usable(trace: Sequence[str]) -> bool:
    """Whether every state of a trace is named by a CID, and none by the digest of an answer that is no state."""
    digests = [_digest(cid) for cid in trace]
    return all(digest is not None and digest not in NO_STATE for digest in digests)


def _trace_fits(task: CommittedTask) -> bool:
    return (
        len(task.trace) == task.commitment.segments + 1
        and trace_is_usable((*task.trace, task.commitment.result))
        and merkle.root([cid_bytes(cid) for cid in task.trace]) == task.commitment.trace_root
    )


def validate_counted(view: BatchView, record: BatchRecord, members: Members, ensure: Ensure) -> None:
    """`counted` and `uncounted`: the batches whose lists matter, each once, with lists that are what their commits
    name."""
    headers = {batch.batch: batch.header for batch in (*view.open_batches, *view.claimed_before)}
    counted = [batch for batch, _ in record.counted]
    ensure(counted == sorted(set(counted)), "they are not in ascending order")
    uncounted = list(record.uncounted)
    ensure(
        uncounted == sorted(set(uncounted) - set(counted)), "the uncounted are not in ascending order, or counted too"
    )
    ensure(sorted(counted + uncounted) == sorted(headers), f"the batches that count are {sorted(headers)}")
    ensure(view.batch in counted, "its own member list is not counted")
    for batch, cid in record.counted:
        ensure(
            _digest(cid) == headers[batch].members, f"the list of batch {batch} is not the one that its commit names"
        )
        ensure(members_fit(headers[batch], members[batch]), f"the list of batch {batch} does not give its root")
    ensure(tuple(members[view.batch]) == record.tasks, "its own member list is not that of its tasks")


def validate_over(view: BatchView, record: BatchRecord, ensure: Ensure) -> None:
    """`over`: batches of `view.claimed_before`, each once."""
    said, known = [batch for batch, _ in record.over], {batch.batch for batch in view.claimed_before}
    ensure(said == sorted(set(said)), "they are not in ascending order")
    ensure(known.issuperset(said), f"the batches that were open before this one are {sorted(known)}")
    for batch, cid in record.over:
        ensure(cid is None or _digest(cid) is not None, f"the record of batch {batch} is named by no CID")


def repeated_tasks(
    view: BatchView,
    tasks: Sequence[CommittedTask],
    members: Members,
    paid: Collection[TaskKey],
    over: Collection[BatchId],
) -> tuple[TaskKey, ...]:
    """The tasks that are not paid in this batch, in its order: earlier records pay them (`paid`), or a batch that comes
    before it, and is not `over`, holds a commitment to them that a node signed for this job."""
    known, ours = set(paid), {task.key for task in tasks}
    for batch in view.claimed_before:
        if batch.batch in over:
            continue
        held = (member for member in members.get(batch.batch, ()) if member.key in ours)
        known |= {member.key for member in held if _is_claim(view, member)}
    return tuple(task.key for task in tasks if task.key in known)


def stale_tasks(
    view: BatchView, record: BatchRecord, graphs: Mapping[JobId, Sequence[TaskSpec]], paid: Mapping[TaskKey, Cid]
) -> tuple[TaskKey, ...]:
    """The tasks, in the batch's order, whose inputs are not the accepted results of what they rest on: accepted by an
    earlier record (`paid`) or by this one, of which tasks, faults and `repeated` are read. A task whose inputs have no
    accepted result yet is stale as well. Nothing that is repeated is: it counts elsewhere."""
    done, stale, repeated = dict(paid), set(), set(record.repeated)
    right = {task.key for task in right_tasks(view, record)} - repeated
    for task in sorted(record.tasks, key=lambda task: task.key):
        if task.key in repeated:
            continue
        job, index = task.key
        results = [done.get((job, dep)) for dep in graphs[job][index].deps]
        if _inputs_root(view.jobs[job].manifest, results) != task.commitment.inputs:
            stale.add(task.key)
        elif task.key in right:
            done[task.key] = task.commitment.result
    return tuple(task.key for task in record.tasks if task.key in stale)


def _inputs_root(manifest: Digest, results: Sequence[Cid | None]) -> Digest | None:
    """What a commitment's `inputs` is for these results; None where one is missing."""
    found = [cid for cid in results if cid is not None]
    return inputs_root(make_cid(manifest), found) if len(found) == len(results) else None


def inputs_root(manifest: Cid, results: Sequence[Cid]) -> Digest:
    """What a task was computed from: the Merkle root of its manifest's CID and of the results of its `deps`."""
    return merkle.root([cid_bytes(manifest), *map(cid_bytes, results)])


def _is_claim(view: BatchView, member: Member) -> bool:
    commitment = member.commitment
    return (
        commitment.manifest == view.jobs[commitment.job].manifest
        and view.operator_of(commitment.node) is not None
        and commitment.is_signed(view.domain, member.signature)
    )


def _digest(cid: str) -> bytes | None:
    """The digest in a CID from outside; None where it is none."""
    try:
        return cid_digest(cid)
    except ValueError:
        return None
