"""No few networks, owners or tellers fill the table, and nothing that is only heard drives out who has answered."""

from collections import Counter
from dataclasses import replace
from hashlib import sha256
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proofyard.discovery.table import SILENT_S, Caps, Known, PeerTable, Teller, networks_of
from proofyard.protocol.peer_record import PeerRecord
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Address

OWN = Address("0x" + "f" * 40)
NOW, LATER = 1000.0, 10_000
HONEST = Teller("192.0.2.1", trusted=True)
CAPS = Caps(heard=24, tried=8, of_teller=20)


def wallet(number: int) -> Address:
    return Address(f"0x{number:040x}")


def known(number, host=None, *, relay="", sequence=1, expires=LATER, **facts) -> Known:
    host = host or f"{1 + number % 200}.{number // 200}.0.1"
    route = Route("relayed", host, 4433, relay) if relay else Route("direct", host, 40_000)
    record = PeerRecord(node=wallet(number), routes=(route,), sequence=sequence, expires=expires)
    return Known(record, f"record {number}".encode(), **{"teller": HONEST, **facts})


def table(caps=CAPS) -> PeerTable:
    return PeerTable(OWN, caps, Random(7))


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 255)), min_size=200, max_size=200))
@settings(max_examples=25, deadline=None)
def test_two_networks_hold_less_than_a_tenth(places):
    here = PeerTable(OWN, choose=Random(3))
    hostile = [
        known(1000 + at, f"203.0.{113 if net == 'a' else 114}.{host}", teller=Teller(f"203.0.113.{host}"), met=True)
        for at, (net, host) in enumerate(places)
    ]
    for at in range(60):
        here.hear(known(at, met=True), NOW)
        for each in hostile[3 * at : 3 * at + 4]:
            here.hear(each, NOW)
            here.reached(each.record.node, NOW)
    held = sum(each.record.node in here for each in hostile)
    assert here.tried <= 6
    assert held / len(here) < 0.1


def test_whoever_invents_addresses_everywhere_is_heard_little_and_passed_on_by_nobody():
    here = table()
    for at in range(200):
        here.hear(known(at, teller=Teller("203.0.113.9")), NOW)
    assert len(here) <= CAPS.of_stranger
    assert here.to_tell(48, NOW, OWN) == []


def test_many_wallets_of_one_owner_have_few_places():
    here = table()
    for at in range(20):
        here.hear(known(at, owner="0xone"), NOW)
    assert len(here) == CAPS.of_owner


def test_a_stake_is_preferred_and_a_crowd_behind_one_relay_is_not():
    here = table()
    for at in range(20):
        here.hear(known(at, "198.51.100.1", relay=wallet(99)), NOW)
    assert len(here) == CAPS.of_relay
    for at in range(100, 120):
        here.hear(known(at), NOW)
    assert len(here) <= CAPS.of_teller
    for at in range(200, 240):
        here.hear(known(at, owner=f"0x{at}"), NOW)
    staked = sum(bool(each.owner) for each in here)
    assert staked == CAPS.of_teller


def test_who_answered_stays_until_it_does_not():
    here = table()
    here.hear(known(1, "203.0.113.1"), NOW)
    here.reached(wallet(1), NOW)
    for at in range(2, 30):
        here.hear(known(at, "203.0.113.1"), NOW)
        here.reached(wallet(at), NOW)
    assert here.get(wallet(1)).tried_at == NOW
    assert here.tried == CAPS.of_near
    here.missed(wallet(1), NOW)
    assert wallet(1) in here
    assert here.to_try(NOW, [each.record.node for each in here if each.record.node != wallet(1)]) is None
    here.missed(wallet(1), NOW)
    here.missed(wallet(1), NOW)
    assert wallet(1) not in here


def test_an_invented_peer_is_forgotten_at_once_and_not_taken_back_for_a_while():
    here = table()
    here.hear(known(1), NOW)
    here.missed(wallet(1), NOW)
    assert not here.hear(known(1, sequence=2), NOW)
    assert here.hear(known(1, sequence=2), NOW + SILENT_S)


def test_the_later_record_holds_and_an_empty_one_takes_back():
    here = table()
    assert here.hear(known(1, sequence=5), NOW)
    assert not here.hear(known(1, "198.51.100.1", sequence=5), NOW)
    assert not here.hear(known(1, "198.51.100.1", sequence=4), NOW)
    assert here.hear(known(1, "198.51.100.1", sequence=6), NOW)
    assert here.get(wallet(1)).record.routes[0].host == "198.51.100.1"
    empty = replace(known(1), record=PeerRecord(node=wallet(1), routes=(), sequence=7, expires=LATER))
    assert not here.hear(empty, NOW)
    assert wallet(1) not in here


