"""A node is stopped in the middle of a task, as for an update, and started again: the task goes on from its journal."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proofyard.devnet.network import DevNetwork, Plan
from proofyard.node.control import read_status
from proofyard.protocol.messages import LogLine
from proofyard.sdk import Client, LoraJob, credits, submit_job

LEASE_S = 120.0
"""However long the machine takes to start a process again."""


@pytest.fixture(scope="module")
def patient_network(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNetwork]:
    plan = Plan(nodes=4, model_dirs=(inputs / "model",), lease_s=LEASE_S, decoys_bps=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROOFYARD_NODE_STOP_S", "60")  # a devnet's nodes have none, so that it ends soon
        with DevNetwork(tmp_path_factory.mktemp("updating") / "devnet", plan) as running:
            yield running


def test_an_update_loses_no_task(patient_network: DevNetwork, job: LoraJob) -> None:
    network, names = patient_network, patient_network.names()
    stopped: list[tuple[str, int]] = []
    lines: list[LogLine] = []

    def stop_first(event: LogLine) -> None:
        lines.append(event)
        if event.kind == "progress" and event.node and event.task is not None and not stopped:
            stopped.append((names[event.node], event.task))
            name = stopped[0][0]
            os.kill(network.pid_of(name), signal.SIGTERM)
            network.ended(name)
            network.restart(name)

    slow = replace(job, rounds=1, workers=2, segments=4, segment_steps=60, batch=16, seq_len=64)
    with Client(network.rpc_url, network.deployment.registry, network.requester.key) as client:
        report = submit_job(slow, reward=credits(30), audit_fee=credits(3), client=client).wait(
            200, on_event=stop_first
        )
    assert report.tasks_valid == report.tasks
    ((name, task),) = stopped
    log = network.log_of(name).read_text()
    assert f"job 1 task {task}" in log and "has ended; it goes on from there" in log
    given = [line for line in lines if line.kind == "assigned" and line.task == task]
    assert [names[line.node] for line in given if line.node] == [name], "it was given out once, and kept"
    status = read_status(network.directory / name / "data")
    assert status is not None and status.running
