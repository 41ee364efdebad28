"""Who gets which task: what is ready is offered to nodes with room, those that hold the fewest tasks first, then those
that lost and did the least; never more than an owner's stake backs, nor where too few other owners are here to audit.

Tasks that are alike (a job's tasks of one reward and length) wait in one queue. A queue is looked at when a task comes
into it, a node when it gets room; what found nothing is not looked at again until something about it changes. So a task
costs what it takes to take it from one heap and a node from another, however many there are of both.

A job whose tasks differ in length gives out the longest first, and to whoever has shown the most speed: so a round's
tasks end together.

Where nodes decide what a round takes, a task is its voter's, who does it unasked. Others get it once that one is gone.
"""

import heapq
from bisect import bisect_left, insort
from collections import Counter, defaultdict, deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain

from proofyard.protocol.closing import voter_of
from proofyard.protocol.offering import objection
from proofyard.protocol.types import Address, JobId, TaskIndex, Wei
from proofyard.verifier.engine import backing
from proofyard.verifier.engine.events import Now, TaskKey
from proofyard.verifier.engine.rows import HELD, Job, JobState, Task, TaskState, Work, WorkState
from proofyard.verifier.engine.world import Node, World

REST_S = 3.0
"""A node that declined a task is not offered the same one again for so long, one that was busy or away nothing."""
LACKS_S = 60.0
"""A node without a task's data is not offered the task again for so long: its operator may have added it by then."""
GONE_S = 60.0
"""A voter that is away for so long may come back, but its tasks are offered to others too."""
MAX_SCAN = 16
"""Tasks that not everybody may have are looked at so many at a time for a node that gets room."""
MAX_CACHED = 1 << 16
GIB = 1 << 30

WorkKey = tuple[JobId, TaskIndex, int]
NodeKey = tuple[int, int, int, Address]
"""(tasks held, and lost but for the first; tasks lost in jobs that run; tasks done in them; address): the least is
asked first. So who failed once does not idle beside others that hold two."""
QueueKey = tuple[JobId, int]

_COUNTS, _PROMISED, _FLIES = 1, 2, 4
_MARKS = {
    WorkState.GIVEN: _COUNTS | _FLIES,
    WorkState.COMMITTED: _COUNTS | _PROMISED | _FLIES,
    WorkState.BATCHED: _COUNTS | _PROMISED | _FLIES,
    WorkState.SETTLED: _COUNTS,
    WorkState.LOST: 0,
}


class Round:
    """Of a job that limits what is one owner's of a round, and one subnet's: how many of its tasks are whose now, by
    owner and by subnet, and its queues."""

    __slots__ = ("has", "queues")

    def __init__(self) -> None:
        self.has: Counter[str] = Counter()
        self.queues: list[Queue] = []


class Queue:
    """The ready tasks of a job, or of one round where it limits whose they are, that have one reward, in base units,
    and one number of segments and of work units; the job's first queue has those with most of these. `alone`: all tasks
    of the job are alike. `fussy`: those that not everybody may have, in turns; `plain`: all others, by index. What is
    not ready any more is dropped on the way."""

    __slots__ = (
        *("alone", "fussy", "job", "key", "place", "plain", "reward", "round", "segments", "size", "stuck", "units"),
    )

    def __init__(
        self,
        job: Job,
        number: int,
        reward: int,
        segments: int,
        units: int,
        *,
        alone: bool = True,
        round: Round | None = None,
    ) -> None:
        self.job, self.reward, self.segments, self.units, self.alone = job, reward, segments, units, alone
        self.round = round
        if round is not None:
            round.queues.append(self)
        self.key: QueueKey = (job.id, number)
        self.size = 0
        self.stuck = False
        """Every node with room was found unfit for any task of this kind."""
        self.fussy: deque[TaskIndex] = deque()
        self.plain: list[TaskIndex] = []
        self.place: dict[TaskIndex, object] = {}

    @property
    def first(self) -> TaskIndex | None:
        """One of them, to name where none can be had."""
        return next((index for index in chain(self.fussy, self.plain) if index in self.place), None)

    def put(self, index: TaskIndex, *, fussy: bool) -> None:
        where: object = self.fussy if fussy else self.plain
        if self.place.get(index) is where:
            return
        self.place[index] = where
        if fussy:
            self.fussy.append(index)
        else:
            heapq.heappush(self.plain, index)


