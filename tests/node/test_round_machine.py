"""One round, step by step: what makes it close, and what cannot stop it."""

import dataclasses

import pytest
from msgspec.structs import replace
from rounds_town import LIES, SEED, TASKS, TIMEOUT_S, Town, address, delta

from proofyard.node.rounds.machine import MAX_STRIKES, Durable
from proofyard.node.rounds.messages import Certified, Message, NewView, Proposal, Vote
from proofyard.protocol import bls
from proofyard.protocol.certificate import (
    Certificate,
    CertificateInvalid,
    Phase,
    Terms,
    subject_of,
    validate_certificate,
)
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.commitment import word
from proofyard.protocol.roster import BLS, RosterInvalid, Voter, possession_digest, roster_of
from proofyard.protocol.types import Address, Digest

WHOLE = tuple(delta(task) for task in range(TASKS))
OTHER = WHOLE[1:]


def number_of(town: Town, view: int) -> int:
    return town.nodes.index(town.leader(view))


def with_lying_leader(view: int = 1) -> Town:
    """Four voters, of whom the leader of a view lies."""
    return Town(liars=frozenset((number_of(Town(), view),)))


def test_a_round_is_decided_in_its_first_view() -> None:
    town = Town()
    town.start()
    town.deliver_all()
    assert {each.deltas for each in town.decided.values()} == {WHOLE}
    assert set(town.decided) == set(town.nodes) and town.now == 0
    for certificate in town.decided.values():
        assert town.scheme is not None
        validate_certificate(town.round, town.roster, certificate, Phase.COMMIT, town.scheme)


def test_one_voter_decides_alone() -> None:
    town = Town(weights=(3,))
    town.start()
    assert town.decided[town.nodes[0]].deltas == WHOLE


def test_a_round_does_without_what_is_late_once_its_time_is_up() -> None:
    town = Town()
    town.start(range(1, TASKS))
    town.wait(2 * TIMEOUT_S)
    assert not town.decided, "nobody has said that the time is up"
    town.close()
    town.deliver_all()
    assert {each.deltas for each in town.decided.values()} == {OTHER}


def test_a_round_waits_for_the_least_that_its_terms_ask_for() -> None:
    town = Town()
    town.start(range(1))
    town.close()
    town.wait(10 * TIMEOUT_S)
    assert not town.decided
    town.start(range(1, 2))
    town.wait(100 * TIMEOUT_S)
    assert {len(each.deltas) for each in town.decided.values()} == {2}


def test_late_deltas_of_earlier_rounds_come_in() -> None:
    late = Terms(range(4, 4 + TASKS), TASKS, frozenset({1}))  # type: ignore[arg-type]
    town = Town(terms=late)
    town.start((1, *late.tasks))
    town.deliver_all()
    assert [each.task for each in next(iter(town.decided.values())).deltas] == [1, 4, 5, 6, 7]


def test_a_silent_leader_is_replaced() -> None:
    town = with_lying_leader()
    town.start()
    town.wait(3 * TIMEOUT_S)
    assert set(town.decided) == set(town.honest)
    assert {each.view for each in town.decided.values()} == {2}


def test_a_leader_that_proposes_two_sets_gets_neither_and_the_next_one_goes_on() -> None:
    town = with_lying_leader()
    town.start()
    town.close()
    leader = town.leader(1)
    for node, deltas in zip(town.honest, (WHOLE, OTHER, WHOLE), strict=True):
        town.wire.append((leader, node, town.proposal(1, deltas)))
        town.wire.append((leader, node, town.proposal(1, WHOLE if deltas == OTHER else OTHER)))
    town.deliver_all()
    votes = town.signed[Phase.PREPARE, 1, subject_of(WHOLE)], town.signed[Phase.PREPARE, 1, subject_of(OTHER)]
    assert [len(each) for each in votes] == [2, 1], "each votes once"
    town.wait(3 * TIMEOUT_S)
    assert set(town.decided) == set(town.honest)


def test_what_may_be_decided_somewhere_is_carried_to_the_next_view() -> None:
    """The leader has a certificate that it shows to nobody; only one voter has seen what was prepared."""
    town = with_lying_leader()
    leader = town.leader(1)
    town.start(range(1, TASKS))
    town.close()
    for node in town.honest:
        town.wire.append((leader, node, town.proposal(1, OTHER)))
    town.deliver_all()
    prepared = town.certificate(Phase.PREPARE, 1, OTHER)
    assert prepared is not None
    for node in town.honest[:2]:
        town.wire.append((leader, node, Certified(town.round.digest, prepared)))
    town.deliver_all()
    hidden = town.certificate(Phase.COMMIT, 1, OTHER)
    assert hidden is not None and not town.decided
    town.start()  # by now everybody would take the whole
    town.wait(5 * TIMEOUT_S)
    assert {each.subject for each in town.decided.values()} == {hidden.subject}


