import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proofyard.artifacts import (
    ArtifactTooLarge,
    BlockMissing,
    BlockStore,
    CorruptArtifact,
    SourceUnusable,
    StoreUnusable,
)
from proofyard.artifacts.builder import CHUNK_BYTES
from proofyard.artifacts.unixfs import Link, directory_node, node_cid
from proofyard.protocol.cid import CidError, raw_cid


def blocks_of(store):
    return [file for file in (store.path / "blocks").rglob("*") if file.is_file()]


def test_bytes_come_back(store, pattern):
    for size in (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES + 3):
        cid = store.put_bytes(pattern(size))
        assert store.size(cid) == size
        assert store.get_bytes(cid) == pattern(size)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.integers(0, 3 * CHUNK_BYTES + 10), st.integers(0, 2 * CHUNK_BYTES))
def test_ranges_are_those_of_the_bytes(store, pattern, start, length):
    data = pattern(2 * CHUNK_BYTES + 1000)
    cid = store.put_bytes(data)
    assert b"".join(store.read_range(cid, start, length)) == data[start : start + length]


def test_a_folder_comes_back(store, tmp_path, pattern):
    source = tmp_path / "model"
    (source / "sub").mkdir(parents=True)
    (source / "weights").write_bytes(pattern(3 * CHUNK_BYTES))
    (source / "sub" / "config").write_bytes(b"{}")
    cid = store.put_directory(source)
    target = store.export(cid, tmp_path / "out" / "model")
    assert (target / "weights").read_bytes() == pattern(3 * CHUNK_BYTES)
    assert (target / "sub" / "config").read_bytes() == b"{}"
    assert store.local_path(cid) == target
    assert store.put_directory(target) == cid


def test_too_large_an_artifact_is_not_read(store, tmp_path, pattern):
    cid = store.put_bytes(pattern(1001))
    with pytest.raises(ArtifactTooLarge, match="1001 bytes or more, over the limit of 1000"):
        store.get_bytes(cid, max_bytes=1000)
    with pytest.raises(ArtifactTooLarge):
        store.export(cid, tmp_path / "out", max_bytes=1000)


def test_a_flipped_bit_makes_a_block_missing(store, pattern):
    cid = store.put_bytes(pattern(2 * CHUNK_BYTES))
    victim = store._block_path(raw_cid(pattern(CHUNK_BYTES)))
    data = bytearray(victim.read_bytes())
    data[1000] ^= 1
    victim.write_bytes(data)
    with pytest.raises(BlockMissing):
        store.get_bytes(cid)
    assert list(store.missing(cid)) == [raw_cid(pattern(CHUNK_BYTES))]


def test_a_block_that_does_not_match_its_cid_is_refused(store):
    with pytest.raises(CorruptArtifact):
        store.put_block(raw_cid(b"this"), b"that")
    assert not store.has(raw_cid(b"this"))
    with pytest.raises(ArtifactTooLarge):
        store.put_block(raw_cid(b"x"), bytes((2 << 20) + 1))


@pytest.mark.parametrize("cid", ["", "../../etc/passwd", "Qm" + "a" * 44, "b" + "a" * 58, raw_cid(b"")[:-1] + "/"])
def test_a_path_from_outside_is_a_digest_and_nothing_else(store, cid):
    with pytest.raises(CidError):
        store.get_block(cid)
    with pytest.raises(CidError):
        store.has(cid)


def test_a_directory_cannot_be_read_as_a_file(store, tmp_path):
    (tmp_path / "folder").mkdir()
    cid = store.put_directory(tmp_path / "folder")
    with pytest.raises(CorruptArtifact, match="directory"):
        store.get_bytes(cid)


def test_folders_inside_folders_without_end_are_refused(store):
    block = directory_node([]).encode()
    for _ in range(30):
        store.put_block(node_cid(block), block)
        block = directory_node([Link(node_cid(block), name, 1) for name in "abcdefgh"]).encode()
    store.put_block(node_cid(block), block)
    with pytest.raises(ArtifactTooLarge, match="levels of folders"):
        store.size(node_cid(block))


def test_a_linked_file_is_served_without_a_copy(store, tmp_path, pattern):
    source = tmp_path / "big"
    source.write_bytes(pattern(4 * CHUNK_BYTES + 9))
    cid = store.link_file(source)
    assert cid == BlockStore(tmp_path / "other").put_file(source)
    assert sum(file.stat().st_size for file in blocks_of(store)) < 1000
    assert store.get_bytes(cid) == source.read_bytes()
    assert store.local_path(cid) == source
    again = BlockStore(store.path)
    assert again.local_path(cid) == source
    assert again.get_bytes(cid) == source.read_bytes()


def test_a_linked_file_that_changes_is_never_served_as_what_it_was(store, tmp_path, pattern):
    source = tmp_path / "big"
    source.write_bytes(pattern(2 * CHUNK_BYTES))
    cid = store.link_file(source)
    time.sleep(0.01)
    source.write_bytes(bytes(2 * CHUNK_BYTES))
    assert store.local_path(cid) is None
    with pytest.raises(BlockMissing):
        store.get_bytes(cid)
    assert store.link_file(source) != cid


def test_a_linked_folder_is_hashed_once(store, tmp_path, pattern, monkeypatch):
    source = tmp_path / "model"
    source.mkdir()
    (source / "weights").write_bytes(pattern(2 * CHUNK_BYTES))
    cid = store.link_directory(source)
    monkeypatch.setattr("proofyard.artifacts.store.build_tree", None)
    assert store.link_directory(source) == cid
    assert store.local_path(cid) == source
    (source / "new").write_bytes(b"")
    with pytest.raises(TypeError):
        store.link_directory(source)


def test_a_missing_source_is_reported(store, tmp_path):
    with pytest.raises(SourceUnusable, match="nothing cannot be read: No such file"):
        store.put_file(tmp_path / "nothing")


def test_a_place_that_cannot_be_written_is_not_called_the_store(store, pattern, tmp_path):
    cid = store.put_bytes(pattern(10))
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / ("n" * 300), tmp_path / "file" / "below"):
        with pytest.raises(StoreUnusable, match="cannot be written: ") as refused:
            store.export(cid, place)
        assert "store" not in str(refused.value).replace(str(tmp_path), "")


def test_a_full_disk_is_reported_and_leaves_no_torn_block(store, pattern, monkeypatch):
    kept = store.put_bytes(pattern(10))

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(StoreUnusable, match="No space left"):
        store.put_bytes(pattern(20))
    monkeypatch.undo()
    assert store.get_bytes(kept) == pattern(10)
    assert len(blocks_of(store)) == 1
    assert not list((store.path / "tmp").iterdir())


def test_killed_while_writing_leaves_whole_blocks(tmp_path, pattern):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(40 * CHUNK_BYTES))
    program = "import sys; from proofyard.artifacts import BlockStore; BlockStore(sys.argv[1]).put_file(sys.argv[2])"
    path = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", program, str(path), str(source)])
    while process.poll() is None and len(list((path / "blocks").glob("*/*"))) < 5:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (path / "tmp").mkdir(exist_ok=True)
    (path / "tmp" / "torn").write_bytes(b"half")
    store = BlockStore(path)
    found = blocks_of(store)
    assert found
    for file in found:
        assert raw_cid(file.read_bytes()) == file.name or len(file.read_bytes()) > CHUNK_BYTES
    assert not list((path / "tmp").iterdir())
    assert store.get_bytes(store.put_file(source)) == source.read_bytes()
