"""Every request and reply between nodes, verifiers and requesters, except the exchange of blocks.

One struct, one tag, one purpose. Decoding tolerates unknown fields; a struct whose meaning changes gets a new tag.
Integers that can exceed 64 bits (amounts) travel as decimal strings.
"""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from proofyard.protocol.capability import BLOCK_BYTES, MAX_CAPABILITY_BYTES
from proofyard.protocol.carriage import CarriageReceipt
from proofyard.protocol.certificate import Certificate
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.members import Membership
from proofyard.protocol.merkle import MAX_DEPTH
from proofyard.protocol.roster import BlsKey, Signed
from proofyard.protocol.routes import MAX_ROUTES, Route
from proofyard.protocol.seal import Bytes32, Opening, Reason, Salt
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, Signature, TaskIndex

MAX_ITEMS = 256
"""Items of one list: a frame has its own limit on bytes."""

LINE_PROBE_BYTES = 4 << 20

SMALL_STATE_BYTES = 4096
"""A state of so many bytes at most comes with the offer of its audit: 64 of them are far below what a frame holds."""

MAX_BLOCKS_WITH, BLOCKS_WITH_BYTES = 512, 256 << 10
"""So many small artifacts, and bytes of them, come with commitments at most."""
SmallBlock = Annotated[bytes, Meta(max_length=SMALL_STATE_BYTES)]

_BOUND = Meta(ge=0, le=(1 << 63) - 1)
"""Whatever a peer says is a number that a database holds."""
Job = Annotated[JobId, _BOUND]
Batch = Annotated[BatchId, _BOUND]
Task = Annotated[TaskIndex, _BOUND]
Segment = Annotated[SegmentIndex, _BOUND]
Count = Annotated[int, _BOUND]


class PeerHint(msgspec.Struct, frozen=True):
    """Where a peer can be reached: wallet address, IP address or name, UDP port; `routes`, where there are any, say it
    better."""

    address: Address
    host: str
    port: Count
    routes: Annotated[tuple[Route, ...], Meta(max_length=MAX_ROUTES)] = ()


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """Taken note of. `proceed` false asks the other side to stop what the request was about."""

    proceed: bool = True
    reason: str = ""


class Acks(msgspec.Struct, frozen=True, tag="acks"):
    """An `Ack` for each item of a list, in its order."""

    answers: Annotated[tuple[Ack, ...], Meta(max_length=MAX_ITEMS)]


class Announce(msgspec.Struct, frozen=True, tag="announce-3"):
    """A node to a verifier, on every new connection: what it offers to execute, and how many tasks and audits it holds
    at a time, the ones that wait for their turn included. `session` is the same as long as it runs on the same files:
    a wallet has one at a time, and who announces another while that is alive is told where it runs. `capability` is
    what it measured of its machine, signed (`proofyard.protocol.capability`); empty where it claims nothing. `routes`:
    how others reach it, as far as peers have confirmed that; `relay`: whether it carries for others. Replied to with
    `Ack`."""

    workloads: tuple[str, ...]
    memory_bytes: Count
    port: Count
    software: str
    tasks: Count = 1
    audits: Count = 4
    session: Annotated[str, Meta(max_length=64)] = ""
    capability: Annotated[bytes, Meta(max_length=MAX_CAPABILITY_BYTES)] = b""
    routes: Annotated[tuple[Route, ...], Meta(max_length=MAX_ROUTES)] = ()
    relay: bool = False


class RelaysQuery(msgspec.Struct, frozen=True, tag="relays-query"):
    """A node that nobody reaches asks a verifier which nodes relay. Replied to with `Relays`."""

    idempotent: ClassVar[bool] = True


class Relays(msgspec.Struct, frozen=True, tag="relays"):
    """Some of them, in no order."""

    routes: Annotated[tuple[Route, ...], Meta(max_length=MAX_ROUTES)]


class ShowCarriage(msgspec.Struct, frozen=True, tag="show-carriage"):
    """A relay shows the verifier that they name what it has carried for its jobs, the last receipt of each circuit.
    Replied to with `Acks`: which of them count for something."""

    receipts: Annotated[tuple[CarriageReceipt, ...], Meta(max_length=MAX_ITEMS)]


class TaskOffer(msgspec.Struct, frozen=True, tag="task-offer-2"):
    """A verifier offers a task on a lease of `lease_s` seconds that every `TaskProgress` renews.

    `inputs` are the results of `task.deps` in their order; `providers` are peers that have the artifacts. `decoy` asks
    for a decoy beside the commitment (`proofyard.protocol.mark`), which the node may leave out.
    """

    job: Job
    manifest: Cid
    task: TaskSpec
    inputs: tuple[Cid, ...]
    providers: tuple[PeerHint, ...]
    lease_s: float
    decoy: bool = False


