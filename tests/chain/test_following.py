from proofyard.chain import Cursor, Rollback
from proofyard.chain.events import OperatorRegistered, StakeChanged
from proofyard.protocol.types import Wei

CREDIT = 10**18


def read_all(chain, cursor):
    found = []
    while True:
        events, after = chain.events.read(cursor)
        if after == cursor:
            return found, cursor
        found, cursor = found + events, after


def test_events_come_once_in_order_over_any_number_of_ranges(network, monkeypatch) -> None:
    monkeypatch.setattr("proofyard.chain.following.MAX_RANGE", 3)
    owner = network.owner(1000)
    owner.register_node(network.key(), Wei(100 * CREDIT), 1)
    network.anvil.mine(10)
    owner.add_stake(Wei(CREDIT))
    found, cursor = read_all(network.deployer, Cursor(network.deployment.block))
    assert [type(event) for event in found] == [OperatorRegistered, StakeChanged, StakeChanged]
    assert [event.stake for event in found[1:]] == [100 * CREDIT, 101 * CREDIT]
    assert read_all(network.deployer, cursor) == ([], cursor)


def test_a_reorganisation_is_rolled_back_and_read_again(network) -> None:
    owner, chain = network.owner(1000), network.deployer
    owner.register_node(network.key(), Wei(100 * CREDIT), 1)
    before, cursor = read_all(chain, Cursor(network.deployment.block))
    fork = chain.block_number()
    owner.approve(Wei(50 * CREDIT))
    owner.add_stake(Wei(CREDIT))
    lost, cursor = read_all(chain, cursor)
    assert [event.stake for event in lost] == [101 * CREDIT]

    network.anvil._request("anvil_rollback", [chain.block_number() - fork])
    owner.approve(Wei(60 * CREDIT))
    owner.add_stake(Wei(2 * CREDIT))
    again, cursor = read_all(chain, cursor)
    assert again[0] == Rollback(fork)
    assert [event.stake for event in again[1:]] == [102 * CREDIT]
    assert len(before) == 2


def test_young_blocks_can_be_left_for_later(network) -> None:
    owner, chain = network.owner(1000), network.deployer
    start = Cursor(chain.block_number() + 1)
    owner.add_stake(Wei(CREDIT))
    assert chain.events.read(start, confirmations=5)[0] == []
    network.anvil.mine(5)
    assert len(chain.events.read(start, confirmations=5)[0]) == 1
