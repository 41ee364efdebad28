"""What the engine wants done. The rows that an effect follows from are written before it is begun.

Every effect is safe to repeat and follows from the rows alone: after a restart `Engine.resume` gives those that are due
again. Its `key` is its identity; the shell runs at most one of a key at a time and answers each with one of the events
named here, or with `EffectFailed`, after which the engine asks again, later each time, as often as `retries` says, and
then ends what it belongs to with the reason.
"""

from dataclasses import dataclass, fields
from typing import ClassVar

from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId
from proofyard.verifier.engine.events import Place, TaskKey


@dataclass(frozen=True, slots=True)
class Effect:
    retries: ClassVar[int | None] = None
    """How often it is tried again; None: as long as its subject lives."""

    @property
    def key(self) -> tuple[object, ...]:
        """The kind and what tells one of it from others: all fields, where an effect does not say which."""
        return _key(self, *(getattr(self, each.name) for each in fields(self)))


def _key(effect: Effect, *subject: object) -> tuple[object, ...]:
    return (type(effect).__name__, *subject)


# Peers: one message for each node and step. Answers: TaskAnswered, AuditAnswered, SealAnswered for each item.


@dataclass(frozen=True, slots=True)
class OfferTasks(Effect):
    """(task, attempt, inputs, nodes that made the inputs) each."""

    node: Address
    tasks: tuple[tuple[TaskKey, int, tuple[Cid, ...], tuple[Address, ...]], ...]

    @property
    def key(self) -> tuple[object, ...]:
        return _key(self, self.node, tuple((key, attempt) for key, attempt, _, _ in self.tasks))


@dataclass(frozen=True, slots=True)
class CancelTasks(Effect):
    """A node's work is not wanted any more, because of `reason`. No answer is waited for."""

    node: Address
    tasks: tuple[TaskKey, ...]
    reason: str

    @property
    def key(self) -> tuple[object, ...]:
        return _key(self, self.node, self.tasks)


@dataclass(frozen=True, slots=True)
class OfferAudits(Effect):
    """Of the draw with this `seed`. `hurries`: somebody waits for the verdicts of the batch."""

    node: Address
    batch: int
    places: tuple[Place, ...]
    seed: Digest
    hurries: bool = True


@dataclass(frozen=True, slots=True)
class OpenSeals(Effect):
    node: Address
    batch: int
    places: tuple[Place, ...]


# Looking at bytes


@dataclass(frozen=True, slots=True)
class Expand(Effect):
    """Read a job's manifest, as soon as it is published. Answer: Expanded."""

    job: JobId
    manifest: Cid


@dataclass(frozen=True, slots=True)
class CloseRounds(Effect):
    """Read which rounds of a job are closed. Answer: RoundsClosed."""

    job: JobId


@dataclass(frozen=True, slots=True)
class LookAtState(Effect):
    """Have the state before a segment, from its worker first, and check its laws. Answer: StateLooked."""

    batch: int
    place: Place


@dataclass(frozen=True, slots=True)
class LookAtResult(Effect):
    """Answer: ResultLooked."""

    batch: int
    task: TaskKey


@dataclass(frozen=True, slots=True)
class AskMarks(Effect):
    """Have from the workers of a batch what opens their marks, as far as that is not known. Answer: MarksTold."""

    batch: int


@dataclass(frozen=True, slots=True)
class WeighAnswers(Effect):
    """Only where bytes are needed: the drawn share of keyed digests, and workloads that are not exact. `seed`: of the
    draw that is answered. Answer: AnswersWeighed."""

    batch: int
    place: Place
    seed: Digest
    openings: tuple[tuple[Address, bytes], ...]
    """Each auditor's `SealOpened`, msgpack as it came."""

    @property
    def key(self) -> tuple[object, ...]:
        return _key(self, self.batch, self.place, self.seed, tuple(auditor for auditor, _ in self.openings))


@dataclass(frozen=True, slots=True)
class Pack(Effect):
    """Make the job's result for people. Answer: Packed."""

    job: JobId


# The protocol


@dataclass(frozen=True, slots=True)
class Draw(Effect):
    """Once the draw block is there, compute a batch's plan. Answer: Drawn. `fork`: how often the chain went back."""

    batch: int
    fork: int


@dataclass(frozen=True, slots=True)
class Settle(Effect):
    """Build the record, check it, collect signatures, send. Answers: Signed, or LooksDue."""

    batch: int
    attempt: int


@dataclass(frozen=True, slots=True)
class ReadRecord(Effect):
    """Read and check the record of a batch's settlement on chain. Answer: RecordSettled."""

    batch: int
    attempt: int
    fork: int


@dataclass(frozen=True, slots=True)
class ReadJob(Effect):
    """Ask the chain about a job, after a reorganisation. Answer: JobRead."""

    job: JobId


# Transactions: told by the chain's own events once they are mined.


@dataclass(frozen=True, slots=True)
class TakeJob(Effect):
    retries: ClassVar[int | None] = 8
    job: JobId


@dataclass(frozen=True, slots=True)
class CommitBatch(Effect):
    """Show the member list to the other seats, then post its root."""

    batch: int
    root: Digest

    @property
    def key(self) -> tuple[object, ...]:
        return _key(self, self.batch)


@dataclass(frozen=True, slots=True)
class TakeBatch(Effect):
    chain_id: BatchId
    attempt: int