class TaskOffers(msgspec.Struct, frozen=True, tag="task-offers"):
    """Several tasks for one node, to be executed in this order. Replied to with `Acks`."""

    offers: Annotated[tuple[TaskOffer, ...], Meta(max_length=MAX_ITEMS)]


class CancelTasks(msgspec.Struct, frozen=True, tag="cancel-tasks"):
    """A verifier no longer wants these tasks."""

    tasks: Annotated[tuple[tuple[JobId, TaskIndex], ...], Meta(max_length=MAX_ITEMS)]
    reason: str


class TaskProgress(msgspec.Struct, frozen=True, tag="task-progress"):
    """A node on its way, at least every few seconds. `step` counts within the task; `loss` is that step's."""

    job: Job
    task: Task
    segment: Segment
    step: Count = 0
    loss: float | None = None
    tokens_per_s: float = 0.0
    rss_bytes: Count = 0


class Working(msgspec.Struct, frozen=True, tag="working"):
    """A node says what it is at, every few seconds: renews the leases of all of it. Replied to with `Acks`, for the
    tasks and then for the audits: who is told not to proceed stops."""

    tasks: Annotated[tuple[TaskProgress, ...], Meta(max_length=MAX_ITEMS)]
    audits: "Annotated[tuple[AuditProgress, ...], Meta(max_length=MAX_ITEMS)]"


class TaskFailed(msgspec.Struct, frozen=True, tag="task-failed"):
    """A node hands a task back before any commitment; costs reputation at most."""

    job: Job
    task: Task
    reason: str


class Decoy(msgspec.Struct, frozen=True):
    """A commitment to false states of the same task, with the salt that shows it to be one."""

    commitment: Commitment
    signature: Signature
    trace: tuple[Cid, ...]
    salt: Salt


class SubmitCommitment(msgspec.Struct, frozen=True, tag="submit-commitment-2"):
    """A finished task. `trace` holds the CIDs of its `segments` + 1 states; each of them is the answer to the audit
    before it. `salt` opens the commitment's mark as work, once the batch's record does. `decoy`, if one was ordered,
    comes into a batch first and the commitment itself into a later one. `certificate`: what took it, where nodes decide
    what a round takes."""

    commitment: Commitment
    signature: Signature
    trace: tuple[Cid, ...]
    salt: Salt
    decoy: Decoy | None = None
    certificate: Certificate | None = None


class AskVoter(msgspec.Struct, frozen=True, tag="ask-voter"):
    """A requester asks a node with which key it votes on what rounds take. Replied to with `VoterKey`."""

    idempotent: ClassVar[bool] = True


class VoterKey(msgspec.Struct, frozen=True, tag="voter-key"):
    """A node's place in a roster, but for its weight."""

    key: BlsKey
    possession: Signed


class SubmitCommitments(msgspec.Struct, frozen=True, tag="submit-commitments"):
    """Several finished tasks. `blocks`: states and results of theirs that are small and one block each, in any order; a
    verifier need not ask for these, and asks for whatever is not among them. Replied to with `Receipts`."""

    works: Annotated[tuple[SubmitCommitment, ...], Meta(max_length=MAX_ITEMS)]
    blocks: Annotated[tuple[SmallBlock, ...], Meta(max_length=MAX_BLOCKS_WITH)] = ()


class Receipt(msgspec.Struct, frozen=True, tag="receipt-2"):
    """The verifier's signed promise to put a commitment into a batch of its job by `deadline` (Unix seconds)."""

    leaf: Digest
    job: Job
    deadline: Count
    signature: Signature


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    """Why one item of a list was not taken; `code` as in the transport's refusals."""

    code: str
    reason: str


class Receipts(msgspec.Struct, frozen=True, tag="receipts"):
    """A receipt or a refusal for each commitment, in their order."""

    answers: Annotated[tuple[Receipt | Refusal, ...], Meta(max_length=MAX_ITEMS)]


