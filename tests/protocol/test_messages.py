import re
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.codec import CodecError, decode, encode
from proofyard.protocol.manifest import Manifest, decode_manifest, encode_manifest
from proofyard.protocol.messages import REQUESTS, JobReport, LogLine, PeerHint


def test_request_tags_are_unique() -> None:
    tags = [kind.__struct_config__.tag for kind in REQUESTS]
    assert len(set(tags)) == len(tags)


def test_what_may_be_asked_is_what_somebody_serves() -> None:
    roots = [Path(__file__).parents[2] / root / "proofyard" for root in ("sdk", "node", "verifier")]
    sources = "".join(path.read_text() for root in roots for path in root.rglob("*.py"))
    of_other_pages = {"GetBlocks", "HasBlocks", "ExchangePeers", "FindPeers", "FindProviders", "Provide"}
    of_other_pages |= {"Proposal", "Vote", "NewView", "Certified", "AskRound", "ShownDelta", "ShowDelta"}
    served = set(re.findall(r"endpoint\.on\((\w+), ", sources)) - of_other_pages
    assert served == {kind.__name__ for kind in REQUESTS}


@given(st.binary(max_size=300), st.sampled_from(REQUESTS))
def test_arbitrary_bytes_give_a_codec_error_or_a_message(data: bytes, kind: type[msgspec.Struct]) -> None:
    with suppress(CodecError):
        assert isinstance(decode(data, kind), kind)


def test_unknown_fields_are_tolerated_and_wrong_types_are_not() -> None:
    hint = {"address": "0x0", "host": "127.0.0.1", "port": 9, "new": [1, 2]}
    assert decode(encode(hint), PeerHint) == PeerHint("0x0", "127.0.0.1", 9)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="port"):
        decode(encode(hint | {"port": "nine"}), PeerHint)


def test_size_is_checked_before_parsing() -> None:
    with pytest.raises(CodecError, match="over the limit"):
        decode(bytes(100), PeerHint, max_bytes=99)


@given(st.integers(0, 2**63 - 1), st.text(max_size=20))
def test_equal_manifests_have_equal_bytes(seed: int, key: str) -> None:
    one = Manifest(workload="lora", params={key: 1, "b": 2}, seed=seed)
    two = Manifest(workload="lora", params={"b": 2, key: 1}, seed=seed)
    if key != "b":
        assert encode_manifest(one) == encode_manifest(two)
    assert decode_manifest(encode_manifest(one)) == one


def test_a_manifest_fits_one_block() -> None:
    with pytest.raises(ValueError, match="at most"):
        encode_manifest(Manifest(workload="x", params={"a": "b" * 300_000}))


def test_reports_round_trip() -> None:
    line = LogLine(1, 2.0, "progress", "x", None, None, 3.0, 4)
    report = JobReport(1, "running", 2, 1, 0, raw_cid(b""), "", (line,))  # type: ignore[arg-type]
    assert decode(encode(report), JobReport) == report
