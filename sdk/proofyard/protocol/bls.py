"""BLS12-381 signatures of the verifiers: public keys in G1 (48 bytes), signatures in G2 (96 bytes), compressed.

draft-irtf-cfrg-bls-signature-05, the proof of possession suite; several signatures over one message aggregate into one.
py-ecc is the reference. Where milagro-bls-binding is installed (`proofyard[fast]`) it signs and verifies a hundred
times faster and gives the same bytes. `*_point` give the uncompressed points in the form of EIP-2537.
"""

import hashlib
import sys
from collections.abc import Sequence
from typing import Any, NewType, Protocol

import py_ecc  # whose parts take a quarter of a second to import: it imports each when it is first used

from proofyard.protocol.types import ProofyardError

if sys.getrecursionlimit() >= 100_000:
    # py_ecc sets that limit when it is imported; nested JSON or msgpack from a peer would overflow the C stack.
    sys.setrecursionlimit(1000)

SecretKey = NewType("SecretKey", int)
PublicKey = NewType("PublicKey", bytes)
"""48 bytes, a compressed point of G1."""
BlsSignature = NewType("BlsSignature", bytes)
"""96 bytes, a compressed point of G2."""

POSSESSION_TAG = b"BLS_POP_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"
CURVE_ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001


class BlsError(ProofyardError, ValueError):
    """A key or signature is not a point that this network accepts."""


class _Backend(Protocol):
    def public_key(self, secret: int) -> bytes: ...
    def sign(self, secret: int, message: bytes) -> bytes: ...
    def verify_aggregate(self, keys: Sequence[bytes], message: bytes, signature: bytes) -> bool: ...
    def aggregate(self, signatures: Sequence[bytes]) -> bytes: ...


class ReferenceBackend:
    """py-ecc, in pure Python: about 0.3 s for a signature and 0.7 s for a check."""

    def public_key(self, secret: int) -> bytes:
        return bytes(py_ecc.bls.G2ProofOfPossession.SkToPk(secret))

    def sign(self, secret: int, message: bytes) -> bytes:
        return bytes(py_ecc.bls.G2ProofOfPossession.Sign(secret, message))

    def verify_aggregate(self, keys: Sequence[bytes], message: bytes, signature: bytes) -> bool:
        return bool(py_ecc.bls.G2ProofOfPossession.FastAggregateVerify(list(keys), message, signature))

    def aggregate(self, signatures: Sequence[bytes]) -> bytes:
        return bytes(py_ecc.bls.G2ProofOfPossession.Aggregate(list(signatures)))


class MilagroBackend:
    """milagro-bls-binding, in native code."""

    def __init__(self) -> None:
        import milagro_bls_binding

        self._milagro: Any = milagro_bls_binding

    def public_key(self, secret: int) -> bytes:
        return bytes(self._milagro.SkToPk(secret.to_bytes(32, "big")))

    def sign(self, secret: int, message: bytes) -> bytes:
        return bytes(self._milagro.Sign(secret.to_bytes(32, "big"), message))

    def verify_aggregate(self, keys: Sequence[bytes], message: bytes, signature: bytes) -> bool:
        return bool(self._milagro.FastAggregateVerify(list(keys), message, signature))

    def aggregate(self, signatures: Sequence[bytes]) -> bytes:
        return bytes(self._milagro.Aggregate(list(signatures)))


def fastest_backend() -> _Backend:
    """Milagro where it is installed, else the reference."""
    try:
        return MilagroBackend()
    except ImportError:
        return ReferenceBackend()


_backend = fastest_backend()


def keygen(seed: bytes) -> SecretKey:
    """The secret key of at least 32 secret bytes (KeyGen of the draft, section 2.3)."""
    if len(seed) < 32:
        raise BlsError(f"a BLS key needs at least 32 secret bytes, not {len(seed)}")
    return SecretKey(py_ecc.bls.G2ProofOfPossession.KeyGen(seed))


def public_key(secret: SecretKey) -> PublicKey:
    return PublicKey(_backend.public_key(secret))


