"""What routers answer is read as the RFCs have it, and whatever else comes is no mapping."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.transport import mapping
from proofyard.transport.mapping import Mapper, Mapping, pcp_mapping, pcp_request, pmp_mapping, pmp_request

NONCE = bytes(range(12))


def answered(result: int = 0, port: int = 50_000, lifetime: int = 3600, nonce: bytes = NONCE) -> bytes:
    head = struct.pack("!BBBBII12x", 2, 0x81, 0, result, lifetime, 0)
    return head + nonce + struct.pack("!B3xHH16s", 17, 4433, port, bytes(16))


def test_a_request_of_pcp_is_laid_out_as_in_rfc_6887() -> None:
    request = pcp_request(NONCE, "192.168.1.2", 4433, 0, 7200)
    assert len(request) == 60
    assert request.hex() == (
        "0201000000001c20" + "00000000000000000000ffffc0a80102" + NONCE.hex() + "11000000" + "1151" + "0000"
        "00000000000000000000ffff00000000"
    )
    assert pmp_request(4433, 50_000, 7200).hex() == "000100001151c35000001c20"


def test_an_answer_counts_that_is_to_this_request() -> None:
    assert pcp_mapping(answered(), NONCE, 4433) == Mapping(50_000, 3600)
    assert pcp_mapping(answered(lifetime=2**32 - 1), NONCE, 4433) == Mapping(50_000, 86_400)
    for other in (answered(result=2), answered(port=0), answered(nonce=bytes(12)), answered()[:59], b""):
        assert pcp_mapping(other, NONCE, 4433) is None
    assert pcp_mapping(answered(), NONCE, 4434) is None
    answer = struct.pack("!BBHIHHI", 0, 0x81, 0, 9, 4433, 50_000, 60)
    assert pmp_mapping(answer, 4433) == Mapping(50_000, 120)
    assert pmp_mapping(answer, 4434) is None


@given(st.binary(max_size=80))
def test_whatever_comes_is_a_mapping_or_none(data: bytes) -> None:
    for found in (pcp_mapping(data, NONCE, 4433), pmp_mapping(data, 4433)):
        assert found is None or (0 < found.port < 65_536 and found.lifetime_s >= 120)


@pytest.mark.parametrize("router", ["198.51.100.1", None])
async def test_nobody_is_asked_but_a_router_at_home(router: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "default_router", lambda: None)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("somebody was asked"))
    assert await Mapper(4433, router).ask() is None
