"""One audited segment with all that looking at it needs."""

from dataclasses import dataclass

from proofyard.protocol.cid import cid_digest
from proofyard.protocol.codec import decode
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.types import Address, BatchId, Cid, Digest, SegmentIndex
from proofyard.verifier.context import Context
from proofyard.verifier.engine.events import Place
from proofyard.verifier.engine.rows import Batch, Segment


@dataclass(frozen=True)
class Case:
    """`leaf` is the commitment's struct hash, `trace` the worker's."""

    batch: BatchId
    leaf: Digest
    place: Place
    manifest_cid: Cid
    manifest: Manifest
    spec: TaskSpec
    worker: Address
    trace: tuple[Cid, ...]

    @property
    def segment(self) -> SegmentIndex:
        return self.place[2]

    @property
    def name(self) -> str:
        return f"task {self.spec.index} segment {self.segment}"

    @property
    def claimed(self) -> Digest:
        """The worker's own answer."""
        return cid_digest(self.trace[self.segment + 1])


def case_of(context: Context, batch: Batch, segment: Segment) -> Case:
    """A segment of one of the engine's batches."""
    rows = context.rows
    job = rows.jobs[segment.job]
    work = next(w for w in rows.works_of[batch.id] if (w.job, w.task) == (segment.job, segment.task))
    submission = decode(work.submission, SubmitCommitment)
    return Case(
        batch=batch.chain_id or BatchId(0),
        leaf=work.leaf,
        place=(segment.job, segment.task, SegmentIndex(segment.index)),
        manifest_cid=job.manifest,
        manifest=context.manifest(job.manifest),
        spec=decode(rows.tasks[segment.job, segment.task].spec, TaskSpec),
        worker=work.node,
        trace=submission.trace,
    )
