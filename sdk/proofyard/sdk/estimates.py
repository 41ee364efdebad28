"""What a job will take before it is paid: time, money, bytes and audits, from what the network did lately.

Measured is what the chain shows of jobs of the same workload that were settled whole: the time from opening to the last
settlement, the reward, the audits that were paid. Nothing is made up: where there was no such job, it says so, and the
field is None. What openers and workers say of themselves has no part in it; an opener who pays its own nodes can set a
price, so prices are medians.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median

from proofyard.artifacts import BlockStore
from proofyard.chain import BatchSettled, ChainClient, ChainError, JobOpened
from proofyard.chain.events import topic_of
from proofyard.chain.following import MAX_RANGE
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.record import MAX_RECORD_BYTES, BatchRecord, decode_record
from proofyard.protocol.types import Cid, JobId, ProofyardError, Wei
from proofyard.sdk.preparing import Prepared
from proofyard.workloads.workload import all_tasks, load_workload, possible_finals

MOST_JOBS, MOST_RECORDS = 20, 3
"""The newest that are looked at: a job is two requests to the chain, a record is fetched from a verifier."""
Read = Callable[[Cid, int], bytes]


@dataclass(frozen=True)
class Spread:
    """The middle of some measurements, the least and the most of them."""

    middle: float
    least: float
    most: float


@dataclass(frozen=True)
class PastJob:
    """A job that was settled whole. `seconds` from its opening to its last settlement."""

    job: JobId
    units: int
    reward: Wei
    seconds: float


@dataclass(frozen=True)
class Rates:
    """What the network did lately with one workload, in the blocks from `first` to `last`. `audited`: how many
    segments auditors executed, to one that workers did; None where no record could be had."""

    jobs: tuple[PastJob, ...]
    audited: float | None
    first: int
    last: int

    def seconds(self, units: int) -> Spread | None:
        """How long so many units take at the pace of those jobs. A small job is mostly waiting for blocks: it takes no
        less than the shortest of them took."""
        if not self.jobs:
            return None
        shortest = min(job.seconds for job in self.jobs)
        times = [max(shortest, job.seconds * units / job.units) for job in self.jobs]
        return Spread(median(times), min(times), max(times))

    def reward(self, units: int) -> Spread | None:
        """What so many units earned their workers, in base units."""
        if not self.jobs:
            return None
        prices = [job.reward * units / job.units for job in self.jobs]
        return Spread(median(prices), min(prices), max(prices))


@dataclass(frozen=True)
class Estimate:
    """What a job will take. Amounts in base units; `reward`, `audit_fee`, `verifier_fee` are what goes into escrow, of
    which what is not spent comes back. `usual_reward`: what others paid for as much work. `gas` in units, `gas_cost` in
    wei of ether, None where the endpoint cannot tell. `bytes_up`, `bytes_down`: the most that is sent and fetched.
    `audit_overhead`: segments that are done again for audits, to those of the job, as measured; `audit_overhead_most`
    where every task is audited. `samples`: how many jobs time and price rest on; `basis` says it in a sentence.
    `length` says what the job's epochs came to, "" where it names none."""

    workload: str
    tasks: int
    units: int
    seconds: Spread | None
    usual_reward: Spread | None
    reward: Wei
    audit_fee: Wei
    verifier_fee: Wei
    gas: int | None
    gas_cost: int | None
    bytes_up: int
    bytes_down: int
    audit_overhead: float | None
    audit_overhead_most: float
    samples: int
    basis: str
    length: str = ""

    @property
    def escrow(self) -> Wei:
        return Wei(self.reward + self.audit_fee + self.verifier_fee)