def _is_commit(message: Message) -> bool:
    return isinstance(message, Vote) and message.phase == Phase.COMMIT


def _is_vote(message: Message) -> bool:
    return isinstance(message, Vote)


def _go_to(town: Town, view: int) -> None:
    """The time-outs of all views before it pass; what is said of views alone arrives."""
    while min(machine.durable.view for machine in town.machines.values()) < view:
        town.now += 100 * TIMEOUT_S
        for node in town.honest:
            town.take(node, town.machines[node].tick(town.now))
        town.deliver_all(lost=lambda message: not isinstance(message, NewView))


@pytest.mark.parametrize("lie", ["", *LIES])
def test_a_leader_cannot_leave_out_what_was_prepared(lie: str) -> None:
    town = with_lying_leader(2)
    town.start(range(1, TASKS))
    town.close()
    town.deliver_all(lost=_is_commit)
    assert all(town.machines[node].durable.high_view == 1 for node in town.honest) and not town.decided
    town.start()
    _go_to(town, 2)
    for node in town.honest:
        town.wire.append((town.leader(2), node, town.proposal(2, WHOLE, lie=lie)))
    town.deliver_all()
    assert not town.signed[Phase.PREPARE, 2, subject_of(WHOLE)]
    honestly = town.proposal(2, (), town.certificate(Phase.PREPARE, 1, OTHER))
    for node in town.honest:
        town.wire.append((town.leader(2), node, honestly))
    town.deliver_all()
    assert len(town.signed[Phase.PREPARE, 2, subject_of(OTHER)]) == 3, "the proof was good, the set was not"


@pytest.mark.parametrize("lie", LIES)
def test_a_leader_cannot_go_back_to_what_was_prepared_earlier(lie: str) -> None:
    """Two sets were prepared, the first of which nobody but the liar knows."""
    town = with_lying_leader(3)
    town.start(range(1, TASKS))
    town.close()
    town.deliver_all(lost=_is_vote)
    town.start()
    _go_to(town, 2)
    town.now += TIMEOUT_S
    town.take(town.leader(2), town.machines[town.leader(2)].tick(town.now))
    town.deliver_all(lost=_is_commit)
    assert {machine.durable.high_view for machine in town.machines.values()} == {2}
    _go_to(town, 3)
    early = town.certificate(Phase.PREPARE, 1, OTHER)
    assert early is not None
    for node in town.honest:
        town.wire.append((town.leader(3), node, town.proposal(3, (), early, lie)))
    town.deliver_all()
    assert not town.signed[Phase.PREPARE, 3, subject_of(OTHER)]


def test_who_comes_back_from_its_disk_votes_no_second_time_in_a_view() -> None:
    town = with_lying_leader()
    town.start()
    town.close()
    node, leader = town.honest[0], town.leader(1)
    town.wire.append((leader, node, town.proposal(1, WHOLE)))
    town.deliver()
    town.restart(node)
    for deltas in (OTHER, WHOLE, WHOLE):
        town.wire.append((leader, node, town.proposal(1, deltas)))
    town.deliver_all()
    assert node not in town.signed[Phase.PREPARE, 1, subject_of(OTHER)]
    assert node in town.signed[Phase.PREPARE, 1, subject_of(WHOLE)]


def test_a_leader_that_comes_back_proposes_what_it_had_proposed() -> None:
    town = Town()
    leader = town.leader(1)
    town.start(range(1, TASKS))
    town.close()
    said = [message for _, _, message in town.wire if isinstance(message, Proposal)]
    town.wire.clear()
    town.start()
    town.restart(leader)
    town.wait(TIMEOUT_S)
    again = [message for message in town.said if isinstance(message, Proposal)]
    assert {encode(message) for message in again} == {encode(said[0])} and len(again) > len(said)
    assert {each.deltas for each in town.decided.values()} == {OTHER}


def test_who_was_away_is_told_the_decision() -> None:
    town = Town()
    away = town.nodes[-1] if town.leader(1) != town.nodes[-1] else town.nodes[0]
    town.start()
    while town.wire:
        if town.wire[0][1] == away:
            town.wire.pop(0)
        else:
            town.deliver()
    assert away not in town.decided
    town.wait(2 * TIMEOUT_S)
    assert set(town.decided) == set(town.nodes)


def test_less_than_a_third_cannot_push_views_on() -> None:
    town = Town(liars=frozenset((3,)))
    town.start(range(1))
    signature = town.sign(town.lying[0], Phase.NEW_VIEW, 1 << 30, Digest(word(0)))
    for node in town.honest:
        town.wire.append((town.lying[0], node, NewView(town.round.digest, 1 << 30, None, signature)))
    town.deliver_all()
    assert {machine.durable.view for machine in town.machines.values()} == {1}


