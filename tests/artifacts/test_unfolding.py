"""A few blocks that are linked many times stand for far more than was sent: it is counted before it is made."""

import asyncio
import itertools
import threading
import time

import pytest

from proofyard.artifacts import ArtifactTooLarge, BlockStore, CorruptArtifact, UnsupportedArtifact, fetch
from proofyard.artifacts.builder import CHUNK_BYTES
from proofyard.artifacts.dag import all_blocks, missing_of_range
from proofyard.artifacts.unixfs import Kind, Link, Node, decode, directory_node, file_node, node_cid
from proofyard.artifacts.walking import WALKS_AT_ONCE, walk
from proofyard.protocol.cid import raw_cid
from proofyard.sdk import Artifacts

GIB = 1 << 30


@pytest.fixture
def big(tmp_path):
    """The store of whoever makes such artifacts."""
    return BlockStore(tmp_path / "big")


def put(store, node):
    block = node.encode()
    store.put_block(node_cid(block), block)
    return node_cid(block)


def unfolding_directory(store, files=4096):
    """`files` names of one file of 256 KiB, whose links claim that there is nothing behind them."""
    leaf = store.put_bytes(bytes(CHUNK_BYTES))
    return put(store, directory_node([Link(leaf, f"{n:05}", 0) for n in range(files)]))


def sent(store, cid):
    return sum(len(store.get_block(block)) for block in all_blocks(store.get_block, cid))


def test_a_directory_that_unfolds_is_not_written(big, tmp_path):
    cid = unfolding_directory(big)
    assert sent(big, cid) < 1 << 20
    assert big.size(cid) == GIB
    with pytest.raises(ArtifactTooLarge, match="over the limit of 67108864"):
        big.export(cid, tmp_path / "out", max_bytes=64 << 20)
    assert not (tmp_path / "out").exists()


async def refused(work):
    with pytest.raises(ArtifactTooLarge):
        await work


async def test_a_directory_that_unfolds_is_refused_when_it_is_fetched(big, store, seeder):
    cid = unfolding_directory(big, 300)
    await refused(fetch(store, cid, [await seeder(big)], max_bytes=64 << 20))


async def test_folders_in_folders_count_as_often_as_they_are_linked(big, store, seeder):
    here = unfolding_directory(big, 16)
    for _ in range(3):
        here = put(big, directory_node([Link(here, f"{n}", 0) for n in range(8)]))
    assert big.size(here) == 2 * GIB
    await refused(fetch(store, here, [await seeder(big)], max_bytes=GIB))
    assert store.size(here) == 2 * GIB


async def test_what_is_here_already_is_measured_too(big):
    cid = unfolding_directory(big)
    await refused(fetch(big, cid, [], max_bytes=GIB - 1))
    await fetch(big, cid, [], max_bytes=GIB)


def test_a_file_that_unfolds_is_not_read(big):
    leaf = raw_cid(bytes(CHUNK_BYTES))
    big.put_block(leaf, bytes(CHUNK_BYTES))
    node = put(big, file_node([Link(leaf, "", 0)] * 64, [CHUNK_BYTES] * 64))
    root = put(big, file_node([Link(node, "", 0)] * 64, [64 * CHUNK_BYTES] * 64))
    assert big.size(root) == GIB
    with pytest.raises(ArtifactTooLarge, match="1073741824 bytes or more"):
        big.get_bytes(root)


def test_a_file_of_many_equal_chunks_is_a_file(big, tmp_path):
    cid = big.put_bytes(bytes(20 << 20))
    assert big.get_bytes(cid) == bytes(20 << 20)
    assert big.export(cid, tmp_path / "zeros").stat().st_size == 20 << 20


def crumbs(store):
    """A file of 16 MiB, of one leaf of one byte."""
    leaf = raw_cid(b"x")
    store.put_block(leaf, b"x")
    node = put(store, file_node([Link(leaf, "", 0)] * 4096, [1] * 4096))
    return put(store, file_node([Link(node, "", 0)] * 4096, [4096] * 4096))


def test_a_file_of_crumbs_is_given_up_early(big, tmp_path):
    cid = crumbs(big)
    start = time.process_time()
    with pytest.raises(CorruptArtifact, match="too many pieces"):
        big.get_bytes(cid)
    with pytest.raises(CorruptArtifact, match="too many pieces"):
        big.export(cid, tmp_path / "out")
    assert big.missing_of_range(cid, 0, 1 << 24) == []
    assert time.process_time() - start < 60  # all of it would take an hour
    assert not (tmp_path / "out").exists()


def test_a_file_deeper_than_any_importer_makes_is_refused(big):
    here, size = big.put_bytes(b"deep"), 4
    for _ in range(40):
        here = put(big, file_node([Link(here, "", 0)], [size]))
    with pytest.raises(CorruptArtifact, match="deeper"):
        big.get_bytes(here)
    with pytest.raises(CorruptArtifact, match="deeper"):
        missing_of_range(big.get_block, big.has, here, 0, 4)


