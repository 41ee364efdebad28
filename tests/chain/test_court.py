"""Challenges, juries and appeals on a real chain."""

import pytest
from world import CREDIT, SEGMENTS, World

from proofyard.chain import Court, Kind, Phase
from proofyard.chain.refusals import (
    AlreadyChallenged,
    Contested,
    NoQuorum,
    NoSuchSegment,
    NotSettled,
    OutsideWindow,
    TooEarly,
    WindowOpen,
)
from proofyard.protocol import merkle
from proofyard.protocol.commitment import receipt_struct_hash
from proofyard.protocol.types import SegmentIndex


def test_a_faked_entry_is_challenged_appealed_and_slashed_and_every_wei_is_accounted_for(network) -> None:
    world = World.build(network, verifiers=5, nodes=12)
    chain, requester, outsider = world.chain, network.owner(1300), network.owner(50)
    supply = chain.token_supply()
    job = world.open_job(requester, tasks=12)
    commitments = world.commitments(job)
    ref = world.commit(job, commitments)
    settlement = world.settlement()
    with pytest.raises(NoQuorum) as refused:
        world.settle(ref, settlement, [0, 1, 2])
    assert refused.value.operands == {"signed": 3, "active": 5}
    world.settle(ref, settlement, [0, 1, 2, 3])

    leaves = [commitment.struct_hash() for commitment in commitments]
    proof = merkle.proof(leaves, 11)
    court = Court(outsider)
    with pytest.raises(NoSuchSegment):
        court.challenge_segment(ref.batch, commitments[11], 11, proof, SegmentIndex(SEGMENTS))
    challenge = court.challenge_segment(ref.batch, commitments[11], 11, proof, SegmentIndex(2))
    assert outsider.token_balance(outsider.wallet.address) == 0
    with pytest.raises(AlreadyChallenged):
        Court(world.owners[0]).challenge_segment(ref.batch, commitments[11], 11, proof, SegmentIndex(2))
    assert world.try_case(challenge, wrong=True, against=1) == Phase.VERDICT
    with pytest.raises(TooEarly):
        court.resolve(challenge)

    Court(world.owners[11]).appeal(challenge)
    assert world.ids[11] not in chain.jurors(challenge, 0)
    network.anvil.warp(61)
    with pytest.raises(Contested):
        chain.claim(world.claims(ref.batch, settlement.payouts))
    assert world.try_case(challenge, wrong=True, against=3) == Phase.UPHELD
    world.check_conserved()

    worker = chain.account(world.owners[11].wallet.address)
    assert worker.stake == 0
    pot = 100 * CREDIT + 150 * CREDIT
    assert chain.account(outsider.wallet.address).stake == 50 * CREDIT + pot * 40 // 100
    assert chain.totals().burned >= pot * 20 // 100

    network.anvil.warp(2)
    chain.claim(world.claims(ref.batch, settlement.payouts))
    assert chain.token_balance(world.owners[11].wallet.address) == (500 - 100 - 150) * CREDIT
    assert chain.token_balance(world.owners[0].wallet.address) == (500 - 100 + 100) * CREDIT
    assert chain.operator(world.ids[0]).consecutive_valid == 1
    requester.close_job(job)
    assert chain.token_balance(requester.wallet.address) == (1300 - 1100) * CREDIT + pot * 10 // 100
    totals = chain.totals()
    assert (totals.escrow, totals.claimable, totals.bonds) == (0, 0, 0)
    world.check_conserved()
    holders = [client.wallet.address for client in [*world.owners, *world.verifier_owners, requester, outsider]]
    held = sum(chain.token_balance(address) for address in [*holders, chain.registry, chain.wallet.address])
    assert held == supply == chain.token_supply()


def test_an_honest_entry_challenged_in_malice_costs_the_challenger_its_bond(network) -> None:
    world = World.build(network, verifiers=1, nodes=6)
    chain, requester, outsider = world.chain, network.owner(1300), network.owner(50)
    job = world.open_job(requester, tasks=6)
    court = Court(outsider)
    ref, commitments, challenge = world.disputed(job, outsider)
    assert world.try_case(challenge, wrong=False, silent=1) == Phase.VERDICT
    network.anvil.warp(61)
    assert court.resolve(challenge) == Phase.REJECTED
    assert chain.account(outsider.wallet.address).stake == 0
    stakes = sorted(chain.account(owner.wallet.address).stake for owner in world.owners)
    jury_part = (15 + 5) * CREDIT // 4
    assert stakes == [95 * CREDIT] + [100 * CREDIT + jury_part] * 4 + [120 * CREDIT]
    world.check_conserved()
    proof = merkle.proof([c.struct_hash() for c in commitments], 0)
    with pytest.raises(OutsideWindow):
        Court(world.owners[1]).challenge_segment(ref.batch, commitments[0], 0, proof, SegmentIndex(1))


