import pytest
from enginetown import OWN, START, UNITS, ZERO, Town, address, job_row, rounds

from proofyard.chain.events import BatchSettled, JobClosed, JobTaken, JobToppedUp
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.settlement import Line, OperatorId
from proofyard.protocol.types import BatchId, Cid, JobId, TaskIndex, Wei
from proofyard.verifier.engine import jobs, tasks
from proofyard.verifier.engine.effects import (
    CancelTasks,
    Effect,
    Expand,
    OfferTasks,
    Pack,
    ReadJob,
    TakeJob,
)
from proofyard.verifier.engine.events import EffectFailed, Expanded, JobFreed, JobRead, Packed, Published, WorkCommitted
from proofyard.verifier.engine.rows import JobState

JOB = JobId(1)
PEOPLE = [(i, i + 1, 1) for i in range(5)]


def town() -> Town:
    made = Town(PEOPLE)
    for person in made.people.values():
        made.join(person)
    return made


def kinds(made: Town) -> list[type[Effect]]:
    return [type(effect) for effect in made.effects]


def state(made: Town) -> tuple[JobState, str]:
    return job_row(made, JOB).state, job_row(made, JOB).reason


def do(made: Town, kind: type[Effect]) -> None:
    made.run(next(effect for effect in made.effects if isinstance(effect, kind)))


def running() -> Town:
    made = town()
    made.open(1, [[], [0]], look_ahead=1)
    made.run_all()
    assert state(made) == ("running", "")
    return made


def calm(made: Town) -> None:
    for _ in range(50):
        made.mine()
        made.run_all()
        for person in made.people.values():
            for key in list(person.at):
                made.finish(person, key)
        made.tick(6)


def test_a_job_is_read_taken_carried_paid_and_packed() -> None:
    made = town()
    made.open(1, [[], [0]])
    assert (state(made), kinds(made)) == (("waiting", ""), [Expand])
    do(made, Expand)
    assert (state(made), kinds(made)) == (("taking", ""), [TakeJob, OfferTasks])
    do(made, TakeJob)
    assert (state(made), kinds(made)) == (("running", ""), [OfferTasks])
    assert [task.reward for task in made.world.rows.tasks.values()] == [str(500 * UNITS)] * 2
    calm(made)
    assert state(made) == ("done", "") and made.effects == [], "nothing is left to be sent"
    assert job_row(made, JOB).units_paid == job_row(made, JOB).units
    shown = [line.kind for line in made.logs if line.kind in ("opened", "done", "failed")]
    assert shown == ["opened", "done"]


def test_a_job_that_is_opened_for_this_verifier_is_not_taken() -> None:
    made = town()
    made.open(1, [[], [0]], named=True)
    assert (state(made), kinds(made)) == (("waiting", ""), [Expand])
    assert job_row(made, JOB).is_asked, "it may still be refused"
    do(made, Expand)
    assert (state(made), kinds(made)) == (("running", ""), [OfferTasks])
    assert not job_row(made, JOB).is_asked
    made.run_all()
    holder = next(person for person in made.people.values() if person.at)
    made.finish(holder, next(iter(holder.at)))
    assert holder.done and not made.refusals, "it is promised a batch at once"
    calm(made)
    assert state(made) == ("done", "") and made.effects == []


def test_a_job_that_is_opened_for_this_verifier_is_still_its_own_after_a_restart_or_a_reorganisation() -> None:
    made = town()
    made.open(1, [[], [0]], named=True)
    made.restart()
    made.tick(1)
    made.reorganise(2)
    assert JobId(1) not in made.ledger.taken
    calm(made)
    assert state(made) == ("done", "")
    made = town()
    made.open(1, [[], [0]], named=True)
    made.tell(EffectFailed(Expand(JOB, job_row(made, JOB).manifest).key, "verifier_fee: is 0", retry=False))
    assert state(made) == ("failed", "verifier_fee: is 0"), "who is asked may say no"


def being_taken() -> Town:
    """A job whose tasks are given out while the transaction that takes it is on its way."""
    made = town()
    made.open(1, [[], []])
    made.run_all_but(TakeJob)
    assert state(made) == ("taking", "") and sum(len(person.at) for person in made.people.values()) == 2
    return made


def test_nothing_is_promised_for_a_job_before_it_is_this_verifiers() -> None:
    made = being_taken()
    holder = next(person for person in made.people.values() if person.at)
    given = dict(holder.at)
    made.finish(holder, next(iter(given)))
    assert len(made.refusals) == 1 and "try again" in made.refusals[0] and not holder.done
    holder.at |= given
    do(made, TakeJob)
    assert state(made) == ("running", "")
    made.finish(holder, next(iter(given)))
    assert len(made.refusals) == 1 and holder.done


