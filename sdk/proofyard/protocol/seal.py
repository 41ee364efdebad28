"""Seals: an auditor binds itself to its answer before any answer is shown.

An answer is 32 bytes: the digest of the state after the segment, or `CANNOT_EXECUTE`. Beside it stands a keyed digest
of the bytes that it was found in, so that an answer that leaked is worth nothing to whoever has not executed. The seal
is keccak256 over all of that and a salt; the auditor's EIP-712 signature covers the seal with its place in the batch,
and the seed of the draw that asked for it: after a reorganisation of the chain a batch of the same number may be drawn
with another one, and an answer to the old draw would convict an honest auditor in the new one.
So a record of an audit can be checked by anyone later, and two answers are the same or they are not."""

import hashlib
from dataclasses import dataclass
from typing import Annotated

from eth_abi.abi import encode as abi_encode
from msgspec import Meta

from proofyard.protocol.codec import Bytes32 as Bytes32
from proofyard.protocol.commitment import address_word, word
from proofyard.protocol.keccak import keccak
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, TaskIndex

SEAL_TYPE = "Seal(uint256 batch,uint256 job,uint32 task,uint32 segment,bytes32 seed,address auditor,bytes32 seal)"
SEAL_TYPEHASH = Digest(keccak(SEAL_TYPE.encode()))
SALT_TYPE = "SealSalt(uint256 batch,uint256 job,uint32 task,uint32 segment,bytes32 seed,bytes32 after,string reason)"
SALT_TYPEHASH = Digest(keccak(SALT_TYPE.encode()))

CANNOT_EXECUTE = Digest(hashlib.sha256(b"proofyard: this segment cannot be executed").digest())
"""The answer of whoever executed a segment and met a failure that manifest, inputs and state alone determine."""

UNAVAILABLE = Digest(hashlib.sha256(b"proofyard: this state cannot be had").digest())
"""A juror's answer where nobody delivered the state before the segment in its voting time."""

REFUSED_STATE = Digest(hashlib.sha256(b"proofyard: this state breaks a law of its workload").digest())
"""A juror's answer where the state before the segment breaks a law of its workload."""

NO_STATE = frozenset((CANNOT_EXECUTE, UNAVAILABLE, REFUSED_STATE))
"""Answers that are no digest of a state; a trace that names one of them is no trace."""

UNKEYED = Digest(bytes(32))
"""The keyed digest of a vote that no state was executed for."""

MAX_REASON = 200
"""Characters of printable ASCII: an opening stays below a kilobyte and says nothing to a terminal but text."""

KEYED_ONE_IN = 8
"""In one of so many audited segments everybody checks the keyed digests who has the state; which ones, the seed
says."""

Salt = Annotated[bytes, Meta(min_length=32, max_length=32)]
Reason = Annotated[str, Meta(max_length=MAX_REASON, pattern=r"\A[ -~]*\Z")]


@dataclass(frozen=True)
class Opening:
    """An auditor's answer: the sha2-256 digest in the CID of its own state `after` the segment or `CANNOT_EXECUTE`;
    `keyed_digest` of that state (of the one before, where it cannot be executed); why it cannot be executed (for
    people; sealed, never compared); and 32 secret bytes that keep the seal from being guessed."""

    after: Digest
    keyed: Digest
    reason: str
    salt: bytes


def keyed_digest(seed: Digest, who: Address, state: bytes | memoryview) -> Digest:
    """sha2-256 of the draw's seed, the 20 bytes of an auditor's hot key (a juror's owner) and a state's bytes."""
    hashed = hashlib.sha256(seed + bytes.fromhex(who[2:]))
    hashed.update(state)
    return Digest(hashed.digest())


def jury_seed(challenge: int, round_: int, draw_block: int) -> Digest:
    """What keys the jurors' digests: keccak256(abi.encode(challenge, round, draw block))."""
    return Digest(keccak(abi_encode(["uint256", "uint8", "uint256"], [challenge, round_, draw_block])))


def keyed_is_checked(seed: Digest, leaf: Digest, segment: SegmentIndex) -> bool:
    """Whether the keyed digests of this audited segment are checked; `leaf` is its commitment's struct hash."""
    drawn = keccak(b"".join((seed, leaf, b"keyed", segment.to_bytes(4, "big"))))
    return int.from_bytes(drawn, "big") % KEYED_ONE_IN == 0


def seal_of(opening: Opening, auditor: Address) -> Digest:
    reason = keccak(opening.reason.encode())
    return Digest(keccak(b"".join((address_word(auditor), opening.after, opening.keyed, reason, opening.salt))))


def plain_reason(text: str) -> str:
    """`text` as a `Reason`: cut off, and without what is no printable ASCII."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:MAX_REASON]


def seal_struct_hash(
    batch: BatchId, job: JobId, task: TaskIndex, segment: SegmentIndex, seed: Digest, auditor: Address, seal: Digest
) -> Digest:
    """What `Domain.typed_digest` turns into the digest that the auditor signs."""
    numbers = (word(batch), word(job), word(task, 4), word(segment, 4))
    return Digest(keccak(b"".join((SEAL_TYPEHASH, *numbers, seed, address_word(auditor), seal))))


def salt_struct_hash(
    batch: BatchId, job: JobId, task: TaskIndex, segment: SegmentIndex, seed: Digest, after: Digest, reason: str
) -> Digest:
    """What an auditor makes its salt of, with its key: the same answer to the same draw has one seal, whatever became
    of the files of whoever gave it."""
    numbers = (word(batch), word(job), word(task, 4), word(segment, 4))
    return Digest(keccak(b"".join((SALT_TYPEHASH, *numbers, seed, after, keccak(reason.encode())))))
