"""Data that stays at home, on a node: what needs it is taken where it is here, and no peer ever gets it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace
from stand_ins import DOMAIN, VERIFIER, FakeLinks

from proofyard.artifacts import ArtifactUnavailable, BlockStore, cid_of_bytes, fetch
from proofyard.chain import Wallet
from proofyard.node.limits import DataLacking
from proofyard.node.links import VerifierLinks
from proofyard.node.serving import serve_owed_blocks
from proofyard.node.settings import NodeSettings
from proofyard.node.supplies import Supplies
from proofyard.protocol.manifest import Manifest
from proofyard.transport import Endpoint
from proofyard.workloads.local_sets import FOLDER, LocalSets
from proofyard.workloads.lora import WORKLOAD

TEXT = b'{"text": "what nobody else may read"}\n'
PARAMS: dict[str, Any] = {
    "modules": {"m": (4, 4)},
    "rank": 2,
    "alpha": 1.0,
    "lr": 0.1,
    "rounds": 1,
    "workers": 2,
    "segments": 2,
    "segment_steps": 1,
    "batch": 1,
    "seq_len": 8,
}
LOCAL = {"name": "wards", "digests": [cid_of_bytes(TEXT), cid_of_bytes(b"of another house")], "unaudited": True}
MANIFEST = Manifest(workload="lora", model=cid_of_bytes(b"model"), params=PARAMS | {"local": LOCAL})
OURS, THEIRS = WORKLOAD.graph(MANIFEST)


class Here:
    """A node's supplies, with the model here and the data of the first shard as well, once `add` was called."""

    def __init__(self, folder: Path, endpoint: Endpoint | None = None) -> None:
        self.store = BlockStore(folder / "blocks")
        self.store.put_bytes(b"model")
        self.sets = LocalSets(folder / FOLDER)
        self.folder = folder
        settings = NodeSettings(registry=DOMAIN.registry, wallet=folder, data_dir=folder)
        links = cast(VerifierLinks, FakeLinks())
        self.supplies = Supplies(settings, Wallet.generate(), cast(Endpoint, endpoint), links, self.store)

    def add(self) -> Path:
        file = self.folder / "given.jsonl"
        file.write_bytes(TEXT)
        return self.sets.file(self.sets.add("ours", file, "text", 1))


async def test_a_task_is_taken_where_its_file_is_here_and_refused_by_the_name_of_what_lacks(tmp_path: Path) -> None:
    here = Here(tmp_path)
    with pytest.raises(DataLacking, match=rf"^lacks the data set wards \({cid_of_bytes(TEXT)}\).*node data add"):
        await here.supplies.local_data(MANIFEST, OURS)
    path = here.add()
    assert await here.supplies.local_data(MANIFEST, OURS) == path, "a node need not be started again"
    for task in ({"task": OURS}, {"audited": OURS}):
        inputs = await here.supplies.inputs(VERIFIER.address, MANIFEST, (), (), **cast(Any, task))
        assert inputs.data == path
    with pytest.raises(DataLacking, match=r"^lacks"):
        await here.supplies.local_data(MANIFEST, THEIRS)
    published = replace(MANIFEST, data=cid_of_bytes(b"data"), params=PARAMS)
    assert await here.supplies.local_data(published, OURS) is None
    here.sets.remove("ours")
    with pytest.raises(DataLacking):
        await here.supplies.local_data(MANIFEST, OURS)


async def test_a_stranger_that_asks_for_its_blocks_gets_none(tmp_path: Path) -> None:
    nothing: Any = SimpleNamespace(marked=lambda _: None, of=lambda _: None)
    async with Endpoint(Wallet.generate(), network=DOMAIN) as node, Endpoint(Wallet.generate(), network=DOMAIN) as peer:
        here = Here(tmp_path / "node", node)
        here.add()
        await here.supplies.inputs(VERIFIER.address, MANIFEST, (), (), task=OURS)
        serve_owed_blocks(node, here.store, nothing, cast(Any, None))
        connection = await peer.connect_to(f"127.0.0.1:{node.port}", expect=node.address)
        other = BlockStore(tmp_path / "peer")
        await fetch(other, cid_of_bytes(b"model"), [connection], max_bytes=1 << 20)
        with pytest.raises(ArtifactUnavailable):
            await fetch(other, cid_of_bytes(TEXT), [connection], max_bytes=1 << 20)
        assert not here.store.has(cid_of_bytes(TEXT))
