import hashlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.cid import (
    DAG_PB,
    RAW,
    CidError,
    cid_bytes,
    cid_codec,
    cid_digest,
    cid_from_bytes,
    make_cid,
    raw_cid,
)


def test_raw_cid_is_the_one_ipfs_gives() -> None:
    assert raw_cid(b"hello world") == "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


@given(st.binary(min_size=32, max_size=32), st.sampled_from([RAW, DAG_PB]))
def test_text_and_bytes_round_trip(digest: bytes, codec: int) -> None:
    cid = make_cid(digest, codec)
    assert cid_from_bytes(cid_bytes(cid)) == cid
    assert (cid_digest(cid), cid_codec(cid)) == (digest, codec)


@given(st.text(max_size=70))
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(CidError):
        cid_bytes(text)


@pytest.mark.parametrize("at", [0, 5, 30, 58])
def test_a_changed_character_never_gives_the_same_bytes(at: int) -> None:
    cid = raw_cid(b"x")
    other = cid[:at] + ("a" if cid[at] != "a" else "b") + cid[at + 1 :]
    with suppress(CidError):
        assert cid_bytes(other) != cid_bytes(cid)


def test_another_hash_or_codec_is_refused() -> None:
    binary = bytes((1, 0x71, 0x12, 0x20)) + hashlib.sha256(b"").digest()
    with pytest.raises(CidError, match="codec"):
        cid_from_bytes(binary)
    with pytest.raises(CidError):
        cid_from_bytes(bytes((1, RAW, 0x1B, 0x20)) + bytes(32))
