"""What surrounds a node in tests: a verifier at the other end of the line, and a chain that says what the test says."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from proofyard.artifacts import BlockStore
from proofyard.chain import Drawn, Wallet
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.commitment import Commitment, Domain, receipt_struct_hash
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.members import Member, Membership, MemberTree, encode_members, members_root
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import (
    Ack,
    Acks,
    AuditFailed,
    Receipt,
    Receipts,
    SubmitCommitment,
    SubmitCommitments,
    SubmitSeal,
    SubmitSeals,
    TaskFailed,
    Working,
)
from proofyard.protocol.settlement import Header, Line, OperatorId
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, Signature
from proofyard.transport import Connection

SEED = Digest(bytes(range(32)))
VERIFIER = Wallet.generate()
DOMAIN = Domain(31_337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
CONNECTION = cast(Connection, SimpleNamespace(peer=VERIFIER.address))


@dataclass
class FakeLinks:
    """A verifier that takes everything; while `deaf` it answers nothing, and `away` it is not connected."""

    deaf: set[Address] = field(default_factory=set)
    sent: list[tuple[Address, msgspec.Struct]] = field(default_factory=list)
    receipts: Callable[[Commitment], Receipt] | None = None

    def connection(self, _verifier: Address) -> Connection | None:
        return cast(Connection, self)

    def live(self) -> list[Connection]:
        return [cast(Connection, self)]

    name = "verifier"
    peer = VERIFIER.address

    async def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        """It has no blocks."""
        for cid in cids:
            yield cid, None

    async def lacks(self, cids: Sequence[Cid]) -> list[Cid]:
        return list(cids)

    async def try_request(
        self, verifier: Address, message: msgspec.Struct, _reply: object, *, refusals: bool = False
    ) -> Any:
        self.sent.append((verifier, message))
        if verifier in self.deaf:
            return None
        match message:
            case SubmitCommitments():
                receipt = self.receipts or receipt_for
                return Receipts(tuple(receipt(work.commitment) for work in message.works))
            case SubmitSeals():
                return Acks((Ack(),) * len(message.seals))
            case Working():
                return Acks((Ack(),) * (len(message.tasks) + len(message.audits)))
        return Ack()

    def told(self, kind: type[msgspec.Struct]) -> list[Any]:
        return [message for _, message in self.sent if isinstance(message, kind)]

    @property
    def delivered(self) -> list[SubmitCommitment]:
        return [work for message in self.told(SubmitCommitments) for work in message.works]

    @property
    def seals(self) -> list[SubmitSeal]:
        return [seal for message in self.told(SubmitSeals) for seal in message.seals]

    @property
    def handed_back(self) -> list[TaskFailed | AuditFailed]:
        return [*self.told(TaskFailed), *self.told(AuditFailed)]


def receipt_for(commitment: Commitment, verifier: Wallet = VERIFIER) -> Receipt:
    leaf, deadline = commitment.struct_hash(), 1_000
    digest = DOMAIN.typed_digest(receipt_struct_hash(leaf, commitment.job, deadline))
    return Receipt(leaf, commitment.job, deadline, verifier.sign_digest(digest))


@dataclass
class FakeChain:
    """Jobs by number with the digest of their manifest, and one batch with a member list."""

    time: int = 120
    manifests: dict[JobId, Digest] = field(default_factory=dict)
    members: tuple[Member, ...] = ()
    list_digest: Digest = SEED
    final_at: int = 160
    reward: int = 10**18
    audit_fee: int = 10**24
    over: bool = False
    leader: Address = VERIFIER.address
    attempt: int = 0

    chain_id = DOMAIN.chain_id
    registry = DOMAIN.registry
    domain = DOMAIN

    def now(self) -> int:
        return self.time

    def params(self) -> Any:
        court = SimpleNamespace(longest_dispute=100)
        return SimpleNamespace(settle_grace=1000, receipt_time=600, challenge_window=60, court=court)

    def job(self, job: JobId) -> Any:
        return SimpleNamespace(
            manifest=self.manifests[job],
            reward=self.reward,
            audit_fee=self.audit_fee,
            auditors_per_segment=2,
            segments_per_audit=1,
            units=10**6,
            units_paid=10**6 if self.over else 0,
            commits_end=lambda receipt_time: 10_000 + receipt_time,
        )

    def commit(self, store: BlockStore, members: Sequence[Member]) -> None:
        """Batch 3 holds these tasks, and its list is in `store`."""
        self.members = tuple(members)
        self.list_digest = cid_digest(store.put_bytes(encode_members(self.members)))

    def membership(self, task: TaskSpec, number: int) -> Membership:
        """That a task of job 1 and its state are in that batch."""
        return MemberTree(self.members).membership((JobId(1), task.index), number)

    def header(self, _batch: BatchId) -> Header:
        lines = tuple(Line(JobId(job), 1) for job in sorted({member.commitment.job for member in self.members}))
        return Header(members_root(self.members), len(self.members), self.list_digest, lines)

    def committed(self, _job: JobId) -> list[Any]:
        if not self.members:
            return []
        header = self.header(BatchId(3))
        return [
            SimpleNamespace(
                batch=BatchId(3), root=header.root, size=header.size, members=header.members, lines=header.lines
            )
        ]

    def seed(self, _batch: BatchId) -> Drawn | None:
        return Drawn(SEED, 10)

    def operator_of(self, key: Address) -> OperatorId:
        return OperatorId(int(key, 16))

    def batch(self, _batch: BatchId) -> Any:
        return SimpleNamespace(
            verifier=self.operator_of(self.leader),
            header=Digest(bytes(32)),
            settled_at=self.final_at - 60,
            claimable_at=self.final_at,
            open_challenges=0,
            voided=False,
            dropped=False,
            attempt=self.attempt,
        )


def member_of(
    job: JobId, manifest: Cid, task: TaskSpec, trace: Sequence[Cid], result: Cid, inputs: Sequence[Cid] = ()
) -> Member:
    """Somebody's commitment to a task."""
    commitment = Commitment(
        job=job,
        task=task.index,
        node=VERIFIER.address,
        manifest=cid_digest(manifest),
        inputs=root([cid_bytes(manifest), *map(cid_bytes, inputs)]),
        trace_root=root([cid_bytes(cid) for cid in trace]),
        segments=task.segments,
        result=result,
        work_units=task.work_units,
        mark=Digest(bytes(32)),
    )
    return Member(commitment, Signature(bytes(65)), tuple(trace))
