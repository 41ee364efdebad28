"""A job from its event on chain to its result: taken up, carried, packed. What one of them cannot do holds up
no other.

A job is its number, its manifest and the block it was opened in. Where a reorganisation takes the block away, the job
stands still until the chain tells of it again; where the number comes back as another job, nothing of the old one is
left.
"""

import heapq
from dataclasses import dataclass, field

from proofyard.chain.events import JobOpened
from proofyard.protocol.cid import make_cid
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.types import Cid, JobId
from proofyard.verifier.engine import backing, rounds, tasks
from proofyard.verifier.engine.effects import Expand, Pack, ReadJob, TakeJob
from proofyard.verifier.engine.events import (
    EffectFailed,
    Expanded,
    JobBroken,
    JobFreed,
    JobRead,
    Now,
    Packed,
    Published,
)
from proofyard.verifier.engine.rows import Job, JobState
from proofyard.verifier.engine.world import World

CLOSED = "it was closed before it was done"
TAKEN_OVER = "another verifier has taken it over"
TAKEN_ELSEWHERE = "another verifier schedules it"
DONE_ELSEWHERE = "another verifier has carried it to its end"
DEADLINE = "the deadline has passed"
GONE = "the block it was opened in is gone; it goes on once the chain has it again"
GONE_POLL_S = 5.0
FORGET_S = 3600.0
"""A job that is over stays in memory so long at least: a reorganisation may bring it back."""

MAX_REASON = 500
WAITED_FOR = ("Expand", "TakeJob", "Pack")

OVER = frozenset((JobState.DONE, JobState.FAILED))
UNTAKEN = frozenset((JobState.WAITING, JobState.TAKING))


@dataclass
class Memory:
    """What begins anew with a restart."""

    graphs: dict[JobId, Expanded] = field(default_factory=dict)
    """Task graphs of jobs that wait to be taken."""
    waiting: dict[Cid, dict[JobId, None]] = field(default_factory=dict)
    """Jobs by the manifest that they wait for."""
    taking: set[JobId] = field(default_factory=set)
    """Jobs whose tasks are given out while they are being taken."""
    young: dict[JobId, int] = field(default_factory=dict)
    """Jobs for which nothing is promised before a block, and that block."""
    deadlines: list[tuple[int, JobId]] = field(default_factory=list)
    unbacked: dict[JobId, int] = field(default_factory=dict)
    """Jobs that this verifier's stake does not back now, in their order, and the largest budget of a task of each."""
    late: set[JobId] = field(default_factory=set)
    """Past their deadline with nothing left to do: only their verdicts are waited for."""


# The chain


def opened(world: World, news: JobOpened, now: Now) -> bool:
    """A job is on chain. The same event may be told again, for the same block or after a reorganisation for another.
    Returns whether the number was another job's before."""
    fresh = Job(
        id=news.job,
        manifest=make_cid(news.manifest),
        requester=news.requester,
        opened_block=news.position.block,
        opened_hash=news.position.block_hash,
        units=news.units,
        reward=str(news.reward),
        audit_fee=str(news.audit_fee),
        verifier_fee=str(news.verifier_fee),
        auditors_per_segment=news.auditors_per_segment,
        segments_per_audit=news.segments_per_audit,
        deadline=news.deadline,
        workload=news.workload,
        claimed_by=world.rules.process,
    )
    job = world.rows.jobs.get(news.job)
    if job is None:
        world.rows.add(fresh)
        _await(world, fresh, now)
    elif _terms(job) == _terms(fresh):
        if (job.opened_block, job.opened_hash) != (fresh.opened_block, fresh.opened_hash):
            job.opened_block, job.opened_hash = fresh.opened_block, fresh.opened_hash
            world.rows.touch(job)
            # What was told of it in blocks after the old one may not have happened.
            world.want(ReadJob(job.id))
        _come_back(world, job)
    else:
        _replace(world, job, fresh, now)
        return True
    return False


