"""The main job over a real chain, real QUIC and real training, with a small random model."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from proofyard.devnet.network import DevNetwork
from proofyard.protocol.messages import LogLine
from proofyard.protocol.types import Wei
from proofyard.sdk import Client, LoraJob, claim_all, credits, settled_batches, submit_job, unclaimed

pytestmark = pytest.mark.timeout(240)


def test_a_cheat_is_caught_the_honest_are_paid_and_nothing_is_lost(
    network: DevNetwork, client: Client, job: LoraJob, tmp_path: Path
) -> None:
    cheat = next(node for node in network.nodes if node.adversary)
    handle = submit_job(job, reward=credits(100), audit_fee=credits(10), client=client)
    events: list[LogLine] = []
    report = handle.wait(120, on_event=events.append)

    kinds = [event.kind for event in events]
    assert [event.node for event in events if event.kind == "fault"] == [cheat.key.address]
    assert kinds.count("valid") == report.tasks_valid == report.tasks == 10
    adapter = handle.result(tmp_path / "adapter")
    assert {path.name for path in adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}

    batches = settled_batches(client, handle.job_id)
    dues = unclaimed(client, batches)
    assert {due.node for due in dues} == {node.key.address for node in network.nodes if node is not cheat}
    before = network.holdings()
    network.anvil.warp(network.plan.params.challenge_window)
    paid = claim_all(client, dues)
    assert unclaimed(client, batches) == []
    handle.close()
    after = network.holdings()
    assert network.books().conserved
    assert after[cheat.name].stake == 0
    for node in network.nodes:
        assert (after[node.name].tokens > before[node.name].tokens) == (node is not cheat)
    assert credits(100) <= paid <= credits(110)

    check_status_api(network, handle.job_id, cheat.key.address)

    again = submit_job(job, reward=credits(100), audit_fee=credits(10), client=client)
    assert again.wait(120).result == report.result, "the same seed must give the same adapter"


def check_status_api(network: DevNetwork, job: int, cheat: str) -> None:
    """What a dashboard sees over HTTP."""
    with httpx.Client(base_url=network.api_url("verifier-1")) as api:
        assert api.get("/health").json()["nodes"] == 5
        assert {node["address"] for node in api.get("/nodes").json()} == {node.key.address for node in network.nodes}
        assert [row["state"] for row in api.get("/jobs").json()] == ["done"]
        shown = api.get(f"/jobs/{job}").json()
        assert {task["state"] for task in shown["task_states"]} == {"valid"}
        assert cheat not in {task["node"] for task in shown["task_states"]}
        audits = api.get(f"/jobs/{job}/audits").json()
        assert any(audit["match"] is False and audit["distance"] > 0.1 for audit in audits)
        assert api.get("/jobs/99").status_code == 404


def test_a_node_that_is_killed_in_the_middle_of_a_task_does_not_stop_the_job(
    network: DevNetwork, client: Client, job: LoraJob
) -> None:
    names = network.names()
    lost: list[str] = []

    def kill_first(event: LogLine) -> None:
        if event.kind == "progress" and not lost and event.node:
            lost.append(names[event.node])
            network.kill(lost[0])

    slow = replace(job, rounds=1, workers=3, segment_steps=200, batch=16, seq_len=64, seed=9)
    handle = submit_job(slow, reward=credits(30), audit_fee=credits(3), client=client)
    report = handle.wait(200, on_event=kill_first)
    assert lost
    assert report.tasks_valid == report.tasks
    assert any(line.kind == "lost" for line in handle.status().log)
    network.restart(lost[0])
    assert network.books().conserved
    assert client.chain.job(handle.job_id).escrow < Wei(33 * 10**18)
