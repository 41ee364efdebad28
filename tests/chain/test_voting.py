"""A juror's vote on a real chain: sealed, kept, opened, and found again where the disk has lost it."""

from dataclasses import replace

import pytest
from world import WRONG, World

from proofyard.chain import Court, CourtParams, Params, Wallet
from proofyard.chain.refusals import TooEarly
from proofyard.disputes.errors import NoSuchChallenge, VoteRefused
from proofyard.disputes.judging import Finding
from proofyard.disputes.voting import ballot_of, commit, read_challenge, reveal, reveal_ballot, salt_of, seat_of
from proofyard.protocol.types import Digest

PATIENT = Params(exposure_bps=40_000, court=CourtParams(vote_time=900, reveal_time=900))
"""Time enough for a slow machine; the tests move the clock when they are done."""


def found(wrong: bool, claimed: Digest) -> Finding:
    return Finding(WRONG if wrong else claimed, Digest(bytes(32)), wrong, "found")


def test_a_juror_opens_what_it_sealed_from_its_disk_or_after_looking_again(deploy, tmp_path) -> None:
    network = deploy(PATIENT)
    world = World.build(network, verifiers=1, nodes=6)
    chain, requester, outsider = world.chain, network.owner(1300), network.owner(50)
    job = world.open_job(requester, tasks=6)
    _, _, challenge = world.disputed(job, outsider)
    network.anvil.mine(3)
    keys = [world.node_of(juror) for juror in Court(outsider).draw_jury(challenge)]

    record = read_challenge(chain, challenge)
    assert seat_of(network.client(world.nodes[0]), record) is None, "the accused is not on its own jury"
    for number, key in enumerate(keys[:2]):
        client = network.client(key)
        seat = seat_of(client, record)
        assert seat is not None
        assert (seat.number, seat.committed, seat.revealed) == (number, False, False)
        commit(client, seat, ballot_of(found(number == 0, record.claimed)), tmp_path / str(number))
    again = network.client(Wallet(keys[0].account))
    with pytest.raises(TooEarly):
        reveal(again, seat_of(again, record), tmp_path / "0")  # type: ignore[arg-type]
    network.anvil.warp(chain.params().court.vote_time)
    seat = seat_of(again, record)
    assert seat is not None and seat.committed and seat.own
    assert reveal(again, seat, tmp_path / "0")
    assert seat_of(again, record).revealed  # type: ignore[union-attr]

    other = network.client(keys[1])
    seat = seat_of(other, record)
    assert seat is not None
    with pytest.raises(VoteRefused, match="does not keep"):
        reveal(other, seat, tmp_path / "lost")
    with pytest.raises(VoteRefused, match="sealed with another finding"):
        reveal_ballot(other, seat, ballot_of(found(True, record.claimed)))
    assert not reveal_ballot(other, seat, ballot_of(found(False, record.claimed)))
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
