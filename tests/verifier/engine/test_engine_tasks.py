from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from enginetown import (
    Town,
    address,
    job_row,
    memory_of,
    rounds,
    truth,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.lookahead import Standing, may_start
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.types import JobId, TaskIndex
from proofyard.verifier.engine import tasks
from proofyard.verifier.engine.effects import CancelTasks, Effect, LookAtResult, OfferTasks
from proofyard.verifier.engine.events import (
    NodesListed,
    TaskAnswered,
    TaskHandedBack,
    TaskProgressed,
    WorkCommitted,
)
from proofyard.verifier.engine.graph import Graph
from proofyard.verifier.engine.rows import JobState, TaskState, Work, WorkState

Deps = list[list[int]]

FIVE = [(0, 1, 2), (1, 2, 2), (2, 3, 2), (3, 4, 2), (4, 5, 2)]


def town(people: Sequence[tuple[int, int, int]] = FIVE, **rules: object) -> Town:
    made = Town(people, **rules)
    for person in made.people.values():
        made.join(person)
    return made


def offers(made: Town) -> None:
    """Deliver what is on its way to nodes."""
    while found := [e for e in made.effects if isinstance(e, OfferTasks | CancelTasks)]:
        made.run(found[0])


def finish_all(made: Town) -> None:
    for person in made.people.values():
        for key in list(person.at):
            made.finish(person, key)


def state(made: Town, index: int, job: int = 1) -> TaskState:
    return made.world.rows.tasks[JobId(job), TaskIndex(index)].state


def work_of(made: Town, index: int, attempt: int = 1) -> Work:
    return made.world.rows.works[JobId(1), index, attempt]


def holder(made: Town, index: int) -> Town:
    task = made.world.rows.tasks[JobId(1), TaskIndex(index)]
    return made.people[work_of(made, index, task.attempt).node]  # type: ignore[return-value]


def finish(made: Town, index: int, *, honest: bool = True) -> None:
    made.finish(holder(made, index), (JobId(1), TaskIndex(index)), honest=honest)  # type: ignore[arg-type]


def started(deps: Deps, look_ahead: int, people: Sequence[tuple[int, int, int]] = FIVE, **rules: object) -> Town:
    """A town with a job whose first tasks are given."""
    made = town(people, **rules)
    made.open(1, deps, look_ahead=look_ahead)
    made.run_all()
    return made


def judge(made: Town) -> None:
    """Everything but offers: batches are formed, drawn and settled."""
    made.tick(made.rules.batch_s + 1)
    while left := [e for e in made.effects if not isinstance(e, OfferTasks | CancelTasks)]:
        made.run(left[0])


# What may start


@st.composite
def graphs(draw: st.DrawFn, most: int = 12) -> Deps:
    found: Deps = []
    for index in range(draw(st.integers(1, most))):
        needs = draw(st.lists(st.integers(0, index - 1), max_size=3, unique=True)) if index else []
        found.append(found[-1] if found and draw(st.booleans()) and index - 1 not in needs else needs)
    return found


@given(graphs(), st.integers(0, 3), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 2)), max_size=40))
def test_the_graph_kept_step_by_step_says_what_the_rule_says(
    deps: Deps, look_ahead: int, moves: list[tuple[int, int]]
) -> None:
    specs = [
        TaskSpec(index=TaskIndex(i), kind="k", deps=tuple(TaskIndex(d) for d in needs)) for i, needs in enumerate(deps)
    ]
    graph = Graph([spec.deps for spec in specs], look_ahead)
    standings = [Standing.OPEN] * len(specs)
    for place, to in moves:
        index = TaskIndex(place % len(specs))
        standings[index] = Standing(to)
        before = [gate.is_open for gate in graph.gates]
        flipped = graph.move(index, at_hand=to > 0, accepted=to == Standing.ACCEPTED)
        assert {id(g) for g in flipped} == {
            id(g) for g, was in zip(graph.gates, before, strict=True) if g.is_open != was
        }
        for spec in specs:
            # The rule looks below what is committed, too; nothing that is committed rests on what is open here.
            direct = all(standings[dep] != Standing.OPEN for dep in spec.deps)
            if direct:
                chain = _chain(specs, standings, spec)
                assert graph.gate_of[spec.index].is_open == (chain <= look_ahead)
                if all(_sound(specs, standings, dep) for dep in spec.deps):
                    assert may_start(spec, specs, standings.__getitem__, look_ahead) == (chain <= look_ahead)
            else:
                assert not graph.gate_of[spec.index].is_open


