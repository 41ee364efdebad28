"""Seats, benches and jobs through the client, on a real chain."""

import pytest
from world import CREDIT, MEMBERS, UNITS, World

from proofyard.chain import ChainClient, Court, CourtParams, Params, Phase
from proofyard.chain.refusals import (
    JobStillOpen,
    NothingTaken,
    NotIdle,
    NotOverdue,
    NotYourJob,
    SeatTooNew,
    TooManyJobs,
)
from proofyard.protocol.types import Digest, JobId, Wei


def test_pages_of_any_size_show_all_nodes_and_verifiers(network, monkeypatch) -> None:
    monkeypatch.setattr("proofyard.chain.reader.NODE_PAGE", 2)
    monkeypatch.setattr("proofyard.chain.reader.SLOT_PAGE", 1)
    world = World.build(network, verifiers=2, nodes=5)
    assert [node.id for node in world.chain.active_nodes()] == world.ids
    assert [record.node for record in world.chain.active_verifiers()] == [key.address for key in world.verifiers]


def test_the_network_has_the_parameters_that_it_was_given(deploy) -> None:
    params = Params(challenge_window=90, collusion_bps=2000, court=CourtParams(vote_time=70, jury_size=3, redraws=2))
    chain = deploy(params).deployer
    assert chain.params() == params
    assert chain._call(chain._court, "longestDispute") == params.court.longest_dispute


def test_an_owner_holds_a_place_on_its_workloads_benches_while_it_lists_a_node(deploy) -> None:
    network = deploy(Params(exposure_bps=40_000, settle_grace=900))
    owner, key = network.owner(200), network.key()
    address = owner.wallet.address
    operator = owner.register_node(key, Wei(100 * CREDIT), 0b110)
    assert [owner.on_bench(address, workload) for workload in range(3)] == [False, True, True]
    assert [entry.owner for entry in owner.bench(1)] == [address]
    owner.retire(operator)
    assert not owner.on_bench(address, 1)
    again = owner.register_node(key, Wei(0), 0b10)
    assert again == operator
    assert not owner.on_bench(address, 1), "it left too short a time ago"
    network.anvil.warp(owner.params().unstake_delay + 1)
    network.client(key).join_bench(0b110)
    assert [owner.on_bench(address, workload) for workload in (1, 2)] == [True, False]


def test_a_later_seat_counts_after_its_delay_and_only_for_later_batches(network) -> None:
    world = World.build(network, verifiers=1, nodes=1)
    chain = world.chain
    job = world.open_job(network.owner(1300), tasks=4)
    first = world.verifier().commit_batch(Digest(bytes([1]) * 32), 1, MEMBERS, [(job, UNITS)])
    newcomer, key = network.owner(1000), network.key()
    operator = newcomer.register_verifier(key, Wei(1000 * CREDIT))
    late = network.client(key)
    other = world.open_job(network.owner(1300), tasks=4)
    with pytest.raises(SeatTooNew) as early:
        late.commit_batch(Digest(bytes([2]) * 32), 1, MEMBERS, [(other, UNITS)])
    assert [record.counts for record in chain.active_verifiers()] == [True, False]
    network.anvil.warp(early.value.operands["countsFrom"] - chain.now())
    second = late.commit_batch(Digest(bytes([2]) * 32), 1, MEMBERS, [(other, UNITS)])
    assert [len(chain.signers_of(batch)) for batch in (first, second)] == [1, 2]
    network.anvil.mine(2)
    assert [seat.operator for seat in chain.view(second).quorum][1] == operator
    assert len(chain.view(first).quorum) == 1


def test_a_seat_that_is_never_there_can_be_taken_away_and_one_that_attends_cannot(network) -> None:
    world = World.build(network, verifiers=2, nodes=1)
    slots = [record.slot for record in world.chain.active_verifiers()]
    period = world.chain.params().idle_period
    network.anvil.warp(2 * period)
    world.verifier(0).attend()
    with pytest.raises(NotIdle):
        world.chain.unseat_idle(slots[0])
    world.chain.unseat_idle(slots[1])
    assert [record.slot for record in world.chain.active_verifiers()] == slots[:1]
    account = world.chain.account(world.verifier_owners[1].wallet.address)
    assert (account.has_verifier, account.stake) == (False, 1000 * CREDIT)
    assert account.bound_until > world.chain.now()


