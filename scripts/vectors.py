"""The golden vectors that hold Python and Solidity to the same bytes: `python scripts/vectors.py` writes them."""

import json
from pathlib import Path
from typing import Any

from proofyard.protocol import bls, dial, merkle, payout
from proofyard.protocol.audit import BatchEntry, Operator, audit_plan
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.protocol.commitment import Commitment, Domain, receipt_struct_hash
from proofyard.protocol.settlement import (
    BatchRef,
    Fault,
    FaultReason,
    OperatorId,
    Payout,
    Settlement,
    consent_digest,
    draw_seed,
    payout_leaf,
    payout_root,
    possession_digest,
    settlement_digest,
)
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, TaskIndex, Wei

PATH = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "contracts.json"
DOMAIN = Domain(31337, Address("0x00000000000000000000000000000000005EfE57"))
OWNER = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
NODE = Address("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC")


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _digest(tag: int) -> Digest:
    return Digest(bytes([tag]) * 32)


def make() -> dict[str, Any]:
    """All vectors, JSON-ready: bytes as 0x hex, amounts and fractions of 1e18 as decimal strings."""
    return {
        "domain": {
            "chain_id": DOMAIN.chain_id,
            "registry": DOMAIN.registry,
            "separator": _hex(DOMAIN.separator()),
        },
        "commitment": _commitment(),
        "merkle": _merkle(),
        "settlement": _settlement(),
        "digests": _digests(),
        "bls": _bls(),
        "dial": _dial(),
        "weight": [{"valid": n, "wad": str(payout.weight_parts(n))} for n in (0, 1, 2, 9, 100, 1022, 1023, 5000)],
        "audit_plan": _audit_plan(),
    }


def _commitment() -> dict[str, Any]:
    result = raw_cid(b"result")
    commitment = Commitment(JobId(7), TaskIndex(3), NODE, _digest(1), _digest(2), _digest(3), 64, result, 1234)
    return {
        "job": 7,
        "task": 3,
        "node": NODE,
        "manifest": _hex(_digest(1)),
        "inputs": _hex(_digest(2)),
        "traceRoot": _hex(_digest(3)),
        "segments": 64,
        "result": _hex(cid_bytes(result)),
        "workUnits": 1234,
        "struct_hash": _hex(commitment.struct_hash()),
        "typed_digest": _hex(DOMAIN.typed_digest(commitment.struct_hash())),
    }


def _merkle() -> list[dict[str, Any]]:
    rows = []
    for size in (1, 2, 3, 5, 8, 13):
        leaves = [i.to_bytes(32, "big") for i in range(size)]
        index = size * 2 // 3
        proof = [_hex(sibling) for sibling in merkle.proof(leaves, index)]
        rows.append({"size": size, "index": index, "root": _hex(merkle.root(leaves)), "proof": proof})
    return rows


def _settlement() -> dict[str, Any]:
    batch, root = BatchId(5), _digest(4)
    payouts = (Payout(OperatorId(2), Wei(10**20), 1, 2), Payout(OperatorId(9), Wei(3), 0, 4))
    faults = (Fault(OperatorId(4), TaskIndex(1), SegmentIndex(6), FaultReason.WITHHELD),)
    settlement = Settlement(payouts, faults, _digest(6), raw_cid(b"record"))
    seed = draw_seed(_digest(5), batch, root)
    ref = BatchRef(batch, root, seed, 1)
    return {
        "batch": batch,
        "attempt": 1,
        "root": _hex(root),
        "block_hash": _hex(_digest(5)),
        "seed": _hex(seed),
        "payout_leaf": _hex(merkle.leaf_hash(payout_leaf(batch, 0, payouts[0]))),
        "payout_root": _hex(payout_root(batch, payouts)),
        "payout_total": str(settlement.total),
        "audit_units": settlement.audit_units,
        "audit_root": _hex(_digest(6)),
        "record": _hex(cid_bytes(settlement.record)),
        "digest": _hex(settlement_digest(DOMAIN, ref, settlement)),
    }


def _digests() -> dict[str, str]:
    point = bls.public_key_point(bls.public_key(bls.keygen(bytes(range(32)))))
    receipt = DOMAIN.typed_digest(receipt_struct_hash(_digest(7), 1_800_000_000))
    return {
        "consent": _hex(consent_digest(DOMAIN, OWNER, NODE)),
        "possession": _hex(possession_digest(DOMAIN, OWNER, NODE, point)),
        "receipt": _hex(receipt),
    }


def _bls() -> dict[str, str]:
    """Two signers' keys, their aggregate over one message, and a proof of possession over the same message."""
    secrets = [bls.keygen(bytes(range(i, i + 32))) for i in (0, 1)]
    keys = [bls.public_key_point(bls.public_key(secret)) for secret in secrets]
    message = _digest(8)
    signature = bls.aggregate([bls.sign(secret, message) for secret in secrets])
    return {
        "key_0": _hex(keys[0]),
        "key_1": _hex(keys[1]),
        "message": _hex(message),
        "signature": _hex(bls.signature_point(signature)),
        "possession_0": _hex(bls.signature_point(bls.prove_possession(secrets[0], message))),
    }


def _dial() -> list[dict[str, Any]]:
    rows = []
    for valid, stake, tasks, reward, bps in (
        (0, 100, 1, 1, 1000),
        (10, 100, 1, 1, 1000),
        (50, 1, 100, 1, 0),
        (5000, 1, 1000, 10, 500),
        (5000, 1000, 1000, 10, 500),
        (10**6, 10**6, 10**5, 1, 0),
    ):
        probability = dial.audit_probability(valid, Wei(stake * 10**18), tasks, Wei(reward * 10**18), bps / 10_000)
        floor = dial.p_floor(Wei(stake * 10**18), tasks, Wei(reward * 10**18), bps / 10_000)
        rows.append(
            {
                "valid": valid,
                "stake": str(stake * 10**18),
                "tasks": tasks,
                "reward": str(reward * 10**18),
                "collusion_bps": bps,
                "floor": str(round(floor * 10**18)),
                "probability": str(round(probability * 10**18)),
            }
        )
    return rows


def _audit_plan() -> dict[str, Any]:
    nodes = [Address("0x" + f"{i:040x}") for i in range(1, 7)]
    operators = [Operator(node, nodes[i // 2]) for i, node in enumerate(nodes)]
    entries = [BatchEntry(TaskIndex(i), node, 8, _digest(i), 5 * 10**17) for i, node in enumerate(nodes)]
    plan = audit_plan(_digest(9), entries, operators, auditors_per_segment=2, segments_per_audit=2)
    audits = [{"task": a.task, "segment": a.segment, "auditors": list(a.auditors)} for a in plan.audits]
    return {"seed": _hex(_digest(9)), "audits": audits, "skipped": list(plan.skipped)}


def main() -> None:
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps(make(), indent=1) + "\n")


if __name__ == "__main__":
    main()
