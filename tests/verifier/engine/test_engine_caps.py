"""How much of a round one owner, and one subnet, is given where a job limits it."""

from collections import Counter
from collections.abc import Callable

import msgspec
import pytest
from enginetown import Person, Town, address, check_counters, check_nothing_idle, job_row, rounds, truth
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.protocol.caps import Caps
from proofyard.protocol.types import Cid, JobId, TaskIndex
from proofyard.verifier.engine.effects import OfferTasks, Settle
from proofyard.verifier.engine.events import TaskAnswered
from proofyard.verifier.engine.rows import JobState, TaskState, Work

JOB = JobId(1)
WORKERS = 4
AUDITORS = [(100 + number, 100 + number, 0) for number in range(6)]
"""Owners that take no tasks: those who do have somebody to audit them."""
TWO_RICH = [(0, 1, 2), (0, 2, 2), (1, 3, 2), (1, 4, 2), (2, 5, 2)]
"""Two owners with two nodes each, one with one; each node takes two tasks at a time."""


def owner_of(work: Work) -> str:
    return work.owner


def subnet_of(work: Work) -> str:
    return work.subnet


def town(caps: Caps, people: list[tuple[int, int, int]] = TWO_RICH, subnets: tuple[str, ...] = ()) -> Town:
    made = Town([*people, *AUDITORS])
    made.capped = WORKERS, caps
    for person, subnet in zip(made.people.values(), subnets, strict=False):
        person.subnet = subnet
    for person in made.people.values():
        made.join(person)
    return made


def opened(made: Town, turns: int = 2) -> Town:
    made.open(1, rounds(WORKERS, turns), look_ahead=2)
    return settled(made)


def settled(made: Town) -> Town:
    """What the engine wants is done, but for what travels to nodes."""
    while left := [e for e in made.effects if not isinstance(e, OfferTasks)]:
        made.run(left[0])
    return made


def held(made: Town, who: Callable[[Work], str] = owner_of) -> list[Counter[str]]:
    """Of each round, how many of its tasks are whose now."""
    of_round: list[Counter[str]] = []
    for task in sorted(made.world.rows.tasks_of[JOB], key=lambda each: each.index):
        if task.index % WORKERS == 0:
            of_round.append(Counter())
        work = made.world.rows.current(task)
        if work is not None:
            of_round[-1][who(work)] += 1
    return of_round


def shapes(made: Town, who: Callable[[Work], str] = owner_of) -> list[list[int]]:
    return [sorted(each.values()) for each in held(made, who)]


def do_all(made: Town) -> None:
    made.run_all()
    for person in made.people.values():
        for key in list(person.at):
            made.finish(person, key)
    settled(made)


def test_an_owner_has_no_more_of_a_round_than_the_job_says_and_of_the_next_one_as_many_again() -> None:
    made = opened(town(Caps(owner=1)))
    assert shapes(made) == [[1, 1, 1], []]
    assert "one owner may have 1 of a round's tasks (caps)" in job_row(made, JOB).reason
    do_all(made)
    assert shapes(made) == [[1, 1, 1], []], "what is committed counts"
    made.people[address(6)] = Person(address(6), address(1003), 1)
    made.join(made.people[address(6)])
    assert shapes(made) == [[1, 1, 1, 1], []] and not job_row(made, JOB).reason
    do_all(made)
    assert shapes(made) == [[1, 1, 1, 1], [1, 1, 1, 1]]
    check_nothing_idle(made.world, made.now)


def test_two_of_a_round_where_two_are_allowed() -> None:
    made = opened(town(Caps(owner=2), [(0, 1, 4), (1, 2, 1), (2, 3, 1)]))
    assert shapes(made) == [[1, 1, 2], []]


def test_nothing_is_limited_where_nothing_is_said() -> None:
    made = opened(town(Caps(), [(0, 1, 4)]))
    assert shapes(made) == [[4], []]


def test_a_subnet_has_no_more_than_the_job_says_whoever_owns_its_nodes() -> None:
    people = [(number, number + 1, 2) for number in range(5)]
    made = opened(town(Caps(subnet=1), people, ("a", "a", "b", "a", "b")))
    assert shapes(made, subnet_of) == [[1, 1], []]
    assert "one subnet may have 1 of a round's tasks (caps)" in job_row(made, JOB).reason


