"""A job is opened once, whatever happens to the answers; what is left of it can be had back from the shell."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rpc_stand_in import Rule, StandIn, lost_answer, standing_in, status, times
from safetensors.numpy import load_file, save_file
from world import CREDIT, Network

from proofyard.chain import JobRecord, Wallet
from proofyard.chain import client as chain_client
from proofyard.chain.sender import Sender
from proofyard.cli import main
from proofyard.protocol.types import Wei
from proofyard.sdk import Client, JobRefused, LoraJob, MapJob, Offer, SubmitUncertain
from proofyard.sdk.peers import Peers
from proofyard.sdk.preparing import place_of
from proofyard.sdk.refunds import what_comes_back
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model

OFFER = ["--reward", "10", "--audit-fee", "20", "--verifier-fee", "5"]


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no verifier: what would be sent to it is taken for sent."""

    asked = Peers.one

    async def nothing(*_: Any) -> None:
        return None

    async def verifier(peers: Peers, job: Any = None) -> Any:
        return None if job is None else await asked(peers, job)

    monkeypatch.setattr(Peers, "publish", nothing)
    monkeypatch.setattr(Peers, "at_hand", nothing)
    monkeypatch.setattr(Peers, "one", verifier)


@pytest.fixture
def folder(network: Network, tmp_path: Path) -> Path:
    """With a requester's keystore, its password and a text set."""
    owner = network.owner(1000).wallet
    assert owner is not None
    owner.save(tmp_path / "alice.json", "pw", scrypt_rounds=2)
    (tmp_path / "password").write_text("pw\n")
    (tmp_path / "text.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    return tmp_path


def arguments(network: Network, folder: Path, url: str) -> list[str]:
    place = ["--rpc-url", url, "--registry", network.deployment.registry]
    return [*place, "--wallet", str(folder / "alice.json"), "--password-file", str(folder / "password")]


def submit(network: Network, folder: Path, url: str, *more: str) -> int:
    data = ["--workload", "map", "--data", str(folder / "text.jsonl")]
    return main(["job", "submit", *data, *OFFER, *more, *arguments(network, folder, url), "--json"])


def jobs(network: Network) -> int:
    return int(network.deployer._read("counts")[2])


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions are given up after a moment."""

    class Impatient(Sender):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **{**options, "deadline": 3.0, "patience": 30.0})

    monkeypatch.setattr(chain_client, "Sender", Impatient)


@pytest.mark.parametrize(
    "rule",
    [
        times(1, lost_answer, "eth_sendRawTransaction"),
        times(4, status(429), "eth_getTransactionReceipt"),
        times(2, status(502), "eth_getTransactionReceipt"),
    ],
    ids=["502 after", "429", "502"],
)
def test_one_call_through_a_provider_in_trouble_opens_one_job(
    network, folder: Path, rule: Rule, capsys: pytest.CaptureFixture[str]
) -> None:
    with standing_in(network.anvil.rpc_url, rule) as provider:
        assert submit(network, folder, provider.url) == 0
    assert json.loads(capsys.readouterr().out)["job"] == "1"
    assert jobs(network) == 1


@pytest.mark.parametrize("seen", [True, False], ids=["mined before", "mined after"])
def test_the_same_call_again_finds_the_job_that_a_cut_off_one_has_opened(
    network,
    folder: Path,
    patient: None,
    seen: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    anvil = network.anvil
    with standing_in(anvil.rpc_url) as provider:
        deaf(provider)
        if not seen:
            anvil._request("evm_setAutomine", [False])
        try:
            assert submit(network, folder, provider.url) != 0
            assert "make the same call again, it finds the job" in capsys.readouterr().err
        finally:
            anvil._request("evm_setAutomine", [True])
        provider.rules.clear()
        monkeypatch.setattr(chain_client, "Sender", Sender)
        assert submit(network, folder, provider.url) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["job"] == "1"
        assert "has opened job 1 before; nothing was paid again" in printed.err
        assert jobs(network) == 1
        # That call has come to its end: the next one is another job.
        assert submit(network, folder, provider.url) == 0
        assert jobs(network) == 2


def deaf(provider: StandIn) -> None:
    """No receipt is seen."""
    provider.rules.append(times(10**6, status(403), "eth_getTransactionReceipt"))


def test_a_call_with_a_word_of_its_own_finds_its_job_for_ever(network, folder: Path, capsys: Any) -> None:
    url = network.anvil.rpc_url
    for _ in range(3):
        assert submit(network, folder, url, "--nonce", "monday") == 0
    assert submit(network, folder, url, "--nonce", "tuesday") == 0
    assert submit(network, folder, url, "--nonce", "monday", "--seed", "7") == 0
    assert jobs(network) == 3
    for wrong in ("two words", "x" * 65, "line\n"):
        assert submit(network, folder, url, "--nonce", wrong) == 2
        assert "error: nonce: is " in capsys.readouterr().err


def test_in_python_too(network, folder: Path, patient: None) -> None:
    wallet = Wallet.unlock(folder / "alice.json", password="pw")
    spec = MapJob(data=folder / "text.jsonl")
    pay = {"reward": Wei(10 * CREDIT), "audit_fee": Wei(20 * CREDIT), "verifier_fee": Wei(5 * CREDIT)}
    with standing_in(network.anvil.rpc_url) as provider:
        deaf(provider)
        with Client(provider.url, network.deployment.registry, wallet) as client:
            with pytest.raises(SubmitUncertain):
                client.submit(spec, **pay)
            provider.rules.clear()
            client.chain._sender._deadline = 60.0  # type: ignore[union-attr]
            found = client.submit(spec, **pay)
            assert (found.found, jobs(network)) == (True, 1)
            assert client.submit(spec, **pay, nonce="a").job_id == client.submit(spec, **pay, nonce="a").job_id
            manifest = client.chain.job(found.job_id).manifest
            assert client.chain.find_jobs(wallet.address.lower(), manifest) == [found.job_id]  # type: ignore[arg-type]


def test_a_job_is_opened_for_the_verifier_at_hand_and_its_inputs_are_sent_until_it_has_begun(
    network, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = network.owner(1_000_000).register_verifier(network.key(), Wei(100_000 * CREDIT))
    sent: list[Any] = []

    async def at_hand(_: Peers) -> Any:
        return operator

    async def publish(_: Peers, job: Any, _artifacts: Any) -> None:
        sent.append(job)

    monkeypatch.setattr(Peers, "at_hand", at_hand)
    monkeypatch.setattr(Peers, "publish", publish)
    wallet, spec = Wallet.unlock(folder / "alice.json", password="pw"), MapJob(data=folder / "text.jsonl")
    pay = {"reward": Wei(10 * CREDIT), "audit_fee": Wei(20 * CREDIT), "verifier_fee": Wei(5 * CREDIT)}
    with Client(network.anvil.rpc_url, network.deployment.registry, wallet) as client:
        job = client.submit(spec, **pay, nonce="a").job_id
        assert client.chain.job(job).verifier == operator
        client.submit(spec, **pay, nonce="a")
        assert sent == [job, job]


def test_a_job_is_closed_cancelled_and_refunded_by_commands(network, folder: Path, capsys: Any) -> None:
    url = network.anvil.rpc_url

    def run(*command: str) -> tuple[int, Any, str]:
        code = main([*command[:2], *arguments(network, folder, url), *command[2:], "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else None, printed.err

    for _ in range(2):
        assert submit(network, folder, url) == 0
    capsys.readouterr()
    code, closed, said = run("job", "close", "1")
    assert (code, closed["closed"], closed["refunded"]) == (0, True, "0")
    assert "next, from 20" in said
    assert "job refund 1" in said
    assert run("job", "close", "1")[0] == 0, "closing twice changes nothing"
    code, cancelled, _ = run("job", "cancel", "2")
    assert (code, cancelled["closed"], cancelled["escrow"]) == (0, True, str(35 * CREDIT))
    network.anvil.warp(network.deployer.params().receipt_time + 2)
    assert run("job", "refund", "1")[1]["refunded"] == str(35 * CREDIT)
    code, again, said = run("job", "cancel", "2")
    assert (code, again["refunded"]) == (0, str(35 * CREDIT))
    assert "nothing is left" in said
    code, listed, _ = run("job", "list")
    assert code == 0
    assert [(each["job"], each["state"], each["workload"]) for each in listed] == [
        ("2", "closed", "map"),
        ("1", "closed", "map"),
    ]
    assert run("job", "list", "--all")[1] == listed
    code, told, said = run("job", "logs", "1")
    assert (code, told["state"], told["events"], told["settled"]) == (0, "closed", [], [])
    network.key().save(folder / "bob.json", "pw", scrypt_rounds=2)
    assert run("job", "list", "--wallet", str(folder / "bob.json"))[1] == []
    code, _, said = run("job", "cancel", "1", "--wallet", str(folder / "bob.json"))
    assert code == 2
    assert "name its wallet" in said


def test_what_is_left_of_a_job_and_the_command_for_it(network, folder: Path) -> None:
    assert submit(network, folder, network.anvil.rpc_url) == 0
    chain = network.deployer
    record: JobRecord = chain.job(1)
    receipt_time = chain.params().receipt_time
    text = what_comes_back(record, receipt_time, chain.now())
    assert "35 CREDIT are held for it: proofyard job cancel 1 ends it" in text


@pytest.mark.parametrize("number", ["99999999999999999999", "9223372036854775808", "18446744073709551616", "2"])
@pytest.mark.parametrize("command", [["status"], ["show"], ["cancel"], ["close"], ["refund"], ["wait"], ["result"]])
def test_a_job_that_there_is_not_is_exit_code_2(
    network, folder: Path, command: list[str], number: str, capsys: Any
) -> None:
    more = [str(folder / "out")] if command == ["result"] else []
    place = arguments(network, folder, network.anvil.rpc_url)
    place = place[:4] if command == ["show"] else place
    assert main(["job", *command, number, *more, *place]) == 2
    assert f"there is no job {number}" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "1e3", str(2**256), "x", ""])
def test_a_number_that_is_none_is_exit_code_2(number: str, capsys: Any) -> None:
    assert main(["job", "show", "--rpc-url", "http://127.0.0.1:9", "--registry", "0x1", "--", number]) == 2
    assert main(["job", "explain", "--", number]) == 2


def test_a_training_is_looked_at_as_nodes_do_and_its_models_name_stays_here(network, folder: Path) -> None:
    model, data = write_tiny_model(folder / "model"), write_tiny_corpus(folder / "corpus.jsonl")
    pay = {"reward": Wei(10 * CREDIT), "audit_fee": Wei(20 * CREDIT), "verifier_fee": Wei(5 * CREDIT)}
    wallet = Wallet.unlock(folder / "alice.json", password_file=folder / "password")
    with Client(network.anvil.rpc_url, network.deployment.registry, wallet) as client:
        job = client.submit(LoraJob(model=model, data=data), **pay)
        with wallet.turns.take() as turn:
            assert turn.model(place_of(client.chain, job.job_id)) == str(model)
        assert str(model) not in str(client.prepare(LoraJob(model=model, data=data), Offer(**pay)).manifest)
        file = model / "model.safetensors"
        tensors = load_file(file)
        tensors["model.norm.weight"][0] = np.nan
        save_file(tensors, file, {"format": "pt"})
        before = jobs(network)
        with pytest.raises(JobRefused, match=r"^model: .*numbers in model.norm.weight that are not finite"):
            client.submit(LoraJob(model=model, data=data), **pay)
        assert jobs(network) == before
