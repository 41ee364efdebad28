"""Work that rests on results which are not accepted: not paid for its units, nobody's fault, and paid for its pains."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from worlds import TOKEN, Job, Work, World, address, changed, network

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.earnings import earnings
from proofyard.protocol.findings import accepted
from proofyard.protocol.members import TaskKey
from proofyard.protocol.redress import Ruin, outcome_of
from proofyard.protocol.settlement import Cause
from proofyard.protocol.settling import settlement_of
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


def redressed(world: World) -> dict[str, int]:
    """What each node is paid by faults, if that is there, in base units."""
    return {world.node_names[paid.node]: int(paid.amount) for paid in world.record.redress}


def test_what_rests_on_a_faulty_result_is_done_again_and_its_workers_are_paid_their_price_by_the_fault() -> None:
    """Though every task is audited and the votes take all of the audit fee; not a wei more leaves the escrow."""
    world = chain(fake=(0, 1, 2, 3))
    world.check()
    assert {audit.task for audit in world.record.audits} == {0, 1, 2}
    assert [fault.task for fault in world.record.faults] == [0]
    assert world.record.stale == (SECOND, THIRD)
    assert accepted(world.view, world.record) == {}
    price = world.jobs[0].reward // 3
    assert redressed(world) == {"n1": price, "n2": price} and not worked(world)
    (share,) = earnings(world.view, world.record).shares
    assert share.paid_units == 0 and share.amount <= world.jobs[0].audit_fee
    settled = settlement_of(world.record, world.view, RESULT)
    assert settled.total == share.amount == sum(payout.amount for payout in settled.payouts if not payout.cause)
    assert {payout.cause for payout in settled.payouts if payout.cause} == {Cause(BatchId(10), 0, 0)}


def ruin(owner: str = "cheat", batch: int = 9, tasks: tuple[TaskKey, ...] = (FIRST,)) -> Ruin:
    return Ruin(Cause(BatchId(batch), 0, 0), address(owner), tasks)


WRONG = ((0, raw_cid(b"the cheat's")),)


@pytest.mark.parametrize(
    ("changes", "paid_by"),
    [
        ({"ruins": (ruin(),)}, 9),
        ({"ruins": (ruin(batch=9), ruin(batch=8))}, 8),
        ({"ruins": (ruin(tasks=(SECOND, FIRST)),)}, 9),
        ({}, None),
        ({"ruins": (ruin(tasks=(THIRD,)),)}, None),
        ({"ruins": (ruin(tasks=((JobId(2), TaskIndex(0)),)),)}, None),
        ({"ruins": (ruin(owner="owner-1"),)}, None),
        ({"ruins": (ruin(owner="owner-1", batch=8), ruin())}, 9),
        ({"ruins": (ruin(),), "redressed": frozenset({(ruin().cause, SECOND)})}, None),
        ({"ruins": (ruin(),), "redressed": frozenset({(ruin().cause, THIRD)})}, 9),
        ({"ruins": (ruin(),), "paid": {FIRST: WRONG[0][1]}}, None),
    ],
    ids=[
        "a fault of an earlier batch",
        "the first of two",
        "of two tasks one",
        "no fault",
        "a fault that it does not rest on",
        "a fault in another job",
        "its own owner's",
        "another's after its own owner's",
        "paid before",
        "paid before for another task",
        "accepted after all",
    ],
)
def test_which_fault_pays_a_task_that_is_thrown_away(changes: dict[str, Any], paid_by: int | None) -> None:
    world = chain(**{"paid": {FIRST: RESULT}, "work": [Work(1, 1, "n1", given=WRONG)]} | changes)
    world.check()
    assert [paid.batch for paid in world.record.redress] == ([] if paid_by is None else [paid_by])


@pytest.mark.parametrize(("look_ahead", "resting"), [(0, 0), (1, 1), (2, 2), (5, 2)])
def test_what_may_rest_on_a_fault_is_what_the_look_ahead_lets_start(look_ahead: int, resting: int) -> None:
    """Each has its part of what is set aside by the prices of all of it, whether or not others were started."""
    world = chain(fake=(0, 1, 2, 3))
    world.jobs[0] = replace(world.jobs[0], look_ahead=look_ahead)
    world.check()
    price = world.jobs[0].reward // 3
    assert [(paid.task, int(paid.prices)) for paid in world.record.redress] == [
        (1 + i, resting * price) for i in range(resting)
    ]


def test_the_jobs_that_an_owner_faked_in_share_what_is_set_aside() -> None:
    """Nobody has to know the other job's graph."""
    elsewhere = (JobId(2), TaskIndex(0))
    world = chain(paid={FIRST: RESULT}, work=[Work(1, 1, "n1", given=WRONG)], ruins=(ruin(tasks=(FIRST, elsewhere)),))
    world.check()
    assert [int(paid.prices) for paid in world.record.redress] == [2 * 2 * (world.jobs[0].reward // 3)]


def test_a_fault_that_nobody_answers_for_with_a_stake_pays_nothing() -> None:
    world = chain()
    world.work[0] = replace(world.work[0], lawless=True)
    world.check()
    assert world.record.stale == (SECOND, THIRD) and world.record.redress == ()


@pytest.mark.parametrize("field", ["amount", "prices", "batch", "fault", "operator", "task", "none", "twice"])
def test_a_record_cannot_say_something_else_of_what_faults_pay(field: str) -> None:
    world = chain(fake=(0, 1, 2, 3))
    first, second = world.record.redress
    lies: dict[str, tuple[object, ...]] = {"none": (second,), "twice": (first, first, second)}
    other = "1" if field in ("amount", "prices") else 7
    wrong = lies.get(field) or (changed(first, **{field: other}), second)
    with pytest.raises(RecordInvalid) as refused:
        world.check(world.paying(changed(world.record, redress=wrong)))
    assert refused.value.field == "redress"


def test_prices_stay_within_what_the_line_has_left_of_its_budget() -> None:
    """Audits and repetitions may have used it up; then each has the same part."""
    scarce = replace(chain(fake=(0, 1, 2, 3)), scarce=Wei(3 * TOKEN))
    scarce.check()
    (share,) = earnings(scarce.view, scarce.record).shares
    assert sum(redressed(scarce).values()) == share.redress == 3 * TOKEN - share.amount
    first, second = redressed(scarce).values()
    assert 0 <= first - second <= 1


def test_what_a_record_says_is_what_later_ones_go_by() -> None:
    """Nobody is paid twice for a task and a fault, in whatever batch the task is committed again."""
    world = chain(fake=(0, 1, 2, 3))
    told = outcome_of(world.view, world.record)
    assert [(ruin.cause, ruin.tasks) for ruin in told.ruins] == [(Cause(BatchId(10), 0, 0), (FIRST,))]
    assert told.redressed == {(Cause(BatchId(10), 0, 0), key) for key in (SECOND, THIRD)} and told.paid == {}


def unblamed(**changes: Any) -> World:
    """Nobody is at fault for what is stale, and it is not audited: all of the line's fee is there."""
    known = chain(paid={FIRST: RESULT}, work=[Work(1, 1, "n1", given=WRONG)], **changes)
    known.nodes[:] = [replace(node, valid=2000) for node in known.nodes]
    tags = (replace(known, tag=tag) for tag in range(100))
    world = next(world for world in tags if not world.record.audits)
    world.check()
    assert world.record.stale == (SECOND,) and not world.record.redress
    return world


def test_where_nobody_is_at_fault_a_thrown_away_segment_is_paid_like_an_audit_as_far_as_the_votes_leave_something() -> (
    None
):
    """Where it is not enough, each has its part of it."""
    world = unblamed()
    assert worked(world)["n1"] == min(SEGMENTS * segment_price(world.jobs[0]), world.jobs[0].audit_fee // 3)
    rich = replace(world, jobs=[replace(world.jobs[0], k=9)])
    assert worked(rich)["n1"] == SEGMENTS * segment_price(rich.jobs[0]) < rich.jobs[0].audit_fee // 3


def test_thrown_away_work_is_never_worth_more_than_accepted_work() -> None:
    world = unblamed(audit_fee=Wei(10**6 * TOKEN))
    assert worked(world)["n1"] == world.jobs[0].reward // 3


def test_who_is_at_fault_gets_nothing_for_its_stale_work() -> None:
    world = chain(fake=(0, 1, 2, 3))
    world.work[1] = replace(world.work[1], node="n0")
    world.check()
    assert world.record.stale == (SECOND, THIRD) and set(redressed(world)) == {"n2"}


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
    assert set(redressed(world)) == {"n2"}


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
