from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from enginetown import STAKE, UNITS, Person, Town, address, check_nothing_idle, job_row, rounds
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.dial import (
    WAD,
    affordable_reward,
    audit_odds,
    can_back,
    per_task,
    stake_at_risk,
    suffices,
    tasks_alike,
)
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import JobId, TaskIndex, Wei
from proofyard.verifier.engine.effects import OfferTasks
from proofyard.verifier.engine.events import Elsewhere, JobSized, NodeJoined, TaskAnswered, TaskHandedBack
from proofyard.verifier.engine.rows import Fault, TaskState
from proofyard.verifier.engine.scheduling import MAX_SCAN, Board, objection

JOB = JobId(1)
FIVE = [(0, 1, 1), (1, 2, 1), (2, 3, 1), (3, 4, 1), (4, 5, 1)]


def town(people: Sequence[tuple[int, int, int]] = FIVE, **rules: object) -> Town:
    made = Town(people, **rules)
    for person in made.people.values():
        made.join(person)
    return made


def opened(made: Town, deps: Sequence[Sequence[int]], number: int = 1, **terms: object) -> Town:
    """A job whose tasks are offered; the offers are still on their way."""
    made.open(number, deps, **terms)  # type: ignore[arg-type]
    while left := [e for e in made.effects if not isinstance(e, OfferTasks)]:
        made.run(left[0])
    return made


def holders(made: Town, job: int = 1) -> dict[int, str]:
    works = (w for w in made.world.rows.works.values() if w.state == "given" and w.job == job)
    return {work.task: work.node for work in works}


def states(made: Town, job: int = 1) -> Counter[TaskState]:
    return Counter(task.state for task in made.world.rows.tasks_of[JobId(job)])


# The stake


def takes(stake: int, reward: int, in_flight: int, others: int, segments: int = 8) -> bool:
    return not objection(
        *(Wei(stake), Wei(reward), Wei(in_flight)),
        segments=segments,
        segments_per_audit=2,
        auditors_per_segment=2,
        others=others,
        collusion_bps=1000,
        given_back_bps=0,
    )


def test_an_owner_is_offered_no_more_than_its_stake_backs() -> None:
    most = affordable_reward(Wei(1000), 1000)
    assert takes(1000, most, 0, 40)
    assert not takes(1000, most + 1, 0, 40)
    assert not takes(1000, most, 1, 40)
    assert not takes(0, 1, 0, 40)


def test_a_task_is_offered_only_where_owners_enough_are_here_to_convict_its_worker() -> None:
    assert takes(10**9, 1, 0, 6)
    assert not takes(10**9, 1, 0, 5)
    drawn = audit_odds(100, Wei(1000), 1, Wei(4000), 1000, 8, 2).segments
    assert drawn > 2, "so much at stake that two segments are not enough"
    assert takes(1000, 4000, 0, 5 * drawn), "and then two colluders on a list must not block it"
    assert not takes(1000, 4000, 0, 5 * drawn - 1)


@given(
    *(st.integers(0, 10**6), st.integers(1, 10**5), st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6)),
    *(st.integers(2, 5), st.integers(0, 60), st.integers(0, 4000)),
)
def test_one_power_says_what_the_odds_of_the_dial_say(
    stake: int, reward: int, in_flight: int, segments: int, drawn: int, k: int, others: int, collusion: int
) -> None:
    found = objection(
        *(Wei(stake), Wei(reward), Wei(in_flight)),
        segments=segments,
        segments_per_audit=drawn,
        auditors_per_segment=k,
        others=others,
        collusion_bps=collusion,
        given_back_bps=1500,
    )
    risked, total = stake_at_risk(Wei(stake), 1500), Wei(in_flight + reward)
    alike = tasks_alike(total, Wei(reward))
    odds = audit_odds(0, risked, alike, total, collusion, segments, drawn)
    needed = odds.segments * (k + 1 if odds.segments <= drawn else 2 * k + 1)
    assert (not found) == (can_back(risked, total, collusion) and needed <= others)


@given(st.integers(0, WAD), st.integers(0, 10**6), st.integers(1, 10**4), st.integers(0, 10**6), st.integers(0, 4000))
def test_what_suffices_is_what_is_no_less_than_the_least(x: int, stake: int, count: int, reward: int, r: int) -> None:
    least = per_task(Wei(stake), count, Wei(reward), r)
    for each in (x, least, max(0, least - 1), least + 1):
        assert suffices(each, Wei(stake), count, Wei(reward), r) == (each >= least)


