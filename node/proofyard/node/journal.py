"""What a node must not forget: tasks it accepted, states it owes, seals it gave.

A restarted node takes up unfinished tasks from their last durable state and can still open every seal that it has
submitted; a node that could not would be judged as silent.
"""

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
    From then on the row stands for the states that are owed: every `every`-th is here, `kept_bytes` in all."""

    __tablename__ = "node_task"
    verifier: str = Field(primary_key=True)
    job: int = Field(primary_key=True)
    task: int = Field(primary_key=True)
    offer: bytes
    submission: bytes | None = None
    every: int = 1
    kept_bytes: int = 0
    done: bool = False


class SealEntry(SQLModel, table=True):
    """An audit this node accepted; `opening` once it is sealed."""

    __tablename__ = "node_seal"
    verifier: str = Field(primary_key=True)
    batch: int = Field(primary_key=True)
    task: int = Field(primary_key=True)
    segment: int = Field(primary_key=True)
    offer: bytes
    opening: bytes | None = None


@dataclass(frozen=True)
class HeldTask:
    """A finished task whose states this node owes: every `every`-th is in its store."""

    verifier: Address
    offer: TaskOffer
    submission: SubmitCommitment
    every: int


class Journal:
    """The node's SQLite file."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(f"sqlite:///{path}")
            event.listen(self._engine, "connect", lambda connection, _: connection.execute("PRAGMA journal_mode=WAL"))
            SQLModel.metadata.create_all(self._engine, tables=[_TASKS, _SEALS])
        except Exception as error:
            raise JournalError(f"the journal {path} cannot be opened ({error}); check data_dir") from None

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with Session(self._engine) as session, session.begin():
            yield session

    def accept_task(self, verifier: Address, offer: TaskOffer) -> None:
        with self._session() as session:
            session.merge(TaskEntry(verifier=verifier, job=offer.job, task=offer.task.index, offer=encode(offer)))

    def finish_task(
        self, verifier: Address, submission: SubmitCommitment, *, every: int = 1, kept_bytes: int = 0
    ) -> None:
        key = (verifier, submission.commitment.job, submission.commitment.task)
        with self._session() as session:
            entry = session.get(TaskEntry, key)
            if entry is not None:
                entry.submission, entry.every, entry.kept_bytes = encode(submission), every, kept_bytes

    def close_task(self, verifier: Address, offer: TaskOffer) -> None:
        """The verifier has the commitment."""
        with self._session() as session:
            entry = session.get(TaskEntry, (verifier, offer.job, offer.task.index))
            if entry is not None:
                entry.done = True

    def drop_task(self, verifier: Address, job: int, task: int) -> None:
        """Nothing is owed for the task: it was handed back, or it is final."""
        with self._session() as session:
            entry = session.get(TaskEntry, (verifier, job, task))
            if entry is not None:
                session.delete(entry)

    def release(self, held: HeldTask) -> None:
        """A held task is final."""
        self.drop_task(held.verifier, held.offer.job, held.offer.task.index)

    def held(self) -> list[HeldTask]:
        """Every task whose states are owed."""
        with self._session() as session:
            return [
                HeldTask(
                    Address(row.verifier),
                    decode(row.offer, TaskOffer),
                    decode(row.submission, SubmitCommitment),
                    row.every,
                )
                for row in session.exec(select(TaskEntry))
                if row.submission is not None
            ]

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

    def accept_audit(self, verifier: Address, offer: AuditOffer) -> None:
        with self._session() as session:
            session.merge(
                SealEntry(
                    verifier=verifier,
                    batch=offer.batch,
                    task=offer.task.index,
                    segment=offer.segment,
                    offer=encode(offer),
                )
            )

    def seal(self, verifier: Address, offer: AuditOffer, opening: SealOpened) -> None:
        """Keep the answer before its seal leaves the machine."""
        with self._session() as session:
            entry = session.get(SealEntry, (verifier, offer.batch, offer.task.index, offer.segment))
            if entry is not None:
                entry.opening = encode(opening)

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
        """A batch is settled: nobody opens seals of it any more."""
        with self._session() as session:
            for entry in session.exec(select(SealEntry).where(SealEntry.batch == batch)):
                session.delete(entry)

    def opening(self, verifier: Address, request: OpenSeal) -> SealOpened | None:
        with self._session() as session:
            entry = session.get(SealEntry, (verifier, request.batch, request.task, request.segment))
            return decode(entry.opening, SealOpened) if entry is not None and entry.opening else None


_TASKS = SQLModel.metadata.tables["node_task"]
_SEALS = SQLModel.metadata.tables["node_seal"]
