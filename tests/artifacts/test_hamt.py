"""Large directories: the shape that Kubo gives them, and those that nobody should."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.artifacts import CorruptArtifact, UnsupportedArtifact
from proofyard.artifacts.builder import MAX_DIRECTORY_BYTES, build_directory
from proofyard.artifacts.dag import entries, load
from proofyard.artifacts.hamt import FANOUT, build_shards, murmur3
from proofyard.artifacts.unixfs import Kind, Link, Node, decode, node_cid
from proofyard.protocol.cid import CID_BYTES, raw_cid

EMPTY = raw_cid(b"")


@pytest.mark.parametrize(
    ("data", "hashed"),
    [
        (b"", "0000000000000000"),
        (b"hello", "cbd8a7b341bd9b02"),
        (b"hello, world", "342fac623a5ebc8e"),
        (b"The quick brown fox jumps over the lazy dog.", "cd99481f9ee902c9"),
    ],
)
def test_names_are_hashed_as_the_reference_does(data, hashed):
    assert murmur3(data).hex() == hashed


def sharded(names):
    blocks = {EMPTY: b""}
    root = build_shards([Link(EMPTY, name, 0) for name in names], blocks.__setitem__)
    return root.cid, blocks


@settings(max_examples=20, deadline=None)
@given(st.sets(st.text("abcdefgh", min_size=1, max_size=6), max_size=600))
def test_a_sharded_directory_has_its_entries_by_name(names):
    cid, blocks = sharded(names)
    found = [entry.path[0] for entry in entries(blocks.__getitem__, cid) if entry.path]
    assert found == sorted(names)


def test_the_shape_follows_from_the_names_alone():
    names = [f"{n}" for n in range(3000)]
    assert sharded(names)[0] == sharded(reversed(names))[0]


@pytest.mark.parametrize(("more", "kind"), [(0, Kind.DIRECTORY), (1, Kind.SHARD)])
def test_a_directory_is_sharded_above_the_threshold(more, kind):
    length = 220
    count, rest = divmod(MAX_DIRECTORY_BYTES, length + CID_BYTES)
    names = [f"{n:0{length}}" for n in range(count)]
    names[0] = "0" * (len(names[0]) + rest + more)
    assert len(names[0]) < 500
    blocks = {}
    cid = build_directory([Link(EMPTY, name, 0) for name in names], blocks.__setitem__).cid
    assert decode(cid, blocks[cid]).kind is kind


def shard(links, slots, **changes):
    bits = sum(1 << slot for slot in slots)
    fields = {"data": bits.to_bytes((bits.bit_length() + 7) // 8, "big"), "fanout": FANOUT, **changes}
    block = Node(Kind.SHARD, tuple(links), **fields).encode()
    return node_cid(block), block


def test_an_empty_one_is_an_empty_directory():
    cid, block = shard([], [])
    assert [entry.kind.value for entry in entries({cid: block}.__getitem__, cid)] == ["directory"]


@pytest.mark.parametrize(
    ("links", "slots", "changes"),
    [
        ([Link(EMPTY, "05a", 0)], [4], {}),
        ([Link(EMPTY, "05a", 0)], [5, 6], {}),
        ([Link(EMPTY, "5", 0)], [5], {}),
        ([Link(EMPTY, "0aa", 0)], [10], {}),
        ([Link(EMPTY, "05a", 0), Link(EMPTY, "06b", 0)], [5], {}),
        ([Link(EMPTY, "05a", 0)], [5], {"data": bytes(33)}),
        ([Link(EMPTY, "05a", 0)], [5], {"block_sizes": (1,)}),
    ],
    ids=["slot", "bits", "short", "case", "links", "wide", "sizes"],
)
def test_a_shard_whose_slots_are_not_its_links_is_corrupt(links, slots, changes):
    cid, block = shard(links, slots, **changes)
    with pytest.raises(CorruptArtifact) as caught:
        decode(cid, block)
    assert not isinstance(caught.value, UnsupportedArtifact)


@pytest.mark.parametrize("fanout", [0, 3, 4, 2048, 1 << 40])
def test_a_shard_of_another_width_is_called_unsupported(fanout):
    cid, block = shard([], [], fanout=fanout)
    with pytest.raises(UnsupportedArtifact, match="slots"):
        decode(cid, block)


@pytest.mark.parametrize("fanout", [8, 16, 1024])
def test_other_widths_that_kubo_reads_are_read(fanout):
    name = {8: "3a", 16: "3a", 1024: "003a"}[fanout]
    cid, block = shard([Link(EMPTY, name, 0)], [3], fanout=fanout)
    assert [entry.path for entry in entries({cid: block, EMPTY: b""}.__getitem__, cid)] == [(), ("a",)]


def refused(blocks, cid, reason):
    with pytest.raises(CorruptArtifact, match=reason):
        next(entries(blocks.__getitem__, cid))


def test_a_shard_that_is_linked_twice_is_no_tree():
    """256 to the power of 20 visits, from 21 small blocks."""
    cid, block = shard([Link(EMPTY, "00a", 0)], [0])
    blocks = {EMPTY: b"", cid: block}
    for _ in range(20):
        cid, block = shard([Link(cid, f"{slot:02X}", 0) for slot in range(256)], range(256))
        blocks[cid] = block
    refused(blocks, cid, "no tree")


def test_a_chain_of_shards_ends():
    cid, block = shard([Link(EMPTY, "00a", 0)], [0])
    blocks = {EMPTY: b"", cid: block}
    for _ in range(40):
        cid, block = shard([Link(cid, "00", 0)], [0])
        blocks[cid] = block
    refused(blocks, cid, "no tree")


def test_two_shards_may_not_name_the_same_entry():
    one, first = shard([Link(EMPTY, "01a", 0)], [1])
    two, second = shard([Link(EMPTY, "02a", 0)], [2])
    cid, block = shard([Link(one, "00", 0), Link(two, "01", 0)], [0, 1])
    refused({EMPTY: b"", one: first, two: second, cid: block}, cid, "twice")


@pytest.mark.parametrize("below", [Node(Kind.DIRECTORY), Node(Kind.FILE, (), b"x", 1), Node(Kind.SHARD, fanout=256)])
def test_what_stands_where_a_shard_should_is_corrupt(below):
    block = below.encode()
    cid, root = shard([Link(node_cid(block), "00", 0)], [0])
    refused({node_cid(block): block, cid: root}, cid, "none, or empty")


def test_a_folder_of_ten_thousand_files_comes_back(store, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(10_000):
        (folder / f"file-{number}.json").write_bytes(b"%d" % (number % 7))
    cid = store.put_directory(folder)
    root = load(store.get_block, cid)
    assert isinstance(root, Node) and root.kind is Kind.SHARD
    out = store.export(cid, tmp_path / "out")
    assert store.local_path(cid) == out
    for number in itertools.chain(range(5), range(9990, 10_000)):
        assert (out / f"file-{number}.json").read_bytes() == b"%d" % (number % 7)
    assert store.size(cid) == 10_000
