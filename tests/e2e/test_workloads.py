"""Every workload from `submit_job` to a result that people can use, over one network of real processes."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from proofyard.chain import Wallet
from proofyard.cli import main
from proofyard.devnet.network import DevNetwork, Plan
from proofyard.protocol.messages import JobReport
from proofyard.protocol.types import ExitCode
from proofyard.sdk import (
    Client,
    EvaluateJob,
    JobFailed,
    JobHandle,
    JobRefused,
    LoraJob,
    MapJob,
    NotFinished,
    Offer,
    SweepJob,
    credits,
    deliver,
    lineage,
    race,
    ranking,
)
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model

pytestmark = pytest.mark.timeout(700)

PAY = {"reward": credits(10), "audit_fee": credits(2)}
PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("inputs") / "model", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_corpus(tmp_path_factory.mktemp("inputs") / "text.jsonl", labels=2, documents=10)


@pytest.fixture(scope="module")
def network(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNetwork]:
    """Four nodes are enough for a worker and the three auditors that could convict it."""
    plan = Plan(nodes=4, model_dirs=(model,), decoys_bps=0)
    with DevNetwork(tmp_path_factory.mktemp("network") / "devnet", plan) as running:
        yield running
        assert not running.exit_codes(), "a process ended by itself"


@pytest.fixture(scope="module")
def client(network: DevNetwork) -> Iterator[Client]:
    with Client(network.rpc_url, network.deployment.registry, network.requester.key) as client:
        yield client


def finished(handle: JobHandle) -> JobReport:
    report = handle.wait(PATIENCE_S)
    assert (report.state, report.tasks_valid) == ("done", report.tasks)
    assert not [line for line in report.log if line.kind == "fault"]
    return report


def test_evaluate_scores_a_model(client: Client, model: Path, data: Path, tmp_path: Path) -> None:
    handle = client.submit(EvaluateJob(model=model, data=data, segment_rows=5, segments=2, max_tokens=32), **PAY)
    finished(handle)
    folder = handle.result(tmp_path / "out")
    summary = json.loads((folder / "evaluation.json").read_text())
    assert summary["rows"] == 20
    assert summary["perplexity"] == pytest.approx(math.exp(summary["loss"]))
    assert len((folder / "rows.jsonl").read_text().splitlines()) == 20


def test_a_chat_fine_tune_is_scored_before_and_after_and_passed_on(client: Client, model: Path, tmp_path: Path) -> None:
    said = [
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": "ha " * 6}]}
        for n in range(24)
    ]
    chat = {"model": model, "data": said, "chat_template": "chatml"}
    train = LoraJob(
        **chat,
        workers=1,
        rounds=1,
        segments=2,
        segment_steps=4,
        batch=4,
        seq_len=128,
        lr=0.03,
        rank=4,  # type: ignore[arg-type]
    )
    trained = client.submit(train, **PAY)
    finished(trained)
    losses = []
    for adapter in (None, trained.job_id):
        score = client.submit(
            EvaluateJob(**chat, segment_rows=8, segments=3, max_tokens=128, adapter=adapter),  # type: ignore[arg-type]
            **PAY,
        )
        finished(score)
        folder = score.result(tmp_path / str(score.job_id))
        losses.append(json.loads((folder / "evaluation.json").read_text())["loss"])
    assert losses[1] < 0.8 * losses[0]
    merged = deliver(trained, tmp_path / "merged", merge=True, evaluated=[score.job_id], card=True)
    assert f"{losses[1]:.4f}" in (merged / "README.md").read_text()
    assert (merged / "model.safetensors").stat().st_size == (model / "model.safetensors").stat().st_size
    again = deliver(trained, tmp_path / "again", merge=True)
    assert (again / "model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()
    other = write_tiny_model(tmp_path / "other", 2)
    with pytest.raises(JobRefused, match="and the job trained on bafy"):
        deliver(trained, tmp_path / "none", merge=True, model=other)
    with pytest.raises(JobRefused, match="only adapters are merged"):
        deliver(score, tmp_path / "none", merge=True)


def test_adapters_race_and_anybody_finds_the_same_ranking(
    client: Client, network: DevNetwork, model: Path, data: Path
) -> None:
    shape = {"workers": 1, "rounds": 1, "segments": 2, "segment_steps": 2, "batch": 2, "seq_len": 32, "rank": 4}
    entrants = [
        client.submit(LoraJob(model=model, data=data, lr=lr, **shape), **PAY)  # type: ignore[arg-type]
        for lr in (1e-6, 0.03)
    ]
    for handle in entrants:
        finished(handle)
    weak, strong = (handle.job_id for handle in entrants)
    spec = EvaluateJob(model=model, data=data, segment_rows=10, segments=2, max_tokens=32)
    offer = Offer(reward=PAY["reward"], audit_fee=PAY["audit_fee"])
    judged = race(client, (weak, strong), spec, offer)
    assert [handle.found for handle in race(client, (weak, strong), spec, offer)] == [True] * 3, "paid once"
    with pytest.raises(NotFinished):
        ranking(client, (weak, strong), [handle.job_id for handle in judged])
    for handle in judged:
        finished(handle)
    numbers = [handle.job_id for handle in judged]
    found = ranking(client, (weak, strong), numbers)
    assert found.places[0].job == strong
    assert {place.job for place in found.places} == {None, weak, strong}
    assert [place.seen for place in found.places if place.job] == [True, True]
    with Client(network.rpc_url, network.deployment.registry, Wallet.generate()) as stranger:
        assert ranking(stranger, (strong, weak), numbers[::-1]) == found
    with pytest.raises(JobRefused, match=f"none is of the adapter of job {strong}"):
        ranking(client, (strong,), numbers[:2])
    with pytest.raises(JobRefused, match="evaluated an adapter of none of these jobs"):
        ranking(client, (weak,), numbers)
    with pytest.raises(JobRefused, match=r"job \d+: is one of evaluate"):
        race(client, (numbers[0],), spec, offer)


def test_map_cleans_a_text_set(client: Client, data: Path, tmp_path: Path) -> None:
    handle = client.submit(MapJob(data=data, segment_rows=5, segments=2), **PAY)
    finished(handle)
    folder = handle.result(tmp_path / "out")
    lines = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    assert {line["shard"] for line in lines} == {"label-0", "label-1"}
    assert len({line["text"] for line in lines}) == len(lines)


def test_sweep_ranks_its_candidates(client: Client, model: Path, data: Path, tmp_path: Path) -> None:
    base = {"rank": 2, "segments": 1, "segment_steps": 2, "batch": 2, "seq_len": 16}
    job = SweepJob(model=model, data=data, vary={"lr": [0.001, 0.03]}, base=base, sequences=2)
    handle = client.submit(job, **PAY)
    finished(handle)
    folder = handle.result(tmp_path / "out")
    ranking = json.loads((folder / "ranking.json").read_text())
    losses = [row["loss"] for row in ranking]
    assert losses == sorted(losses) and len(losses) == 2
    assert (folder / "best" / "adapter_model.safetensors").is_file()


def test_embed_from_the_command_line(
    network: DevNetwork, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(network.settings)]
    inputs = ["--model", str(model), "--data", str(data), "--reward", "10", "--audit-fee", "2"]
    sizes = ["--segments", "2", "--set", "segment_rows=5", "--set", "max_tokens=32", "--set", "pooling=mean"]
    assert main([*config, "job", "submit", "--workload", "embed", *inputs, *sizes, "--wait", "--json"]) == 0
    number = json.loads(capsys.readouterr().out)["job"]
    assert main([*config, "job", "result", number, str(tmp_path / "out")]) == 0
    vectors = load_file(tmp_path / "out" / "embeddings.safetensors")["embedding"]
    assert vectors.shape == (20, 64)


def test_lora_on_a_quantised_model_is_resumed_and_says_where_it_comes_from(
    client: Client,
    network: DevNetwork,
    model: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes: dict[str, Any] = {
        "rank": 2,
        "rounds": 2,
        "workers": 2,
        "segments": 1,
        "segment_steps": 2,
        "batch": 2,
        "seq_len": 16,
    }
    handle = client.submit(LoraJob(model=model, data=data, precision="exact4", **sizes), **PAY)
    finished(handle)
    whole = deliver(handle, tmp_path / "out", lineage=True, card=True)
    assert "| 2 | 2 |" in (whole / "README.md").read_text()
    config = ["--config", str(network.settings)]
    verify = [*config, "job", "verify", str(whole)]
    assert main(verify) == 0
    document = (whole / "lineage.json").read_bytes()
    (whole / "lineage.json").write_bytes(document.replace(b'"share": "1/2"', b'"share": "1/3"', 1))
    assert main(verify) == ExitCode.PROOF_MISMATCH
    assert "deltas[0].share is 1/3, and not 1/2" in capsys.readouterr().err
    resume = ["job", "resume", str(handle.job_id), "--round", "1", "--reward", "10", "--audit-fee", "2", "--wait"]
    assert main([*config, *resume, "--json"]) == 0
    rest = client.job(int(json.loads(capsys.readouterr().out)["job"]))
    ends = [(folder / "adapter_model.safetensors").read_bytes() for folder in (whole, rest.result(tmp_path / "rest"))]
    assert ends[0] == ends[1]
    assert (handle.round_result(1, tmp_path / "first") / "adapter_model.safetensors").read_bytes() != ends[0]
    (last,) = lineage(client, rest.job_id)
    assert (last.start.job, last.start.round, last.round) == (str(handle.job_id), 1, 2)
    assert main([*config, "job", "lineage", str(rest.job_id), str(tmp_path / "lineage"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["document"]["round"] == 2
    assert main([*config, "job", "verify", str(tmp_path / "lineage" / "round-2.json")]) == 0


def test_a_job_that_no_node_can_execute_fails_with_the_reason(
    client: Client, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only who reads the weights sees that one is no number: a requester with torch, and every node."""
    spoilt = shutil.copytree(model, tmp_path / "model")
    tensors = load_file(spoilt / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = math.nan
    save_file(tensors, spoilt / "model.safetensors", {"format": "pt"})
    job = LoraJob(model=spoilt, data=data, rounds=1, workers=2, seq_len=16, batch=1, segments=1)
    with pytest.raises(JobRefused, match=r"^model: .*numbers in .*up_proj.* that are not finite"):
        client.submit(job, **PAY)
    monkeypatch.setattr("proofyard.sdk.preparing.try_model", lambda *_: None)
    handle = client.submit(job, **PAY)
    with pytest.raises(JobFailed, match=r"numbers in .*up_proj.* that are not finite"):
        handle.wait(PATIENCE_S)
    free_from = handle.close()
    job = client.chain.job(handle.job_id)
    assert job.closed
    assert free_from == job.closed_at + client.chain.params().receipt_time + 1, "a receipt may still be honoured"
