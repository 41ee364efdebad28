"""What Prometheus is told. Counters are kept where things happen: lines of the log, effects, requests to the chain.
What only the database knows is counted there, every `SAMPLE_S` seconds in a thread; a scrape reads what is there.
"""

import threading
import time
from collections import Counter as Tally
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from sqlalchemy import Engine, Select, func, select

from proofyard.protocol.types import Address
from proofyard.verifier.api.queries import fault_name
from proofyard.verifier.engine import rows
from proofyard.verifier.engine.rows import BatchState, JobState, Log, TaskState, WorkState
from proofyard.verifier.store.tables import TABLES

PREFIX = "proofyard_verifier"
OUTCOMES = {"audit-match": "match", "audit-mismatch": "mismatch", "sealed": "sealed", "audit-assigned": "assigned"}
"""Kinds of log lines about audits, and what they are called here."""
RECEIPTS = 1000
"""Transactions whose receipts were counted are remembered: a receipt is asked for more than once."""
TOKEN = 1e18
"""Base units of a CREDIT, and of the chain's own currency."""

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """One verifier's. Safe to use from several threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, labels, registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"{PREFIX}_{name}", text, labels, buckets=buckets, registry=self.registry)

        seconds = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
        self.build = Info(PREFIX, "Version, verifier and chain.", registry=self.registry)
        self.jobs = gauge("jobs", "Jobs by state.", "state")
        self.tasks = gauge("tasks", "Tasks of jobs that are not over, by state.", "state")
        self.batches = gauge("batches", "Batches by state.", "state")
        self.oldest_batch = gauge(
            "batch_age_seconds", "Age of the oldest batch that is not settled, since its opening."
        )
        self.quiet = gauge("job_quiet_seconds", "Longest time that a running job's log has been silent.")
        self.unbatched = gauge("receipts_unbatched", "Commitments with a receipt that are in no batch.")
        self.due = gauge("receipt_due_seconds", "Time until the first receipt without a batch falls due.")
        self.segments = gauge("audits_pending", "Drawn segments without a verdict.")
        self.audits = counter("audits", "Audits by what became of them.", "outcome")
        self.events = counter("log_lines", "Lines of the jobs' logs by kind.", "kind")
        self.faults = gauge("faults", "Faults that this verifier has against nodes, by kind.", "kind")
        self.nodes = gauge("nodes", "Nodes that are connected.")
        self.waiting = gauge("events_waiting", "Events that the engine has not taken in yet.")
        self.loop_lag = histogram("loop_lag_seconds", "How late the event loop wakes who sleeps.", buckets=seconds)
        self.running = gauge("effects_running", "Effects that run, by kind.", "kind")
        self.effects = counter("effects", "Effects by kind and outcome.", "kind", "outcome")
        self.effect_seconds = histogram("effect_seconds", "How long effects take.", "kind", buckets=(*seconds, 300.0))
        # Looked up for every line and effect, of few kinds.
        self._event, self._effect = cache(self.events.labels), cache(self.effects.labels)
        self._effect_seconds = cache(self.effect_seconds.labels)
        self.commits = counter("database_commits", "Transactions of the engine's rows.")
        self.commit_rows = counter("database_rows", "Rows in them.")
        self.commit_seconds = histogram("database_commit_seconds", "How long they take.", buckets=seconds)
        self.sent = counter("artifact_bytes_sent", "Bytes of artifacts that peers were sent.")
        self.disk_free = gauge("disk_free_bytes", "What is free on the disk of the data directory.")
        self.rpc = counter("rpc_requests", "Requests to the chain, by method and outcome.", "method", "outcome")
        self.rpc_seconds = histogram("rpc_seconds", "How long they take.", "method", buckets=seconds)
        self.gas = counter("gas", "Gas of this wallet's mined transactions.", "contract", "outcome")
        self.gas_paid = counter("gas_paid_ether", "What that cost, in the chain's own currency.")
        self.transactions = counter("transactions", "Mined transactions.", "contract", "outcome")
        self.in_flight = gauge("transactions_in_flight", "Transactions that are sent and in no block.")
        self.in_flight_age = gauge("transaction_age_seconds", "How long the oldest of them waits.")
        self.leads = gauge("leads", "1 where this process leads, 0 where it stands by for another one of its database.")
        self.ether = gauge("wallet_ether", "The wallet's balance in the chain's own currency: what gas is paid from.")
        self.credit = gauge("wallet_credit", "The wallet's CREDIT.")
        self.stake = gauge("owner_stake_credit", "CREDIT at stake for the owner of this verifier.")
        self.exposed = gauge("owner_open_credit", "CREDIT that its batches hold open until they are final.")
        self.block = gauge("chain_block", "The newest block that was followed.")
        self.block_age = gauge("chain_block_age_seconds", "Age of the newest block, by its own time.")
        self.followed = gauge("chain_followed_seconds", "Time since the chain was last read.")
        self.ready = gauge("ready", "1 where every condition of readiness holds.")
        self.check = gauge("check", "1 where a condition of readiness holds.", "name")
        self._contracts: dict[str, str] = {}
        self._wallet = ""
        self._receipts: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._named: dict[int, set[str]] = {}
        """Labels of each gauge that were ever set."""
        for outcome in ("match", "mismatch", "lost"):
            self.audits.labels(outcome)
        for outcome in ("ok", "refused", "failed"):
            self.rpc.labels("eth_call", outcome)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def describe(self, version: str, wallet: Address, registry: Address, court: Address, chain_id: int) -> None:
        self.build.info({"version": version, "verifier": wallet, "registry": registry, "chain_id": str(chain_id)})
        self._wallet, self._contracts = wallet.lower(), {registry.lower(): "registry", court.lower(): "court"}

    # Where things happen

    def note_line(self, row: Log) -> None:
        """A line of a job's log."""
        self._event(row.kind).inc()
        outcome = OUTCOMES.get(row.kind)
        if outcome is None and row.kind == "lost" and row.text.startswith("audit"):
            outcome = "lost"
        if outcome is not None:
            self.audits.labels(outcome).inc()

    def note_request(self, method: str, seconds: float, answer: Any) -> None:
        """A request to the chain's endpoint."""
        outcome = "failed" if isinstance(answer, Exception) else "ok"
        if isinstance(answer, Mapping):
            outcome = "refused" if answer.get("error") else "ok"
            if method == "eth_getTransactionReceipt" and isinstance(answer.get("result"), Mapping):
                self._note_receipt(answer["result"])
        self.rpc.labels(method, outcome).inc()
        self.rpc_seconds.labels(method).observe(seconds)

    def _note_receipt(self, receipt: Mapping[str, Any]) -> None:
        name = _hex(receipt.get("transactionHash"))
        with self._lock:
            if name in self._receipts or _hex(receipt.get("from")).lower() != self._wallet:
                return
            self._receipts[name] = None
            while len(self._receipts) > RECEIPTS:
                self._receipts.popitem(last=False)
        contract = self._contracts.get(_hex(receipt.get("to")).lower(), "other")
        outcome = "ok" if _number(receipt.get("status")) == 1 else "reverted"
        gas, price = _number(receipt.get("gasUsed")), _number(receipt.get("effectiveGasPrice"))
        self.transactions.labels(contract, outcome).inc()
        self.gas.labels(contract, outcome).inc(gas)
        self.gas_paid.inc(gas * price / TOKEN)

    def note_effect(self, kind: str, outcome: str, seconds: float) -> None:
        self._effect(kind, outcome).inc()
        self._effect_seconds(kind).observe(seconds)

    # What is looked at every so often

    def note_commits(self, commits: list[tuple[int, float]]) -> None:
        """Transactions of the database that were not counted yet."""
        for written, seconds in commits:
            self.commits.inc()
            self.commit_rows.inc(written)
            self.commit_seconds.observe(seconds)

    def note_outbox(self, written: list[float]) -> None:
        """When what is in flight was written, in Unix seconds."""
        self.in_flight.set(len(written))
        self.in_flight_age.set(max(0.0, time.time() - min(written)) if written else 0.0)

    def note_running(self, kinds: Tally[str]) -> None:
        self._set(self.running, kinds)

    def note_counts(self, counts: "Counts") -> None:
        self._set(self.jobs, counts.jobs)
        self._set(self.tasks, {state.value: counts.tasks.get(state.value, 0) for state in TaskState})
        self._set(self.batches, counts.batches)
        self._set(self.faults, counts.faults)
        for gauge, value in (
            (self.oldest_batch, counts.oldest_batch),
            (self.quiet, counts.quiet),
            (self.unbatched, counts.unbatched),
            (self.due, counts.due),
            (self.segments, counts.segments),
        ):
            gauge.set(value)

    def _set(self, gauge: Gauge, values: Mapping[str, float]) -> None:
        """Set one gauge for each label; those that were named before and are not now are nothing."""
        named = self._named.setdefault(id(gauge), set())
        for label in named - values.keys():
            gauge.labels(label).set(0)
        for label, value in values.items():
            gauge.labels(label).set(value)
        named.update(values)