def _terms(job: Job) -> tuple[object, ...]:
    """What the opener signed for: the same number with other terms is another job."""
    return (
        *(job.manifest, job.requester, job.units, job.reward, job.audit_fee, job.verifier_fee),
        *(job.auditors_per_segment, job.segments_per_audit, job.deadline, job.workload),
    )


def _replace(world: World, job: Job, fresh: Job, now: Now) -> None:
    """After a reorganisation the number is another job's."""
    _drop_effects(world, job)
    tasks.delete(world, job.id, "the job is over")
    backing.forget_job(world, job.id)
    for name in Job.__struct_fields__:
        setattr(job, name, getattr(fresh, name))
    world.rows.touch(job)
    world.log(job.id, now, "replaced", "after a reorganisation of the chain this number is another job's")
    _await(world, job, now)


def _await(world: World, job: Job, now: Now) -> None:
    """Have its manifest read."""
    memory = world.memory(Memory)
    _watch_deadline(world, job, now)
    memory.waiting.setdefault(job.manifest, {})[job.id] = None
    world.want(Expand(job.id, job.manifest))


def _awaited(world: World, job: Job) -> None:
    memory = world.memory(Memory)
    world.done(Expand(job.id, job.manifest).key)
    memory.waiting.get(job.manifest, {}).pop(job.id, None)
    if not memory.waiting.get(job.manifest, True):
        del memory.waiting[job.manifest]


def taken(world: World, job_id: JobId, block: int, now: Now, *, own: bool) -> None:
    """A verifier schedules it from now on, this one (`own`) or another."""
    job = world.rows.jobs.get(job_id)
    if job is None:
        return
    world.done(TakeJob(job.id).key)
    job.elsewhere, job.taken_block = not own, block if own else 0
    world.rows.touch(job)
    if not own:
        if job.state in UNTAKEN:
            _awaited(world, job)
            world.memory(Memory).graphs.pop(job.id, None)
            world.memory(Memory).taking.discard(job.id)
            tasks.delete(world, job.id, TAKEN_ELSEWHERE)
            job.state, job.reason = JobState.WAITING, TAKEN_ELSEWHERE
        elif job.state == JobState.RUNNING:
            fail(world, job.id, TAKEN_OVER, now)
    elif job.state in UNTAKEN:
        job.reason = ""
        if tasks.is_kept(world, job.id) or job.id in world.memory(Memory).graphs:
            _begin(world, job, now)
            _run(world, job, now)
        else:
            _await(world, job, now)
    elif (job.state, job.reason) == (JobState.FAILED, TAKEN_OVER):
        _revive(world, job, now)


def freed(world: World, event: JobFreed, now: Now) -> None:
    """Its verifier was silent for so long that anybody may take it."""
    job = world.rows.jobs.get(event.job)
    if job is None or not job.elsewhere or job.deadline < now.chain or job.closed_at:
        return
    job.elsewhere = False
    world.rows.touch(job)
    if (job.state, job.reason) == (JobState.FAILED, TAKEN_OVER):
        _revive(world, job, now)
        world.want(TakeJob(job.id))
    elif job.state == JobState.WAITING:
        job.reason = ""
        _await(world, job, now)


def closed(world: World, job_id: JobId, at: int, now: Now) -> None:
    """It is closed at a time of the chain's clock: no more work is given out. What was promised is still committed."""
    job = world.rows.jobs.get(job_id)
    if job is None:
        return
    job.closed_at = at
    world.rows.touch(job)
    if job.state in UNTAKEN or (job.state == JobState.RUNNING and job.units_paid < job.units):
        fail(world, job.id, CLOSED, now)


def topped_up(world: World, job_id: JobId, now: Now) -> None:
    if job_id in world.rows.jobs:
        world.log(job_id, now, "funded", "its requester has added to its escrow")


