"""Data that stays at home, on real processes: learned by who has it, audited by who was given it, replayed with it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proofyard.cli import main
from proofyard.devnet.members import Member
from proofyard.devnet.network import DevNetwork
from proofyard.sdk import Client, JobHandle, JobRefused, LoraJob, credits, settled_batches, submit_job
from proofyard.workloads.tiny import write_tiny_corpus

pytestmark = pytest.mark.timeout(800)
DEADLINE_S = 500.0


def test_data_that_stays_at_home_is_learned_audited_and_replayed_by_those_who_have_it(
    network: DevNetwork, client: Client, job: LoraJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(settings: Path, *args: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = main(["--config", str(settings), *args, "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else printed.err

    def give(member: Member, name: str, file: Path) -> str:
        settings = network.directory / member.name / "proofyard.toml"
        code, added = run(settings, "node", "data", "add", name, str(file))
        assert code == 0, added
        return str(added["digest"])

    honest = [node for node in network.nodes if not node.adversary]
    ward, alone = (write_tiny_corpus(tmp_path / f"{seed}.jsonl", seed=seed) for seed in (1, 2))
    (digest,) = {give(node, "ward", ward) for node in honest}
    other = give(honest[0], "alone", alone)
    owners = [node.owner.address for node in honest]

    def submit(name: str, **local: Any) -> JobHandle:
        one = replace(job, data=f"local:{name}", rounds=1, workers=1, segments=2, local=local)
        return submit_job(one, reward=credits(10), audit_fee=credits(10), client=client)

    with pytest.raises(JobRefused, match="of the 2 auditors that it names, 2 have a node"):
        submit("ward", digests=[digest], auditors=owners[:2])
    audited = submit("ward", digests=[digest], auditors=owners)
    unaudited = submit("alone", digests=[other], unaudited=True)
    for handle in (audited, unaudited):
        handle.wait(DEADLINE_S)
        assert (handle.result(tmp_path / f"adapter-{handle.job_id}") / "adapter_model.safetensors").is_file()

    keys = {node.key.address for node in honest}
    seen = 0
    for batch in settled_batches(client, audited.job_id):
        for task in batch.record.tasks:
            if task.commitment.job == audited.job_id:
                assert task.commitment.node in keys
        votes = [vote for audit in batch.record.audits if audit.job == audited.job_id for vote in audit.votes]
        assert {vote.auditor for vote in votes} <= keys
        assert not batch.record.faults
        seen += len(votes)
        number = str(batch.record.batch)
        model = ("--model-dir", str(job.model))
        replay = ("verifier", "dispute", "replay", number, "--all", *model)
        code, said = run(network.settings, *replay)
        assert code != 0
        assert "--data FILE" in said
        code, found = run(network.settings, *replay, "--data", str(ward), "--data", str(alone))
        assert code == 0, found
        assert all(row["holds"] for row in found["executed"])
    assert seen >= 2
    for batch in settled_batches(client, unaudited.job_id):
        done = [task.commitment.node for task in batch.record.tasks if task.commitment.job == unaudited.job_id]
        assert set(done) <= {honest[0].key.address}
        assert not [audit for audit in batch.record.audits if audit.job == unaudited.job_id]
