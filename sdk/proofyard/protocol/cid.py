"""CIDv1 as text and as bytes. Only sha2-256 with codec raw or dag-pb exists on this network.

Source: https://github.com/multiformats/cid. A CID's 36 bytes are 0x01, codec, 0x12, 0x20, digest. What people type may
be spelt in any of IPFS's ways, version 0 among them: `spelt_cid`.
"""

import base64
import functools
import hashlib
import re
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


_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_ALPHABETS = {
    "f": "0123456789abcdef",
    "F": "0123456789ABCDEF",
    "b": "abcdefghijklmnopqrstuvwxyz234567",
    "B": "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
    "k": _BASE36,
    "K": _BASE36.upper(),
    "z": _BASE58,
    "u": _BASE64,
}
"""What a multibase prefix says of the symbols after it; padding, where a base has it, is left out in CIDs."""

MAX_SPELT = 256
"""Characters of a CID as people write it, with what stands before it."""


class CidError(ProofyardError, ValueError):
    """A text or byte string is no CID of this network."""

    def __init__(self, value: object, reason: str) -> None:
        self.value = value
        super().__init__(
            f"not a usable CID ({reason}): {str(value)[:80]}; expected sha2-256 with raw or dag-pb, CIDv0 or CIDv1"
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


def is_cid(cid: str) -> bool:
    """Whether a text is a CID of this network as `cid_bytes` takes it."""
    try:
        return bool(cid_bytes(cid))
    except CidError:
        return False


def any_cid(binary: bytes) -> Cid:
    """The text of any CID's bytes, in base 32: of version 0 as that of version 1, and of one whose hash or codec this
    network does not know, which `is_cid` then denies."""
    if len(binary) == 34 and binary[:2] == b"\x12\x20":
        binary = bytes((1, DAG_PB)) + binary  # version 0: the multihash alone stands for dag-pb
    return Cid("b" + base64.b32encode(binary).decode().lower().rstrip("="))


def spelt_cid(text: str) -> Cid:
    """A CID as a person has it: of version 0 (`Qm...`), of version 1 in any base, or behind `ipfs://` or `/ipfs/`.

    Raises `CidError` for what is none, and for another hash or codec than those of this network.
    """
    found = re.fullmatch(r"(?:ipfs://|/ipfs/)?([0-9A-Za-z_-]+)/?", text[: MAX_SPELT + 1].strip())
    if found is None or len(text) > MAX_SPELT:
        raise CidError(text, "neither a CID nor ipfs:// and a CID; a path inside an artifact is not taken")
    spelt = found[1]
    if len(spelt) == 46 and spelt.startswith("Qm"):
        binary = _from_base(spelt, _BASE58)
    else:
        binary = _from_base(spelt[1:], _ALPHABETS.get(spelt[0], ""))
    cid = any_cid(binary)
    if not is_cid(cid):
        raise CidError(text, "wrong version, codec, hash or length")
    return cid


def _from_base(symbols: str, alphabet: str) -> bytes:
    """The bytes that `symbols` spell: bit by bit in a base of whole bits, else as a number, with a zero byte for each
    zero before it. Nothing for what is not spelt so."""
    value = 0
    for symbol in symbols:
        at = alphabet.find(symbol)
        if at < 0:
            return b""
        value = value * len(alphabet) + at
    bits = len(alphabet).bit_length() - 1
    if len(alphabet) == 1 << max(bits, 0):
        size, spare = divmod(len(symbols) * bits, 8)
        return b"" if spare >= bits or value & (1 << spare) - 1 else (value >> spare).to_bytes(size, "big")
    zeros = len(symbols) - len(symbols.lstrip(alphabet[:1]))
    return bytes(zeros) + value.to_bytes((value.bit_length() + 7) // 8, "big")