def test_what_an_owner_has_in_flight_counts_over_its_nodes_until_it_is_settled() -> None:
    # A stake that backs two tasks of 100 tokens each, all of whose segments would be audited.
    stake = 60 * UNITS
    made = Town([(0, 1, 5), (0, 2, 5), *((n, n + 2, 0) for n in range(1, 21))])
    for person in made.people.values():
        made.join(person)
        event = NodeJoined(person.node, person.owner, 1, Wei(stake), 0, frozenset({"lora"}), person.tasks, 1)
        made.tell(event)
    opened(made, [[]] * 10)
    assert states(made) == {"given": 2, "ready": 8}
    assert set(holders(made).values()) == {address(1), address(2)}
    assert "stake" in job_row(made, JOB).reason
    made.run_all()
    for person in made.people.values():
        for key in list(person.at):
            made.finish(person, key)
    assert states(made) == {"committed": 2, "ready": 8}, "what is not settled is in flight"
    made.tick(6)
    while left := [e for e in made.effects if not isinstance(e, OfferTasks)]:
        made.run(left[0])
    assert states(made) == {"accepted": 2, "given": 2, "ready": 6}
    made.check()


def test_work_goes_to_who_has_shown_the_memory_that_it_takes() -> None:
    made = Town([(0, 1, 5), (1, 2, 5), *((n, n + 2, 0) for n in range(2, 22))])
    little, much = made.people[address(1)], made.people[address(2)]
    gib = 1 << 30

    def shows(person: Person, memory_bytes: int) -> None:
        event = NodeJoined(person.node, person.owner, 1, Wei(STAKE), 0, frozenset({"lora"}), person.tasks, 1)
        made.tell(replace(event, memory_bytes=memory_bytes))

    for person in made.people.values():
        if person not in (little, much):
            made.join(person)
    opened(made, [[]] * 4)
    made.tell(JobSized(JOB, 12 * gib))
    shows(little, 8 * gib)
    shows(much, 8 * gib)
    assert states(made) == {"ready": 4}
    assert "takes at least 12.0 GiB of memory, more than the 8.0 GiB" in job_row(made, JOB).reason
    shows(much, 12 * gib)
    assert states(made) == {"given": 4} and set(holders(made).values()) == {much.node}
    assert "memory" not in job_row(made, JOB).reason
    made.check()


def of_lengths(made: Town, lengths: Sequence[int], turns: int = 1) -> Town:
    """A job in rounds whose tasks have so many segments and work units."""
    deps = rounds(len(lengths), turns)
    made.open(1, deps, look_ahead=2, units=sum(lengths) * turns)
    specs, look_ahead = made.graphs[JOB]
    longer = (
        msgspec.structs.replace(spec, segments=length, work_units=length)
        for spec, length in zip(specs, [*lengths] * turns, strict=True)
    )
    made.graphs[JOB] = tuple(longer), look_ahead
    while left := [e for e in made.effects if not isinstance(e, OfferTasks)]:
        made.run(left[0])
    return made


def test_the_longest_task_of_a_round_goes_to_the_node_that_has_shown_the_most_speed() -> None:
    made = Town([*((number, number + 1, 1) for number in range(5)), *((n + 50, n + 50, 0) for n in range(24))])
    for person, speed in zip(list(made.people.values())[:5], (20, 0, 500, 100, 3), strict=True):
        person.speed = speed
    for person in made.people.values():
        made.join(person)
    of_lengths(made, [1, 8, 2, 4, 4], turns=2)
    fastest = [address(number) for number in (3, 4, 1, 5, 2)]
    for turn in range(2):
        whose = [holders(made)[index + 5 * turn] for index in (1, 3, 4, 2, 0)]
        assert (whose[0], set(whose[1:3]), *whose[3:]) == (fastest[0], set(fastest[1:3]), *fastest[3:])
        made.run_all()
        for person in made.people.values():
            for key in list(person.at):
                made.finish(person, key)
        while left := [e for e in made.effects if not isinstance(e, OfferTasks)]:
            made.run(left[0])
    made.check()


def test_the_fastest_node_is_not_given_two_before_the_others_have_one() -> None:
    made = Town([*((number, number + 1, 2) for number in range(3)), *((n + 50, n + 50, 0) for n in range(24))])
    for person, speed in zip(list(made.people.values())[:3], (1, 500, 2), strict=True):
        person.speed = speed
    for person in made.people.values():
        made.join(person)
    of_lengths(made, [3, 3, 3, 2, 1, 1])
    assert sorted(Counter(holders(made).values()).values()) == [2, 2, 2]
    made.check()