def test_what_is_over_is_told_to_nobody_and_who_answered_is_still_dialled():
    here = table()
    here.hear(known(1, expires=2000, met=True), NOW)
    here.hear(known(2, expires=2000), NOW)
    here.reached(wallet(1), NOW)
    assert [each.record.node for each in here.to_tell(9, NOW, OWN)] == [wallet(1)]
    here.forget_expired(3000)
    assert here.to_tell(9, 3000, OWN) == []
    assert here.to_try(3000, []).record.node == wallet(1)
    assert wallet(2) not in here


def test_two_who_know_the_same_choose_the_same_for_an_artifact():
    one, other = table(), PeerTable(wallet(9999), CAPS, Random(8))
    for at in range(12):
        one.hear(known(at, met=True), NOW)
        other.hear(known(11 - at, met=True), NOW)
    digest = bytes(range(32))
    chosen = [each.record.node for each in one.nearest(digest, 3)]
    assert chosen == [each.record.node for each in other.nearest(digest, 3)]
    chosen = [one.nearest(sha256(bytes([at])).digest(), 3) for at in range(9)]
    assert len({tuple(each.record.node for each in found) for found in chosen}) > 3


def test_networks_are_those_of_the_address():
    assert networks_of("198.51.100.7") == ("198.51.100.0/24", "198.51.0.0/16")
    assert networks_of("2001:db8:7:1::1") == ("2001:db8:7::/48", "2001:db8::/32")
    assert networks_of("fe80::1%eth0")[0] == "fe80::/48"


class TableLife(RuleBasedStateMachine):
    """Whatever is heard, reached, missed and staked: bounds hold, and no peer is in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.now = table(Caps(heard=8, tried=4, of_teller=6)), NOW
        self.owners: dict[Address, str] = {}

    @rule(
        number=st.integers(0, 30),
        host=st.sampled_from(["198.51.100.1", "198.51.7.1", "203.0.113.5", "2001:db8::1", "2001:db8:9::1"]),
        relay=st.booleans(),
        sequence=st.integers(1, 4),
        expires=st.integers(900, 4000),
        teller=st.sampled_from([HONEST, Teller("203.0.113.9"), Teller("198.51.100.9"), Teller("")]),
        met=st.booleans(),
    )
    def hear(self, number, host, relay, sequence, expires, teller, met):
        owner = self.owners.get(wallet(number), "")
        by = wallet(99) if relay else ""
        each = known(number, host, relay=by, sequence=sequence, expires=expires, teller=teller, met=met, owner=owner)
        self.table.hear(each, self.now)

    @rule(number=st.integers(0, 30))
    def reached(self, number):
        self.table.reached(wallet(number), self.now)

    @rule(number=st.integers(0, 30))
    def missed(self, number):
        self.table.missed(wallet(number), self.now)

    @rule(number=st.integers(0, 30), owner=st.sampled_from(["", "0xa", "0xb"]))
    def stakes_change(self, number, owner):
        self.owners[wallet(number)] = owner
        self.table.hold_to(lambda node: self.owners.get(node, ""))

    @rule(seconds=st.integers(1, 900))
    def time_passes(self, seconds):
        self.now += seconds
        self.table.forget_expired(self.now)

    @rule()
    def ask(self):
        told = self.table.to_tell(5, self.now, wallet(3))
        assert all(each.met and each.record.expires > self.now for each in told)
        assert len({each.record.node for each in told}) == len(told) <= 5
        tried = self.table.to_try(self.now, [wallet(2)])
        assert tried is None or (tried.record.node != wallet(2) and tried.pause_until <= self.now)

    @invariant()
    def bounds_hold(self):
        for part in (self.table._heard, self.table._tried):
            assert len(part.known) <= part._total
            groups = Counter(group for each in part.known.values() for group in part._groups_of(each))
            assert {group: len(members) for group, members in part.groups.items()} == groups
            assert all(count <= part._caps.of(group) for group, count in groups.items())
        assert not self.table._heard.known.keys() & self.table._tried.known.keys()
        assert all(each.owner == self.owners.get(each.record.node, "") for each in self.table)


TestTableLife = TableLife.TestCase
TestTableLife.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