@dataclass
class Board:
    """What the scheduler remembers; all of it follows from the rows, or begins anew with a restart."""

    exposure: Counter[Address] = field(default_factory=Counter)
    """Reward, in base units, that each owner has in flight here: given, or committed and not settled."""
    load: Counter[Address] = field(default_factory=Counter)
    losses: Counter[Address] = field(default_factory=Counter)
    marks: dict[WorkKey, int] = field(default_factory=dict)
    """As what each work is counted."""
    held: defaultdict[Address, set[TaskKey]] = field(default_factory=lambda: defaultdict(set))
    """Of nodes that are here or away: what was offered to them and not answered, or taken and not committed."""
    queues: dict[QueueKey, Queue] = field(default_factory=dict)
    rounds: dict[JobId, list[Round]] = field(default_factory=dict)
    """Of jobs that limit what is whose of a round."""
    hungry: defaultdict[str, list[QueueKey]] = field(default_factory=lambda: defaultdict(list))
    """Queues with ready tasks by workload, the oldest job first."""
    keys: dict[Address, NodeKey] = field(default_factory=dict)
    """Nodes with room, as they stand in the heaps; any other entry there is an old one."""
    heaps: defaultdict[str, list[NodeKey]] = field(default_factory=lambda: defaultdict(list))
    here: defaultdict[str, Counter[Address]] = field(default_factory=lambda: defaultdict(Counter))
    """Connected nodes by workload and owner."""
    of_owner: defaultdict[Address, set[Address]] = field(default_factory=lambda: defaultdict(set))
    resting: dict[Address, float] = field(default_factory=dict)
    rests: defaultdict[TaskKey, dict[Address, float]] = field(default_factory=lambda: defaultdict(dict))
    guilty: set[Address] = field(default_factory=set)
    """Nodes with room that get nothing because of their owner."""
    sizes: dict[JobId, int] = field(default_factory=dict)
    """Bytes of memory that the work of a job takes at least, as far as that is known."""
    absolutions: int = 0
    new_nodes: dict[Address, None] = field(default_factory=dict)
    new_queues: dict[QueueKey, None] = field(default_factory=dict)
    looking: set[Address] = field(default_factory=set)
    """Nodes that have not looked at all fussy tasks yet."""
    limits: defaultdict[str, int] = field(default_factory=lambda: defaultdict(lambda: 64))
    """From what length on old entries are taken out of a heap."""
    objections: dict[tuple[int, ...], str] = field(default_factory=dict)
    voters: dict[JobId, tuple[Address, ...]] = field(default_factory=dict)
    """Of jobs whose rounds do not wait for everybody, whose their tasks are; nobody's where it is empty. Of a job
    without an entry that is not known yet."""
    missed: dict[Address, float] = field(default_factory=dict)
    """Since when, by the monotonic clock, voters are away or may have nothing."""
    gone: set[Address] = field(default_factory=set)
    """Those of whom that has lasted."""
    unbacked: QueueKey | None = None
    """The oldest queue whose tasks this verifier's stake does not back now: those after it wait for it."""


# What changed


def count(world: World, work: Work) -> tuple[int, int]:
    """Count a work as what it is now: its owner's exposure, its node's load. Returns by how much this changes the
    number of works that are promised (committed and not settled), and of those that came to something."""
    board, key = world.memory(Board), (work.job, work.task, work.attempt)
    before, now = board.marks.get(key, 0), _MARKS[work.state]
    if before != now:
        board.marks[key] = now
        board.load[work.node] += (now & _COUNTS) - (before & _COUNTS)
        if (before ^ now) & _FLIES:
            reward = int(world.rows.tasks[work.job, work.task].reward)
            board.exposure[work.owner] += reward if now & _FLIES else -reward
            if not now & _FLIES:
                _eased(board, work.owner)
    return (now & _PROMISED) // _PROMISED - (before & _PROMISED) // _PROMISED, (now & _COUNTS) - (before & _COUNTS)


