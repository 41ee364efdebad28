"""The verifier's state machine: events and the time in, rows and effects out. See `rows`, `events`, `effects`.

Each part owns the transitions of its rows: `jobs`, `tasks` (with works and scheduling), `batches`, `audits` (segments
and seats), `chain` (what the chain's events and its reorganisations mean). They share a `World` and call each other by
verbs; none of them waits, reads or sends.
"""

from collections.abc import Callable, Iterable
from typing import Any

from proofyard.verifier.engine import audits, backing, batches, chain, jobs, rounds, tasks
from proofyard.verifier.engine.blame import jobs_of, jobs_of_timer
from proofyard.verifier.engine.events import (
    Adopted,
    AnswersWeighed,
    AuditAnswered,
    AuditGivenUp,
    AuditProgressed,
    AuditSealed,
    Backed,
    ChainEvent,
    Drawn,
    EffectFailed,
    Elsewhere,
    Event,
    Expanded,
    Finalized,
    JobBroken,
    JobFreed,
    JobRead,
    JobSized,
    LooksDue,
    MarksTold,
    NodeJoined,
    NodeLeft,
    NodesListed,
    Now,
    Packed,
    Published,
    RecordRefused,
    RecordSettled,
    ResultLooked,
    RolledBack,
    RoundsClosed,
    SealAnswered,
    Signed,
    StateLooked,
    TaskAnswered,
    TaskHandedBack,
    TaskProgressed,
    Tick,
    WorkCommitted,
)
from proofyard.verifier.engine.rows import Row
from proofyard.verifier.engine.world import Rows, Rules, Step, World


def _joined(world: World, event: NodeJoined, now: Now) -> None:
    tasks.join(world, event, now)
    audits.joined(world, event, now)


def _left(world: World, event: NodeLeft, now: Now) -> None:
    tasks.leave(world, event, now)
    audits.left(world, event, now)


def _backed(world: World, event: Backed, now: Now) -> None:
    backing.backed(world, event, now)
    jobs.backed(world, now)


_HANDLERS: dict[type[object], Callable[[World, Any, Now], None]] = {
    NodeJoined: _joined,
    NodeLeft: _left,
    TaskAnswered: tasks.answered,
    TaskProgressed: tasks.progressed,
    TaskHandedBack: tasks.handed_back,
    WorkCommitted: tasks.committed,
    Elsewhere: tasks.elsewhere,
    NodesListed: tasks.listed,
    JobSized: tasks.sized,
    Published: jobs.published,
    Expanded: jobs.expanded,
    Packed: jobs.packed,
    RoundsClosed: rounds.closed,
    Drawn: batches.drawn,
    Signed: batches.signed,
    LooksDue: batches.looks_due,
    RecordRefused: batches.record_refused,
    MarksTold: batches.marks_told,
    RecordSettled: batches.record_settled,
    ResultLooked: batches.result_looked,
    StateLooked: audits.state_looked,
    AuditAnswered: audits.answered,
    AuditProgressed: audits.progressed,
    AuditGivenUp: audits.given_up,
    AuditSealed: audits.sealed,
    SealAnswered: audits.opened,
    AnswersWeighed: audits.weighed,
    ChainEvent: chain.news,
    JobRead: chain.job_read,
    JobFreed: jobs.freed,
    JobBroken: jobs.broken,
    Backed: _backed,
    Adopted: batches.adopted,
    Finalized: chain.finalized,
    RolledBack: chain.rolled_back,
}


_ENDS = frozenset(("Expand", "TakeJob", "Pack", "CommitBatch", "WeighAnswers", "LookAtState", "LookAtResult"))
"""Effects whose subject ends where they never succeed; everything else is tried again for as long as it is wanted."""


class Engine:
    """One verifier's decisions, from the rows that are live. `last_row` is the newest batch that there ever was: a
    number stands for one batch for ever. `handle` is not safe for several threads."""

    def __init__(self, rules: Rules, rows: Iterable[Row] = (), last_row: int = 0) -> None:
        self.world = World(rules, Rows(rows), last_row)

    def resume(self, now: Now) -> Step:
        """What is due after a restart: everything that follows from the rows."""
        world = self.world
        for part in (jobs, tasks, rounds, audits, batches):
            part.resume(world, now)
        return self._step(now)

    def handle(self, event: Event, now: Now) -> Step:
        """One event. Raises nothing for what comes from outside: `Step.refusal` says why it was not taken."""
        world = self.world
        world.takes_in = False
        for key in world.due(now):
            world.about = jobs_of_timer(world.rows, key)
            self._wake(key, now)
        world.about, world.takes_in = jobs_of(world.rows, event), True
        if isinstance(event, EffectFailed):
            self._failed(event, now)
        elif not isinstance(event, Tick):
            _HANDLERS[type(event)](world, event, now)
        return self._step(now)

    @property
    def next_wake(self) -> float | None:
        """When `Tick` has something to do at the latest, by the monotonic clock."""
        return self.world.next_wake

    def _step(self, now: Now) -> Step:
        """What the parts do once an event is taken in: give out work, form batches, seat auditors."""
        world = self.world
        world.about, world.takes_in = (), False
        tasks.give_out(world, now)
        batches.form(world, now)
        audits.seat(world, now)
        return world.step()

    def _wake(self, key: tuple[object, ...], now: Now) -> None:
        part, *subject = key
        if part == "effect":
            self.world.retry(tuple(subject))
        else:
            {"jobs": jobs, "tasks": tasks, "rounds": rounds, "batches": batches, "audits": audits}[str(part)].wake(
                self.world, tuple(subject), now
            )

    def _failed(self, event: EffectFailed, now: Now) -> None:
        if event.retry or event.key[0] not in _ENDS:
            effect = self.world.failed(event.key, now)
            if event.key[0] == "CommitBatch":
                batches.not_committed(self.world, int(event.key[1]))  # type: ignore[call-overload]
            if effect is None:
                jobs.delayed(self.world, event)
                batches.delayed(self.world, event, now)
                return
        else:
            self.world.done(event.key)
        for part in (jobs, batches, audits):
            part.effect_failed(self.world, event, now)
