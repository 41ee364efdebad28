"""A town for the engine: nodes, a chain, a store and the shell around them, all of it plain memory and under the test's
control. Nothing of the engine is replaced; only what it asks of the world outside is answered here.

What a task's result must be is a pure function of its inputs, so that what a job comes to can be compared with what it
would have come to without any fault.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace

import msgspec

from proofyard.chain.events import (
    BatchCommitted,
    BatchSettled,
    JobClosed,
    JobCommitted,
    JobOpened,
    JobTaken,
    Position,
)
from proofyard.protocol.caps import Caps
from proofyard.protocol.cid import cid_digest, make_cid, raw_cid
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.lookahead import Standing, may_start
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.mark import mark_of
from proofyard.protocol.members import decode_members
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.settlement import FaultReason, Line, OperatorId
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, Signature, TaskIndex, Wei
from proofyard.verifier.engine import scheduling, tasks
from proofyard.verifier.engine.effects import (
    CancelTasks,
    CommitBatch,
    Draw,
    Effect,
    Expand,
    LookAtResult,
    OfferTasks,
    Pack,
    ReadJob,
    ReadRecord,
    Settle,
    TakeJob,
)
from proofyard.verifier.engine.events import (
    ChainEvent,
    Drawn,
    EffectFailed,
    Event,
    Expanded,
    JobRead,
    NodeJoined,
    NodeLeft,
    NodesListed,
    Now,
    Packed,
    RecordSettled,
    ResultLooked,
    RolledBack,
    Signed,
    TaskAnswered,
    TaskKey,
    Tick,
    WorkCommitted,
)
from proofyard.verifier.engine.machine import Engine
from proofyard.verifier.engine.rows import BatchState, Job, JobState, Log, Row, TaskState, WorkState
from proofyard.verifier.engine.scheduling import Board
from proofyard.verifier.engine.world import Rules, Step, World

OWN = 7
START = 1_800_000_000
ZERO = Digest(bytes(32))
UNITS = 10**18
STAKE = 10**9 * UNITS
TERMS = {
    "requester": Address("0x" + "f" * 40),
    "reward": Wei(1000 * UNITS),
    "audit_fee": Wei(100 * UNITS),
    "verifier_fee": Wei(10 * UNITS),
    "auditors_per_segment": 2,
    "segments_per_audit": 1,
    "workload": 0,
}


def address(number: int) -> Address:
    return Address(f"0x{number:040x}")


def specs_of(deps: Sequence[Sequence[int]], segments: int = 4) -> tuple[TaskSpec, ...]:
    return tuple(
        TaskSpec(index=TaskIndex(i), kind="train", deps=tuple(TaskIndex(d) for d in needs), segments=segments)
        for i, needs in enumerate(deps)
    )


def rounds(workers: int, number: int) -> list[list[int]]:
    """Each task of a round rests on all of the round before."""
    return [
        [] if turn == 0 else list(range((turn - 1) * workers, turn * workers))
        for turn in range(number)
        for _ in range(workers)
    ]


def truth(key: TaskKey, inputs: tuple[Cid, ...]) -> Cid:
    return raw_cid(repr((key, inputs)).encode())


def submission(node: Address, key: TaskKey, inputs: tuple[Cid, ...], result: Cid) -> tuple[bytes, Digest]:
    """A commitment as bytes, and its leaf. What the engine does not look at is made up."""
    root = Digest(cid_digest(raw_cid(repr(inputs).encode())))
    commitment = Commitment(key[0], key[1], node, ZERO, root, ZERO, 4, result, 1, mark_of(bytes(32), decoy=False))
    message = SubmitCommitment(commitment, Signature(bytes(65)), (result,), bytes(32))
    return encode(message), Digest(cid_digest(raw_cid(encode(commitment))))


@dataclass
class Person:
    """A node as it is. `at`: what it was offered and has not finished, by the number of the work."""

    node: Address
    owner: Address
    tasks: int
    here: bool = False
    subnet: str = ""
    speed: int = 0
    at: dict[TaskKey, tuple[int, tuple[Cid, ...]]] = field(default_factory=dict)
    done: list[WorkCommitted] = field(default_factory=list)


@dataclass
class Ledger:
    """What the chain has."""

    jobs: dict[JobId, JobOpened] = field(default_factory=dict)
    taken: set[JobId] = field(default_factory=set)
    former: set[JobId] = field(default_factory=set)
    """Another verifier's now: what this one promised it may still commit."""
    closed: set[JobId] = field(default_factory=set)
    batches: set[BatchId] = field(default_factory=set)
    records: dict[BatchId, RecordSettled] = field(default_factory=dict)
    paid: dict[TaskKey, Cid] = field(default_factory=dict)
    units_paid: Counter[JobId] = field(default_factory=Counter)
    units_open: Counter[JobId] = field(default_factory=Counter)

    def copy(self) -> "Ledger":
        return Ledger(*(copy(getattr(self, each.name)) for each in fields(self)))


