"""What the chain's events mean for the rows, and what it means that they have not happened.

Every event of the Registry that touches jobs and batches of this verifier is followed. An event that the rows know
already changes nothing: a range of blocks may be told again.
"""

from collections.abc import Callable
from typing import Any

from proofyard.chain import Event as ChainNews
from proofyard.chain.events import (
    Absolved,
    Appealed,
    BatchCommitted,
    BatchDrawn,
    BatchDropped,
    BatchRecommitted,
    BatchSettled,
    BatchTaken,
    BatchVoided,
    ChallengeClosed,
    ChallengeOpened,
    ChallengeSealed,
    EndpointSet,
    Equivocated,
    Faulted,
    FeesPaid,
    Forfeited,
    JobClosed,
    JobCommitted,
    JobOpened,
    JobRefunded,
    JobTaken,
    JobToppedUp,
    JurorFined,
    JuryDrawn,
    JuryRedrawn,
    Penalised,
    QuorumChanged,
    SlashFinal,
    UnstakeRequested,
    Verdict,
    VerifierKey,
    VoteCommitted,
    VoteRevealed,
    Withdrawn,
)
from proofyard.protocol.settlement import Line
from proofyard.protocol.types import Digest
from proofyard.verifier.engine import batches, jobs, rounds
from proofyard.verifier.engine.effects import ReadJob
from proofyard.verifier.engine.events import ChainEvent, Finalized, JobRead, Now, RolledBack
from proofyard.verifier.engine.rows import Batch, BatchState
from proofyard.verifier.engine.world import World


def news(world: World, event: ChainEvent, now: Now) -> None:
    follow = FOLLOWED.get(type(event.news))
    if follow is not None:
        follow(world, event.news, event.at, now)


# Jobs


def _opened(world: World, opened: JobOpened, _at: int, now: Now) -> None:
    if jobs.opened(world, opened, now):
        batches.dissolve(world, opened.job, now)


def _taken(world: World, taken: JobTaken, _at: int, now: Now) -> None:
    jobs.taken(world, taken.job, taken.position.block, now, own=taken.verifier == world.rules.own)


def _closed(world: World, closed: JobClosed, at: int, now: Now) -> None:
    jobs.closed(world, closed.job, at, now)


def _topped_up(world: World, more: JobToppedUp, _at: int, now: Now) -> None:
    jobs.topped_up(world, more.job, now)


# Batches


def _of_batch(follow: Callable[[World, Batch, Any, Now], None]) -> Callable[[World, Any, int, Now], None]:
    """Follow an event of a batch that this verifier leads, led or took over; those of others mean nothing to it."""

    def followed(world: World, event: Any, _at: int, now: Now) -> None:
        batch = world.rows.by_chain_id.get(event.batch)
        if batch is not None:
            follow(world, batch, event, now)

    return followed


def _committed(world: World, commit: BatchCommitted, _at: int, now: Now) -> None:
    """A batch is on chain; if it is ours, one of the rows. The same work that is done again in the same way has
    the same root, so it is the oldest of those that wait for their number."""
    about = world.about
    for line in commit.lines:
        world.about = (line.job,)
        jobs.units_moved(world, line.job, now, opened=line.units, paid=0)
        rounds.look(world, line.job)
    world.about = about
    if commit.verifier != world.rules.own or commit.batch in world.rows.by_chain_id:
        return
    lines = tuple((line.job, line.units) for line in commit.lines)
    root = Digest(commit.root)
    waiting = [b for b in world.rows.batches.values() if b.state == BatchState.FORMED and b.root == root]
    for batch in sorted(waiting, key=lambda each: each.id):
        if batch.lines == lines:
            batches.committed(world, batch, commit.batch, commit.position.block, now)
            return


def _settled(world: World, settled: BatchSettled, _at: int, now: Now) -> None:
    batch = world.rows.by_chain_id.get(settled.batch)
    for line in settled.lines:
        world.about = (line.job,)
        jobs.units_moved(world, line.job, now, opened=-line.units, paid=line.paid_units)
    if batch is not None and (batch.state not in batches.OVER or batch.settled_block != settled.position.block):
        batches.settled(world, batch, settled.attempt, settled.position.block, settled.claimable_at, now)


def _led(world: World, taken: BatchTaken, _at: int, now: Now) -> None:
    _moved_back(world, taken.lines)
    batch = world.rows.by_chain_id.get(taken.batch)
    if batch is not None:
        batches.taken(world, batch, taken.attempt, now, own=taken.verifier == world.rules.own)


def _moved_back(world: World, lines: tuple[Line, ...]) -> None:
    """Units of a voided batch that somebody leads again: the chain says what a job has, events alone do not."""
    for line in lines:
        if line.job in world.rows.jobs:
            world.want(ReadJob(line.job))


def _voided(world: World, batch: Batch, voided: BatchVoided, now: Now) -> None:
    batches.voided(world, batch, voided.attempt, now)