def test_a_false_fault_is_voided_restored_and_settled_again_without_the_liars(network) -> None:
    world = World.build(network, verifiers=3, nodes=7)
    chain, requester, outsider = world.chain, network.owner(1300), network.owner(50)
    job = world.open_job(requester, tasks=7)
    ref = world.commit(job, world.commitments(job))
    world.settle(ref, world.settlement(faulty=(6,)), [0, 1])
    assert chain.account(world.owners[6].wallet.address).stake == 0
    challenge = Court(outsider).challenge_fault(ref.batch, 0)
    world.try_case(challenge, wrong=True)
    network.anvil.warp(61)
    assert Court(outsider).resolve(challenge) == Phase.UPHELD
    assert chain.account(world.owners[6].wallet.address).stake == 100 * CREDIT
    assert chain.operator(world.ids[6]).last_fault == 0
    assert [chain.account(o.wallet.address).stake for o in world.verifier_owners] == [0, 0, 1000 * CREDIT]
    assert chain.job(job).escrow == 1300 * CREDIT + 200 * CREDIT
    world.check_conserved()

    again = world.next_attempt(ref)
    assert again.attempt == 1
    settlement = world.settlement()
    world.settle(again, settlement, [2])
    with pytest.raises(WindowOpen):
        chain.claim(world.claims(ref.batch, settlement.payouts))
    network.anvil.warp(61)
    chain.claim(world.claims(ref.batch, settlement.payouts))
    assert chain.token_balance(world.owners[6].wallet.address) == 500 * CREDIT
    world.check_conserved()


def test_a_false_payout_voids_the_record_and_all_that_is_left_is_claimed_in_the_next(network) -> None:
    world = World.build(network, verifiers=3, nodes=6)
    chain, requester, outsider = world.chain, network.owner(1300), network.owner(50)
    job = world.open_job(requester, tasks=6)
    ref = world.commit(job, world.commitments(job))
    settlement = world.settlement()
    world.settle(ref, settlement, [0, 1])
    claims = world.claims(ref.batch, settlement.payouts)
    challenge = Court(outsider).challenge_payout(claims[2])
    assert chain.challenge(challenge).kind == Kind.PAYOUT
    assert world.try_case(challenge, wrong=True, against=1) == Phase.VERDICT
    network.anvil.warp(61)
    assert Court(outsider).resolve(challenge) == Phase.UPHELD
    pot = 2 * 1000 * CREDIT
    assert chain.account(outsider.wallet.address).stake == 50 * CREDIT + pot * 40 // 100
    assert chain.job(job).escrow == 1300 * CREDIT + pot * 10 // 100
    assert [record.node for record in chain.active_verifiers()] == [world.verifiers[2].address]
    with pytest.raises(NotSettled):
        chain.claim(claims)
    world.check_conserved()
    world.settle(world.next_attempt(ref), settlement, [2])
    network.anvil.warp(61)
    chain.claim(claims)
    assert [chain.token_balance(owner.wallet.address) for owner in world.owners] == [500 * CREDIT] * 6
    world.check_conserved()


def test_a_jury_that_stays_silent_pays_and_is_replaced_and_without_any_the_bonds_go_back(network) -> None:
    world = World.build(network, verifiers=1, nodes=6)
    chain, requester, outsider = world.chain, network.owner(1300), network.owner(50)
    job = world.open_job(requester, tasks=6)
    ref = world.commit(job, world.commitments(job))
    settlement = world.settlement()
    world.settle(ref, settlement, [0])
    challenge = Court(outsider).challenge_payout(world.claims(ref.batch, settlement.payouts)[0])
    assert world.try_case(challenge, wrong=True, silent=3) == Phase.DRAW
    with pytest.raises(TooEarly):
        Court(outsider).resolve(challenge)
    network.anvil.warp(600)
    assert Court(outsider).resolve(challenge) == Phase.DISMISSED
    assert chain.account(outsider.wallet.address).stake == 50 * CREDIT
    assert chain.totals().burned == 3 * 5 * CREDIT
    chain.claim(world.claims(ref.batch, settlement.payouts))
    world.check_conserved()


def test_a_receipt_that_no_batch_honours_costs_the_verifier_and_an_honoured_one_its_challenger(network) -> None:
    world = World.build(network, verifiers=1, nodes=2)
    chain, requester, outsider = world.chain, network.owner(1300), network.owner(100)
    job = world.open_job(requester, tasks=2)
    commitments = world.commitments(job)
    deadline = chain.now() + 30
    leaves = [commitment.struct_hash() for commitment in commitments]
    receipts = [
        world.verifiers[0].sign_digest(chain.domain.typed_digest(receipt_struct_hash(leaf, deadline)))
        for leaf in leaves
    ]
    ref = world.commit(job, commitments[:1])
    court = Court(outsider)
    with pytest.raises(OutsideWindow):
        court.challenge_receipt(leaves[0], deadline, receipts[0])
    network.anvil.warp(40)
    honoured = court.challenge_receipt(leaves[0], deadline, receipts[0])
    dropped = court.challenge_receipt(leaves[1], deadline, receipts[1])
    Court(network.client(world.verifiers[0])).answer_receipt(honoured, ref.batch, 0, [])
    network.anvil.warp(61)
    assert court.resolve(dropped) == Phase.UPHELD
    assert chain.challenge(honoured).phase == Phase.REJECTED
    assert chain.account(outsider.wallet.address).stake == 50 * CREDIT + 40 * CREDIT
    assert chain.account(world.verifier_owners[0].wallet.address).stake == (1000 - 100 + 20) * CREDIT
    assert chain.active_verifiers() == []
    world.check_conserved()