class Town:
    def __init__(self, people: Sequence[tuple[int, int, int]], **rules: object) -> None:
        """`people`: (owner, number, tasks at a time) each."""
        settings = {
            "own": OWN,
            "batch_s": 5.0,
            "few_tasks": 0,
            "batch_min_s": 0.0,
            "lease_s": 30.0,
            "receipt_time": 600,
        }
        self.rules = Rules(**(settings | rules))  # type: ignore[arg-type]
        self.engine = Engine(self.rules)
        self.mono, self.block = 100.0, 10
        self.people = {
            address(number): Person(address(number), address(1000 + owner), room) for owner, number, room in people
        }
        self.graphs: dict[JobId, tuple[tuple[TaskSpec, ...], int]] = {}
        self.store: dict[tuple[str, tuple[object, ...]], bytes] = {}
        self.types: dict[str, type[Row]] = {}
        self.logs: list[Log] = []
        self.effects: list[Effect] = []
        self.ledger = Ledger()
        self.past: list[tuple[int, Ledger]] = []
        """Blocks, and what the chain had after each."""
        self.dropped: list[JobOpened] = []
        """Transactions of requesters that went with a block and wait to be mined again."""
        self.capped: tuple[int, Caps | None] = 0, None
        """Tasks of a round, and the most of them that are one owner's."""
        self.named: set[JobId] = set()
        """Jobs that are opened for this verifier."""
        self.batches = 0
        self.undecided: Counter[TaskKey] = Counter()
        self.undecide: set[TaskKey] = set()
        """Tasks whose next audits come to no verdict."""
        self.offered: set[tuple[TaskKey, int]] = set()
        self.refusals: list[str] = []

    @property
    def world(self) -> World:
        return self.engine.world

    @property
    def now(self) -> Now:
        return Now(START + self.mono, self.mono, self.block)

    # Telling the engine

    def tell(self, event: Event) -> Step:
        return self.take(self.engine.handle(event, self.now))

    def take(self, step: Step) -> Step:
        for row in step.rows:
            if isinstance(row, Log):
                self.logs.append(row)
            else:
                self.types[row.table] = type(row)
                self.store[row.table, row.key] = msgspec.msgpack.encode(row)
        for row in step.deleted:
            self.store.pop((row.table, row.key), None)
        self.effects += step.effects
        self.refusals += [step.refusal] if step.refusal else []
        for effect in step.effects:
            if isinstance(effect, OfferTasks):
                self._check_offer(effect)
        return step

    def _check_offer(self, offer: OfferTasks) -> None:
        node = self.world.nodes[offer.node]
        if any((key, attempt) not in self.offered for key, attempt, *_ in offer.tasks):
            assert len(node.holds) <= node.tasks, "a node holds more than it has room for"
        self.offered.update((key, attempt) for key, attempt, *_ in offer.tasks)
        assert {key for key, *_ in offer.tasks} <= node.holds
        for key, attempt, inputs, _ in offer.tasks:
            work = self.world.rows.works[(*key, attempt)]
            assert (work.node, work.inputs) == (offer.node, inputs)

    def rows(self) -> list[Row]:
        return [msgspec.msgpack.decode(data, type=self.types[table]) for (table, _), data in self.store.items()]

    def restart(self) -> None:
        """The verifier dies and begins anew from what it has written; what was on its way is lost. Nodes stay and come
        again."""
        self.effects = []
        self.engine = Engine(self.rules, self.rows())
        self.take(self.engine.resume(self.now))
        for person in self.people.values():
            if person.here:
                self.join(person)

    def join(self, person: Person, room: int | None = None) -> None:
        person.here = True
        person.tasks = person.tasks if room is None else room
        joined = NodeJoined(person.node, person.owner, 1, Wei(STAKE), 0, frozenset({"lora"}), person.tasks, 1)
        self.tell(replace(joined, subnet=person.subnet, speed=person.speed))

    def leave(self, person: Person) -> None:
        person.here = False
        self.tell(NodeLeft(person.node))

    def list_all(self) -> None:
        self.tell(NodesListed(tuple((p.node, p.owner, 1) for p in self.people.values())))

    def tick(self, seconds: float = 0.0) -> None:
        self.past.append((self.block, self.ledger.copy()))
        self.mono += seconds
        self.block += 1
        self.tell(Tick())

    # The chain

    @property
    def paid(self) -> dict[TaskKey, Cid]:
        return self.ledger.paid

    def reorganise(self, depth: int) -> None:
        """The newest blocks are other ones; they are empty, and one more than there were."""
        to, before = self.block - depth, self.ledger
        while self.past and self.past[-1][0] > to:
            self.past.pop()
        self.ledger = self.past[-1][1].copy() if self.past else Ledger()
        self.dropped += [news for job, news in before.jobs.items() if job not in self.ledger.jobs]
        self.tell(RolledBack(to))
        self.block += 1

    def mine(self) -> None:
        """What went with a block is mined again."""
        dropped, self.dropped = self.dropped, []
        for news in dropped:
            self._opens(replace(news, position=self.position()))

    def position(self) -> Position:
        return Position(self.block, Digest(self.block.to_bytes(32, "big")), 0)

    def opened(self, number: int, deps: Sequence[Sequence[int]], *, look_ahead: int = 0, **terms: object) -> JobOpened:
        """A job's event; its manifest says its graph."""
        job, specs = JobId(number), specs_of(deps)
        self.graphs[job] = specs, look_ahead
        manifest = Digest(cid_digest(raw_cid(repr((deps, look_ahead)).encode())))
        values = TERMS | {"units": len(specs), "deadline": START + 10**6, "manifest": manifest, "job": job} | terms
        return JobOpened(position=self.position(), **values)  # type: ignore[arg-type]

    def open(
        self,
        number: int,
        deps: Sequence[Sequence[int]],
        *,
        look_ahead: int = 0,
        named: bool = False,
        **terms: object,
    ) -> JobId:
        """`named`: for this verifier."""
        self.named = self.named | {JobId(number)} if named else self.named - {JobId(number)}
        self._opens(self.opened(number, deps, look_ahead=look_ahead, **terms))
        return JobId(number)

    def _opens(self, news: JobOpened) -> None:
        self.chain(news)
        if news.job in self.named:
            self.chain(JobTaken(news.position, news.job, OperatorId(OWN)))

    def chain(self, news: object) -> None:
        match news:
            case JobOpened():
                self.ledger.jobs[news.job] = news
            case JobTaken():
                if news.verifier == OWN:
                    self.ledger.taken.add(news.job)
                else:
                    self.ledger.taken.discard(news.job)
                    self.ledger.former.add(news.job)
            case JobClosed():
                self.ledger.closed.add(news.job)
        self.tell(ChainEvent(news, START + int(self.mono)))  # type: ignore[arg-type]

    # What the engine wants done

    def run(self, effect: Effect) -> None:
        """Do one thing that the engine wanted."""
        self.effects.remove(effect)
        match effect:
            case Expand():
                specs, look_ahead = self.graphs[effect.job]
                self.tell(
                    Expanded(effect.job, effect.manifest, "lora", True, look_ahead, specs, (), 0, (), *self.capped)
                )
            case TakeJob() if effect.job in self.ledger.jobs:
                if effect.job not in self.ledger.taken:
                    self.chain(JobTaken(self.position(), effect.job, OperatorId(OWN)))
                else:
                    self.tell(self.read(effect.job))
            case OfferTasks():
                self._receive(effect)
            case CancelTasks():
                person = self.people[effect.node]
                for key in effect.tasks if person.here else ():
                    person.at.pop(key, None)
            case CommitBatch() if self._takes(effect):
                self._commit(effect)
            case Draw():
                at, block = START + int(self.mono), self.world.rows.batches[effect.batch].commit_block
                self.tell(Drawn(effect.batch, effect.fork, ZERO, (), b"", 0, block, at, at))
            case LookAtResult():
                self.tell(ResultLooked(effect.batch, effect.task))
            case Settle() if self._has(effect.batch, settled=False):
                self._settle(effect)
            case ReadRecord() if self._has(effect.batch, settled=True):
                settled = self.world.rows.batches[effect.batch].settled_block
                record = self.ledger.records[self._number(effect.batch)]
                self.tell(replace(record, batch=effect.batch, fork=effect.fork, settled_block=settled))
            case Pack():
                self.tell(Packed(effect.job, raw_cid(b"packed")))
            case ReadJob():
                self.tell(self.read(effect.job))
            case TakeJob() | CommitBatch() | Settle() | ReadRecord():
                self.tell(EffectFailed(effect.key, "the chain does not take it now"))
            case _:
                raise AssertionError(f"nobody answers {effect}")

    def read(self, job: JobId) -> JobRead:
        ledger = self.ledger
        news = ledger.jobs.get(job)
        manifest = None if news is None else make_cid(news.manifest)
        owner, closed = (
            OWN if job in ledger.taken else (OWN + 1) * (job in ledger.former),
            int(START + self.mono) * (job in ledger.closed),
        )
        return JobRead(job, manifest, owner, closed, ledger.units_open[job], ledger.units_paid[job])

    def _number(self, row: int) -> BatchId:
        return self.world.rows.batches[row].chain_id or BatchId(0)

    def _has(self, row: int, *, settled: bool) -> bool:
        number = self._number(row)
        return number in self.ledger.batches and (number in self.ledger.records) == settled

    def _takes(self, effect: CommitBatch) -> bool:
        batch, ledger = self.world.rows.batches[effect.batch], self.ledger
        return batch.chain_id is None and all(
            job in ledger.taken | ledger.former
            and ledger.units_open[job] + ledger.units_paid[job] + units <= ledger.jobs[job].units
            for job, units in batch.lines
        )

    def run_all(self) -> None:
        while self.effects:
            self.run(self.effects[0])

    def run_all_but(self, kind: type[Effect]) -> None:
        while left := [effect for effect in self.effects if not isinstance(effect, kind)]:
            self.run(left[0])

    def _receive(self, offer: OfferTasks) -> None:
        person = self.people[offer.node]
        for key, attempt, inputs, _ in offer.tasks:
            if person.here:
                person.at[key] = attempt, inputs
            self.tell(TaskAnswered(offer.node, key, taken=person.here, reason="" if person.here else "it is away"))

    def finish(self, person: Person, key: TaskKey, *, honest: bool = True) -> None:
        """A node commits to a task that it was given."""
        _, inputs = person.at.pop(key)
        result = truth(key, inputs) if honest else raw_cid(b"made up" + repr(key).encode())
        data, leaf = submission(person.node, key, inputs, result)
        promised = START + int(self.mono) + 600
        manifest = self.engine.world.rows.jobs[key[0]].manifest
        event = WorkCommitted(person.node, key, inputs, data, leaf, result, promised, manifest)
        before = len(self.refusals)
        self.tell(event)
        if len(self.refusals) == before:
            person.done.append(event)

    def _commit(self, effect: CommitBatch) -> None:
        batch = self.world.rows.batches[effect.batch]
        self.batches += 1
        self.ledger.batches.add(BatchId(self.batches))
        number, lines = BatchId(self.batches), tuple(Line(job, units) for job, units in batch.lines)
        size = len(decode_members(batch.members))
        keys = [member.key for member in decode_members(batch.members)]
        assert len(keys) == len(set(keys)), "a batch holds a task twice"
        at = self.position()
        self.chain(BatchCommitted(at, number, OperatorId(OWN), effect.root, size, ZERO, lines, 1))
        for line in lines:
            self.ledger.units_open[line.job] += line.units
            self.chain(JobCommitted(at, line.job, number))

    def _settle(self, effect: Settle) -> None:
        """What everybody would find who checks the record."""
        batch = self.world.rows.batches[effect.batch]
        assert batch.chain_id is not None
        record = raw_cid(f"record {batch.chain_id}".encode())
        self.tell(Signed(effect.batch, record))
        outcomes, faults, units = self._judge(decode_members(batch.members))
        self.ledger.records[batch.chain_id] = RecordSettled(
            effect.batch, 0, record, outcomes, (), faults, self.block, 0
        )
        lines = tuple(Line(job, n, Wei(0), units[job]) for job, n in batch.lines)
        self.ledger.units_paid.update(units)
        self.ledger.units_open.subtract(dict(batch.lines))
        self.chain(
            BatchSettled(
                *(self.position(), batch.chain_id, effect.attempt, ZERO, 0, Wei(0), Wei(0), ZERO, record, 3, 0, lines)
            )
        )

    def _judge(self, members: Sequence) -> tuple[tuple, tuple, Counter[JobId]]:  # type: ignore[type-arg]
        owners = {person.node: person.owner for person in self.people.values()}
        faulty = {m.key for m in members if m.commitment.result == raw_cid(b"made up" + repr(m.key).encode())}
        guilty = {owners[m.commitment.node] for m in members if m.key in faulty}
        outcomes: list[tuple[TaskKey, str, str]] = []
        units: Counter[JobId] = Counter()
        for member in sorted(members, key=lambda m: m.key):
            key, commitment = member.key, member.commitment
            deps = self.graphs[key[0]][0][key[1]].deps
            inputs = tuple(self.paid.get((key[0], dep), Cid("")) for dep in deps)
            if key in self.paid:
                outcome = "repeated"
            elif key in faulty:
                outcome = "faulty"
            elif commitment.inputs != cid_digest(raw_cid(repr(inputs).encode())):
                outcome = "stale"
            elif owners[commitment.node] in guilty:
                outcome = "unpaid"
            elif key in self.undecide and self.undecided[key] < 2:
                self.undecided[key] += 1
                outcome = "undecided"
            else:
                outcome = "accepted"
                self.paid[key] = commitment.result
                units[key[0]] += commitment.work_units
            outcomes.append((key, outcome, ""))
        self.undecide -= {key for key, *_ in outcomes}
        faults = tuple(
            (m.key, m.commitment.node, owners[m.commitment.node], 1, 0, int(FaultReason.MISMATCH), "wrong")
            for m in members
            if m.key in faulty
        )
        return tuple(outcomes), faults, units

    # What must be true at any time

    def check(self) -> None:
        check_counters(self.world)
        check_starts(self.world)
        check_what_works_rest_on(self.world)
        check_nothing_idle(self.world, self.now)

    def check_restart(self) -> None:
        """An engine made from the rows knows what this one does."""
        other = Engine(self.rules, self.rows())
        other.resume(self.now)
        assert memory_of(other.world) == memory_of(self.world)

    def honest_results(self, job: JobId) -> dict[TaskKey, Cid]:
        found: dict[TaskKey, Cid] = {}
        for spec in self.graphs[job][0]:
            key = (job, spec.index)
            found[key] = truth(key, tuple(found[job, dep] for dep in spec.deps))
        return found