def test_who_hears_of_a_later_view_by_its_certificate_goes_there_and_says_nothing_false() -> None:
    town = Town()
    town.start(range(1, TASKS))
    town.close()
    late = next(node for node in town.nodes if node not in (town.leader(1), town.leader(2)))
    town.deliver_all(lost=_is_vote)
    kept, town.machines = town.machines[late], {node: each for node, each in town.machines.items() if node != late}
    town.honest.remove(late)
    _go_to(town, 2)
    town.now += TIMEOUT_S
    town.take(town.leader(2), town.machines[town.leader(2)].tick(town.now))
    town.deliver_all(lost=_is_commit)
    prepared = town.machines[town.leader(2)].durable.high
    assert prepared is not None and prepared.view == 2 and kept.durable.view == 1
    town.honest.append(late)
    town.machines[late] = kept
    _go_to(town, 3)
    assert kept.durable.view == 3 and kept.durable.high == prepared
    town.wait(20 * TIMEOUT_S)
    assert set(town.decided) == set(town.nodes)
    assert not any(machine._strikes for machine in town.machines.values())


def test_a_voter_that_signs_three_times_is_no_quorum() -> None:
    town = with_lying_leader(2)
    town.start()
    town.wire.clear()
    alone = town.proposal(2, WHOLE)
    for node in town.honest:
        message = replace(alone, entered=alone.entered * 3)
        town.take(node, town.machines[node].receive(town.leader(2), message, 0.0))
    assert {machine.durable.view for machine in town.machines.values()} == {1}


def test_strangers_and_other_rounds_are_not_listened_to() -> None:
    town = Town()
    town.start()
    step = town.machines[town.nodes[0]].receive(address(9), town.wire[0][2], 0.0)
    assert step.keep is None and not step.sends
    foreign = NewView(Digest(b"r" * 32), 2, None, town.sign(town.nodes[1], Phase.NEW_VIEW, 2, Digest(word(0))))
    town.machines[town.nodes[0]].receive(town.nodes[1], foreign, 0.0)
    assert town.nodes[1] not in town.machines[town.nodes[0]]._entered


def test_votes_for_a_job_of_another_manifest_do_not_count() -> None:
    """Two jobs of one number, roster and results: the chain went back, and another took the place of the first."""
    town = Town()
    town.start()
    leader, subject = town.leader(1), subject_of(WHOLE)
    elsewhere = dataclasses.replace(town.round, manifest=Digest(b"m" * 32))
    assert town.scheme is not None
    for node in [node for node in town.nodes if node != leader]:
        statement = elsewhere.statement(Phase.PREPARE, 1, subject)
        vote = Vote(elsewhere.digest, Phase.PREPARE, 1, subject, town.scheme.sign(town.secret[node], statement))
        for said in (vote, replace(vote, round=town.round.digest)):
            town.take(leader, town.machines[leader].receive(node, said, 0.0))
    assert not any(isinstance(message, Certified) for _, _, message in town.wire)
    town.deliver_all()
    assert {each.deltas for each in town.decided.values()} == {WHOLE}, "one false signature silences nobody"


def test_who_sends_false_signatures_is_not_listened_to_for_long() -> None:
    town = Town(liars=frozenset((3,)))
    node, liar = town.honest[0], town.lying[0]
    machine = town.machines[node]
    false = NewView(town.round.digest, 5, None, bls.BlsSignature(bytes(96)))
    for _ in range(MAX_STRIKES):
        machine.receive(liar, false, 0.0)
    good = NewView(town.round.digest, 5, None, town.sign(liar, Phase.NEW_VIEW, 5, Digest(word(0))))
    machine.receive(liar, good, 0.0)
    assert liar not in machine._entered


def test_a_set_that_nobody_has_gets_no_votes_and_is_asked_for_once() -> None:
    town = with_lying_leader()
    made_up = (delta(0, b"nobody has it"), *WHOLE[1:])
    town.start()
    for node in town.honest:
        town.wire.append((town.leader(1), node, town.proposal(1, made_up)))
    town.deliver_all()
    assert not town.signed[Phase.PREPARE, 1, subject_of(made_up)]
    assert town.wanted == [(node, made_up[0]) for node in town.honest]
    for node in town.honest:
        town.take(node, town.machines[node].deliver(made_up[0], 0.0))
    assert len(town.signed[Phase.PREPARE, 1, subject_of(made_up)]) == 3