def test_a_late_batch_is_taken_over_and_one_that_nobody_settles_is_dropped_at_its_committers_cost(network) -> None:
    world = World.build(network, verifiers=2, nodes=3)
    chain, requester = world.chain, network.owner(1400)
    job = world.open_job(requester, tasks=3)
    requester.top_up(job, Wei(100 * CREDIT))
    ref = world.commit(job, world.commitments(job))
    first = chain.view(ref.batch)
    with pytest.raises(NotOverdue):
        world.verifier(1).take_batch(ref.batch)
    network.anvil.warp(chain.params().settle_time + 1)
    world.verifier(1).take_batch(ref.batch)
    again = chain.view(ref.batch)
    assert again.leader == chain.batch(ref.batch).verifier
    assert again.ref == world.ref(ref.batch)
    assert (again.header, again.seed) == (first.header, first.seed)
    assert again.claimed_before == first.claimed_before
    assert world.stake(world.verifier_owners[0]) == 980 * CREDIT, "late leaders pay"
    with pytest.raises(NotOverdue):
        chain.drop_batch(ref.batch)
    network.anvil.warp(chain.params().settle_grace)
    chain.drop_batch(ref.batch)
    assert chain.batch(ref.batch).dropped
    assert chain.job(job).escrow == 1400 * CREDIT
    paid = [1000 * CREDIT - world.stake(owner) for owner in world.verifier_owners]
    assert paid == [1000 * CREDIT, 20 * CREDIT], "who committed it owes the budget, a successor the penalty"
    assert chain.history().open_batches(chain.block_number()) == ()
    world.check_conserved()

    with pytest.raises(NotYourJob):
        world.owners[0].close_job(job)
    requester.close_job(job)
    with pytest.raises(JobStillOpen):
        chain.refund(job)
    assert chain.job(job).commits_end(chain.params().receipt_time) > chain.now()
    network.anvil.warp(chain.params().receipt_time + 1)
    chain.refund(job)
    assert requester.token_balance(requester.wallet.address) == 1400 * CREDIT


def test_who_is_accused_appeals_with_what_the_fault_holds(network) -> None:
    world = World.build(network, verifiers=1, nodes=10)
    job = world.open_job(network.owner(1300), tasks=10)
    ref = world.commit(job, world.commitments(job))
    world.settle(ref, world.settlement(job, faulty=(6,)), [0])
    accused = world.owners[6]
    node: ChainClient = network.client(world.nodes[6])
    challenge = Court(node).challenge_fault(ref.batch, 0)
    assert world.try_case(challenge, wrong=False) == Phase.VERDICT
    assert world.stake(accused) == 0
    Court(node).appeal(challenge)
    assert world.chain.challenge(challenge).appellant == accused.wallet.address
    assert world.chain.slashes(ref.batch)[0].amount == 0
    world.check_conserved()


def test_jobs_are_taken_at_once_and_those_that_cannot_be_are_passed_over(network) -> None:
    world = World.build(network, verifiers=2, nodes=1)
    requester, first, second = network.owner(8000), world.verifier(0), world.verifier(1)
    jobs = [world.open_job(requester, tasks=1) for _ in range(5)]
    second.take_job(jobs[1])
    requester.close_job(jobs[2])
    unknown = JobId(jobs[-1] + 1000)
    now = world.chain.anchor(jobs)
    assert first.take_jobs([*jobs, unknown], now) == {jobs[0], jobs[3], jobs[4]}
    assert first.take_jobs(jobs) == frozenset(), "they are its own"
    seats = {record.node: record.id for record in world.chain.active_verifiers()}
    holders = [world.chain.job(job).verifier for job in jobs]
    own, others = seats[first.wallet.address], seats[second.wallet.address]
    assert holders == [own, others, 0, own, own]
    for some in ([jobs[0]], [jobs[2], unknown], []):
        with pytest.raises(NothingTaken):
            second.take_jobs(some, now)
    with pytest.raises(TooManyJobs):
        first.take_jobs([jobs[0]] * 129)