@pytest.mark.parametrize("dies", [False, True])
def test_a_job_that_another_verifier_takes_first_is_given_to_nobody_any_more(dies: bool) -> None:
    made = being_taken()
    if dies:
        made.restart()
        made.run_all_but(TakeJob)
        assert len(made.world.rows.tasks) == 2, "made once"
    made.effects.clear()
    made.chain(JobTaken(made.position(), JOB, OperatorId(OWN + 1)))
    made.run_all()
    assert state(made) == ("waiting", jobs.TAKEN_ELSEWHERE) and not made.world.rows.tasks
    assert not any(person.at for person in made.people.values())
    made.tell(JobFreed(JOB))
    made.ledger.taken.clear()
    calm(made)
    assert state(made) == ("done", "")


@pytest.mark.parametrize("why", ["closed", "refused"])
def test_a_job_that_cannot_be_taken_ends_and_its_nodes_are_called_off(why: str) -> None:
    made = being_taken()
    if why == "closed":
        made.chain(JobClosed(made.position(), JOB))
    else:
        made.tell(EffectFailed(TakeJob(JOB).key, "its terms", retry=False))
    made.run_all_but(TakeJob)
    assert state(made)[0] == "failed" and not any(person.at for person in made.people.values())


@pytest.mark.parametrize("steps", range(8))
def test_a_job_goes_on_wherever_the_verifier_died(steps: int) -> None:
    made = town()
    made.open(1, [[], [0]])
    for _ in range(steps):
        if made.effects:
            made.run(made.effects[0])
        for person in made.people.values():
            for key in list(person.at):
                made.finish(person, key)
        made.tick(6)
    made.restart()
    calm(made)
    assert state(made) == ("done", "") and job_row(made, JOB).units_paid == job_row(made, JOB).units


def test_a_restart_packs_what_was_not() -> None:
    made = running()
    while Pack not in kinds(made):
        made.run_all_but(Pack)
        for person in made.people.values():
            for key in list(person.at):
                made.finish(person, key)
        made.tick(6)
    made.restart()
    assert Pack in kinds(made)
    do(made, Pack)
    made.restart()
    assert Pack not in kinds(made)


def test_a_manifest_that_makes_other_units_fails_the_job_with_both_numbers() -> None:
    made = town()
    made.open(1, [[], []], units=3)
    do(made, Expand)
    assert state(made) == ("failed", "the manifest makes 2 work units, the job was opened with 3")
    assert made.effects == []


def test_a_graph_whose_tasks_rest_on_later_ones_is_refused() -> None:
    made = town()
    made.open(1, [[1], []])
    do(made, Expand)
    assert state(made) == ("failed", "task 0 of its graph is out of order")


def test_a_manifest_that_is_refused_fails_the_job_with_the_reason() -> None:
    made = town()
    made.open(1, [[]])
    effect = made.effects.pop()
    made.tell(EffectFailed(effect.key, "params.rank is 0", retry=False))
    assert state(made) == ("failed", "params.rank is 0")


def test_a_manifest_that_is_not_published_is_tried_again_and_at_once_when_it_comes() -> None:
    made = town()
    made.open(1, [[]])
    effect = made.effects.pop()
    assert isinstance(effect, Expand)
    made.tell(EffectFailed(effect.key, "nobody has it"))
    made.tell(Published(raw_cid(b"something else")))
    assert made.effects == []
    made.tell(Published(effect.manifest))
    assert kinds(made) == [Expand]


def test_a_job_that_cannot_be_taken_fails_after_some_tries() -> None:
    made = town()
    made.open(1, [[]])
    do(made, Expand)
    for _ in range(30):
        if TakeJob(JOB) in made.effects:
            made.effects.remove(TakeJob(JOB))
            made.tell(EffectFailed(TakeJob(JOB).key, "no seat"))
        made.tick(100)
    assert state(made) == ("failed", "this verifier cannot take it: no seat")


def test_a_job_that_another_verifier_takes_is_left_to_it() -> None:
    made = town()
    made.open(1, [[]])
    made.chain(JobTaken(made.position(), JOB, OperatorId(OWN + 1)))
    assert state(made) == ("waiting", jobs.TAKEN_ELSEWHERE)
    made.run_all()
    assert not made.world.rows.tasks
    made.restart()
    made.run_all()
    assert state(made) == ("waiting", jobs.TAKEN_ELSEWHERE)
    made.tell(JobFreed(JOB))
    made.tick()
    assert kinds(made) == [Expand]
    made.run_all()
    assert state(made) == ("running", "")


