import base64
import hashlib
from contextlib import suppress

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.cid import (
    DAG_PB,
    RAW,
    CidError,
    any_cid,
    cid_bytes,
    cid_codec,
    cid_digest,
    cid_from_bytes,
    is_cid,
    make_cid,
    raw_cid,
    spelt_cid,
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


def base_36(binary: bytes) -> str:
    value, text = int.from_bytes(binary, "big"), ""
    while value:
        value, at = divmod(value, 36)
        text = "0123456789abcdefghijklmnopqrstuvwxyz"[at] + text
    return text


Z_BASE_32 = str.maketrans("abcdefghijklmnopqrstuvwxyz234567", "ybndrfg8ejkmcpqxot1uwisza345h769")
FLICKR = str.maketrans(base58.BITCOIN_ALPHABET.decode(), "123456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ")


@given(st.binary(min_size=32, max_size=32), st.sampled_from([RAW, DAG_PB]))
def test_people_may_spell_a_cid_in_every_way_of_ipfs(digest: bytes, codec: int) -> None:
    cid = make_cid(digest, codec)
    binary = cid_bytes(cid)
    spellings = [
        cid,
        cid.upper(),
        "f" + binary.hex(),
        "F" + binary.hex().upper(),
        "z" + base58.b58encode(binary).decode(),
        "u" + base64.urlsafe_b64encode(binary).decode().rstrip("="),
        "k" + base_36(binary),
        "K" + base_36(binary).upper(),
        "9" + str(int.from_bytes(binary, "big")),
        "0" + f"{int.from_bytes(binary, 'big'):0{8 * len(binary)}b}",
        "7" + f"{int.from_bytes(binary, 'big'):0{8 * len(binary) // 3}o}",
        "Z" + base58.b58encode(binary).decode().translate(FLICKR),
        "m" + base64.b64encode(binary).decode().rstrip("="),
        "M" + base64.b64encode(binary).decode(),
        "U" + base64.urlsafe_b64encode(binary).decode(),
        "v" + base64.b32hexencode(binary).decode().lower().rstrip("="),
        "T" + base64.b32hexencode(binary).decode(),
        "c" + base64.b32encode(binary).decode().lower(),
        "h" + base64.b32encode(binary).decode().lower().rstrip("=").translate(Z_BASE_32),
    ]
    if codec == DAG_PB:
        spellings.append(base58.b58encode(binary[2:]).decode())
    for text in spellings:
        for around in ("{}", " {} ", "ipfs://{}", "/ipfs/{}", "/ipfs/{}/"):
            assert spelt_cid(around.format(text)) == cid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Qm",
        "QmNotACid",
        "Qm" + "z" * 44,
        "Qm" + "O" * 44,
        "b",
        "z",
        "x" * 59,
        "é" * 59,
        raw_cid(b"x")[:-1],
        raw_cid(b"x") + "a",
        raw_cid(b"x")[:-1] + "b",
        f"/ipfs/{raw_cid(b'x')}/path",
        f"/ipns/{raw_cid(b'x')}",
        "f01711220" + "00" * 32,
        "f01551340" + "00" * 64,
        "f0155001" + "00",
        "k" * 5000,
    ],
)
def test_what_is_no_cid_of_this_network_is_refused(text: str) -> None:
    with pytest.raises(CidError, match="not a usable CID"):
        spelt_cid(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("bafkqaaa", "identity"),
        ("bafkqabtimvwgy3yk", "identity"),
        ("f01551340" + "00" * 64, "another hash"),
        ("f01701220" + "00" * 33, "length"),
        ("f01701220" + "00" * 31, "length"),
        ("f01701220" + "0g" * 32, "symbols"),
        ("f01701b20" + "00" * 32, "another hash"),
        ("f01721220" + "00" * 32, "codec 0x72"),
        ("f02701220" + "00" * 32, "no version"),
        ("12D3KooWRBy97UB99e3J6hiPesre1MZeuNQvfan4gBziswrRJsNK", "no base of CIDs begins with '1'"),
        ("https://ipfs.io/ipfs/" + raw_cid(b"x"), "neither a CID"),
    ],
)
def test_what_is_wrong_with_a_cid_is_said(text: str, why: str) -> None:
    with pytest.raises(CidError, match=why):
        spelt_cid(text)


@given(st.text(max_size=80))
def test_any_text_is_a_cid_or_refused(text: str) -> None:
    with suppress(CidError):
        assert is_cid(spelt_cid(text))


def test_bytes_of_version_0_are_those_of_version_1() -> None:
    digest = hashlib.sha256(b"x").digest()
    assert any_cid(b"\x12\x20" + digest) == make_cid(digest, DAG_PB)
    assert any_cid(cid_bytes(raw_cid(b"x"))) == raw_cid(b"x")
    assert not is_cid(any_cid(bytes((1, 0x71, 0x12, 0x20)) + digest))
