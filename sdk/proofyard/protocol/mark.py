"""Marks: whether a commitment is work or a decoy, sealed by its worker until the batch's record opens it.

A decoy is a commitment to states that are false on purpose, one step beside those that executing the task gave. Its
batch's leader has ordered it; nobody else can tell it from work while auditors answer, so whoever repeats a state that
it was handed instead of executing risks its stake. It is never paid, no result, and no fault of its worker.

Every commitment has a mark: the sha2-256 digest of 32 random bytes and one that says which it is. So it is also the
digest in the CID of those 33 bytes, which a worker owes like a state once its batch is settled, or led by somebody whom
it never gave the salt.
"""

import hashlib
from typing import Annotated

from msgspec import Meta

from proofyard.protocol.cid import RAW, make_cid
from proofyard.protocol.seal import Salt as Salt
from proofyard.protocol.types import Cid, Digest

SALT_BYTES = 32
UNOPENED = b""
"""In a record, instead of a salt that its leader was not given."""

Opened = Annotated[bytes, Meta(max_length=SALT_BYTES)]
"""A salt, or `UNOPENED`."""


def opening_of(salt: bytes, *, decoy: bool) -> bytes:
    """The 33 bytes that a mark is the digest of."""
    return salt + bytes((decoy,))


def mark_of(salt: bytes, *, decoy: bool) -> Digest:
    return Digest(hashlib.sha256(opening_of(salt, decoy=decoy)).digest())


def opens(mark: Digest, salt: bytes, *, decoy: bool) -> bool:
    """Whether a salt shows that a commitment is a decoy, or that it is work."""
    return len(salt) == SALT_BYTES and mark_of(salt, decoy=decoy) == mark


def mark_cid(mark: Digest) -> Cid:
    """The artifact that opens a mark."""
    return make_cid(mark, RAW)
