"""Every field of a commitment, of the counted lists and of an audit's bookkeeping, one by one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from test_validate_attacks import refused
from worlds import BATCH, DOMAIN, Work, World, changed, sign, simple, with_audit

from proofyard.protocol import merkle
from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import cid_bytes, cid_digest, make_cid, raw_cid
from proofyard.protocol.members import Member, members_root
from proofyard.protocol.plan import plan_of
from proofyard.protocol.record import RecordedFault
from proofyard.protocol.seal import CANNOT_EXECUTE, NO_STATE, keyed_is_checked
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import BatchId, Cid, JobId, SegmentIndex, TaskIndex
from proofyard.protocol.validate import RecordInvalid

pytestmark = pytest.mark.usefixtures("known_signatures")

Change = Callable[[Member], tuple[dict[str, Any], tuple[Cid, ...]]]


def traced(member: Member, *trace: Cid) -> tuple[dict[str, Any], tuple[Cid, ...]]:
    """A commitment to another trace."""
    return {"trace_root": merkle.root([cid_bytes(cid) for cid in trace]), "segments": len(trace) - 1}, trace


def nothing(digest: bytes) -> Change:
    """The third state is named by the digest of an answer that is no state."""
    return lambda m: traced(m, *m.trace[:3], make_cid(digest), *m.trace[4:])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: ({"job": JobId(3)}, m.trace), "job 3 is not in the batch"),
        (lambda m: ({"task": TaskIndex(3)}, m.trace), "there is no task 3"),
        (lambda m: ({"manifest": bytes(32)}, m.trace), "to something else"),
        (lambda m: ({"work_units": 11}, m.trace), "to something else"),
        (lambda m: traced(m, *m.trace[:4]), "to something else"),
        (lambda m: ({"trace_root": bytes(32)}, m.trace), "trace of task 0"),
        (lambda m: ({}, m.trace[:-1]), "trace of task 0"),
        (lambda m: ({}, (*m.trace[:-1], Cid("bad"))), "trace of task 0"),
        (lambda m: ({}, (*m.trace[:-1], raw_cid(b"another"))), "trace of task 0"),
        *((nothing(digest), "trace of task 0") for digest in sorted(NO_STATE)),
        (lambda m: ({"result": make_cid(CANNOT_EXECUTE)}, m.trace), "trace of task 0"),
    ],
)
def test_a_commitment_to_something_else(change: Change, reason: str) -> None:
    """That its worker signed, and the batch's root is of."""
    world = simple()
    first, *rest = world.record.tasks
    changes, trace = change(first)
    commitment = replace(first.commitment, **changes)
    signature = sign("n0", DOMAIN.typed_digest(commitment.struct_hash()))
    tasks = (Member(commitment, signature, trace), *rest)
    header = replace(world.view.header, root=members_root(tasks))
    with pytest.raises(RecordInvalid, match=reason) as error:
        world.check(changed(world.record, tasks=tasks), replace(world.view, header=header))
    assert error.value.field == "tasks"


def test_other_commitments_than_the_root_s() -> None:
    world = simple()
    assert "on chain 6" in refused(world, changed(world.record, tasks=world.record.tasks[:5]), field="tasks")
    swapped = (world.record.tasks[1], world.record.tasks[0], *world.record.tasks[2:])
    assert "root" in refused(world, changed(world.record, tasks=swapped), field="tasks")


def test_a_task_without_segments_or_work_units() -> None:
    world = simple()
    for empty in ({"segments": 0}, {"work_units": 0}):
        spec = changed(world.jobs[0].graph[0], **empty)
        graphs = {job.id: job.graph for job in world.jobs} | {JobId(1): (spec, *world.jobs[0].graph[1:])}
        commitment = replace(world.record.tasks[0].commitment, **empty)  # type: ignore[arg-type]
        tasks = (changed(world.record.tasks[0], commitment=commitment), *world.record.tasks[1:])
        with pytest.raises(RecordInvalid, match="no segments, or no work units"):
            world.check(changed(world.record, tasks=tasks), graphs=graphs)


def with_others() -> World:
    return replace(simple(), others={9: [Work(1, 1, "n8")], 11: [Work(2, 1, "n7")]}, hidden={11})


