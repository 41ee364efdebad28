"""ECDSA signatures of wallets over 32-byte digests, in the one form that the Registry accepts."""

import functools

from coincurve import PublicKey

from proofyard.protocol.addresses import checksum_address
from proofyard.protocol.keccak import keccak
from proofyard.protocol.types import Address, Digest, ProofyardError, Signature

_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


class SignatureInvalid(ProofyardError, ValueError):
    """A signature is malformed, malleable, or not by the wallet it claims."""

    exit_code = 4


def recover(digest: Digest, signature: Signature) -> Address:
    """The wallet that signed `digest`. Raises `SignatureInvalid` unless it is 65 bytes, v 27 or 28, low s."""
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise SignatureInvalid("a signature must be 65 bytes r, s, v with v 27 or 28")
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        raise SignatureInvalid("a signature must have the lower of its two possible s values")
    try:
        key = PublicKey.from_signature_and_message(signature[:64] + bytes((signature[64] - 27,)), digest, hasher=None)
    except ValueError as error:
        raise SignatureInvalid(f"a signature cannot be recovered: {error}") from None
    return _address_of(key.format(compressed=False))


@functools.lru_cache(maxsize=4096)
def _address_of(key: bytes) -> Address:
    """The address of an uncompressed public key."""
    return checksum_address(keccak(key[1:])[12:])


def require_signer(digest: Digest, signature: Signature, signer: Address, what: str) -> None:
    """Raise `SignatureInvalid` unless `signer` signed `digest`; `what` names the thing in the message."""
    found = recover(digest, signature)
    if found != signer:
        raise SignatureInvalid(f"{what} names {signer} but is signed by {found}")


def signed_by(digest: Digest, signature: Signature, signer: Address) -> bool:
    """Whether `signer` signed `digest`."""
    try:
        return recover(digest, signature) == signer
    except SignatureInvalid:
        return False
