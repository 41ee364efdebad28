"""One audited segment with all that looking at it needs."""

from dataclasses import dataclass

from proofyard.protocol.cid import cid_digest, make_cid
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Address, BatchId, Cid, Digest, SegmentIndex
from proofyard.verifier.context import Context
from proofyard.verifier.engine.events import Place, TaskKey
from proofyard.verifier.engine.rows import Batch
from proofyard.verifier.membership import members_by_key


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
    result: Cid
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


async def case_of(context: Context, batch: Batch, place: Place) -> Case:
    """A segment of a batch that this verifier leads, by its member list and the manifest: a batch that was taken over
    is of jobs whose tasks another verifier has. Raises `ArtifactError` where the manifest is not here."""
    job, task, segment = place
    key: TaskKey = (job, task)
    member = (await members_by_key(context, batch))[key]
    commitment = member.commitment
    cid = make_cid(commitment.manifest)
    manifest, graph = await context.job_of(cid)
    return Case(
        batch=batch.chain_id or BatchId(0),
        leaf=commitment.struct_hash(),
        place=(job, task, SegmentIndex(segment)),
        manifest_cid=cid,
        manifest=manifest,
        spec=graph[task],
        worker=commitment.node,
        result=commitment.result,
        trace=member.trace,
    )
