import os
import time

import pytest

from proofyard.artifacts import BlockStore, Keeper
from proofyard.artifacts.builder import CHUNK_BYTES
from proofyard.protocol.cid import CidError

NOW = 2_000_000_000.0
"""Later than any block that a test writes."""


@pytest.fixture
def keeper(store):
    return Keeper(store)


def test_what_is_pinned_stays_and_the_rest_goes(store, keeper, pattern):
    kept = store.put_bytes(pattern(3 * CHUNK_BYTES))
    lost = store.put_bytes(pattern(2 * CHUNK_BYTES + 7)[7:])
    keeper.pin(kept, reason="a job's base model")
    done = keeper.collect(NOW)
    assert store.get_bytes(kept) == pattern(3 * CHUNK_BYTES)
    assert not store.has(lost)
    assert done.blocks == 3
    assert done.bytes_left == keeper.used_bytes()
    assert keeper.collect(NOW).blocks == 0


def test_blocks_that_two_artifacts_share_stay_for_the_pinned_one(store, keeper, pattern):
    short, long = store.put_bytes(pattern(2 * CHUNK_BYTES)), store.put_bytes(pattern(3 * CHUNK_BYTES))
    keeper.pin(short)
    keeper.collect(NOW)
    assert store.get_bytes(short) == pattern(2 * CHUNK_BYTES)
    assert len(list(store.missing(long))) == 1


def test_a_lease_ends(store, keeper):
    cid = store.put_bytes(b"for a while")
    keeper.pin(cid, until=NOW + 10)
    keeper.collect(NOW)
    assert store.has(cid)
    keeper.collect(NOW + 11)
    assert not store.has(cid)
    assert keeper.pins(NOW) == []


def test_pins_survive_a_restart_and_can_be_taken_back(store, keeper):
    cid = store.put_bytes(b"content")
    keeper.pin(cid, reason="result of job 7")
    again = Keeper(BlockStore(store.path))
    assert [(pin.cid, pin.reason) for pin in again.pins(NOW)] == [(cid, "result of job 7")]
    again.unpin(cid)
    again.unpin(cid)
    again.collect(NOW)
    assert not store.has(cid)


def test_a_torn_pin_is_dropped(store, keeper):
    cid = store.put_bytes(b"content")
    (store.path / "pins" / cid).write_bytes(b"\xff\xff")
    assert keeper.pins(NOW) == []


def test_young_blocks_stay(store, keeper):
    cid = store.put_bytes(b"just arriving")
    assert keeper.collect(time.time()).blocks == 0
    assert store.has(cid)


def test_a_quota_takes_the_oldest_first(store, keeper):
    cids = [store.put_bytes(bytes([i]) * 1000) for i in range(10)]
    for i, cid in enumerate(cids):
        os.utime(store._block_path(cid), (1_000_000 + i, 1_000_000 + i))
    keeper.pin(cids[0])
    done = keeper.collect(NOW, quota_bytes=4000)
    assert done.bytes_left == 4000
    assert [store.has(cid) for cid in cids] == [True] + [False] * 6 + [True] * 3


def test_a_linked_artifact_outlives_a_collection(store, keeper, tmp_path, pattern):
    source = tmp_path / "big"
    source.write_bytes(pattern(3 * CHUNK_BYTES))
    cid = store.link_file(source)
    keeper.collect(NOW)
    assert store.get_bytes(cid) == pattern(3 * CHUNK_BYTES)


def test_only_a_cid_can_be_pinned(keeper):
    with pytest.raises(CidError):
        keeper.pin("../../etc/passwd")
