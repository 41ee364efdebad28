"""The golden vectors that hold Python and Solidity to the same bytes: `python scripts/vectors.py` writes them."""

import json
import random
from pathlib import Path
from typing import Any

from eth_utils.address import to_checksum_address

from proofyard.chain import Params
from proofyard.protocol import bls, dial, merkle
from proofyard.protocol.audit import BatchEntry, Operator, audit_plan, pool_of
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.protocol.commitment import Commitment, Domain, receipt_struct_hash
from proofyard.protocol.dial import AuditOdds
from proofyard.protocol.mark import mark_of
from proofyard.protocol.seal import Opening, jury_seed, keyed_digest, seal_of, seal_struct_hash
from proofyard.protocol.settlement import (
    EMPTY_ROOT,
    RESULT,
    BatchRef,
    Cause,
    Fault,
    FaultReason,
    Header,
    Line,
    OperatorId,
    Payout,
    Settlement,
    Share,
    bound_hash,
    consent_digest,
    draw_seed,
    encode_faults,
    encode_shares,
    header_hash,
    payout_leaf,
    payout_root,
    possession_digest,
    settlement_digest,
    stored_hash,
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
        "marks": _marks(),
        "merkle": _merkle(),
        "headers": _headers(),
        "settlement": _settlement(),
        "empty_settlement": _empty_settlement(),
        "seal": _seal(),
        "digests": _digests(),
        "bls": _bls(),
        "dial": _dial(),
        "exposure": _exposure(),
        "audit_plans": _audit_plans(),
    }


def _commitment() -> dict[str, Any]:
    result = raw_cid(b"result")
    roots, mark = (_digest(1), _digest(2), _digest(3)), _digest(8)
    commitment = Commitment(JobId(7), TaskIndex(3), NODE, *roots, 64, result, 1234, mark)
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
        "mark": _hex(_digest(8)),
        "struct_hash": _hex(commitment.struct_hash()),
        "typed_digest": _hex(DOMAIN.typed_digest(commitment.struct_hash())),
    }


def _marks() -> dict[str, str]:
    salt = bytes(_digest(10))
    work, decoy = (_hex(mark_of(salt, decoy=kind)) for kind in (False, True))
    return {"salt": _hex(Digest(salt)), "work": work, "decoy": decoy}


def _merkle() -> list[dict[str, Any]]:
    rows = []
    for size in (1, 2, 3, 5, 8, 13):
        leaves = [i.to_bytes(32, "big") for i in range(size)]
        index = size * 2 // 3
        proof = [_hex(sibling) for sibling in merkle.proof(leaves, index)]
        rows.append({"size": size, "index": index, "root": _hex(merkle.root(leaves)), "proof": proof})
    return rows


FRESH = Header(_digest(4), 300, _digest(9), (Line(JobId(7), 4000), Line(JobId(2**64 - 1), 2**48 - 1)))
"""As a verifier brings it to the commit: lines without budgets."""

RESERVED = Header(
    FRESH.root,
    FRESH.size,
    FRESH.members,
    (Line(JobId(7), 4000, Wei(10**21)), Line(JobId(2**64 - 1), 2**48 - 1, Wei(2**96 - 1))),
)
PAID = Header(
    FRESH.root,
    FRESH.size,
    FRESH.members,
    (
        Line(JobId(7), 4000, Wei(10**21), 3900, Wei(10**20)),
        Line(JobId(2**64 - 1), 2**48 - 1, Wei(2**96 - 1), 2**48 - 1, Wei(2**96 - 1)),
    ),
    _digest(12),
    _digest(13),
)


def _headers() -> list[dict[str, Any]]:
    """Lines by their columns, numbers as decimal strings."""
    return [
        {
            "root": _hex(header.root),
            "size": header.size,
            "members": _hex(header.members),
            "lines": {
                name: [str(getattr(line, name)) for line in header.lines]
                for name in ("job", "units", "budget", "paid_units", "amount")
            },
            "seed": _hex(header.seed),
            "payout_root": _hex(header.payout_root),
            "hash": _hex(header_hash(header)),
            "stored": _hex(stored_hash(header)),
            "bound": _hex(bound_hash(header)),
        }
        for header in (FRESH, RESERVED, PAID)
    ]


