"""A job whose tasks hand over small deltas, on real processes with a cheat among them: checked, redone, replayed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proofyard.cli import main
from proofyard.devnet.network import DevNetwork
from proofyard.protocol.types import Cid
from proofyard.sdk import Client, LoraJob, credits, settled_batches, submit_job
from proofyard.workloads.workload import load_workload

pytestmark = pytest.mark.timeout(800)
DEADLINE_S = 500.0


def test_what_is_left_out_is_carried_from_node_to_node_and_a_cheat_changes_nothing(
    network: DevNetwork, client: Client, job: LoraJob, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = main(["--config", str(network.settings), *args, "--json"])
        return code, json.loads(capsys.readouterr().out)

    small = replace(job, rounds=2, workers=2, compression="topk-2bit", options={"compression_block": 64})
    handle = submit_job(small, reward=credits(40), audit_fee=credits(30), client=client)
    handle.wait(DEADLINE_S)
    adapter = handle.result(tmp_path / "adapter")
    assert (adapter / "adapter_model.safetensors").is_file()

    batches = settled_batches(client, handle.job_id)
    cheat = next(node for node in network.nodes if node.adversary)
    faults = [fault for batch in batches for fault in batch.record.faults]
    assert {fault.node for fault in faults} <= {cheat.key.address}
    manifest = small.manifest(Cid("model"), Cid("data"))
    assert {len(task.deps) for task in load_workload("lora").graph(manifest)} == {0, 2}

    later = 0
    for batch in batches:
        code, found = run(
            "verifier", "dispute", "replay", str(batch.record.batch), "--all", "--model-dir", str(inputs / "model")
        )
        wrong = {int(row["task"]) for row in found["executed"] if row["holds"] is False}
        accused = {task.commitment.task for task in batch.record.tasks if task.commitment.node == cheat.key.address}
        assert wrong <= accused, found
        later += sum(int(row["task"]) >= 2 and int(row["segment"]) == 0 for row in found["executed"])
        assert code == 0 or wrong
    assert later, "first states that rest on what was left out were made again"