def test_what_an_owner_has_in_flight_elsewhere_counts() -> None:
    made = town()
    most = affordable_reward(stake_at_risk(Wei(STAKE), made.rules.given_back_bps), made.rules.collusion_bps)
    owners = [person.owner for person in made.people.values()]
    made.tell(Elsewhere(tuple((owner, most) for owner in owners[1:])))
    opened(made, [[]] * 5)
    assert list(holders(made).values()) == [address(1)]
    made.tell(Elsewhere(()))
    assert set(holders(made).values()) == set(made.people)


def fault_of(person: Person, kind: FaultReason) -> Fault:
    where = {"batch": 9, "job": JOB, "task": TaskIndex(0)}
    return Fault(**where, node=person.node, owner=person.owner, operator=1, kind=kind, reason="")  # type: ignore[arg-type]


def test_a_node_of_a_guilty_owner_gets_nothing_until_it_is_absolved() -> None:
    made = town()
    person = made.people[address(1)]
    fault = fault_of(person, FaultReason.MISMATCH)
    made.world.rows.add(fault)
    opened(made, [[]] * 5)
    assert person.node not in holders(made).values()
    made.world.rows.delete(fault)
    made.tick()
    assert person.node in holders(made).values()
    made.check()


def test_a_fault_that_costs_no_stake_shuts_nobody_out() -> None:
    made = town()
    person = made.people[address(1)]
    made.world.rows.add(fault_of(person, FaultReason.DISAGREED))
    opened(made, [[]] * 5)
    assert person.node in holders(made).values()


# The order


def test_all_of_a_nodes_tasks_go_in_one_message_and_the_nodes_share() -> None:
    made = opened(town([(i, i + 1, 3) for i in range(5)]), [[]] * 10)
    assert Counter(holders(made).values()) == dict.fromkeys(made.people, 2)
    messages = [effect for effect in made.effects if isinstance(effect, OfferTasks)]
    assert sorted(message.node for message in messages) == sorted(made.people)


def test_a_node_never_holds_more_than_it_has_room_for() -> None:
    made = opened(town([(0, 1, 2), (1, 2, 1), (2, 3, 1), (3, 4, 0)]), [[]] * 10)
    assert Counter(holders(made).values()) == {address(1): 2, address(2): 1, address(3): 1}
    made.join(made.people[address(1)], room=3)
    assert Counter(holders(made).values())[address(1)] == 3
    made.join(made.people[address(1)], room=1)
    made.run_all()
    made.finish(made.people[address(1)], min(made.people[address(1)].at))
    assert Counter(holders(made).values())[address(1)] == 2, "it has more than it has room for"


def test_an_offer_without_an_answer_counts_as_held() -> None:
    """A node is not free before it knows itself that it is."""
    made = opened(town([(0, 1, 1), (1, 2, 0), (2, 3, 0), (3, 4, 0)]), [[]] * 3)
    for _ in range(3):
        made.tick(1)
    assert len(holders(made)) == 1
    assert len([effect for effect in made.effects if isinstance(effect, OfferTasks)]) == 1


def test_who_did_the_least_of_those_that_lost_nothing_is_asked_first() -> None:
    made = opened(town(), [[]] * 3)
    assert list(holders(made).values()) == [address(1), address(2), address(3)]
    made.run_all()
    made.tell(TaskHandedBack(address(3), (JOB, TaskIndex(2)), "no"))
    assert holders(made)[2] == address(4)
    for number in (1, 2):
        made.finish(made.people[address(number)], (JOB, TaskIndex(number - 1)))
    opened(made, [[]] * 4, number=2)
    assert list(holders(made, job=2).values()) == [address(n) for n in (5, 1, 2, 3)], "the loser is last"


def test_who_failed_once_does_not_idle_beside_one_that_holds_a_task() -> None:
    made = opened(town([(0, 1, 2), (1, 2, 2), (2, 3, 2), (3, 4, 2)]), [[]] * 4)
    failed = holders(made)[3]
    made.tell(TaskHandedBack(failed, (JOB, TaskIndex(3)), "no"))
    opened(made, [[]], number=2)
    assert list(holders(made, job=2).values()) == [failed]


