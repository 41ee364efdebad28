"""Seals: an auditor binds itself to its answer before any answer is shown.

An answer is 32 bytes: the digest of the state after the segment, or `CANNOT_EXECUTE`. The seal is keccak256 over the
auditor, its answer, the reason it gives and a salt; the auditor's EIP-712 signature covers the seal with its place in
the batch. So a record of an audit can be checked by anyone later, and two answers are the same or they are not.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

from eth_abi.abi import encode as abi_encode
from eth_hash.auto import keccak
from msgspec import Meta

from proofyard.protocol.types import Address, BatchId, Digest, SegmentIndex, TaskIndex

SEAL_TYPE = "Seal(uint256 batch,uint32 task,uint32 segment,address auditor,bytes32 seal)"
SEAL_TYPEHASH = Digest(keccak(SEAL_TYPE.encode()))

CANNOT_EXECUTE = Digest(hashlib.sha256(b"proofyard: this segment cannot be executed").digest())
"""The answer of whoever executed a segment and met a failure that manifest, inputs and state alone determine."""

MAX_REASON = 200
"""Characters of printable ASCII: an opening stays below a kilobyte and says nothing to a terminal but text."""

Bytes32 = Annotated[Digest, Meta(min_length=32, max_length=32)]
"""A digest that comes from outside: the ABI would pad a shorter one, and take it for another."""
Salt = Annotated[bytes, Meta(min_length=32, max_length=32)]
Reason = Annotated[str, Meta(max_length=MAX_REASON, pattern=r"\A[ -~]*\Z")]


@dataclass(frozen=True)
class Opening:
    """An auditor's answer: the sha2-256 digest in the CID of its own state `after` the segment or `CANNOT_EXECUTE`, why
    it cannot be executed (for people; sealed, never compared), and 32 random bytes that keep the seal from being
    guessed."""

    after: Digest
    reason: str
    salt: bytes


def seal_of(opening: Opening, auditor: Address) -> Digest:
    return Digest(
        keccak(
            abi_encode(
                ["address", "bytes32", "bytes32", "bytes32"],
                [auditor, opening.after, keccak(opening.reason.encode()), opening.salt],
            )
        )
    )


def plain_reason(text: str) -> str:
    """`text` as a `Reason`: cut off, and without what is no printable ASCII."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:MAX_REASON]


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
