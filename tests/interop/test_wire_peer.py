"""docs/protocol.md is complete: a peer written from it alone is a client and a node of a real network."""

import ast
import asyncio
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_account import Account

from proofyard.chain import JobTerms, Wallet
from proofyard.devnet.network import DevNetwork, Plan
from proofyard.protocol.types import Digest, JobId
from proofyard.protocol.workload_bits import workload_bit, workload_bits
from proofyard.sdk import Client, credits, settled_batches, unclaimed

sys.path.insert(0, str(Path(__file__).parent))

import wire_peer
from wire_peer import FIELDS, MapNode, Peer, Refused, cid_of, map_job

LINES = [{"text": f"  line   {number}\tof  a ünïcode text ", "shard": f"part {number % 2}"} for number in range(32)]


def test_it_imports_nothing_of_the_product() -> None:
    tree = ast.parse(Path(wire_peer.__file__).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in modules if name.startswith("proofyard")]


def test_what_it_signs_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert all(f"`{name}({fields})`" in page for name, fields in FIELDS.items())


@pytest.fixture
def network(tmp_path: Path) -> Iterator[DevNetwork]:
    with DevNetwork(tmp_path / "net", Plan(nodes=3, decoys_bps=0)) as running:
        yield running


@pytest.mark.timeout(280)
async def test_an_independent_node_works_audits_and_is_paid(network: DevNetwork, tmp_path: Path) -> None:
    """And an independent client asks about the job, publishes, and is told what it does wrong."""
    account, owner = Account.create(), Wallet.generate()
    key = Wallet.from_key(account.key)
    for wallet in (key, owner):
        network.anvil.fund(wallet.address)
    stake = network.plan.stake_of("node")
    network.chain(network.treasury).transfer(owner.address, stake)
    network.chain(owner).register_node(key, stake, workload_bits(["map"]))
    chain_id, registry = network.chain().chain_id, network.deployment.registry
    host, port = network.endpoint("verifier-1").split(":")
    node = MapNode(chain_id, registry, account)
    async with node.connected(host, int(port)):
        await node.announce()
        requester = Peer(chain_id, registry, network.requester.key.account)
        async with requester.connected(host, int(port)):
            job_id = await open_a_job(requester, network)
        with Client(network.rpc_url, registry, network.requester.key) as client:
            handle = client.job(job_id)
            await be_a_client(Peer(chain_id, registry), host, int(port), handle.job_id)
            report = await asyncio.to_thread(handle.wait, 200)
            assert not [event for event in report.log if event.kind == "fault"]
            out = await asyncio.to_thread(handle.result, tmp_path / "out")
            paid = {due.node for due in unclaimed(client, settled_batches(client, handle.job_id))}
    assert len((out / "data.jsonl").read_text().splitlines()) == len(LINES)
    assert not node.failures, node.failures
    assert node.receipts, "it was given no task"
    assert node.opened, "it was drawn for no audit"
    assert account.address in paid


async def open_a_job(peer: Peer, network: DevNetwork) -> JobId:
    """With a manifest that it made itself, and the inputs from its own store."""
    manifest, data, units = map_job(LINES, segment_rows=2, segments=2)
    chain = network.chain(network.requester.key)
    fees = (credits(10), credits(2), credits(2))
    digest = Digest(hashlib.sha256(manifest).digest())
    terms = JobTerms(digest, units, *fees, 2, 1, chain.now() + 86_400, workload_bit("map"))
    job = await asyncio.to_thread(chain.open_job, terms)
    artifacts = [peer.keep(manifest), peer.keep(data)]
    asked = {"artifacts": artifacts, "total_bytes": len(manifest) + len(data), "job": job}
    reply = None
    while reply is None:
        try:
            reply, _ = await peer.ask("publish", asked)
        except Refused as refused:
            assert str(refused).startswith("not-seen"), refused
            await asyncio.sleep(0.2)
    assert reply == {"type": "ack", "proceed": True, "reason": ""}
    assert not peer.failures, peer.failures
    return job


async def be_a_client(peer: Peer, host: str, port: int, job: int) -> None:
    async with peer.connected(host, port):
        cid = peer.keep(b"something to publish")
        reply, _ = await peer.ask("publish", {"artifacts": [cid], "total_bytes": 20})
        assert reply["type"] == "ack"
        reply, _ = await peer.ask("job-query", {"job": job, "since": 0})
        assert (reply["type"], reply["job"]) == ("job-report", job)
        reply, data = await peer.ask("get-blocks", {"cids": wire_peer.cid_bytes(cid_of(b"nobody has this"))})
        assert (reply["sizes"], data) == ([-1], b"")
        for kind, fields, code in (
            ("no-such-thing", {}, "unknown-request"),
            ("job-query", {"job": "seven"}, "bad-request"),
        ):
            with pytest.raises(Refused, match=code):
                await peer.ask(kind, fields)
