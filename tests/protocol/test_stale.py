"""Work that rests on results which are not accepted: not paid for its units, nobody's fault, and paid for its pains."""

from collections import Counter
from dataclasses import replace

import pytest
from worlds import TOKEN, Job, Work, World, changed, network

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.earnings import earnings
from proofyard.protocol.findings import accepted
from proofyard.protocol.members import TaskKey
from proofyard.protocol.types import BatchId, JobId, TaskIndex, Wei
from proofyard.protocol.validate import RecordInvalid

JOB = JobId(1)
SEGMENTS = 4
FIRST, SECOND, THIRD = (TaskKey((JOB, TaskIndex(i))) for i in range(3))
RESULT = raw_cid(b"accepted before")


FEE = Wei(10 * TOKEN)


def chain(*, audit_fee: Wei = FEE, fake: tuple[int, ...] = (), **changes: object) -> World:
    """Three tasks, each of which rests on the one before, by n0, n1, n2, in one batch; the first may be faked."""
    job = Job(JOB, (SEGMENTS,) * 3, deps=((), (0,), (1,)), audit_fee=audit_fee)
    work = [Work(1, 0, "n0", fake=fake), Work(1, 1, "n1"), Work(1, 2, "n2")]
    world = World([job], network(10, stake=Wei(10**6 * TOKEN)), work)
    return replace(world, **changes)  # type: ignore[arg-type]


def worked(world: World) -> Counter[str]:
    """What each node is paid for work, in base units."""
    return Counter({world.node_names[paid.node]: int(paid.work) for paid in world.record.payouts if int(paid.work)})


def segment_price(job: Job) -> int:
    return job.audit_fee // 3 // job.k


def test_a_chain_in_one_batch_is_accepted_as_a_whole() -> None:
    world = chain()
    world.check()
    assert world.record.stale == ()
    assert list(accepted(world.view, world.record)) == [FIRST, SECOND, THIRD]


def test_what_rests_on_a_faulty_result_is_done_again_and_its_workers_are_paid_by_the_segment() -> None:
    world = chain(fake=(0, 1, 2, 3))
    world.check()
    assert [fault.task for fault in world.record.faults] == [0]
    assert world.record.stale == (SECOND, THIRD)
    assert accepted(world.view, world.record) == {}
    paid = worked(world)
    assert set(paid) == {"n1", "n2"}
    assert paid["n1"] == paid["n2"] > 0
    (share,) = earnings(world.view, world.record).shares
    assert share.paid_units == 0 and share.amount <= world.jobs[0].audit_fee