class Counts:
    """Sums over the database, at one time. `now`: Unix seconds of the chain's clock. Reads in the calling thread."""

    def __init__(self, engine: Engine, now: float) -> None:
        job, task, work = TABLES[rows.Job], TABLES[rows.Task], TABLES[rows.Work]
        batch, segment, fault, log = TABLES[rows.Batch], TABLES[rows.Segment], TABLES[rows.Fault], TABLES[rows.Log]
        over = [JobState.DONE.value, JobState.FAILED.value]
        ended = [state.value for state in (BatchState.SETTLED, BatchState.FINAL, BatchState.DROPPED)]

        def tally(column: Any, *where: Any) -> dict[Any, int]:
            query = select(column, func.count()).where(*where).group_by(column)
            with engine.connect() as connection:
                return {key: int(count) for key, count in connection.execute(query)}

        live = select(job.c.id).where(job.c.state.not_in(over))
        self.jobs = {str(state): count for state, count in tally(job.c.state).items()}
        self.tasks = {str(state): count for state, count in tally(task.c.state, task.c.job.in_(live)).items()}
        self.batches = {str(state): count for state, count in tally(batch.c.state).items()}
        self.faults = {fault_name(kind): count for kind, count in tally(fault.c.kind).items()}
        auditing = select(batch.c.id).where(batch.c.state == BatchState.AUDITING.value)
        pending = tally(segment.c.verdict, segment.c.batch.in_(auditing), segment.c.verdict == "pending")
        self.segments = pending.get("pending", 0)
        opened = select(func.min(batch.c.opened_at).label("at")).where(
            batch.c.state.not_in(ended), batch.c.opened_at > 0
        )
        first = _read(engine, opened)[0]["at"]
        self.oldest_batch = max(0.0, now - first) if first else 0.0
        open_ = [work.c.state == WorkState.COMMITTED.value, work.c.batch == 0]
        waiting: Any = select(func.count().label("n"), func.min(work.c.promised_until).label("at")).where(*open_)
        found = _read(engine, waiting)[0]
        self.unbatched, due = int(found["n"]), found["at"]
        self.due = max(0.0, due - now) if due else float("inf")
        last = select(func.max(log.c.seq)).where(log.c.job == job.c.id).correlate(job).scalar_subquery()
        lines: Select[Any] = select(log.c.at).join_from(job, log, (log.c.job == job.c.id) & (log.c.seq == last))
        times = [row["at"] for row in _read(engine, lines.where(job.c.state == JobState.RUNNING.value))]
        self.quiet = max(0.0, now - min(times)) if times else 0.0


@cache
def version() -> str:
    """Of the installed distribution; empty where there is none."""
    try:
        return installed("proofyard")
    except PackageNotFoundError:
        return ""


def _hex(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value or "")


def _number(value: Any) -> int:
    return int(value, 16) if isinstance(value, str) else int(value or 0)


def _read(engine: Engine, query: Select[Any]) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]
