"""CIDv1 as text and as bytes. Only sha2-256 with codec raw or dag-pb exists on this network.

Source: https://github.com/multiformats/cid. A CID's 36 bytes are 0x01, codec, 0x12, 0x20, digest.
"""

import base64
import functools
import hashlib
from typing import Literal

from proofyard.protocol.types import Cid, Digest, ProofyardError

RAW: Literal[0x55] = 0x55
DAG_PB: Literal[0x70] = 0x70
CID_BYTES = 36
_BASE32 = bytes(
    b"0123456789abcdefghijklmnopqrstuv"[at] if (at := b"abcdefghijklmnopqrstuvwxyz234567".find(symbol)) >= 0 else 0x21
    for symbol in range(256)
)
"""From the alphabet of CIDs to that of `int`; what is no symbol becomes one that `int` does not take either."""


class CidError(ProofyardError, ValueError):
    """A text or byte string is no CID of this network."""

    def __init__(self, value: object, reason: str) -> None:
        self.value = value
        super().__init__(
            f"not a usable CID ({reason}): {str(value)[:80]}; expected CIDv1, base32, sha2-256, raw or dag-pb"
        )


def make_cid(digest: bytes, codec: int = RAW) -> Cid:
    """The CID of a block with this sha2-256 digest (32 bytes)."""
    if len(digest) != 32 or codec not in (RAW, DAG_PB):
        raise CidError(digest.hex(), "wrong digest length or codec")
    binary = bytes((1, codec, 0x12, 0x20)) + digest
    return Cid("b" + base64.b32encode(binary).decode().lower().rstrip("="))


def raw_cid(data: bytes) -> Cid:
    """The CID of `data` as one raw block, as an artifact of at most 256 KiB has it."""
    return make_cid(hashlib.sha256(data).digest(), RAW)


@functools.lru_cache(maxsize=1 << 14)
def cid_bytes(cid: str) -> bytes:
    """The 36 bytes of a CID. Raises `CidError` for any other version, base, hash or codec, or a non-canonical text."""
    if len(cid) != 59 or cid[0] != "b":
        raise CidError(cid, "wrong length or base")
    try:
        # As a number to the base 32: `base64` decodes it in Python, symbol by symbol.
        number = int(cid[1:].encode().translate(_BASE32), 32)
    except ValueError:
        raise CidError(cid, "not base32") from None
    binary = (number >> 2).to_bytes(CID_BYTES, "big")
    if binary[0] != 1 or binary[1] not in (RAW, DAG_PB) or binary[2:4] != b"\x12\x20":
        raise CidError(cid, "wrong version, codec or hash")
    if number & 3:
        raise CidError(cid, "not canonical")
    return binary


def cid_from_bytes(binary: bytes) -> Cid:
    """The CID whose 36 bytes are given."""
    if len(binary) != CID_BYTES or binary[0] != 1 or binary[2:4] != b"\x12\x20":
        raise CidError(binary.hex(), "not 36 bytes of CIDv1 with sha2-256")
    return make_cid(binary[4:], binary[1])


def cid_digest(cid: str) -> Digest:
    """The sha2-256 digest inside a CID."""
    return Digest(cid_bytes(cid)[4:])


def cid_codec(cid: str) -> int:
    """`RAW` or `DAG_PB`."""
    return cid_bytes(cid)[1]
