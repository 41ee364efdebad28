"""The member list of a batch: all its signed commitments, an artifact that the commit names on chain.

From the commit on everybody can read it: what is to be judged, and what each owner has in flight with every verifier.
"""

from collections.abc import Iterable, Sequence

import msgspec

from proofyard.protocol import merkle
from proofyard.protocol.codec import CidText, decode, encode
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.settlement import Header
from proofyard.protocol.types import Digest, JobId, Signature, TaskIndex

MAX_MEMBERS_BYTES = 64 << 20
"""About a thousand tasks of a thousand segments, or fifteen thousand of 64."""

TaskKey = tuple[JobId, TaskIndex]
"""What names a task everywhere: its job and its place in the job's graph."""


class Member(msgspec.Struct, frozen=True):
    """A commitment as its worker signed it, and the CIDs of its `segments` + 1 boundary states."""

    commitment: Commitment
    signature: Signature
    trace: tuple[CidText, ...]

    @property
    def key(self) -> TaskKey:
        return self.commitment.job, self.commitment.task


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
