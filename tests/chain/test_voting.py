"""A juror's vote on a real chain: what a juror needs between sealing and opening is its key alone."""

from dataclasses import replace

import pytest
from world import World

from proofyard.chain import Court, CourtParams, Params, Wallet
from proofyard.chain.refusals import TooEarly
from proofyard.disputes.errors import NoSuchChallenge, VoteRefused
from proofyard.disputes.voting import commit, read_challenge, reveal, salt_of, seat_of

PATIENT = Params(unstake_delay=10_000, court=CourtParams(vote_time=900, reveal_time=900))
"""Time enough for a slow machine; the tests move the clock when they are done."""


def test_a_juror_that_lost_everything_but_its_key_opens_what_it_sealed(deploy) -> None:
    network = deploy(PATIENT)
    world = World.build(network, verifiers=1, nodes=6)
    chain, requester, outsider = world.chain, network.owner(1300), network.owner(50)
    job = world.open_job(requester, tasks=6)
    _, _, challenge = world.disputed(job, outsider)
    network.anvil.mine(3)
    jury = Court(outsider).draw_jury(challenge)
    keys = [world.nodes[world.ids.index(juror)] for juror in jury]

    record = read_challenge(chain, challenge)
    assert seat_of(network.client(world.nodes[0]), record) is None, "the accused is not on its own jury"
    for number, key in enumerate(keys[:2]):
        client = network.client(key)
        seat = seat_of(client, record)
        assert seat is not None
        assert (seat.number, seat.committed, seat.revealed) == (number, False, False)
        commit(client, seat, wrong=number == 0)
    again = network.client(Wallet(keys[0].account))
    with pytest.raises(TooEarly):
        reveal(again, seat_of(again, record))  # type: ignore[arg-type]
    network.anvil.warp(chain.params().court.vote_time)
    for number, key in enumerate(keys[:2]):
        client = network.client(Wallet(key.account))
        seat = seat_of(client, record)
        assert seat is not None and seat.committed
        assert reveal(client, seat) == (number == 0)
        assert seat_of(client, record).revealed  # type: ignore[union-attr]
    late = network.client(keys[2])
    with pytest.raises(VoteRefused, match="sealed with a salt of its own"):
        reveal(late, seat_of(late, record))  # type: ignore[arg-type]
    record = read_challenge(chain, challenge)
    assert (record.votes_wrong, record.votes_right) == (1, 1)
    with pytest.raises(NoSuchChallenge):
        read_challenge(chain, type(challenge)(challenge + 1))


def test_every_draw_and_every_juror_has_a_salt_of_its_own(network) -> None:
    record = network.deployer.challenge(1)
    one, other = network.key(), network.key()
    domain = network.deployer.domain
    drawn_again = replace(record, draw_block=record.draw_block + 1)
    appealed = replace(record, round=1)
    salts = [salt_of(key, domain, c) for key in (one, other) for c in (record, drawn_again, appealed)]
    assert len(set(salts)) == len(salts)
    assert salt_of(Wallet(one.account), domain, record) == salts[0]