def _chain(specs: list[TaskSpec], standings: list[Standing], spec: TaskSpec) -> int:
    return max(
        (1 + _chain(specs, standings, specs[dep]) for dep in spec.deps if standings[dep] != Standing.ACCEPTED),
        default=0,
    )


def _sound(specs: list[TaskSpec], standings: list[Standing], index: TaskIndex) -> bool:
    return standings[index] == Standing.ACCEPTED or all(
        standings[dep] != Standing.OPEN and _sound(specs, standings, dep) for dep in specs[index].deps
    )


def test_a_task_starts_before_the_verdicts_on_what_it_rests_on() -> None:
    made = started(rounds(2, 3), look_ahead=1)
    assert [state(made, i) for i in range(6)] == ["given", "given", *["waiting"] * 4]
    finish(made, 0)
    assert state(made, 2) == "waiting"
    finish(made, 1)
    offers(made)
    assert [state(made, i) for i in range(6)] == ["committed", "committed", "given", "given", "waiting", "waiting"]
    inputs = tuple(work_of(made, i).result for i in (0, 1))
    assert work_of(made, 2).inputs == inputs
    finish(made, 2)
    finish(made, 3)
    assert [state(made, i) for i in (4, 5)] == ["waiting", "waiting"], "two results in a chain wait for their verdicts"
    judge(made)
    offers(made)
    assert [state(made, i) for i in range(6)] == [*["accepted"] * 4, "given", "given"]


def test_without_look_ahead_a_task_waits_for_the_verdicts_of_its_inputs() -> None:
    made = started([[], [0]], look_ahead=0)
    finish(made, 0)
    assert (state(made, 0), state(made, 1)) == ("committed", "waiting")
    judge(made)
    assert (state(made, 0), state(made, 1)) == ("accepted", "given")


# What is found wrong


def cheat_once(look_ahead: int = 1) -> Town:
    """Task 0 is made up, task 1 is honest, and two tasks rest on both: one of them is done, one is worked on."""
    made = started(rounds(2, 3), look_ahead=look_ahead)
    finish(made, 0, honest=False)
    finish(made, 1)
    offers(made)
    finish(made, 2)
    return made


def test_what_rests_on_a_faulty_result_is_done_again_and_nobody_else_loses_by_it() -> None:
    made = cheat_once()
    worker, cheat = work_of(made, 3).node, work_of(made, 0).node
    judge(made)
    cancels = [e for e in made.effects if isinstance(e, CancelTasks)]
    assert [(e.node, e.tasks) for e in cancels] == [(worker, ((1, 3),))]
    assert [state(made, i) for i in range(4)] == ["given", "accepted", "waiting", "waiting"]
    assert (work_of(made, 3).state, work_of(made, 3).outcome) == ("lost", "called off")
    task = made.world.rows.tasks[JobId(1), TaskIndex(3)]
    assert task.lost_by == () and task.barred == (), "whoever was called off has lost nothing"
    assert made.world.rows.tasks[JobId(1), TaskIndex(0)].barred == (cheat,)
    assert work_of(made, 2).outcome == "stale", "it was in the same batch"
    assert work_of(made, 0, 2).node != cheat
    made.check()


def test_of_rounds_that_overlap_a_fault_spoils_those_from_the_second_after_it_on_and_no_other() -> None:
    each = [[], [], [0], [0, 1], [1, 2], [2, 3]]
    deps = [[2 * number + shard for number in rests for shard in range(2)] for rests in each for _ in range(2)]
    made = started(deps, look_ahead=1, people=[(number, number + 1, 2) for number in range(8)])
    for index in range(8):
        offers(made)
        finish(made, index, honest=index != 2)
    offers(made)
    assert state(made, 8) == "waiting", "the first round has no verdicts, and three rest on one another"
    judge(made)
    assert [state(made, index) for index in (0, 1, 3, 4, 5)] == ["accepted"] * 5, "what does not rest on it stands"
    assert [work_of(made, index).outcome for index in (2, 6, 7)] == ["faulty", "stale", "stale"]
    assert state(made, 8) == state(made, 6) == "waiting", "they rest on what is done again"
    calm(made)
    assert job_row(made, JobId(1)).state == JobState.DONE
    assert made.paid == made.honest_results(JobId(1))
    assert {index for _, index, attempt in made.world.rows.works if attempt > 1} == {2, 6, 7}
    made.check()


