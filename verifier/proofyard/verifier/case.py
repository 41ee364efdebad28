"""One audited segment with all that judging it needs."""

from collections.abc import Mapping
from dataclasses import dataclass

from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, TaskIndex

Place = tuple[JobId, TaskIndex, SegmentIndex]


@dataclass(frozen=True)
class Case:
    """`leaf` is the commitment's struct hash, `trace` the worker's; `auditors` in the plan's order; `owners` by node,
    as they were at the draw."""

    batch_row: int
    batch: BatchId
    seed: Digest
    leaf: Digest
    job: JobId
    manifest_cid: Cid
    manifest: Manifest
    spec: TaskSpec
    segment: SegmentIndex
    worker: Address
    trace: tuple[Cid, ...]
    auditors: tuple[Address, ...]
    owners: Mapping[Address, Address]
    seats: int
    decoy: bool = False

    @property
    def place(self) -> Place:
        return self.job, self.spec.index, self.segment

    def key(self, auditor: Address) -> tuple[int, int, int, int, str]:
        """The primary key of an auditor's seat."""
        return (self.batch_row, *self.place, auditor)

    @property
    def name(self) -> str:
        return f"task {self.spec.index} segment {self.segment}"

    @property
    def claimed(self) -> Digest:
        """The worker's own answer."""
        return cid_digest(self.trace[self.segment + 1])