def _settlement() -> dict[str, Any]:
    """Of the second of the headers; the seed was drawn with the same."""
    batch, header = BatchId(5), header_hash(RESERVED)
    redress = Payout(OperatorId(9), Wei(10**19), cause=Cause(BatchId(4), 1, 2), prices=Wei(10**20))
    payouts = (Payout(OperatorId(2), Wei(10**20), 1, 2), Payout(OperatorId(9), Wei(3), 0, 4), redress)
    accusers = (OperatorId(3), OperatorId(8), OperatorId(2**32 - 1))
    faults = (
        Fault(OperatorId(4), JobId(7), TaskIndex(1), SegmentIndex(6), FaultReason.MISMATCH, accusers),
        Fault(OperatorId(5), JobId(7), TaskIndex(9), RESULT, FaultReason.WITHHELD),
        Fault(OperatorId(7), JobId(2**64 - 1), TaskIndex(2), SegmentIndex(0), FaultReason.DISAGREED, accusers[:1]),
    )
    shares = (Share(3900, Wei(10**20), Wei(10**19)), Share(2**48 - 1, Wei(3)))
    settlement = Settlement(payouts, faults, shares, _digest(6), raw_cid(b"record"))
    seed = draw_seed(_digest(5), batch, header)
    return {
        "batch": batch,
        "attempt": 1,
        "header": _hex(header),
        "block_hash": _hex(_digest(5)),
        "seed": _hex(seed),
        "payout_leaf": _hex(merkle.leaf_hash(payout_leaf(batch, 0, payouts[0]))),
        "redress_leaf": _hex(merkle.leaf_hash(payout_leaf(batch, 2, redress))),
        "payout_root": _hex(payout_root(batch, payouts)),
        "payout_total": str(settlement.total),
        "audit_units": settlement.audit_units,
        "faults": {
            "operator": [fault.operator for fault in faults],
            "job": [str(fault.job) for fault in faults],
            "task": [fault.task for fault in faults],
            "segment": [fault.segment for fault in faults],
            "reason": [int(fault.reason) for fault in faults],
            "accusers": [list(fault.accusers) for fault in faults],
        },
        "faults_encoded": _hex(encode_faults(faults)),
        "shares": {
            "paid_units": [str(share.paid_units) for share in shares],
            "amount": [str(share.amount) for share in shares],
            "redress": [str(share.redress) for share in shares],
        },
        "shares_encoded": _hex(encode_shares(shares)),
        "audit_root": _hex(_digest(6)),
        "record": _hex(cid_bytes(settlement.record)),
        "digest": _hex(settlement_digest(DOMAIN, BatchRef(batch, 1, header, seed), settlement)),
    }


def _empty_settlement() -> dict[str, Any]:
    """That pays nobody and accuses nobody, of the same batch at its first attempt."""
    batch, header = BatchId(5), header_hash(RESERVED)
    seed = draw_seed(_digest(5), batch, header)
    settlement = Settlement((), (), (Share(0, Wei(0)), Share(0, Wei(0))), EMPTY_ROOT, raw_cid(b"record"))
    return {
        "record": _hex(cid_bytes(settlement.record)),
        "digest": _hex(settlement_digest(DOMAIN, BatchRef(batch, 0, header, seed), settlement)),
    }


def _seal() -> dict[str, str]:
    """An auditor's sealed answer, and the keyed digests of an auditor and of a juror over the same state."""
    state, drawn = b"a state", jury_seed(6, 1, 1234)
    opening = Opening(_digest(10), keyed_digest(_digest(11), NODE, state), "", bytes(32))
    seal = seal_of(opening, NODE)
    struct = seal_struct_hash(BatchId(5), JobId(7), TaskIndex(3), SegmentIndex(6), _digest(11), NODE, seal)
    return {
        "after": _hex(opening.after),
        "seed": _hex(_digest(11)),
        "state": _hex(state),
        "keyed": _hex(opening.keyed),
        "seal": _hex(seal),
        "typed_digest": _hex(DOMAIN.typed_digest(struct)),
        "jury_seed": _hex(drawn),
        "jury_keyed": _hex(keyed_digest(drawn, OWNER, state)),
    }


def _digests() -> dict[str, str]:
    point = bls.public_key_point(bls.public_key(bls.keygen(bytes(range(32)))))
    receipt = DOMAIN.typed_digest(receipt_struct_hash(_digest(7), JobId(7), 1_800_000_000))
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


