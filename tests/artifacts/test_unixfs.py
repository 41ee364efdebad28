import contextlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.artifacts import CorruptArtifact, cid_of_bytes
from proofyard.artifacts.builder import CHUNK_BYTES, FileBuilder, build_file, build_tree
from proofyard.artifacts.dag import read_range
from proofyard.artifacts.source import scan
from proofyard.artifacts.unixfs import Kind, Link, Node, decode, directory_node, node_cid, why_unusable
from proofyard.protocol.cid import raw_cid

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "unixfs.json").read_text())
SMALL = [size for size in VECTORS["files"] if int(size) < 4_000_000]
LARGE = [size for size in VECTORS["files"] if int(size) >= 4_000_000]


@pytest.mark.parametrize("size", SMALL)
def test_files_have_the_cids_of_the_reference_importer(size, pattern):
    assert cid_of_bytes(pattern(int(size))) == VECTORS["files"][size]


@pytest.mark.parametrize("size", LARGE)
def test_trees_of_several_levels_have_the_cids_of_the_reference_importer(size, pattern):
    chunks, rest = divmod(int(size), CHUNK_BYTES)
    data = pattern(int(size))
    builder = FileBuilder(lambda cid, block: None, lambda cid, block: None)
    for i in range(chunks + bool(rest)):
        builder.add(data[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES])
    assert builder.finish().cid == VECTORS["files"][size]


class Dribbling(io.BytesIO):
    """Gives less than is asked for, as a file on some file systems may."""

    def read(self, count: int | None = -1, /) -> bytes:
        return super().read(min(count, 9_973) if count and count > 0 else count)


@pytest.mark.parametrize("size", [0, 1, 20_000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_a_file_that_is_read_in_parts_is_the_same(size, pattern):
    data, leaves = pattern(size), []
    made = build_file(Dribbling(data), lambda _cid, leaf: leaves.append(leaf), lambda *_: None)
    assert (made.cid, b"".join(leaves)) == (cid_of_bytes(data), data)


def test_equal_chunks_are_one_block():
    blocks = {}
    link = build_file(io.BytesIO(bytes(3 * CHUNK_BYTES)), blocks.__setitem__, blocks.__setitem__)
    assert link.cid == VECTORS["zeros"]
    assert len(blocks) == 2


def test_a_directory_has_the_cid_of_the_reference_importer(tmp_path, pattern):
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name, content in {
        "b.txt": b"hello\n",
        "a.bin": pattern(CHUNK_BYTES + 5),
        "B": b"upper",
        "sub/x": b"",
        "sub/deep/é.txt": b"accent",
        ".hidden": b"left out",
    }.items():
        (tmp_path / name).write_bytes(content)
    drop = lambda cid, block: None  # noqa: E731
    put = lambda file, name: build_file(io.BytesIO(file.path.read_bytes()), drop, drop, name)  # noqa: E731
    assert build_tree(scan(tmp_path), put, drop).cid == VECTORS["tree"]


cids = st.binary(min_size=1, max_size=8).map(raw_cid)
names = st.text(min_size=1, max_size=20).filter(lambda name: not why_unusable(name))
sizes = st.integers(min_value=1, max_value=1 << 50)


@given(st.lists(st.tuples(cids, sizes), max_size=20), st.binary(max_size=100))
def test_file_nodes_survive_encoding(children, data):
    links = tuple(Link(cid, "", size) for cid, size in children)
    block_sizes = tuple(size for _, size in children)
    node = Node(Kind.FILE, links, data, len(data) + sum(block_sizes), block_sizes)
    block = node.encode()
    assert decode(node_cid(block), block) == node


@given(st.dictionaries(names, cids, max_size=20))
def test_directories_survive_encoding(entries):
    node = directory_node([Link(cid, name, 5) for name, cid in entries.items()])
    block = node.encode()
    assert decode(node_cid(block), block) == node


@given(st.binary(max_size=200))
def test_noise_is_refused_or_decoded_but_never_breaks(block):
    with contextlib.suppress(CorruptArtifact):
        decode(node_cid(block), block)


@given(st.data())
def test_a_mutated_node_is_refused_or_decoded_but_never_breaks(data):
    block = bytearray(directory_node([Link(raw_cid(b"x"), "name", 1), Link(raw_cid(b"y"), "other", 1)]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CorruptArtifact):
        decode(node_cid(bytes(block)), bytes(block))


def test_children_without_content_are_refused():
    block = Node(Kind.FILE, (Link(raw_cid(b""), "", 0),), b"", 0, (0,)).encode()
    with pytest.raises(CorruptArtifact, match="without content"):
        decode(node_cid(block), block)


def test_a_child_of_another_size_than_announced_is_noticed():
    child = b"four"
    block = Node(Kind.FILE, (Link(raw_cid(child), "", 4),), b"", 5, (5,)).encode()
    blocks = {raw_cid(child): child, node_cid(block): block}
    with pytest.raises(CorruptArtifact, match="4 bytes where its parent says 5"):
        list(read_range(blocks.__getitem__, node_cid(block), 0, 5))
