"""Rounds of small deltas that do not wait for everybody, on real processes: one shard is far too slow, and a node dies
in the middle."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proofyard.chain import ChainClient, Wallet
from proofyard.cli import main
from proofyard.devnet.network import DevNetwork, Plan
from proofyard.disputes.committed import closed_of
from proofyard.protocol.closing import dropped_tasks
from proofyard.protocol.messages import LogLine
from proofyard.protocol.types import Cid, Wei
from proofyard.sdk import Client, LoraJob, credits, settled_batches, submit_job
from proofyard.workloads.workload import finals_of, load_workload, task_graph

pytestmark = pytest.mark.timeout(800)
DEADLINE_S = 500.0
CLOSING = {"quorum": 1, "timeout_s": 8, "late_rounds": 1, "discount_bps": 5000}
SHARDS = [300, 1, 1]
"""Segments: nobody here ends the first one's tasks in time. Of so many one faked is found by one that is drawn only
where the reward is small beside a stake."""
REWARD, AUDIT_FEE = Wei(credits(1) // 2), credits(10)


def test_a_job_ends_without_its_slow_shard_and_strangers_find_the_same_adapter(
    inputs: Path, job: LoraJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(nodes=5, model_dirs=(inputs / "model",), lease_s=5.0, batch_s=3.0)
    with DevNetwork(tmp_path / "devnet", plan) as network:
        names, killed = network.names(), []

        given: list[int | None] = []

        def kill_one(event: LogLine) -> None:
            """Whoever is at work on the slow shard first: another node gets its task."""
            if event.kind == "assigned":
                given.append(event.task)
            if event.kind == "assigned" and event.node and event.task == 0 and not killed:
                killed.append(names[event.node])
                network.kill(killed[0])

        shape = {"workers": 3, "rounds": 2, "segments": max(SHARDS), "segment_steps": 40, "batch": 8, "seq_len": 32}
        rules = {"compression": "sign", "closing": CLOSING, "options": {"shard_segments": SHARDS}}
        lasting = replace(job, **shape, **rules)  # type: ignore[arg-type]
        with Client(network.rpc_url, network.deployment.registry, network.requester.key) as client:
            handle = submit_job(lasting, reward=REWARD, audit_fee=AUDIT_FEE, client=client)
            report = handle.wait(DEADLINE_S, on_event=kill_one)
            assert given.count(0) > 1, "another node worked on the slow shard"
            assert killed, "a node died in the middle of its task"
            first = handle.result(tmp_path / "adapter")
            assert (first / "adapter_model.safetensors").is_file()

            # A stranger: its own chain client, store and files, and nobody's word.
            manifest = lasting.manifest(Cid("model"), Cid("data"))
            reader = client.chain
            stranger = ChainClient(network.rpc_url, network.deployment.registry)

            async def read(cid: Cid, max_bytes: int) -> bytes:
                return client.read(cid, max_bytes)

            closed = asyncio.run(closed_of(stranger, read, handle.job_id, manifest))
            workload, proven = load_workload("lora"), handle.prove()
            assert len(closed) == 2
            assert {0, 3} <= dropped_tasks(closed)
            assert tuple(proven.results) == finals_of(workload, manifest, closed)
            graph = task_graph(workload, manifest, closed)
            assert graph[3].deps == tuple(entry.task for entry in closed[0].taken)
            paid = reader.job(handle.job_id)
            units = {spec.index: spec.work_units for spec in graph}
            assert paid.units_paid <= paid.units - units[0] - units[3]
            for batch in settled_batches(client, handle.job_id):
                code, found = replay(network, batch.record.batch, inputs, capsys)
                assert code == 0, found
                assert all(row["holds"] for row in found["executed"])
            handle.close()
            left = reader.job(handle.job_id)
            dropped = (units[0] + units[3]) / left.units
            assert left.closed and left.escrow + left.surplus > (REWARD + AUDIT_FEE) * dropped, "it comes back"
        nobody = Wallet.from_key(bytes([9]) * 32)
        with Client(network.rpc_url, network.deployment.registry, nobody) as other:
            again = other.job(handle.job_id).result(tmp_path / "again")
            weights = [(each / "adapter_model.safetensors").read_bytes() for each in (first, again)]
            assert weights[0] == weights[1]
        assert (report.state, report.tasks, report.tasks_valid) == ("done", 6, 4)
        assert network.books().conserved


def replay(network: DevNetwork, batch: int, inputs: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    capsys.readouterr()
    command = ("verifier", "dispute", "replay", str(batch), "--all", "--model-dir", str(inputs / "model"), "--json")
    code = main(["--config", str(network.settings), *command])
    return code, json.loads(capsys.readouterr().out)