def test_whose_place_is_not_known_gets_nothing_where_subnets_count() -> None:
    made = opened(town(Caps(subnet=3), [(0, 1, 2), (1, 2, 2)], ("", "a")))
    assert shapes(made, subnet_of) == [[2], []]
    assert {work.node for work in made.world.rows.works.values()} == {address(2)}


def test_where_a_node_was_counts_after_it_has_gone_and_after_a_restart() -> None:
    people = [(number, number + 1, 1) for number in range(3)]
    made = opened(town(Caps(subnet=1), people, ("a", "a", "b")))
    (gone,) = (p for p in made.people.values() if p.subnet == "a" and made.world.nodes[p.node].holds)
    do_all(made)
    made.leave(gone)
    made.restart()
    settled(made)
    assert shapes(made, subnet_of) == [[1, 1], []]


def test_who_lost_a_task_may_have_another_one_of_its_round() -> None:
    made = opened(town(Caps(owner=1), [(0, 1, 1), (1, 2, 1)]))
    assert shapes(made) == [[1, 1], []]
    made.run_all()
    lost = made.people[address(1)]
    (key,) = lost.at
    made.leave(lost)
    made.tick(40)
    settled(made)
    assert shapes(made)[0] == [1]
    made.join(lost)
    settled(made)
    assert shapes(made)[0] == [1, 1] and key


def test_who_is_in_the_subnet_of_who_lost_a_task_may_have_another_kind_of_task_of_the_round() -> None:
    made = town(Caps(subnet=1), [(0, 1, 1), (1, 2, 1)], ("a", "a"))
    made.open(1, rounds(WORKERS, 1))
    specs, look_ahead = made.graphs[JOB]
    made.graphs[JOB] = (msgspec.structs.replace(specs[0], segments=3), *specs[1:]), look_ahead
    settled(made)
    ((first, holder),) = ((work.task, work.node) for work in made.world.rows.works.values())
    other = next(person for person in made.people.values() if person.tasks and person.node != holder)
    made.effects.clear()
    made.tell(TaskAnswered(holder, (JOB, first), taken=False, lacks=True, reason="it lacks the data"))
    made.run_all()
    (now,) = (work.node for work in made.world.rows.works.values() if work.state == "given")
    assert now == other.node
    made.leave(other)
    made.tick(40)
    settled(made)
    (work,) = (work for work in made.world.rows.works.values() if work.state == "given")
    assert work.node == holder and work.task != first


def test_what_one_owner_may_have_costs_no_look_at_every_task_for_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    of_round, nodes, asked = 600, 40, [0]
    objection = Caps.objection

    def counted(*args: int) -> str:
        asked[0] += 1
        return objection(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Caps, "objection", counted)
    made = Town([*((number % 2, 1 + number, 2) for number in range(nodes)), *AUDITORS])
    made.capped = of_round, Caps(owner=1)
    for person in made.people.values():
        made.join(person)
    made.open(1, rounds(of_round, 1))
    settled(made)
    assert sum(held(made)[0].values()) == 2 and asked[0] < 10 * nodes


def test_a_node_with_one_place_says_what_the_rest_of_its_round_waits_for() -> None:
    made = opened(town(Caps(owner=1), [(0, 1, 1), (1, 2, 1)]))
    assert shapes(made) == [[1, 1], []] and not job_row(made, JOB).reason, "all are at work"
    do_all(made)
    assert "task 2 waits: one owner may have 1 of a round's tasks (caps)" in job_row(made, JOB).reason


def test_a_subnet_whose_task_turns_out_to_be_done_elsewhere_may_have_another_one() -> None:
    people = [(0, 1, 1), (1, 2, 1), (2, 3, 1)]
    made = town(Caps(subnet=1), [], ())
    first, second, third = (
        made.people.setdefault(address(number), Person(address(number), address(1000 + owner), room, subnet=subnet))
        for (owner, number, room), subnet in zip(people, "abb", strict=True)
    )
    made.join(first)
    opened(made, 1)
    (key,) = made.world.nodes[first.node].holds
    made.undecide.add(key)
    made.run_all()
    made.finish(first, key)
    made.tick(6)
    made.run_all_but(Settle)
    made.tick()
    (settle,) = (effect for effect in made.effects if isinstance(effect, Settle))
    made.leave(first)
    made.run(settle)
    made.run_all()
    assert made.world.rows.tasks[key].state == TaskState.READY
    made.join(second)
    made.run_all()
    assert made.world.nodes[second.node].holds == {key}
    made.leave(second)
    made.join(third)
    made.run_all()
    assert not made.world.nodes[third.node].holds, "its subnet has one"
    made.reorganise(1)
    for _ in range(4):
        made.run_all()
        made.tick(1)
    made.run_all()
    assert made.world.rows.tasks[key].state in (TaskState.ACCEPTED, TaskState.COMMITTED)
    assert made.world.nodes[third.node].holds, "nobody else of its subnet has one any more"
    check_counters(made.world)
    check_nothing_idle(made.world, made.now)


