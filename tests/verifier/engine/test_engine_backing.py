"""What a verifier's stake allows it to have open: jobs are taken, work is given out and batches are formed within it,
in their order; what waits says so, and goes on as soon as there is room."""

from enginetown import UNITS, Town

from proofyard.protocol.types import JobId, Wei
from proofyard.verifier.engine import backing
from proofyard.verifier.engine.effects import CommitBatch, TakeJob
from proofyard.verifier.engine.events import Backed, EffectFailed
from proofyard.verifier.engine.rows import BatchState, TaskState

SEAT = 1000 * UNITS
"""Ten tasks of a job of ten reserve 111 of these each: nine fit."""
TASK = 111 * UNITS
PEOPLE = tuple((number, number, 3) for number in range(1, 7))


def town(*, people: tuple[tuple[int, int, int], ...] = PEOPLE, **rules: object) -> Town:
    made = Town(people, verifier_stake=SEAT, exposure_bps=10_000, **rules)
    for person in made.people.values():
        made.join(person)
    return made


def back(made: Town, *, exposed: int = 0, stake: int = SEAT) -> None:
    """`exposed` in base units."""
    made.tell(Backed(Wei(stake), -(-exposed * 10_000 // SEAT), made.block))


def given(made: Town, job: int = 1) -> int:
    return sum(task.state == TaskState.GIVEN for task in made.world.rows.tasks_of[JobId(job)])


def finish_all(made: Town) -> None:
    for person in made.people.values():
        for key in list(person.at):
            made.finish(person, key)


def test_no_more_is_given_out_than_the_stake_backs_and_the_rest_once_batches_are_final() -> None:
    made = town()
    back(made)
    job = made.open(1, [[]] * 12, reward=Wei(1200 * UNITS), audit_fee=Wei(120 * UNITS), verifier_fee=Wei(12 * UNITS))
    made.run_all()
    assert given(made) == 9
    assert "this verifier's stake of 1,000 CREDIT backs no 111 CREDIT more" in made.world.rows.jobs[job].reason
    finish_all(made)
    made.tick(6)
    made.run_all()
    assert [len(batch.lines) for batch in made.world.rows.batches.values()] == [1]
    made.tick(1)
    made.run_all()
    assert given(made) == 0, "what is settled is open until it is final"
    back(made)
    made.run_all()
    assert given(made) == 3
    finish_all(made)
    made.tick(6)
    made.run_all()
    assert made.world.rows.jobs[job].state == "done"


def test_more_stake_backs_more() -> None:
    made = town()
    back(made, exposed=9 * TASK)
    made.open(1, [[]] * 10)
    made.run_all()
    assert not made.world.rows.tasks, "the job is not taken"
    back(made, exposed=9 * TASK, stake=SEAT + TASK)
    made.run_all()
    assert given(made) == 1
    back(made, exposed=9 * TASK, stake=10 * SEAT)
    assert given(made) == 10


def test_jobs_are_taken_in_their_order_once_there_is_room_and_say_what_they_wait_for() -> None:
    made = town()
    back(made, exposed=9 * TASK)
    made.open(1, [[]] * 10)
    made.open(2, [[]] * 1000)
    made.run_all_but(TakeJob)
    assert made.effects == [] and not given(made), "nor the second, which would fit"
    job = made.world.rows.jobs[JobId(1)]
    assert (job.state, job.reason.startswith("it is taken once there is room for it: this verifier's stake")) == (
        "taking",
        True,
    )
    back(made)
    assert [effect for effect in made.effects if isinstance(effect, TakeJob)] == [TakeJob(JobId(1)), TakeJob(JobId(2))]
    made.run_all()
    assert made.world.rows.jobs[JobId(1)].reason != "", "nine of its ten tasks are given"
    assert given(made) == 9


def test_a_job_with_a_task_that_the_stake_never_backs_is_refused_by_name() -> None:
    made = town()
    back(made)
    job = made.open(1, [[]])
    made.run_all()
    assert made.world.rows.jobs[job].state == "failed"
    assert "its batch reserves 1,110 CREDIT, more than this verifier's stake of 1,000 CREDIT backs" in (
        made.world.rows.jobs[job].reason
    )


def test_small_tasks_of_a_later_job_do_not_go_before_a_large_one_that_waits() -> None:
    made = town()
    back(made, exposed=950 * UNITS)
    made.open(1, [[]] * 1000)
    made.run_all()
    first = given(made)
    made.open(2, [[]] * 2, reward=Wei(1000 * UNITS), audit_fee=Wei(0), verifier_fee=Wei(0))
    made.open(3, [[]] * 1000)
    made.run_all()
    assert first == len(PEOPLE) * 3, "all that nodes have room for"
    assert (given(made, 2), given(made, 3)) == (0, 0)
    back(made, exposed=0)
    made.run_all()
    assert given(made, 2) == 0, "the nodes have no room"
    finish_all(made)
    assert given(made, 1) == len(PEOPLE) * 3, "the oldest job first"


def test_commitments_wait_for_room_in_their_order_where_stake_was_lost() -> None:
    made = town(batch_tasks=4)
    back(made)
    job = made.open(1, [[]] * 10)
    made.run_all()
    back(made, stake=3 * TASK)
    finish_all(made)
    made.tick(6)
    batches = list(made.world.rows.batches.values())
    assert [dict(batch.lines)[job] for batch in batches] == [3]
    assert (
        "its commitments wait for their batch: this verifier's stake of 333 CREDIT" in made.world.rows.jobs[job].reason
    )
    made.run_all()
    made.tick(6)
    assert len(made.world.rows.batches) == 1
    back(made, stake=3 * TASK, exposed=0)
    made.tick(1)
    assert [dict(batch.lines)[job] for batch in made.world.rows.batches.values()] == [3, 3]


def test_a_batch_that_never_comes_on_chain_holds_nothing_open() -> None:
    made = town()
    back(made)
    job = made.open(1, [[]] * 10)
    made.run_all()
    finish_all(made)
    made.tick(6)
    (batch,) = made.world.rows.batches.values()
    assert backing.used(made.world) == 9990
    (commit,) = [effect for effect in made.effects if isinstance(effect, CommitBatch)]
    made.effects.remove(commit)
    made.tell(EffectFailed(commit.key, "its units are paid already", retry=False))
    assert (batch.state, backing.used(made.world)) == (BatchState.DROPPED, 0)
    assert given(made) == 9, "and its tasks are given out again"
    assert job in made.world.rows.jobs


def test_a_batch_is_counted_once_however_late_the_chain_says_what_is_open() -> None:
    made = town()
    back(made)
    made.open(1, [[]] * 10)
    made.run_all()
    finish_all(made)
    made.tick(6)
    made.run_all()
    assert backing.used(made.world) == 9990, "what was told is of an earlier block"
    back(made, exposed=9 * TASK)
    assert backing.used(made.world) == 9990
    back(made)
    assert backing.used(made.world) == 0


def test_a_restart_counts_what_the_rows_say() -> None:
    made = town()
    back(made)
    made.open(1, [[]] * 10)
    made.run_all()
    finish_all(made)
    made.tick(6)
    formed = backing.used(made.world)
    made.restart()
    assert (backing.used(made.world), formed) == (9990, 9990)


def test_without_a_bound_nothing_waits() -> None:
    made = Town(PEOPLE)
    for person in made.people.values():
        made.join(person)
    made.tell(Backed(Wei(0), 10**9, made.block))
    made.open(1, [[]] * 10)
    made.run_all()
    assert given(made) == 10