def forget(world: World, work: Work) -> None:
    """Its row is deleted, or leaves the memory."""
    board = world.memory(Board)
    mark = board.marks.pop((work.job, work.task, work.attempt), 0)
    if mark & _COUNTS:
        board.load[work.node] -= 1
    if mark & _FLIES:
        board.exposure[work.owner] -= int(world.rows.tasks[work.job, work.task].reward)
        _eased(board, work.owner)


def _eased(board: Board, owner: Address) -> None:
    """An owner has less in flight: its nodes may have what they could not."""
    if any(board.hungry.values()):
        for node in board.of_owner.get(owner, ()):
            if node in board.keys:
                board.new_nodes[node] = None


def hold(world: World, node: Address, task: TaskKey) -> None:
    board = world.memory(Board)
    board.held[node].add(task)
    board.new_nodes[node] = None


def let_go(world: World, node: Address, task: TaskKey) -> None:
    board = world.memory(Board)
    board.held[node].discard(task)
    board.new_nodes[node] = None


def lose(world: World, node: Address, losses: int = 1) -> None:
    """A node lost tasks of a job that runs; fewer than none where the job is over."""
    board = world.memory(Board)
    board.losses[node] += losses
    board.new_nodes[node] = None


def rest(world: World, node: Address, task: TaskKey | None, now: Now, seconds: float = REST_S) -> None:
    """A node is not offered a task for so long, or none at all."""
    board, until = world.memory(Board), now.mono + seconds
    if task is None:
        board.resting[node] = until
        board.new_nodes[node] = None
        world.wake_at(until, ("tasks", "rest", node))
    else:
        board.rests[task][node] = until
        world.wake_at(until, ("tasks", "rest", node, task))


def rested(world: World, node: Address, task: TaskKey | None, now: Now) -> None:
    board = world.memory(Board)
    resting = board.resting if task is None else board.rests.get(task, {})
    if resting.get(node, now.mono + 1) <= now.mono:
        del resting[node]
        board.new_nodes[node] = None
    if task is not None and not resting:
        board.rests.pop(task, None)


def ready(world: World, queue: Queue, task: Task) -> None:
    """A task is ready. One more of a kind that nobody could have a moment ago is no news."""
    board, index = world.memory(Board), TaskIndex(task.index)
    fussy = bool(task.barred) or bool(board.rests.get((task.job, index))) or bool(board.voters.get(task.job))
    queue.put(index, fussy=fussy)
    queue.size += 1
    if queue.size == 1:
        go_on(world, queue)
    elif fussy or not queue.stuck:
        board.new_queues[queue.key] = None


def not_ready(world: World, queue: Queue) -> None:
    queue.size -= 1
    if not queue.size:
        stop(world, queue)


def go_on(world: World, queue: Queue) -> None:
    """Its tasks are given out, if its job runs."""
    if queue.size and runs(queue.job):
        board = world.memory(Board)
        hungry = board.hungry[queue.job.workload_name]
        at = bisect_left(hungry, queue.key)
        if hungry[at : at + 1] != [queue.key]:
            insort(hungry, queue.key)
        board.new_queues[queue.key] = None


def stop(world: World, queue: Queue) -> None:
    hungry = world.memory(Board).hungry[queue.job.workload_name]
    at = bisect_left(hungry, queue.key)
    if hungry[at : at + 1] == [queue.key]:
        del hungry[at]


