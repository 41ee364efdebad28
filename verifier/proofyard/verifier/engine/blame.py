"""Which jobs something is about: where the state machine meets an error of its own, these are stopped, nothing else.

An error is a defect of this software. What it was met with is known all the same: an event, a timer, or the task,
segment or work that a part was looking at.
"""

from collections.abc import Sequence

from proofyard.protocol.types import JobId
from proofyard.verifier.engine.events import (
    AnswersWeighed,
    ChainEvent,
    Drawn,
    EffectFailed,
    Event,
    Expanded,
    JobRead,
    LooksDue,
    MarksTold,
    Packed,
    RecordRefused,
    RecordSettled,
    ResultLooked,
    RoundsClosed,
    Signed,
    StateLooked,
)
from proofyard.verifier.engine.rows import Batch
from proofyard.verifier.engine.world import Rows

Jobs = tuple[JobId, ...]
Subject = tuple[type, Jobs, str]
"""What kind of event, of which jobs, by which peer if by one: the same for an event that is told again."""

OF_JOBS = frozenset(("Expand", "TakeJob", "Pack", "ReadJob", "CloseRounds"))
OF_PLACES = frozenset(("LookAtState", "LookAtResult", "WeighAnswers"))
"""Effects with (batch, (job, task, ...)); those that are neither are of a batch as a whole, or of a node."""


def jobs_of(rows: Rows, event: Event) -> Jobs:
    """The jobs of an event; none for what is about nodes or about the chain as a whole."""
    if isinstance(event, EffectFailed):
        return jobs_of_effect(rows, event.key)
    news = event.news if isinstance(event, ChainEvent) else event
    job = getattr(news, "job", None)
    if job is not None:
        return (job,)
    at = getattr(news, "place", None) or getattr(news, "key", None)
    if at:
        return (at[0],)
    lines = getattr(news, "lines", None)
    if lines is not None:
        return tuple(getattr(line, "job", None) or line[0] for line in lines)
    number = getattr(news, "batch", None)
    if number is None:
        return ()
    return _of(rows.by_chain_id.get(number) if isinstance(event, ChainEvent) else rows.batches.get(number))


def jobs_of_effect(rows: Rows, key: Sequence[object]) -> Jobs:
    """The jobs of an effect, by its key."""
    name, *subject = key
    if name in OF_JOBS:
        return (subject[0],)  # type: ignore[return-value]
    if name in OF_PLACES:
        return (subject[1][0],)  # type: ignore[index]
    return _of(rows.batches.get(subject[0])) if subject else ()  # type: ignore[call-overload]


def jobs_of_timer(rows: Rows, key: Sequence[object]) -> Jobs:
    """The jobs that something is looked at for, by the key of its timer."""
    match tuple(key):
        case ("effect", *effect):
            return jobs_of_effect(rows, effect)
        case ("rounds", job, _) | ("jobs", _, job) | ("tasks", "lease" | "due", job, _, _):
            return (job,)  # type: ignore[return-value]
        case ("tasks", "rest", _, (job, _)):
            return (job,)  # type: ignore[return-value]
        case ("audits", "look", (_, (job, _, _))) | ("audits", "lease", (_, (job, _, _)), _):
            return (job,)  # type: ignore[return-value]
        case ("audits", "patience", batch) | ("batches", "draw", batch):
            return _of(rows.batches.get(batch))  # type: ignore[call-overload]
    return ()


def effect_of(event: Event) -> Sequence[object]:
    """How the key of the effect begins that an event answers; empty for what nobody asked for."""
    match event:
        case Expanded() | Packed() | JobRead() | RoundsClosed():
            return _ANSWERED[type(event)], event.job
        case StateLooked() | AnswersWeighed():
            return _ANSWERED[type(event)], event.batch, event.place
        case ResultLooked():
            return _ANSWERED[type(event)], event.batch, event.key
        case Drawn() | RecordSettled() | RecordRefused() | MarksTold() | Signed() | LooksDue():
            return _ANSWERED[type(event)], event.batch
    return ()


_ANSWERED: dict[type, str] = {
    Expanded: "Expand",
    Packed: "Pack",
    JobRead: "ReadJob",
    RoundsClosed: "CloseRounds",
    StateLooked: "LookAtState",
    AnswersWeighed: "WeighAnswers",
    ResultLooked: "LookAtResult",
    Drawn: "Draw",
    RecordSettled: "ReadRecord",
    MarksTold: "AskMarks",
    Signed: "Settle",
    LooksDue: "Settle",
    RecordRefused: "Settle",
}


def subject_of(rows: Rows, event: Event) -> Subject:
    news = event.news if isinstance(event, ChainEvent) else event
    return type(news), jobs_of(rows, event), str(getattr(news, "node", ""))


def _of(batch: Batch | None) -> Jobs:
    return () if batch is None else tuple(job for job, _ in batch.lines)
