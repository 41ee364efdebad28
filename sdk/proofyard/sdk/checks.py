"""What the settled records of a job say of it: who worked, who audited and found what, who was at fault, what was paid.

Records name hot keys; people are owners here, who hold the stake and are paid.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proofyard.protocol.audit import Verdict
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, BatchId, JobId, SegmentIndex, TaskIndex, Wei
from proofyard.sdk.results import accepted_of
from proofyard.workloads.workload import caps_of, load_workload

if TYPE_CHECKING:
    from proofyard.disputes.settled import Settled


@dataclass(frozen=True)
class Fault:
    """What an owner did wrong; `segment` is None where it lies in the result. `reason` is a text for people, as whoever
    found it wrote it."""

    batch: BatchId
    task: TaskIndex
    segment: SegmentIndex | None
    owner: Address
    kind: str
    reason: str


@dataclass(frozen=True)
class Paid:
    """What an owner was paid, in base units: for accepted tasks and for audits."""

    owner: Address
    work: Wei
    audits: Wei


@dataclass(frozen=True)
class TooMuch:
    """An owner that did `tasks` of a round, and the job lets one do fewer. Rounds count from 1, with those of the jobs
    that it goes on from."""

    round: int
    owner: Address
    tasks: int

    def __str__(self) -> str:
        return f"{self.owner} did {self.tasks} tasks of round {self.round}, more than the job lets one owner do (caps)"


@dataclass(frozen=True)
class Checks:
    """`tasks` committed by `nodes`; `segments` that auditors executed again, by `verdicts`, and how many of them each
    owner of `auditors` did; `paid` by owner, and `fees` to verifiers. `shared`: batches that other jobs have tasks in,
    whose payments are of all of them together. `too_much`: where a verifier gave one owner more than the job lets it
    have."""

    tasks: int
    nodes: int
    segments: int
    verdicts: tuple[tuple[str, int], ...]
    auditors: tuple[tuple[Address, int], ...]
    faults: tuple[Fault, ...]
    paid: tuple[Paid, ...]
    fees: Wei
    shared: tuple[BatchId, ...]
    too_much: tuple[TooMuch, ...] = ()


def too_much_of(job: JobId, manifest: Manifest, batches: Iterable["Settled"]) -> tuple[TooMuch, ...]:
    """Who did more of a round than the job lets one owner do, by the tasks that its settled batches accept."""
    capped = caps_of(load_workload(manifest.workload), manifest)
    if capped is None or not capped[1].owner:
        return ()
    begins = manifest.params.get("begins")
    first = begins["round"] + 1 if begins else 1
    did: Counter[tuple[int, Address]] = Counter()
    for batch in batches:
        nodes = {task: each.node for task, each in accepted_of(job, batch).items()}
        did.update((first + task // capped[0], batch.view.owners[node][1]) for task, node in nodes.items())
    return tuple(TooMuch(*key, count) for key, count in sorted(did.items()) if count > capped[1].owner)


def checks_of(job: JobId, manifest: Manifest, batches: Sequence["Settled"]) -> Checks:
    """From the settled batches of a job, in their order."""
    tasks: list[Address] = []
    verdicts: Counter[str] = Counter()
    auditors: Counter[Address] = Counter()
    faults: list[Fault] = []
    work: Counter[Address] = Counter()
    audits: Counter[Address] = Counter()
    for batch in batches:
        record, owners = batch.record, batch.view.owners
        tasks += [each.commitment.node for each in record.tasks if each.commitment.job == job]
        for audit in record.audits:
            if audit.job == job:
                verdicts[audit.verdict.value] += 1
                auditors.update(owners[vote.auditor][1] for vote in audit.votes)
        for fault in record.faults:
            if fault.job == job:
                owner, kind = owners[fault.node][1], FaultReason(fault.kind).name.lower().replace("_", " ")
                faults.append(Fault(batch.event.batch, fault.task, fault.segment, owner, kind, fault.reason))
        for paid in record.payouts:
            work[paid.owner] += int(paid.work)
            audits[paid.owner] += int(paid.audits)
        for redress in record.redress:
            work[redress.owner] += int(redress.amount)
    return Checks(
        tasks=len(tasks),
        nodes=len(set(tasks)),
        segments=sum(verdicts.values()),
        verdicts=tuple((each.value, verdicts[each.value]) for each in Verdict if verdicts[each.value]),
        auditors=tuple(sorted(auditors.items())),
        faults=tuple(faults),
        paid=tuple(Paid(each, Wei(work[each]), Wei(audits[each])) for each in sorted(work.keys() | audits.keys())),
        fees=Wei(sum(batch.event.fees for batch in batches)),
        shared=tuple(batch.event.batch for batch in batches if len(batch.record.jobs) > 1),
        too_much=too_much_of(job, manifest, batches),
    )
