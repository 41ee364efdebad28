"""A network with several kinds of cheats at once, judged by the network alone."""

from collections.abc import Iterator

import pytest

from proofyard.devnet.network import DevNetwork, Plan
from proofyard.protocol.messages import LogLine
from proofyard.protocol.settlement import FaultReason
from proofyard.sdk import Client, LoraJob, credits, settled_batches
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model

pytestmark = pytest.mark.timeout(700)

HONEST = 4


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNetwork]:
    folder = tmp_path_factory.mktemp("zoo")
    write_tiny_model(folder / "model", 1)
    write_tiny_corpus(folder / "text.jsonl")
    cheats = ("late", "false-accuser", "colluding-pair")
    plan = Plan(nodes=HONEST, adversaries=cheats, model_dirs=(folder / "model",), lease_s=6.0, decoys_bps=0)
    with DevNetwork(folder / "devnet", plan) as running:
        yield running


def test_liars_lose_their_stake_the_late_their_task_and_the_honest_nothing(network: DevNetwork) -> None:
    folder = network.directory.parent
    sizes = {"rank": 2, "rounds": 1, "segments": 2, "segment_steps": 2, "batch": 2, "seq_len": 16}
    job = LoraJob(model=folder / "model", data=folder / "text.jsonl", workers=4, **sizes)  # type: ignore[arg-type]
    lines: list[LogLine] = []
    with Client(network.rpc_url, network.deployment.registry, network.requester.key) as client:
        handle = client.submit(job, reward=credits(50), audit_fee=credits(20))
        report = handle.wait(300, on_event=lines.append)
        batches = settled_batches(client, handle.job_id)
    assert report.tasks_valid == report.tasks

    kinds = {node.key.address: node.adversary for node in network.nodes}
    committed = {line.node for line in lines if line.kind == "committed"}
    slashed = {member.key.address for member, _ in network.slashes([batch.event.batch for batch in batches])}
    outvoted = {
        fault.node for batch in batches for fault in batch.record.faults if fault.kind == FaultReason.FALSE_AUDIT
    }
    colluding = {node for node, kind in kinds.items() if kind == "colluding-pair"}
    assert slashed == outvoted | (colluding & committed)
    assert not {node for node in slashed if kinds[node] in (None, "late")}
    assert colluding & committed, "work is offered to the cheats first"
    for batch in batches:
        faulty = {fault.node for fault in batch.record.faults}
        assert not faulty & {payout.node for payout in batch.record.payouts}
    assert any(line.kind == "lost" and kinds[line.node] == "late" for line in lines if line.node)
    assert not [line for line in lines if line.kind == "fault" and kinds[line.node] is None]  # type: ignore[index]
    assert network.books().conserved