def has(world: World, work: Work, *, no_more: bool = False) -> None:
    """A work is the one that counts for its task, or is so no more: who had it may have another one of that round, and
    so may others of its owner and in its subnet."""
    board = world.memory(Board)
    if rounds := board.rounds.get(work.job):
        round = rounds[work.task // world.rows.jobs[work.job].round_tasks]
        for whose in filter(None, (work.owner, work.subnet)):
            round.has[whose] += -1 if no_more else 1
            if not round.has[whose]:
                del round.has[whose]
        if no_more:
            board.new_queues.update(dict.fromkeys(queue.key for queue in round.queues))


def runs(job: Job) -> bool:
    """Whether its tasks are given out: also while it is being taken."""
    return job.state in (JobState.TAKING, JobState.RUNNING) and not job.gone


# Voters


def entrust(world: World, job: JobId, voters: tuple[Address, ...]) -> None:
    """Whose the tasks of a job are; nobody's where there are no voters."""
    board = world.memory(Board)
    if board.voters.get(job) != voters:
        board.voters[job] = voters
        board.new_queues.update(dict.fromkeys(key for key in board.queues if key[0] == job))


def miss(world: World, job: JobId, now: Now) -> None:
    """Look which voters of a job are here."""
    board = world.memory(Board)
    for voter in board.voters.get(job, ()):
        node = world.nodes.get(voter)
        if node is not None and node.owner not in world.rows.guilty:
            board.missed.pop(voter, None)
            board.gone.discard(voter)
        elif now.mono - board.missed.setdefault(voter, now.mono) >= GONE_S:
            board.gone.add(voter)
    if not board.gone.isdisjoint(board.voters.get(job, ())):
        board.new_queues.update(dict.fromkeys(key for key in board.queues if key[0] == job))


def end_trust(world: World, job: JobId) -> None:
    """A job is over."""
    board = world.memory(Board)
    ended = set(board.voters.pop(job, ()))
    for voter in ended.difference(*board.voters.values()):
        board.missed.pop(voter, None)
        board.gone.discard(voter)


def _is_anothers(board: Board, job: Job, task: Task, node: Address) -> bool:
    voters = board.voters.get(job.id)
    if not voters:
        return False
    voter = voter_of(job.workers, voters, TaskIndex(task.index))
    return node != voter and voter not in board.gone and voter not in task.barred


# Nodes


def arrive(world: World, node: Node) -> None:
    """A node is here, or is another one than it was (see `depart`)."""
    board = world.memory(Board)
    board.of_owner[node.owner].add(node.node)
    board.new_nodes[node.node] = None
    for workload in node.workloads:
        board.here[workload][node.owner] += 1
        if board.here[workload][node.owner] == 1:
            # One more owner is there to audit.
            board.new_queues.update(dict.fromkeys(board.hungry.get(workload, ())))


def depart(world: World, node: Node) -> None:
    board = world.memory(Board)
    board.of_owner[node.owner].discard(node.node)
    if not board.of_owner[node.owner]:
        del board.of_owner[node.owner]
    board.keys.pop(node.node, None)
    board.guilty.discard(node.node)
    for workload in node.workloads:
        owners = board.here[workload]
        owners[node.owner] -= 1
        if not owners[node.owner]:
            del owners[node.owner]
        if not owners:
            del board.here[workload]
            board.heaps.pop(workload, None)


def size(world: World, job: JobId, memory_bytes: int) -> None:
    """What the work of a job takes is known, or is another."""
    board = world.memory(Board)
    if board.sizes.get(job, 0) != memory_bytes:
        board.sizes[job] = memory_bytes
        board.new_queues.update(dict.fromkeys(key for key in board.queues if key[0] == job))


def look_at_all(world: World) -> None:
    """Something changed for every owner."""
    board = world.memory(Board)
    board.new_nodes.update(dict.fromkeys(board.keys))


def _place(world: World, board: Board, address: Address) -> bool:
    """Put a node where those with room wait, or take it out; whether it has room."""
    node = world.nodes.get(address)
    guilty = node is not None and node.owner in world.rows.guilty
    if node is None or guilty or address in board.resting or len(node.holds) >= node.tasks:
        board.keys.pop(address, None)
        if guilty:
            board.guilty.add(address)
        return False
    losses = board.losses[address]
    key = (len(node.holds) + max(0, losses - 1), losses, board.load[address], address)
    if board.keys.get(address) != key:
        board.keys[address] = key
        for workload in node.workloads:
            _push(board, workload, key)
    return True


def _push(board: Board, workload: str, key: NodeKey) -> None:
    heap = board.heaps[workload]
    heapq.heappush(heap, key)
    if len(heap) > board.limits[workload]:
        heap[:] = sorted({entry for entry in heap if board.keys.get(entry[3]) == entry})
        board.limits[workload] = 64 + 2 * len(heap)


def standing(world: World, node: Address) -> str:
    """How a node stands among those with room, in words: what decides who is asked first."""
    board = world.memory(Board)
    key = board.keys.get(node)
    if key is None:
        return ""
    held = key[0] - max(0, key[1] - 1)
    return f"it lost {key[1]} tasks, held {held} and did {key[2]}; {len(board.keys)} nodes had room"


# Matching


def matches(world: World, now: Now) -> Iterator[tuple[Node, Queue, TaskIndex]]:
    """Pairs of a node with room and a task for it. The caller gives the task (`hold`, `not_ready`) before it asks for
    the next."""
    board = world.memory(Board)
    if board.absolutions != world.rows.absolutions:
        board.absolutions = world.rows.absolutions
        board.new_nodes.update(dict.fromkeys(board.guilty))
        board.guilty.clear()
    if backing.eased(world):
        board.unbacked = None
        for hungry in board.hungry.values():
            board.new_queues.update(dict.fromkeys(hungry))
    nodes, queues = list(board.new_nodes), sorted(board.new_queues)
    board.new_nodes.clear()
    board.new_queues.clear()
    nodes = [node for node in nodes if _place(world, board, node)]
    for key in queues:
        queue = board.queues.get(key)
        if queue is not None and queue.size and runs(queue.job):
            yield from _fill(world, board, queue, now)
    free = [board.keys[node] for node in nodes if node in board.keys]
    heapq.heapify(free)
    while free and any(board.hungry.values()):
        address = heapq.heappop(free)[3]
        found = _first(world, board, world.nodes[address], now)
        if found is not None:
            yield (world.nodes[address], *found)
            if _place(world, board, address):
                heapq.heappush(free, board.keys[address])
    for node in nodes:
        board.new_nodes.pop(node, None)


def _fill(world: World, board: Board, queue: Queue, now: Now) -> Iterator[tuple[Node, Queue, TaskIndex]]:
    """Give a queue's tasks to whoever has room, in order."""
    aside: list[NodeKey] = []
    waits, stuck = "", True
    world.about = (queue.job.id,)
    heap = board.heaps.get(queue.job.workload_name, [])
    unbacked = ""
    if heap:
        unbacked = _unbacked(world, board, queue)
    with closing(_in_turn(heap) if queue.alone else _by_speed(world, board, heap)) as keys:
        for key in () if unbacked else keys:
            address = key[3]
            if board.keys.get(address) != key:
                continue
            if not queue.size or (unbacked := _unbacked(world, board, queue)):
                aside.append(key)
                break
            node = world.nodes[address]
            if node.owner in world.rows.guilty:
                _place(world, board, address)
                continue
            why_not = _objection(world, board, node, queue) or _too_much(board, node, queue)
            index = None if why_not else _pick(world, board, queue, address, now)
            if index is None:
                aside.append(key)
                waits = why_not or waits
                stuck = stuck and bool(why_not)
                continue
            yield node, queue, index
            _place(world, board, address)
            board.new_nodes.pop(address, None)
    for key in aside:
        if board.keys.get(key[3]) == key:
            heapq.heappush(heap, key)
    queue.stuck = stuck
    if queue.size:
        _tell(world, board, queue, unbacked or waits)


def _in_turn(heap: list[NodeKey]) -> Generator[NodeKey]:
    while heap:
        yield heapq.heappop(heap)


def _by_speed(world: World, board: Board, heap: list[NodeKey]) -> Generator[NodeKey]:
    """Where tasks differ in length, and the longest are given out first: of those that hold the fewest the one that has
    shown the most speed first. Who has room for one more is asked again after all others."""
    while heap:
        keys = {key: world.nodes[key[3]].speed for key in heap if board.keys.get(key[3]) == key}
        heap.clear()
        ordered = deque(sorted(keys, key=lambda key: (key[0], -keys[key], key)))
        try:
            while ordered:
                yield ordered.popleft()
        finally:
            for key in ordered:
                heapq.heappush(heap, key)


def _unbacked(world: World, board: Board, queue: Queue) -> str:
    """Why this verifier's stake does not allow it to give out another task of a queue, empty if it does."""
    first = board.queues.get(board.unbacked) if board.unbacked is not None else None
    if first is not None and first.key < queue.key and first.size and runs(first.job):
        return f"job {first.job.id} waits first: this verifier's stake backs no more for now"
    why = backing.for_task(world, backing.budget(world, queue.job, queue.units))
    if why:
        board.unbacked = queue.key
    return why


def _first(world: World, board: Board, node: Node, now: Now) -> tuple[Queue, TaskIndex] | None:
    """The first task that a node may have."""
    if node.owner in world.rows.guilty:
        _place(world, board, node.node)
        return None
    lists = [hungry for workload in node.workloads if (hungry := board.hungry.get(workload))]
    for key in lists[0] if len(lists) == 1 else heapq.merge(*lists):
        queue = board.queues[key]
        world.about = (queue.job.id,)
        if not _unbacked(world, board, queue) and not _objection(world, board, node, queue):
            if why := _too_much(board, node, queue):
                _tell(world, board, queue, why)
                continue
            index = _pick(world, board, queue, node.node, now)
            if index is not None:
                return queue, index
            queue.stuck = False
    return None


def _pick(world: World, board: Board, queue: Queue, node: Address, now: Now) -> TaskIndex | None:
    """Take a task that a node may have out of a queue."""
    tasks, job = world.rows.tasks, queue.job.id
    if queue.job.workers and job not in board.voters:
        return None
    for _ in range(min(len(queue.fussy), MAX_SCAN)):
        index = queue.fussy.popleft()
        task = tasks[job, index]
        if queue.place.get(index) is not queue.fussy:
            continue
        if task.state != TaskState.READY:
            del queue.place[index]
        elif _is_barred(world, board, queue.job, task, node):
            queue.fussy.append(index)
        else:
            del queue.place[index]
            return index
    while queue.plain:
        index = heapq.heappop(queue.plain)
        if queue.place.get(index) is queue.plain:
            del queue.place[index]
            task = tasks[job, index]
            if task.state == TaskState.READY:
                if not _is_barred(world, board, queue.job, task, node):
                    return index
                queue.put(index, fussy=True)
    if len(queue.fussy) > MAX_SCAN and node not in board.looking:
        # Not all were looked at for this node: the others later.
        board.looking.add(node)
        world.wake_at(now.mono + REST_S, ("tasks", "look", node))
    return None


def look_on(world: World, node: Address) -> None:
    board = world.memory(Board)
    board.looking.discard(node)
    board.new_nodes[node] = None


def _is_barred(world: World, board: Board, job: Job, task: Task, address: Address) -> bool:
    node = world.nodes[address]
    return (
        address in task.barred
        or address in board.rests.get((task.job, task.index), ())
        or _is_anothers(board, job, task, address)
        or (bool(board.voters.get(job.id)) and bool(too_much(world, job, task.index, node)))
    )


def _too_much(board: Board, node: Node, queue: Queue) -> str:
    """Why a node may have no task of a queue, for what is its owner's and its subnet's of the round; empty if it may.
    Where nodes decide that is another thing for each task."""
    if queue.round is None or board.voters.get(queue.job.id):
        return ""
    return queue.job.caps.objection(queue.round.has[node.owner], node.subnet, queue.round.has[node.subnet])


def too_much(world: World, job: Job, index: int, node: Node) -> str:
    """Why a node may not have a task, for what is its owner's and its subnet's of its round; empty if it may. Where
    nodes decide, a voter may always have what is its own: nobody else may. So who takes over what is another's leaves
    room for what its owner's voters, and those in its subnet, still have to do of the round."""
    board = world.memory(Board)
    rounds = board.rounds.get(job.id)
    if not rounds:
        return ""
    number, voters = index // job.round_tasks, board.voters.get(job.id, ())
    has = Counter({whose: rounds[number].has[whose] for whose in (node.owner, node.subnet)})
    if voters:
        if voter_of(job.workers, voters, TaskIndex(index)) == node.node:
            return ""
        has.update(_to_come(world, job, number, voters, node))
    return job.caps.objection(has[node.owner], node.subnet, has[node.subnet])


def _to_come(world: World, job: Job, number: int, voters: tuple[Address, ...], node: Node) -> Counter[str]:
    """What voters of a node's owner, and in its subnet, have not begun of a round."""
    near = [world.nodes[voter] for voter in set(voters) if voter in world.nodes]
    near = [voter for voter in near if voter.owner == node.owner or voter.subnet == node.subnet]
    found: Counter[str] = Counter()
    if near:
        first = number * job.round_tasks
        for index in range(first, min(first + job.round_tasks, job.tasks)):
            task = world.rows.tasks[job.id, TaskIndex(index)]
            mine = voter_of(job.workers, voters, TaskIndex(index))
            if task.state in HELD or task.state == TaskState.DROPPED or mine in task.barred:
                continue
            found.update(whose for voter in near if voter.node == mine for whose in (voter.owner, voter.subnet))
    return found


def _tell(world: World, board: Board, queue: Queue, why: str) -> None:
    """Say in the job what its tasks wait for, where it is not merely that all nodes are at work."""
    workload = queue.job.workload_name
    if not board.here.get(workload):
        why = f"no node that executes {workload} is connected"
    if why:
        text = f"task {queue.first} waits: {why}"
        if queue.job.reason != text:
            queue.job.reason = text
            world.rows.touch(queue.job)


# The stake


def too_large(memory_bytes: int, least_bytes: int) -> str:
    """Why a node whose work may take so much memory is not offered what takes so much at least; empty if it may be."""
    if least_bytes <= memory_bytes:
        return ""
    return (
        f"its model takes at least {least_bytes / GIB:.1f} GiB of memory, more than the {memory_bytes / GIB:.1f} GiB "
        "that a free node has shown"
    )


def _objection(world: World, board: Board, node: Node, queue: Queue) -> str:
    if why := too_large(node.memory_bytes, board.sizes.get(queue.job.id, 0)):
        return why
    owners, job = board.here[queue.job.workload_name], queue.job
    others = len(owners) - (node.owner in owners) - (job.requester in owners and job.requester != node.owner)
    in_flight = board.exposure[node.owner] + world.elsewhere.get(node.owner, 0)
    key = (
        node.stake,
        in_flight,
        queue.reward,
        queue.segments,
        others,
        job.segments_per_audit,
        job.auditors_per_segment,
    )
    found = board.objections.get(key)
    if found is None:
        if len(board.objections) >= MAX_CACHED:
            board.objections.clear()
        found = board.objections[key] = objection(
            Wei(node.stake),
            Wei(queue.reward),
            Wei(in_flight),
            segments=queue.segments,
            segments_per_audit=job.segments_per_audit,
            auditors_per_segment=job.auditors_per_segment,
            others=others,
            collusion_bps=world.rules.collusion_bps,
            given_back_bps=world.rules.given_back_bps,
        )
    return found


__all__ = ["Board", "Queue", "matches", "objection"]
