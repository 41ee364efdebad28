"""What a node must not forget: tasks it accepted, states it owes, seals it gave, receipts it was given, what it voted.

A restarted node takes up unfinished tasks from their last durable state and can still open every seal that it has
submitted; a node that could not would be judged as silent. An answer is sealed once: whoever offers the same segment
again is given the same seal, because two different ones would look like two opinions.

Nothing here waits for the disk but `lasting`, which whoever promises something awaits first: one write to the disk for
all who wait for one. What a power cut takes of the rest was promised to nobody, and is offered or delivered again.
"""
# ruff: noqa: S608 (statements are made of the constants below)

import asyncio
import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proofyard.artifacts.files import sync
from proofyard.node.receipts import KeptReceipt
from proofyard.node.rounds.machine import Durable
from proofyard.node.rounds.messages import ShownDelta
from proofyard.protocol.certificate import Delta
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.messages import AuditOffer, OpenSeal, Receipt, SealOpened, SubmitCommitment, TaskOffer
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, ProofyardError, Signature, TaskIndex

COMMIT_S = 0.05
"""How long what was written waits for more to be committed with."""
WAL_PAGES = 4000
"""So many pages are written ahead before they are moved to the file itself; a page has 4 KiB."""

SCHEMA = """
create table if not exists node_work (
    verifier text not null, job integer not null, task integer not null, inputs text not null,
    offer blob not null, submission blob, every integer not null default 1, kept_bytes integer not null default 0,
    done integer not null default 0, primary key (verifier, job, task, inputs)
) without rowid;
create index if not exists node_work_open on node_work (verifier) where done = 0;
create table if not exists node_audit (
    batch integer not null, job integer not null, task integer not null, segment integer not null,
    verifier text not null, offer blob not null, opening blob, sealed_at real not null default 0,
    submitted integer not null default 0, opened integer not null default 0,
    primary key (batch, job, task, segment, verifier)
) without rowid;
create index if not exists node_audit_open on node_audit (batch) where submitted = 0;
create table if not exists node_receipt (
    verifier text not null, leaf blob not null, job integer not null, task integer not null,
    deadline integer not null, signature blob not null, primary key (leaf, verifier)
) without rowid;
create index if not exists node_receipt_due on node_receipt (deadline);
create table if not exists node_round (
    round blob not null primary key, job integer not null, began real not null, durable blob not null
) without rowid;
create table if not exists node_delta (
    round blob not null, task integer not null, place integer not null, job integer not null, result text not null,
    shown blob not null, primary key (round, task, place)
) without rowid;
create table if not exists node_introduced (at real not null);
"""
TASK = "verifier = ? and job = ? and task = ? and inputs = ?"
PLACE = "batch = ? and job = ? and task = ? and segment = ?"
SEAL = PLACE + " and verifier = ?"


class JournalError(ProofyardError):
    """The journal cannot be opened, or not be written."""


@dataclass(frozen=True)
class HeldTask:
    """A finished task whose states this node owes: every `every`-th is in its store. A `decoy`'s are false ones beside
    those of the task, as its submission has them; it is owed as long as the task is."""

    verifier: Address
    offer: TaskOffer
    submission: SubmitCommitment
    every: int
    decoy: bool = False

    @property
    def kept(self) -> tuple[Cid, ...]:
        """What of it is in the store: the result, and every `every`-th state."""
        return (self.submission.commitment.result, *self.submission.trace[:: self.every])


