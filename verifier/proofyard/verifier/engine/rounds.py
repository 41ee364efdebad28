"""Jobs whose rounds do not wait for everybody: which are closed follows from the chain alone, and is asked of it again
and again while such a job has tasks. What comes of it is the graph of the job, and which tasks it does without.

A round that is closed stays so, unless the chain goes back: then what rested on another set is done again.
"""

from dataclasses import dataclass, field

from proofyard.protocol.closing import ClosedRound, dropped_tasks, rested_on, sets_of
from proofyard.protocol.types import JobId, TaskIndex
from proofyard.verifier.engine import scheduling, tasks
from proofyard.verifier.engine.effects import CloseRounds
from proofyard.verifier.engine.events import Now, RoundsClosed
from proofyard.verifier.engine.rows import Job, JobState
from proofyard.verifier.engine.world import World

LOOK_S = 3.0
"""A round may close by time alone: the chain is asked so often."""
OVER = frozenset((JobState.DONE, JobState.FAILED))


@dataclass
class Memory:
    """What begins anew with a restart."""

    known: dict[JobId, tuple[ClosedRound, ...]] = field(default_factory=dict)
    """What the chain said last of each job, as its tasks have it."""
    alarms: dict[JobId, float] = field(default_factory=dict)
    """When each is looked at next, by the monotonic clock."""
    blocks: dict[JobId, int] = field(default_factory=dict)
    """The newest block when each was looked at last for the time alone: nothing changes before the next one."""


def follow(world: World, job: Job) -> None:
    """A job has tasks to do, now or again: its rounds are looked at."""
    world.memory(Memory).known.pop(job.id, None)
    _look(world, job)


def leave(world: World, job: Job) -> None:
    """It is over."""
    memory = world.memory(Memory)
    world.done(CloseRounds(job.id).key)
    memory.known.pop(job.id, None)
    memory.alarms.pop(job.id, None)
    memory.blocks.pop(job.id, None)
    scheduling.end_trust(world, job.id)


def _look(world: World, job: Job) -> None:
    if job.workers and tasks.is_kept(world, job.id) and job.state not in OVER:
        world.want(CloseRounds(job.id))


def look(world: World, job_id: JobId) -> None:
    """Something was committed for a job."""
    job = world.rows.jobs.get(job_id)
    if job is not None:
        _look(world, job)


def look_again(world: World, job_id: JobId) -> None:
    """The chain is another one: what it is being asked is asked again."""
    world.done(CloseRounds(job_id).key)
    look(world, job_id)


def closed(world: World, event: RoundsClosed, now: Now) -> None:
    """What the chain says of a job's rounds."""
    job = world.rows.jobs.get(event.job)
    world.done(CloseRounds(event.job).key)
    if job is None or not job.workers or not tasks.is_kept(world, job.id) or job.state in OVER:
        return
    known = world.memory(Memory).known
    scheduling.entrust(world, job.id, event.voters)
    _wait(world, job.id, now)
    if known.get(job.id) == event.closed:
        return
    known[job.id] = event.closed
    count, workers = job.tasks // job.workers, job.workers
    deps: dict[TaskIndex, tuple[TaskIndex, ...]] = dict.fromkeys(map(TaskIndex, range(workers, job.tasks)), ())
    sets = sets_of(event.closed)
    for each in event.closed[: count - 1]:
        first = (each.number + 1) * workers
        own = map(TaskIndex, range(first, first + workers))
        deps.update(dict.fromkeys(own, rested_on(sets, each.number + 1, event.key_rounds)))
    tasks.rest_on(world, job.id, deps, now)
    tasks.drop(world, job.id, dropped_tasks(event.closed), closed=len(event.closed) == count, now=now)


def _wait(world: World, job: JobId, now: Now) -> None:
    at = now.mono + LOOK_S
    world.memory(Memory).alarms[job] = at
    world.wake_at(at, ("rounds", job, at))


def resume(world: World, now: Now) -> None:
    for job in world.rows.jobs.values():
        follow(world, job)


def wake(world: World, subject: tuple[object, ...], now: Now) -> None:
    memory, (job, at) = world.memory(Memory), subject
    if memory.alarms.get(job) != at:  # type: ignore[call-overload]
        return
    scheduling.miss(world, job, now)  # type: ignore[arg-type]
    if memory.blocks.get(job) == now.block:  # type: ignore[call-overload]
        _wait(world, job, now)  # type: ignore[arg-type]
        return
    memory.blocks[job] = now.block  # type: ignore[index]
    look(world, job)  # type: ignore[arg-type]
