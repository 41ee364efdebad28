"""The main job over a real chain, real QUIC and real training, with a small random model."""

import json
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest

from proofyard.chain.export import deployment_of
from proofyard.cli import main
from proofyard.cli.claim import proofs_of
from proofyard.devnet.network import DevNetwork
from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.members import Member
from proofyard.protocol.messages import LogLine
from proofyard.protocol.record import BatchRecord, RecordedRedress
from proofyard.protocol.settlement import FaultReason, OperatorId
from proofyard.protocol.types import Address, BatchId, Cid, JobId
from proofyard.protocol.validate import RecordInvalid
from proofyard.sdk import (
    Client,
    Due,
    JobHandle,
    LoraJob,
    ResultUnproven,
    SettledBatch,
    claim_all,
    credits,
    settled_batches,
    submit_job,
    unclaimed,
)

pytestmark = pytest.mark.timeout(700)


def test_a_cheat_is_caught_the_honest_are_paid_and_nothing_is_lost(
    network: DevNetwork, client: Client, job: LoraJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cheat = next(node for node in network.nodes if node.adversary)
    job = replace(job, robust="trimmed-mean", options={"robust_hostile": 1}, caps={"owner": 2, "subnet": 2})
    handle = submit_job(job, reward=credits(40), audit_fee=credits(10), client=client)
    events: list[LogLine] = []
    report = handle.wait(250, on_event=events.append)
    assert report.result is not None

    kinds = [event.kind for event in events]
    faults = [event for event in events if event.kind == "fault"]
    assert {event.node for event in faults} == {cheat.key.address}
    assert kinds.count("valid") == report.tasks_valid == report.tasks == 8
    adapter = handle.result(tmp_path / "adapter")
    files = {"adapter_config.json", "adapter_model.safetensors", "proofyard.json", "tokenizer.json"}
    assert {path.name for path in adapter.iterdir()} == files
    check_believes_nobody(client, handle, report.result, tmp_path)

    batches = settled_batches(client, handle.job_id)
    assert client.rounds(handle.job_id).too_much() == ()
    thrown_away = check_thrown_away(client, batches, cheat.key.address)
    dues = unclaimed(client, batches)
    assert {due.node for due in dues} >= {node.key.address for node in network.nodes if node is not cheat}
    guilty = next(batch.record for batch in batches if batch.record.faults)
    assert cheat.key.address not in {paid.node for paid in guilty.payouts}
    check_proofs(network, client, handle.job_id, dues, capsys)
    before = network.holdings()
    network.anvil.warp(network.plan.params.challenge_window)
    paid = claim_all(client, dues)
    assert unclaimed(client, batches) == []
    for batch in batches:
        if client.chain.batch(batch.event.batch).unfinal:
            client.chain.finalize(batch.event.batch)
    handle.close()
    after = network.holdings()
    assert network.books().conserved
    assert after[cheat.name].stake == 0
    fee = client.chain.job(handle.job_id).verifier_fee
    assert credits(2) < fee < credits("2.1"), "5% of the reward, and the gas"
    earned = after["verifier-1"].stake - network.plan.params.verifier_stake
    assert fee - len(batches) <= earned <= fee, "all of it, but for what is rounded down in each batch"
    for node in network.nodes:
        owed = sum(due.amount for due in dues if due.node == node.key.address)
        gained = after[node.name].tokens - before[node.name].tokens
        # A fault takes the cheat's pay of every window that was open; who audits a fault shares in what is slashed.
        assert gained <= owed if node is cheat else gained >= owed > 0, node.name
    paid -= thrown_away
    assert credits(40) < paid < credits(60), "the reward, whoever did the work, and the auditors their fee"

    check_status_api(network, handle.job_id, cheat.key.address, {event.task for event in faults})
    check_replay(network, client, job, batches, capsys)

    again = submit_job(job, reward=credits(40), audit_fee=credits(10), client=client)
    assert again.wait(250).result == report.result, "the same seed must give the same adapter"


def check_thrown_away(client: Client, batches: list[SettledBatch], cheat: Address) -> int:
    """What honest nodes did in the second round on what the cheat had done in the first is paid like work that counts,
    by the cheat's fault, though every task is audited; returns what all of it is."""
    redress = [paid for batch in batches for paid in batch.record.redress]
    stale = {key for batch in batches for key in batch.record.stale}
    audited = {audit.task_key for batch in batches for audit in batch.record.audits}
    assert {paid.task_key for paid in redress} <= stale & audited and redress
    assert {int(paid.amount) for paid in redress} == {credits(40) // 8}
    assert cheat not in {paid.node for paid in redress}
    assert {client.chain.slashes(paid.batch)[paid.fault].amount for paid in redress} == {credits(100)}
    return sum(int(paid.amount) for paid in redress)


def check_proofs(
    network: DevNetwork, client: Client, job: int, dues: list[Due], capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints the claims for others to send, and sends nothing; where to, is in the network's folder."""
    assert json.loads((network.contracts / "deployment.json").read_text()) == deployment_of(network.chain())
    capsys.readouterr()
    assert main(["--config", str(network.settings), "node", "claim", str(job), "--proofs"]) == 0
    assert json.loads(capsys.readouterr().out) == proofs_of(client.chain, dues)
    assert {due.claim.index for due in unclaimed(client, settled_batches(client, JobId(job)))} == {
        due.claim.index for due in dues
    }


def check_believes_nobody(client: Client, handle: JobHandle, result: Cid, folder: Path) -> None:
    """A verifier that reports something else than what was settled is refused, and nothing is written."""
    proven = handle.prove()
    assert len(proven.batches) >= 2
    with pytest.raises(ResultUnproven, match=f"the settled results give {result}"):
        client.run(lambda core: core.package(proven, raw_cid(b"invented"), folder / "invented"))
    assert not (folder / "invented").exists()


def check_status_api(network: DevNetwork, job: int, cheat: str, faulty: set[int | None]) -> None:
    """What a dashboard sees over HTTP."""
    with httpx.Client(base_url=network.api_url("verifier-1"), timeout=30) as api:
        honest = {node.key.address for node in network.nodes} - {cheat}
        assert {node["address"] for node in api.get("/v1/nodes").json()["items"]} | {cheat} == honest | {cheat}
        assert api.get("/health").json()["nodes"] in (len(honest), len(honest) + 1)
        assert api.get("/ready").status_code == 200
        assert [row["state"] for row in api.get("/v1/jobs").json()["items"]] == ["done"]
        assert set(api.get(f"/v1/jobs/{job}").json()["task_states"]) == {"accepted"}
        tasks = api.get(f"/v1/jobs/{job}/tasks").json()["items"]
        assert cheat not in {task["node"] for task in tasks if task["task"] in faulty}
        audits = api.get(f"/v1/jobs/{job}/audits").json()["items"]
        answers = [seat["answer"] for audit in audits for seat in audit["seats"] if seat["state"] == "opened"]
        assert {len(answer) for answer in answers} == {64}
        assert api.get("/v1/jobs/99").status_code == 404
        check_explained(api, job, cheat, min(task for task in faulty if task is not None))
        check_metrics(api.get("/metrics").text, len(tasks))
        with api.stream("GET", f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "1"}) as events:
            assert next(events.iter_lines()) == "id: 2"


def check_explained(api: httpx.Client, job: int, cheat: str, task: int) -> None:
    """Who had the faulty task, why it was audited, what the fault took, what was paid, each with its record."""
    found = api.get(f"/v1/jobs/{job}/tasks/{task}/explain").json()["because"]
    by_topic = {
        topic: [each for each in found if each["about"] == topic] for topic in {each["about"] for each in found}
    }
    assert {"given", "drawn", "audit", "slashed", "paid"} <= set(by_topic)
    assert all(each["shown"]["replay"] for topic in ("drawn", "audit", "slashed", "paid") for each in by_topic[topic])
    assert {each["node"] for each in by_topic["slashed"]} == {cheat}
    assert all(int(each["facts"]["slashed"]) > 0 for each in by_topic["slashed"])
    assert all(int(each["facts"]["chance_e18"]) == 10**18 for each in by_topic["drawn"]), "nobody has a record yet"


def check_metrics(text: str, tasks: int) -> None:
    """What happened was counted: audits, transactions and their gas, commits."""
    found = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[:1] != "#"}
    assert found['proofyard_verifier_audits_total{outcome="match"}'] >= tasks
    assert found['proofyard_verifier_audits_total{outcome="mismatch"}'] >= 1
    assert found['proofyard_verifier_gas_total{contract="registry",outcome="ok"}'] > 100_000
    assert found["proofyard_verifier_database_rows_total"] > tasks
    assert found["proofyard_verifier_wallet_ether"] > 0 < found["proofyard_verifier_owner_stake_credit"]


def check_replay(
    network: DevNetwork,
    client: Client,
    job: LoraJob,
    batches: list[SettledBatch],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Anyone recomputes the batch with the fault; a record in which anything was changed does not hold."""
    first = next(batch for batch in batches if batch.record.faults)
    network_flags = ["--rpc-url", network.rpc_url, "--registry", network.deployment.registry]
    command = ["verifier", "dispute", "replay", str(first.event.batch), *network_flags, "--model-dir", str(job.model)]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    faulty = {fault.task for fault in first.record.faults}
    assert {int(row["task"]) for row in found["executed"] if row["holds"] is not True} == faulty
    assert [check["field"] for check in found["checks"]][-2:] == ["payouts", "settlement"]
    assert all(check["holds"] for check in found["checks"])

    settled = client.settled(first.event.batch)
    settled.check_record()
    for name, bad in tampered(first.record).items():
        with pytest.raises(RecordInvalid):
            replace(settled, record=bad).check_record()
            pytest.fail(f"a record with other {name} was accepted")


def tampered(record: BatchRecord) -> dict[str, BatchRecord]:
    """Copies of a record in which one thing each was changed."""
    replace_in = msgspec.structs.replace
    audit = next(audit for audit in record.audits if audit.votes)
    rest = tuple(other for other in record.audits if other is not audit)
    vote, *others = audit.votes

    def with_vote(**changes: object) -> BatchRecord:
        return with_audit(votes=(replace_in(vote, **changes), *others))

    def with_audit(**changes: object) -> BatchRecord:
        return replace_in(record, audits=tuple(replace_in(a, **changes) if a is audit else a for a in record.audits))

    pay = replace_in(record.payouts[0], work=str(int(record.payouts[0].work) + 1))
    task, fault = record.tasks[0], record.faults[0]
    foreign = replace_in(task, signature=record.tasks[1].signature)
    return {
        "version": replace_in(record, version=2),
        "chain": replace_in(record, chain_id=record.chain_id + 1),
        "registry": replace_in(record, registry=vote.auditor),
        "batch": replace_in(record, batch=record.batch + 1),
        "attempt": replace_in(record, attempt=record.attempt + 1),
        "leader": replace_in(record, leader=record.leader + 1),
        "jobs": replace_in(record, jobs=()),
        "manifest": replace_in(record, jobs=(replace_in(record.jobs[0], manifest=raw_cid(b"another")),)),
        "tasks": replace_in(record, tasks=record.tasks[1:]),
        "signature": replace_in(record, tasks=(foreign, *record.tasks[1:])),
        "trace": replace_in(record, tasks=(replace_in(task, trace=task.trace[::-1]), *record.tasks[1:])),
        "counted batches": replace_in(record, counted=()),
        "uncounted batches": replace_in(record, uncounted=(record.batch,)),
        "batches that are over": replace_in(record, over=((record.batch, None),)),
        "repeated tasks": replace_in(record, repeated=(task.key,)),
        "audits": replace_in(record, audits=rest),
        "verdict": with_audit(verdict=Verdict.UNDECIDED),
        "absent auditors": with_audit(absent=(vote.auditor,)),
        "copies": with_audit(copied=(vote.auditor,)),
        "likeness": with_audit(alike=((vote.after, bytes(32)),)),
        "votes": with_audit(votes=tuple(others)),
        "auditor": with_vote(auditor=task.commitment.node),
        "seal": with_vote(seal=bytes(32)),
        "vote's signature": with_vote(signature=task.signature),
        "answer": with_vote(after=bytes(32)),
        "keyed digest": with_vote(keyed=bytes(32)),
        "reason": with_vote(reason="it rained"),
        "salt": with_vote(salt=bytes(32)),
        "faults": replace_in(record, faults=()),
        "accused": replace_in(record, faults=(replace_in(fault, node=vote.auditor), *record.faults[1:])),
        "fault's kind": replace_in(record, faults=(replace_in(fault, kind=FaultReason.DISAGREED), *record.faults[1:])),
        "stale tasks": replace_in(record, stale=(task.key,)),
        "what faults pay": replace_in(record, redress=(redress_to(task),)),
        "payouts": replace_in(record, payouts=(pay, *record.payouts[1:])),
        "fewer payouts": replace_in(record, payouts=record.payouts[1:]),
    }


def redress_to(task: Member) -> RecordedRedress:
    """What a fault of its own batch would pay, to anybody."""
    node = task.commitment.node
    return RecordedRedress(*task.key, OperatorId(1), node, node, BatchId(1), 0, 0, "1", "1")


def test_a_node_that_is_killed_in_the_middle_of_a_task_does_not_stop_the_job(
    network: DevNetwork, client: Client, job: LoraJob
) -> None:
    """Another node gets its task; it comes back in time to be the third auditor that the last task needs."""
    names = network.names()
    lost: list[str] = []
    told: list[str] = []

    def kill_first(event: LogLine) -> None:
        if event.kind == "progress" and not lost and event.node:
            lost.append(names[event.node])
            network.kill(lost[0])
        if event.kind == "assigned" and "lost" in told and "back" not in told:
            told.append("back")
            network.restart(lost[0])
        told.append(event.kind)

    slow = replace(job, rounds=1, workers=3, segment_steps=80, batch=16, seq_len=64, seed=9)
    handle = submit_job(slow, reward=credits(30), audit_fee=credits(3), client=client)
    report = handle.wait(250, on_event=kill_first)
    assert lost
    assert report.tasks_valid == report.tasks
    assert "back" in told
    assert network.books().conserved
    assert client.chain.job(handle.job_id).escrow < credits(33)


def test_a_verifier_that_is_killed_comes_back_and_finishes_the_job(
    network: DevNetwork, client: Client, job: LoraJob
) -> None:
    points = ["committed", "drawn", "settled"]

    def kill_at_points(event: LogLine) -> None:
        if points and event.kind == points[0]:
            points.pop(0)
            network.kill("verifier-1")
            network.restart("verifier-1")

    handle = submit_job(replace(job, rounds=1), reward=credits(30), audit_fee=credits(3), client=client)
    report = handle.wait(250, on_event=kill_at_points)
    assert points == []
    assert report.tasks_valid == report.tasks == 4
    assert report.batches_settled == len(client.chain.settled(handle.job_id)) >= 1
    assert network.books().conserved