def test_the_older_job_comes_first_and_the_younger_gets_what_it_leaves() -> None:
    made = town()
    opened(made, [[]] * 4)
    opened(made, [[]] * 4, number=2)
    assert (states(made)["given"], states(made, 2)["given"]) == (4, 1)


def test_a_job_whose_tasks_no_stake_backs_holds_up_no_other() -> None:
    made = town()
    opened(made, [[]], reward=Wei(10**40))
    opened(made, [[]] * 5, number=2)
    assert (states(made)["ready"], states(made, 2)["given"]) == (1, 5)
    assert "task 0 waits: no owner's stake backs it" in job_row(made, JOB).reason
    assert job_row(made, JobId(2)).reason == ""


def test_a_job_says_that_nobody_is_there_who_executes_its_workload() -> None:
    made = opened(Town(FIVE), [[]])
    assert job_row(made, JOB).reason == "task 0 waits: no node that executes lora is connected"
    for person in made.people.values():
        made.join(person)
    assert (states(made)["given"], job_row(made, JOB).reason) == (1, "")


def test_a_job_says_how_many_owners_are_missing_and_goes_on_when_they_come() -> None:
    made = Town(FIVE)
    for number in (1, 2):
        made.join(made.people[address(number)])
    opened(made, [[]] * 3)
    assert job_row(made, JOB).reason == "task 0 waits: 1 other owners are here to audit it, at least 3 are needed"
    made.join(made.people[address(3)])
    assert states(made)["given"] == 0
    made.join(made.people[address(4)])
    assert states(made)["given"] == 3


def test_a_node_that_leaves_is_given_nothing() -> None:
    made = town()
    made.leave(made.people[address(1)])
    opened(made, [[]] * 5)
    assert states(made)["given"] == 4 and address(1) not in holders(made).values()


def test_tasks_that_one_node_may_not_have_do_not_keep_it_from_the_others() -> None:
    """However many it may not have: those are looked at a few at a time."""
    count = 2 * MAX_SCAN + 3
    made = town([(0, 1, 1), (1, 2, 0), (2, 3, 0), (3, 4, 0)])
    opened(made, [[]] * (count + 1))
    for _ in range(count):
        index = next(iter(holders(made)))
        made.tell(TaskHandedBack(address(1), (JOB, TaskIndex(index)), "no"))
        made.tick(4)
    assert list(holders(made)) == [count]
    made.join(made.people[address(2)], room=count)
    assert states(made) == {"given": count + 1}
    made.check()


@pytest.mark.parametrize(("nodes", "room"), [(10, 1), (40, 2)])
def test_a_task_is_looked_at_no_more_often_where_there_are_more_of_all(nodes: int, room: int) -> None:
    """The work of matching is counted, not timed: objections looked up for each task that is given."""
    made = town([(i, i + 1, room) for i in range(nodes)])
    board = made.world.memory(Board)
    looked = Counting(board.objections)
    board.objections = looked
    opened(made, rounds(nodes, 3), look_ahead=2)
    given = 0
    while made.effects:
        made.run(made.effects[0])
        for person in made.people.values():
            for key in list(person.at)[:1]:
                made.finish(person, key)
                given += 1
    assert given >= 3 * nodes
    assert looked.count <= 4 * given
    check_nothing_idle(made.world, made.now)


class Counting(dict):  # type: ignore[type-arg]
    def __init__(self, those: dict[tuple[int, ...], str]) -> None:
        super().__init__(those)
        self.count = 0

    def get(self, key: object, default: object = None) -> object:
        self.count += 1
        return super().get(key, default)


def test_heaps_do_not_grow_with_what_happened() -> None:
    made = town()
    opened(made, [[]] * 3)
    for _ in range(300):
        index, node = next(iter(holders(made).items()))
        made.tell(TaskAnswered(node, (JOB, TaskIndex(index)), taken=False, reason="busy"))
        made.tick(4)
        made.effects = [e for e in made.effects if not isinstance(e, OfferTasks)]
    board = made.world.memory(Board)
    assert sum(len(heap) for heap in board.heaps.values()) < 100
    assert not board.rests and len(board.resting) <= 5


def test_a_queue_names_a_task_that_waits_and_none_that_was_given() -> None:
    made = opened(town([]), [[], []])
    (queue,) = made.world.memory(Board).queues.values()
    queue.put(TaskIndex(0), fussy=True)
    del queue.place[queue.fussy.popleft()]
    assert queue.first == 1
