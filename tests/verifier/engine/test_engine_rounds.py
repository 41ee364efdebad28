"""Jobs whose rounds do not wait for everybody: what starts on what, what is dropped, what a reorganisation does."""

from dataclasses import replace

from enginetown import START, Town, check_counters, truth
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.protocol.caps import Caps
from proofyard.protocol.closing import ClosedRound, Closing, Rounds, Taken, close_rounds, final_tasks, open_tasks
from proofyard.protocol.codec import decode
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.members import decode_members
from proofyard.protocol.types import Address, Cid, JobId, TaskIndex
from proofyard.verifier.engine.effects import CancelTasks, CloseRounds, CommitBatch, Effect, Expand
from proofyard.verifier.engine.events import EffectFailed, Expanded, RoundsClosed
from proofyard.verifier.engine.rows import JobState, TaskState

JOB = JobId(1)
RULES = Rounds(Closing(quorum=2, timeout_s=60), workers=3, rounds=3)
WHOLE = [[], [], [], [0, 1, 2], [0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5], [3, 4, 5]]
PEOPLE = [(number, 1 + number, 3) for number in range(5)]


class Rounded(Town):
    """A town whose job has rounds that close by what its chain says."""

    def __init__(
        self, voters: int = 0, key_rounds: int = 1, caps: Caps | None = None, subnets: tuple[str, ...] = ()
    ) -> None:
        self.shape = replace(RULES, key_rounds=key_rounds)
        super().__init__(PEOPLE, batch_s=1.0, decoys_bps=10_000, secret=b"drawn")
        self.voters = tuple(sorted(self.people))[:voters]
        self.capped = RULES.workers if caps else 0, caps
        for person, subnet in zip(self.people.values(), subnets, strict=False):
            person.subnet = subnet
        self.commits: list[tuple[int, int, TaskIndex]] = []
        """(block, time, task) each."""
        self.told: list[tuple[Address, TaskIndex]] = []
        """Who was told to stop with which task."""
        for person in self.people.values():
            self.join(person)
        self.open(1, WHOLE, look_ahead=2)
        self.opened_at = START + int(self.mono)
        self.whole = self.graphs[JOB][0]
        self.run_all()
        self.pass_time(1)

    @property
    def closed(self) -> tuple[ClosedRound, ...]:
        said = [(at, task) for _, at, task in self.commits]
        return close_rounds(RULES.closing, RULES.workers, RULES.rounds, self.opened_at, said, START + int(self.mono))

    def run(self, effect: Effect) -> None:
        match effect:
            case Expand():
                self.effects.remove(effect)
                specs, look_ahead = self.graphs[JOB]
                said = JOB, effect.manifest, "lora", True, look_ahead, specs, (), RULES.workers, self.voters
                self.tell(Expanded(*said, *self.capped))
            case CloseRounds():
                self.effects.remove(effect)
                known = open_tasks(self.whole, self.shape, self.closed)
                self.graphs[JOB] = (*known, *self.whole[len(known) :]), 2
                self.tell(RoundsClosed(JOB, self.closed, self.voters, self.shape.key_rounds))
            case CommitBatch() if not self._is_open(effect):
                self.effects.remove(effect)
                self.tell(EffectFailed(effect.key, "a round is not open yet"))
            case CommitBatch():
                members = decode_members(self.world.rows.batches[effect.batch].members)
                before = self.batches
                super().run(effect)
                if self.batches > before:
                    self.commits += [(self.block, START + int(self.mono), member.key[1]) for member in members]
            case CancelTasks():
                self.told += [(effect.node, task) for _, task in effect.tasks]
                super().run(effect)
            case _:
                super().run(effect)

    def _is_open(self, effect: CommitBatch) -> bool:
        members = decode_members(self.world.rows.batches[effect.batch].members)
        return max(member.key[1] for member in members) < len(open_tasks(self.whole, self.shape, self.closed))

    def reorganise(self, depth: int) -> None:
        self.commits = [each for each in self.commits if each[0] <= self.block - depth]
        super().reorganise(depth)

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.tick(1.0)
            self.run_all()

    def do(self, *tasks: int, honest: bool = True) -> None:
        for index in tasks:
            row = self.world.rows.tasks[JOB, TaskIndex(index)]
            person = self.people[self.world.rows.works[JOB, index, row.attempt].node]
            self.finish(person, (JOB, TaskIndex(index)), honest=honest)
        self.run_all()

    def states(self) -> str:
        return "".join(self.world.rows.tasks[JOB, TaskIndex(index)].state[0] for index in range(9))

    def inputs_of(self, index: int) -> int:
        return len(self.world.rows.works[JOB, index, self.world.rows.tasks[JOB, TaskIndex(index)].attempt].inputs)


