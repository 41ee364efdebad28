"""What a node claims of its machine: what is signed is read by this network, of this wallet, and otherwise refused."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.chain import Wallet
from proofyard.protocol.capability import (
    AHEAD_S,
    MAX_CAPABILITY_BYTES,
    MOST_BLOCKS,
    OLDEST_S,
    Capability,
    CapabilityRefused,
    read_capability,
    seal_capability,
)
from proofyard.protocol.codec import CodecError
from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Address, Signature

DOMAIN = Domain(31_337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
OTHERS = (Domain(1, DOMAIN.registry), Domain(31_337, Address("0x" + "11" * 20)))
WALLET = Wallet.generate()
NOW = 1_800_000_000
CLAIM = Capability(node=WALLET.address, device="cpu-int8", cores=8, blocks=100_000, steps_per_s=3000, measured_at=NOW)

claims = st.builds(
    Capability,
    node=st.just(WALLET.address),
    device=st.text(max_size=32),
    cores=st.integers(1, (1 << 16) - 1),
    blocks=st.integers(2, MOST_BLOCKS),
    steps_per_s=st.integers(1, (1 << 32) - 1),
    measured_at=st.integers(NOW - OLDEST_S, NOW + AHEAD_S),
)


def sealed(claim: Capability, wallet: Wallet = WALLET, domain: Domain = DOMAIN) -> bytes:
    return seal_capability(claim, wallet.sign_digest(domain.typed_digest(claim.struct_hash())))


@settings(deadline=None)
@given(claims)
def test_what_is_signed_is_what_is_read(claim: Capability) -> None:
    data = sealed(claim)
    assert len(data) <= MAX_CAPABILITY_BYTES
    assert read_capability(data, WALLET.address, DOMAIN, NOW) == claim


@settings(deadline=None)
@given(claims, claims)
def test_a_signature_stands_for_one_record(one: Capability, other: Capability) -> None:
    assert (one.struct_hash() == other.struct_hash()) == (one == other)
    if one != other:
        signature = WALLET.sign_digest(DOMAIN.typed_digest(one.struct_hash()))
        with pytest.raises(CapabilityRefused, match="did not sign"):
            read_capability(seal_capability(other, signature), WALLET.address, DOMAIN, NOW)


@pytest.mark.parametrize("domain", OTHERS)
def test_a_record_of_another_network_says_nothing(domain: Domain) -> None:
    with pytest.raises(CapabilityRefused, match="this network"):
        read_capability(sealed(CLAIM, domain=domain), WALLET.address, DOMAIN, NOW)


def test_a_record_says_nothing_of_whom_it_is_not() -> None:
    thief = Wallet.generate()
    with pytest.raises(CapabilityRefused, match="announced by"):
        read_capability(sealed(CLAIM), thief.address, DOMAIN, NOW)
    with pytest.raises(CapabilityRefused, match="did not sign"):
        read_capability(sealed(CLAIM, thief), WALLET.address, DOMAIN, NOW)
    with pytest.raises(CapabilityRefused, match="did not sign"):
        read_capability(seal_capability(CLAIM, Signature(b"")), WALLET.address, DOMAIN, NOW)


@pytest.mark.parametrize("now", [NOW + OLDEST_S + 1, NOW - AHEAD_S - 1])
def test_a_record_is_of_its_time(now: int) -> None:
    with pytest.raises(CapabilityRefused, match="clock"):
        read_capability(sealed(CLAIM), WALLET.address, DOMAIN, now)


def test_a_record_of_a_later_version_is_none() -> None:
    with pytest.raises(CapabilityRefused, match="version 2"):
        read_capability(sealed(msgspec.structs.replace(CLAIM, version=2)), WALLET.address, DOMAIN, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": 1},
        {"blocks": MOST_BLOCKS + 1},
        {"steps_per_s": 0},
        {"cores": 0},
        {"device": "x" * 33},
        {"node": "me"},
    ],
)
def test_a_record_keeps_its_bounds(change: dict[str, object]) -> None:
    fields = msgspec.to_builtins(CLAIM) | change
    with pytest.raises(CodecError):
        read_capability(
            msgspec.msgpack.encode({"capability": fields, "signature": bytes(65)}), WALLET.address, DOMAIN, NOW
        )


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_whatever_is_announced_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        read_capability(data, WALLET.address, DOMAIN, NOW)
