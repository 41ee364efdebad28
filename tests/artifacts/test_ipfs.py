"""Against js-ipfs, a daemon with Kubo's RPC, and against Kubo's core, which exchanges blocks with it over Bitswap."""

import asyncio
import io
import os
import sys
from pathlib import Path

import pytest

from proofyard.artifacts import ArtifactUnavailable, BlockStore, IpfsUnavailable, fetch
from proofyard.artifacts.builder import CHUNK_BYTES
from proofyard.artifacts.dag import entries, load
from proofyard.artifacts.ipfs import IpfsNode
from proofyard.artifacts.unixfs import Kind, Node, node_cid
from proofyard.protocol.cid import raw_cid, spelt_cid

sys.path.insert(0, str(Path(__file__).parents[2]))

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'strict' parameter:FutureWarning"),
    pytest.mark.timeout(1200),  # the first of them installs the daemons
]


@pytest.fixture
async def node(daemon):
    node = IpfsNode(daemon.api)
    yield node
    await node.close()


async def test_a_daemon_that_is_not_there_is_reported(store):
    node = IpfsNode("/ip4/127.0.0.1/tcp/9/http")
    with pytest.raises(IpfsUnavailable, match=r"tcp/9/http failed.*start it"):
        await node.version()
    with pytest.raises(ArtifactUnavailable, match="IPFS at"):
        await fetch(store, raw_cid(b"anything"), [node], max_bytes=1000)
    await node.close()


async def test_published_artifacts_have_the_same_cid_there_and_come_back(store, node, tmp_path, pattern):
    source = tmp_path / "model"
    (source / "sub").mkdir(parents=True)
    (source / "weights").write_bytes(pattern(3 * CHUNK_BYTES + 9))
    (source / "sub" / "config").write_bytes(b"{}")
    cid = store.link_directory(source)
    await node.publish(store, cid)
    content = node._client.cat(f"{cid}/weights")
    assert content == pattern(3 * CHUNK_BYTES + 9)
    other = BlockStore(tmp_path / "other")
    await fetch(other, cid, [node], max_bytes=10 << 20)
    assert (other.export(cid, tmp_path / "back") / "weights").read_bytes() == content
    await node.unpin(cid)


@pytest.mark.parametrize("size", [0, CHUNK_BYTES, 5 * CHUNK_BYTES + 1, 175 * CHUNK_BYTES])
async def test_a_file_that_the_daemon_imports_has_our_cid(store, node, pattern, size):
    data = pattern(size)
    added = node._client.add(io.BytesIO(data), cid_version=1, raw_leaves=True, opts={"cid-base": "base32"})
    assert added["Hash"] == store.put_bytes(data)


async def test_a_folder_that_the_daemon_imports_has_our_cid(store, node, tmp_path, pattern):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "b").write_bytes(pattern(2 * CHUNK_BYTES))
    (folder / "a").write_bytes(b"small")
    options = {"cid_version": 1, "raw_leaves": True, "recursive": True, "opts": {"cid-base": "base32"}}
    added = {each["Name"]: each["Hash"] for each in node._client.add(str(folder), **options)}
    assert added["folder"] == store.put_directory(folder)


