"""Tasks and works: what may start, who has it, what becomes of it; optimistic rounds.

A task starts once the results that it rests on are committed, as far ahead of their verdicts as its job looks
(`graph`). Where such a result is not accepted, its task is done again with everything that rests on the result: who is
at work on that loses nothing, what is committed keeps its receipt and is put into a batch all the same, whose record
calls it stale.

A node that is away, busy or declines costs a task nothing but time. Only who began a task and could not finish it is
not asked again, and only where that is so of every node on chain that could, or of many owners, does the job fail.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from proofyard.protocol.codec import decode, encode
from proofyard.protocol.dial import TRUST_FROM
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.types import Address, Cid, JobId, TaskIndex
from proofyard.verifier.engine import backing, decoys, jobs, scheduling
from proofyard.verifier.engine.effects import CancelTasks, OfferTasks
from proofyard.verifier.engine.events import (
    Elsewhere,
    Expanded,
    JobSized,
    NodeJoined,
    NodeLeft,
    NodesListed,
    Now,
    TaskAnswered,
    TaskHandedBack,
    TaskKey,
    TaskProgressed,
    WorkCommitted,
)
from proofyard.verifier.engine.graph import Gate, Graph
from proofyard.verifier.engine.rows import HELD, Batch, BatchState, Job, Task, TaskState, Work, WorkState
from proofyard.verifier.engine.scheduling import Board, Queue, Round, WorkKey
from proofyard.verifier.engine.world import Node, World

MAX_DECLINES = 3
"""Who declined a task so often is not asked again."""
MAX_REFUSERS = 5
"""A task that nodes of so many owners began and could not finish is not tried again."""
UNSURE_S = 20.0
"""Who could not finish a task that rests on what has no verdict is not offered it again for so long."""
MAX_UNDECIDED = 3
"""So often a task may come out undecided."""
MAX_REASON = 500
REMADE = "what its round rests on is another set: the chain has changed"
DROPPED = "its round and those that could take it late have closed without it"

AT_HAND = frozenset((TaskState.COMMITTED, TaskState.ACCEPTED))
UNNEEDED = AT_HAND | {TaskState.DROPPED}
"""Nobody has to do these."""
Made = tuple[TaskIndex, Cid | None]
"""A task with a result of it."""
PROMISED = frozenset((WorkState.COMMITTED, WorkState.BATCHED))
DECOY_OVER = frozenset((BatchState.FINAL, BatchState.DROPPED))
"""Where a batch is settled its record may still have to be read."""
BARS_WORKER = ("faulty", "unpaid")


class Book:
    """What is kept of a job that has tasks; it follows from the rows. Lists by the task's index."""

    __slots__ = (
        "bound",
        "closed",
        "counts",
        "dropped",
        "given",
        "graph",
        "job",
        "last",
        "losses",
        "queues",
        "queues_of",
        "rounds",
        "units",
        "unsettled",
        "works",
    )

    def __init__(self, job: Job, tasks: Sequence[Task]) -> None:
        specs = [decode(task.spec, TaskSpec) for task in tasks]
        self.job = job
        self.graph = _graph(job, specs)
        self.units = [spec.work_units for spec in specs]
        self.last = [0] * len(specs)
        """The number of each task's newest work."""
        self.works: list[Work] = []
        self.counts: Counter[TaskState] = Counter()
        self.given: set[TaskIndex] = set()
        self.losses: Counter[Address] = Counter()
        self.closed = not job.workers
        """Whether what the job's result is made of is known."""
        self.dropped: frozenset[TaskIndex] = frozenset()
        """Tasks that no round takes any more, by what the chain said last."""
        self.unsettled = 0
        """Works that are committed and not settled."""
        self.bound = 0
        """Works that came to something and whose batch is not final."""
        turns = [task.index // job.round_tasks if job.round_tasks else 0 for task in tasks]
        self.rounds = [Round() for _ in range(turns[-1] + 1)] if job.round_tasks else []
        shapes = [
            (turn, int(task.reward), spec.segments, spec.work_units)
            for turn, task, spec in zip(turns, tasks, specs, strict=True)
        ]
        longest_first = sorted(set(shapes), key=lambda shape: (-shape[3], shape))
        alone = len({shape[1:] for shape in shapes}) == 1
        self.queues = {
            shape: Queue(job, number, *shape[1:], alone=alone, round=self.rounds[shape[0]] if self.rounds else None)
            for number, shape in enumerate(longest_first)
        }
        self.queues_of = [self.queues[shape] for shape in shapes]


def _graph(job: Job, specs: Sequence[TaskSpec]) -> Graph:
    """Where rounds do not wait for everybody, what one rests on is known once the one before is closed."""
    shut = {spec.index for spec in specs if job.workers and spec.index >= job.workers and not spec.deps}
    return Graph([spec.deps for spec in specs], job.look_ahead, shut)


@dataclass
class Memory:
    """What begins anew with a restart, and the books. Times by the monotonic clock."""

    books: dict[JobId, Book] = field(default_factory=dict)
    unbatched: dict[WorkKey, Work] = field(default_factory=dict)
    """Committed works without a batch, the oldest first."""
    unbatched_of: Counter[JobId] = field(default_factory=Counter)
    decoys: defaultdict[JobId, dict[WorkKey, Work]] = field(default_factory=lambda: defaultdict(dict))
    """Committed works with a decoy that has not had its batch; those whose decoy is in one are not in `unbatched`."""
    promises: list[tuple[int, WorkKey]] = field(default_factory=list)
    """A heap of when their receipts fall due, on the chain's clock."""
    leases: dict[WorkKey, float] = field(default_factory=dict)
    heard: set[WorkKey] = field(default_factory=set)
    """Works whose node has said that it has them."""
    why: dict[WorkKey, str] = field(default_factory=dict)
    """Why a node got a work that it has not answered yet, in words."""
    older: set[WorkKey] = field(default_factory=set)
    """Works that were given before this verifier began anew: their nodes may have them without having said so."""
    offers: dict[Address, list[tuple[TaskKey, int, tuple[Cid, ...], tuple[Address, ...]]]] = field(default_factory=dict)
    cancels: defaultdict[tuple[Address, str], list[TaskKey]] = field(default_factory=lambda: defaultdict(list))
    listed: tuple[tuple[Address, Address, int], ...] = ()


def _key(work: Work) -> WorkKey:
    return work.job, work.task, work.attempt


# Jobs


def create(world: World, job: Job, event: Expanded, now: Now) -> None:
    """A job's tasks, and what can start of them at once. What was paid before is accepted."""
    specs, paid = event.specs, {entry[0]: entry for entry in event.paid}
    if job.workers:
        scheduling.entrust(world, job.id, event.voters)
    total, reward = max(1, sum(spec.work_units for spec in specs)), int(job.reward)
    for spec in specs:
        if job.workers and spec.deps:
            spec = msgspec.structs.replace(spec, deps=())
        task = Task(job=job.id, index=spec.index, spec=encode(spec), reward=str(reward * spec.work_units // total))
        world.rows.add(task)
        if spec.index in paid:
            task.state, task.attempt = TaskState.ACCEPTED, 1
    works = [_paid_before(job, *entry) for index, entry in paid.items() if 0 <= index < len(specs)]
    for work in works:
        world.rows.add(work)
    _open(world, job, works)
    before = f", {len(works)} of them paid already" if works else ""
    world.log(job.id, now, "opened", f"{job.workload_name} job of {len(specs)} tasks{before}")


def _paid_before(job: Job, index: TaskIndex, node: Address, owner: Address, result: Cid) -> Work:
    return Work(
        job=job.id,
        task=index,
        attempt=1,
        node=node,
        owner=owner,
        state=WorkState.SETTLED,
        result=result,
        outcome="accepted",
    )


def _open(world: World, job: Job, works: Iterable[Work]) -> None:
    """Keep a job's book, as its rows say."""
    memory, board, rows = world.memory(Memory), world.memory(Board), world.rows
    tasks = rows.tasks_of[job.id]
    tasks.sort(key=lambda task: task.index)
    book = memory.books[job.id] = Book(job, tasks)
    board.queues.update({queue.key: queue for queue in book.queues.values()})
    if book.rounds:
        board.rounds[job.id] = book.rounds
    for work in works:
        _enter(world, book, work)
    for task in tasks:
        book.counts[task.state] += 1
        if task.state == TaskState.GIVEN:
            book.given.add(task.index)
        if book.rounds and task.state in HELD:
            scheduling.has(world, _given(world, task))
        for node in task.lost_by:
            _lose(world, book, node)
        if task.state in AT_HAND:
            book.graph.move(task.index, at_hand=True, accepted=task.state == TaskState.ACCEPTED)
    for task in tasks:
        if task.state == TaskState.READY:
            scheduling.ready(world, book.queues_of[task.index], task)
    for gate in book.graph.gates:
        _follow(world, book, gate)


def _enter(world: World, book: Book, work: Work) -> None:
    book.works.append(work)
    book.last[work.task] = max(book.last[work.task], work.attempt)
    _count(world, book, work)
    # No batch of this verifier's holds what was paid before it had the job.
    book.bound -= work.state == WorkState.SETTLED and not work.batch


def _lose(world: World, book: Book, node: Address) -> None:
    book.losses[node] += 1
    scheduling.lose(world, node)


def pause(world: World, job_id: JobId) -> None:
    """Nothing of a job is given out for now."""
    book = world.memory(Memory).books.get(job_id)
    if book is not None:
        for queue in book.queues.values():
            scheduling.stop(world, queue)


def go_on(world: World, job_id: JobId) -> None:
    """A job runs again."""
    book = world.memory(Memory).books.get(job_id)
    if book is not None:
        for queue in book.queues.values():
            scheduling.go_on(world, queue)


def give_up(world: World, job_id: JobId, reason: str) -> None:
    """A job is over: nobody needs to go on with its tasks. What is committed stays so."""
    book = world.memory(Memory).books.get(job_id)
    if book is None:
        return
    pause(world, job_id)
    for index in sorted(book.given):
        task = world.rows.tasks[job_id, index]
        _call_off(world, book, _given(world, task), reason)
        _reopen(world, book, task)


def delete(world: World, job_id: JobId, reason: str) -> None:
    """Its number is another job's now, or it is another verifier's: what was done for it is of no use to anybody."""
    book = _close(world, job_id, reason)
    if book is not None:
        world.rows.delete_tasks(job_id, book.works)


def forget(world: World, job_id: JobId) -> None:
    """Let the tasks of a job that is over leave the memory, unless a batch with work for it is not final."""
    book = world.memory(Memory).books.get(job_id)
    if book is not None and not book.bound and not book.given:
        _close(world, job_id, "the job is over")
        world.rows.forget(job_id, book.works)


def is_kept(world: World, job_id: JobId) -> bool:
    """Whether the tasks of a job are in memory."""
    return job_id in world.memory(Memory).books


def _close(world: World, job_id: JobId, reason: str) -> Book | None:
    memory, board = world.memory(Memory), world.memory(Board)
    give_up(world, job_id, reason)
    book = memory.books.pop(job_id, None)
    if book is None:
        return None
    for work in book.works:
        scheduling.forget(world, work)
        backing.forget(world, work)
        _not_to_batch(memory, work)
    backing.forget_job(world, job_id)
    board.sizes.pop(job_id, None)
    board.rounds.pop(job_id, None)
    memory.decoys.pop(job_id, None)
    for node, losses in book.losses.items():
        scheduling.lose(world, node, -losses)
    for queue in book.queues.values():
        # What was called off is ready again, and its queue with it.
        scheduling.stop(world, queue)
        board.new_queues.pop(queue.key, None)
        del board.queues[queue.key]
    return book


# Rounds


def rest_on(world: World, job_id: JobId, deps: Mapping[TaskIndex, tuple[TaskIndex, ...]], now: Now) -> None:
    """What tasks of later rounds rest on is known now, or another set than it was, or (empty) not known any more. Who
    was given other results is called off, and what was committed to on them is done again, as where a result is."""
    book, rows = world.memory(Memory).books[job_id], world.rows
    moved = [index for index in deps if book.graph.gate_of[index].deps != deps[index]]
    if not moved:
        return
    undone = []
    for index in moved:
        task = rows.tasks[job_id, index]
        if task.state == TaskState.GIVEN:
            _call_off(world, book, _given(world, task), REMADE)
        elif task.state == TaskState.COMMITTED:
            undone.append(_given(world, task))
        if task.state in (TaskState.READY, TaskState.GIVEN, TaskState.COMMITTED):
            _set(world, book, task, TaskState.WAITING)
    for work in undone:
        world.log(job_id, now, "undone", REMADE, task=work.task, node=work.node)
        _undo_on(world, book, work, REMADE, now)
    for index in moved:
        task = rows.tasks[job_id, index]
        task.spec = encode(msgspec.structs.replace(decode(task.spec, TaskSpec), deps=deps[index]))
        rows.touch(task)
    tasks = rows.tasks_of[job_id]
    book.graph = _graph(book.job, [decode(task.spec, TaskSpec) for task in tasks])
    for task in tasks:
        if task.state in AT_HAND:
            book.graph.move(task.index, at_hand=True, accepted=task.state == TaskState.ACCEPTED)
    for gate in book.graph.gates:
        _follow(world, book, gate)
    jobs.mind_deadline(world, book.job)


def drop(world: World, job_id: JobId, dropped: frozenset[TaskIndex], *, closed: bool, now: Now) -> None:
    """No round takes these tasks any more, or, of others, one does after all. Who works on one is called off; what is
    committed keeps its receipt and its pay. `closed`: no round is open."""
    book = world.memory(Memory).books[job_id]
    before, book.dropped, book.closed = book.dropped, dropped, closed
    for index in sorted(dropped):
        task = world.rows.tasks[job_id, index]
        if task.state in AT_HAND or task.state == TaskState.DROPPED:
            continue
        if task.state == TaskState.GIVEN:
            _call_off(world, book, _given(world, task), DROPPED)
        _set(world, book, task, TaskState.DROPPED)
        world.log(job_id, now, "dropped", f"task {index}: {DROPPED}", task=index)
    for task in world.rows.tasks_of[job_id]:
        if task.state == TaskState.DROPPED and task.index not in dropped:
            _reopen(world, book, task)
    if before != dropped or closed:
        jobs.check_done(world, job_id, now)


# States


def _set(world: World, book: Book, task: Task, state: TaskState) -> None:
    """Every change of a task's state: counters, queues, and what rests on it."""
    before = task.state
    if before == state:
        return
    book.counts[before] -= 1
    book.counts[state] += 1
    task.state = state
    world.rows.touch(task)
    if before == TaskState.READY:
        scheduling.not_ready(world, book.queues_of[task.index])
    elif before == TaskState.GIVEN:
        book.given.discard(task.index)
    if state == TaskState.READY:
        scheduling.ready(world, book.queues_of[task.index], task)
    elif state == TaskState.GIVEN:
        book.given.add(task.index)
    if book.rounds and (before in HELD) != (state in HELD):
        scheduling.has(world, _given(world, task), no_more=before in HELD)
    if before in AT_HAND or state in AT_HAND:
        accepted = state == TaskState.ACCEPTED
        for gate in book.graph.move(task.index, at_hand=state in AT_HAND, accepted=accepted):
            _follow(world, book, gate)


def _follow(world: World, book: Book, gate: Gate) -> None:
    """A gate opened or closed: so its tasks are ready or wait."""
    before, after = TaskState.WAITING, TaskState.READY
    if not gate.is_open:
        before, after = after, before
    for index in gate.members:
        task = world.rows.tasks[book.job.id, index]
        if task.state == before:
            _set(world, book, task, after)


def _reopen(world: World, book: Book, task: Task) -> None:
    """Somebody has to do it, now or once its inputs are there, unless no round takes it any more. Past its deadline the
    job is looked at again."""
    if task.index in book.dropped:
        _set(world, book, task, TaskState.DROPPED)
        return
    _set(world, book, task, TaskState.READY if book.graph.gate_of[task.index].is_open else TaskState.WAITING)
    jobs.mind_deadline(world, book.job)


def _count(world: World, book: Book, work: Work) -> None:
    promised, counting = scheduling.count(world, work)
    backing.count(world, book.job, work, book.units[work.task])
    book.unsettled += promised
    book.bound += counting


def _given(world: World, task: Task) -> Work:
    return world.rows.works[task.job, task.index, task.attempt]


def _free(world: World, book: Book, work: Work, state: WorkState, outcome: str = "") -> None:
    """A node holds a work no longer."""
    memory = world.memory(Memory)
    work.state, work.outcome = state, outcome
    world.rows.touch(work)
    memory.leases.pop(_key(work), None)
    memory.heard.discard(_key(work))
    memory.why.pop(_key(work), None)
    memory.older.discard(_key(work))
    scheduling.let_go(world, work.node, (work.job, work.task))
    _count(world, book, work)


def _call_off(world: World, book: Book, work: Work, reason: str) -> None:
    """A node is told to stop with what it was given; it loses nothing by it."""
    offers = world.memory(Memory).offers.get(work.node, [])
    offers[:] = [offer for offer in offers if offer[0] != (work.job, work.task)]
    _free(world, book, work, WorkState.LOST, "called off")
    if work.node in world.nodes:
        world.memory(Memory).cancels[work.node, reason].append((work.job, work.task))


# Nodes


def join(world: World, event: NodeJoined, now: Now) -> None:
    """A node is here, or says again what it offers. Who was away is offered again what it held: it goes on with it, or
    begins anew where it has forgotten."""
    board = world.memory(Board)
    old = world.nodes.get(event.node)
    node = Node(
        node=event.node,
        owner=event.owner,
        operator=event.operator,
        stake=event.stake,
        consecutive_valid=event.consecutive_valid,
        workloads=event.workloads,
        tasks=event.tasks,
        audits=event.audits,
        memory_bytes=event.memory_bytes,
        subnet=event.subnet,
        speed=event.speed,
        holds=board.held[event.node],
    )
    if node == old:
        return
    if old is not None:
        scheduling.depart(world, old)
    world.nodes[event.node] = node
    scheduling.arrive(world, node)
    if old is None:
        for key in sorted(node.holds):
            _offer(world, _given(world, world.rows.tasks[key]))


def leave(world: World, event: NodeLeft, now: Now) -> None:
    """Its leases run on: it may come back in time."""
    node = world.nodes.pop(event.node, None)
    if node is not None:
        scheduling.depart(world, node)
        world.memory(Memory).offers.pop(event.node, None)
        if not node.holds:
            del world.memory(Board).held[event.node]


def elsewhere(world: World, event: Elsewhere, now: Now) -> None:
    world.elsewhere = dict(event.exposure)
    scheduling.look_at_all(world)


def sized(world: World, event: JobSized, now: Now) -> None:
    """What the work of a job takes is known."""
    sizes = world.memory(Board).sizes
    for gone in [job for job in sizes if job not in world.rows.jobs]:
        del sizes[gone]
    if event.job in world.rows.jobs:
        scheduling.size(world, event.job, event.memory_bytes)


def listed(world: World, event: NodesListed, now: Now) -> None:
    """Fewer nodes may be left that could do a task."""
    memory = world.memory(Memory)
    memory.listed = event.nodes
    for book in list(memory.books.values()):
        if scheduling.runs(book.job):
            fussy = {index for queue in book.queues.values() for index in queue.fussy}
            for index in sorted(fussy):
                _fail_hopeless(world, world.rows.tasks[book.job.id, index], now)


# Giving


def give_out(world: World, now: Now) -> None:
    """Give every task that can start to a node that has room for it. All of a node's offers go in one message, after
    what is called off."""
    jobs.expire(world, now)
    for node, _, task in ((n, q, world.rows.tasks[q.job.id, i]) for n, q, i in scheduling.matches(world, now)):
        world.about = (task.job,)
        _give(world, node, task, now)
    world.about = ()
    memory = world.memory(Memory)
    for (address, reason), tasks in memory.cancels.items():
        world.send(CancelTasks(address, tuple(tasks), reason))
    for address, offers in memory.offers.items():
        if offers:
            world.send(OfferTasks(address, tuple(offers)))
    memory.cancels.clear()
    memory.offers.clear()


def _give(world: World, node: Node, task: Task, now: Now) -> None:
    book = world.memory(Memory).books[task.job]
    index = task.index
    book.last[index] += 1
    task.attempt = book.last[index]
    work = Work(
        job=task.job,
        task=index,
        attempt=task.attempt,
        node=node.node,
        owner=node.owner,
        subnet=node.subnet,
        inputs=_inputs(world, book, book.graph.gate_of[index]),
        decoy=_is_first(world, task) and decoys.is_ordered(world.rules, book.job, index, task.attempt, node.node),
    )
    world.rows.add(work)
    world.memory(Memory).why[_key(work)] = scheduling.standing(world, node.node)
    _set(world, book, task, TaskState.GIVEN)
    _enter(world, book, work)
    scheduling.hold(world, node.node, (task.job, index))
    _lease(world, work, now)
    _offer(world, work)
    if book.job.reason:
        book.job.reason = ""
        world.rows.touch(book.job)


def _is_first(world: World, task: Task) -> bool:
    """Whether nobody has committed to a task: an earlier result would tell a decoy from the true one."""
    works = (world.rows.works.get((task.job, task.index, number)) for number in range(1, task.attempt))
    return all(work is None or work.result is None for work in works)


def _inputs(world: World, book: Book, gate: Gate) -> tuple[Cid, ...]:
    """The results that the tasks of a gate start from now, and in `makers` who made them."""
    if gate.inputs is None:
        works = [_given(world, world.rows.tasks[book.job.id, dep]) for dep in gate.deps]
        gate.inputs = tuple(work.result or Cid("") for work in works)
        gate.makers = tuple(dict.fromkeys(work.node for work in works))
    return gate.inputs


def _offer(world: World, work: Work) -> None:
    book = world.memory(Memory).books[work.job]
    gate = book.graph.gate_of[work.task]
    if not gate.missing:
        _inputs(world, book, gate)
    offers = world.memory(Memory).offers.setdefault(work.node, [])
    offers.append(((work.job, work.task), work.attempt, work.inputs, gate.makers))


def _lease(world: World, work: Work, now: Now) -> None:
    memory, key = world.memory(Memory), _key(work)
    if key not in memory.leases:
        world.wake_at(now.mono + world.rules.lease_s, ("tasks", "lease", *key))
    memory.leases[key] = now.mono + world.rules.lease_s


def _held_by(world: World, node: Address, key: TaskKey) -> Work | None:
    task = world.rows.tasks.get(key)
    work = None if task is None or task.state != TaskState.GIVEN else _given(world, task)
    return work if work is not None and work.node == node else None


def answered(world: World, event: TaskAnswered, now: Now) -> None:
    """A node takes a task or not. Who declines may be asked again after a rest, unless it says no again and again."""
    work = _held_by(world, event.node, event.key)
    memory = world.memory(Memory)
    if work is None or _key(work) in memory.heard:
        return
    task = world.rows.tasks[event.key]
    if event.taken:
        memory.heard.add(_key(work))
        _lease(world, work, now)
        spec = decode(task.spec, TaskSpec)
        why = memory.why.pop(_key(work), "")
        text = f"{spec.label or spec.kind} given to a node, attempt {work.attempt}" + (f": {why}" if why else "")
        world.log(task.job, now, "assigned", text, task=task.index, node=event.node)
        return
    if _key(work) in memory.older and not (event.declined or event.lacks):
        return
    book = memory.books[task.job]
    reason = event.reason[:MAX_REASON] or "it declined"
    if event.lacks:
        scheduling.rest(world, event.node, event.key, now, scheduling.LACKS_S)
    else:
        scheduling.rest(world, event.node, event.key if event.declined else None, now)
    if event.declined:
        _note_loss(world, book, task, event.node)
        if task.lost_by.count(event.node) >= MAX_DECLINES:
            _refuse(world, book, task, work, reason)
    _free(world, book, work, WorkState.LOST, "not taken")
    _reopen(world, book, task)
    _fail_hopeless(world, task, now)


def progressed(world: World, event: TaskProgressed, now: Now) -> None:
    work = _held_by(world, event.node, event.key)
    if work is None:
        world.refusal = "the task is no longer yours"
        return
    world.memory(Memory).heard.add(_key(work))
    _lease(world, work, now)
    if event.text:
        world.log(
            *(work.job, now, "progress", event.text), task=work.task, node=work.node, loss=event.loss, step=event.step
        )


def handed_back(world: World, event: TaskHandedBack, now: Now) -> None:
    """A node began a task and cannot finish it: somebody else may. While what the task rests on has no verdict it may
    be that which is at fault, a result that its worker never gives: then nothing is held against the task or the node,
    and it is asked again in a while."""
    work = _held_by(world, event.node, event.key)
    if work is None:
        return
    book, task = world.memory(Memory).books[work.job], world.rows.tasks[event.key]
    reason = event.reason[:MAX_REASON]
    world.log(task.job, now, "failed", f"task {task.index} handed back: {reason}", task=task.index, node=work.node)
    if _is_sure(world, book, task):
        _note_loss(world, book, task, work.node)
        _refuse(world, book, task, work, reason)
    else:
        scheduling.rest(world, work.node, event.key, now, UNSURE_S)
    _free(world, book, work, WorkState.LOST, "handed back")
    _reopen(world, book, task)
    _fail_hopeless(world, task, now)


def _is_sure(world: World, book: Book, task: Task) -> bool:
    """Whether everything that a task rests on is accepted."""
    deps = book.graph.gate_of[task.index].deps
    return all(world.rows.tasks[task.job, dep].state == TaskState.ACCEPTED for dep in deps)


def _refuse(world: World, book: Book, task: Task, work: Work, reason: str) -> None:
    _bar(world, task, (work.node,))
    task.refused_by = tuple(sorted({*task.refused_by, work.owner}))
    book.job.reason = f"task {task.index} was handed back: {reason}"
    world.rows.touch(book.job)


def _note_loss(world: World, book: Book, task: Task, node: Address) -> None:
    """It costs no stake, but the node is offered work after all others from now on."""
    task.lost_by = (*task.lost_by, node)
    world.rows.touch(task)
    _lose(world, book, node)


def _bar(world: World, task: Task, nodes: Iterable[Address]) -> None:
    """These nodes may not have the task again."""
    task.barred = tuple(sorted({*task.barred, *nodes}))
    world.rows.touch(task)


def _fail_hopeless(world: World, task: Task, now: Now) -> None:
    """A job ends with its reason, instead of waiting for its deadline, where a task of it cannot be done: nodes of
    `MAX_REFUSERS` owners began it in vain, or every node on chain that could begin it is barred from it."""
    job = world.rows.jobs[task.job]
    if not task.barred or task.state in HELD or task.state == TaskState.DROPPED or not scheduling.runs(job):
        return
    if len(task.refused_by) >= MAX_REFUSERS or _all_barred(world, job, task):
        jobs.fail(world, job.id, f"no node can do task {task.index}; {job.reason or 'see its log'}", now)


def _all_barred(world: World, job: Job, task: Task) -> bool:
    barred, able = set(task.barred), False
    for node, owner, workloads in world.memory(Memory).listed:
        if workloads >> job.workload & 1 and owner not in world.rows.guilty:
            if node not in barred:
                return False
            able = True
    return able


def _lapsed(world: World, work: Work, now: Now) -> None:
    """A holder that was silent for longer than its lease loses the task; it costs no stake. Of whom this verifier has
    not heard since it began anew, it cannot say that it was silent."""
    book, task = world.memory(Memory).books[work.job], world.rows.tasks[work.job, work.task]
    world.log(work.job, now, "lost", f"task {work.task}: no word from its node", task=work.task, node=work.node)
    if _key(work) in world.memory(Memory).heard:
        _note_loss(world, book, task, work.node)
    else:
        scheduling.rest(world, work.node, (work.job, work.task), now)
    _call_off(world, book, work, "no word from the node for too long")
    _reopen(world, book, task)


# Commitments


def committed(world: World, event: WorkCommitted, now: Now) -> None:
    """A work is done, for what this verifier can see. The same commitment may be told again."""
    task = world.rows.tasks.get(event.key)
    if task is None:
        world.refusal = f"job {event.key[0]} has no task {event.key[1]}"
        return
    work = _held_by(world, event.node, event.key)
    book = world.memory(Memory).books[task.job]
    if work is None:
        if not _is_known(world, book, task, event):
            world.refusal = f"task {task.index} of job {task.job} is not yours"
    elif event.manifest != book.job.manifest:
        world.refusal = f"the number of job {task.job} is another one's since a reorganisation"
    elif work.inputs != event.inputs:
        world.refusal = f"task {task.index}: its inputs are not the results it was given"
    elif book.job.gone or not book.job.taken_block:
        world.refusal = f"job {task.job} is not this verifier's on chain for now; try again"
    else:
        work.submission, work.leaf, work.result = event.submission, event.leaf, event.result
        work.promised_until, work.decoy = event.promised_until, work.decoy and event.decoy
        if work.decoy:
            world.memory(Memory).decoys[work.job][_key(work)] = work
        _free(world, book, work, WorkState.COMMITTED)
        _set(world, book, task, TaskState.COMMITTED)
        _to_batch(world, work)
        segments = book.queues_of[task.index].segments
        text = f"committed to {segments + 1} states"
        world.log(task.job, now, "committed", text, task=task.index, node=work.node)


def _is_known(world: World, book: Book, task: Task, event: WorkCommitted) -> bool:
    works = (world.rows.works.get((task.job, task.index, n)) for n in range(1, book.last[task.index] + 1))
    return any(work is not None and (work.node, work.leaf) == (event.node, event.leaf) for work in works)


def _to_batch(world: World, work: Work) -> None:
    memory = world.memory(Memory)
    memory.unbatched[_key(work)] = work
    memory.unbatched_of[work.job] += 1
    heapq.heappush(memory.promises, (work.promised_until, _key(work)))


def _not_to_batch(memory: Memory, work: Work) -> None:
    if memory.unbatched.pop(_key(work), None) is not None:
        memory.unbatched_of[work.job] -= 1
        if not memory.unbatched_of[work.job]:
            del memory.unbatched_of[work.job]
    while memory.promises and memory.promises[0][1] not in memory.unbatched:
        heapq.heappop(memory.promises)


def unbatch(world: World, batch: Batch) -> None:
    """A batch comes to nothing before it was on chain: its works wait for another one."""
    for work in list(world.rows.works_of[batch.id]):
        work.state = WorkState.COMMITTED
        world.rows.put_into(work, 0)
        _to_batch(world, work)
    for work in world.rows.decoys_in.pop(batch.id, []):
        work.decoy_batch = 0
        world.rows.touch(work)
        if work.state == WorkState.COMMITTED and work.decoy:
            _to_batch(world, work)


def decoys_batched(world: World, works: Iterable[Work], now: Now) -> None:
    """The decoys of these are in a batch: they follow when it is over, or when their receipts fall due."""
    for work in works:
        _not_to_batch(world.memory(Memory), work)
        _await_decoy(world, work, now)


def _await_decoy(world: World, work: Work, now: Now) -> None:
    left = work.promised_until - world.rules.receipt_margin_s - now.chain
    world.wake_at(now.mono + max(left, 0.0), ("tasks", "due", *_key(work)))


def decoy_over(world: World, work: Work, now: Now, *, caught: bool = False) -> None:
    """The batch of a work's decoy is over: the work itself waits for one. Where its owner was caught in that batch the
    task is done again by another; the work is committed all the same, as its receipt says."""
    _release(world, work)
    book, task = world.memory(Memory).books.get(work.job), world.rows.tasks.get((work.job, work.task))
    if not caught or book is None or task is None:
        return
    _bar(world, task, (work.node,))
    world.log(work.job, now, _KINDS["unpaid"], _TOLD["unpaid"], task=work.task, node=work.node)
    if task.state == TaskState.COMMITTED and world.rows.current(task) is work:
        _reopen(world, book, task)
        _undo_on(world, book, work, f"task {work.task}, on which it rests, is done again", now)
    _fail_hopeless(world, task, now)


def _release(world: World, work: Work) -> None:
    """A work whose decoy has had its batch, or that cannot wait for it, is put into one itself."""
    if work.state != WorkState.COMMITTED or not work.decoy:
        return
    work.decoy, work.submission = False, decoys.without_decoy(work.submission)
    world.rows.touch(work)
    memory = world.memory(Memory)
    memory.decoys[work.job].pop(_key(work), None)
    if _key(work) not in memory.unbatched:
        _to_batch(world, work)


class Order:
    """In which order works come into batches: none before those whose results it was made of, or a batch could wait for
    one after it; nor before the batch of a decoy beside one of those, or of a decoy of the same task, or its list would
    tell which is the decoy."""

    def __init__(self, world: World, waiting: Sequence[Work]) -> None:
        memory = world.memory(Memory)
        self._books = memory.books
        self._decoys = {
            job: {(work.task, work.result) for work in works.values()} for job, works in memory.decoys.items()
        }
        self._left: defaultdict[JobId, set[Made]] = defaultdict(set)
        for work in waiting:
            if world.rows.current(world.rows.tasks[work.job, work.task]) is work:
                self._left[work.job].add((work.task, work.result))
        self._needs: dict[tuple[int, tuple[Cid, ...]], tuple[Made, ...]] = {}

    def has_to_wait(self, work: Work) -> bool:
        """Whether something that it rests on comes first."""
        left, decoys = self._left[work.job], self._decoys.get(work.job, ())
        if not work.decoy and any(task == work.task for task, _ in decoys):
            return True
        return any(made in left or made in decoys for made in self._needs_of(work))

    def place(self, work: Work) -> None:
        """It comes into this batch; of one with a decoy only that does."""
        if not work.decoy:
            self._left[work.job].discard((work.task, work.result))

    def _needs_of(self, work: Work) -> tuple[Made, ...]:
        """What a work was made of and is in no batch yet. Tasks of one gate have it in common."""
        gate = self._books[work.job].graph.gate_of[work.task]
        key = id(gate), work.inputs
        if key not in self._needs:
            left, decoys = self._left[work.job], self._decoys.get(work.job, ())
            made = zip(gate.deps, work.inputs, strict=False)
            self._needs[key] = tuple(each for each in made if each in left or each in decoys)
        return self._needs[key]


def to_batch(world: World, of: Container[JobId] | None = None) -> list[Work]:
    """Committed works without a batch, all or of some jobs, those first whose receipts fall due first. A task may have
    several: no batch holds two of them."""
    works = [work for work in world.memory(Memory).unbatched.values() if of is None or work.job in of]
    return sorted(works, key=lambda work: work.promised_until)


def waiting(world: World) -> tuple[int, int]:
    """How many works wait for a batch, and when the first receipt among them falls due, on the chain's clock."""
    memory = world.memory(Memory)
    return len(memory.unbatched), memory.promises[0][0] if memory.promises else 0


def rounds_wait(world: World) -> bool:
    """Whether a job has works without a batch whose rounds close by what is on chain."""
    return any(world.rows.jobs[job].workers for job in world.memory(Memory).unbatched_of)


def waiting_jobs(world: World, now: Now) -> set[JobId]:
    """Those that can do nothing more until what they have committed is judged, and those that it takes two batches to
    judge, whose first may as well begin."""
    unbatched = world.memory(Memory).unbatched_of
    return {job for job in unbatched if blocked(world, job) or _is_held_up(world, job) or _nears_end(world, job, now)}


def _is_held_up(world: World, job_id: JobId) -> bool:
    """Whether decoys have no batch yet, and what rests on the work beside one may start: that comes into no batch
    before the decoy's is over. Not where many wait, who have a batch before long."""
    memory = world.memory(Memory)
    marked = memory.decoys.get(job_id)
    if not marked or memory.unbatched_of[job_id] >= world.rules.few_tasks:
        return False
    if any(key not in memory.unbatched for key in marked):
        return False
    uses = memory.books[job_id].graph.uses
    return any(not gate.missing for _, task, _ in marked for gate in uses(task))


def _nears_end(world: World, job_id: JobId, now: Now) -> bool:
    """Whether the last round but one of a job is given out, whose first commitment has waited long enough and has had
    no batch: audits of a first one fall into gaps then, and few are left when the job ends. A decoy makes two batches
    of a job anyway, and a fault in the first one three, so only workers that have been found right do not wait."""
    rules, book = world.rules, world.memory(Memory).books.get(job_id)
    if book is None or book.job.workers or not book.graph.gates[-1].deps or world.rows.batches_of.get(job_id):
        return False
    if world.memory(Memory).unbatched_of[job_id] >= rules.few_tasks:
        return False
    left = book.counts[TaskState.READY] + book.counts[TaskState.WAITING]
    if not 0 < left <= len(book.given) or any(work.decoy or not _is_proven(world, work) for work in book.works):
        return False
    since = now.chain - rules.first_s
    return any(0 < work.promised_until <= since + rules.receipt_time for work in book.works)


def _is_proven(world: World, work: Work) -> bool:
    node = world.nodes.get(work.node)
    return node is not None and node.consecutive_valid >= TRUST_FROM


def starves(world: World, job_id: JobId) -> bool:
    """Whether a job that waits has tasks, all of which can only be given once what is committed is judged."""
    book = world.memory(Memory).books.get(job_id)
    if book is None or not scheduling.runs(book.job) or not blocked(world, job_id):
        return False
    return not all_committed(world, job_id)


def anybody_works(world: World) -> bool:
    """Whether a node has a task."""
    return bool(world.memory(Memory).leases)


def batched(world: World, works: Iterable[Work]) -> None:
    """These have a batch now."""
    memory = world.memory(Memory)
    for work in works:
        _not_to_batch(memory, work)


def blocked(world: World, job_id: JobId) -> bool:
    """Whether no task of a job can be given or worked on: it waits for verdicts, or has nothing left to do."""
    book = world.memory(Memory).books.get(job_id)
    if book is None or not scheduling.runs(book.job):
        return True
    return not book.counts[TaskState.READY] and not book.given


def units(world: World, work: Work) -> int:
    return world.memory(Memory).books[work.job].units[work.task]


def rests_on(world: World, batch: Batch) -> set[int]:
    """The batches that hold the works whose results those of a batch were given, and that are not settled. What was
    undone waits for nobody."""
    found: set[int] = set()
    seen: set[int] = set()
    for work in world.rows.works_of[batch.id]:
        if work.decoy_batch in world.rows.batches:
            found.add(work.decoy_batch)
        book, task = world.memory(Memory).books.get(work.job), world.rows.tasks.get((work.job, work.task))
        if book is None or task is None or world.rows.current(task) is not work:
            continue
        gate = book.graph.gate_of[work.task]
        if id(gate) not in seen:
            seen.add(id(gate))
            found.update(_open_batches(world, book, gate))
    return found


def _open_batches(world: World, book: Book, gate: Gate) -> Iterator[int]:
    """Where the works are whose results a gate's tasks start from: what counts was given the results that count."""
    for dep in gate.deps:
        maker = world.rows.current(world.rows.tasks[book.job.id, dep])
        if maker is not None and maker.state == WorkState.BATCHED:
            yield maker.batch


# Verdicts


def accepted(world: World, work: Work, now: Now) -> None:
    """A settled record accepts a work: it counts, whatever did until now."""
    book = _settled(world, work)
    if book is None:
        return
    task = world.rows.tasks[work.job, work.task]
    if task.state != TaskState.ACCEPTED or task.attempt != work.attempt:
        _let_count(world, book, task, work, TaskState.ACCEPTED, now)
    jobs.check_done(world, work.job, now)


def repeated(world: World, work: Work, now: Now) -> None:
    """A settled record says that an earlier batch holds the work's task, or has paid it. What becomes of the work there
    decides, as long as that is not known; a batch of another verifier's accepted a result that is the same."""
    book = _settled(world, work)
    if book is None:
        return
    task = world.rows.tasks[work.job, work.task]
    numbers = range(1, book.last[work.task] + 1)
    others = [w for n in numbers if (w := world.rows.works.get((work.job, work.task, n))) and w is not work]
    waiting = next((other for other in others if other.state == WorkState.BATCHED), None)
    if any(other.outcome == "accepted" for other in others):
        pass
    elif waiting is None and task.state != TaskState.ACCEPTED:
        _let_count(world, book, task, work, TaskState.ACCEPTED, now)
    elif waiting is not None and world.rows.current(task) is work:
        _let_count(world, book, task, waiting, TaskState.COMMITTED, now)
    jobs.check_done(world, work.job, now)


def _settled(world: World, work: Work) -> Book | None:
    """Count a work as what it has become."""
    book = world.memory(Memory).books.get(work.job)
    if book is not None:
        _not_to_batch(world.memory(Memory), work)
        world.memory(Memory).decoys[work.job].pop(_key(work), None)
        _count(world, book, work)
    return book


def _let_count(world: World, book: Book, task: Task, work: Work, state: TaskState, now: Now) -> None:
    """This work of a task is the one that counts."""
    other = world.rows.current(task)
    if other is not None and other is not work:
        if task.state == TaskState.GIVEN:
            _call_off(world, book, other, "the task is done")
        elif other.result != work.result:
            _undo_on(world, book, other, "it rests on a result that does not count", now)
        # The task stays somebody's, and may be another owner's now.
        scheduling.has(world, other, no_more=True)
        scheduling.has(world, work)
    if task.attempt != work.attempt:
        task.attempt = work.attempt
        world.rows.touch(task)
    _set(world, book, task, state)


def refuted(world: World, work: Work, outcome: str, reason: str, dissenters: Iterable[Address], now: Now) -> None:
    """A settled record does not accept a work, or its batch came to nothing: the task is done again, and with it what
    rests on its result. Who was at fault, and who made it undecidable, is not asked again."""
    book = _settled(world, work)
    if book is None:
        return
    task = world.rows.tasks[work.job, work.task]
    text = reason or _TOLD.get(outcome, outcome)
    world.log(work.job, now, _KINDS.get(outcome, outcome), text, task=work.task, node=work.node)
    barred = set(dissenters) | ({work.node} if outcome in BARS_WORKER else set())
    if barred:
        _bar(world, task, barred)
    if outcome == "undecided":
        task.undecided += 1
        world.rows.touch(task)
    if world.rows.current(task) is work:
        _reopen(world, book, task)
        _undo_on(world, book, work, f"task {work.task}, on which it rests, is done again", now)
    if task.undecided >= MAX_UNDECIDED and task.state not in UNNEEDED:
        jobs.fail(world, work.job, f"task {work.task} came out undecided {task.undecided} times", now)
    _fail_hopeless(world, task, now)
    jobs.check_done(world, work.job, now)


_KINDS = {"faulty": "fault", "unpaid": "caught"}
_TOLD = {
    "unpaid": "its node's owner was caught in this batch: done again",
    "undecided": "its audits came to no verdict; done again",
    "stale": "what it rests on is not accepted: done again",
}


def lost(world: World, work: Work, reason: str, now: Now) -> None:
    """A committed work that no batch can hold any more."""
    work.state = WorkState.LOST
    world.rows.touch(work)
    refuted(world, work, "lost", reason, (), now)


def _undo_on(world: World, book: Book, work: Work, reason: str, now: Now) -> None:
    """Undo what rests on a work's result, by what each was given and not by the graph alone: whoever was given another
    result of the task goes on. What is accepted stays: the chain has paid it."""
    left = [work]
    while left:
        undone = left.pop()
        for gate in book.graph.uses(undone.task):
            at = gate.deps.index(undone.task)
            for index in gate.members:
                task = world.rows.tasks[book.job.id, index]
                if task.state not in (TaskState.GIVEN, TaskState.COMMITTED):
                    continue
                resting = _given(world, task)
                if resting.inputs[at] != undone.result:
                    continue
                if task.state == TaskState.GIVEN:
                    _call_off(world, book, resting, reason)
                else:
                    left.append(resting)
                _reopen(world, book, task)
                world.log(task.job, now, "undone", reason, task=task.index, node=resting.node)


def unaccept(world: World, work: Work, outcome: str, now: Now) -> None:
    """A settlement went with a block or was voided: the work waits for its verdict again, and its task with it where
    nobody has begun it anew."""
    book = _settled(world, work)
    if book is None:
        return
    task = world.rows.tasks[work.job, work.task]
    if outcome == "undecided" and task.undecided:
        task.undecided -= 1
        world.rows.touch(task)
    if task.state == TaskState.ACCEPTED and task.attempt == work.attempt:
        _set(world, book, task, TaskState.COMMITTED)
    elif task.state in (TaskState.READY, TaskState.WAITING) and _is_current(world, book, work):
        _let_count(world, book, task, work, TaskState.COMMITTED, now)
    jobs.undone(world, work.job, now)


def _is_current(world: World, book: Book, work: Work) -> bool:
    """Whether a work was given the results that count now."""
    gate = book.graph.gate_of[work.task]
    return not gate.missing and _inputs(world, book, gate) == work.inputs


def final(world: World, works: Iterable[Work]) -> None:
    """Their batch's window is closed: nothing of them changes any more."""
    over: dict[JobId, None] = {}
    for work in works:
        book = world.memory(Memory).books.get(work.job)
        if book is not None and work.state != WorkState.LOST:
            book.bound -= 1
            over[work.job] = None
    for job in over:
        jobs.forget_maybe(world, job)


def all_accepted(world: World, job_id: JobId) -> bool:
    """Every task is accepted or dropped, and nothing that was promised is unsettled."""
    book = world.memory(Memory).books.get(job_id)
    if book is None or book.unsettled or not book.closed:
        return False
    return book.counts[TaskState.ACCEPTED] + book.counts[TaskState.DROPPED] == len(book.units)


def all_committed(world: World, job_id: JobId) -> bool:
    """Nobody has to work for the job any more, unless something is refuted."""
    book = world.memory(Memory).books.get(job_id)
    return book is not None and sum(book.counts[state] for state in UNNEEDED) == len(book.units)


# The engine's calls


def resume(world: World, now: Now) -> None:
    """Books from the rows; whoever holds a task has a new lease on it."""
    works: defaultdict[JobId, list[Work]] = defaultdict(list)
    for work in world.rows.works.values():
        works[work.job].append(work)
    for job in sorted(world.rows.jobs.values(), key=lambda job: job.id):
        world.about = (job.id,)
        if world.rows.tasks_of.get(job.id):
            _open(world, job, sorted(works[job.id], key=_key))
    unbatched = []
    for work in world.rows.works.values():
        world.about = (work.job,)
        if work.state == WorkState.GIVEN:
            world.memory(Board).held[work.node].add((work.job, work.task))
            world.memory(Memory).older.add(_key(work))
            _lease(world, work, now)
        elif work.state == WorkState.COMMITTED and not work.batch:
            if work.decoy:
                world.memory(Memory).decoys[work.job][_key(work)] = work
            holder = world.rows.batches.get(work.decoy_batch)
            if not work.decoy or not work.decoy_batch:
                unbatched.append(work)
            elif holder is None or holder.state in DECOY_OVER:
                _release(world, work)
            else:
                _await_decoy(world, work, now)
        elif work.batch and work.state != WorkState.LOST and _is_final(world, work):
            world.memory(Memory).books[work.job].bound -= 1
    for work in sorted(unbatched, key=lambda work: (work.promised_until, _key(work))):
        _to_batch(world, work)
    for job_id in list(world.memory(Memory).books):
        jobs.check_done(world, job_id, now)


def _is_final(world: World, work: Work) -> bool:
    batch = world.rows.batches.get(work.batch)
    return batch is None or batch.state == BatchState.FINAL


def wake(world: World, subject: tuple[object, ...], now: Now) -> None:
    match subject:
        case ("lease", *key):
            memory, work = world.memory(Memory), world.rows.works.get(tuple(key))  # type: ignore[arg-type]
            until = None if work is None else memory.leases.get(_key(work))
            if work is None or until is None:
                return
            if until <= now.mono:
                _lapsed(world, work, now)
            else:
                world.wake_at(until, ("tasks", *subject))
        case ("due", *key):
            work = world.rows.works.get(tuple(key))  # type: ignore[arg-type]
            if work is not None:
                _release(world, work)
        case ("rest", node):
            scheduling.rested(world, node, None, now)  # type: ignore[arg-type]
        case ("rest", node, task):
            scheduling.rested(world, node, task, now)  # type: ignore[arg-type]
        case ("look", node):
            scheduling.look_on(world, node)  # type: ignore[arg-type]


__all__ = ["Book", "Memory", "blocked", "create", "give_out", "to_batch"]
