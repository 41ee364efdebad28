"""What the chain's events mean for the rows, and what it means that they have not happened.

Every event of the Registry that touches jobs and batches of this verifier is followed. An event that the rows know
already changes nothing: a range of blocks may be told again.
"""

from proofyard.chain.events import (
    Absolved,
    BatchCommitted,
    BatchDropped,
    BatchRecommitted,
    BatchSettled,
    BatchTaken,
    BatchVoided,
    FeesPaid,
    JobClosed,
    JobCommitted,
    JobOpened,
    JobTaken,
    JobToppedUp,
    SlashFinal,
)
from proofyard.protocol.settlement import Line
from proofyard.protocol.types import Digest
from proofyard.verifier.engine import batches, jobs
from proofyard.verifier.engine.effects import ReadJob
from proofyard.verifier.engine.events import ChainEvent, JobRead, Now, RolledBack
from proofyard.verifier.engine.rows import Batch, BatchState
from proofyard.verifier.engine.world import World


def news(world: World, event: ChainEvent, now: Now) -> None:
    match event.news:
        case JobOpened() as opened:
            if jobs.opened(world, opened, now):
                batches.dissolve(world, opened.job, now)
        case JobTaken() as taken:
            jobs.taken(world, taken.job, taken.position.block, now, own=taken.verifier == world.rules.own)
        case JobClosed() as closed:
            jobs.closed(world, closed.job, event.at, now)
        case JobToppedUp() as more:
            jobs.topped_up(world, more.job, now)
        case JobCommitted() as line:
            jobs.units_moved(world, line.job, opened=line.units, paid=0)
        case BatchCommitted() as commit if commit.verifier == world.rules.own:
            _committed(world, commit, now)
        case BatchSettled() as settled:
            _settled(world, settled, now)
        case Absolved() as absolved:
            _absolved(world, absolved)
        case other:
            _of_batch(world, other, now)


def _of_batch(world: World, news: object, now: Now) -> None:
    match news:
        case BatchTaken() as taken:
            _moved_back(world, taken.lines)
        case _:
            pass
    batch = world.rows.by_chain_id.get(getattr(news, "batch", None))  # type: ignore[arg-type]
    if batch is None:
        return
    match news:
        case BatchRecommitted() as again:
            _recommitted(world, batch, again.commit_block, now)
        case BatchTaken() as taken:
            batches.taken(world, batch, taken.attempt, now, own=taken.verifier == world.rules.own)
        case BatchVoided() as voided:
            batches.voided(world, batch, voided.attempt, now)
        case BatchDropped():
            _dropped(world, batch, now)
        case FeesPaid() | SlashFinal():
            batches.final(world, batch)


def _committed(world: World, commit: BatchCommitted, now: Now) -> None:
    """A batch of this verifier is on chain. The same work that is done again in the same way has the same root, so it
    is the oldest of those that wait for their number."""
    if commit.batch in world.rows.by_chain_id:
        return
    lines = tuple((line.job, line.units) for line in commit.lines)
    root = Digest(commit.root)
    waiting = [b for b in world.rows.batches.values() if b.state == BatchState.FORMED and b.root == root]
    for batch in sorted(waiting, key=lambda each: each.id):
        if batch.lines == lines:
            batches.committed(world, batch, commit.batch, commit.position.block, now)
            return


def _settled(world: World, settled: BatchSettled, now: Now) -> None:
    batch = world.rows.by_chain_id.get(settled.batch)
    for line in settled.lines:
        jobs.units_moved(world, line.job, opened=-line.units, paid=line.paid_units)
    if batch is not None and (batch.state not in batches.OVER or batch.settled_block != settled.position.block):
        batches.settled(world, batch, settled.attempt, settled.position.block, settled.claimable_at, now)


def _moved_back(world: World, lines: tuple[Line, ...]) -> None:
    """Units of a voided batch that somebody leads again: the chain says what a job has, events alone do not."""
    for line in lines:
        if line.job in world.rows.jobs:
            world.want(ReadJob(line.job))


def _dropped(world: World, batch: Batch, now: Now) -> None:
    for job, units in batch.lines:
        jobs.units_moved(world, job, opened=-units, paid=0)
    batches.dropped(world, batch, f"batch {batch.chain_id} was dropped: nobody settled it in time", now)


def _recommitted(world: World, batch: Batch, block: int, now: Now) -> None:
    """Its draw moved to a new block: what was drawn before is void."""
    if batch.commit_block == block:
        return
    batch.commit_block = block
    batches.undrawn(world, batch)


def _absolved(world: World, absolved: Absolved) -> None:
    batch = world.rows.by_chain_id.get(absolved.batch)
    if batch is not None:
        for fault in [f for f in world.rows.faults.values() if f.batch == batch.id]:
            if fault.operator == absolved.operator:
                world.rows.delete(fault)


def rolled_back(world: World, event: RolledBack, now: Now) -> None:
    """Blocks above `event.to` have not happened. What this verifier did in them is done again; the evidence stays."""
    for batch in list(world.rows.batches.values()):
        batches.forget_reads(world, batch)
    world.forks += 1
    for batch in list(world.rows.batches.values()):
        if batch.settled_block > event.to:
            batches.unsettled(world, batch, now)
        if batch.state in (BatchState.FORMED, BatchState.DROPPED, BatchState.TAKEN):
            continue
        if batch.commit_block > event.to:
            batches.uncommitted(world, batch, now)
        elif batch.commit_block + world.rules.draw_delay > event.to:
            batches.undrawn(world, batch)
        else:
            batches.read_again(world, batch)
    for job in list(world.rows.jobs.values()):
        world.want(ReadJob(job.id))


def job_read(world: World, event: JobRead, now: Now) -> None:
    """What a job is on chain after all."""
    world.done(ReadJob(event.job).key)
    job = world.rows.jobs.get(event.job)
    if job is None:
        return
    if event.manifest != job.manifest:
        jobs.vanished(world, job, now)
        return
    job.units_open, job.units_paid = event.units_open, event.units_paid
    world.rows.touch(job)
    jobs.standing(world, job, event, now)
