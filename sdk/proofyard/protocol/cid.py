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


_BASE10 = "0123456789"
_BASE36 = _BASE10 + "abcdefghijklmnopqrstuvwxyz"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_FLICKR = _BASE58[:9] + _BASE58[33:] + _BASE58[9:33]
_BASE32_Z = "ybndrfg8ejkmcpqxot1uwisza345h769"
_BASE32_HEX = _BASE36[:32]
_BASE32_LOWER = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = tuple(first + second for first in _BASE32_LOWER for second in _BASE32_LOWER)
_SHIFTS = range(8 * CID_BYTES - 8, -1, -10)
"""Where each two of a CID's 58 symbols are in its bits and two more, which are zero."""
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_ALPHABETS = {
    "0": "01",
    "7": _BASE10[:8],
    "9": _BASE10,
    "f": "0123456789abcdef",
    "F": "0123456789ABCDEF",
    **dict.fromkeys("vt", _BASE32_HEX),
    **dict.fromkeys("VT", _BASE32_HEX.upper()),
    **dict.fromkeys("bc", _BASE32_LOWER),
    **dict.fromkeys("BC", _BASE32_LOWER.upper()),
    "h": _BASE32_Z,
    "k": _BASE36,
    "K": _BASE36.upper(),
    "z": _BASE58,
    "Z": _BASE58_FLICKR,
    **dict.fromkeys("mM", _BASE64 + "+/"),
    **dict.fromkeys("uU", _BASE64 + "-_"),
}
"""What a multibase prefix says of the symbols after it (https://github.com/multiformats/multibase). Padding, which four
of the bases have, says nothing."""

_SLASHED, _SLASHED_LENGTH = ("m", "M"), 1 + CID_BYTES * 8 // 6
"""Bases with a symbol that ends paths as well, and how long a CID of this network is in them."""

MAX_SPELT = 320
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
    # As a number: `base64` encodes it in Python, symbol by symbol.
    number = int.from_bytes(bytes((1, codec, 0x12, 0x20)) + digest, "big") << 2
    return Cid("b" + "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS]))


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


@functools.lru_cache(maxsize=1 << 14)
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
    found = re.fullmatch(r"(?:ipfs://|/ipfs/)?([0-9A-Za-z_+/-]+)=*/?", text[: MAX_SPELT + 1].strip())
    spelt = "" if found is None else found[1]
    if spelt[:1] not in _SLASHED or len(spelt) > _SLASHED_LENGTH:
        spelt = spelt.removesuffix("/")
    if len(text) > MAX_SPELT or not spelt or ("/" in spelt and spelt[0] not in _SLASHED):
        raise CidError(text, "neither a CID nor ipfs:// and a CID; a path inside an artifact is not taken")
    if len(spelt) == 46 and spelt.startswith("Qm"):
        binary = _from_base(spelt, _BASE58)
    elif spelt[0] in _ALPHABETS:
        binary = _from_base(spelt[1:], _ALPHABETS[spelt[0]])
    else:
        raise CidError(text, f"no base of CIDs begins with {spelt[0]!r}")
    cid = any_cid(binary)
    if not is_cid(cid):
        raise CidError(text, _why_not(binary))
    return cid


def _why_not(binary: bytes) -> str:
    """What is wrong with the bytes of a CID that this network does not know."""
    if not binary:
        return "it has symbols that its base has not"
    if binary[0] != 1 or len(binary) < 4:
        return "it is of no version that there is, or cut off"
    codec, hashed, size = binary[1], binary[2], binary[3]
    if (hashed, size) == (0, len(binary) - 4):
        return "it holds its bytes itself (the identity hash)"
    if hashed != 0x12:
        return "it has another hash than sha2-256"
    if codec not in (RAW, DAG_PB):
        return f"it has the codec {codec:#x}, which is neither raw nor dag-pb"
    return "wrong length"


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
