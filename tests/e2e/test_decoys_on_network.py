"""A network where every task is preceded by a decoy, and one auditor seals what workers hand it."""

from collections.abc import Iterator

import pytest

from proofyard.devnet.network import DevNetwork, Plan
from proofyard.protocol.settlement import FaultReason
from proofyard.sdk import Client, LoraJob, credits, settled_batches
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model

pytestmark = pytest.mark.timeout(700)

HONEST = 5


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNetwork]:
    folder = tmp_path_factory.mktemp("decoys")
    write_tiny_model(folder / "model", 1)
    write_tiny_corpus(folder / "text.jsonl")
    cheats = ("copying-auditor",)
    plan = Plan(nodes=HONEST, adversaries=cheats, model_dirs=(folder / "model",), lease_s=6.0, decoys_bps=10_000)
    with DevNetwork(folder / "devnet", plan) as running:
        yield running


def test_who_seals_what_it_is_handed_loses_its_stake_and_nobody_else(network: DevNetwork) -> None:
    folder = network.directory.parent
    sizes = {"rank": 2, "rounds": 2, "segments": 2, "segment_steps": 2, "batch": 2, "seq_len": 16}
    job = LoraJob(model=folder / "model", data=folder / "text.jsonl", workers=4, **sizes)  # type: ignore[arg-type]
    with Client(network.rpc_url, network.deployment.registry, network.requester.key) as client:
        handle = client.submit(job, reward=credits(50), audit_fee=credits(20))
        report = handle.wait(400)
        batches = settled_batches(client, handle.job_id)
    assert report.tasks_valid == report.tasks, "decoys delay a job and change nothing of it"

    copier = next(node.key.address for node in network.nodes if node.adversary)
    decoys = {(batch.event.batch, key) for batch in batches for key in batch.record.decoys}
    assert len({key for _, key in decoys}) == report.tasks, "every task had one"
    faults = [(batch, fault) for batch in batches for fault in batch.record.faults]
    assert {(fault.node, fault.kind) for _, fault in faults} == {(copier, FaultReason.FALSE_AUDIT)}
    assert all((batch.event.batch, (fault.job, fault.task)) in decoys for batch, fault in faults)
    slashed = {member.key.address for member, _ in network.slashes([batch.event.batch for batch in batches])}
    assert slashed == {copier}
    worth = {batch.event.batch: sum(int(paid.work) for paid in batch.record.payouts) for batch in batches}
    only_decoys = [b for b in batches if len(b.record.decoys) == len(b.record.tasks)]
    assert only_decoys and not any(worth[batch.event.batch] for batch in only_decoys), "no decoy is paid"
    assert network.books().conserved
