"""What a batch was made of, decoded from its row."""

import msgspec

from proofyard.protocol.codec import decode
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.record import RecordedOperator
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address
from proofyard.verifier.database import Batch

MAX_MEMBERS_BYTES = 256 << 20


class MemberOdds(msgspec.Struct, frozen=True):
    """What one commitment's audit was drawn with; see `proofyard.protocol.record.CommittedTask`."""

    operator: OperatorId
    owner: Address
    audit_wad: int
    drawn: int


def members_of(batch: Batch) -> list[SubmitCommitment]:
    """The batch's commitments in the order of its Merkle leaves."""
    encoded = decode(batch.members, list[bytes], max_bytes=MAX_MEMBERS_BYTES)
    return [decode(item, SubmitCommitment, max_bytes=MAX_MEMBERS_BYTES) for item in encoded]


def odds_of(batch: Batch) -> list[MemberOdds]:
    """The dial for each commitment at the draw, in the order of `members_of`."""
    return decode(batch.odds, list[MemberOdds], max_bytes=MAX_MEMBERS_BYTES)


def operators_of(batch: Batch) -> list[RecordedOperator]:
    """The active nodes at the draw."""
    return decode(batch.operators, list[RecordedOperator], max_bytes=MAX_MEMBERS_BYTES)