def units_moved(world: World, job_id: JobId, now: Now, *, opened: int, paid: int) -> None:
    """A batch with a line of it was committed, settled or dropped."""
    job = world.rows.jobs.get(job_id)
    if job is not None:
        job.units_open += opened
        job.units_paid += paid
        world.rows.touch(job)
        if job.elsewhere and job.state in UNTAKEN and job.units_paid >= job.units:
            fail(world, job.id, DONE_ELSEWHERE, now)


def commits_end(world: World, job: Job) -> int:
    """Until when batches of it can be committed, in Unix seconds of the chain's clock."""
    end = min(job.closed_at, job.deadline) if job.closed_at else job.deadline
    return end + world.rules.receipt_time


def vanished(world: World, job: Job, now: Now) -> None:
    """The chain does not have it now. It may come back in a later block, or its number as another job's: until then
    nobody is given its tasks, and who works on them goes on."""
    if job.state in OVER:
        return
    if not job.gone:
        job.gone, job.reason = True, GONE
        world.rows.touch(job)
        world.log(job.id, now, "gone", GONE)
        tasks.pause(world, job.id)
    world.wake_at(now.mono + GONE_POLL_S, ("jobs", "gone", job.id))


def _come_back(world: World, job: Job) -> None:
    if job.gone:
        job.gone, job.reason = False, ""
        world.rows.touch(job)
        tasks.go_on(world, job.id)


def standing(world: World, job: Job, read: JobRead, now: Now) -> None:
    """What the chain says of it after a reorganisation: back to that."""
    _come_back(world, job)
    if read.closed_at and not job.closed_at:
        closed(world, job.id, read.closed_at, now)
    elif job.closed_at and not read.closed_at:
        job.closed_at = 0
        if (job.state, job.reason) == (JobState.FAILED, CLOSED):
            _revive(world, job, now)
    if read.verifier == world.rules.own:
        if not job.taken_block:
            taken(world, job.id, now.block, now, own=True)
    elif read.verifier:
        if not job.elsewhere:
            taken(world, job.id, now.block, now, own=False)
    elif job.taken_block or job.elsewhere:
        _untaken(world, job, now)


def _untaken(world: World, job: Job, now: Now) -> None:
    """It is nobody's on chain: this verifier takes it again."""
    job.taken_block, job.elsewhere = 0, False
    world.rows.touch(job)
    if (job.state, job.reason) == (JobState.FAILED, TAKEN_OVER):
        _revive(world, job, now)
    if job.state == JobState.WAITING:
        job.reason = ""
        _await(world, job, now)
    elif job.state not in OVER:
        world.want(TakeJob(job.id))


def _revive(world: World, job: Job, now: Now) -> None:
    """Why it failed has not happened."""
    has_tasks = bool(world.rows.tasks_of.get(job.id))
    job.state, job.reason = JobState.RUNNING if has_tasks else JobState.WAITING, ""
    world.rows.touch(job)
    world.log(job.id, now, "revived", "it goes on: the chain has changed")
    _watch_deadline(world, job, now)
    if has_tasks:
        if not job.taken_block and not job.elsewhere:
            world.want(TakeJob(job.id))
        tasks.go_on(world, job.id)
        rounds.follow(world, job)
        check_done(world, job.id, now)
    else:
        _await(world, job, now)


# Taking up


def published(world: World, event: Published, now: Now) -> None:
    """The manifest that jobs waited for may be here: no need to wait for the next try."""
    for job in world.memory(Memory).waiting.get(event.cid, ()):
        world.retry(Expand(job, event.cid).key)


