"""One audited segment with all that judging it needs."""

from dataclasses import dataclass

from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex


@dataclass(frozen=True)
class Case:
    """`trace` is the worker's; `auditors` in the plan's order; `owners` by node; `drawn_at` in Unix seconds."""

    batch_row: int
    batch: BatchId
    job: JobId
    manifest_cid: Cid
    manifest: Manifest
    spec: TaskSpec
    segment: SegmentIndex
    worker: Address
    trace: tuple[Cid, ...]
    auditors: tuple[Address, ...]
    owners: dict[Address, Address]
    seats: int
    drawn_at: float

    def key(self, auditor: Address) -> tuple[int, int, int, str]:
        """The primary key of an auditor's seat."""
        return (self.batch_row, self.spec.index, self.segment, auditor)

    @property
    def name(self) -> str:
        return f"task {self.spec.index} segment {self.segment}"

    @property
    def claimed(self) -> Digest:
        """The worker's own answer."""
        return cid_digest(self.trace[self.segment + 1])
