"""Rounds that nodes decide, on real processes: without their verifier, which settles in the end, and with a voter that
dies in the middle of a round."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from proofyard.chain import ChainClient
from proofyard.cli import main
from proofyard.devnet.network import DevNetwork, Plan
from proofyard.disputes.committed import closed_of
from proofyard.protocol.closing import dropped_tasks, voter_of
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, decode_manifest
from proofyard.protocol.types import Cid
from proofyard.sdk import Client, LoraJob, credits, go_on, lineage, settled_batches, submit_job, verify_result
from proofyard.sdk.ancestry import write_lineage
from proofyard.sdk.results import manifest_of
from proofyard.workloads.workload import finals_of, load_workload

pytestmark = pytest.mark.timeout(600)
DEADLINE_S = 400.0
ROUNDS, WORKERS = 3, 3
CLOSING = {"quorum": 2, "timeout_s": 8}


def test_a_job_goes_on_while_its_verifier_is_away_and_is_settled_afterwards(
    inputs: Path, job: LoraJob, tmp_path: Path
) -> None:
    plan = Plan(nodes=4, model_dirs=(inputs / "model",), lease_s=30.0, batch_s=2.0, listed=True)
    with DevNetwork(tmp_path / "devnet", plan) as network:
        shape = {"workers": WORKERS, "rounds": ROUNDS}
        voted = replace(job, **shape, closing=CLOSING, rounds_by="nodes")  # type: ignore[arg-type]
        with Client(network.rpc_url, network.deployment.registry, network.requester.key) as client:
            handle = submit_job(voted, reward=credits(10), audit_fee=credits(10), client=client)
            until(lambda: decided(network, 0), "a round is decided")
            named = manifest_of(client.chain, handle.job_id)
            manifest = decode_manifest(client.read(named, MAX_MANIFEST_BYTES))
            voters = [voter["node"] for voter in manifest.params["closing"]["voters"]]
            assert len(voters) == plan.nodes
            dying = network.names()[voters[0]]
            network.kill("verifier-1")
            network.kill(dying)
            until(lambda: decided(network, ROUNDS - 1, but=dying), "the others go on without verifier and voter")
            network.restart("verifier-1")
            network.restart(dying)
            report = handle.wait(DEADLINE_S)
            assert report.state == "done"
            adapter = handle.result(tmp_path / "adapter")
            assert (adapter / "adapter_model.safetensors").is_file()
            documents = lineage(client, handle.job_id)
            assert [each.decided for each in documents] == ["votes"] * ROUNDS
            write_lineage(adapter, documents[-1])
            assert verify_result(client, adapter) == documents[-1]
            spec = go_on(client, handle.job_id, round=2, rounds=1)
            again = client.submit(spec, reward=credits(10), audit_fee=credits(10))
            assert again.wait(DEADLINE_S).state == "done"
            assert lineage(client, again.job_id)[0].start.state == documents[1].state

            stranger = ChainClient(network.rpc_url, network.deployment.registry)

            async def read(cid: Cid, max_bytes: int) -> bytes:
                return client.read(cid, max_bytes)

            closed = asyncio.run(closed_of(stranger, read, handle.job_id, manifest))
            assert len(closed) == ROUNDS
            assert report.tasks_valid == WORKERS * ROUNDS - len(dropped_tasks(closed))
            assert tuple(handle.prove().results) == finals_of(load_workload("lora"), manifest, closed)
            for batch in settled_batches(client, handle.job_id):
                for member in batch.record.tasks:
                    assert member.commitment.node == voter_of(WORKERS, voters, member.commitment.task)
                command = (
                    "verifier",
                    "dispute",
                    "replay",
                    str(batch.record.batch),
                    "--model-dir",
                    str(inputs / "model"),
                )
                assert main(["--config", str(network.settings), *command]) == 0
        assert network.books().conserved


def decided(network: DevNetwork, number: int, *, but: str = "") -> bool:
    """Whether all nodes but one say that a round is."""
    logs = [network.log_of(member.name).read_text() for member in network.nodes if member.name != but]
    return all(f"round {number} took" in log for log in logs)


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.2)
