"""What must hold when a storm of `soak.py` is over: on chain, in the verifiers' databases, and between both."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlmodel import col, select

from proofyard.chain import BatchState as ChainBatch
from proofyard.chain.errors import ChainError
from proofyard.chain.events import (
    BatchDropped,
    BatchSettled,
    BatchVoided,
    ChallengeOpened,
    Event,
    Faulted,
    JobRefunded,
    Penalised,
    topic_of,
)
from proofyard.protocol.record import payouts_of
from proofyard.protocol.types import BatchId, Cid, JobId, ProofyardError, TaskIndex
from proofyard.sdk import claim_all, settled_batches, unclaimed
from proofyard.sdk.results import standing_batches
from proofyard.verifier.engine.rows import Batch, BatchState, Job, JobState, Task, TaskState
from proofyard.verifier.store.database import Database
from proofyard.verifier.store.tables import Known, Transaction
from soak_jobs import Requesters, Submitted
from soak_network import SoakNetwork
from soak_work import Rounds, executed, result_cids

WRONGS = (Faulted, ChallengeOpened, Penalised, BatchDropped, BatchVoided)
"""Nobody cheats: each of these wrongs somebody honest."""


@dataclass
class Findings:
    """What does not hold, by kind, each with a sentence."""

    found: list[tuple[str, str]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    """What was told in an earlier round."""

    def add(self, kind: str, what: str) -> None:
        if what not in self.seen:
            self.seen.add(what)
            self.found.append((kind, what))
            print(f"  FOUND {kind}: {what}", flush=True)

    def counts(self) -> Counter[str]:
        return Counter(kind for kind, _ in self.found)


class Books:
    """Looks at everything of one network."""

    def __init__(self, network: SoakNetwork, requesters: Requesters, findings: Findings) -> None:
        self._network, self._requesters, self._findings = network, requesters, findings
        self._chain = network.chain()
        self._databases = network.databases
        self._checked: set[Cid] = set()

    def check(self) -> None:
        """Everything; `Findings` has what does not hold."""
        if not self._network.books().conserved:
            self._findings.add("conserved", f"the books do not add up: {self._network.books()}")
        events = self._chain._events_since(
            self._requesters.first_block, [[topic_of(kind) for kind in (*WRONGS, BatchSettled, JobRefunded)]]
        )
        for event in events:
            if isinstance(event, WRONGS):
                self._findings.add("wronged", f"{event}")
        for job in self._requesters.jobs:
            if job.over and job.cid not in self._checked:
                self._checked.add(job.cid)
                self.check_job(job, events)
        for name, url in self._databases.items():
            self._check_database(name, url)

    # On chain

    def check_job(self, job: Submitted, events: Sequence[Event]) -> None:
        assert job.number is not None
        record, terms, name = self._chain.job(job.number), job.terms, f"job {job.number}"
        if record.units_paid != terms.units:
            self._findings.add("unpaid", f"{name}: {record.units_paid} of {terms.units} units are paid")
        standing = set(standing_batches(self._chain, job.number))
        latest = {e.batch: e for e in events if isinstance(e, BatchSettled) and e.batch in standing}
        lines = [line for e in latest.values() for line in e.lines if line.job == job.number]
        paid, units = sum(line.amount for line in lines), sum(line.paid_units for line in lines)
        back = sum(e.amount for e in events if isinstance(e, JobRefunded) and e.job == job.number)
        put_in = terms.reward + terms.audit_fee + terms.verifier_fee
        if paid + back + record.escrow + record.surplus != put_in:
            rest = f"{record.escrow} + {record.surplus} left"
            self._findings.add("conserved", f"{name}: {paid} paid, {back} back, {rest}, {put_in} put in")
        if units > terms.units:
            self._findings.add("paid_twice", f"{name}: {units} units were paid, it has {terms.units}")
        try:
            self._check_work(job)
        except ProofyardError as error:
            kind = "paid_twice" if "and in another one" in str(error) else "lost"
            self._findings.add(kind, f"{name}: {error}")

    def _check_work(self, job: Submitted) -> None:
        """Its records hold, every task is in one of them, with the result of whoever executes it alone; and everybody
        in them can have their pay."""
        assert job.number is not None
        proven, true = job.client.prove(job.number), result_cids(job.manifest)
        if dict(proven.results) != true:
            self._findings.add("lost", f"job {job.number}: other results than an execution here: {proven.results}")
        batches = settled_batches(job.client, job.number)
        for batch in batches:
            due = sum(payout.amount for payout in payouts_of(batch.record) if payout.cause is None)
            if due != batch.event.payout_total:
                self._findings.add("conserved", f"batch {batch.event.batch}: its record pays {due}: {batch.event}")
        claim_all(job.client, unclaimed(job.client, batches))
        if left := unclaimed(job.client, batches):
            self._findings.add("unpaid", f"job {job.number}: nobody can claim {left}")

    # In the databases

    def _check_database(self, name: str, url: str) -> None:
        database = Database(url)
        try:
            self._check_jobs(name, database)
            self._check_batches(name, database)
            for row in database.ask_here(_sent):
                self._findings.add("stuck", f"{name}: the outbox still has {row.what} ({row.subject}): {row.reason}")
            for known in database.ask_here(lambda session: session.exec(select(Known)).all()):
                self._findings.add("stuck", f"{name}: batch {known.batch} is not forgotten: {known}")
        finally:
            database.close()

    def _check_jobs(self, name: str, database: Database) -> None:
        tasks = _by_job(database.rows(Task))
        mine = {job.number: job for job in self._requesters.jobs if job.over}
        rows = [row for row in database.rows(Job) if isinstance(row, Job)]
        for row in rows:
            job = mine.get(row.id)
            if job is None or row.elsewhere or row.manifest != job.cid:
                continue
            where = f"{name}: job {row.id}"
            if row.state != JobState.DONE:
                self._findings.add("lost", f"{where} is {row.state} in its database: {row.reason}")
            if (row.units_open, row.units_paid) != (0, job.terms.units):
                self._findings.add("stuck", f"{where} has {row.units_open} units open, {row.units_paid} paid")
            if row.result != packaged(job):
                self._findings.add("lost", f"{where} has the result {row.result}")
            if any(task.state != TaskState.ACCEPTED for task in tasks.get(row.id, [])):
                self._findings.add("stuck", f"{where} is done, and has tasks that are not accepted")

    def _check_batches(self, name: str, database: Database) -> None:
        for row in database.rows(Batch):
            assert isinstance(row, Batch)
            where = f"{name}: batch {row.chain_id} (row {row.id}, {row.state}, {row.reason})"
            if row.state not in (BatchState.FINAL, BatchState.DROPPED, BatchState.TAKEN):
                self._findings.add("stuck", f"{where} is not final")
            on_chain = self._batch(row.chain_id)
            if row.state == BatchState.FINAL and (on_chain is None or not on_chain.settled_at):
                self._findings.add("lost", f"{where} is not settled on chain")
            if row.state == BatchState.DROPPED and on_chain is not None and not on_chain.dropped:
                self._findings.add("lost", f"{where} is on chain")

    def _batch(self, number: BatchId | None) -> ChainBatch | None:
        try:
            return None if number is None else self._chain.batch(number)
        except ChainError:
            return None

    def settling(self) -> list[str]:
        """What is on its way and needs some seconds more: batches in their windows, transactions."""
        left = []
        for name, url in self._databases.items():
            database = Database(url)
            try:
                over = [BatchState.FINAL.value, BatchState.DROPPED.value, BatchState.TAKEN.value]
                left += [f"{name} {row.key}" for row in database.rows(Batch) if getattr(row, "state", "") not in over]
                left += [f"{name} {row.subject}" for row in database.ask_here(_sent)]
                left += [f"{name} {k.batch}" for k in database.ask_here(lambda s: s.exec(select(Known)).all())]
            finally:
                database.close()
        return left


def _sent(session: Any) -> list[Transaction]:
    return list(session.exec(select(Transaction).where(col(Transaction.state) == "sent")))


def _by_job(rows: Iterable[Any]) -> dict[JobId, list[Task]]:
    found: dict[JobId, list[Task]] = {}
    for row in rows:
        found.setdefault(row.job, []).append(row)
    return found


def packaged(job: Submitted) -> Cid:
    """The artifact of a job's result, made here."""
    done = executed(job.manifest)
    with tempfile.TemporaryDirectory() as folder:

        def result(task: TaskIndex) -> bytes:
            return done[task]

        return job.client.store.put_directory(Rounds().package(job.manifest, result, Path(folder) / "result"))