def sign(secret: SecretKey, message: bytes) -> BlsSignature:
    return BlsSignature(_backend.sign(secret, message))


def verify(key: PublicKey, message: bytes, signature: BlsSignature) -> bool:
    return verify_aggregate([key], message, signature)


def aggregate(signatures: Sequence[BlsSignature]) -> BlsSignature:
    """One signature for all of them. Raises `BlsError` for none, or for bytes that are no points."""
    try:
        return BlsSignature(_backend.aggregate(signatures))
    except Exception as error:  # the backends raise what they like: ValueError, AssertionError, ValidationError
        raise BlsError(f"{len(signatures)} BLS signatures cannot be aggregated: {error}") from None


def verify_aggregate(keys: Sequence[PublicKey], message: bytes, signature: BlsSignature) -> bool:
    """Whether all of `keys` signed `message`. Keys without a proof of possession could be made to cancel others."""
    try:
        return _backend.verify_aggregate(keys, message, signature)
    except Exception:  # malformed points, in the words of either backend
        return False


def prove_possession(secret: SecretKey, digest: bytes) -> BlsSignature:
    """A signature over `settlement.possession_digest` under the tag of proofs of possession. About 0.3 s."""
    signed = py_ecc.optimized_bls12_381.multiply(_hashed(digest), secret)
    return BlsSignature(bytes(py_ecc.bls.g2_primitives.G2_to_signature(signed)))


def verify_possession(key: PublicKey, digest: bytes, proof: BlsSignature) -> bool:
    """Whether `prove_possession` made `proof` with the secret of this key. About 0.3 s, with either backend."""
    try:
        if not py_ecc.bls.G2ProofOfPossession.KeyValidate(key):
            return False
        curve, points = py_ecc.optimized_bls12_381, py_ecc.bls.g2_primitives
        signed, named = points.signature_to_G2(proof), points.pubkey_to_G1(key)
        if not points.subgroup_check(signed):
            return False
        ours = curve.pairing(signed, curve.G1, final_exponentiate=False)
        theirs = curve.pairing(_hashed(digest), curve.neg(named), final_exponentiate=False)
        return bool(curve.final_exponentiate(ours * theirs) == curve.FQ12.one())
    except Exception:  # malformed points, in py_ecc's words
        return False


def public_key_point(key: PublicKey) -> bytes:
    """128 bytes: x and y, each 48 bytes big-endian padded to 64."""
    try:
        x, y = py_ecc.optimized_bls12_381.normalize(py_ecc.bls.g2_primitives.pubkey_to_G1(key))
    except Exception as error:
        raise BlsError(f"{key.hex()} is not a compressed G1 point: {error}") from None
    return _field(x.n) + _field(y.n)


def signature_point(signature: BlsSignature) -> bytes:
    """256 bytes: x.c0, x.c1, y.c0, y.c1, each 48 bytes big-endian padded to 64."""
    try:
        x, y = py_ecc.optimized_bls12_381.normalize(py_ecc.bls.g2_primitives.signature_to_G2(signature))
    except Exception as error:
        raise BlsError(f"{signature.hex()} is not a compressed G2 point: {error}") from None
    return b"".join(_field(int(part)) for part in (*x.coeffs, *y.coeffs))


def public_key_from_point(point: bytes) -> PublicKey:
    """The compressed form of 128 bytes from the Registry; the Registry has checked the point."""
    if len(point) != 128 or any(point[:16]) or any(point[64:80]):
        raise BlsError(f"{point.hex()} is not a G1 point in the form of EIP-2537")
    x, y = point[16:64], int.from_bytes(point[80:])
    flags = 0x80 | (0x20 if y > (_FIELD - 1) // 2 else 0)
    return PublicKey(bytes([x[0] | flags]) + x[1:])


def _hashed(digest: bytes) -> Any:
    """The point of G2 whose multiple a proof of possession is."""
    return py_ecc.bls.hash_to_curve.hash_to_G2(digest, POSSESSION_TAG, hashlib.sha256)


def _field(value: int) -> bytes:
    return value.to_bytes(64, "big")


_FIELD = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB
