"""Peer records: signed as EIP-712 has it, of public addresses alone, and few of them."""

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.codec import CodecError
from proofyard.protocol.commitment import Domain
from proofyard.protocol.peer_record import (
    AHEAD_S,
    LIFETIME_S,
    MAX_RECORD_BYTES,
    PeerRecord,
    RecordRefused,
    published,
    read_record,
    seal_record,
)
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Address, Signature

DOMAIN = Domain(31_337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
ACCOUNT = Account.from_key(b"\x07" * 32)
RELAY = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
NOW = 1_800_000_000
DIRECT, RELAYED = Route("direct", "198.51.100.7", 40_000), Route("relayed", "192.0.2.1", 4433, RELAY)


def sealed(*routes: Route, account=ACCOUNT, sequence=5, expires=NOW + 60, domain=DOMAIN) -> bytes:
    record = PeerRecord(node=Address(ACCOUNT.address), routes=routes, sequence=sequence, expires=expires)
    signed = account.unsafe_sign_hash(domain.typed_digest(record.struct_hash()))
    return seal_record(record, Signature(bytes(signed.signature)))


def test_what_is_signed_is_the_typed_data_that_other_wallets_show():
    record = PeerRecord(node=Address(ACCOUNT.address), routes=(DIRECT, RELAYED), sequence=5, expires=NOW)
    message = encode_typed_data(
        {"name": "Proofyard", "version": "1", "chainId": 31_337, "verifyingContract": DOMAIN.registry},
        {
            "Route": [
                {"name": "kind", "type": "string"},
                {"name": "host", "type": "string"},
                {"name": "port", "type": "uint16"},
                {"name": "relay", "type": "address"},
            ],
            "PeerRecord": [
                {"name": "node", "type": "address"},
                {"name": "routes", "type": "Route[]"},
                {"name": "sequence", "type": "uint64"},
                {"name": "expires", "type": "uint64"},
            ],
        },
        {
            "node": ACCOUNT.address,
            "routes": [
                {"kind": "direct", "host": DIRECT.host, "port": DIRECT.port, "relay": "0x" + "0" * 40},
                {"kind": "relayed", "host": RELAYED.host, "port": RELAYED.port, "relay": RELAY},
            ],
            "sequence": 5,
            "expires": NOW,
        },
    )
    theirs = ACCOUNT.sign_message(message).signature
    assert theirs == ACCOUNT.unsafe_sign_hash(DOMAIN.typed_digest(record.struct_hash())).signature


def test_a_record_comes_back_as_it_was_signed():
    data = sealed(DIRECT, RELAYED)
    assert len(data) <= MAX_RECORD_BYTES
    assert read_record(data, DOMAIN, NOW).routes == (DIRECT, RELAYED)


@pytest.mark.parametrize(
    "data",
    [
        sealed(DIRECT, account=Account.from_key(b"\x08" * 32)),
        sealed(DIRECT, domain=Domain(1, DOMAIN.registry)),
        sealed(DIRECT, expires=NOW),
        sealed(DIRECT, expires=NOW + LIFETIME_S + AHEAD_S + 1),
        sealed(Route("direct", "192.168.1.2", 40_000)),
        sealed(Route("lan", "198.51.100.7", 40_000)),
        sealed(Route("direct", "127.0.0.1", 40_000)),
        sealed(Route("direct", "224.0.0.251", 5353)),
        sealed(Route("direct", "100::1", 40_000)),
        sealed(Route("direct", "victim.example", 40_000)),
        sealed(Route("direct", "198.51.100.7", 53)),
        sealed(Route("relayed", "198.51.100.7", 4433)),
        sealed(Route("direct", "198.51.100.7", 4433, RELAY)),
        sealed(DIRECT, Route("direct", "198.51.100.8", 40_000)),
        b"",
        b"\x00" * (MAX_RECORD_BYTES + 1),
    ],
)
def test_what_nobody_may_pass_on_is_refused(data):
    with pytest.raises(CodecError):
        read_record(data, DOMAIN, NOW)


def test_a_record_that_is_over_is_read_where_that_is_asked_for():
    assert read_record(sealed(DIRECT, expires=NOW), DOMAIN, NOW, expired=True).sequence == 5


def test_a_changed_record_is_refused():
    data = bytearray(sealed(DIRECT))
    data[data.index(b"198.51")] ^= 1
    with pytest.raises(RecordRefused):
        read_record(bytes(data), DOMAIN, NOW)


@given(
    st.lists(
        st.builds(
            Route,
            st.sampled_from(["lan", "direct", "mapped", "punched", "relayed"]),
            st.sampled_from(["198.51.100.7", "203.0.113.9", "192.168.0.9", "2001:db8::7", "fd00::1", "name", "::1"]),
            st.integers(1, 65_535),
            st.sampled_from(["", RELAY, "0xno"]),
        ),
        max_size=12,
    )
)
def test_what_is_published_is_what_others_take(routes):
    found = published(tuple(routes))
    assert set(found) <= set(routes)
    assert read_record(sealed(*found), DOMAIN, NOW).routes == found
