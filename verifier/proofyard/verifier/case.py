"""One audited segment with all that looking at it needs."""

from dataclasses import dataclass

from proofyard.protocol.cid import cid_digest, make_cid
from proofyard.protocol.codec import decode
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Address, BatchId, Cid, Digest, SegmentIndex
from proofyard.verifier.context import Context
from proofyard.verifier.engine.events import Place, TaskKey
from proofyard.verifier.engine.rows import Batch, Segment
from proofyard.verifier.membership import member_of


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
    """A segment of one of the engine's batches. What the worker committed to its member list says: that may be a decoy,
    or work for another verifier's job."""
    member = member_of(batch, (segment.job, segment.task))
    manifest = make_cid(member.commitment.manifest)
    return Case(
        batch=batch.chain_id or BatchId(0),
        leaf=member.commitment.struct_hash(),
        place=(segment.job, segment.task, SegmentIndex(segment.index)),
        manifest_cid=manifest,
        manifest=context.manifest(manifest),
        spec=spec_of(context, manifest, (segment.job, segment.task)),
        worker=member.commitment.node,
        trace=member.trace,
    )


def spec_of(context: Context, manifest: Cid, key: TaskKey) -> TaskSpec:
    """A task as its job's graph has it; read from the graph where this verifier does not schedule the job."""
    task = context.rows.tasks.get(key)
    return decode(task.spec, TaskSpec) if task is not None else context.graph(manifest)[key[1]]