def test_a_missing_block_that_is_linked_often_is_wanted_once(big):
    leaf = raw_cid(bytes(1000))
    root = put(big, file_node([Link(leaf, "", 0)] * 4000, [1000] * 4000))
    assert big.missing_of_range(root, 0, 4_000_000) == [leaf]


def test_more_entries_than_the_room_for_them_are_not_made(big, tmp_path):
    empty = put(big, directory_node([]))
    folder = put(big, directory_node([Link(empty, f"{n}", 0) for n in range(2000)]))
    with pytest.raises(ArtifactTooLarge, match="entries"):
        big.export(folder, tmp_path / "out", max_bytes=1000)
    assert not (tmp_path / "out").exists()


async def test_a_range_of_a_file_counts_what_it_unfolds_to(big, store, tmp_path, seeder):
    leaf = raw_cid(bytes(CHUNK_BYTES))
    big.put_block(leaf, bytes(CHUNK_BYTES))
    root = put(big, file_node([Link(leaf, "", 0)] * 4096, [CHUNK_BYTES] * 4096))
    connection = await seeder(big)
    await refused(fetch(store, root, [connection], max_bytes=1 << 20, span=(0, GIB)))
    await fetch(store, root, [connection], max_bytes=1 << 20, span=(GIB - 1000, 1 << 60))
    assert store.export_range(root, tmp_path / "end", GIB - 1000, 1 << 60).stat().st_size == 1000
    with pytest.raises(ArtifactTooLarge):
        store.export_range(root, tmp_path / "all", 0, GIB, max_bytes=1 << 20)
    assert not (tmp_path / "all").exists()


async def test_blocks_that_share_all_their_children_are_walked_once(big, store, seeder, monkeypatch):
    """Each of 60 folders links all the earlier ones, so that walking below each anew would cost their square."""
    here = [big.put_bytes(b"leaf")]
    for _ in range(60):
        here.append(put(big, directory_node([Link(cid, f"{n}", 0) for n, cid in enumerate(here)])))
    read = 0
    get_block = BlockStore.get_block

    def counted(self, cid):
        nonlocal read
        read += self is store
        return get_block(self, cid)

    monkeypatch.setattr(BlockStore, "get_block", counted)
    await refused(fetch(store, here[-1], [await seeder(big)], max_bytes=1 << 20))
    assert not list(store.missing(here[-1]))
    assert read < 1000


async def test_nodes_full_of_links_to_nothing_are_given_up(big, store, seeder):
    nodes = []
    for start in range(0, 20 * 4000, 4000):
        leaves = [Link(raw_cid(n.to_bytes(4, "big")), "", 0) for n in range(start, start + 4000)]
        nodes.append(put(big, file_node(leaves, [1] * 4000)))
    root = put(big, file_node([Link(cid, "", 0) for cid in nodes], [4000] * 20))
    await refused(fetch(store, root, [await seeder(big)], max_bytes=1 << 20))


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (Node(Kind.FILE, (Link(raw_cid(b"x"), "name", 0),), b"", 1, (1,)), "has a name"),
        (Node(Kind.DIRECTORY, (), b"content"), "content of its own"),
    ],
    ids=["name", "content"],
)
def test_what_only_makes_a_node_larger_is_refused(node, reason):
    block = node.encode()
    with pytest.raises(CorruptArtifact, match=reason):
        decode(node_cid(block), block)


@pytest.mark.parametrize("extra", [b"\x42\x11" + bytes(17), b"\x38\x01\x38\x01", b"\x08\x01", b"\x20\x01"])
def test_fields_beside_the_content_are_few_and_small(extra):
    unixfs = b"\x08\x01" + extra
    block = b"\x0a" + bytes([len(unixfs)]) + unixfs
    with pytest.raises(CorruptArtifact):
        decode(node_cid(block), block)


def petabytes(store):
    """A file of 42 PB, of 5 blocks."""
    size = CHUNK_BYTES
    here = raw_cid(bytes(size))
    store.put_block(here, bytes(size))
    for _ in range(3):
        here = put(store, file_node([Link(here, "", 0)] * 5500, [size] * 5500))
        size *= 5500
    return here, size


def folders_of_folders(store, leaf, levels=12, width=40):
    """`width` to the power of `levels` files."""
    here = leaf
    for _ in range(levels):
        here = put(store, directory_node([Link(here, f"{n}", 0) for n in range(width)]))
    return here


def many_links(store, cid):
    return put(store, directory_node([Link(cid, f"{n}", 0) for n in range(9000)]))


def within(seconds, work):
    """Of this process's time, whatever else the machine has to do."""
    start = time.process_time()
    result = work()
    assert time.process_time() - start < seconds
    return result


