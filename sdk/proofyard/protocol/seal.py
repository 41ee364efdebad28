"""Seals: an auditor binds itself to its answer before any answer is shown.

The seal is keccak256 over the auditor, the place in the batch, the sketch of what the segment changed, the digest
of the state after it, and a salt. Both the seal and, through it, the opening are covered by the auditor's
EIP-712 signature, so a record of an audit can be checked by anyone later.
"""

from dataclasses import dataclass

from eth_abi.abi import encode as abi_encode
from eth_hash.auto import keccak

from proofyard.protocol.types import Address, BatchId, Digest, SegmentIndex, TaskIndex

SEAL_TYPE = "Seal(uint256 batch,uint32 task,uint32 segment,address auditor,bytes32 seal)"
SEAL_TYPEHASH = Digest(keccak(SEAL_TYPE.encode()))


@dataclass(frozen=True)
class Opening:
    """An auditor's answer: its sketch (canonical bytes), the sha2-256 digest in the CID of its own state after the
    segment, and the salt (32 random bytes) that kept the seal from being guessed."""

    sketch: bytes
    after: Digest
    salt: bytes


def seal_of(opening: Opening, auditor: Address) -> Digest:
    return Digest(
        keccak(
            abi_encode(
                ["address", "bytes32", "bytes32", "bytes32"],
                [auditor, keccak(opening.sketch), opening.after, opening.salt],
            )
        )
    )


def seal_struct_hash(batch: BatchId, task: TaskIndex, segment: SegmentIndex, auditor: Address, seal: Digest) -> Digest:
    """What `Domain.typed_digest` turns into the digest that the auditor signs."""
    return Digest(
        keccak(
            abi_encode(
                ["bytes32", "uint256", "uint32", "uint32", "address", "bytes32"],
                [SEAL_TYPEHASH, batch, task, segment, auditor, seal],
            )
        )
    )