class AuditOffer(msgspec.Struct, frozen=True, tag="audit-offer-3"):
    """A verifier asks for one segment: `before` is the worker's state before it; the state after it is never named.
    `seed` is the batch's, which keys the auditor's digest; whoever wants to be sure takes it from the chain.

    Model, data and that state are all that a segment is computed from, so no result of other tasks is moved. `member`
    proves that task and state are those that the batch holds a commitment to; without it the batch's list tells.
    The answer is wanted within `wanted_s` seconds; until then the auditor's own work may go first. `state` is the state
    before itself, where it is small and one block: it need not be asked for.
    """

    batch: Batch
    seed: Bytes32
    job: Job
    manifest: Cid
    task: TaskSpec
    segment: Segment
    before: Cid
    providers: tuple[PeerHint, ...]
    lease_s: float
    member: Membership | None = None
    wanted_s: float = 15.0
    state: Annotated[bytes, Meta(max_length=SMALL_STATE_BYTES)] = b""

    @property
    def place(self) -> tuple[BatchId, JobId, TaskIndex, SegmentIndex]:
        """The segment in its batch."""
        return self.batch, self.job, self.task.index, self.segment


class AuditOffers(msgspec.Struct, frozen=True, tag="audit-offers"):
    """Several audits for one node. Replied to with `Acks`."""

    offers: Annotated[tuple[AuditOffer, ...], Meta(max_length=MAX_ITEMS)]


class AuditProgress(msgspec.Struct, frozen=True, tag="audit-progress-3"):
    """An auditor on its way, for the draw with this `seed`: renews the lease of its seat."""

    batch: Batch
    job: Job
    task: Task
    segment: Segment
    seed: Bytes32


class SubmitSeal(msgspec.Struct, frozen=True, tag="submit-seal-2"):
    """An auditor's seal, of the draw with this `seed`."""

    batch: Batch
    job: Job
    task: Task
    segment: Segment
    seed: Bytes32
    seal: Bytes32
    signature: Signature


class SubmitSeals(msgspec.Struct, frozen=True, tag="submit-seals"):
    """Several seals. Replied to with `Acks`."""

    seals: Annotated[tuple[SubmitSeal, ...], Meta(max_length=MAX_ITEMS)]


class AuditFailed(msgspec.Struct, frozen=True, tag="audit-failed-3"):
    """An auditor gives its seat of the draw with this `seed` back; the next in the plan's order takes it."""

    batch: Batch
    job: Job
    task: Task
    segment: Segment
    seed: Bytes32
    reason: str


class OpenSeal(msgspec.Struct, frozen=True, tag="open-seal-2"):
    """All seals of this segment are in: show the answer. Replied to with `SealOpened`."""

    batch: Batch
    job: Job
    task: Task
    segment: Segment


class SealOpened(msgspec.Struct, frozen=True, tag="seal-opened-3"):
    """What was sealed: see `proofyard.protocol.seal.Opening`. `reason` only with `CANNOT_EXECUTE`. `signature` is the
    auditor's over its seal, as in `SubmitSeal`: an answer that it has not signed counts for nobody."""

    after: Bytes32
    keyed: Bytes32
    reason: Reason
    salt: Salt
    signature: Signature = Signature(b"")

    def opening(self) -> Opening:
        return Opening(self.after, self.keyed, self.reason, self.salt)


class OpenSeals(msgspec.Struct, frozen=True, tag="open-seals"):
    """Several seals are to be opened. Replied to with `SealsOpened`."""

    seals: Annotated[tuple[OpenSeal, ...], Meta(max_length=MAX_ITEMS)]


class SealsOpened(msgspec.Struct, frozen=True, tag="seals-opened"):
    """The answers to `OpenSeals` in their order; None for one that cannot be opened now."""

    answers: Annotated[tuple[SealOpened | None, ...], Meta(max_length=MAX_ITEMS)]


class CoSign(msgspec.Struct, frozen=True, tag="co-sign-2"):
    """The leader of a batch asks another verifier to check its record and to `sign` its settlement, or only to check:
    one signs once for each attempt. Replied to with `CoSigned`."""

    record: Cid
    batch: Batch
    sign: bool = True


class LeftOut(msgspec.Struct, frozen=True):
    """A signed answer of an auditor that a record calls absent: it goes into the next record."""

    job: Job
    task: Task
    segment: Segment
    auditor: Address
    opened: SealOpened


class CoSigned(msgspec.Struct, frozen=True, tag="co-signed"):
    """A BLS signature (96 bytes, compressed) over the settlement's digest; empty where none was asked for, or where
    answers were `left_out` of the record, which is not signed then."""

    signature: bytes
    left_out: tuple[LeftOut, ...] = ()


class ObtainState(msgspec.Struct, frozen=True, tag="obtain-state-2"):
    """Anyone asks a verifier to fetch state `number` of a task from its worker, so that it can be had from the
    verifier: jurors and challengers cannot dial a worker at home. The number after the last state's stands for what
    opens the commitment's mark. `record` is the record of the task's settled batch.
    """

    record: Cid
    job: Job
    task: Task
    number: Count