def expanded(world: World, event: Expanded, now: Now) -> None:
    """A manifest was read; it must make what the job was opened with."""
    job = world.rows.jobs.get(event.job)
    if job is None or job.manifest != event.manifest:
        return
    _awaited(world, job)
    if job.state not in UNTAKEN or job.elsewhere:
        return
    largest = backing.budget(world, job, max((spec.work_units for spec in event.specs), default=0))
    reason = _unfit(job, event.specs) or backing.too_large(world, largest)
    if reason:
        fail(world, job.id, reason, now)
        return
    job.workload_name, job.exact, job.look_ahead = event.workload, event.exact, max(0, event.look_ahead)
    job.tasks, job.workers, job.state, job.reason = len(event.specs), event.workers, JobState.TAKING, ""
    if event.caps is not None:
        job.round_tasks, job.owner_cap, job.subnet_cap = event.round_tasks, event.caps.owner, event.caps.subnet
    world.rows.touch(job)
    world.memory(Memory).graphs[job.id] = event
    if job.taken_block:
        _begin(world, job, now)
        _run(world, job, now)
    else:
        world.memory(Memory).unbacked[job.id] = largest
        backed(world, now)


def backed(world: World, now: Now) -> None:
    """Take jobs while the stake backs a task of each, in their order; the others say what they wait for. Nobody waits
    for the block that takes a job: its tasks are given out meanwhile, and receipts are signed once it is taken."""
    waiting = world.memory(Memory).unbacked
    for job_id, largest in list(waiting.items()):
        job = world.rows.jobs.get(job_id)
        if job is None or job.state != JobState.TAKING or job.taken_block:
            del waiting[job_id]
            continue
        why = backing.for_batch(world, largest)
        if why:
            say(world, job, f"it is taken once there is room for it: {why}", now)
            return
        del waiting[job_id]
        job.reason = ""
        world.rows.touch(job)
        world.want(TakeJob(job_id))
        world.memory(Memory).taking.add(job_id)
        _begin(world, job, now)


def cannot_commit_yet(world: World, now: Now) -> bool:
    """Whether there are jobs that can commit to nothing yet, but soon: they are being taken, or were in one of the last
    blocks."""
    memory = world.memory(Memory)
    return bool(memory.taking) or any(now.block < block for block in memory.young.values())


def say(world: World, job: Job, reason: str, now: Now) -> None:
    if job.reason != reason:
        job.reason = reason
        world.rows.touch(job)
        world.log(job.id, now, "waits", reason)


def say_nothing(world: World, job_id: JobId) -> None:
    """What a job waited for is over."""
    job = world.rows.jobs[job_id]
    job.reason = ""
    world.rows.touch(job)


def _unfit(job: Job, specs: tuple[TaskSpec, ...]) -> str:
    """Why a task graph is not that of a job, or none at all; empty if it is."""
    units = sum(spec.work_units for spec in specs)
    if units != job.units:
        return f"the manifest makes {units} work units, the job was opened with {job.units}"
    if not specs:
        return "the manifest makes no task"
    for index, spec in enumerate(specs):
        if spec.index != index or any(not 0 <= dep < index for dep in spec.deps):
            return f"task {index} of its graph is out of order"
        if spec.segments < 1 or job.segments_per_audit < 1 or job.auditors_per_segment < 1:
            return f"task {index} cannot be audited: it has {spec.segments} segments"
    return ""


def _begin(world: World, job: Job, now: Now) -> None:
    """Its tasks can be given out."""
    graph = world.memory(Memory).graphs.pop(job.id, None)
    if graph is not None and not tasks.is_kept(world, job.id):
        tasks.create(world, job, graph, now)
        rounds.follow(world, job)


def _run(world: World, job: Job, now: Now) -> None:
    """It is this verifier's on chain, with its tasks; what these wait for is said anew."""
    memory = world.memory(Memory)
    job.state = JobState.RUNNING
    world.rows.touch(job)
    memory.taking.discard(job.id)
    memory.young = {young: block for young, block in memory.young.items() if now.block < block}
    memory.young[job.id] = job.taken_block + world.rules.receipt_blocks
    tasks.go_on(world, job.id)
    check_done(world, job.id, now)


# The end