BOMBS = {
    "file": lambda store: petabytes(store),
    "folders": lambda store: (folders_of_folders(store, store.put_bytes(b"x" * 1000)), 1000 * 40**12),
    "wide": lambda store: (folders_of_folders(store, petabytes(store)[0], 2, 200), petabytes(store)[1] * 200**2),
    "many links": lambda store: (many_links(store, folders_of_folders(store, store.put_bytes(b"x"), 3)), 9000 * 40**3),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_unfolds_is_measured_exactly_and_made_nowhere(big, tmp_path, bomb):
    cid, size = BOMBS[bomb](big)
    artifacts = Artifacts(big.path)
    assert within(10, lambda: big.size(cid)) == size
    for attempt in (
        lambda: artifacts.get(cid, tmp_path / "out"),
        lambda: artifacts.get(cid, tmp_path / "out", max_bytes=1 << 20),
        lambda: big.require_size(cid, 1 << 40),
    ):
        with pytest.raises(ArtifactTooLarge):
            within(10, attempt)
    assert not (tmp_path / "out").exists()
    assert within(10, lambda: artifacts.is_complete(cid))
    assert within(10, lambda: artifacts.verify(cid)).missing == ()
    assert artifacts.write_car(cid, tmp_path / "bomb.car").stat().st_size < 3 << 20


@pytest.mark.parametrize("span", [(0, 1 << 62), (4096, 1 << 62), (1 << 50, 1 << 62), (0, 2 << 20)])
def test_a_range_of_petabytes_is_refused_at_once(big, tmp_path, span):
    cid, _ = petabytes(big)
    artifacts = Artifacts(big.path)
    with pytest.raises(ArtifactTooLarge):
        within(10, lambda: artifacts.get(cid, tmp_path / "out", span=span, max_bytes=1 << 20))
    assert within(10, lambda: big.missing_of_range(cid, *span)) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", [0, 7, (1 << 54) + 3])
def test_a_small_range_of_petabytes_can_be_had(big, tmp_path, start):
    cid, _ = petabytes(big)
    span = (start, start + 5000)
    out = within(10, lambda: Artifacts(big.path).get(cid, tmp_path / "out", span=span, max_bytes=1 << 20))
    assert out.read_bytes() == bytes(5000)


def test_an_open_range_of_crumbs_ends(big, tmp_path):
    cid = crumbs(big)
    with pytest.raises(CorruptArtifact, match="too many pieces"):
        within(30, lambda: Artifacts(big.path).get(cid, tmp_path / "out", span=(5, 1 << 62)))
    assert not (tmp_path / "out").exists()


def test_one_bomb_spoils_no_list(big):
    artifacts = Artifacts(big.path)
    bomb, size = BOMBS["folders"](big)
    deep = big.put_bytes(b"deep")
    for _ in range(40):
        deep = put(big, directory_node([Link(deep, "d", 0)]))
    noise = b"\x12\x01\xff"
    big.put_block(node_cid(noise), noise)
    metadata = b"\x0a\x02\x08\x03"
    big.put_block(node_cid(metadata), metadata)
    plain = big.put_bytes(b"plain")
    for cid in (bomb, deep, node_cid(noise), node_cid(metadata), plain):
        artifacts.pin(cid)
    kept = {each.cid: each for each in artifacts.kept()}
    assert kept[bomb].size == size
    assert kept[plain].size == 5
    assert isinstance(kept[deep].fault, ArtifactTooLarge)
    assert isinstance(kept[node_cid(noise)].fault, CorruptArtifact)
    assert isinstance(kept[node_cid(metadata)].fault, UnsupportedArtifact)
    found = artifacts.verify()
    assert (found.damaged, found.missing) == ((), ())
    assert artifacts.collect(grace_s=0).blocks == 0


async def test_a_fetch_of_a_bomb_ends_soon(big, store, seeder):
    for bomb in BOMBS.values():
        cid, _ = bomb(big)
        start = time.process_time()
        await refused(fetch(store, cid, [await seeder(big)], max_bytes=1 << 20))
        assert time.process_time() - start < 30


async def test_walks_that_nobody_waits_for_end_and_hold_up_nothing_else(big, monkeypatch):
    cid = unfolding_directory(big, 300)
    begun, has = threading.Event(), BlockStore.has
    changes, counting = [], threading.Lock()

    def slow(self, cid):
        begun.set()
        time.sleep(0.005)
        return has(self, cid)

    def count(step):
        with counting:
            changes.append(step)

    def walked(go_on):
        count(+1)
        try:
            while True:
                list(big.missing(cid, go_on=go_on))
        finally:
            count(-1)

    monkeypatch.setattr(BlockStore, "has", slow)
    walks = [asyncio.create_task(walk(walked)) for _ in range(3 * WALKS_AT_ONCE)]
    assert await asyncio.wait_for(asyncio.to_thread(begun.wait, 60), 60), "other work has threads"
    for each in walks:
        each.cancel()
    ends = await asyncio.gather(*walks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    assert await asyncio.wait_for(walk(lambda go_on: "next"), 60) == "next"
    # A walk whose turn came just then may begin, and ends at its first block.
    async with asyncio.timeout(60):
        while sum(changes):
            await asyncio.sleep(0.01)
    assert 0 < max(itertools.accumulate(changes)) <= WALKS_AT_ONCE