async def test_kubo_fetches_what_was_published(store, node, kubo, tmp_path):
    source = tmp_path / "model"
    source.mkdir()
    (source / "weights").write_bytes(os.urandom(20 * CHUNK_BYTES + 1))
    (source / "config").write_bytes(os.urandom(10))
    cid = store.link_directory(source)
    await node.publish(store, cid)
    kubo.download(cid, tmp_path / "copy")
    for name in ("weights", "config"):
        assert (tmp_path / "copy" / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize("size", [11, 3 * CHUNK_BYTES + 7])
async def test_what_only_kubo_has_is_found_through_the_daemon(store, node, kubo, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    cid = spelt_cid(kubo.add(tmp_path / "file"))
    await fetch(store, cid, [node], max_bytes=10 << 20)
    assert store.get_bytes(cid) == data
    assert b"".join(store.read_range(cid, 5, 6)) == data[5:11]


async def test_ipfs_is_asked_for_what_no_peer_has(store, seeder, node, tmp_path, pattern):
    data = pattern(6 * CHUNK_BYTES + 3)
    seeding = BlockStore(tmp_path / "seeding")
    cid = seeding.put_bytes(data)
    await node.publish(seeding, cid)
    seeding._block_path(raw_cid(data[:CHUNK_BYTES])).unlink()
    peer = await seeder(seeding)
    with pytest.raises(ArtifactUnavailable):
        await fetch(store, cid, [peer], max_bytes=10 << 20)
    store.fallback = node
    await fetch(store, cid, [peer], max_bytes=10 << 20)
    assert store.get_bytes(cid) == data


def test_a_node_with_content_is_encoded_as_kubo_does(kubo, tmp_path):
    data = os.urandom(1000)
    (tmp_path / "file").write_bytes(data)
    assert spelt_cid(kubo.add(tmp_path / "file")) == node_cid(Node(Kind.FILE, (), data, len(data)).encode())


async def test_a_cid_that_the_daemon_does_not_have_is_reported(store, node, monkeypatch):
    monkeypatch.setattr("proofyard.artifacts.ipfs.FIND_SECONDS", 2)
    impatient = IpfsNode(node.api)
    with pytest.raises(ArtifactUnavailable):
        await fetch(store, raw_cid(os.urandom(16)), [impatient], max_bytes=1000)
    await impatient.close()


async def imported(node, folder):
    """The CID of a folder that the daemon imports as we do."""
    options = {"cid_version": 1, "raw_leaves": True, "recursive": True, "opts": {"cid-base": "base32"}}
    found = await asyncio.to_thread(lambda: [dict(each) for each in node._client.add(str(folder), **options)])
    return found[-1]["Hash"]


@pytest.fixture
def crowd(tmp_path):
    """A folder whose names and CIDs take more than 256 KiB."""

    def made(count, length):
        folder = tmp_path / f"crowd-{count}"
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:0{length}}.json").write_bytes(b"%d" % (number % 7))
        return folder

    return made


@pytest.mark.parametrize(("count", "length"), [(1100, 220), (10_000, 20)])
async def test_a_sharded_folder_that_the_daemon_imports_has_our_cid(store, node, crowd, count, length):
    folder = crowd(count, length)
    assert await imported(node, folder) == store.put_directory(folder)


async def test_a_sharded_folder_that_kubo_made_comes_back(store, node, kubo, tmp_path, crowd):
    folder = crowd(930, 246)
    cid = spelt_cid(kubo.add(folder))
    await fetch(store, cid, [node], max_bytes=32 << 20)
    assert isinstance(load(store.get_block, cid), Node) and load(store.get_block, cid).kind is Kind.SHARD
    out = store.export(cid, tmp_path / "out")
    assert store.put_directory(out) == store.put_directory(folder)


async def test_kubo_reads_a_folder_that_was_sharded_here(store, node, kubo, tmp_path, crowd):
    folder = crowd(930, 246)
    cid = store.put_directory(folder)
    await node.publish(store, cid)
    await asyncio.to_thread(kubo.download, cid, tmp_path / "copy")
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in (tmp_path / "copy").iterdir()} == names


@pytest.fixture
def odd(tmp_path):
    """Links that lead anywhere, and names that are unusual and allowed."""
    folder = tmp_path / "odd"
    (folder / "sub").mkdir(parents=True)
    for name, target in {"l": "a", "dangling": "nowhere", "round": ".", "sub/up": "../a"}.items():
        (folder / name).symlink_to(target)
    for name in ("a", "co:lon", "n" * 250, "new\nline", os.fsdecode(b"\xff\xfe")):
        (folder / name).write_bytes(b"content")
    return folder


async def test_links_and_odd_names_that_kubo_made_come_back(store, node, kubo, tmp_path, odd):
    cid = spelt_cid(kubo.add(odd))
    await fetch(store, cid, [node], max_bytes=1 << 20)
    out = store.export(cid, tmp_path / "out")
    assert store.put_directory(out) == store.put_directory(odd)
    nodes = {entry.path: store.get_block(entry.cid) for entry in entries(store.get_block, cid) if entry.target}
    own = store.put_directory(odd)
    assert nodes == {e.path: store.get_block(e.cid) for e in entries(store.get_block, own) if e.target}


async def test_kubo_reads_links_and_odd_names_that_were_stored_here(store, node, kubo, tmp_path, odd):
    cid = store.put_directory(odd)
    await node.publish(store, cid)
    await asyncio.to_thread(kubo.download, cid, tmp_path / "copy")
    copied = {path.relative_to(tmp_path / "copy"): path for path in (tmp_path / "copy").rglob("*") if not path.is_dir()}
    stored = {path.relative_to(odd): path for path in odd.rglob("*") if path.is_symlink() or path.is_file()}
    assert copied.keys() == stored.keys()
    for name, path in stored.items():
        # Its library writes a link as a file that holds the target.
        content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
        assert copied[name].read_bytes() == content