def check_counters(world: World) -> None:
    """What is counted step by step equals what the rows say."""
    board, memory, rows = world.memory(Board), world.memory(tasks.Memory), world.rows
    exposure: Counter[Address] = Counter()
    load: Counter[Address] = Counter()
    held: defaultdict[Address, set[TaskKey]] = defaultdict(set)
    unsettled: Counter[JobId] = Counter()
    for work in rows.works.values():
        task = rows.tasks[work.job, work.task]
        if work.state == WorkState.GIVEN:
            assert (task.state, task.attempt) == (TaskState.GIVEN, work.attempt), "a task is given twice"
            held[work.node].add((work.job, work.task))
        if work.state in (WorkState.COMMITTED, WorkState.BATCHED):
            unsettled[work.job] += 1
        if work.state in (WorkState.GIVEN, WorkState.COMMITTED, WorkState.BATCHED):
            exposure[work.owner] += int(task.reward)
        load[work.node] += work.state != WorkState.LOST
    assert +board.exposure == +exposure
    assert +board.load == +load
    assert {node: those for node, those in board.held.items() if those} == dict(held)
    losses: Counter[Address] = Counter()
    for job_id, book in memory.books.items():
        states = Counter(task.state for task in rows.tasks_of[job_id])
        assert +book.counts == states
        assert book.unsettled == unsettled[job_id]
        assert book.given == {task.index for task in rows.tasks_of[job_id] if task.state == TaskState.GIVEN}
        assert sum(queue.size for queue in book.queues.values()) == states[TaskState.READY]
        for number, round in enumerate(book.rounds):
            of_round = (task for task in rows.tasks_of[job_id] if task.index // book.job.round_tasks == number)
            works = [work for work in map(rows.current, of_round) if work is not None]
            assert round.has == Counter(whose for w in works for whose in (w.owner, w.subnet) if whose)
        losses.update(node for task in rows.tasks_of[job_id] for node in task.lost_by)
        for task in rows.tasks_of[job_id]:
            assert task.state not in tasks.HELD or rows.works[task.job, task.index, task.attempt].state not in (
                (WorkState.LOST,) if task.state != TaskState.GIVEN else (WorkState.LOST, WorkState.COMMITTED)
            )
    assert +board.losses == losses
    waiting = [(w.job, w.task, w.attempt) for w in tasks.to_batch(world)]
    assert len(waiting) == len(set(waiting))
    assert set(waiting) == {k for k, w in rows.works.items() if w.state == WorkState.COMMITTED}
    assert all(not rows.works[key].batch for key in waiting)


def check_starts(world: World) -> None:
    """A task is ready exactly where the rule of the look-ahead says so."""
    for job_id, book in world.memory(tasks.Memory).books.items():
        specs = [decode(task.spec, TaskSpec) for task in world.rows.tasks_of[job_id]]
        states = {task.index: task.state for task in world.rows.tasks_of[job_id]}

        def standing(index: TaskIndex, states: dict[TaskIndex, TaskState] = states) -> Standing:
            if states[index] == TaskState.ACCEPTED:
                return Standing.ACCEPTED
            return Standing.COMMITTED if states[index] == TaskState.COMMITTED else Standing.OPEN

        for spec in specs:
            if states[spec.index] in (TaskState.READY, TaskState.WAITING):
                starts = may_start(spec, specs, standing, book.job.look_ahead)
                assert starts == (states[spec.index] == TaskState.READY), f"task {spec.index} is {states[spec.index]}"


def check_what_works_rest_on(world: World) -> None:
    """Who works on a task, or has committed to it, was given the results that count."""
    for task in world.rows.tasks.values():
        if task.state in (TaskState.GIVEN, TaskState.COMMITTED):
            deps = [world.rows.tasks[task.job, dep] for dep in decode(task.spec, TaskSpec).deps]
            assert {dep.state for dep in deps} <= tasks.AT_HAND
            counting = tuple(world.rows.works[dep.job, dep.index, dep.attempt].result for dep in deps)
            assert world.rows.works[task.job, task.index, task.attempt].inputs == counting


def check_nothing_idle(world: World, now: Now) -> None:
    """No node has room for a task that it may have."""
    board = world.memory(Board)
    for book in world.memory(tasks.Memory).books.values():
        if not scheduling.runs(book.job):
            continue
        for task in world.rows.tasks_of[book.job.id]:
            if task.state != TaskState.READY:
                continue
            queue = book.queues_of[task.index]
            for node in world.nodes.values():
                fits = (
                    len(node.holds) < node.tasks
                    and book.job.workload_name in node.workloads
                    and node.owner not in world.rows.guilty
                    and node.node not in task.barred
                    and node.node not in board.resting
                    and node.node not in board.looking
                    and node.node not in board.rests.get((task.job, task.index), {})
                    and not scheduling.too_much(world, book.job, task.index, node)
                )
                if fits:
                    assert scheduling._objection(world, board, node, queue), f"{node} could have {task}"


def memory_of(world: World) -> dict[str, object]:
    """What follows from the rows alone."""
    board, memory = world.memory(Board), world.memory(tasks.Memory)
    graphs = {
        job: [(gate.deps, gate.missing, gate.chain, gate.is_open) for gate in book.graph.gates]
        for job, book in memory.books.items()
    }
    names = ("Expand", "TakeJob", "Pack")
    # The task graph of a job that is being taken is read again.
    taking = {job.id for job in world.rows.jobs.values() if job.state == JobState.TAKING}
    return {
        "graphs": graphs,
        "books": {
            job: (+book.counts, book.unsettled, book.bound, book.last, book.given, +book.losses)
            for job, book in memory.books.items()
        },
        # One that begins anew waits for no company: what it puts into a batch at once is waiting in the other.
        "unbatched": set(memory.unbatched)
        | {
            (work.job, work.task, work.attempt)
            for work in world.rows.works.values()
            if work.batch and world.rows.batches[work.batch].state == BatchState.FORMED
        },
        "board": (+board.exposure, +board.load, +board.losses, {n: h for n, h in board.held.items() if h}),
        "wanted": {key for key in world._wanted if key[0] in names and key[1] not in taking},
    }


def job_states(town: Town) -> dict[JobId, JobState]:
    return {job.id: job.state for job in town.world.rows.jobs.values()}


def job_row(town: Town, job: JobId) -> Job:
    return town.world.rows.jobs[job]
