"""ECDSA signatures of wallets over 32-byte digests, in the one form that the Registry accepts."""

from eth_keys.datatypes import Signature as EcdsaSignature
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

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
        parsed = EcdsaSignature(signature[:64] + bytes((signature[64] - 27,)))
        return Address(parsed.recover_public_key_from_msg_hash(digest).to_checksum_address())
    except (BadSignature, ValidationError, ValueError) as error:
        raise SignatureInvalid(f"a signature cannot be recovered: {error}") from None


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
