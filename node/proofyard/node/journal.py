"""What a node must not forget: tasks it accepted, states it owes, seals it gave.

A restarted node takes up unfinished tasks from their last durable state and can still open every seal that it has
submitted; a node that could not would be judged as silent. An answer is sealed once: whoever offers the same segment
again is given the same seal, because two different ones would look like two opinions.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import event
from sqlmodel import Field, Session, SQLModel, create_engine, select

from proofyard.protocol.codec import decode, encode
from proofyard.protocol.messages import AuditOffer, OpenSeal, SealOpened, SubmitCommitment, TaskOffer
from proofyard.protocol.types import Address, BatchId, Digest, ProofyardError


class JournalError(ProofyardError):
    """The journal cannot be opened."""


class TaskEntry(SQLModel, table=True):
    """A task this node accepted from `verifier`; `submission` once it is finished, `done` once that was receipted.
    From then on the row stands for the states that are owed: every `every`-th is here, `kept_bytes` in all. Done again
    from other `inputs` (their digest) it is another task, and the states of both are owed."""

    __tablename__ = "node_work"
    verifier: str = Field(primary_key=True)
    job: int = Field(primary_key=True)
    task: int = Field(primary_key=True)
    inputs: str = Field(primary_key=True)
    offer: bytes
    submission: bytes | None = None
    every: int = 1
    kept_bytes: int = 0
    done: bool = False


class SealEntry(SQLModel, table=True):
    """An audit this node accepted; `opening` once it is sealed, at `sealed_at` (Unix seconds), `submitted` once the
    verifier has taken the seal, and `opened` once it has been shown what is in it."""

    __tablename__ = "node_audit"
    verifier: str = Field(primary_key=True)
    batch: int = Field(primary_key=True)
    job: int = Field(primary_key=True)
    task: int = Field(primary_key=True)
    segment: int = Field(primary_key=True)
    offer: bytes
    opening: bytes | None = None
    sealed_at: float = 0.0
    submitted: bool = False
    opened: bool = False


@dataclass(frozen=True)
class HeldTask:
    """A finished task whose states this node owes: every `every`-th is in its store. A `decoy`'s are false ones beside
    those of the task, as its submission has them; it is owed as long as the task is."""

    verifier: Address
    offer: TaskOffer
    submission: SubmitCommitment
    every: int
    decoy: bool = False


class Journal:
    """The node's SQLite file. What a call wrote is on the disk when it returns."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(f"sqlite:///{path}")
            event.listen(self._engine, "connect", _durable)
            SQLModel.metadata.create_all(self._engine, tables=[_TASKS, _SEALS])
        except Exception as error:
            raise JournalError(f"the journal {path} cannot be opened ({error}); check data_dir") from None

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with Session(self._engine) as session, session.begin():
            yield session

    # Tasks

    def accept_task(self, verifier: Address, offer: TaskOffer) -> None:
        """Take note of a task; one that is finished already keeps its states."""
        with self._session() as session:
            if session.get(TaskEntry, _task_key(verifier, offer)) is None:
                _, job, task, inputs = _task_key(verifier, offer)
                session.add(TaskEntry(verifier=verifier, job=job, task=task, inputs=inputs, offer=encode(offer)))

    def finish_task(
        self,
        verifier: Address,
        offer: TaskOffer,
        submission: SubmitCommitment,
        *,
        every: int = 1,
        kept_bytes: int = 0,
    ) -> None:
        with self._session() as session:
            entry = session.get(TaskEntry, _task_key(verifier, offer))
            if entry is not None:
                entry.submission, entry.every, entry.kept_bytes = encode(submission), every, kept_bytes

    def submission(self, verifier: Address, offer: TaskOffer) -> SubmitCommitment | None:
        """The commitment to a task that is finished here."""
        with self._session() as session:
            entry = session.get(TaskEntry, _task_key(verifier, offer))
            done = entry.submission if entry is not None else None
        return decode(done, SubmitCommitment) if done else None

    def close_task(self, verifier: Address, offer: TaskOffer) -> None:
        """The verifier has the commitment."""
        with self._session() as session:
            entry = session.get(TaskEntry, _task_key(verifier, offer))
            if entry is not None:
                entry.done = True

    def drop_task(self, verifier: Address, offer: TaskOffer) -> None:
        """Nothing is owed for the task: it was handed back, or it is final."""
        with self._session() as session:
            entry = session.get(TaskEntry, _task_key(verifier, offer))
            if entry is not None:
                session.delete(entry)

    def release(self, held: HeldTask) -> None:
        """A held task is final."""
        self.drop_task(held.verifier, held.offer)

    def held(self) -> list[HeldTask]:
        """Every task whose states are owed, and every decoy."""
        with self._session() as session:
            rows = session.exec(select(TaskEntry).where(TaskEntry.submission != None))  # noqa: E711
            return [held for row in rows for held in _held(row)]

    def kept_bytes(self) -> int:
        """What the states that are owed take on disk."""
        with self._session() as session:
            return sum(session.exec(select(TaskEntry.kept_bytes)))

    def open_offers(self) -> list[TaskOffer | AuditOffer]:
        """Offers whose inputs are still needed: of tasks that run or are owed, and of audits that are not sealed."""
        with self._session() as session:
            tasks = session.exec(select(TaskEntry.offer)).all()
            audits = session.exec(select(SealEntry.offer).where(SealEntry.opening == None)).all()  # noqa: E711
        return [*(decode(row, TaskOffer) for row in tasks), *(decode(row, AuditOffer) for row in audits)]

    def open_tasks(self) -> list[tuple[Address, TaskOffer, SubmitCommitment | None]]:
        """Tasks to take up again after a restart, with their commitment where it only has to be delivered."""
        with self._session() as session:
            rows = session.exec(select(TaskEntry).where(TaskEntry.done == False)).all()  # noqa: E712
            return [
                (
                    Address(row.verifier),
                    decode(row.offer, TaskOffer),
                    decode(row.submission, SubmitCommitment) if row.submission else None,
                )
                for row in rows
            ]

    # Audits

    def accept_audit(self, verifier: Address, offer: AuditOffer) -> None:
        """Take note of an audit; one that is sealed already keeps its seal, until another answer is sealed."""
        with self._session() as session:
            if session.get(SealEntry, _key(verifier, offer)) is None:
                batch, job, task, segment = _place(offer)
                session.add(
                    SealEntry(verifier=verifier, batch=batch, job=job, task=task, segment=segment, offer=encode(offer))
                )

    def seal(self, verifier: Address, offer: AuditOffer, opening: SealOpened, now: float = 0.0) -> None:
        """Keep the answer before its seal leaves the machine, at `now` (Unix seconds)."""
        with self._session() as session:
            entry = session.get(SealEntry, _key(verifier, offer))
            if entry is not None:
                if not _same_question(entry, offer):
                    entry.submitted = entry.opened = False
                entry.offer, entry.opening, entry.sealed_at = encode(offer), encode(opening), now

    def submitted(self, verifier: Address, offer: AuditOffer) -> None:
        """The verifier has taken the seal, or wants none any more."""
        with self._session() as session:
            entry = session.get(SealEntry, _key(verifier, offer))
            if entry is not None:
                entry.submitted = True

    def drop_audit(self, verifier: Address, offer: AuditOffer) -> None:
        """An audit was given back unsealed."""
        with self._session() as session:
            entry = session.get(SealEntry, _key(verifier, offer))
            if entry is not None and entry.opening is None:
                session.delete(entry)

    def sealed(self, offer: AuditOffer) -> SealOpened | None:
        """What was sealed for this segment, for whichever verifier. Where a block went with its hash or with the batch
        itself, the same place is another question: an answer that is keyed with the old seed would convict this node
        of copying."""
        batch, job, task, segment = _place(offer)
        with self._session() as session:
            wanted = select(SealEntry).where(
                SealEntry.batch == batch,
                SealEntry.job == job,
                SealEntry.task == task,
                SealEntry.segment == segment,
                SealEntry.opening != None,  # noqa: E711
            )
            for entry in session.exec(wanted):
                if entry.opening and _same_question(entry, offer):
                    return decode(entry.opening, SealOpened)
        return None

    def open_audits(self) -> list[tuple[Address, AuditOffer, SealOpened]]:
        """Seals that are made and that their verifier has not taken yet."""
        with self._session() as session:
            rows = session.exec(select(SealEntry).where(SealEntry.submitted == False)).all()  # noqa: E712
            return [
                (Address(row.verifier), decode(row.offer, AuditOffer), decode(row.opening, SealOpened))
                for row in rows
                if row.opening
            ]

    def answers(self) -> set[Digest]:
        """The digests that were sealed in batches that are not settled."""
        with self._session() as session:
            openings = session.exec(select(SealEntry.opening).where(SealEntry.opening != None)).all()  # noqa: E711
        return {decode(opening, SealOpened).after for opening in openings if opening}

    def sealed_batches(self) -> set[BatchId]:
        """Batches that this node was given a seat in."""
        with self._session() as session:
            return {BatchId(batch) for batch in session.exec(select(SealEntry.batch))}

    def forget_seals(self, batch: BatchId) -> None:
        """A batch is final: nobody opens seals of it any more."""
        with self._session() as session:
            for entry in session.exec(select(SealEntry).where(SealEntry.batch == batch)):
                session.delete(entry)

    def opening(self, verifier: Address, request: OpenSeal) -> SealOpened | None:
        """What `verifier` was given a seal of; from now on it is no secret."""
        with self._session() as session:
            key = (verifier, request.batch, request.job, request.task, request.segment)
            entry = session.get(SealEntry, key)
            if entry is None or entry.opening is None:
                return None
            entry.opened = True
            return decode(entry.opening, SealOpened)

    def opened(self, request: OpenSeal, sealed_before: float) -> SealOpened | None:
        """What is no secret any more: shown to whom it was sealed for, or sealed before a time (Unix seconds)."""
        with self._session() as session:
            wanted = select(SealEntry).where(
                SealEntry.batch == request.batch,
                SealEntry.job == request.job,
                SealEntry.task == request.task,
                SealEntry.segment == request.segment,
            )
            for entry in session.exec(wanted):
                if entry.opening and (entry.opened or entry.sealed_at < sealed_before):
                    return decode(entry.opening, SealOpened)
        return None