def test_a_job_ends_without_the_shard_that_never_comes_and_it_is_called_off() -> None:
    town = Rounded()
    assert town.states() == "gggwwwwww"
    town.do(0, 1)
    town.pass_time(30)
    assert town.states() == "aagwwwwww", "its time is not over"
    town.pass_time(40)
    assert town.states() == "aaggggwww" and town.inputs_of(3) == 2
    town.do(3, 4)
    slow = town.world.rows.works[JOB, 2, 1].node
    town.pass_time(70)
    assert town.states() == "aadaagggg", "late for its own round and the next"
    assert (JOB, TaskIndex(2)) not in town.people[slow].at, "who worked on it was told"
    town.do(6, 7)
    town.pass_time(70)
    assert town.states() == "aadaadaad"
    job = town.world.rows.jobs[JOB]
    assert (job.state, job.units_paid) == (JobState.DONE, 6)
    assert final_tasks(RULES, town.closed) == (6, 7)
    assert not any(work.decoy for work in town.world.rows.works.values())


def test_a_whole_round_waits_for_no_time() -> None:
    town = Rounded()
    town.do(0, 1, 2)
    town.pass_time(8)
    assert town.states() == "aaagggwww" and town.inputs_of(3) == 3


def test_what_comes_late_is_in_the_next_set() -> None:
    town = Rounded()
    town.do(0, 1)
    town.pass_time(70)
    town.do(2)
    town.pass_time(5)
    town.do(3, 4, 5)
    town.pass_time(10)
    assert town.states() == "aaaaaaggg" and town.inputs_of(6) == 4
    town.do(6, 7, 8)
    town.pass_time(10)
    assert town.world.rows.jobs[JOB].state == JobState.DONE and town.world.rows.jobs[JOB].units_paid == 9


def test_small_deltas_rest_on_what_all_rounds_took_and_what_is_false_among_it_is_done_again() -> None:
    town = Rounded(key_rounds=32)
    town.do(0, 1)
    town.pass_time(70)
    town.do(2)
    town.pass_time(5)
    town.do(3, honest=False)
    town.do(4, 5)
    town.pass_time(10)
    town.do(3)
    town.pass_time(10)
    gate = town.world.rows.tasks[JOB, TaskIndex(6)]
    assert decode(gate.spec, TaskSpec).deps == (2, 3, 4, 5, 0, 1) and town.inputs_of(6) == 6
    town.restart()
    town.run_all()
    town.do(6, 7, 8)
    town.pass_time(10)
    assert town.world.rows.jobs[JOB].state == JobState.DONE and town.world.rows.jobs[JOB].units_paid == 9
    assert final_tasks(town.shape, town.closed) == (6, 7, 8, 2, 3, 4, 5, 0, 1)


def test_a_task_is_its_voters_and_others_get_it_only_once_that_one_is_gone() -> None:
    town = Rounded(voters=3)
    assert [town.world.rows.works[JOB, index, 1].node for index in range(3)] == list(town.voters)
    town.do(0, 1)
    town.leave(town.people[town.voters[2]])
    town.pass_time(45)
    assert town.states()[2] == "r", "nobody else has it meanwhile"
    town.pass_time(60)
    task = town.world.rows.tasks[JOB, 2]
    assert task.state == TaskState.GIVEN
    assert town.world.rows.works[JOB, 2, task.attempt].node not in town.voters[2:]
    town.do(2)
    town.join(town.people[town.voters[2]])
    town.do(3, 4, 5)
    town.pass_time(10)
    assert town.world.rows.works[JOB, 8, 1].node == town.voters[2], "it is back"