@pytest.mark.parametrize("over", [False, True])
def test_a_job_that_another_verifier_has_carried_to_its_end_is_over_here_too(over: bool) -> None:
    made = town()
    made.open(1, [[]])
    made.chain(JobTaken(made.position(), JOB, OperatorId(OWN + 1)))
    units = job_row(made, JOB).units
    lines = (Line(JOB, units, Wei(0), units if over else units - 1),)
    record = raw_cid(b"record")
    made.chain(BatchSettled(made.position(), BatchId(9), 0, ZERO, 0, Wei(0), Wei(0), ZERO, record, 3, 0, lines))
    assert state(made) == (("failed", jobs.DONE_ELSEWHERE) if over else ("waiting", jobs.TAKEN_ELSEWHERE))
    made.effects.clear()
    made.tell(JobFreed(JOB))
    assert kinds(made) == ([] if over else [Expand])


def test_a_job_that_is_taken_over_stops_here_and_what_was_promised_is_committed() -> None:
    made = running()
    made.finish(made.people[address(1)], (JOB, TaskIndex(0)))
    made.effects.clear()
    holder = next(p for p in made.people.values() if made.world.nodes[p.node].holds)
    made.chain(JobTaken(made.position(), JOB, OperatorId(OWN + 1)))
    assert state(made) == ("failed", jobs.TAKEN_OVER)
    assert [e.node for e in made.effects if isinstance(e, CancelTasks)] == [holder.node]
    made.tick(6)
    made.run_all()
    assert made.batches == 1 and not tasks.to_batch(made.world)
    made.check()


def test_a_job_that_is_closed_early_fails_and_is_carried_no_further() -> None:
    made = running()
    made.finish(made.people[address(1)], (JOB, TaskIndex(0)))
    made.chain(JobClosed(made.position(), JOB))
    assert state(made) == ("failed", jobs.CLOSED)
    assert jobs.commits_end(made.world, job_row(made, JOB)) == START + 100 + made.rules.receipt_time
    made.tick(6)
    made.run_all()
    assert made.batches == 1 and not tasks.to_batch(made.world)


def test_who_works_on_a_job_that_is_closed_is_called_off_and_what_is_promised_is_committed() -> None:
    """Its requester wants no more of it: nobody works on for nothing, and no receipt is broken."""
    made = town()
    made.open(1, [[], [], []], look_ahead=1)
    made.run_all()
    busy = {key: person for person in made.people.values() for key in person.at}
    assert len(busy) == 3
    promised, *others = sorted(busy)
    made.finish(busy[promised], promised)
    inputs = busy[others[0]].at[others[0]][1]
    made.chain(JobClosed(made.position(), JOB))
    assert state(made) == ("failed", jobs.CLOSED)
    told = [(effect.node, effect.tasks, effect.reason) for effect in made.effects if isinstance(effect, CancelTasks)]
    assert sorted((node, tasks) for node, tasks, _ in told) == sorted((busy[key].node, (key,)) for key in others)
    assert all(jobs.CLOSED in reason for _, _, reason in told)
    manifest = made.engine.world.rows.jobs[JOB].manifest
    late = WorkCommitted(busy[others[0]].node, others[0], inputs, b"", b"l", raw_cid(b"r"), 0, manifest)  # type: ignore[arg-type]
    assert "not yours" in made.tell(late).refusal, "no new promise"
    for key in others:
        assert made.world.rows.works[(*key, 1)].outcome == "called off", "it is held against nobody"
        assert not made.world.rows.tasks[key].lost_by
    calm(made)
    assert set(made.paid) == {promised}


def test_a_job_past_its_deadline_takes_no_more_work() -> None:
    made = town()
    made.open(1, [[], [0]], deadline=START + 200)
    made.open(2, [[]], deadline=START + 200)
    made.effects = [e for e in made.effects if e.key[1] == 1]
    made.run_all()
    made.tick(101)
    assert state(made) == ("failed", "the deadline has passed")
    assert job_row(made, JobId(2)).reason.startswith("the deadline has passed before the job began; is the manifest")


def test_verdicts_are_waited_for_past_the_deadline_where_nothing_else_is_left() -> None:
    made = town()
    made.open(1, [[], []], deadline=START + 200)
    made.run_all()
    for number in (1, 2):
        made.finish(made.people[address(number)], (JOB, TaskIndex(number - 1)))
    made.mono += 150
    made.undecide.add((JOB, TaskIndex(1)))
    made.tick()
    assert state(made)[0] == "running"
    made.run_all()
    assert state(made) == ("failed", "the deadline has passed"), "one has to be done again"
    assert len(made.paid) == 1


