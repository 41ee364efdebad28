"""A job whose rounds start while the deltas of the one before travel, on real processes with a cheat among them."""

from dataclasses import replace
from pathlib import Path

import pytest

from proofyard.devnet.network import DevNetwork
from proofyard.protocol.types import TaskIndex
from proofyard.sdk import Client, LoraJob, credits, settled_batches, submit_job
from proofyard.sdk.ancestry import lineage
from proofyard.workloads.workload import Inputs, Resources, load_workload

pytestmark = pytest.mark.timeout(800)
DEADLINE_S = 500.0
WORKLOAD = load_workload("lora")


def test_the_result_is_what_one_machine_makes_of_the_same_rounds(
    network: DevNetwork, client: Client, job: LoraJob, tmp_path: Path
) -> None:
    ahead = replace(job, rounds=4, workers=2, overlap=True, look_ahead=3)
    handle = submit_job(ahead, reward=credits(40), audit_fee=credits(30), client=client)
    handle.wait(DEADLINE_S)
    adapter = handle.result(tmp_path / "adapter")

    cheat = next(node for node in network.nodes if node.adversary)
    faults = [fault for batch in settled_batches(client, handle.job_id) for fault in batch.record.faults]
    assert {fault.node for fault in faults} <= {cheat.key.address}
    assert [each.start.round for each in lineage(client, handle.job_id)] == [0, 0, 1, 2]

    rounds = client.rounds(handle.job_id)
    results: dict[TaskIndex, bytes] = {}
    assert isinstance(ahead.data, Path)
    for task in WORKLOAD.graph(rounds.manifest):
        given = Inputs(Path(ahead.model), ahead.data, tuple(results[each] for each in task.deps))
        states = [WORKLOAD.initial_state(rounds.manifest, task, given)]
        runner = WORKLOAD.runner(rounds.manifest, task, given, Resources())
        for index in range(task.segments):
            states.append(runner.run(index, states[-1], lambda _: None))
        results[task.index] = WORKLOAD.result(rounds.manifest, task, states.__getitem__)
    mine = WORKLOAD.package(rounds.manifest, results.__getitem__, tmp_path / "mine")
    file = "adapter_model.safetensors"
    assert (adapter / file).read_bytes() == (mine / file).read_bytes()