moves = st.one_of(
    st.tuples(st.sampled_from(["do", "lie", "leave", "join"]), st.integers(0, 20)),
    st.tuples(st.just("time"), st.integers(1, 40)),
    st.tuples(st.sampled_from(["restart", "reorganise"]), st.integers(1, 3)),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(moves, max_size=30), st.integers(1, 2), st.integers(0, 2))
def test_whatever_happens_no_owner_is_given_more_than_the_job_says_and_the_job_ends(
    steps: list[tuple[str, int]], of_owner: int, of_subnet: int
) -> None:
    people = [(number // 2, number + 1, 2) for number in range(12)]
    made = Town(people, batch_s=1.0)
    made.capped = WORKERS, Caps(owner=of_owner, subnet=of_subnet)
    for number, person in enumerate(made.people.values()):
        person.subnet = "abcdef"[number % 6]
        made.join(person)
    made.open(1, rounds(WORKERS, 3), look_ahead=2)
    made.run_all()
    given_before: set[tuple[int, int]] = set()
    lies = 0
    for what, number in [*steps, *(("all", 0),) * 60]:
        if what == "all" and job_row(made, JOB).state == JobState.DONE:
            break
        move(made, what, number, honest=what != "lie" or lies > 1)
        lies += what == "lie"
        made.run_all()
        check_counters(made.world)
        check_nothing_idle(made.world, made.now)
        given_before = check_given(made, given_before)
    assert job_row(made, JOB).state == JobState.DONE
    right: dict[int, Cid] = {}
    for index, deps in enumerate(rounds(WORKERS, 3)):
        right[index] = truth((JOB, TaskIndex(index)), tuple(right[dep] for dep in deps))
    assert {task: made.paid[JOB, task] for _, task in made.paid} == right


def move(made: Town, what: str, number: int, *, honest: bool) -> None:
    people = list(made.people.values())
    person = people[number % len(people)]
    match what:
        case "do" | "lie":
            for key in list(person.at)[:1]:
                finish(made, person, key, honest=honest)
        case "all":
            for each in people:
                if not each.here:
                    made.join(each)
                for key in list(each.at):
                    finish(made, each, key, honest=True)
            made.tick(2.0)
        case "leave" if person.here:
            made.leave(person)
        case "join" if not person.here:
            made.join(person)
        case "time":
            made.tick(float(number))
        case "restart":
            made.restart()
        case "reorganise" if len(made.past) > number:
            made.reorganise(number)
            made.mine()


def finish(made: Town, person: Person, key: tuple[JobId, TaskIndex], *, honest: bool) -> None:
    if made.world.rows.tasks[key].state == TaskState.GIVEN:
        made.finish(person, key, honest=honest)


def check_given(made: Town, before: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Whoever was given a task just now has no more of its round than the job says."""
    caps = made.capped[1]
    assert caps
    now = {(work.task, work.attempt) for work in made.world.rows.works.values()}
    for task, attempt in now - before:
        work = made.world.rows.works[JOB, task, attempt]
        if work.state != "given":
            continue
        turn = task // WORKERS
        assert not caps.owner or held(made)[turn][work.owner] <= caps.owner
        assert not caps.subnet or held(made, subnet_of)[turn][work.subnet] <= caps.subnet
    return now


def test_an_owner_of_two_nodes_is_one_voter_to_a_rule_that_outvotes_one() -> None:
    caps = Caps(owner=1)
    assert not caps.objection(0, "a", 1)
    assert caps.objection(1, "a", 2)
    assert (caps.owners_needed(5), Caps(owner=2).owners_needed(5), Caps(subnet=1).owners_needed(5)) == (5, 3, 1)