def fail(world: World, job_id: JobId, reason: str, now: Now) -> None:
    """It ends without a result. What is committed is settled and paid all the same."""
    job = world.rows.jobs.get(job_id)
    if job is None or job.state in OVER:
        return
    _drop_effects(world, job)
    job.state, job.reason = JobState.FAILED, reason
    world.rows.touch(job)
    world.log(job.id, now, "failed", reason)
    tasks.give_up(world, job.id, f"the job has failed: {reason}")
    world.wake_at(now.mono + FORGET_S, ("jobs", "forget", job.id))


def _drop_effects(world: World, job: Job) -> None:
    _awaited(world, job)
    world.memory(Memory).graphs.pop(job.id, None)
    world.memory(Memory).unbacked.pop(job.id, None)
    world.memory(Memory).taking.discard(job.id)
    world.memory(Memory).young.pop(job.id, None)
    for effect in (TakeJob(job.id), Pack(job.id)):
        world.done(effect.key)
    rounds.leave(world, job)


def broken(world: World, event: JobBroken, now: Now) -> None:
    """It is stopped, whatever it was at, and no other. What is committed is settled as far as that can be."""
    fail(world, event.job, event.reason, now)


def check_done(world: World, job_id: JobId, now: Now) -> None:
    """Every task is accepted and every batch with work for it is settled: its result can be packed."""
    job = world.rows.jobs.get(job_id)
    if job is not None and job.state == JobState.RUNNING and tasks.all_accepted(world, job_id):
        job.state = JobState.PACKING
        world.rows.touch(job)
        world.want(Pack(job.id))


def undone(world: World, job_id: JobId, now: Now) -> None:
    """A settlement that it rested on has not happened: it is not done yet."""
    job = world.rows.jobs.get(job_id)
    if job is not None and job.state in (JobState.PACKING, JobState.DONE):
        world.done(Pack(job.id).key)
        job.state = JobState.RUNNING
        world.rows.touch(job)
        _watch_deadline(world, job, now)
        tasks.go_on(world, job.id)
        rounds.follow(world, job)


def packed(world: World, event: Packed, now: Now) -> None:
    job = world.rows.jobs.get(event.job)
    world.done(Pack(event.job).key)
    if job is None or job.state != JobState.PACKING:
        return
    rounds.leave(world, job)
    job.state, job.result, job.reason = JobState.DONE, event.result, ""
    world.rows.touch(job)
    world.log(job.id, now, "done", f"result {event.result}")
    world.wake_at(now.mono + FORGET_S, ("jobs", "forget", job.id))


def forget_maybe(world: World, job_id: JobId) -> None:
    """Let the tasks of a job that is over leave the memory, once nothing can change them."""
    job = world.rows.jobs.get(job_id)
    if job is not None and job.state in OVER:
        tasks.forget(world, job_id)


def _forget(world: World, job: Job, now: Now) -> None:
    """A job that is over leaves the memory, in the end; what is owed for it is looked after first."""
    if job.state not in OVER:
        return
    forget_maybe(world, job.id)
    # Units of what was dropped are never paid.
    unpaid = job.state == JobState.DONE and job.units_paid < job.units and not job.workers
    if tasks.is_kept(world, job.id) or unpaid:
        world.wake_at(now.mono + FORGET_S, ("jobs", "forget", job.id))
    else:
        world.forget(job.id)


# Deadlines


def _watch_deadline(world: World, job: Job, now: Now) -> None:
    memory = world.memory(Memory)
    memory.late.discard(job.id)
    heapq.heappush(memory.deadlines, (job.deadline, job.id))
    world.wake_at(now.mono + max(1.0, job.deadline + 1 - now.chain), ("jobs", "deadline", job.id))


def mind_deadline(world: World, job: Job) -> None:
    """There is something left to do for a job: if its deadline has passed it ends now."""
    memory = world.memory(Memory)
    if job.id in memory.late:
        memory.late.discard(job.id)
        heapq.heappush(memory.deadlines, (job.deadline, job.id))


