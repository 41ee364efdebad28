"""What Prometheus is told is what happened; a scrape costs nothing that grows with the rows."""

from pathlib import Path
from typing import Any

import pytest
from api_scene import Scene, address

from proofyard.protocol.types import JobId
from proofyard.verifier.engine.rows import Log
from proofyard.verifier.metrics import Metrics


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def values(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


async def test_gauges_say_what_the_database_holds(scene: Scene) -> None:
    await scene.watch.look()
    found = values(scene.client.get("/metrics").text)
    name = "proofyard_verifier"
    assert found[f'{name}_jobs{{state="running"}}'] == found[f'{name}_jobs{{state="done"}}'] == 1
    assert found[f'{name}_tasks{{state="ready"}}'] == 2
    assert found[f'{name}_tasks{{state="given"}}'] == 0
    assert found[f'{name}_batches{{state="settled"}}'] == 1
    assert found[f'{name}_faults{{kind="mismatch"}}'] == 1
    assert found[f"{name}_job_quiet_seconds"] == 998.0
    assert found[f"{name}_nodes"] == 3
    assert found[f"{name}_chain_block_age_seconds"] == 10.0
    assert found[f"{name}_wallet_ether"] == 1.0
    assert found[f"{name}_owner_stake_credit"] == 1000.0, "of its seat's owner"
    assert found[f"{name}_owner_open_credit"] == 2.5, "in 1/10,000 of a seat's stake"
    assert found[f'{name}_check{{name="seat"}}'] == 0.0 < found[f'{name}_check{{name="database"}}']
    assert found[f"{name}_ready"] == 0.0
    assert found[f"{name}_transactions_in_flight"] == found[f"{name}_leads"] == 1.0
    assert found[f"{name}_transaction_age_seconds"] > 1e9


async def test_a_clock_that_is_wrong_is_told_of_once_and_takes_nothing_away(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="proofyard.verifier.health")  # whatever level others have set
    for off_s, said in (
        (25 * 3600.0, "90000 s ahead of the chain's"),
        (25 * 3600.0 + 1, ""),
        (12.0, "agrees with the chain's again"),
        (-59.0, ""),
        (-600.0, "600 s behind the chain's"),
    ):
        scene.clock_off_s = off_s
        caplog.clear()
        await scene.watch.look()
        told = [record.message for record in caplog.records if "clock" in record.message]
        assert said in "".join(told) and len(told) == bool(said)
        assert next(check for check in scene.watch.ready().checks if check.name == "chain").holds


def test_audits_are_counted_by_outcome() -> None:
    metrics = Metrics()
    for kind, text in (("audit-match", ""), ("audit-match", ""), ("lost", "audit of it: no word"), ("lost", "task 1")):
        metrics.note_line(Log(job=JobId(1), seq=1, at=0.0, kind=kind, text=text))
    found = values(metrics.text().decode())
    assert found['proofyard_verifier_audits_total{outcome="match"}'] == 2
    assert found['proofyard_verifier_audits_total{outcome="lost"}'] == 1
    assert found['proofyard_verifier_log_lines_total{kind="lost"}'] == 2


def receipt(number: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "transactionHash": f"0x{number:064x}",
        "from": address(500),
        "to": address(1000),
        "status": "0x1",
        "gasUsed": hex(100_000),
        "effectiveGasPrice": hex(10**9),
    }
    return {"result": fields | changes}


def test_gas_is_counted_once_for_each_transaction_of_this_wallet() -> None:
    metrics = Metrics()
    metrics.describe("1", address(500), address(1000), address(1001), 31337)
    answers = [receipt(1), receipt(1), receipt(2, status="0x0"), receipt(3, **{"from": address(7)}), {"result": None}]
    for answer in answers:
        metrics.note_request("eth_getTransactionReceipt", 0.01, answer)
    metrics.note_request("eth_call", 0.01, {"error": {"message": "reverted"}})
    metrics.note_request("eth_call", 30.0, TimeoutError("no answer"))
    found = values(metrics.text().decode())
    name = "proofyard_verifier"
    assert found[f'{name}_gas_total{{contract="registry",outcome="ok"}}'] == 100_000
    assert found[f'{name}_gas_total{{contract="registry",outcome="reverted"}}'] == 100_000
    assert found[f"{name}_gas_paid_ether_total"] == pytest.approx(2 * 100_000 * 1e-9)
    assert found[f'{name}_rpc_requests_total{{method="eth_call",outcome="refused"}}'] == 1
    assert found[f'{name}_rpc_requests_total{{method="eth_call",outcome="failed"}}'] == 1


def test_a_state_that_is_left_goes_back_to_nothing(scene: Scene) -> None:
    metrics = Metrics()
    metrics.note_running({"Draw": 2})  # type: ignore[arg-type]
    metrics.note_running({"Settle": 1})  # type: ignore[arg-type]
    found = values(metrics.text().decode())
    assert found['proofyard_verifier_effects_running{kind="Draw"}'] == 0
    assert found['proofyard_verifier_effects_running{kind="Settle"}'] == 1


def test_requests_are_counted_by_route_and_not_by_what_was_asked(scene: Scene) -> None:
    """Whoever asks for a million paths makes no million series."""
    for path in ("/v1/jobs/1", "/v1/jobs/2", "/v1/jobs/99", "/a", "/b"):
        scene.client.get(path)
    found = values(scene.client.get("/metrics").text)
    assert found['proofyard_verifier_api_requests_total{route="/v1/jobs/{job}",status="200"}'] == 2
    assert found['proofyard_verifier_api_requests_total{route="/v1/jobs/{job}",status="404"}'] == 1
    assert found['proofyard_verifier_api_requests_total{route="none",status="404"}'] == 2