def test_work_that_rests_on_a_fault_and_has_a_receipt_is_put_into_a_batch_all_the_same() -> None:
    made = started(rounds(2, 3), look_ahead=1, batch_s=1.0)
    finish(made, 0, honest=False)
    finish(made, 1)
    made.tick(2)
    offers(made)
    finish(made, 2)
    before = made.batches
    assert [(w.task, w.attempt) for w in tasks.to_batch(made.world)] == [(2, 1)]
    while left := [e for e in made.effects if not isinstance(e, OfferTasks | CancelTasks)]:
        made.run(left[0])
    assert state(made, 2) == "waiting", "its input was found faulty"
    assert [(w.task, w.attempt) for w in tasks.to_batch(made.world)] == [(2, 1)]
    judge(made)
    assert made.batches > before
    assert (work_of(made, 2).state, work_of(made, 2).outcome) == ("settled", "stale")


def test_a_job_with_a_cheat_comes_to_what_it_would_have_come_to_without() -> None:
    made = cheat_once()
    calm(made)
    assert job_row(made, JobId(1)).state == JobState.DONE
    assert made.paid == made.honest_results(JobId(1))


def test_a_node_whose_work_was_stale_may_have_the_task_again() -> None:
    made = cheat_once()
    node = work_of(made, 2).node
    judge(made)
    assert node not in made.world.rows.tasks[JobId(1), TaskIndex(2)].barred
    assert work_of(made, 2).outcome == "stale"


def test_who_made_a_task_undecidable_is_barred_and_how_often_is_bounded() -> None:
    made = started([[]], look_ahead=0)
    task = made.world.rows.tasks[JobId(1), TaskIndex(0)]
    for turn in range(1, tasks.MAX_UNDECIDED + 1):
        offers(made)
        finish(made, 0)
        work = work_of(made, 0, turn)
        work.state, work.outcome = WorkState.SETTLED, "undecided"
        tasks.refuted(made.world, work, "undecided", "", (address(turn),), made.now)
        made.tick()
        assert task.undecided == turn and address(turn) in task.barred
    job = job_row(made, JobId(1))
    assert (job.state, job.reason) == ("failed", "task 0 came out undecided 3 times")


def test_who_cannot_get_a_result_whose_maker_is_away_refuses_nothing() -> None:
    """All nodes ask for it in turns while its maker restarts: the job would fail in a second."""
    made = started(rounds(1, 2), look_ahead=1)
    maker = work_of(made, 0, 1).node
    finish(made, 0)
    key = (JobId(1), TaskIndex(1))
    made.leave(made.people[maker])
    task = made.world.rows.tasks[key]
    for _ in range(8):
        if task.state == TaskState.GIVEN:
            made.tell(TaskHandedBack(work_of(made, 1, task.attempt).node, key, "an input is not to be had"))
        made.tick(scheduling_rest())
    assert task.attempt >= 5 and (task.barred, task.lost_by, task.refused_by) == ((), (), ())
    made.join(made.people[maker])
    judge(made)
    made.tick(100)
    holder = work_of(made, 1, task.attempt).node
    made.tell(TaskHandedBack(holder, key, "out of memory"))
    assert holder in task.barred, "what it rests on is accepted, and everybody can have it"


def test_a_settlement_that_went_with_a_block_puts_the_task_back_to_committed() -> None:
    made = started(rounds(1, 2), look_ahead=0)
    finish(made, 0)
    judge(made)
    assert (state(made, 0), state(made, 1)) == ("accepted", "given")
    made.reorganise(1)
    assert (state(made, 0), state(made, 1)) == ("committed", "given")
    made.check()
    made.check_restart()
    calm(made)
    assert job_row(made, JobId(1)).state == JobState.DONE


def test_a_verdict_that_has_not_happened_gives_its_task_back_to_whoever_did_it() -> None:
    made = started([[]], look_ahead=0)
    made.undecide.add((JobId(1), TaskIndex(0)))
    finish(made, 0)
    judge(made)
    assert state(made, 0) == "given" and made.world.rows.tasks[JobId(1), TaskIndex(0)].undecided == 1
    made.tell(TaskHandedBack(work_of(made, 0, 2).node, (JobId(1), TaskIndex(0)), "out of memory"))
    for person in list(made.people.values()):
        made.leave(person)
    made.tick(100)
    assert state(made, 0) == "ready"
    made.reorganise(3)
    assert state(made, 0) == "committed"
    assert made.world.rows.tasks[JobId(1), TaskIndex(0)].attempt == 1
    made.check()


