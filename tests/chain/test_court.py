"""Challenges, juries and appeals on a real chain."""

from dataclasses import replace

import pytest
from world import CREDIT, SEGMENTS, World

from proofyard.chain import ChainClient, Court, Kind, Phase
from proofyard.chain.events import ChallengeSealed, topic_of, word
from proofyard.chain.refusals import (
    AlreadyChallenged,
    BadCommitmentProof,
    LeaderMissing,
    NoQuorum,
    NoSuchFault,
    NoSuchSegment,
    NotEquivocation,
    NothingClaimed,
    NotSettled,
    OutsideWindow,
    StakeTooLow,
    TooEarly,
    WindowOpen,
)
from proofyard.protocol import bls
from proofyard.protocol.commitment import receipt_struct_hash
from proofyard.protocol.settlement import Settlement
from proofyard.protocol.types import JobId, Signature, Wei


def test_a_faked_segment_is_challenged_appealed_and_slashed_and_every_wei_is_accounted_for(network) -> None:
    world = World.build(network, verifiers=5, nodes=22)
    chain, requester, outsider = world.chain, network.owner(3500), network.owner(50)
    supply = chain.token_supply()
    job = world.open_job(requester, tasks=22, reward=3300)
    commitments = world.commitments(job)
    ref = world.commit(job, commitments)
    settlement = world.settlement(job)
    with pytest.raises(NoQuorum) as refused:
        world.settle(ref, settlement, [0, 1, 2])
    assert refused.value.operands == {"signed": 3, "counting": 5}
    with pytest.raises(LeaderMissing):
        world.settle(ref, settlement, [1, 2, 3, 4])
    world.settle(ref, settlement, [0, 1, 2, 3])

    with pytest.raises(NoSuchSegment):
        world.challenge_segment(outsider, ref.batch, commitments, 11, SEGMENTS)
    challenge = world.challenge_segment(outsider, ref.batch, commitments, 11, 2)
    assert outsider.token_balance(outsider.wallet.address) == 0
    assert world.stake(outsider) == 0
    record = chain.challenge(challenge)
    assert (record.kind, record.challenger) == (Kind.SEGMENT, outsider.wallet.address)
    assert (record.job, record.task, record.segment, record.accused) == (job, 11, 2, world.ids[11])
    with pytest.raises(AlreadyChallenged):
        world.challenge_segment(world.owners[0], ref.batch, commitments, 11, 2)
    assert world.try_case(challenge, wrong=True, against=1) == Phase.VERDICT
    with pytest.raises(TooEarly):
        Court(outsider).resolve(challenge)

    Court(world.owners[12]).appeal(challenge)
    first = chain.jurors(challenge, 0)
    assert world.owners[11].wallet.address not in first
    network.anvil.warp(61)
    with pytest.raises(NothingClaimed):
        chain.claim(world.claims(ref.batch, settlement.payouts))
    assert world.try_case(challenge, wrong=True, against=3) == Phase.UPHELD
    assert not {*first, world.owners[12].wallet.address} & set(chain.jurors(challenge, 1))
    world.check_conserved()

    assert world.stake(world.owners[11]) == 0
    rewards = 2 * CREDIT
    assert world.stake(outsider) == 50 * CREDIT - rewards + 10 * CREDIT, "the bond, less what the draws cost"
    kinds = [type(event).__name__ for event in chain.challenge_events(chain.challenge(challenge))]
    assert (kinds[0], kinds[-1], kinds.count("VoteRevealed")) == ("ChallengeOpened", "ChallengeClosed", 16)

    network.anvil.warp(2)
    chain.claim(world.claims(ref.batch, settlement.payouts))
    assert chain.token_balance(world.owners[11].wallet.address) == 400 * CREDIT, "its pay is forfeited"
    assert chain.token_balance(world.owners[0].wallet.address) == 500 * CREDIT
    assert chain.operator(world.ids[0]).consecutive_valid == 1
    world.check_conserved()
    holders = [client.wallet.address for client in [*world.owners, *world.verifier_owners, requester, outsider]]
    held = sum(chain.token_balance(address) for address in [*holders, chain.registry, chain.wallet.address])
    assert held == supply == chain.token_supply()


