"""A store that packs small blocks is a store like any other."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from proofyard.artifacts import BlockMissing, BlockStore, Keeper, StoreUnusable
from proofyard.artifacts.small import MAX_SMALL_BYTES
from proofyard.protocol.types import Cid

SMALL, LARGE = b"small", b"x" * (MAX_SMALL_BYTES + 1)


def test_small_blocks_are_rows_and_large_ones_files_and_both_outlast_a_restart(tmp_path: Path) -> None:
    store = BlockStore(tmp_path, packs=True)
    cids = [store.put_bytes(data) for data in (SMALL, LARGE, SMALL)]
    assert cids[0] == cids[2]
    assert [path.name for path in (tmp_path / "blocks").glob("*/*")] == [cids[1]]
    store.close()
    again = BlockStore(tmp_path, packs=True)
    assert [again.get_bytes(cid) for cid in cids] == [SMALL, LARGE, SMALL]
    assert [again.block_size(cid) for cid in cids] == [len(SMALL), len(LARGE), len(SMALL)]
    assert {block.cid for block in again.blocks()} == set(cids)
    again.close()


def test_what_was_stored_in_files_before_is_still_here(tmp_path: Path) -> None:
    cid = BlockStore(tmp_path).put_bytes(SMALL)
    store = BlockStore(tmp_path, packs=True)
    assert store.get_bytes(cid) == SMALL
    store.delete_block(cid)
    assert not store.has(cid)
    store.close()


def test_processes_of_one_machine_share_what_is_packed(tmp_path: Path) -> None:
    store = BlockStore(tmp_path, packs=True)
    own = [store.put_bytes(b"own %d" % number) for number in range(20)]
    program = (
        "import sys; from proofyard.artifacts import BlockStore; store = BlockStore(sys.argv[1])\n"
        "for number in range(200): print(store.put_bytes(b'other %d' % number), flush=True)\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) for _ in "12"]
    own += [store.put_bytes(b"later %d" % number) for number in range(200)]
    found = [process.communicate(timeout=240)[0].decode().split() for process in others]
    assert len(found[0]) == 200 and found[0] == found[1]
    store.sync(*own, *map(Cid, found[0]))
    assert not any((tmp_path / "blocks").glob("*/*")), "whoever opens the folder packs as well"
    store.close()


def test_a_damaged_row_is_a_missing_block(tmp_path: Path) -> None:
    store = BlockStore(tmp_path, packs=True)
    cid = store.put_bytes(SMALL)
    with sqlite3.connect(tmp_path / "small.db") as other:
        other.execute("update blocks set data = ?", (b"smalm",))
    with pytest.raises(BlockMissing):
        store.get_block(cid)
    assert not store.has(cid)
    assert store.put_bytes(SMALL) == cid and store.get_bytes(cid) == SMALL
    store.close()


@pytest.mark.parametrize("packs", [True, False])
def test_small_artifacts_are_found_together_and_nothing_that_is_large_damaged_or_not_one_block(
    tmp_path: Path, packs: bool
) -> None:
    store = BlockStore(tmp_path / "store", packs=packs)
    most, small = MAX_SMALL_BYTES + 1, [b"%d" % number for number in range(150)]
    cids = [store.put_bytes(data) for data in (*small, b"", LARGE, LARGE + b"x", bytes(300 << 10))]
    gone = BlockStore(tmp_path / "other").put_bytes(b"elsewhere")
    assert store.small_artifacts([*cids, gone, cids[0]], most) == dict(zip(cids, [*small, b"", LARGE], strict=False))
    assert store.small_artifacts([], most) == {}
    if packs:
        with sqlite3.connect(tmp_path / "store" / "small.db") as other:
            other.execute("update blocks set data = ? where data = ?", (b"8", b"7"))
        assert store.small_artifacts(cids[6:9], most) == {cids[6]: b"6", cids[8]: b"8"}
        assert not store.has(cids[7]), "a damaged block is deleted"
    store.close()


def test_one_sync_is_enough_for_all_small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlockStore(tmp_path, packs=True)
    cids = [store.put_bytes(b"%d" % number) for number in range(50)]
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    store.sync(*cids)
    assert [Path(name).name for name in synced] == ["small.db-wal"]
    synced.clear()
    store.sync(store.put_bytes(LARGE), cids[0])
    assert len(synced) == 4, "a file, its folder, the folder of folders, and the rows"
    with pytest.raises(BlockMissing):
        store.sync(BlockStore(tmp_path / "other").put_bytes(b"elsewhere"))
    store.close()


def test_what_nobody_needs_is_collected_from_rows_too(tmp_path: Path) -> None:
    store = BlockStore(tmp_path, packs=True)
    kept, gone = store.put_bytes(b"kept"), store.put_bytes(b"gone")
    keeper = Keeper(store)
    keeper.pin(kept)
    found = keeper.collect(now=2e9, grace_s=0.0)
    assert (found.blocks, found.bytes_left) == (1, 4)
    assert store.has(kept) and not store.has(gone)
    store.close()


def test_an_unusable_file_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "small.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnusable):
        BlockStore(tmp_path, packs=True)