def _held(row: TaskEntry) -> Iterator[HeldTask]:
    verifier, offer = Address(row.verifier), decode(row.offer, TaskOffer)
    submission = decode(row.submission or b"", SubmitCommitment)
    yield HeldTask(verifier, offer, submission, row.every)
    if (decoy := submission.decoy) is not None:
        shown = SubmitCommitment(decoy.commitment, decoy.signature, decoy.trace, decoy.salt)
        yield HeldTask(verifier, offer, shown, 1, decoy=True)


def _task_key(verifier: Address, offer: TaskOffer) -> tuple[str, int, int, str]:
    inputs = hashlib.sha256(encode(offer.inputs)).hexdigest()[:32]
    return verifier, offer.job, offer.task.index, inputs


def _same_question(entry: SealEntry, offer: AuditOffer) -> bool:
    """Whether an answer to the offer that an entry was made for is one to this offer."""
    known = decode(entry.offer, AuditOffer)
    return (known.seed, known.before, known.manifest) == (offer.seed, offer.before, offer.manifest)


def _place(offer: AuditOffer) -> tuple[int, int, int, int]:
    return offer.batch, offer.job, offer.task.index, offer.segment


def _key(verifier: Address, offer: AuditOffer) -> tuple[str, int, int, int, int]:
    return (verifier, *_place(offer))


def _durable(connection: object, _: object) -> None:
    """Write-ahead, and on the disk at each commit: what is promised afterwards must survive a power cut."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]


_TASKS = SQLModel.metadata.tables["node_work"]
_SEALS = SQLModel.metadata.tables["node_audit"]
