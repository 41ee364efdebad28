import subprocess
import sys

import pytest

from proofyard.protocol import bls

KEYS = [bls.keygen(bytes([i]) * 32) for i in range(1, 5)]
MESSAGE = b"m" * 32


def test_the_fast_backend_gives_the_bytes_of_the_reference() -> None:
    pytest.importorskip("milagro_bls_binding")
    reference, fast = bls.ReferenceBackend(), bls.MilagroBackend()
    secret = KEYS[0]
    assert reference.public_key(secret) == fast.public_key(secret)
    signature = reference.sign(secret, MESSAGE)
    assert signature == fast.sign(secret, MESSAGE)
    both = [signature, fast.sign(KEYS[1], MESSAGE)]
    assert reference.aggregate(both) == fast.aggregate(both)
    keys = [fast.public_key(secret), fast.public_key(KEYS[1])]
    aggregate = fast.aggregate(both)
    for backend in (reference, fast):
        assert backend.verify_aggregate(keys, MESSAGE, aggregate)
        assert not backend.verify_aggregate(keys[:1], MESSAGE, aggregate)


def test_an_aggregate_is_valid_for_exactly_its_signers_and_message() -> None:
    keys = [bls.public_key(secret) for secret in KEYS]
    aggregate = bls.aggregate([bls.sign(secret, MESSAGE) for secret in KEYS[:3]])
    assert bls.verify_aggregate(keys[:3], MESSAGE, aggregate)
    assert not bls.verify_aggregate(keys, MESSAGE, aggregate)
    assert not bls.verify_aggregate(keys[:3], b"n" * 32, aggregate)


def test_a_proof_of_possession_is_no_signature() -> None:
    proof = bls.prove_possession(KEYS[0], MESSAGE)
    assert not bls.verify(bls.public_key(KEYS[0]), MESSAGE, proof)


def test_points_survive_the_encoding_of_the_registry() -> None:
    for secret in KEYS:
        key = bls.public_key(secret)
        assert bls.public_key_from_point(bls.public_key_point(key)) == key


@pytest.mark.parametrize("garbage", [b"", b"\x00" * 96, b"\xff" * 96, b"\x01" * 95])
def test_bytes_that_are_no_points_are_refused(garbage: bytes) -> None:
    assert not bls.verify(bls.public_key(KEYS[0]), MESSAGE, bls.BlsSignature(garbage))
    with pytest.raises(bls.BlsError):
        bls.signature_point(bls.BlsSignature(garbage))
    with pytest.raises(bls.BlsError):
        bls.aggregate([bls.BlsSignature(garbage)])


def test_too_little_key_material_is_refused() -> None:
    with pytest.raises(bls.BlsError, match="32 secret bytes"):
        bls.keygen(b"short")


def test_the_recursion_limit_stays_low_enough_for_nested_input_from_peers() -> None:
    code = (
        "import json, msgspec, sys, proofyard.chain\n"
        "assert sys.getrecursionlimit() <= 1000\n"
        "for load, data in ((json.loads, b'[' * 10**6), (msgspec.msgpack.decode, b'\\x91' * 10**6)):\n"
        "    try: load(data)\n"
        "    except RecursionError: continue\n"
        "    sys.exit(1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
