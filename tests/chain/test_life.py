"""Whole lives of jobs on a real chain."""

from hashlib import sha256

import pytest

from proofyard.chain import ChainClient, Cursor, JobTerms, Wallet, claim_of
from proofyard.chain.events import BatchSettled, Claimed, Event, Faulted, JobOpened, SlashFinal
from proofyard.chain.refusals import AlreadyClaimed, AlreadySettled, TooEarlyToDraw, WindowOpen
from proofyard.protocol import bls
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.merkle import root
from proofyard.protocol.settlement import (
    BatchRef,
    Fault,
    FaultReason,
    Payout,
    Settlement,
    draw_seed,
    settlement_digest,
)
from proofyard.protocol.types import Digest, SegmentIndex, TaskIndex, Wei

CREDIT = 10**18


def test_a_job_from_registration_to_the_last_claim_conserves_every_wei(network) -> None:
    chain = network.deployer
    verifier_owner, verifier_key = network.owner(1000), network.key()
    verifier_owner.register_verifier(verifier_key, Wei(1000 * CREDIT), "127.0.0.1:4000")
    owners: list[ChainClient] = [network.owner(100) for _ in range(5)]
    keys = [Wallet.generate() for _ in owners]
    ids = [
        owner.register_node(key, Wei(100 * CREDIT), 1, "127.0.0.1:1") for owner, key in zip(owners, keys, strict=True)
    ]
    assert [record.node for record in chain.active_nodes()] == [key.address for key in keys]
    assert [record.node for record in chain.active_verifiers()] == [verifier_key.address]
    assert chain.is_active_node(keys[0].address)

    requester = network.owner(1000)
    manifest = Digest(sha256(b"manifest").digest())
    job = requester.open_job(JobTerms(manifest, 5, Wei(500 * CREDIT), Wei(50 * CREDIT), 2, 1, chain.now() + 86400))
    assert requester.token_balance(requester.wallet.address) == 450 * CREDIT

    verifier = network.client(verifier_key)
    batch_root = root([b"one", b"two"])
    assert verifier.find_batch(job, batch_root) is None
    batch = verifier.commit_batch(job, batch_root, 5)
    assert verifier.find_batch(job, batch_root) == batch
    with pytest.raises(TooEarlyToDraw) as early:
        verifier.draw(batch)
    assert early.value.operands["batch"] == batch
    network.anvil.mine(3)
    drawn = verifier.draw(batch)
    assert drawn.seed == draw_seed(chain.block_hash(drawn.block), batch, batch_root)

    payouts = tuple(Payout(id_, Wei(100 * CREDIT + i), valid=1, audits=2) for i, id_ in enumerate(ids[:4]))
    fault = Fault(ids[4], TaskIndex(4), SegmentIndex(1), FaultReason.MISMATCH)
    settlement = Settlement(payouts, (fault,), root([b"audit"]), raw_cid(b"record"))
    digest = settlement_digest(chain.domain, BatchRef(batch, batch_root, drawn.seed), settlement)
    signature = bls.aggregate([bls.sign(verifier_key.bls_secret(), digest)])
    verifier.settle_batch(batch, settlement, 0b1, signature)
    with pytest.raises(AlreadySettled):
        verifier.settle_batch(batch, settlement, 0b1, signature)
    assert not chain.is_active_node(keys[4].address)
    assert chain.account(owners[4].wallet.address).stake == 0
    assert chain.totals().bonds == 100 * CREDIT

    claims = [claim_of(batch, payouts, index) for index in range(4)]
    with pytest.raises(WindowOpen):
        chain.claim(claims)
    network.anvil.warp(61)
    chain.claim(claims[:1])
    with pytest.raises(AlreadyClaimed):
        chain.claim(claims)
    chain.claim(claims[1:])
    verifier.close_job(job)

    share = 30 * CREDIT // 4
    for index, owner in enumerate(owners[:4]):
        assert chain.token_balance(owner.wallet.address) == payouts[index].amount + share
        assert chain.operator(ids[index]).consecutive_valid == 1
    assert chain.token_balance(requester.wallet.address) == 450 * CREDIT + 150 * CREDIT - 6 + 40 * CREDIT
    totals = chain.totals()
    assert (totals.escrow, totals.claimable, totals.bonds, totals.burned) == (0, 0, 0, 30 * CREDIT)
    assert totals.sum == chain.token_balance(chain.registry)

    events, _ = chain.events.read(Cursor(network.deployment.block))
    kinds = [type(event) for event in events]
    for kind, count in {JobOpened: 1, BatchSettled: 1, Faulted: 1, SlashFinal: 1, Claimed: 4}.items():
        assert kinds.count(kind) == count
    settled = next(event for event in events if isinstance(event, BatchSettled))
    assert settled.record == settlement.record
    assert all(isinstance(event, Event) for event in events)
