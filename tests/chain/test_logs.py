"""Logs are read as web3 reads them, in whichever form they come."""

import random
from collections.abc import Mapping
from typing import Any

import pytest
from eth_utils.abi import event_abi_to_log_topic
from hexbytes import HexBytes
from web3._utils.events import get_event_data
from web3.exceptions import LogTopicError

from proofyard.chain.abi import contract, snake
from proofyard.chain.codec import codec
from proofyard.chain.events import decode_logs, record_cid
from proofyard.protocol.settlement import lines_of

EVENTS = [entry for name in ("Registry", "Court") for entry in contract(name).abi if entry["type"] == "event"]


def value_of(kind: str, chance: random.Random) -> Any:
    if kind.endswith("[]"):
        return [value_of(kind[:-2], chance) for _ in range(3)]
    if kind.startswith("uint"):
        return chance.randrange(1 << int(kind[4:]))
    values: Mapping[str, Any] = {
        "address": "0x" + chance.randbytes(20).hex(),
        "bool": chance.random() < 0.5,
        "bytes": chance.randbytes(70),
        "bytes32": chance.randbytes(32),
        "string": "node:\udc80".encode(errors="surrogateescape").decode(errors="replace"),
    }
    return values[kind]


def log_of(entry: Any, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    values = [(item, value_of(item["type"], chance)) for item in entry["inputs"]]
    topics = [codec().encode([item["type"]], [value]) for item, value in values if item["indexed"]]
    data = [(item["type"], value) for item, value in values if not item["indexed"]]
    return {
        "topics": [HexBytes(topic) for topic in (event_abi_to_log_topic(entry), *topics)],
        "data": HexBytes(codec().encode([kind for kind, _ in data], [value for _, value in data])),
        "blockNumber": 16,
        "blockHash": HexBytes(bytes(range(32))),
        "logIndex": 3,
        "transactionIndex": 0,
        "transactionHash": HexBytes(bytes(32)),
        "address": "0x" + "00" * 20,
    }


def as_json(log: dict[str, Any]) -> dict[str, Any]:
    return {
        "topics": ["0x" + topic.hex() for topic in log["topics"]],
        "data": "0x" + log["data"].hex(),
        "blockNumber": hex(log["blockNumber"]),
        "blockHash": "0x" + log["blockHash"].hex(),
        "logIndex": hex(log["logIndex"]),
    }


@pytest.mark.parametrize("entry", EVENTS, ids=lambda entry: entry["name"])
def test_an_event_is_what_web3_reads(entry: Any) -> None:
    for seed in range(3):
        log = log_of(entry, seed)
        (found,) = decode_logs([log])
        expected = {snake(name): value for name, value in get_event_data(codec(), entry, log)["args"].items()}
        expected = {name: tuple(value) if isinstance(value, list) else value for name, value in expected.items()}
        if "lines" in expected:
            expected["lines"] = lines_of(expected["lines"], expected.pop("paid", ()))
        if "record" in expected:
            expected["record"] = record_cid(expected["record"])
        assert type(found).__name__ == entry["name"]
        assert {name: getattr(found, name) for name in expected} == expected
        assert (found.position.block, found.position.block_hash, found.position.index) == (16, bytes(range(32)), 3)
        assert decode_logs([as_json(log)]) == [found]


def test_what_is_no_event_of_ours_is_passed_over_and_a_broken_one_refused() -> None:
    log = log_of(next(entry for entry in EVENTS if entry["name"] == "BatchCommitted"), 0)
    assert decode_logs([log | {"topics": []}, log | {"topics": [HexBytes(bytes(32))]}]) == []
    with pytest.raises(LogTopicError, match="BatchCommitted"):
        decode_logs([log | {"topics": log["topics"][:1]}])
