import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from proofyard.protocol import merkle
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.commitment import Domain
from proofyard.protocol.settlement import (
    EMPTY_ROOT,
    BatchRef,
    Fault,
    FaultReason,
    Header,
    Line,
    OperatorId,
    Payout,
    Settlement,
    Share,
    header_hash,
    line_words,
    lines_of,
    paid_words,
    payout_leaf,
    payout_proof,
    payout_root,
    settlement_digest,
    stored_hash,
)
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, TaskIndex, Wei

ROOT = Path(__file__).resolve().parents[2]
DOMAIN = Domain(31337, Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"))
REF = BatchRef(BatchId(5), 0, Digest(b"h" * 32), Digest(b"s" * 32))
PAYOUTS = tuple(Payout(OperatorId(i), Wei(100 + i), i, 2 * i) for i in range(1, 6))
FAULT = Fault(
    OperatorId(9), JobId(2), TaskIndex(1), SegmentIndex(2), FaultReason.MISMATCH, (OperatorId(3), OperatorId(4))
)
SHARES = (Share(40, Wei(500)), Share(0, Wei(0)))
LINE = Line(JobId(2), 40, Wei(900))
HEADER = Header(Digest(b"r" * 32), 5, Digest(b"m" * 32), (LINE,))
SETTLEMENT = Settlement(PAYOUTS, (FAULT,), SHARES, EMPTY_ROOT, raw_cid(b"record"))


def test_the_committed_vectors_are_what_the_code_gives() -> None:
    spec = importlib.util.spec_from_file_location("vectors", ROOT / "scripts" / "vectors.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert json.loads((ROOT / "tests" / "vectors" / "contracts.json").read_text()) == module.make()


@pytest.mark.parametrize(
    "other",
    [
        replace(SETTLEMENT, payouts=PAYOUTS[:-1]),
        replace(SETTLEMENT, payouts=(*PAYOUTS[:-1], replace(PAYOUTS[-1], valid=7))),
        replace(SETTLEMENT, faults=()),
        replace(SETTLEMENT, faults=(replace(FAULT, segment=SegmentIndex(3)),)),
        replace(SETTLEMENT, faults=(replace(FAULT, job=JobId(3)),)),
        replace(SETTLEMENT, faults=(replace(FAULT, accusers=FAULT.accusers[:1]),)),
        replace(SETTLEMENT, shares=SHARES[:1]),
        replace(SETTLEMENT, shares=(replace(SHARES[0], amount=Wei(501)), SHARES[1])),
        replace(SETTLEMENT, shares=(replace(SHARES[0], paid_units=41), SHARES[1])),
        replace(SETTLEMENT, audit_root=Digest(b"a" * 32)),
        replace(SETTLEMENT, record=raw_cid(b"another")),
    ],
)
def test_the_signed_digest_changes_with_everything_in_the_settlement(other: Settlement) -> None:
    assert settlement_digest(DOMAIN, REF, other) != settlement_digest(DOMAIN, REF, SETTLEMENT)


@pytest.mark.parametrize(
    "ref",
    [
        replace(REF, batch=BatchId(6)),
        replace(REF, header=Digest(b"x" * 32)),
        replace(REF, seed=Digest(b"x" * 32)),
        replace(REF, attempt=1),
    ],
)
def test_the_signed_digest_is_bound_to_the_batch_its_draw_and_its_attempt(ref: BatchRef) -> None:
    assert settlement_digest(DOMAIN, ref, SETTLEMENT) != settlement_digest(DOMAIN, REF, SETTLEMENT)


def test_the_signed_digest_is_bound_to_chain_and_registry() -> None:
    digests = {
        settlement_digest(domain, REF, SETTLEMENT)
        for domain in (DOMAIN, replace(DOMAIN, chain_id=1), replace(DOMAIN, registry=Address("0x" + "11" * 20)))
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    "other",
    [
        replace(HEADER, root=Digest(b"x" * 32)),
        replace(HEADER, size=6),
        replace(HEADER, members=Digest(b"x" * 32)),
        replace(HEADER, lines=()),
        replace(HEADER, lines=(LINE, LINE)),
        replace(HEADER, lines=(replace(LINE, job=JobId(7)),)),
        replace(HEADER, lines=(replace(LINE, units=7),)),
        replace(HEADER, lines=(replace(LINE, budget=Wei(7)),)),
    ],
)
def test_the_header_s_hash_changes_with_everything_in_it(other: Header) -> None:
    assert header_hash(other) != header_hash(HEADER)


def test_what_was_paid_is_no_part_of_what_was_committed_and_all_of_what_is_stored() -> None:
    settled = replace(HEADER, lines=(replace(LINE, paid_units=6, amount=Wei(6)),), seed=Digest(b"s" * 32))
    assert header_hash(settled) == header_hash(HEADER) == stored_hash(HEADER)
    others = [replace(LINE, paid_units=6, amount=Wei(7)), replace(LINE, paid_units=7, amount=Wei(6))]
    hashes = {stored_hash(replace(settled, lines=(line,))) for line in (settled.lines[0], *others)}
    assert len(hashes | {stored_hash(HEADER)}) == 4
    assert lines_of(line_words(settled), paid_words(settled)) == settled.lines
    assert lines_of(line_words(HEADER), paid_words(HEADER)) == HEADER.lines


def test_every_payout_is_proven_at_its_own_position_only() -> None:
    tree = payout_root(REF.batch, PAYOUTS)
    for index, payout in enumerate(PAYOUTS):
        path = payout_proof(REF.batch, PAYOUTS, index)
        leaf = payout_leaf(REF.batch, index, payout)
        assert merkle.verify(tree, leaf, index, len(PAYOUTS), path)
        assert not merkle.verify(tree, leaf, (index + 1) % len(PAYOUTS), len(PAYOUTS), path)
    assert payout_root(REF.batch, ()) == EMPTY_ROOT
