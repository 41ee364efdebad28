"""What routers answer is read as the RFCs have it, and whatever else comes is no mapping."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.transport.mapping import Mapper, Mapping, is_public, mapper
from proofyard.transport.mapping.pcp import (
    is_spoken,
    pcp_mapping,
    pcp_request,
    pmp_mapping,
    pmp_outside,
    pmp_request,
)

NONCE = bytes(range(12))


def answered(
    result: int = 0, port: int = 50_000, lifetime: int = 3600, nonce: bytes = NONCE, outside: bytes = bytes(16)
) -> bytes:
    head = struct.pack("!BBBBII12x", 2, 0x81, 0, result, lifetime, 0)
    return head + nonce + struct.pack("!B3xHH16s", 17, 4433, port, outside)


def test_a_request_of_pcp_is_laid_out_as_in_rfc_6887() -> None:
    request = pcp_request(NONCE, "192.168.1.2", 4433, 0, 7200)
    assert len(request) == 60
    assert request.hex() == (
        "0201000000001c20" + "00000000000000000000ffffc0a80102" + NONCE.hex() + "11000000" + "1151" + "0000"
        "00000000000000000000ffff00000000"
    )
    assert pmp_request(4433, 50_000, 7200).hex() == "000100001151c35000001c20"


def test_an_answer_counts_that_is_to_this_request() -> None:
    assert pcp_mapping(answered(), NONCE, 4433) == Mapping(50_000, 3600, "PCP")
    assert pcp_mapping(answered(lifetime=2**32 - 1), NONCE, 4433) == Mapping(50_000, 86_400, "PCP")
    for other in (answered(result=2), answered(port=0), answered(nonce=bytes(12)), answered()[:59], b""):
        assert pcp_mapping(other, NONCE, 4433) is None
    assert pcp_mapping(answered(), NONCE, 4434) is None
    answer = struct.pack("!BBHIHHI", 0, 0x81, 0, 9, 4433, 50_000, 60)
    assert pmp_mapping(answer, 4433) == Mapping(50_000, 120, "NAT-PMP")
    assert pmp_mapping(answer, 4434) is None


def test_the_address_outside_is_what_the_router_says() -> None:
    outside = bytes(10) + b"\xff\xff" + bytes((100, 64, 0, 2))
    assert pcp_mapping(answered(outside=outside), NONCE, 4433) == Mapping(50_000, 3600, "PCP", "100.64.0.2")
    assert pcp_mapping(answered(outside=b"\x20" * 16), NONCE, 4433) == Mapping(50_000, 3600, "PCP")
    assert pmp_outside(struct.pack("!BBHI4B", 0, 0x80, 0, 9, 192, 0, 2, 1)) == "192.0.2.1"
    for other in (struct.pack("!BBHI4B", 0, 0x80, 3, 9, 192, 0, 2, 1), bytes(12), b""):
        assert pmp_outside(other) == ""


@pytest.mark.parametrize(
    ("outside", "public"),
    [
        *(("192.0.2.1", True), ("8.8.8.8", True), ("172.32.0.1", True), ("100.128.0.1", True)),
        *(("192.168.1.2", False), ("100.64.0.1", False), ("10.0.0.1", False), ("169.254.1.1", False)),
        *(("0.0.0.0", False), ("127.0.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False)),
        ("192.0.0.2", False),
    ],
)
def test_strangers_see_public_addresses(outside: str, public: bool) -> None:
    assert is_public(outside) == public


def test_a_router_that_refuses_by_a_protocol_is_asked_by_no_other() -> None:
    assert is_spoken(answered(result=2))
    assert is_spoken(struct.pack("!BBHI", 0, 0x81, 2, 0))
    assert is_spoken(answered())
    for unspoken in (answered(result=1), answered(result=4), struct.pack("!BBHI", 0, 0x81, 5, 0), b"", b"\0\x81"):
        assert not is_spoken(unspoken)
    assert not is_spoken(b"HTTP/1.1 400 Bad Request")


@given(st.binary(max_size=80))
def test_whatever_comes_is_a_mapping_or_none(data: bytes) -> None:
    pmp_outside(data), is_spoken(data)
    for found in (pcp_mapping(data, NONCE, 4433), pmp_mapping(data, 4433)):
        assert found is None or (0 < found.port < 65_536 and found.lifetime_s >= 120)


@pytest.mark.parametrize("router", ["198.51.100.1", None])
async def test_nobody_is_asked_but_a_router_at_home(router: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapper, "default_router", lambda: None)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("somebody was asked"))
    assert await Mapper(4433, "a wallet", router).ask() is None