def test_a_thrown_away_segment_is_paid_like_an_audit_of_it_as_far_as_the_votes_leave_something() -> None:
    """Without audits all of the line's fee is there, and is not enough: each has its part of it."""
    known = replace(chain(paid={FIRST: RESULT}), work=[Work(1, 1, "n1", given=((0, raw_cid(b"stale")),))])
    known.nodes[:] = [replace(node, valid=2000) for node in known.nodes]
    tags = (replace(known, tag=tag) for tag in range(100))
    world = next(world for world in tags if not world.record.audits)
    world.check()
    assert world.record.stale == (SECOND,)
    assert worked(world)["n1"] == min(SEGMENTS * segment_price(world.jobs[0]), world.jobs[0].audit_fee // 3)
    rich = replace(world, jobs=[replace(world.jobs[0], k=9)])
    assert worked(rich)["n1"] == SEGMENTS * segment_price(rich.jobs[0]) < rich.jobs[0].audit_fee // 3


def test_thrown_away_work_is_never_worth_more_than_accepted_work() -> None:
    world = chain(fake=(0, 1, 2, 3), audit_fee=Wei(10**6 * TOKEN))
    world.check()
    assert worked(world)["n1"] == world.jobs[0].reward // 3


def test_who_is_at_fault_gets_nothing_for_its_stale_work() -> None:
    world = chain(fake=(0, 1, 2, 3))
    world.work[1] = replace(world.work[1], node="n0")
    world.check()
    assert world.record.stale == (SECOND, THIRD) and set(worked(world)) == {"n2"}


@pytest.mark.parametrize(
    ("paid", "given", "stale"),
    [
        ({FIRST: RESULT}, ((0, RESULT),), False),
        ({FIRST: RESULT}, ((0, raw_cid(b"the cheat's")),), True),
        ({}, ((0, RESULT),), True),
        ({(JobId(2), TaskIndex(0)): RESULT}, ((0, RESULT),), True),
    ],
    ids=["the accepted one", "another one", "none accepted yet", "accepted in another job"],
)
def test_a_commitment_counts_only_on_results_that_are_accepted(
    paid: dict[TaskKey, object], given: tuple[tuple[int, object], ...], stale: bool
) -> None:
    world = chain(paid=paid, work=[Work(1, 1, "n1", given=given)])  # type: ignore[arg-type]
    world.check()
    assert world.record.stale == ((SECOND,) if stale else ())
    assert (SECOND in accepted(world.view, world.record)) is not stale


def test_what_another_batch_pays_is_repeated_and_not_stale() -> None:
    world = chain(paid={FIRST: RESULT, SECOND: RESULT})
    world = replace(world, work=[Work(1, 1, "n1", given=((0, raw_cid(b"stale")),)), Work(1, 2, "n2")])
    world.check()
    assert world.record.repeated == (SECOND,) and world.record.stale == ()
    assert list(accepted(world.view, world.record)) == [THIRD]
    assert set(worked(world)) == {"n2"}


def test_audits_of_stale_work_are_paid_and_count() -> None:
    world = chain(fake=(0, 1, 2, 3), audit_fee=Wei(1000 * TOKEN))
    world.check()
    stale = {audit.task for audit in world.record.audits} & {1, 2}
    assert stale
    valid = {world.node_names[paid.node]: paid.valid for paid in world.record.payouts if paid.valid}
    assert valid == {f"n{task}": 1 for task in stale}
    assert any(int(paid.audits) for paid in world.record.payouts)


def test_stale_work_can_be_faulty_as_well() -> None:
    world = chain(fake=(0, 1, 2, 3))
    world.work[1] = replace(world.work[1], fake=(0, 1, 2, 3))
    world.check()
    assert {fault.task for fault in world.record.faults} == {0, 1} and world.record.stale == (SECOND, THIRD)
    assert set(worked(world)) == {"n2"}


@pytest.mark.parametrize("stale", [(), (SECOND,), (THIRD, SECOND), (FIRST, SECOND, THIRD)])
def test_a_record_cannot_call_other_tasks_stale(stale: tuple[TaskKey, ...]) -> None:
    world = chain(fake=(0, 1, 2, 3))
    with pytest.raises(RecordInvalid) as refused:
        world.check(world.paying(changed(world.record, stale=stale)))
    assert refused.value.field == "stale"


def test_a_task_that_rests_on_nothing_cannot_name_inputs() -> None:
    """Else whoever makes some up would be paid for work that nobody asked for."""
    world = chain()
    (job,) = world.jobs
    with pytest.raises(RecordInvalid, match="task 1 of job 1 has no inputs") as refused:
        world.check(graphs={JOB: tuple(changed(spec, deps=()) for spec in job.graph)})
    assert refused.value.field == "tasks"


def test_a_task_of_an_earlier_batch_that_is_over_without_it_counts_here() -> None:
    """Done again after it was found faulty there, or after that batch was dropped."""
    open_ = chain(others={9: [Work(1, 0, "n8")]})
    open_.check()
    assert open_.record.repeated == (FIRST,)
    for record in (raw_cid(b"the record of batch 9"), None):
        over = replace(chain(others={9: [Work(1, 0, "n8")]}), over={9: record})
        over.check()
        assert over.record.repeated == () and list(accepted(over.view, over.record)) == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize(
    "over",
    [
        ((BatchId(8), None),),
        ((BatchId(9), None), (BatchId(9), None)),
        ((BatchId(11), None),),
        ((BatchId(10), None),),
        ((BatchId(9), "no CID"),),
    ],
)
def test_only_batches_that_were_open_before_can_be_over(over: tuple[tuple[BatchId, str | None], ...]) -> None:
    world = chain(others={9: [Work(1, 0, "n8")], 11: [Work(1, 1, "n8")]})
    with pytest.raises(RecordInvalid) as refused:
        world.check(changed(world.record, over=over))
    assert refused.value.field == "over"