def test_a_work_that_is_accepted_after_its_task_was_given_anew_counts() -> None:
    """The same bits: what it rests on was done again in the same way, or its verdict had not happened."""
    made = started([[]], look_ahead=0)
    finish(made, 0)
    work = work_of(made, 0)
    work.state, work.outcome = WorkState.SETTLED, "undecided"
    tasks.refuted(made.world, work, "undecided", "", (), made.now)
    made.tick()
    second = work_of(made, 0, 2)
    assert second.state == "given"
    work.outcome = "accepted"
    tasks.accepted(made.world, work, made.now)
    made.tick()
    assert (state(made, 0), second.state) == ("accepted", "lost")
    assert any(isinstance(e, CancelTasks) and e.node == second.node for e in made.effects)
    made.check()


# Leases and answers


def test_a_silent_holder_loses_the_task_and_nothing_else() -> None:
    made = started([[], []], look_ahead=0)
    finish(made, 1)
    node = work_of(made, 0).node
    made.tick(made.rules.lease_s - 1)
    assert state(made, 0) == "given"
    made.tick(2)
    task = made.world.rows.tasks[JobId(1), TaskIndex(0)]
    assert task.lost_by == (node,) and task.barred == ()
    assert work_of(made, 0).state == "lost"
    assert work_of(made, 0, 2).node != node, "who lost it is asked after all others"
    assert state(made, 1) == "committed"
    assert "lost" in [line.kind for line in made.logs]


def test_progress_renews_a_lease() -> None:
    made = started([[]], look_ahead=0)
    for _ in range(5):
        made.tick(made.rules.lease_s - 1)
        made.tell(TaskProgressed(work_of(made, 0).node, (JobId(1), TaskIndex(0)), "step 3", loss=0.5, step=3))
    assert state(made, 0) == "given"
    lines = [line for line in made.logs if line.kind == "progress"]
    assert [(line.loss, line.step) for line in lines] == [(0.5, 3)] * 5
    made.tell(TaskProgressed(address(99), (JobId(1), TaskIndex(0)), "step 3"))
    assert made.refusals == ["the task is no longer yours"]


def test_a_verifier_that_began_anew_holds_its_own_absence_against_nobody() -> None:
    made = started([[]], look_ahead=0)
    made.mono += 1000
    for person in made.people.values():
        person.here = False
    made.restart()
    assert state(made, 0) == "given", "a new lease"
    made.tick(made.rules.lease_s + 1)
    assert state(made, 0) == "ready"
    assert made.world.rows.tasks[JobId(1), TaskIndex(0)].lost_by == ()


def test_a_node_that_comes_again_is_offered_what_it_held() -> None:
    made = started([[]], look_ahead=0)
    person = holder(made, 0)
    made.leave(person)  # type: ignore[arg-type]
    person.at.clear()  # type: ignore[attr-defined]
    made.join(person)  # type: ignore[arg-type]
    offers(made)
    finish(made, 0)
    assert (state(made, 0), made.world.rows.tasks[JobId(1), TaskIndex(0)].attempt) == ("committed", 1)


def decline(made: Town, times: int) -> None:
    """Every offer of task 0 is declined."""
    for _ in range(times):
        work = work_of(made, 0, made.world.rows.tasks[JobId(1), TaskIndex(0)].attempt)
        made.tell(TaskAnswered(work.node, (JobId(1), TaskIndex(0)), taken=False, declined=True, reason="too large"))
        made.tick(scheduling_rest())


def scheduling_rest() -> float:
    return tasks.scheduling.REST_S + 0.1


def only_one() -> Town:
    """A job with one task and one node that can be asked; the others count as auditors and have no room."""
    made = town([(0, 1, 1), (1, 2, 0), (2, 3, 0), (3, 4, 0)])
    made.open(1, [[]])
    while [e for e in made.effects if not isinstance(e, OfferTasks)]:
        made.run(next(e for e in made.effects if not isinstance(e, OfferTasks)))
    return made


