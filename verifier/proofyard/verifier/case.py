"""One audited segment with all that looking at it needs."""

from dataclasses import dataclass

from proofyard.protocol.cid import cid_digest, make_cid
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.members import Membership, MemberTree
from proofyard.protocol.types import Address, BatchId, Cid, Digest, SegmentIndex
from proofyard.verifier.context import Context
from proofyard.verifier.engine.events import Place, TaskKey
from proofyard.verifier.engine.rows import Batch
from proofyard.verifier.membership import member_tree


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
    tree: MemberTree

    @property
    def membership(self) -> Membership:
        """The proof that the segment is of a task of the batch; costs as much as the trace is long."""
        return self.tree.membership((self.place[0], self.place[1]), self.segment)

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
    tree = await member_tree(context, batch)
    member = tree.by_key[key]
    commitment = member.commitment
    cid = make_cid(commitment.manifest)
    manifest, graph = context.manifest(cid), await context.graph_of(job, cid)
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
        tree=tree,
    )
