"""What owners have in flight with other verifiers."""

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.members import Member
from proofyard.protocol.types import Address, Digest, JobId, Signature, TaskIndex, Wei
from proofyard.protocol.view import JobFacts
from proofyard.verifier.exposure import elsewhere

ZERO = Digest(bytes(32))


def member(node: str, job: int, units: int) -> Member:
    digests = (ZERO, ZERO, ZERO)
    commitment = Commitment(JobId(job), TaskIndex(0), Address(node), *digests, 1, raw_cid(b"r"), units, ZERO)
    return Member(commitment, Signature(b""), ())


def test_what_is_in_flight_elsewhere_counts_the_owner_over_all_its_nodes() -> None:
    """By the member lists of other verifiers' batches, for no more than their jobs pay."""
    facts = JobFacts(ZERO, Address("0xR"), Wei(1000), Wei(0), Wei(0), 10, 2, 1, 0, 0)
    lists = [
        [member("0xA", 1, 2), member("0xB", 1, 1)],
        [member("0xA", 1, 99), member("0xC", 2, 1), member("0xD", 1, 1)],
    ]
    owners = {Address("0xA"): Address("0xO"), Address("0xB"): Address("0xO"), Address("0xC"): Address("0xP")}
    assert elsewhere(lists, {JobId(1): facts}, owners) == {"0xO": 200 + 100 + 1000}