def _dropped(world: World, batch: Batch, _dropped: BatchDropped, now: Now) -> None:
    for job, units in batch.lines:
        jobs.units_moved(world, job, now, opened=-units, paid=0)
    batches.dropped(world, batch, f"batch {batch.chain_id} was dropped: nobody settled it in time", now)


def _recommitted(world: World, batch: Batch, again: BatchRecommitted, _now: Now) -> None:
    """Its draw moved to a new block: what was drawn before is void."""
    if batch.commit_block != again.commit_block:
        batch.commit_block = again.commit_block
        batches.undrawn(world, batch)


def _drawn(world: World, batch: Batch, drawn: BatchDrawn, _now: Now) -> None:
    """The seed is stored on chain. An endpoint may have shown a block that this verifier was told of in another form,
    or not at all before it was gone."""
    if batch.state in (BatchState.AUDITING, BatchState.JUDGED, BatchState.SIGNED) and batch.seed != drawn.seed:
        batches.undrawn(world, batch)


def _final(world: World, batch: Batch, _paid: FeesPaid | SlashFinal, now: Now) -> None:
    batches.final(world, batch, now)


def _absolved(world: World, batch: Batch, absolved: Absolved, now: Now) -> None:
    for fault in [f for f in world.rows.faults.values() if f.batch == batch.id]:
        if fault.operator == absolved.operator:
            world.rows.delete(fault)
            text = f"batch {batch.chain_id}: the fault is undone, and what it cost is returned"
            world.log(fault.job, now, "absolved", text, task=fault.task, node=fault.node)


def _challenged(world: World, batch: Batch, opened: ChallengeOpened, now: Now) -> None:
    batches.log_batch(world, batch, now, "challenged", f"batch {batch.chain_id}: challenge {opened.challenge} is open")


def _penalised(world: World, batch: Batch, paid: Penalised, now: Now) -> None:
    text = (
        f"batch {batch.chain_id}: operator {paid.operator} pays {paid.amount / 1e18:.4f}: not settled or drawn in time"
    )
    batches.log_batch(world, batch, now, "penalised", text)


FOLLOWED: dict[type[ChainNews], Callable[[World, Any, int, Now], None]] = {
    JobOpened: _opened,
    JobTaken: _taken,
    JobToppedUp: _topped_up,
    JobClosed: _closed,
    BatchCommitted: _committed,
    BatchRecommitted: _of_batch(_recommitted),
    BatchDrawn: _of_batch(_drawn),
    BatchTaken: _led,
    BatchDropped: _of_batch(_dropped),
    BatchSettled: _settled,
    BatchVoided: _of_batch(_voided),
    FeesPaid: _of_batch(_final),
    SlashFinal: _of_batch(_final),
    Absolved: _of_batch(_absolved),
    Penalised: _of_batch(_penalised),
    ChallengeOpened: _of_batch(_challenged),
}
"""What changes rows. What the chain says of nodes is told as `NodeJoined` and `NodeLeft` (`verifier.standing`)."""

NOT_FOLLOWED: dict[type[ChainNews], str] = {
    JobCommitted: "its batch's event has all lines",
    Faulted: "the record that its settlement names says more, and is checked before it is believed",
    JobRefunded: "the job was closed before, and its escrow is the requester's",
    Forfeited: "what was not paid changes no reputation, stake or task",
    UnstakeRequested: "what counts is the stake, which `StakeChanged` says",
    Withdrawn: "the money had left the stake before",
    VerifierKey: "a batch names its quorum, which the view of the batch reads",
    QuorumChanged: "a batch names its quorum, which the view of the batch reads",
    EndpointSet: "verifiers are dialled where the Registry says they are at that moment",
    Equivocated: "the offender's stake says it; its batch stays what the chain calls it",
    ChallengeSealed: "nobody can tell yet what it is about",
    JuryDrawn: "jurors are nodes; only what comes of a challenge changes a batch",
    JuryRedrawn: "as JuryDrawn",
    VoteCommitted: "as JuryDrawn",
    VoteRevealed: "as JuryDrawn",
    Verdict: "as JuryDrawn",
    Appealed: "as JuryDrawn",
    JurorFined: "the stake of the juror's owner says it",
    ChallengeClosed: "what it changes is told beside it: BatchVoided, Absolved, StakeChanged",
}
"""Events that change nothing here, and why."""


def finalized(world: World, event: Finalized, now: Now) -> None:
    """Refused, and told again, while it is not known yet what its settlement means."""
    batch = world.rows.by_chain_id.get(event.batch)
    if batch is not None:
        batches.final(world, batch, now)
        if batch.state not in (BatchState.FINAL, BatchState.DROPPED):
            world.refusal = f"the record of batch {event.batch} is not read yet"


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
        elif batch.commit_block + world.rules.draw_delay > event.to and not batch.settled_block:
            # Where its settlement stands its draw does.
            batches.undrawn(world, batch)
        else:
            batches.read_again(world, batch)
    for job in list(world.rows.jobs.values()):
        world.want(ReadJob(job.id))
        rounds.look_again(world, job.id)


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