def estimate(chain: ChainClient, store: BlockStore, read: Read, prepared: Prepared) -> Estimate:
    """What a prepared job will take."""
    terms, manifest = prepared.terms, prepared.manifest
    workload = load_workload(manifest.workload)
    graph = all_tasks(workload, manifest)
    rates = rates_of(chain, read, terms.workload)
    gas = _gas_of(chain, prepared)
    segments = sum(task.segments for task in graph)
    most = _most_audited(graph, terms.auditors_per_segment, terms.segments_per_audit) / segments
    finals = possible_finals(workload, manifest)
    return Estimate(
        workload=manifest.workload,
        tasks=len(graph),
        units=terms.units,
        seconds=rates.seconds(terms.units),
        usual_reward=rates.reward(terms.units),
        reward=terms.reward,
        audit_fee=terms.audit_fee,
        verifier_fee=terms.verifier_fee,
        gas=gas,
        gas_cost=None if gas is None else gas * chain.gas_price(),
        bytes_up=sum(store.size(cid) for cid in prepared.artifacts),
        bytes_down=sum(workload.max_bytes(manifest, task) for task in graph if task.index in finals),
        audit_overhead=rates.audited,
        audit_overhead_most=most,
        samples=len(rates.jobs),
        basis=basis_of(rates, manifest.workload),
        length=prepared.length,
    )


def rates_of(chain: ChainClient, read: Read, workload: int) -> Rates:
    """What the network did with a workload, by its bit, in the blocks that one request for events covers."""
    events = chain.recent_events([[topic_of(JobOpened), topic_of(BatchSettled)]])
    last = chain.block_number()
    opened = {event.job: event for event in events if isinstance(event, JobOpened) and event.workload == workload}
    settled = [event for event in events if isinstance(event, BatchSettled)]
    standing = {event.batch: event for event in settled}
    ended: dict[JobId, tuple[int, int]] = {}
    for event in standing.values():
        for line in event.lines:
            units, block = ended.get(line.job, (0, 0))
            ended[line.job] = units + line.units, max(block, event.position.block)
    whole = [(event, ended[job][1]) for job, event in opened.items() if ended.get(job, (0, 0))[0] == event.units]
    newest = sorted(whole, key=lambda pair: pair[1])[-MOST_JOBS:]
    jobs = [
        PastJob(event.job, event.units, event.reward, chain.block_time(end) - chain.block_time(event.position.block))
        for event, end in newest
    ]
    of_workload = [event for event in standing.values() if any(line.job in opened for line in event.lines)]
    return Rates(tuple(jobs), _audited(read, of_workload[-MOST_RECORDS:]), max(0, last - MAX_RANGE + 1), last)


def basis_of(rates: Rates, workload: str) -> str:
    """What an estimate rests on, for people."""
    if not rates.jobs:
        return (
            f"no {workload} job was settled whole in the blocks {rates.first} to {rates.last} that were looked at: how "
            "long one takes, and what it earns, is not known"
        )
    some = f"{len(rates.jobs)} {workload} job{'s' if len(rates.jobs) > 1 else ''} settled whole"
    few = "; that is few" if len(rates.jobs) < 3 else ""
    return f"measured of {some} in the blocks {rates.first} to {rates.last}, scaled by units of work{few}"


def _audited(read: Read, batches: Sequence[BatchSettled]) -> float | None:
    """Segments that auditors answered for, to one that was committed, by the records that the chain names."""
    records: list[BatchRecord] = []
    for event in batches:
        with suppress(ProofyardError):  # nobody has it any more
            records.append(decode_record(read(event.record, MAX_RECORD_BYTES)))
    done = sum(task.commitment.segments for record in records for task in record.tasks)
    answers = sum(len(audit.answers()) for record in records for audit in record.audits)
    return answers / done if done else None


def _most_audited(graph: Sequence[TaskSpec], auditors: int, segments: int) -> int:
    return sum(auditors * min(segments, task.segments) for task in graph)


def _gas_of(chain: ChainClient, prepared: Prepared) -> int | None:
    try:
        verifier = next((seat.id for seat in chain.active_verifiers() if seat.counts), None)
        return chain.gas_to_open(replace(prepared.terms, verifier=verifier))
    except ChainError as error:
        if error.exit_code == 3:
            raise
        return None
