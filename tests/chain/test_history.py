"""What the past was, from events, against what an archive node says of the same block."""

import os
from random import Random

import pytest
from random_life import Life
from world import CREDIT, World

from proofyard.chain import ChainClient, CourtParams, History, NotDrawn, Params
from proofyard.chain.errors import EventsMissing
from proofyard.protocol.settlement import draw_seed, header_hash, stored_hash
from proofyard.protocol.types import BatchId, JobId, Wei

SMALL = Params(exposure_bps=40_000, court=CourtParams(jury_size=1, appeal_jury_size=2))
SEED = int(os.environ.get("LIFE_SEED", "1"))
STEPS = 70


def check_nodes(chain: ChainClient, history: History, block: int) -> None:
    """Every node, retired or not, is at `block` what an archive node says it was."""
    registered = chain._read("counts", block=block)[0]
    nodes = {node.id: node for node in history.nodes(block)}
    for number in range(1, registered + 1):
        record, state = chain.operator(number, block=block), chain.operator_state(number, block=block)  # type: ignore[arg-type]
        assert history.stake(record.owner, block) == record.stake
        assert history.reputation(record.id, block) == record.consecutive_valid
        assert history.owners(block)[record.node] == (record.id, record.owner)
        node = nodes.pop(record.id, None)
        assert (node is not None) == (record.role == 1)
        if node is not None:
            said = (record.node, record.owner, record.stake, record.consecutive_valid, state.listed, record.active)
            held = (node.node, node.owner, node.stake, node.consecutive_valid, node.listed, node.active)
            assert held == said
    assert not nodes


def check_batches(chain: ChainClient, history: History, block: int) -> None:
    """The same batches are open, with the same headers."""
    count = chain._read("counts", block=block)[3]
    states = [chain.batch(BatchId(number), block=block) for number in range(1, count + 1)]
    opened = {state.id: state for state in states if not state.dropped and not state.settled_at}
    held = {known.batch: known.header for known in history.open_batches(block)}
    assert list(held) == list(opened)
    for number, state in opened.items():
        assert state.voided or header_hash(held[number]) == state.header


def check_view(chain: ChainClient, batch: BatchId) -> None:
    """A batch's view agrees with what is stored of it now."""
    state, view = chain.batch(batch), chain.view(batch)
    assert stored_hash(chain.header(batch)) == state.header
    assert (view.commit_block, view.draw_block) == (state.commit_block, state.commit_block + 2)
    assert view.leader == state.verifier
    assert state.voided or view.attempt == state.attempt
    if any(state.seed):
        assert view.seed == state.seed
    if not state.settled_at and not state.voided:
        assert view.ref.header == state.header
    first = chain.history()._commit(batch)
    seed = draw_seed(chain.block_hash(view.draw_block), batch, header_hash(chain.history()._header(batch, first.lines)))
    assert view.seed == seed
    assert sum(1 << seat.slot for seat in view.quorum) == chain.quorum(state.quorum)
    for seat in view.quorum:
        then = [chain.seat_holder(seat.slot, time) for time in (state.committed_at, state.leader_since)]
        assert seat.operator in then
        assert chain.operator_state(seat.operator).owner == seat.owner
    numbers = [known.batch for known in view.open_batches]
    assert numbers == sorted(numbers) and batch in numbers
    jobs = {line.job for line in view.header.lines}
    for other in view.claimed_before:
        assert other.batch != batch and jobs & {line.job for line in other.header.lines}
    for other, record in view.settled_before:
        assert record and other != batch
    for facts in view.jobs.values():
        assert facts.reward == 400 * CREDIT


def check_settlements(chain: ChainClient) -> None:
    """Of each job, the last settlement of each of its batches."""
    for number in range(1, chain._read("counts")[2] + 1):
        last = {event.batch: event for event in chain.settled(JobId(number))}
        held = chain.settlements(JobId(number), chain.block_number())
        assert [event.batch for event in held] == sorted(last)
        assert {event.batch: event for event in held} == last


def check_everything(chain: ChainClient, first: int, random: Random) -> None:
    history, head = chain.history(), chain.block_number()
    blocks = random.sample(range(first, head), min(head - first, 5))
    for block in [*sorted(blocks), head]:
        check_nodes(chain, history, block)
        check_batches(chain, history, block)
    for number in range(1, chain._read("counts")[3] + 1):
        batch = BatchId(number)
        if chain.batch(batch).commit_block + 2 <= head:
            check_view(chain, batch)
        else:
            with pytest.raises(NotDrawn):
                chain.view(batch)
    check_settlements(chain)


def test_events_tell_the_past_like_an_archive_node_also_after_a_reorganisation(deploy) -> None:
    network = deploy(SMALL)
    random = Random(SEED)
    life = Life(network, random)
    life.begin()
    watcher = network.client(None)
    first = network.deployment.block
    print(f"LIFE_SEED={SEED}")
    life.run(STEPS)
    check_everything(watcher, first, random)
    fork = network.anvil._request("evm_snapshot", [])
    kept = (dict(life.keys), dict(life.verifiers), list(life.jobs), list(life.batches), dict(life.paid))
    life.run(STEPS // 2)
    check_everything(watcher, first, random)
    undone = watcher.history().rollbacks
    read_to = watcher.history().read_to
    network.anvil._request("evm_revert", [fork])
    life.keys, life.verifiers, life.jobs, life.batches, life.paid = kept
    network.anvil.mine(read_to + 1 - watcher.block_number())
    life.run(STEPS // 2)
    print("taken", life.taken, "refused", life.refused)
    check_everything(watcher, first, random)
    assert watcher.history().rollbacks == undone + 1
    fresh = network.client(None)
    head = watcher.history().read_to
    assert fresh.history().nodes(head) == watcher.history().nodes(head)
    for batch in life.batches:
        if watcher.batch(batch).commit_block + 2 <= head:
            assert fresh.view(batch) == watcher.view(batch)


def test_a_view_waits_for_its_draw_block_and_knows_earlier_attempts(deploy) -> None:
    network = deploy(SMALL)
    world = World.build(network, verifiers=2, nodes=4)
    chain = world.chain
    job = world.open_job(network.owner(1300), tasks=4)
    with pytest.raises(EventsMissing):
        chain.view(BatchId(1))
    commitments = world.commitments(job)
    batch = world.verifier().commit_batch(commitments[0].struct_hash(), 1, bytes(32), [(job, 10)])  # type: ignore[arg-type]
    with pytest.raises(NotDrawn, match="drawn from block"):
        chain.view(batch)
    network.anvil.mine(3)
    before = chain.view(batch)
    assert before.ref == world.ref(batch) or not any(chain.batch(batch).seed)
    chain.draw(batch)
    assert chain.view(batch) == before
    world.owners[0].add_stake(Wei(CREDIT))
    assert chain.view(batch) == before, "what happens after the draw block changes nothing"
    with pytest.raises(EventsMissing, match="attempt 1"):
        chain.view(batch, attempt=1)