class Publish(msgspec.Struct, frozen=True, tag="publish"):
    """Asks a verifier to fetch these artifacts, of `total_bytes` at most, from whoever asks, and to keep them.

    Of a requester what the manifest of its open job `job` names, with the manifest; a job that is not seen yet is
    waited for a while (`not-seen`). Without a job: of a verifier with a seat its member list, of anybody else single
    raw blocks within a small allowance. Idempotent.
    """

    idempotent: ClassVar[bool] = True
    artifacts: tuple[Cid, ...]
    total_bytes: Count
    job: Job | None = None


class JobQuery(msgspec.Struct, frozen=True, tag="job-query"):
    """Anyone asks a verifier how a job is doing. `since` skips log lines already seen. Idempotent."""

    idempotent: ClassVar[bool] = True
    job: Job
    since: Count = 0


class LogLine(msgspec.Struct, frozen=True):
    """One event of a job: `seq` counts from 1, `at` is Unix seconds, `kind` one of docs/protocol.md's event kinds."""

    seq: Count
    at: float
    kind: str
    text: str
    task: Task | None = None
    node: Address | None = None
    loss: float | None = None
    step: Count | None = None


class JobReport(msgspec.Struct, frozen=True, tag="job-report"):
    """How a job is doing. `state`: waiting, running, settling, done, failed."""

    job: Job
    state: str
    tasks: Count
    tasks_valid: Count
    batches_settled: Count
    result: Cid | None
    reason: str
    log: tuple[LogLine, ...]


class LineProbe(msgspec.Struct, frozen=True, tag="line-probe"):
    """Whoever thinks about joining measures how fast it sends: the request's body, at most 4 MiB, is read and thrown
    away. Replied to with `Ack` once all of it has come, or refused with `busy`: little is taken of each peer, and of
    all together."""


class PrepareMemory(msgspec.Struct, frozen=True, tag="prepare-memory"):
    """A verifier wants to check what a node claims: have a process ready that can fill so many blocks. Replied to with
    `Ack` once it is; a node that has work, or was checked lately, does not proceed, with a reason that begins with
    "busy"."""

    blocks: Count


class FillMemory(msgspec.Struct, frozen=True, tag="fill-memory"):
    """Fill the blocks that were prepared from this seed (`proofyard.workloads.filling`), hold them, and say their root
    in the time that follows from the claim. Replied to with `MemoryFilled`; refused with `busy` where work has come."""

    seed: Bytes32


MerklePath = Annotated[tuple[Bytes32, ...], Meta(max_length=MAX_DEPTH)]


class MemoryFilled(msgspec.Struct, frozen=True, tag="memory-filled"):
    """The Merkle root of the SHA-256 of each block, and the path of the first block, which follows from the seed."""

    root: Bytes32
    path: MerklePath


class ShowStep(msgspec.Struct, frozen=True, tag="show-step"):
    """A verifier draws a step of the memory that it had filled with this seed. Replied to with `StepShown`."""

    seed: Bytes32
    number: Count


class StepShown(msgspec.Struct, frozen=True, tag="step-shown"):
    """The two blocks that the step multiplies, and the Merkle paths of these and of the block that comes out."""

    before: Annotated[bytes, Meta(max_length=BLOCK_BYTES)]
    earlier: Annotated[bytes, Meta(max_length=BLOCK_BYTES)]
    paths: tuple[MerklePath, MerklePath, MerklePath]


class MemoryChecked(msgspec.Struct, frozen=True, tag="memory-checked"):
    """A verifier tells a node what it takes as shown from now on, in blocks, and why that is less than claimed; empty
    where it is not. Replied to with `Ack`."""

    blocks: Count
    reason: Annotated[str, Meta(max_length=500)] = ""


REQUESTS: tuple[type[msgspec.Struct], ...] = (
    Announce,
    TaskOffers,
    CancelTasks,
    Working,
    TaskFailed,
    SubmitCommitments,
    AuditOffers,
    SubmitSeals,
    AuditFailed,
    OpenSeal,
    OpenSeals,
    RelaysQuery,
    CoSign,
    ObtainState,
    Publish,
    JobQuery,
    LineProbe,
    PrepareMemory,
    FillMemory,
    ShowStep,
    MemoryChecked,
    AskVoter,
    ShowCarriage,
)
"""What one peer may ask another; everything else is an item or a reply. `docs/protocol.md` shows an example of each in
bytes."""
