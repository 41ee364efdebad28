"""A few blocks that are linked many times stand for far more than was sent: it is counted before it is made."""

import time

import pytest

from proofyard.artifacts import ArtifactTooLarge, BlockStore, CorruptArtifact, fetch
from proofyard.artifacts.builder import CHUNK_BYTES
from proofyard.artifacts.dag import all_blocks, missing_of_range
from proofyard.artifacts.unixfs import MAX_LINKS, Kind, Link, Node, decode, directory_node, file_node, node_cid
from proofyard.protocol.cid import raw_cid

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
    start = time.monotonic()
    with pytest.raises(CorruptArtifact, match="too many pieces"):
        big.get_bytes(cid)
    with pytest.raises(CorruptArtifact, match="too many pieces"):
        big.export(cid, tmp_path / "out")
    with pytest.raises(CorruptArtifact, match="too many pieces"):
        big.missing_of_range(cid, 0, 1 << 24)
    assert time.monotonic() - start < 60  # all of it would take an hour
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
        (file_node([Link(raw_cid(b"x"), "", 0)] * (MAX_LINKS + 1), [1] * (MAX_LINKS + 1)), "more than 16384 children"),
    ],
    ids=["name", "content", "links"],
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