class Journal:
    """The node's SQLite file. What a call wrote is there for all later calls, and on the disk once `lasting` returns.
    Its methods but for that may be called from any thread."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, cached_statements=64)
            # Written ahead, and synced by `lasting` alone, which syncs what was written ahead.
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"wal_autocheckpoint={WAL_PAGES}"):
                self._db.execute(f"pragma {pragma}")
            self._db.executescript(SCHEMA)
            self._db.execute("pragma user_version=1")
            self._db.commit()
            self._wal = os.open(f"{path}-wal", os.O_RDONLY)
            sync(path.parent)
            total = self._db.execute("select coalesce(sum(kept_bytes), 0) from node_work").fetchone()
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"the journal {path} cannot be opened ({error}); check data_dir") from None
        self._path = path
        self._kept_bytes = int(total[0])
        self._pending: list[tuple[str, tuple[Any, ...]]] = []
        self._undone = False
        self._commits = 1
        self._synced = 0
        self._syncing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Commit what is written. Idempotent."""
        if self._wal < 0:
            return
        try:
            self._commit()
        finally:
            self._db.close()
            os.close(self._wal)
            self._wal = -1

    async def lasting(self) -> None:
        """Until everything that was written so far is on the disk itself. Raises `JournalError`."""
        self._commit()
        wanted = self._commits
        while self._synced < wanted:
            if self._syncing is None:
                self._syncing = asyncio.create_task(self._sync())
            await asyncio.shield(self._syncing)

    async def _sync(self) -> None:
        reached = self._commits
        try:
            await asyncio.to_thread(os.fsync, self._wal)
        except OSError as error:
            raise self._failed(error) from None
        finally:
            self._syncing = None
        self._synced = reached

    def _write(self, statement: str, *values: Any) -> None:
        """Execute a statement; it is committed soon, with others. Raises `JournalError`; it is not done then."""
        self._read(statement, values)
        self._pending.append((statement, values))
        if self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(COMMIT_S, self._commit_soon)
            except RuntimeError:
                self._commit()

    def _commit_soon(self) -> None:
        self._timer = None
        # Whoever needs it to last is told.
        with contextlib.suppress(JournalError):
            self._commit()

    def _commit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._pending:
            return
        try:
            if self._undone:
                self._redo()
            self._db.commit()
        except sqlite3.Error as error:
            raise self._failed(error) from None
        self._pending.clear()
        self._commits += 1

    def _redo(self) -> None:
        """Execute again what could not be committed: for want of space, say."""
        for statement, values in self._pending:
            self._db.execute(statement, values)
        self._undone = False

    def _failed(self, error: Exception) -> JournalError:
        with contextlib.suppress(sqlite3.Error):
            self._db.rollback()
        self._undone = bool(self._pending)
        return JournalError(f"the journal {self._path} cannot be written ({error}); free space in data_dir")

    def _all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._read(query, values).fetchall()

    def _one(self, query: str, *values: Any) -> tuple[Any, ...]:
        """The first row; of nothing where there is none."""
        return self._read(query, values).fetchone() or ()

    def _read(self, query: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            if self._undone:
                self._redo()
            return self._db.execute(query, values)
        except sqlite3.Error as error:
            raise self._failed(error) from None

    # Tasks

    def accept_task(self, verifier: Address, offer: TaskOffer) -> None:
        """Take note of a task; one that is finished already keeps its states."""
        self._write(
            "insert or ignore into node_work (verifier, job, task, inputs, offer) values (?, ?, ?, ?, ?)",
            *_task_key(verifier, offer),
            encode(offer),
        )

    def finish_task(
        self,
        verifier: Address,
        offer: TaskOffer,
        submission: SubmitCommitment,
        *,
        every: int = 1,
        kept_bytes: int = 0,
    ) -> None:
        """From now on the states are owed: every `every`-th is in the store, `kept_bytes` in all. Done again from other
        inputs it is another task, and the states of both are owed."""
        key = _task_key(verifier, offer)
        row = self._one(f"select kept_bytes from node_work where {TASK}", *key)
        if row:
            changes = "submission = ?, every = ?, kept_bytes = ?"
            self._write(f"update node_work set {changes} where {TASK}", encode(submission), every, kept_bytes, *key)
            self._kept_bytes += kept_bytes - row[0]

    def submission(self, verifier: Address, offer: TaskOffer) -> SubmitCommitment | None:
        """The commitment to a task that is finished here."""
        row = self._one(f"select submission from node_work where {TASK}", *_task_key(verifier, offer))
        return decode(row[0], SubmitCommitment) if row and row[0] else None

    def hand_over(self, node: Address, verifier: Address, offer: TaskOffer, submission: SubmitCommitment) -> None:
        """What this `node` has done unasked is committed to a verifier that has offered it: its states are owed there
        too, and there is one copy of them."""
        row = self._one(f"select every from node_work where {TASK}", *_task_key(node, offer))
        self.accept_task(verifier, offer)
        self.finish_task(verifier, offer, submission, every=row[0] if row else 1)

    def close_task(self, verifier: Address, offer: TaskOffer, receipt: Receipt | None = None) -> None:
        """The verifier has the commitment, and gave a `receipt` for it, or it is of no use any more."""
        if receipt is not None:
            self.keep_receipt(verifier, offer.task.index, receipt)
        self._write(f"update node_work set done = 1 where {TASK}", *_task_key(verifier, offer))

    def drop_task(self, verifier: Address, offer: TaskOffer) -> None:
        """Nothing is owed for the task: it was handed back, or it is final."""
        key = _task_key(verifier, offer)
        row = self._one(f"select kept_bytes from node_work where {TASK}", *key)
        if row:
            self._write(f"delete from node_work where {TASK}", *key)
            self._kept_bytes -= row[0]

    def release(self, held: HeldTask) -> None:
        """A held task is final."""
        self.drop_task(held.verifier, held.offer)

    def held(self) -> list[HeldTask]:
        """Every task whose states are owed, and every decoy."""
        rows = self._all("select verifier, offer, submission, every from node_work where submission is not null")
        return [held for row in rows for held in _held(*row)]

    def held_of(self, verifier: Address, offer: TaskOffer) -> list[HeldTask]:
        """A finished task, and its decoy where there is one."""
        columns = "verifier, offer, submission, every"
        key = _task_key(verifier, offer)
        row = self._one(f"select {columns} from node_work where {TASK} and submission is not null", *key)
        return list(_held(*row)) if row else []

    def kept_bytes(self) -> int:
        """What the states that are owed take on disk."""
        return self._kept_bytes

    def open_offers(self) -> list[TaskOffer | AuditOffer]:
        """Offers whose inputs are still needed: of tasks that run or are owed, and of audits that are not sealed."""
        tasks = self._all("select offer from node_work")
        audits = self._all("select offer from node_audit where opening is null")
        return [*(decode(row[0], TaskOffer) for row in tasks), *(decode(row[0], AuditOffer) for row in audits)]

    def open_tasks(self) -> list[tuple[Address, TaskOffer, SubmitCommitment | None]]:
        """Tasks to take up again after a restart, with their commitment where it only has to be delivered."""
        rows = self._all("select verifier, offer, submission from node_work where done = 0")
        return [
            (Address(verifier), decode(offer, TaskOffer), decode(done, SubmitCommitment) if done else None)
            for verifier, offer, done in rows
        ]

    # Receipts

    def keep_receipt(self, verifier: Address, task: TaskIndex, receipt: Receipt) -> None:
        """Keep a receipt that was checked."""
        columns = "verifier, leaf, job, task, deadline, signature"
        values = (verifier, receipt.leaf, receipt.job, task, receipt.deadline, receipt.signature)
        self._write(f"insert or replace into node_receipt ({columns}) values (?, ?, ?, ?, ?, ?)", *values)

    def receipts(self, since: int, until: int = (1 << 63) - 1) -> list[KeptReceipt]:
        """The receipts whose deadline is after `since` and at most `until` (Unix seconds), the earliest first."""
        columns = "verifier, job, task, leaf, deadline, signature"
        query = f"select {columns} from node_receipt where deadline > ? and deadline <= ? order by deadline"
        return [
            KeptReceipt(Address(verifier), JobId(job), TaskIndex(task), Digest(leaf), deadline, Signature(signature))
            for verifier, job, task, leaf, deadline, signature in self._all(query, since, until)
        ]

    def next_due(self, after: int) -> int | None:
        """The first deadline of a receipt after a time (Unix seconds)."""
        due = self._one("select min(deadline) from node_receipt where deadline > ?", after)[0]
        return None if due is None else int(due)

    def jobs_since(self, deadline: int) -> list[JobId]:
        """The jobs of which a receipt falls due after a time (Unix seconds)."""
        rows = self._all("select distinct job from node_receipt where deadline > ? order by job", deadline)
        return [JobId(job) for (job,) in rows]

    def forget_receipts(self, before: int) -> None:
        """Receipts that fell due before a time (Unix seconds) are of no use any more."""
        self._write("delete from node_receipt where deadline < ?", before)

    # Audits

    def accept_audit(self, verifier: Address, offer: AuditOffer) -> None:
        """Take note of an audit; one that is sealed already keeps its seal, until another answer is sealed."""
        self._write(
            "insert or ignore into node_audit (batch, job, task, segment, verifier, offer) values (?, ?, ?, ?, ?, ?)",
            *_key(verifier, offer),
            encode(offer),
        )

    def seal(self, verifier: Address, offer: AuditOffer, opening: SealOpened, now: float = 0.0) -> None:
        """Keep the answer before its seal leaves the machine, at `now` (Unix seconds)."""
        key = _key(verifier, offer)
        row = self._one(f"select offer from node_audit where {SEAL}", *key)
        if not row:
            self.accept_audit(verifier, offer)
        again = "" if row and same_question(decode(row[0], AuditOffer), offer) else ", submitted = 0, opened = 0"
        changes = f"offer = ?, opening = ?, sealed_at = ?{again}"
        self._write(f"update node_audit set {changes} where {SEAL}", encode(offer), encode(opening), now, *key)

    def submitted(self, verifier: Address, offer: AuditOffer) -> None:
        """The verifier has taken the seal, or wants none any more; what was sealed for another draw since is waited
        for."""
        key = _key(verifier, offer)
        row = self._one(f"select offer from node_audit where {SEAL}", *key)
        if row and same_question(decode(row[0], AuditOffer), offer):
            self._write(f"update node_audit set submitted = 1 where {SEAL}", *key)

    def drop_audit(self, verifier: Address, offer: AuditOffer) -> None:
        """An audit was given back unsealed."""
        self._write(f"delete from node_audit where {SEAL} and opening is null", *_key(verifier, offer))

    def sealed(self, offer: AuditOffer) -> SealOpened | None:
        """What was sealed for this segment, for whichever verifier. Where a block went with its hash or with the batch
        itself, the same place is another question: an answer that is keyed with the old seed would convict this node
        of copying."""
        wanted = f"select offer, opening from node_audit where {PLACE} and opening is not null"
        for known, opening in self._all(wanted, *offer.place):
            if same_question(decode(known, AuditOffer), offer):
                return decode(opening, SealOpened)
        return None

    def open_audits(self) -> list[tuple[Address, AuditOffer, SealOpened]]:
        """Seals that are made and that their verifier has not taken yet."""
        wanted = "select verifier, offer, opening from node_audit where submitted = 0 and opening is not null"
        return [
            (Address(verifier), decode(offer, AuditOffer), decode(opening, SealOpened))
            for verifier, offer, opening in self._all(wanted)
        ]

    def answers(self) -> set[Digest]:
        """The digests that were sealed in batches that are not settled."""
        openings = self._all("select opening from node_audit where opening is not null")
        return {decode(opening, SealOpened).after for (opening,) in openings}

    def sealed_batches(self) -> set[BatchId]:
        """Batches that this node was given a seat in."""
        return {BatchId(batch) for (batch,) in self._all("select distinct batch from node_audit")}

    def forget_seals(self, batch: BatchId) -> None:
        """A batch is final: nobody opens seals of it any more."""
        self._write("delete from node_audit where batch = ?", batch)

    def opening(self, verifier: Address, request: OpenSeal) -> SealOpened | None:
        """What `verifier` was given a seal of; from now on it is no secret."""
        key = (request.batch, request.job, request.task, request.segment, verifier)
        row = self._one(f"select opening, opened from node_audit where {SEAL}", *key)
        if not row or row[0] is None:
            return None
        if not row[1]:
            self._write(f"update node_audit set opened = 1 where {SEAL}", *key)
        return decode(row[0], SealOpened)

    def opened(self, request: OpenSeal, sealed_before: float) -> SealOpened | None:
        """What is no secret any more: shown to whom it was sealed for, or sealed before a time (Unix seconds)."""
        place = (request.batch, request.job, request.task, request.segment)
        wanted = f"select opening from node_audit where {PLACE} and opening is not null"
        newest = "order by sealed_at desc limit 1"
        row = self._one(f"{wanted} and (opened or sealed_at < ?) {newest}", *place, sealed_before)
        return decode(row[0], SealOpened) if row else None

    # Rounds

    def introduce(self, now: float) -> None:
        """Somebody has this node's key as a voter since `now` (Unix seconds), or since before."""
        if not self.is_introduced():
            self._write("insert into node_introduced (at) values (?)", now)

    def is_introduced(self) -> bool:
        """Whether anybody has this node's key as a voter: without it no roster has the node."""
        return bool(self._one("select 1 from node_introduced"))

    def begin_round(self, round_digest: Digest, job: JobId, now: float) -> float:
        """This node votes in a round from `now` on (Unix seconds), or since before: returns since when."""
        values = (round_digest, job, now, encode(Durable()))
        self._write("insert or ignore into node_round (round, job, began, durable) values (?, ?, ?, ?)", *values)
        return float(self._one("select began from node_round where round = ?", round_digest)[0])

    def keep_round(self, round_digest: Digest, durable: Durable) -> None:
        """What must outlive a crash of a round that was begun: nothing that this node says in it leaves before. Raises
        `JournalError`, also for a round that was not."""
        if not self._one("select 1 from node_round where round = ?", round_digest):
            raise JournalError(f"round {round_digest.hex()[:8]} is not begun, or is forgotten")
        self._write("update node_round set durable = ? where round = ?", encode(durable), round_digest)

    def durable(self, round_digest: Digest) -> Durable | None:
        """What was kept of a round last."""
        row = self._one("select durable from node_round where round = ?", round_digest)
        return decode(row[0], Durable) if row else None

    def keep_delta(self, place: int, shown: ShownDelta) -> None:
        """A result was found right, as the first of its task (`place` 0) or as the one that was proposed (1)."""
        commitment = shown.commitment
        values = (shown.round, commitment.task, place, commitment.job, commitment.result, encode(shown))
        columns = "round, task, place, job, result, shown"
        self._write(f"insert or replace into node_delta ({columns}) values (?, ?, ?, ?, ?, ?)", *values)

    def shown_delta(self, round_digest: Digest, delta: Delta) -> ShownDelta | None:
        """The commitment to a result."""
        wanted = "select shown from node_delta where round = ? and task = ? and result = ?"
        row = self._one(wanted, round_digest, delta.task, delta.result)
        return decode(row[0], ShownDelta) if row else None

    def shown_deltas(self, round_digest: Digest) -> list[ShownDelta]:
        """All of a round, the first of each task before the one that was proposed."""
        wanted = "select shown from node_delta where round = ? order by place, task"
        return [decode(row[0], ShownDelta) for row in self._all(wanted, round_digest)]

    def forget_deltas(self, round_digest: Digest) -> None:
        """A round is decided: nobody looks any more at what it could have taken."""
        self._write("delete from node_delta where round = ?", round_digest)

    def forget_rounds(self, job: JobId) -> None:
        """A job is over: nobody votes in its rounds any more, and nobody asks what they took."""
        self._write("delete from node_delta where job = ?", job)
        self._write("delete from node_round where job = ?", job)


def _held(verifier: str, offer: bytes, submission: bytes, every: int) -> Iterator[HeldTask]:
    task, done = decode(offer, TaskOffer), decode(submission, SubmitCommitment)
    yield HeldTask(Address(verifier), task, done, every)
    if (decoy := done.decoy) is not None:
        shown = SubmitCommitment(decoy.commitment, decoy.signature, decoy.trace, decoy.salt)
        yield HeldTask(Address(verifier), task, shown, 1, decoy=True)


def _task_key(verifier: Address, offer: TaskOffer) -> tuple[str, int, int, str]:
    inputs = hashlib.sha256(encode(offer.inputs)).hexdigest()[:32]
    return verifier, offer.job, offer.task.index, inputs


def same_question(earlier: AuditOffer, offer: AuditOffer) -> bool:
    """Whether an answer to an earlier offer of a segment is one to this offer."""
    return (earlier.seed, earlier.before, earlier.manifest) == (offer.seed, offer.before, offer.manifest)


def _key(verifier: Address, offer: AuditOffer) -> tuple[int, int, int, int, str]:
    return (*offer.place, verifier)
