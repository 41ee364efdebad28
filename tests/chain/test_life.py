"""Whole lives of jobs on a real chain."""

from hashlib import sha256

import pytest
from world import CREDIT, MEMBERS, World

from proofyard.chain import ChainClient, Cursor, JobTerms, Wallet, claim_of
from proofyard.chain.errors import Refused
from proofyard.chain.events import BatchSettled, Claimed, Event, Faulted, FeesPaid, JobCommitted, JobOpened, SlashFinal
from proofyard.chain.refusals import AlreadySettled, JobStillOpen, NothingClaimed, TooEarlyToDraw, WindowOpen
from proofyard.protocol import bls
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.merkle import root
from proofyard.protocol.settlement import (
    BatchRef,
    Fault,
    FaultReason,
    Payout,
    Settlement,
    Share,
    draw_seed,
    header_hash,
    settlement_digest,
    stored_hash,
)
from proofyard.protocol.types import Digest, SegmentIndex, TaskIndex, Wei


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
    pay = (Wei(500 * CREDIT), Wei(50 * CREDIT), Wei(20 * CREDIT))
    job = requester.open_job(JobTerms(manifest, 50, *pay, 2, 1, chain.now() + 86400))
    assert requester.token_balance(requester.wallet.address) == 430 * CREDIT

    verifier = network.client(verifier_key)
    batch_root = root([b"one", b"two"])
    assert verifier.find_batch(batch_root) is None
    batch = verifier.commit_batch(batch_root, 2, MEMBERS, [(job, 50)])
    assert verifier.find_batch(batch_root) == batch
    assert owners[0].find_batch(batch_root) is None, "another's commit is not one's own"
    assert [event.batch for event in chain.committed(job)] == [batch]
    header = chain.header(batch)
    assert (header.root, header.size, header.members) == (batch_root, 2, MEMBERS)
    assert header_hash(header) == chain.batch(batch).header
    assert header.lines[0].budget == 570 * CREDIT
    with pytest.raises(TooEarlyToDraw) as early:
        verifier.draw(batch)
    assert early.value.operands["batch"] == batch
    network.anvil.mine(3)
    drawn = verifier.draw(batch)
    assert drawn.seed == draw_seed(chain.block_hash(drawn.block), batch, header_hash(header))

    payouts = tuple(Payout(id_, Wei(100 * CREDIT + i), valid=1, audits=2) for i, id_ in enumerate(ids[:4]))
    fault = Fault(ids[4], job, TaskIndex(4), SegmentIndex(1), FaultReason.MISMATCH, tuple(ids[:3]))
    shares = (Share(40, Wei(400 * CREDIT + 6)),)
    settlement = Settlement(payouts, (fault,), shares, root([b"audit"]), raw_cid(b"record"))
    ref = BatchRef(batch, 0, header_hash(header), drawn.seed)
    assert chain.view(batch).ref == ref
    signature = bls.aggregate([bls.sign(verifier_key.bls_secret(), settlement_digest(chain.domain, ref, settlement))])
    (signer,) = chain.signers_of(batch)
    verifier.settle_batch(batch, settlement, 1 << signer.slot, signature)
    with pytest.raises(AlreadySettled):
        verifier.settle_batch(batch, settlement, 1 << signer.slot, signature)
    assert not chain.is_active_node(keys[4].address)
    assert chain.account(owners[4].wallet.address).stake == 0
    assert chain.account(owners[4].wallet.address).frozen == 100 * CREDIT
    assert chain.totals().bonds >= 100 * CREDIT
    assert stored_hash(chain.header(batch)) == chain.batch(batch).header
    assert (chain.header(batch).lines[0].paid_units, chain.header(batch).lines[0].amount) == (40, 416 * CREDIT + 6)
    assert chain.view(batch).ref == ref, "what was signed stays what was signed"
    (slashed,) = chain.slashes(batch)
    assert (slashed.job, slashed.accusers, slashed.absolved) == (job, tuple(ids[:3]), False)

    claims = [claim_of(batch, payouts, index) for index in range(4)]
    with pytest.raises(WindowOpen):
        chain.claim(claims)
    network.anvil.warp(61)
    chain.claim(claims[:1])
    chain.claim(claims)
    assert all(chain.is_claimed(batch, index) for index in range(4)), "what somebody claimed first holds nothing up"
    with pytest.raises(NothingClaimed):
        chain.claim(claims)

    share = 6 * CREDIT // 4
    for index, owner in enumerate(owners[:4]):
        assert chain.token_balance(owner.wallet.address) == payouts[index].amount + share
        assert chain.operator(ids[index]).consecutive_valid == 1
    assert chain.account(verifier_owner.wallet.address).stake == 1016 * CREDIT
    requester.close_job(job)
    requester.close_job(job)  # its verifier may have been faster
    with pytest.raises(JobStillOpen):
        chain.refund(job)
    network.anvil.warp(chain.params().receipt_time + chain.params().court.longest_dispute)
    chain.refund(job)
    assert chain.token_balance(requester.wallet.address) == 430 * CREDIT + 154 * CREDIT - 6 + 2 * CREDIT
    totals = chain.totals()
    assert (totals.escrow, totals.claimable, totals.bonds, totals.burned) == (0, 22 * CREDIT, 0, 70 * CREDIT)
    assert totals.sum == chain.token_balance(chain.registry)

    events, _ = chain.events.read(Cursor(network.deployment.block))
    kinds = [type(event) for event in events]
    counts = {JobOpened: 1, JobCommitted: 1, BatchSettled: 1, Faulted: 1, SlashFinal: 1, FeesPaid: 1, Claimed: 4}
    for kind, count in counts.items():
        assert kinds.count(kind) == count
    (settled,) = chain.settled(job)
    assert settled.record == settlement.record
    assert all(isinstance(event, Event) for event in events)


def test_the_lens_that_travels_says_what_the_deployed_one_says(network) -> None:
    world = World.build(network, verifiers=2, nodes=3)
    chain, deployed = world.chain, network.deployment.lens
    lens = chain._bind("Lens", deployed)
    rows = chain._call(lens, "nodes", 0, 10)
    assert [(row[0], row[3], row[5]) for row in rows] == [(n.id, n.node, n.stake) for n in chain.listed_nodes()]
    odds = chain.audit_probability(world.nodes[0].address, 1, Wei(10 * CREDIT), 4, 1)
    assert tuple(chain._call(lens, "auditProbability", world.ids[0], 1, 10 * CREDIT, 4, 1)) == (
        odds.wad,
        odds.segments,
    )
    assert [record.counts for record in chain.active_verifiers()] == [True, True]
    with pytest.raises(Refused):
        chain.audit_probability(world.nodes[0].address, 1, Wei(CREDIT), 0, 1)