def test_an_honest_segment_challenged_in_malice_costs_the_challenger_its_bond(network) -> None:
    world = World.build(network, verifiers=1, nodes=6)
    outsider = network.owner(50)
    job = world.open_job(network.owner(1300), tasks=6)
    ref, commitments, challenge = world.disputed(job, outsider)
    assert world.try_case(challenge, wrong=False, silent=1) == Phase.VERDICT
    network.anvil.warp(61)
    assert Court(outsider).resolve(challenge) == Phase.REJECTED
    assert world.stake(outsider) == 0
    accused, *others = [world.stake(owner) for owner in world.owners]
    bond = 49 * CREDIT
    assert accused == 100 * CREDIT + bond // 10
    assert sorted(others) == [95 * CREDIT] + [100 * CREDIT + (bond * 3 // 10 + 5 * CREDIT) // 4] * 4
    world.check_conserved()
    with pytest.raises(OutsideWindow):
        world.challenge_segment(world.owners[1], ref.batch, commitments, 0, 1)


def test_only_what_the_worker_signed_can_be_challenged(network) -> None:
    world = World.build(network, verifiers=1, nodes=3)
    job = world.open_job(network.owner(1300), tasks=3)
    commitments = world.commitments(job)
    ref = world.commit(job, commitments)
    world.settle(ref, world.settlement(job), [0])
    strange = [*commitments[:2], world.commitments(JobId(job + 1))[2]]
    with pytest.raises(BadCommitmentProof):
        world.challenge_segment(network.owner(50), ref.batch, strange, 2, 0)


def test_what_cannot_be_challenged_costs_no_stake(network) -> None:
    world = World.build(network, verifiers=1, nodes=3)
    outsider = network.owner(50)
    job = world.open_job(network.owner(1300), tasks=3)
    ref = world.commit(job, world.commitments(job))
    with pytest.raises(NotSettled):
        Court(outsider).challenge_record(ref.batch)
    world.settle(ref, world.settlement(job), [0])
    with pytest.raises(NoSuchFault):
        Court(outsider).challenge_fault(ref.batch, 0)
    network.anvil.warp(61)
    with pytest.raises(OutsideWindow):
        Court(outsider).challenge_record(ref.batch)
    assert world.stake(outsider) == 0


def test_a_challenge_is_found_again_after_a_crash_at_any_step(network, monkeypatch) -> None:
    world = World.build(network, verifiers=1, nodes=6)
    chain, outsider = world.chain, network.owner(100)
    job = world.open_job(network.owner(1300), tasks=6)
    ref = world.commit(job, world.commitments(job))
    world.settle(ref, world.settlement(job), [0])

    class Crash(Exception):
        pass

    sent: list[str] = []
    send = ChainClient.transact_court

    def crash_after_the_seal(self: ChainClient, function: str, *args: object, in_next_block: bool = False) -> object:
        receipt = send(self, function, *args, in_next_block=in_next_block)
        sent.append(function)
        if function == "seal":
            raise Crash
        return receipt

    with monkeypatch.context() as patched:
        patched.setattr(ChainClient, "transact_court", crash_after_the_seal)
        with pytest.raises(Crash):
            Court(outsider).challenge_record(ref.batch)
        again = network.client(outsider.wallet)
        challenge = Court(again).challenge_record(ref.batch)
        assert Court(again).challenge_record(ref.batch) == challenge
    assert sent == ["seal", "challengeRecord"]
    assert chain.challenge_count() == challenge


def test_a_false_fault_is_undone_and_its_accusers_pay(network) -> None:
    world = World.build(network, verifiers=3, nodes=10)
    chain, requester, outsider = world.chain, network.owner(1300), network.owner(50)
    job = world.open_job(requester, tasks=10)
    ref = world.commit(job, world.commitments(job))
    world.settle(ref, world.settlement(job, faulty=(6,)), [0, 1])
    assert world.stake(world.owners[6]) == 0
    challenge = Court(outsider).challenge_fault(ref.batch, 0)
    world.try_case(challenge, wrong=True)
    assert not {world.owners[i].wallet.address for i in (0, 1, 6)} & set(chain.jurors(challenge, 0))
    network.anvil.warp(61)
    assert Court(outsider).resolve(challenge) == Phase.UPHELD
    assert world.stake(world.owners[6]) >= 100 * CREDIT
    assert chain.operator_state(world.ids[6]).last_fault == 0
    assert [world.stake(owner) for owner in world.owners[:2]] == [0, 0]
    assert [world.stake(owner) for owner in world.verifier_owners] == [1000 * CREDIT] * 3, "they signed what they saw"
    (slashed,) = chain.slashes(ref.batch)
    assert slashed.absolved
    world.check_conserved()


def test_the_accused_itself_can_challenge_with_what_the_fault_holds(network) -> None:
    world = World.build(network, verifiers=1, nodes=10)
    job = world.open_job(network.owner(1300), tasks=10)
    ref = world.commit(job, world.commitments(job))
    world.settle(ref, world.settlement(job, faulty=(6,)), [0])
    node = network.client(world.nodes[6])
    assert world.stake(world.owners[6]) == 0
    challenge = Court(node).challenge_fault(ref.batch, 0)
    assert world.chain.challenge(challenge).challenger == world.owners[6].wallet.address
    with pytest.raises(StakeTooLow):
        Court(node).challenge_record(ref.batch)
    world.try_case(challenge, wrong=True)
    network.anvil.warp(61)
    assert Court(node).resolve(challenge) == Phase.UPHELD
    assert world.stake(world.owners[6]) > 100 * CREDIT - 2 * CREDIT
    world.check_conserved()


def test_a_record_that_does_not_validate_is_voided_and_settled_again_by_whoever_did_not_sign(network) -> None:
    world = World.build(network, verifiers=3, nodes=8)
    chain, requester, outsider = world.chain, network.owner(1300), network.owner(50)
    job = world.open_job(requester, tasks=8)
    ref = world.commit(job, world.commitments(job))
    settlement = world.settlement(job)
    world.settle(ref, settlement, [0, 1])
    signed = chain.view(ref.batch)
    challenge = Court(outsider).challenge_record(ref.batch)
    assert chain.challenge(challenge).kind == Kind.RECORD
    assert world.try_case(challenge, wrong=True, against=1) == Phase.VERDICT
    network.anvil.warp(61)
    assert Court(outsider).resolve(challenge) == Phase.UPHELD
    assert world.stake(outsider) == 50 * CREDIT - 1 * CREDIT + 10 * CREDIT
    assert [world.stake(owner) for owner in world.verifier_owners] == [0, 0, 1000 * CREDIT]
    assert [record.node for record in chain.signers_of(ref.batch)] == [world.verifiers[2].address]
    with pytest.raises(NothingClaimed):
        chain.claim(world.claims(ref.batch, settlement.payouts))
    assert chain.batch(ref.batch).voided
    world.check_conserved()

    world.verifier(2).take_batch(ref.batch)
    again = world.ref(ref.batch)
    assert (again.attempt, again.seed) == (2, ref.seed)
    view = chain.view(ref.batch)
    assert (view.ref, view.leader) == (again, chain.batch(ref.batch).verifier)
    assert chain.view(ref.batch, attempt=0) == signed
    world.settle(again, settlement, [2])
    with pytest.raises(WindowOpen):
        chain.claim(world.claims(ref.batch, settlement.payouts))
    network.anvil.warp(61)
    chain.claim(world.claims(ref.batch, settlement.payouts))
    assert [chain.token_balance(owner.wallet.address) for owner in world.owners] == [500 * CREDIT] * 8
    world.check_conserved()


def test_a_jury_that_stays_silent_pays_and_without_another_the_batch_is_voided_and_nobody_slashed(network) -> None:
    world = World.build(network, verifiers=1, nodes=6)
    chain, requester, outsider = world.chain, network.owner(1300), network.owner(50)
    job = world.open_job(requester, tasks=6)
    ref = world.commit(job, world.commitments(job))
    world.settle(ref, world.settlement(job), [0])
    challenge = Court(outsider).challenge_record(ref.batch)
    assert world.try_case(challenge, wrong=True, silent=3) == Phase.DRAW
    with pytest.raises(TooEarly):
        Court(outsider).resolve(challenge)
    network.anvil.warp(chain.params().court.draw_time)
    network.anvil.mine(3)
    assert Court(outsider).resolve(challenge) == Phase.DISMISSED
    assert world.stake(outsider) == 49 * CREDIT
    assert chain.totals().burned == 3 * 5 * CREDIT
    assert chain.batch(ref.batch).voided
    assert world.stake(world.verifier_owners[0]) == 1000 * CREDIT
    world.check_conserved()


def test_a_receipt_that_no_batch_honours_costs_the_verifier_and_an_honoured_one_its_challenger(network) -> None:
    world = World.build(network, verifiers=1, nodes=2)
    chain, requester, outsider = world.chain, network.owner(1300), network.owner(100)
    job = world.open_job(requester, tasks=2)
    commitments = world.commitments(job)
    deadline = chain.now() + 30
    leaves = [commitment.struct_hash() for commitment in commitments]
    receipts = [
        world.verifiers[0].sign_digest(chain.domain.typed_digest(receipt_struct_hash(leaf, job, deadline)))
        for leaf in leaves
    ]
    ref = world.commit(job, commitments[:1])
    court = Court(outsider)
    with pytest.raises(OutsideWindow):
        court.challenge_receipt(leaves[0], job, deadline, Signature(receipts[0]))
    network.anvil.warp(40)
    honoured = court.challenge_receipt(leaves[0], job, deadline, Signature(receipts[0]))
    dropped = court.challenge_receipt(leaves[1], job, deadline, Signature(receipts[1]))
    Court(world.verifier()).answer_receipt(honoured, ref.batch, 0, [])
    network.anvil.warp(61)
    assert court.resolve(dropped) == Phase.UPHELD
    assert chain.challenge(honoured).phase == Phase.REJECTED
    assert [type(event).__name__ for event in chain.challenge_events(chain.challenge(dropped))] == [
        "ChallengeOpened",
        "ChallengeClosed",
    ]
    assert world.stake(outsider) == 50 * CREDIT + 10 * CREDIT
    assert world.stake(world.verifier_owners[0]) == (1000 - 100 + 5) * CREDIT
    assert len(chain.active_verifiers()) == 1, "its seat is kept down to half of its stake"
    world.check_conserved()


def test_a_verifier_that_signs_two_records_of_one_attempt_loses_its_stake_to_whoever_shows_both(network) -> None:
    world = World.build(network, verifiers=2, nodes=3)
    chain, outsider = world.chain, network.owner(0)
    job = world.open_job(network.owner(1300), tasks=3)
    ref = world.commit(job, world.commitments(job))
    one, other = world.settlement(job), world.settlement(job, faulty=(2,))
    world.settle(ref, one, [0, 1])
    view = chain.view(ref.batch)
    header = replace(view.header, seed=view.seed)
    slot = next(record.slot for record in chain.active_verifiers() if record.node == world.verifiers[1].address)

    def signed(settlement: Settlement) -> tuple[Settlement, bytes]:
        return settlement, bls.signature_point(world.signature(ref, settlement, 1))

    with pytest.raises(NotEquivocation):
        Court(outsider).report_equivocation(ref.batch, header, slot, signed(one), signed(one))
    Court(outsider).report_equivocation(ref.batch, header, slot, signed(one), signed(other))
    assert [world.stake(owner) for owner in world.verifier_owners] == [1000 * CREDIT, 0]
    assert world.stake(outsider) == 100 * CREDIT
    world.check_conserved()


def test_bonds_come_from_stake_and_never_from_what_a_seat_needs(network) -> None:
    world = World.build(network, verifiers=1, nodes=1)
    owner, verifier = world.verifier_owners[0], world.verifier()
    assert verifier.payer() == owner.wallet.address
    with pytest.raises(StakeTooLow):
        verifier.ensure_bond(Wei(50 * CREDIT))
    world.chain.transfer(owner.wallet.address, Wei(60 * CREDIT))
    owner.ensure_bond(Wei(50 * CREDIT))
    verifier.ensure_bond(Wei(50 * CREDIT))
    assert world.stake(owner) == 1050 * CREDIT


def test_a_challenge_is_opened_in_the_block_after_its_seal_where_blocks_come_by_the_clock(network) -> None:
    world = World.build(network, verifiers=1, nodes=6)
    outsider = network.owner(50)
    job = world.open_job(network.owner(1300), tasks=6)
    ref = world.commit(job, world.commitments(job))
    world.settle(ref, world.settlement(job), [0])
    outsider.ensure_bond(Wei(50 * CREDIT))
    network.anvil._request("evm_setAutomine", [False])
    network.anvil._request("evm_setIntervalMining", [1])
    try:
        challenge = Court(outsider).challenge_record(ref.batch)
    finally:
        network.anvil._request("evm_setIntervalMining", [0])
        network.anvil._request("evm_setAutomine", [True])
    events = world.chain.challenge_events(world.chain.challenge(challenge))
    sealed = outsider.recent_events([topic_of(ChallengeSealed), word(int(outsider.payer(), 16))])
    assert events[0].position.block == sealed[-1].position.block + 1
