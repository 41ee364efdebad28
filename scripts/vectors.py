"""The golden vectors that hold Python and Solidity to the same bytes: `python scripts/vectors.py` writes them."""

import json
import random
from decimal import Context, Decimal
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
TOKEN = 10**18
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
        "audit_plans": _audit_plans(),
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
    faults = (
        Fault(OperatorId(4), TaskIndex(1), SegmentIndex(6), FaultReason.WITHHELD),
        Fault(OperatorId(7), TaskIndex(2), SegmentIndex(0), FaultReason.DISAGREED),
    )
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


DIAL_SEED = 8
"""Of the drawn rows of the dial's table."""

DIAL_EDGES = (
    # valid, stake, tasks, reward, collusion_bps, segments, segments_per_audit
    (0, 100 * TOKEN, 1, TOKEN, 1000, 64, 2),
    (10, 100 * TOKEN, 1, TOKEN, 1000, 64, 2),
    (50, TOKEN, 100, TOKEN, 0, 64, 1),
    (10**6, 10**6 * TOKEN, 10**5, TOKEN, 0, 64, 1),
    (2**32 - 1, 100 * TOKEN, 0, 0, 1000, 64, 2),  # nothing in flight
    (5000, 0, 1, 1, 1000, 64, 2),  # no stake
    (5000, 0, 1, 1, 0, 64, 2),
    (5000, 100 * TOKEN, 5, 900 * TOKEN, 1000, 64, 2),  # q is 1
    (5000, 100 * TOKEN, 5, 900 * TOKEN - 1, 1000, 64, 2),  # q is just below 1
    (5000, 100 * TOKEN, 10**12, 900 * TOKEN - 1, 1000, 64, 2),
    (5000, 3, 1, 1, 0, 8, 1),  # x N is 2 and a unit: 3 are drawn, for the loss must be certain
    (5000, 3, 1, 1, 0, 8, 3),
    (5000, 3, 1, 1, 0, 4, 1),
    (5000, 3 * 10**9 + 1, 1, 10**9, 0, 8, 1),  # x N is a little below 2
    (5000, 100 * TOKEN, 1, TOKEN, 1000, 1, 1),  # one segment
    (5000, 100 * TOKEN, 1, TOKEN, 1000, 3, 255),  # more than there are
    (5000, 1, 10**18, 1, 0, 2**32 - 1, 1),
    (5000, 1, 2**96, 1, 5000, 64, 1),
    (5000, 2**96 - 1, 1, 2**96 - 1, 9999, 64, 1),
    (5000, 2**96 - 1, 10**6, 1, 1000, 64, 1),
    (5000, 1, 1, 2**96 - 1, 0, 2**32 - 1, 255),
    (9, 1000 * TOKEN, 7, 10 * TOKEN, 1000, 64, 2),
)


def _dial() -> dict[str, Any]:
    """A table by its columns: edges, and rows drawn by `DIAL_SEED`. `reference` is 1 - (1 - q)^(1/T) in decimals."""
    draw = random.Random(DIAL_SEED)
    rows = [*DIAL_EDGES, *(_dial_case(draw) for _ in range(250))]
    odds = [dial.audit_odds(v, Wei(s), t, Wei(r), bps, n, m) for v, s, t, r, bps, n, m in rows]
    names = ("valid", "stake", "tasks", "reward", "collusion_bps", "segments", "segments_per_audit")
    return {
        "seed": DIAL_SEED,
        **{name: [str(row[i]) for row in rows] for i, name in enumerate(names)},
        "per_task": [str(dial.per_task(Wei(s), t, Wei(r), bps)) for _, s, t, r, bps, _, _ in rows],
        "reference": [str(_per_task_reference(s, t, r, bps)) for _, s, t, r, bps, _, _ in rows],
        "probability": [str(found.wad) for found in odds],
        "drawn": [str(found.segments) for found in odds],
    }


def _dial_case(draw: random.Random) -> tuple[int, int, int, int, int, int, int]:
    """Amounts of every magnitude, so that some floors are near 0, some near 1, and many need more segments."""
    reward = int(TOKEN * 10 ** draw.uniform(-6, 4))
    tasks = int(10 ** draw.uniform(0, 4))
    stake = int(reward * 10 ** draw.uniform(-0.9, 3))
    return draw.randrange(2000), stake, tasks, reward, draw.choice((0, 1000)), draw.randint(1, 512), draw.randint(1, 8)


def _per_task_reference(stake: int, tasks: int, reward: int, bps: int) -> int:
    """In units of 1e-18, from 80 decimal digits."""
    if reward == 0:
        return 0
    ctx = Context(prec=80)
    q = ctx.divide(Decimal(reward * 10_000), Decimal((10_000 - bps) * (stake + reward)))
    if q >= 1:
        return dial.WAD
    escape = ctx.exp(ctx.divide(ctx.ln(ctx.subtract(Decimal(1), q)), Decimal(tasks)))
    return int(ctx.multiply(ctx.subtract(Decimal(1), escape), Decimal(dial.WAD)))


def _audit_plans() -> list[dict[str, Any]]:
    """Plans over 20 nodes of 10 owners, over 40 nodes of 39, and over so few that some segments find nobody."""
    half, all_ = dial.WAD // 2, dial.WAD
    spread = [(0, 8, half, 1), (1, 8, half, 2), (2, 64, all_, 4), (3, 1, all_, 1), (4, 3, half, 5), (19, 8, 0, 2)]
    many = [(node, 64, all_ * 3 // 4, node % 7 + 1) for node in range(8)]
    few = [(0, 8, all_, 3), (2, 8, all_, 8), (4, 2, all_, 1)]
    return [
        _audit_plan(9, [i // 2 for i in range(20)], spread, 2),
        _audit_plan(10, [max(i - 1, 0) for i in range(40)], many, 3),
        _audit_plan(11, [0, 0, 1, 2, 3], few, 2),
    ]


def _audit_plan(tag: int, owners: list[int], tasks: list[tuple[int, int, int, int]], k: int) -> dict[str, Any]:
    """`tasks` are (node, segments, wad, drawn); a worker whose node has left the snapshot is the first task's."""
    nodes = [Address("0x" + f"{i + 1:040x}") for i in range(len(owners))]
    owner = [Address("0x" + f"{i + 1:036x}beef") for i in owners]
    operators = [Operator(node, its) for node, its in zip(nodes, owner, strict=True)][1:]
    entries = [
        BatchEntry(TaskIndex(i), nodes[node], owner[node], segments, _digest(16 * tag + i), wad, drawn)
        for i, (node, segments, wad, drawn) in enumerate(tasks)
    ]
    plan = audit_plan(_digest(tag), entries, operators, auditors_per_segment=k)
    return {
        "seed": _hex(_digest(tag)),
        "auditors_per_segment": k,
        "operators": {"node": [o.node for o in operators], "owner": [o.owner for o in operators]},
        "batch": {
            "owner": [entry.owner for entry in entries],
            "segments": [entry.segments for entry in entries],
            "leaf": [_hex(entry.leaf) for entry in entries],
            "wad": [str(entry.audit_wad) for entry in entries],
            "drawn": [entry.drawn for entry in entries],
        },
        "audits": [{"task": a.task, "segment": a.segment, "auditors": list(a.auditors)} for a in plan.audits],
        "skipped": list(plan.skipped),
    }


def main() -> None:
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps(make(), indent=1) + "\n")


if __name__ == "__main__":
    main()