def test_where_nodes_decide_caps_keep_no_voter_from_what_is_its_own() -> None:
    town = Rounded(voters=3, caps=Caps(owner=1, subnet=1), subnets=("a", "a", "", "b", "b"))
    assert [town.world.rows.works[JOB, index, 1].node for index in range(3)] == list(town.voters)


def test_who_takes_over_from_a_voter_leaves_room_for_what_is_its_own() -> None:
    town = Rounded(voters=3, caps=Caps(owner=1))
    for person in list(town.people.values())[3:]:
        town.join(person, room=0)
    town.leave(town.people[town.voters[0]])
    town.do(1, 2)
    town.pass_time(125)
    assert town.states()[0] == "r", "both others have what they may have of its round"
    of_next = [work and work.node for work in (town.world.rows.works.get((JOB, index, 1)) for index in (3, 4, 5))]
    assert of_next == [None, *town.voters[1:]], "each has its own, and nothing else"


def test_a_cheat_changes_no_set() -> None:
    town = Rounded()
    town.do(0, honest=False)
    town.do(1)
    town.pass_time(70)
    assert town.states()[0] == "g", "it was found out, and is done again"
    before = town.closed
    town.do(0)
    town.pass_time(5)
    assert town.closed == before and town.inputs_of(3) == 2
    town.do(3, 4, 5)
    town.pass_time(10)
    town.do(6, 7, 8)
    town.pass_time(10)
    assert town.world.rows.jobs[JOB].state == JobState.DONE
    assert {task: result for (_, task), result in town.paid.items() if task in (0, 1, 3)}.keys() == {0, 1, 3}


def test_a_verifier_that_begins_anew_knows_what_rests_on_what() -> None:
    town = Rounded()
    town.do(0, 1)
    town.pass_time(70)
    town.do(3, 4)
    before = town.states()
    town.restart()
    assert town.states() == before
    town.run_all()
    town.pass_time(70)
    town.restart()
    town.run_all()
    town.do(6, 7)
    town.pass_time(70)
    assert town.world.rows.jobs[JOB].state == JobState.DONE and town.states() == "aadaadaad"


def test_a_chain_that_goes_back_has_another_set_and_what_rests_on_the_old_one_is_done_again() -> None:
    town = Rounded()
    town.do(0, 1)
    town.tick(1.0)
    town.tick(1.0)
    town.run_all()
    town.pass_time(60)
    assert town.inputs_of(3) == 2
    held = {index: town.world.rows.tasks[JOB, TaskIndex(index)].attempt for index in (3, 4, 5)}
    town.do(2)
    town.pass_time(2)
    town.do(3)
    # In the chain that stands the third delta came in time with the others.
    town.reorganise(len(town.past) - 1)
    town.run_all()
    town.pass_time(8)
    assert [entry.task for entry in town.closed[0].taken] == [0, 1, 2]
    assert town.inputs_of(4) == 3 and town.inputs_of(3) == 3
    assert all(town.world.rows.tasks[JOB, TaskIndex(index)].attempt > before for index, before in held.items())
    town.do(3, 4, 5)
    town.pass_time(10)
    town.do(6, 7, 8)
    town.pass_time(10)
    job = town.world.rows.jobs[JOB]
    assert (job.state, job.units_paid) == (JobState.DONE, 9), town.states()


def test_who_works_from_another_set_is_told_and_what_was_committed_from_it_is_open_again() -> None:
    town = Rounded()
    town.do(0, 1)
    town.pass_time(70)
    town.do(2)
    holders = {index: town.world.rows.works[JOB, index, 1].node for index in (3, 4, 5)}
    town.do(3)
    assert town.states()[:6] == "aaccgg"
    whole = tuple(Taken(TaskIndex(task), 0) for task in range(3))
    town.tell(RoundsClosed(JOB, (replace(town.closed[0], taken=whole),)))
    assert town.states()[3] in "rg" and town.inputs_of(4) == town.inputs_of(5) == 3
    while found := [effect for effect in town.effects if isinstance(effect, CancelTasks)]:
        town.run(found[0])
    assert {(holders[index], index) for index in (4, 5)} <= set(town.told)