def test_lists_that_are_counted_twice_out_of_order_or_both_ways() -> None:
    world = with_others()
    world.check()
    nine, ten = world.record.counted
    for counted, uncounted in (
        ((ten, nine), (11,)),
        ((nine, nine, ten), (11,)),
        ((nine, ten), (9, 11)),
        ((nine, ten), (11, 11)),
        ((nine, ten), ()),
        ((nine, ten), (11, 12)),
        ((nine,), (10, 11)),
        ((), (9, 10, 11)),
    ):
        record = changed(world.record, counted=counted, uncounted=tuple(map(BatchId, uncounted)))
        refused(world, record, field="counted")


def test_a_list_that_is_not_its_commit_s() -> None:
    world = with_others()
    record = world.record
    world.members[BatchId(9)] = (world.member(Work(1, 0, "n8")),)
    assert "does not give its root" in refused(world, record, field="counted")
    world = with_others()
    (cid,) = (cid for batch, cid in world.record.counted if batch == BATCH)
    renamed = tuple((batch, make_cid(bytes(32)) if batch == BATCH else cid) for batch, cid in world.record.counted)
    assert cid_digest(cid) == world.view.header.members
    refused(world, changed(world.record, counted=renamed), field="counted")


def test_signatures_in_the_record_that_are_not_those_of_the_list() -> None:
    """Two signatures of one commitment by one wallet: the list has the one, the record the other."""
    world = simple()
    record = world.record
    first = record.tasks[0]
    other = changed(first, signature=sign("n1", DOMAIN.typed_digest(first.commitment.struct_hash())))
    world.members[BATCH] = (other, *world.members[BATCH][1:])
    assert "its own member list" in refused(world, record, field="counted")


def test_audits_without_their_last() -> None:
    world = simple()
    refused(world, world.paying(changed(world.record, audits=world.record.audits[:-1])), field="audits")
    more = (*world.record.audits, world.record.audits[-1])
    refused(world, changed(world.record, audits=more), field="audits")


def test_auditors_that_are_absent_where_nobody_was_asked() -> None:
    world = simple()
    world = replace(world, work=[replace(world.work[0], withheld=True), *world.work[1:]])
    world.check()
    listed = plan_of(world.view, world.members).audits[0].auditors
    asked = with_audit(world.record, 0, absent=listed[:1])
    refused(world, asked, field="audits")


def test_copiers_that_did_not_vote() -> None:
    world = simple()
    world = next(w for tag in range(100) if (w := replace(world, tag=tag)) and _checked(w))
    record = with_audit(world.record, 0, copied=(world.view.operators[0].node,))
    refused(world, world.paying(record), field="audits")
    voters = tuple(vote.auditor for vote in world.record.audits[0].votes)
    twice = with_audit(world.record, 0, copied=(voters[0], voters[0]))
    refused(world, twice, field="audits")


def _checked(world: World) -> bool:
    leaf = world.record.tasks[0].commitment.struct_hash()
    return keyed_is_checked(world.view.seed, leaf, world.record.audits[0].segment)


def test_faults_out_of_order_or_twice() -> None:
    world = simple()
    work = [replace(world.work[0], fake=(0, 1, 2, 3)), replace(world.work[1], bad_result=True), *world.work[2:]]
    world = replace(world, work=work)
    world.check()
    one, two = world.record.faults
    for faults in ((two, one), (one, one, two), (one, two, two)):
        refused(world, changed(world.record, faults=faults), field="faults")
    withheld = changed(two, kind=FaultReason.WITHHELD)
    both = tuple(sorted((one, two, withheld), key=lambda fault: fault.place))
    assert "twice" in refused(world, changed(world.record, faults=both), field="faults")


def test_a_withheld_state_is_named_at_the_first_segment_that_was_drawn() -> None:
    world = simple()
    work = [*world.work[:4], replace(world.work[4], withheld=True), world.work[5]]
    world = replace(world, work=work)
    world.check()
    (fault,) = world.record.faults
    places = [audit.segment for audit in world.record.audits if audit.task_key == fault.task_key]
    assert (len(places), fault.segment, fault.kind) == (2, places[0], FaultReason.WITHHELD)
    later = changed(fault, segment=places[1])
    refused(world, changed(world.record, faults=(later,)), field="faults")
    result = RecordedFault(fault.job, fault.task, fault.node, fault.kind, "", None)
    refused(world, changed(world.record, faults=(result,)), field="faults")
    nowhere = changed(fault, segment=SegmentIndex(2**31))
    refused(world, changed(world.record, faults=(nowhere,)), field="faults")
    assert {audit.verdict for audit in world.record.audits if audit.task_key == fault.task_key} == {Verdict.FAULT}