def test_who_declines_is_asked_again_after_a_rest_and_not_for_ever() -> None:
    made = only_one()
    made.tell(TaskAnswered(address(1), (JobId(1), TaskIndex(0)), taken=False, declined=True, reason="too large"))
    assert state(made, 0) == "ready", "not at once"
    made.tick(scheduling_rest())
    assert state(made, 0) == "given"
    decline(made, 2)
    task = made.world.rows.tasks[JobId(1), TaskIndex(0)]
    assert task.lost_by == (address(1),) * tasks.MAX_DECLINES and task.barred == (address(1),)
    made.tick(60)
    assert state(made, 0) == "ready"
    assert job_row(made, JobId(1)).state == JobState.RUNNING, "others may come who can"


def test_who_is_busy_is_left_alone_for_a_moment_and_loses_nothing() -> None:
    made = only_one()
    made.tell(TaskAnswered(address(1), (JobId(1), TaskIndex(0)), taken=False, reason="busy with other tasks"))
    assert state(made, 0) == "ready"
    made.tick(scheduling_rest())
    assert state(made, 0) == "given"
    assert made.world.rows.tasks[JobId(1), TaskIndex(0)].lost_by == ()


def test_who_lacks_the_data_is_asked_again_in_a_minute_and_nothing_is_held_against_it() -> None:
    made = only_one()
    for _ in range(2 * tasks.MAX_REFUSERS):
        key = (JobId(1), TaskIndex(0))
        made.tell(TaskAnswered(address(1), key, taken=False, reason="lacks the data set wards", lacks=True))
        made.tick(scheduling_rest())
        assert state(made, 0) == "ready", "its operator cannot have added it in so short a time"
        made.tick(tasks.scheduling.LACKS_S)
        assert state(made, 0) == "given"
    task = made.world.rows.tasks[JobId(1), TaskIndex(0)]
    assert (task.lost_by, task.barred, task.refused_by) == ((), (), ())
    assert job_row(made, JobId(1)).state == JobState.RUNNING


def hand_back(made: Town, reason: str = "out of memory") -> None:
    work = work_of(made, 0, made.world.rows.tasks[JobId(1), TaskIndex(0)].attempt)
    made.tell(TaskHandedBack(work.node, (JobId(1), TaskIndex(0)), reason))


def test_one_node_that_hands_a_task_back_while_the_others_are_away_fails_nothing() -> None:
    made = only_one()
    made.list_all()
    hand_back(made)
    job = job_row(made, JobId(1))
    assert (job.state, state(made, 0)) == ("running", "ready")
    made.join(made.people[address(2)], room=1)
    assert state(made, 0) == "given" and work_of(made, 0, 2).node == address(2)


def test_a_job_fails_with_its_reason_when_nobody_on_chain_is_left_who_could_do_a_task() -> None:
    made = only_one()
    hand_back(made)
    assert job_row(made, JobId(1)).state == JobState.RUNNING, "who is on chain is not known yet"
    made.tell(NodesListed(((address(1), address(1000), 1), (address(9), address(1009), 2))))
    job = job_row(made, JobId(1))
    assert job.state == JobState.FAILED and "out of memory" in job.reason


def test_a_result_that_its_worker_never_gives_ends_no_job_and_is_held_against_nobody_else() -> None:
    """Whoever commits to a result and keeps it to itself has the next round handed back by everybody, long before there
    is a verdict."""
    job = JobId(1)
    made = started([[], [0]], look_ahead=1)
    cheat = next(person for person in made.people.values() if (job, TaskIndex(0)) in person.at)
    made.finish(cheat, (job, TaskIndex(0)), honest=False)
    made.run_all_but(LookAtResult)
    key = (job, TaskIndex(1))
    back = set()
    for _ in range(40):
        for person in [each for each in made.people.values() if key in each.at]:
            del person.at[key]
            back.add(person.owner)
            made.tell(TaskHandedBack(person.node, key, "its input is not to be had"))
        made.tick(tasks.UNSURE_S)
        made.run_all_but(LookAtResult)
    assert len(back) > 1 and job_row(made, job).state == JobState.RUNNING
    task = made.world.rows.tasks[key]
    assert not task.barred and not task.refused_by and not task.lost_by
    calm(made)
    assert job_row(made, job).state == JobState.DONE and made.paid == made.honest_results(job)


def test_a_task_that_nodes_of_many_owners_cannot_finish_is_not_tried_for_ever() -> None:
    made = started([[]], look_ahead=0, people=[(i, i + 1, 1) for i in range(9)])
    for turn in range(tasks.MAX_REFUSERS):
        assert job_row(made, JobId(1)).state == JobState.RUNNING
        hand_back(made, f"reason {turn}")
    assert job_row(made, JobId(1)).reason == "no node can do task 0; task 0 was handed back: reason 4"