def test_a_deadline_is_that_of_the_chains_clock() -> None:
    made = town()
    made.open(1, [[], [0]], deadline=START + 200)
    made.run_all()
    later = made.now
    later = type(later)(chain=START + 201.0, mono=later.mono, block=later.block)
    made.take(made.engine.handle(Published(Cid("")), later))
    assert state(made) == ("failed", "the deadline has passed")


def test_more_escrow_is_told() -> None:
    made = running()
    made.chain(JobToppedUp(made.position(), JOB, Wei(5)))
    assert made.logs[-1].kind == "funded"


# The chain changes


def gone(made: Town) -> None:
    """The block that the job was opened in is not there any more, nor the job in another one."""
    made.tell(JobRead(JOB, None, 0, 0, 0, 0))


def test_a_job_whose_block_is_gone_stands_still_and_goes_on_when_it_is_told_again() -> None:
    made = running()
    holder = next(p for p in made.people.values() if p.at)
    news = made.opened(1, [[], [0]], look_ahead=1)
    gone(made)
    assert state(made) == ("running", jobs.GONE)
    (key, (_, inputs)) = next(iter(holder.at.items()))
    manifest = made.engine.world.rows.jobs[JOB].manifest
    event = WorkCommitted(holder.node, key, inputs, b"", b"l", raw_cid(b"r"), 0, manifest)  # type: ignore[arg-type]
    assert "on chain for now" in made.tell(event).refusal, "no receipt for what may never be"
    made.restart()
    made.tick(1)
    assert ReadJob in kinds(made), "it is asked for"
    assert made.world.rows.tasks[JOB, TaskIndex(0)].state == "given", "who works on it goes on"
    made.block += 5
    made.chain(type(news)(**{**vars(news), "position": made.position()}))
    assert state(made) == ("running", "")
    assert job_row(made, JOB).opened_block == made.block
    calm(made)
    assert state(made)[0] == "done"


def test_a_number_that_comes_back_as_another_job_has_nothing_of_the_old_one() -> None:
    made = running()
    old = made.world.rows.jobs[JOB].manifest
    made.finish(made.people[address(1)], (JOB, TaskIndex(0)))
    made.run_all()
    gone(made)
    made.ledger = type(made.ledger)()
    made.open(1, rounds(2, 2))
    assert state(made) == ("waiting", "")
    assert not made.world.rows.tasks and not made.world.rows.works
    assert not [key for key in made.store if key[0] in ("task", "work")]
    for person in made.people.values():
        person.at.clear()
    late = Expanded(JOB, old, "lora", True, 1, made.graphs[JOB][0][:1])
    made.tell(late)
    assert state(made) == ("waiting", ""), "the old manifest's graph is of no use"
    calm(made)
    assert state(made)[0] == "done"
    assert made.paid == made.honest_results(JOB)
    made.check()


def test_a_job_that_was_taken_or_closed_in_a_block_that_is_gone_is_as_it_was() -> None:
    made = running()
    row = job_row(made, JOB)

    def read(verifier: int, closed_at: int) -> None:
        made.tell(JobRead(JOB, row.manifest, verifier, closed_at, 0, 0))

    made.chain(JobClosed(made.position(), JOB))
    assert state(made)[0] == "failed"
    read(OWN, 0)
    assert state(made) == ("running", "")
    made.chain(JobTaken(made.position(), JOB, OperatorId(OWN + 1)))
    assert state(made) == ("failed", jobs.TAKEN_OVER)
    read(OWN, 0)
    assert state(made) == ("running", "")
    made.effects.clear()
    read(0, 0)
    assert state(made) == ("running", "") and kinds(made).count(TakeJob) == 1
    made.run_all()
    read(OWN + 1, 0)
    assert state(made) == ("failed", jobs.TAKEN_OVER)
    read(0, 0)
    made.ledger.taken.clear()
    made.ledger.former.clear()
    calm(made)
    assert state(made)[0] == "done"


def test_a_job_is_not_done_if_its_settlement_has_not_happened() -> None:
    made = running()
    for _ in range(4):
        made.run_all()
        for person in made.people.values():
            for key in list(person.at):
                made.finish(person, key)
        made.tick(6)
    assert state(made)[0] == "done"
    work = made.world.rows.works[JOB, TaskIndex(1), 1]
    work.state, work.outcome = "batched", ""  # type: ignore[assignment]
    tasks.unaccept(made.world, work, "accepted", made.now)
    made.tick()
    assert state(made)[0] == "running"
    work.state, work.outcome = "settled", "accepted"  # type: ignore[assignment]
    tasks.accepted(made.world, work, made.now)
    made.tick()
    assert state(made)[0] == "packing"
    made.tell(Packed(JOB, raw_cid(b"again")))
    assert state(made)[0] == "done"
