"""The member list of a batch: all its signed commitments, an artifact that the commit names on chain.

From the commit on everybody can read it: what is to be judged, and what each owner has in flight with every verifier.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from proofyard.protocol import merkle
from proofyard.protocol.certificate import Certificate
from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.codec import Bytes32, CidText, decode, encode
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.settlement import Header
from proofyard.protocol.types import Cid, Digest, JobId, Signature, TaskIndex

MAX_MEMBERS_BYTES = 64 << 20
"""About a thousand tasks of a thousand segments, or fifteen thousand of 64."""

Path = Annotated[tuple[Bytes32, ...], Meta(max_length=merkle.MAX_DEPTH)]
TaskKey = tuple[JobId, TaskIndex]
"""What names a task everywhere: its job and its place in the job's graph."""


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """A commitment as its worker signed it, and the CIDs of its `segments` + 1 boundary states. `certificate`: that of
    the round which took it, where nodes decide what a round takes; in a list it is with one task of the round."""

    commitment: Commitment
    signature: Signature
    trace: tuple[CidText, ...]
    certificate: Certificate | None = None

    @property
    def key(self) -> TaskKey:
        return self.commitment.job, self.commitment.task


class Membership(msgspec.Struct, frozen=True):
    """A commitment with the proof that it is a batch's leaf number `index`, and that a state is in its trace: what a
    single segment needs of a list of thousands. Both paths are Merkle proofs, the lowest sibling first."""

    commitment: Commitment
    index: Annotated[int, Meta(ge=0, lt=1 << 32)]
    path: Path
    trace_path: Path

    def is_in(self, header: Header) -> bool:
        """Whether the commitment is in the batch of a header."""
        leaf = self.commitment.struct_hash()
        return merkle.verify(header.root, leaf, self.index, header.size, self.path)

    def has_state(self, number: int, cid: Cid) -> bool:
        """Whether the commitment's state `number` is the artifact `cid`."""
        states = self.commitment.segments + 1
        return merkle.verify(self.commitment.trace_root, cid_bytes(cid), number, states, self.trace_path)


class MemberTree:
    """A batch's commitments by job and task, and the Merkle tree over them."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        self.by_key = {member.key: member for member in members}
        self._places = {member.key: place for place, member in enumerate(members)}
        self._rows = merkle.levels([member.commitment.struct_hash() for member in members])

    def membership(self, key: TaskKey, number: int) -> Membership:
        """The proof that a task's commitment is in the batch, and its state `number` in the trace."""
        member, place = self.by_key[key], self._places[key]
        trace_path = merkle.proof([cid_bytes(cid) for cid in member.trace], number)
        return Membership(member.commitment, place, tuple(merkle.path_in(self._rows, place)), tuple(trace_path))


def encode_members(members: Sequence[Member]) -> bytes:
    return encode(list(members))


def decode_members(data: bytes | memoryview) -> tuple[Member, ...]:
    """Raises `CodecError` for what is no member list, or longer than `MAX_MEMBERS_BYTES`."""
    return decode(data, tuple[Member, ...], max_bytes=MAX_MEMBERS_BYTES)


def members_root(members: Iterable[Member]) -> Digest:
    """The Merkle root that the commit names: leaves are the commitments' EIP-712 struct hashes, in the list's order.

    Raises `ValueError` for an empty list."""
    return merkle.root([member.commitment.struct_hash() for member in members])


def members_fit(header: Header, members: Sequence[Member]) -> bool:
    """Whether a list that the header's digest led to is that of its root. One that is not counts as not delivered."""
    try:
        return len(members) == header.size and members_root(members) == header.root
    except ValueError:
        return False
