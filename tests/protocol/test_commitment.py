from dataclasses import replace

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from proofyard.protocol import signature
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.commitment import Commitment, Domain, receipt_struct_hash
from proofyard.protocol.seal import seal_struct_hash
from proofyard.protocol.signature import SignatureInvalid, recover, require_signer
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex

WALLET = Account.from_key(b"\x07" * 32)
DOMAIN = Domain(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
COMMITMENT = Commitment(
    job=JobId(3),
    task=TaskIndex(4),
    node=Address(WALLET.address),
    manifest=Digest(b"m" * 32),
    inputs=Digest(b"i" * 32),
    trace_root=Digest(b"t" * 32),
    segments=8,
    result=raw_cid(b"result"),
    work_units=4096,
    mark=Digest(b"k" * 32),
)


def eip712(primary: str, fields: list[tuple[str, str]], values: dict[str, object]) -> bytes:
    """The digest that a wallet of somebody else's computes from the same typed data."""
    message = encode_typed_data(
        {"name": "Proofyard", "version": "1", "chainId": DOMAIN.chain_id, "verifyingContract": DOMAIN.registry},
        {primary: [{"name": name, "type": kind} for kind, name in fields]},
        values,
    )
    return bytes(Account.unsafe_sign_hash(_digest(message), WALLET.key).message_hash)


def _digest(message: object) -> bytes:
    from eth_account.messages import _hash_eip191_message

    return bytes(_hash_eip191_message(message))  # type: ignore[arg-type]


def test_commitments_hash_as_eip712_says() -> None:
    fields = [
        ("uint256", "jobId"),
        ("uint32", "task"),
        ("address", "node"),
        ("bytes32", "manifest"),
        ("bytes32", "inputs"),
        ("bytes32", "traceRoot"),
        ("uint32", "segments"),
        ("bytes", "result"),
        ("uint64", "workUnits"),
        ("bytes32", "mark"),
    ]
    values = {
        "jobId": 3,
        "task": 4,
        "node": WALLET.address,
        "manifest": b"m" * 32,
        "inputs": b"i" * 32,
        "traceRoot": b"t" * 32,
        "segments": 8,
        "result": cid_bytes(COMMITMENT.result),
        "workUnits": 4096,
        "mark": b"k" * 32,
    }
    assert DOMAIN.typed_digest(COMMITMENT.struct_hash()) == eip712("Commitment", fields, values)


def test_seals_and_receipts_hash_as_eip712_says() -> None:
    seal = struct = seal_struct_hash(
        BatchId(1), JobId(7), TaskIndex(2), SegmentIndex(3), Digest(b"d" * 32), COMMITMENT.node, Digest(b"s" * 32)
    )
    fields = [
        ("uint256", "batch"),
        ("uint256", "job"),
        ("uint32", "task"),
        ("uint32", "segment"),
        ("bytes32", "seed"),
        ("address", "auditor"),
        ("bytes32", "seal"),
    ]
    values: dict[str, object] = {
        "batch": 1,
        "job": 7,
        "task": 2,
        "segment": 3,
        "seed": b"d" * 32,
        "auditor": WALLET.address,
        "seal": b"s" * 32,
    }
    assert DOMAIN.typed_digest(seal) == eip712("Seal", fields, values)
    struct = receipt_struct_hash(Digest(b"l" * 32), JobId(7), 99)
    receipt: dict[str, object] = {"leaf": b"l" * 32, "job": 7, "deadline": 99}
    assert DOMAIN.typed_digest(struct) == eip712(
        "Receipt", [("bytes32", "leaf"), ("uint256", "job"), ("uint64", "deadline")], receipt
    )


def test_every_field_of_a_commitment_counts() -> None:
    changed = {
        "job": 9,
        "task": 9,
        "node": DOMAIN.registry,
        "manifest": b"9" * 32,
        "inputs": b"9" * 32,
        "trace_root": b"9" * 32,
        "segments": 9,
        "result": raw_cid(b"9"),
        "work_units": 9,
    }
    hashes = {replace(COMMITMENT, **{name: value}).struct_hash() for name, value in changed.items()}  # type: ignore[arg-type]
    assert len(hashes | {COMMITMENT.struct_hash()}) == len(changed) + 1


def test_signatures_are_bound_to_chain_and_registry() -> None:
    digest = DOMAIN.typed_digest(COMMITMENT.struct_hash())
    signature = Signature(bytes(Account.unsafe_sign_hash(digest, WALLET.key).signature))
    require_signer(digest, signature, COMMITMENT.node, "the commitment")
    for domain in (Domain(1, DOMAIN.registry), Domain(31337, COMMITMENT.node)):
        with pytest.raises(SignatureInvalid, match="signed by"):
            require_signer(domain.typed_digest(COMMITMENT.struct_hash()), signature, COMMITMENT.node, "the commitment")


def test_malleable_and_malformed_signatures_are_refused() -> None:
    digest = DOMAIN.typed_digest(COMMITMENT.struct_hash())
    signature = bytes(Account.unsafe_sign_hash(digest, WALLET.key).signature)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high = (order - int.from_bytes(signature[32:64], "big")).to_bytes(32, "big")
    twin = signature[:32] + high + bytes((55 - signature[64],))
    for bad in (twin, signature[:64], signature[:64] + b"\x00", bytes(64) + b"\x1b"):
        with pytest.raises(SignatureInvalid):
            recover(digest, Signature(bad))


def test_a_signature_is_looked_at_once_and_no_other_passes_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    commitment = replace(COMMITMENT)
    signed = WALLET.unsafe_sign_hash(DOMAIN.typed_digest(commitment.struct_hash()))
    right = Signature(bytes(signed.signature))
    looked: list[Signature] = []
    recovered = signature.recover
    monkeypatch.setattr(signature, "recover", lambda digest, made: looked.append(made) or recovered(digest, made))
    assert commitment.is_signed(DOMAIN, right)
    assert commitment.is_signed(DOMAIN, right)
    assert looked == [right]
    others = [Signature(right[:64] + bytes((55 - right[64],))), Signature(b""), Signature(bytes(65))]
    assert not any(commitment.is_signed(DOMAIN, other) for other in others)
    assert not commitment.is_signed(Domain(1, DOMAIN.registry), right)
    assert not replace(commitment, work_units=1).is_signed(DOMAIN, right)
    assert decode(encode(commitment), Commitment) == commitment == COMMITMENT
