"""What a batch was made of, decoded from its row."""

from proofyard.protocol.codec import decode
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.record import RecordedOperator
from proofyard.verifier.database import Batch

MAX_MEMBERS_BYTES = 256 << 20


def members_of(batch: Batch) -> list[SubmitCommitment]:
    """The batch's commitments in the order of its Merkle leaves."""
    encoded = decode(batch.members, list[bytes], max_bytes=MAX_MEMBERS_BYTES)
    return [decode(item, SubmitCommitment, max_bytes=MAX_MEMBERS_BYTES) for item in encoded]


def operators_of(batch: Batch) -> list[RecordedOperator]:
    """The active nodes at the draw."""
    return decode(batch.operators, list[RecordedOperator], max_bytes=MAX_MEMBERS_BYTES)