@pytest.mark.parametrize(
    "deltas",
    [WHOLE[:1], (*WHOLE, delta(9)), WHOLE[::-1], (WHOLE[0], *WHOLE)],
    ids=["too few", "strange task", "order", "twice"],
)
def test_a_set_that_the_terms_forbid_gets_no_votes(deltas: tuple[object, ...]) -> None:
    town = with_lying_leader()
    town.start()
    town.close()
    for node in town.honest:
        town.wire.append((town.leader(1), node, town.proposal(1, deltas)))  # type: ignore[arg-type]
    town.deliver_all()
    assert not town.signed[Phase.PREPARE, 1, subject_of(deltas)]  # type: ignore[arg-type]


def test_what_a_voter_holds_is_bounded_whatever_one_liar_sends() -> None:
    town = Town(liars=frozenset((3,)))
    machine, liar = town.machines[town.honest[0]], town.lying[0]
    for view in range(2, 300):
        signature = town.sign(liar, Phase.NEW_VIEW, view, Digest(word(0)))
        machine.receive(liar, NewView(town.round.digest, view, None, signature), 0.0)
        machine.deliver(delta(0, b"%d" % view), 0.0)
    held = (machine._entered, machine._own, machine._fetched, machine._votes[Phase.PREPARE], machine._strikes)
    assert [len(each) for each in held] == [1, 1, 0, 0, 0]


def test_what_is_kept_and_said_survives_the_codec() -> None:
    town = Town()
    town.start()
    town.deliver_all()
    for message in {type(each): each for each in town.said}.values():
        assert decode(encode(message), type(message)) == message
    kept = town.kept[town.leader(1)]
    assert decode(encode(kept), Durable) == kept and kept.decided


@pytest.fixture(scope="module")
def real() -> Town:
    """Four voters with BLS keys, of whom the first leader is silent."""
    secrets = [bls.keygen(bytes([number]) * 32) for number in range(1, 5)]
    keys = [bls.public_key(secret) for secret in secrets]
    possessions = [
        bls.prove_possession(secret, possession_digest(address(number), key))
        for number, (secret, key) in enumerate(zip(secrets, keys, strict=True))
    ]
    town = Town(scheme=BLS, secrets=secrets, keys=keys, possessions=possessions)
    silent = town.leader(1)
    town.honest.remove(silent)
    del town.machines[silent]
    return town


def test_with_bls_a_silent_leader_is_replaced_and_the_certificate_is_anybodys_to_check(real: Town) -> None:
    real.start()
    real.wait(2 * TIMEOUT_S, step=TIMEOUT_S / 2)
    certificate = real.decided[real.honest[0]]
    assert certificate.view == 2 and certificate.deltas == WHOLE
    validate_certificate(real.round, real.roster, certificate, Phase.COMMIT)
    said = decode(encode(certificate), Certificate)
    validate_certificate(real.round, real.roster, said, Phase.COMMIT)
    with pytest.raises(CertificateInvalid, match="not that of its signers"):
        forged = Certificate(Phase.COMMIT, 2, OTHER, certificate.signers, certificate.signature)
        validate_certificate(real.round, real.roster, forged, Phase.COMMIT)
    with pytest.raises(CertificateInvalid, match="over two thirds"):
        few = Certificate(Phase.COMMIT, 2, WHOLE, b"\x03", certificate.signature)
        validate_certificate(real.round, real.roster, few, Phase.COMMIT)
    with pytest.raises(CertificateInvalid, match="no voters"):
        strange = Certificate(Phase.COMMIT, 2, WHOLE, b"\xff", certificate.signature)
        validate_certificate(real.round, real.roster, strange, Phase.COMMIT)
    with pytest.raises(CertificateInvalid, match="phase"):
        validate_certificate(real.round, real.roster, certificate, Phase.PREPARE)


def test_a_key_that_is_not_shown_to_be_its_own_is_refused(real: Town) -> None:
    first, second = real.roster.voters[:2]
    stolen = Voter(second.node, second.key, first.possession, 1)
    with pytest.raises(RosterInvalid, match="does not prove"):
        roster_of([first, stolen])
    with pytest.raises(RosterInvalid, match="votes twice"):
        roster_of([first, first])
    with pytest.raises(RosterInvalid, match="1 to 128"):
        roster_of([])
    with pytest.raises(RosterInvalid, match="checksum"):
        roster_of([replace(first, node=Address("0x" + "ab" * 20))])


def test_leaders_take_turns_in_an_order_that_the_seed_draws() -> None:
    town = Town((1,) * 7)
    assert {town.leader(view) for view in range(1, 8)} == set(town.nodes)
    orders = {town.roster.leaders(seed, town.round.digest) for seed in (SEED, b"t" * 32, b"u" * 32)}
    assert len(orders) == 3
