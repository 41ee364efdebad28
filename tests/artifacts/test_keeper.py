import os
import subprocess
import sys
import time

import pytest

from proofyard.artifacts import BlockStore, Keeper
from proofyard.artifacts.builder import CHUNK_BYTES
from proofyard.artifacts.unixfs import node_cid
from proofyard.protocol.cid import CidError
from proofyard.sdk import Artifacts

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


def age(store, seconds=1e6):
    """Have all blocks look old."""
    for block in list(store.blocks()):
        path = store._block_path(block.cid)
        if path.exists():
            os.utime(path, (block.at - seconds, block.at - seconds))


@pytest.fixture
def folder(tmp_path, pattern):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}").write_bytes(b"%d" % number)
    (folder / "large").write_bytes(pattern(3 * CHUNK_BYTES))
    return folder


@pytest.mark.parametrize("packs", [False, True])
def test_what_is_put_again_counts_as_new(tmp_path, folder, packs):
    store = BlockStore(tmp_path / "packed", packs=packs)
    cid = store.put_directory(folder)
    age(store)
    store.put_directory(folder)
    assert Keeper(store).collect(time.time()).blocks == 0
    assert not any(store.missing(cid))
    store.close()


def meanwhile(monkeypatch, do):
    """Have `do` happen once a collection has decided what to delete, before it deletes any of it."""
    delete, done = BlockStore.delete_older, []

    def first_do(self, block, before):
        if not done:
            done.append(block)
            do()
        return delete(self, block, before)

    monkeypatch.setattr(BlockStore, "delete_older", first_do)
    return done


@pytest.mark.parametrize("how", ["put", "link", "pin"])
def test_a_collection_leaves_what_is_wanted_while_it_decides(store, keeper, folder, monkeypatch, how):
    """What is put, linked or pinned finds all blocks there, and the collection had listed them before."""
    cid = store.put_directory(folder)
    age(store)
    other = Artifacts(store.path)
    act = {
        "put": lambda: other.put(folder),
        "link": lambda: other.put(folder, link=True),
        "pin": lambda: other.pin(cid),
    }
    done = meanwhile(monkeypatch, act[how])
    keeper.collect(time.time(), grace_s=0)
    assert done
    assert Artifacts(store.path).is_complete(cid)
    assert Artifacts(store.path).verify(cid).missing == ()


@pytest.mark.parametrize(
    "how",
    [
        lambda own, cid, out: own.get(cid, out),
        lambda own, cid, out: own.get(cid, out, car=True),
        lambda own, cid, out: own.get(cid, out, span=(0, 1000)),
    ],
    ids=["whole", "car", "range"],
)
def test_what_is_being_read_is_not_collected(store, keeper, pattern, tmp_path, monkeypatch, how):
    """It was put long ago, nothing pins it, and a collection begins and ends while it is written out."""
    cid = store.put_bytes(pattern(3 * CHUNK_BYTES))
    age(store)
    for name in ("export", "write_file", "export_range"):
        write = getattr(BlockStore, name)

        def after_a_collection(self, *args, write=write, **options):
            keeper.collect(time.time(), grace_s=0)
            return write(self, *args, **options)

        monkeypatch.setattr(BlockStore, name, after_a_collection)
    assert how(Artifacts(store.path), cid, tmp_path / "out").stat().st_size >= 1000


def test_what_a_put_has_brought_stays_until_it_ends(store, keeper, folder):
    other = BlockStore(store.path)
    with other.putting():
        cid = other.put_directory(folder)
        assert keeper.collect(NOW, grace_s=0).blocks == 0
    assert keeper.collect(NOW, grace_s=0).blocks == 1 + 30 + 1 + 3
    assert not store.has(cid)


def test_a_put_that_died_holds_nothing(store, keeper, folder):
    (store.path / "putting" / "1-1").touch()
    os.utime(store.path / "putting" / "1-1", (1, 1))
    store.put_directory(folder)
    assert keeper.collect(NOW, grace_s=0).bytes_left == 0
    assert list((store.path / "putting").iterdir()) == []


def test_a_put_in_another_process_is_seen(store, keeper):
    program = (
        "import sys; from proofyard.artifacts import BlockStore; store = BlockStore(sys.argv[1])\n"
        "with store.putting(): print(store.put_bytes(b'theirs'), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        cid = process.stdout.readline().strip()
        assert keeper.collect(NOW, grace_s=0).blocks == 0
        assert store.has(cid)
        process.kill()
    assert keeper.collect(NOW, grace_s=0).blocks == 1


def test_puts_and_collections_at_once_lose_nothing(tmp_path, folder):
    artifacts = Artifacts(tmp_path / "shared")
    program = (
        "import sys; from proofyard.sdk import Artifacts; artifacts = Artifacts(sys.argv[1]); print('', flush=True)\n"
        "while True: artifacts.collect(grace_s=0)"
    )
    command = [sys.executable, "-c", program, str(artifacts.store.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            for _ in range(20):
                cid = artifacts.put(folder)
                assert artifacts.is_complete(cid)
                artifacts.unpin(cid)
            assert process.poll() is None
        finally:
            process.kill()


def test_an_artifact_that_is_no_artifact_does_not_stop_a_collection(store, keeper):
    lost = store.put_bytes(b"lost")
    block = b"\xff\xff\xff"
    store.put_block(node_cid(block), block)
    keeper.pin(node_cid(block))
    keeper.collect(NOW)
    assert store.has(node_cid(block))
    assert not store.has(lost)