def expire(world: World, now: Now) -> None:
    """A job past its deadline takes no more work; the requester can have the rest of the escrow back. Where all is
    done, the verdicts are waited for."""
    memory = world.memory(Memory)
    while memory.deadlines and memory.deadlines[0][0] < now.chain:
        deadline, job_id = heapq.heappop(memory.deadlines)
        world.about = (job_id,)
        job = world.rows.jobs.get(job_id)
        if job is None or job.deadline != deadline:
            continue
        if job.state in UNTAKEN:
            why = f"{DEADLINE} before the job began; is the manifest {job.manifest} published?"
            fail(world, job_id, DEADLINE if job.elsewhere else why, now)
        elif job.state == JobState.RUNNING:
            if tasks.all_committed(world, job_id):
                memory.late.add(job_id)
            else:
                fail(world, job_id, DEADLINE, now)


# The engine's calls


def resume(world: World, now: Now) -> None:
    """What is due, and what the chain says of each job that a reorganisation may have changed meanwhile."""
    for job in list(world.rows.jobs.values()):
        world.about = (job.id,)
        if job.state not in OVER:
            _watch_deadline(world, job, now)
            if job.gone:
                world.wake_at(now.mono, ("jobs", "gone", job.id))
        match job.state:
            case JobState.WAITING | JobState.TAKING if not job.elsewhere:
                _await(world, job, now)
                if world.rows.tasks_of.get(job.id):
                    world.memory(Memory).taking.add(job.id)
            case JobState.RUNNING if not job.taken_block:
                world.want(TakeJob(job.id))
            case JobState.PACKING:
                world.want(Pack(job.id))
        if job.state not in OVER or job.reason in (CLOSED, TAKEN_OVER) or job.state == JobState.DONE:
            world.want(ReadJob(job.id))
        if job.state in OVER:
            world.wake_at(now.mono + FORGET_S, ("jobs", "forget", job.id))


def wake(world: World, subject: tuple[object, ...], now: Now) -> None:
    job = world.rows.jobs.get(subject[1])  # type: ignore[call-overload]
    if job is None:
        return
    match subject[0]:
        case "gone" if job.gone and job.state not in OVER:
            world.want(ReadJob(job.id))
        case "forget":
            _forget(world, job, now)
        case "deadline" if job.state not in OVER and job.id not in world.memory(Memory).late:
            # `expire` looks at it in every step; the chain's clock may be behind.
            world.wake_at(now.mono + max(1.0, job.deadline + 1 - now.chain), ("jobs", *subject))


def delayed(world: World, event: EffectFailed) -> None:
    """What a job waits for is tried again later: say why."""
    name, *subject = event.key
    job = world.rows.jobs.get(subject[0]) if subject and name in WAITED_FOR else None  # type: ignore[call-overload]
    if job is not None and world.wanted(event.key) and job.reason != event.reason[:MAX_REASON]:
        job.reason = event.reason[:MAX_REASON]
        world.rows.touch(job)


def effect_failed(world: World, event: EffectFailed, now: Now) -> None:
    """What cannot be done for a job ends it, and nothing else."""
    name, *subject = event.key
    job = world.rows.jobs.get(subject[0]) if subject else None  # type: ignore[call-overload]
    if job is None:
        return
    match name:
        case "Expand" if job.state in UNTAKEN and subject[1:] == [job.manifest]:
            fail(world, job.id, event.reason, now)
        case "TakeJob" if job.state in UNTAKEN or job.state == JobState.RUNNING:
            fail(world, job.id, f"this verifier cannot take it: {event.reason}", now)
        case "Pack" if job.state == JobState.PACKING:
            fail(world, job.id, f"its result cannot be packed: {event.reason}", now)


__all__ = ["check_done", "closed", "commits_end", "expire", "fail", "opened", "taken", "vanished"]
