"""Two verifiers, and the one that has the job is away: what the other one knows of it is no answer, and what is settled
is to be had all the same."""

import json
import time
from pathlib import Path

import pytest
from tenacity import stop_after_delay

from proofyard.cli import main
from proofyard.devnet.members import Member
from proofyard.devnet.network import DevNetwork, Plan
from proofyard.protocol.types import ExitCode
from proofyard.sdk import Client, MapJob, credits, peers, submit_job

LINES = [{"text": f"line {number} of a text", "shard": "a"} for number in range(16)]


@pytest.mark.timeout(280)
def test_a_job_whose_verifier_is_away_is_neither_failed_nor_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "stop_after_delay", lambda _: stop_after_delay(1.0))
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, LINES)))
    plan = Plan(nodes=4, verifiers=2, decoys_bps=0)
    with DevNetwork(tmp_path / "net", plan) as network:
        settings = ["--config", str(network.settings)]

        def type_in(*command: str) -> tuple[int, str, str]:
            code = main([*settings, *command])
            printed = capsys.readouterr()
            return code, printed.out, printed.err

        def is_unknown(*command: str) -> None:
            code, out, said = type_in(*command)
            assert (code, out) == (ExitCode.UNREACHABLE, ""), said
            told = said.splitlines()[-1]
            assert told.startswith("error: job")
            assert "which cannot be asked now" in told
            assert "the job goes on" in told
            assert "fail" not in told

        with Client(network.rpc_url, network.deployment.registry, network.requester.key) as client:
            job = MapJob(data=data, segment_rows=2, segments=2)
            handle = submit_job(job, reward=credits(10), audit_fee=credits(2), client=client)
            number = str(handle.job_id)
            while not (scheduler := client.chain.job(handle.job_id).verifier):
                time.sleep(0.1)
            operators = {client.chain.operator_of(member.key.address): member for member in network.verifiers}
            its_own: Member = operators[scheduler]
            network.kill(its_own.name)
            is_unknown("job", "status", number)
            is_unknown("job", "wait", number, "--timeout", "1")
            is_unknown("job", "result", number, str(tmp_path / "early"))
            assert not (tmp_path / "early").exists()
            network.restart(its_own.name)
            monkeypatch.setattr(peers, "stop_after_delay", lambda _: stop_after_delay(30.0))
            assert handle.wait(200).state == "done"
        monkeypatch.setattr(peers, "stop_after_delay", lambda _: stop_after_delay(1.0))
        network.kill(its_own.name)
        is_unknown("job", "status", number)
        code, out, said = type_in("job", "result", number, str(tmp_path / "result"))
        assert (code, out.strip()) == (0, str(tmp_path / "result")), said
        assert "looking at what is settled instead" in said
        records = (tmp_path / "result" / "data.jsonl").read_text().splitlines()
        assert [json.loads(each) for each in records] == [
            {"shard": each["shard"], "text": each["text"]} for each in LINES
        ]
        network.restart(its_own.name)
        code, out, _ = type_in("job", "status", number)
        assert code == 0
        assert "done" in out