# Commitments


def test_a_commitment_is_taken_from_its_holder_alone_and_may_be_told_again() -> None:
    made = started([[]], look_ahead=0)
    person = holder(made, 0)
    finish(made, 0)
    event = person.done[0]  # type: ignore[attr-defined]
    step = made.tell(event)
    assert not step.refusal and not step.rows
    stranger = WorkCommitted(address(99), event.key, (), b"", event.leaf, event.result, 0, event.manifest)
    assert made.tell(stranger).refusal == "task 0 of job 1 is not yours"
    nothing = WorkCommitted(address(99), (JobId(5), TaskIndex(0)), (), b"", event.leaf, event.result, 0, event.manifest)
    assert made.tell(nothing).refusal == "job 5 has no task 0"


def test_a_commitment_to_a_job_that_had_the_number_before_is_refused() -> None:
    """It was checked while the chain went back, and its node has the same task of the other job by now."""
    made = started([[]], look_ahead=0)
    person = holder(made, 0)
    finish(made, 0)
    event = replace(person.done[0], manifest=raw_cid(b"of the job before"))  # type: ignore[attr-defined]
    made = started([[]], look_ahead=0)
    assert made.tell(event).refusal == "the number of job 1 is another one's since a reorganisation"
    assert state(made, 0) == "given"
    assert not made.tell(replace(event, manifest=job_row(made, JobId(1)).manifest)).refusal


def test_a_commitment_to_other_inputs_is_refused() -> None:
    made = started([[], [0]], look_ahead=1)
    finish(made, 0)
    offers(made)
    person = holder(made, 1)
    attempt, inputs = person.at[JobId(1), TaskIndex(1)]  # type: ignore[attr-defined]
    person.at[JobId(1), TaskIndex(1)] = attempt, (truth((JobId(1), TaskIndex(0)), inputs),)  # type: ignore[attr-defined]
    finish(made, 1)
    assert made.refusals == ["task 1: its inputs are not the results it was given"]
    assert state(made, 1) == "given"


# Any order of anything


ACTIONS = (
    *("effect", "finish", "cheat", "tick") * 4,
    *("join", "join", "leave", "room", "hand back", "decline", "busy", "progress", "restart", "undecided", "forget"),
    *("reorganise", "mine", "mine"),
)
PEOPLE = [(0, 1, 2), (1, 2, 1), (1, 3, 3), (2, 4, 2), (3, 5, 1), (4, 6, 2)]
CHEATS, STEADY = (address(1), address(4)), address(6)


def act(made: Town, action: str, a: int, b: int) -> None:
    people = list(made.people.values())
    person = people[a % len(people)]
    busy = [each for each in people if each.at and each.here]
    if action in ("finish", "progress", "hand back") and busy:
        person = busy[a % len(busy)]
    keys = sorted(person.at)
    key = keys[b % len(keys)] if keys else None
    match action:
        case "effect" if made.effects:
            made.run(pick(made, a))
        case "finish" if key is not None and person.here:
            made.finish(person, key)
        case "cheat":
            cheat = made.people[CHEATS[a % 2]]
            if cheat.here and cheat.at:
                made.finish(cheat, min(cheat.at), honest=False)
        case "join" if not person.here:
            made.join(person)
        case "leave" if person.here:
            made.leave(person)
        case "room" if person.here:
            made.join(person, room=b % 4)
        case "forget":
            person.at.clear()
        case "hand back" if key is not None and person.node != STEADY and person.here:
            del person.at[key]
            made.tell(TaskHandedBack(person.node, key, "out of memory"))
        case "decline" | "busy":
            found = [e for e in made.effects if isinstance(e, OfferTasks) and e.node != STEADY]
            if found:
                offer = found[a % len(found)]
                made.effects.remove(offer)
                for each, *_ in offer.tasks:
                    made.tell(TaskAnswered(offer.node, each, taken=False, declined=action == "decline", reason="no"))
        case "progress" if key is not None:
            made.tell(TaskProgressed(person.node, key))
        case "tick":
            made.tick((0.5, 3.1, 6.0, 31.0)[b % 4])
        case "reorganise":
            made.reorganise(b % 5 + 1)
        case "mine":
            made.mine()
        case "restart":
            made.restart()
        case "undecided":
            open_ = sorted(set(made.world.rows.tasks) - set(made.paid))
            if open_:
                made.undecide.add(open_[b % len(open_)])


