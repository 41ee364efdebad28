"""With `IPFS_API` set to the multiaddress of a daemon's RPC, these run against it; without, only the failures do.

The daemon must be offline or in a namespace of its own; see `docs/protocol.md` for the CIDs it has to agree with.
"""

import io
import os

import pytest

from proofyard.artifacts import ArtifactUnavailable, IpfsUnavailable, fetch
from proofyard.artifacts.builder import CHUNK_BYTES
from proofyard.artifacts.ipfs import IpfsNode
from proofyard.protocol.cid import raw_cid

pytestmark = pytest.mark.filterwarnings("ignore:The 'strict' parameter:FutureWarning")

API = os.environ.get("IPFS_API", "")
with_daemon = pytest.mark.skipif(not API, reason="IPFS_API is not set")


async def test_a_daemon_that_is_not_there_is_reported(store):
    node = IpfsNode("/ip4/127.0.0.1/tcp/9/http")
    with pytest.raises(IpfsUnavailable, match=r"tcp/9/http failed.*start it"):
        await node.version()
    with pytest.raises(ArtifactUnavailable, match="IPFS at"):
        await fetch(store, raw_cid(b"anything"), [node], max_bytes=1000)
    await node.close()


@with_daemon
async def test_published_artifacts_have_the_same_cid_there_and_come_back(store, tmp_path, pattern):
    source = tmp_path / "model"
    (source / "sub").mkdir(parents=True)
    (source / "weights").write_bytes(pattern(3 * CHUNK_BYTES + 9))
    (source / "sub" / "config").write_bytes(b"{}")
    cid = store.link_directory(source)
    node = IpfsNode(API)
    await node.publish(store, cid)
    content = node._client.cat(f"{cid}/weights")
    assert content == pattern(3 * CHUNK_BYTES + 9)
    other = type(store)(tmp_path / "other")
    await fetch(other, cid, [node], max_bytes=10 << 20)
    assert (other.export(cid, tmp_path / "back") / "weights").read_bytes() == content
    await node.unpin(cid)
    await node.close()


@with_daemon
async def test_what_the_daemon_imports_itself_has_our_cid(store, pattern):
    data = pattern(5 * CHUNK_BYTES + 1)
    node = IpfsNode(API)
    added = node._client.add(io.BytesIO(data), cid_version=1, opts={"raw-leaves": "true", "cid-base": "base32"})
    assert added["Hash"] == store.put_bytes(data)
    await node.close()


@with_daemon
async def test_a_cid_that_the_daemon_does_not_have_is_reported(store):
    node = IpfsNode(API)
    with pytest.raises(ArtifactUnavailable):
        await fetch(store, raw_cid(os.urandom(16)), [node], max_bytes=1000)
    await node.close()