def _exposure() -> dict[str, Any]:
    """What batches hold open, in 1/10,000 of a verifier's stake."""
    draw = random.Random(9)
    cases = [(0, 1000 * TOKEN), (1, 1000 * TOKEN), (TOKEN // 10, 1000 * TOKEN), (TOKEN // 10 + 1, 1000 * TOKEN)]
    cases += [(2**96 - 1, 1), (2**96 - 1, 2**96 - 1), (1, 2**96 - 1), (10_000, 10_001)]
    cases += [(draw.randrange(10**24), 1 + draw.randrange(10**22)) for _ in range(40)]
    found = [Params(verifier_stake=Wei(stake)).exposure(Wei(budget)) for budget, stake in cases]
    return {
        "budget": [str(budget) for budget, _ in cases],
        "verifier_stake": [str(stake) for _, stake in cases],
        "exposure": [str(exposure) for exposure in found],
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
    """A table by its columns: edges, and rows drawn by `DIAL_SEED`. `stake` is an owner's; `given_back_bps`, what of a
    slashed stake goes to the requester and the auditors, leaves `at_risk` of it, which the rest is computed with."""
    draw = random.Random(DIAL_SEED)
    rows = [*DIAL_EDGES, *(_dial_case(draw) for _ in range(250))]
    back = [
        (0, 1500, 10_000)[i % 3] if row in DIAL_EDGES else draw.choice((0, 1500, 9999)) for i, row in enumerate(rows)
    ]
    risks = [dial.stake_at_risk(Wei(row[1]), bps) for row, bps in zip(rows, back, strict=True)]
    odds = [
        dial.audit_odds(v, at, t, Wei(r), bps, n, m) for (v, _, t, r, bps, n, m), at in zip(rows, risks, strict=True)
    ]
    names = ("valid", "stake", "tasks", "reward", "collusion_bps", "segments", "segments_per_audit")
    return {
        "seed": DIAL_SEED,
        **{name: [str(row[i]) for row in rows] for i, name in enumerate(names)},
        "given_back_bps": [str(bps) for bps in back],
        "at_risk": [str(at) for at in risks],
        "per_task": [
            str(dial.per_task(at, t, Wei(r), bps)) for (_, _, t, r, bps, _, _), at in zip(rows, risks, strict=True)
        ],
        "probability": [str(found.wad) for found in odds],
        "drawn": [str(found.segments) for found in odds],
    }


def _dial_case(draw: random.Random) -> tuple[int, int, int, int, int, int, int]:
    """Amounts of every magnitude, so that some floors are near 0, some near 1, and many need more segments."""
    reward = int(TOKEN * 10 ** draw.uniform(-6, 4))
    tasks = int(10 ** draw.uniform(0, 4))
    stake = int(reward * 10 ** draw.uniform(-0.9, 3))
    return draw.randrange(2000), stake, tasks, reward, draw.choice((0, 1000)), draw.randint(1, 512), draw.randint(1, 8)


def _audit_plans() -> list[dict[str, Any]]:
    """Plans over 20 nodes of 10 owners, over 80 nodes of 79, and over so few that some segments find nobody."""
    half, all_ = dial.WAD // 2, dial.WAD
    spread = [(0, 8, half, 1), (1, 8, half, 2), (2, 64, all_, 4), (3, 1, all_, 1), (4, 3, half, 5), (19, 8, 0, 2)]
    many = [(node, 64, all_ * 3 // 4, node % 7 + 1) for node in range(8)]
    few = [(0, 8, all_, 3), (2, 8, all_, 8), (4, 2, all_, 1)]
    return [
        _audit_plan(9, [i // 2 for i in range(20)], spread, 2),
        _audit_plan(10, [max(i - 1, 0) for i in range(80)], many, 3),
        _audit_plan(11, [0, 0, 1, 2, 3], few, 2),
    ]


def _audit_plan(tag: int, owners: list[int], tasks: list[tuple[int, int, int, int]], k: int) -> dict[str, Any]:
    """`tasks` are (node, segments, wad, drawn). `barred` are a task's worker's owner and its requester; the owner of
    the last node audits nothing at all. `pool` and `nodes` are what is dealt from: owners, ascending, and their
    nodes."""
    nodes = [Address(to_checksum_address(f"0x{i + 1:040x}")) for i in range(len(owners))]
    owner = [Address(to_checksum_address(f"0x{(i * 0x9E3779B9 + 1) % 2**32:032x}beefbeef")) for i in owners]
    operators = [Operator(node, its) for node, its in zip(nodes, owner, strict=True)]
    pool = pool_of(operators, {owner[-1]} if len(set(owners)) > 4 else ())
    requester = owner[len(owner) // 2]
    entries = [
        BatchEntry(
            JobId(tag),
            TaskIndex(i),
            segments,
            _digest(16 * tag + i),
            AuditOdds(wad, drawn),
            k,
            frozenset((owner[node], requester)),
        )
        for i, (node, segments, wad, drawn) in enumerate(tasks)
    ]
    plan = audit_plan(_digest(tag), entries, pool)
    return {
        "seed": _hex(_digest(tag)),
        "auditors_per_segment": k,
        "requester": requester,
        "pool": list(pool.owners),
        "nodes": [list(pool.nodes[each]) for each in pool.owners],
        "batch": {
            "owner": [owner[node] for node, *_ in tasks],
            "segments": [entry.segments for entry in entries],
            "leaf": [_hex(entry.leaf) for entry in entries],
            "wad": [str(entry.odds.wad) for entry in entries],
            "drawn": [entry.odds.segments for entry in entries],
        },
        "audits": [{"task": a.task, "segment": a.segment, "auditors": list(a.auditors)} for a in plan.audits],
        "skipped": [task for _, task in plan.skipped],
    }


def main() -> None:
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps(make(), indent=1) + "\n")


if __name__ == "__main__":
    main()