def pick(made: Town, number: int) -> Effect:
    """Any effect, but what goes to one node keeps its order."""
    effect = made.effects[number % len(made.effects)]
    if isinstance(effect, OfferTasks | CancelTasks):
        return next(e for e in made.effects if isinstance(e, OfferTasks | CancelTasks) and e.node == effect.node)
    return effect


def calm(made: Town, turns: int = 300) -> None:
    """Everybody is there and does what they should, until nothing is left to do."""
    for person in made.people.values():
        if not person.here or not person.tasks:
            made.join(person, room=max(1, person.tasks))
    for _ in range(turns):
        made.mine()
        made.run_all()
        finish_all(made)
        if all(job.state in (JobState.DONE, JobState.FAILED) for job in made.world.rows.jobs.values()):
            break
        made.tick(6.0)
        made.check()


def random_graph(chance: Random, most: int) -> Deps:
    found: Deps = []
    for index in range(chance.randint(1, most)):
        needs = chance.sample(range(index), min(index, chance.randint(0, 3)))
        found.append(found[-1] if found and chance.random() < 0.5 and index - 1 not in needs else needs)
    return found


def lived_through(seed: int) -> Town:
    """Two jobs, and anything that may happen in any order, then nothing but what should."""
    chance = Random(seed)
    made = Town(PEOPLE)
    made.list_all()
    for person in chance.sample(list(made.people.values()), chance.randint(1, len(PEOPLE))):
        made.join(person)
    graph = rounds(3, 3) if chance.random() < 0.5 else random_graph(chance, 9)
    made.open(1, graph, look_ahead=chance.randint(0, 3))
    made.open(2, random_graph(chance, 5), named=seed % 2 == 1)
    for _ in range(chance.randint(0, 160)):
        act(made, chance.choice(ACTIONS), chance.randint(0, 50), chance.randint(0, 50))
        made.check()
        made.check_restart()
    calm(made)
    return made


@settings(max_examples=250, deadline=None, print_blob=True)
@given(st.integers(0, 2**32))
def test_whatever_happens_every_task_comes_to_what_it_must(seed: int) -> None:
    made = lived_through(seed)
    for number in (JobId(1), JobId(2)):
        assert job_row(made, number).state == JobState.DONE, job_row(made, number).reason
        results = {key: result for key, result in made.paid.items() if key[0] == number}
        assert results == made.honest_results(number)
        assert made.ledger.units_paid[number] == len(results) == job_row(made, number).units_paid
    assert not made.world.memory(tasks.scheduling.Board).exposure.total()
    for work in made.world.rows.works.values():
        assert work.state in (WorkState.SETTLED, WorkState.LOST), "a receipt is out and no batch holds it"
        assert (work.state == WorkState.SETTLED) == bool(work.leaf)


def test_the_schedules_of_the_property_have_in_them_what_it_is_about() -> None:
    """A property that only ever sees healthy jobs proves nothing."""
    kinds: Counter[str] = Counter()
    for seed in range(60):
        kinds.update(line.kind for line in lived_through(seed).logs)
    wanted = ("fault", "stale", "undecided", "undone", "lost", "gone", "failed", "valid")
    assert all(kinds[kind] >= 2 for kind in wanted), kinds


def test_nothing_is_left_in_memory_of_a_job_that_is_over() -> None:
    made = started(rounds(2, 2), look_ahead=1)
    empty = memory_of(town().world)
    calm(made)
    assert job_row(made, JobId(1)).state == JobState.DONE
    tasks.final(made.world, list(made.world.rows.works.values()))
    assert not made.world.rows.tasks and not made.world.rows.works
    found = memory_of(made.world)
    assert {name: found[name] for name in ("books", "graphs", "board")} == {
        name: empty[name] for name in ("books", "graphs", "board")
    }
    assert len([key for key in made.store if key[0] == "task"]) == 4, "the store keeps it"


@pytest.mark.parametrize("look_ahead", [0, 1, 3])
def test_rounds_of_many_workers_are_done(look_ahead: int) -> None:
    made = started(rounds(20, 4), look_ahead=look_ahead, people=[(i, i + 1, 2) for i in range(12)])
    calm(made)
    assert made.paid == made.honest_results(JobId(1))