def test_what_is_dropped_and_found_faulty_is_not_done_again() -> None:
    town = Rounded()
    town.do(0, 1)
    town.pass_time(70)
    town.do(3, 4)
    town.pass_time(50)
    town.do(2, honest=False)
    closed = (*town.closed[:1], replace(town.closed[0], number=1, closed_at=START + int(town.mono), dropped=(2,)))
    town.tell(RoundsClosed(JOB, closed))
    town.effects = [effect for effect in town.effects if not isinstance(effect, CloseRounds)]
    for _ in range(2):
        town.tick(1.0)
        town.run_all_but(CloseRounds)
    assert town.states()[2] == "d"


def test_what_is_dropped_by_a_chain_that_goes_back_is_needed_again() -> None:
    town = Rounded()
    town.do(0, 1)
    town.pass_time(70)
    town.do(3, 4)
    town.pass_time(70)
    assert town.states()[2] == "d"
    first = town.closed[:1]
    town.tell(RoundsClosed(JOB, first))
    assert town.states()[2] in "rg" and town.states()[6:] == "www"
    town.pass_time(5)
    assert town.states()[2] == "d" and town.states()[6:] == "ggg"


def test_what_is_committed_and_dropped_is_settled_and_paid_before_the_job_ends() -> None:
    town = Rounded()
    town.do(0, 1)
    town.pass_time(70)
    town.do(3, 4)
    town.pass_time(50)
    town.do(2)
    # It is in no batch yet when the round that could still take it closes.
    closed = (*town.closed[:1], replace(town.closed[0], number=1, closed_at=START + int(town.mono), dropped=(2,)))
    town.tell(RoundsClosed(JOB, closed))
    assert town.states()[2] == "c"
    town.pass_time(3)
    assert town.states()[2] == "a" and town.ledger.units_paid[JOB] == 5


moves = st.one_of(
    st.tuples(st.sampled_from(["do", "lie"]), st.integers(0, 8)),
    st.tuples(st.just("time"), st.integers(1, 70)),
    st.tuples(st.sampled_from(["restart", "reorganise"]), st.integers(1, 3)),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(moves, max_size=25))
def test_whatever_happens_the_result_follows_from_what_the_chain_has(steps: list[tuple[str, int]]) -> None:
    town, lies = Rounded(), 0
    for what, number in steps:
        given_out = [task for (_, task), _ in sorted(at_nodes(town).items())]
        if what in ("do", "lie") and given_out:
            lies += what == "lie"
            town.do(given_out[number % len(given_out)], honest=what == "do" or lies > 2)
        elif what == "time":
            town.pass_time(number)
        elif what == "restart":
            town.restart()
            town.run_all()
        elif what == "reorganise" and len(town.past) > number:
            town.reorganise(number)
            town.run_all()
        check_counters(town.world)
    for _ in range(40):
        if town.world.rows.jobs[JOB].state == JobState.DONE:
            break
        town.do(*(task for _, task in at_nodes(town)))
        town.pass_time(35)
    assert town.world.rows.jobs[JOB].state == JobState.DONE, (town.states(), town.closed)
    right: dict[int, Cid] = {}
    for spec in open_tasks(town.whole, RULES, town.closed):
        right[spec.index] = truth((JOB, spec.index), tuple(right[dep] for dep in spec.deps))
    taken = [entry.task for each in town.closed for entry in each.taken]
    assert len(town.closed) == RULES.rounds and len(set(taken)) == len(taken)
    assert {task: town.paid[JOB, task] for task in taken} == {task: right[task] for task in taken}
    dropped = {task for each in town.closed for task in each.dropped}
    assert {task for _, task in town.paid} - dropped == set(taken)


def at_nodes(town: Rounded) -> dict[tuple[JobId, TaskIndex], object]:
    """What nodes hold that the verifier waits for."""
    return {
        key: person
        for person in town.people.values()
        for key in person.at
        if town.world.rows.tasks[key].state == TaskState.GIVEN
        and town.world.rows.works[(*key, town.world.rows.tasks[key].attempt)].node == person.node
    }
