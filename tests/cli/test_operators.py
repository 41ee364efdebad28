"""Joining and leaving a network by commands, on a real chain."""

import json
import shlex
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eth_utils.address import to_checksum_address
from web3 import HTTPProvider, Web3

from proofyard.chain import Anvil, ChainClient, Params, Wallet, deploy_network
from proofyard.cli import main
from proofyard.devnet.process import Child, free_udp_port
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import ExitCode, Wei
from proofyard.protocol.workload_bits import WORKLOADS

CREDIT = 10**18


@dataclass(frozen=True)
class Bench:
    """A chain with a Registry, and a `run` that calls a command with its settings and returns code, JSON and stderr."""

    anvil: Anvil
    treasury: ChainClient
    wallets: Path
    run: Callable[..., tuple[int, Any, str]]

    def nonce(self, address: str) -> int:
        """How many transactions it has sent."""
        return int(Web3(HTTPProvider(self.anvil.rpc_url)).eth.get_transaction_count(to_checksum_address(address)))

    def wallet(self, name: str, tokens: int = 0) -> str:
        """A new wallet, with ether and tokens. Returns its address."""
        wallet = Wallet.generate()
        wallet.save(self.wallets / f"{name}.json", "pw", scrypt_rounds=2)
        self.anvil.fund(wallet.address)
        if tokens:
            self.treasury.transfer(wallet.address, Wei(tokens * CREDIT))
        return wallet.address


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with Anvil() as anvil:
        deployer = anvil.wallet(0)
        network = deploy_network(anvil.rpc_url, deployer, Params())
        password = tmp_path / "password"
        password.write_text("pw\n")
        toml = tmp_path / "proofyard.toml"
        toml.write_text(f'rpc_url = "{anvil.rpc_url}"\nregistry = "{network.registry}"\n')
        monkeypatch.setenv("PROOFYARD_KEYSTORE_DIR", str(tmp_path / "wallets"))

        def run(*args: str, passwords: tuple[str, ...] = ()) -> tuple[int, Any, str]:
            given = [part for flag in passwords for part in (flag, str(password))]
            code = main(["--config", str(toml), *args, *given, "--json"])
            printed = capsys.readouterr()
            return code, json.loads(printed.out) if printed.out else None, printed.err

        treasury = ChainClient(anvil.rpc_url, network.registry, deployer)
        yield Bench(anvil, treasury, tmp_path / "wallets", run)


BOTH = ("--password-file", "--owner-password-file")
OWNER = ("--owner-password-file",)


def test_a_node_joins_is_shown_and_leaves(bench: Bench) -> None:
    hot, owner = bench.wallet("hot"), bench.wallet("owner", tokens=150)
    code, made, said = bench.run("node", "register", "--wallet", "hot", "--owner", "owner", passwords=BOTH)
    assert code == 0
    assert made["address"] == hot
    assert made["stake"] == str(100 * CREDIT)
    assert "next: proofyard node run --wallet hot" in said

    code, shown, _ = bench.run("node", "status", hot)
    assert code == 0
    assert (shown["role"], shown["active"], shown["owner"]) == ("node", True, owner)
    assert bench.run("wallet", "balance", "owner")[1]["tokens"] == str(50 * CREDIT)

    code, seen, _ = bench.run("node", "bench", hot)
    assert code == 0
    assert seen["bench"] == dict.fromkeys(WORKLOADS, True)
    code, more, _ = bench.run("node", "stake", "10", "--owner", "owner", passwords=OWNER)
    assert (code, more["stake"]) == (0, str(110 * CREDIT))

    code, left, _ = bench.run("node", "unstake", hot, "--owner", "owner", passwords=OWNER)
    assert code == 0
    assert left["amount"] == str(100 * CREDIT)
    assert bench.run("node", "status", hot)[1]["active"] is False
    assert bench.run("node", "bench", hot)[1]["bench"] == dict.fromkeys(WORKLOADS, False)

    code, _, said = bench.run("node", "withdraw", "--owner", "owner", passwords=OWNER)
    assert code == ExitCode.FAILED
    assert said.count("\n") == 1
    bench.anvil.warp(Params().unstake_delay + 1)
    code, _, _ = bench.run("node", "withdraw", "--owner", "owner", passwords=OWNER)
    assert code == 0
    assert bench.run("wallet", "balance", "owner")[1]["tokens"] == str(140 * CREDIT)


def test_a_verifier_joins_with_a_proof_of_its_bls_key(bench: Bench) -> None:
    hot = bench.wallet("hot")
    bench.wallet("owner", tokens=1000)
    call = ("verifier", "register", "--wallet", "hot", "--owner", "owner", "--endpoint", "127.0.0.1:4433")
    code, _, said = bench.run(*call, passwords=BOTH)
    assert code == 0
    assert "next: proofyard verifier run --wallet hot --port 4433" in said
    shown = bench.run("verifier", "status", hot)[1]
    assert (shown["role"], shown["active"], shown["endpoint"]) == ("verifier", True, "127.0.0.1:4433")
    assert (shown["seat"], shown["seat_counts"]) == (0, True), "a founding seat counts at once"
    assert [(row["slot"], row["address"]) for row in bench.run("verifier", "seats")[1]] == [(0, hot)]
    assert bench.run("verifier", "attend", "--wallet", "hot", passwords=("--password-file",))[1]["attended"] is True
    code, _, said = bench.run("verifier", "unseat", "0", "--wallet", "hot", passwords=("--password-file",))
    assert (code, said.count("\n")) == (ExitCode.FAILED, 1)

    code, left, said = bench.run("verifier", "unstake", hot, "--owner", "owner", passwords=OWNER)
    assert (code, left["amount"]) == (0, "0")
    assert "withdraw" in said
    assert bench.run("verifier", "status", hot)[1]["bound_until"] == left["release_at"]


def test_registering_is_refused_before_anything_is_sent(bench: Bench) -> None:
    bench.wallet("hot")
    owner = bench.wallet("owner", tokens=500)
    call = ("node", "register", "--wallet", "hot", "--owner", "owner")

    def refused(*more: str) -> str:
        code, _, said = bench.run(*call, *more, passwords=BOTH)
        assert code == 2
        return said

    assert "--endpoint: peer: 'home' is no address; write HOST:PORT" in refused("--endpoint", "home")
    assert "--stake: 1 CREDIT are too little, 100 CREDIT are needed" in refused("--stake", "1")
    assert "no workload named 'mining'" in refused("--workload", "mining")
    assert bench.nonce(owner) == 0
    assert bench.run(*call, "--stake", "230", passwords=BOTH)[0] == 0
    sent = bench.nonce(owner)
    assert "belongs to operator 1" in refused()
    assert "belongs to operator 1" in refused("--stake", "0")
    assert bench.nonce(owner) == sent


def test_a_second_node_stakes_what_the_first_ones_stake_lacks(bench: Bench) -> None:
    bench.wallet("owner", tokens=500)
    for name, given, puts_up in (("first", ("--stake", "130"), 130), ("second", (), 70), ("third", (), 100)):
        bench.wallet(name)
        code, made, _ = bench.run("node", "register", "--wallet", name, "--owner", "owner", *given, passwords=BOTH)
        assert (code, made["stake"]) == (0, str(puts_up * CREDIT))


def test_only_the_owner_is_let_unstake_and_only_once(bench: Bench) -> None:
    hot = bench.wallet("hot", tokens=1)
    bench.wallet("owner", tokens=100)
    assert bench.run("node", "register", "--wallet", "hot", "--owner", "owner", passwords=BOTH)[0] == 0
    code, _, said = bench.run("node", "unstake", hot, "--owner", "hot", passwords=OWNER)
    assert (code, bench.nonce(hot)) == (2, 0)
    assert "--owner: operator 1 is owned by" in said
    assert bench.run("node", "unstake", hot, "--owner", "owner", passwords=OWNER)[0] == 0
    code, _, said = bench.run("node", "unstake", hot, "--owner", "owner", passwords=OWNER)
    assert code == 2
    assert "retired already; next: proofyard node withdraw --owner owner" in said


def test_slips_in_operators_commands_name_what_to_correct(bench: Bench) -> None:
    owner = bench.wallet("owner", tokens=5)
    token = bench.treasury.token
    for call, passwords, reason in (
        (("node", "status", "owner"), (), "knows no operator with the hot key"),
        (("node", "status", owner), (), "give the hot key's address, not the owner's"),
        (("node", "stake", "0", "--owner", "owner"), OWNER, "CREDIT: 0 adds no stake"),
        (("node", "stake", "1", "--owner", "owner"), (), "give --owner-password-file"),
        (("verifier", "unseat", "3", "--wallet", "owner"), ("--password-file",), "SLOT: no verifier is on seat 3"),
        (("verifier", "unseat", "256", "--wallet", "owner"), ("--password-file",), "less than or equal to 255"),
        (("wallet", "balance", owner, "--registry", token), (), "there is no Registry at"),
        (("job", "show", "7"), (), "there is no job 7"),
        (("job", "show", "7", "--from-block", "9999"), (), "from_block: the chain ends with block"),
        (("job", "show", str(2**256)), (), "less than or equal to"),
        (("verifier", "dispute", "open", "1", "--record", "--wallet", "owner"), ("--password-file",), "no batch 1"),
        (("verifier", "dispute", "draw", "4", "--wallet", "owner"), ("--password-file",), "there is no challenge 4"),
    ):
        code, printed, said = bench.run(*call, passwords=passwords)
        assert (code, printed, said.count("\n")) == (2, None, 1), said
        assert reason in said
    assert bench.nonce(owner) == 0


def test_too_little_money_is_said_with_what_is_missing(bench: Bench) -> None:
    bench.wallet("hot")
    bench.wallet("owner", tokens=1)
    code, _, said = bench.run("node", "register", "--wallet", "hot", "--owner", "owner", passwords=BOTH)
    assert code == ExitCode.BALANCE_TOO_SMALL
    assert "has 1 CREDIT and needs 100" in said


def test_a_wrong_password_has_its_own_exit_code(bench: Bench, tmp_path: Path) -> None:
    bench.wallet("hot")
    bench.wallet("owner", tokens=100)
    (tmp_path / "password").write_text("wrong\n")
    code, _, said = bench.run("node", "register", "--wallet", "hot", "--owner", "owner", passwords=BOTH)
    assert code == ExitCode.WRONG_PASSWORD
    assert said.startswith("error: wrong password")


def test_an_operator_that_nobody_registered_is_said(bench: Bench) -> None:
    code, _, said = bench.run("node", "status", "0x" + "1" * 40)
    assert code == ExitCode.USAGE
    assert "register it first" in said


def test_an_operator_is_named_in_any_spelling_and_by_its_wallet(bench: Bench) -> None:
    hot = bench.wallet("hot")
    bench.wallet("owner", tokens=150)
    assert bench.run("node", "register", "--wallet", "hot", "--owner", "owner", passwords=BOTH)[0] == 0
    for spelling in (hot, hot.lower(), "0x" + hot[2:].upper(), "0X" + hot[2:], hot[2:], f" {hot}\n", "hot", "hot.json"):
        code, shown, said = bench.run("node", "status", spelling)
        assert (code, shown and shown["active"]) == (0, True), said
        assert bench.run("wallet", "balance", spelling)[0] == 0
        assert bench.run("node", "bench", spelling)[0] == 0
    swapped = hot[:-1] + ("0" if hot[-1] != "0" else "1")
    for wrong in (swapped.swapcase().replace("X", "x"), hot + "0", "0x", "cold", "0xnonsense", ""):
        code, _, said = bench.run("node", "status", wrong)
        assert code == 2
        assert "error: " in said
    assert "known are hot, owner" in bench.run("node", "status", "cold")[2]


def test_nothing_to_claim_and_no_such_node_are_two_answers(bench: Bench) -> None:
    hot, owner = bench.wallet("hot"), bench.wallet("owner", tokens=150)
    bench.run("node", "register", "--wallet", "hot", "--owner", "owner", passwords=BOTH)
    claim = ("node", "claim", "1", "--wallet", "owner")
    signed = ("--password-file",)
    for wrong in (owner, "0x" + "11" * 20, "owner"):
        code, _, said = bench.run(*claim, "--node", wrong, passwords=signed)
        assert code == 2
        assert "knows no operator with the hot key" in said
    for known in (hot, hot.lower(), "hot"):
        code, _, said = bench.run(*claim, "--node", known, passwords=signed)
        assert (code, "there is no job 1" in said) == (2, True), said


def test_calls_in_python_take_any_spelling_too(bench: Bench) -> None:
    address = bench.wallet("hot", tokens=3)
    for spelling in (address.lower(), address, "0x" + address[2:].upper()):
        assert bench.treasury.account(spelling).stake == 0  # type: ignore[arg-type]
        assert bench.treasury.token_balance(spelling) == 3 * CREDIT  # type: ignore[arg-type]
        assert bench.treasury.operator_of(spelling) is None  # type: ignore[arg-type]
    bench.treasury.transfer(address.lower(), Wei(CREDIT))  # type: ignore[arg-type]
    assert bench.treasury.token_balance(address) == 4 * CREDIT  # type: ignore[arg-type]


@pytest.mark.parametrize("amount", ["0,5", "1e60", "9" * 30, "-1", "1.234,5", "1_000", "nan", "\uff11"])
def test_an_amount_that_is_none_is_refused_before_anything_else(bench: Bench, amount: str) -> None:
    code, _, said = bench.run("node", "stake", "--owner", "owner", "--", amount)
    assert code == 2
    assert "CREDIT" in said


def test_a_networks_addresses_and_abis_are_written_for_other_programs(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "contracts"
    code, facts, _ = bench.run("contracts", str(folder))
    assert code == 0
    chain = bench.treasury
    assert (facts["registry"], facts["token"], facts["court"]) == (chain.registry, chain.token, chain.court)
    assert json.loads((folder / "deployment.json").read_text())["chainId"] == chain.chain_id
    abi = json.loads((folder / "Registry.json").read_text())
    assert "JobOpened" in {entry.get("name") for entry in abi}
    (folder / "deployment.json").write_text("somebody's own")
    code, _, said = bench.run("contracts", str(folder))
    assert (code, (folder / "deployment.json").read_text()) == (ExitCode.USAGE, "somebody's own"), said
    assert "--force" in said
    assert bench.run("contracts", str(folder), "--force")[0] == 0
    assert json.loads((folder / "deployment.json").read_text())["registry"] == chain.registry
    file = tmp_path / "file"
    file.write_text("")
    assert bench.run("contracts", str(file), "--force")[0] == ExitCode.USAGE


@pytest.mark.parametrize("role", ["verifier", "node"])
def test_what_was_registered_stays_with_the_command_that_is_printed(bench: Bench, tmp_path: Path, role: str) -> None:
    """Where it listens is the endpoint's port, at every address; `--endpoint` says another one."""
    bench.wallet("hot")
    bench.wallet("owner", tokens=1500)
    port = free_udp_port()
    endpoint = f"{role}.example.org:{port}"
    where = ("--wallet", "hot", "--owner", "owner", "--endpoint", endpoint)
    code, made, said = bench.run(role, "register", *where, passwords=BOTH)
    assert code == 0
    (printed,) = [line.removeprefix("next: ") for line in said.splitlines() if line.startswith("next: ")]
    chain = bench.treasury

    def registered() -> str:
        return chain.operator(OperatorId(int(made["operator"]))).endpoint

    def started(*more: str) -> Child:
        rest = ["--data-dir", str(tmp_path / "data"), "--password-file", str(tmp_path / "password")]
        ready = tmp_path / "ready.json"
        command = ["--config", str(tmp_path / "proofyard.toml"), *shlex.split(printed)[1:], *rest, *more]
        return Child(role, [*command, "--ready-file", str(ready)], log=tmp_path / "log", ready=ready)

    def until(holds: Callable[[], bool]) -> None:
        give_up = time.monotonic() + 120
        while not holds():
            assert time.monotonic() < give_up, (tmp_path / "log").read_text()
            time.sleep(0.1)

    def is_bound() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return True
        return False

    free_api = ["--api-port", "0"] if role == "verifier" else []
    running = started(*free_api)
    try:
        until(is_bound)
        if role == "verifier":  # a node is ready once a verifier has taken it, and here is none
            assert running.wait_ready(150)["port"] == port
        assert registered() == endpoint
    finally:
        running.kill()
    other = f"elsewhere.example.org:{free_udp_port()}"
    running = started("--endpoint", other, *free_api)
    try:
        until(lambda: registered() == other)
        assert is_bound() == ("--port" in printed)
    finally:
        running.kill()


def test_a_machine_becomes_a_node_by_one_command_and_a_second_one_says_what_is_there(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = bench.wallet("owner", tokens=150)
    toml, before = tmp_path / "proofyard.toml", (tmp_path / "proofyard.toml").read_text()
    folder = ("--data-dir", str(tmp_path / "a $folder"))

    code, shown, said = bench.run("node", "init", "--dry-run", "--owner", "nobody", *folder)
    assert code == 0 and shown["operator"] is None and shown["machine"]["cores"] >= 1
    assert shown["paid"] == {"total": "0", "seconds": 0.0, "low": {}} and any("no history" in n for n in shown["notes"])
    code, _, said = bench.run("node", "init", *folder, passwords=OWNER)
    assert code == 2 and "stake 100 CREDIT" in said and "Give --yes" in said
    assert toml.read_text() == before and not (bench.wallets / "node.json").exists(), "nothing was written"

    code, _, said = bench.run("node", "init", "--yes", "--preset", "house", *folder, passwords=OWNER)
    assert code == 2 and "there is none named 'house'; there are small: 8 GB" in said
    monkeypatch.setenv("PROOFYARD_NODE_PROVE_S", "1")
    code, made, said = bench.run("node", "init", "--yes", "--preset", "home", *folder, passwords=OWNER)
    assert code == 0, said
    assert made["measured"]["blocks"] >= 1024 and "it can show" in said
    assert (tmp_path / "a $folder" / "capability.json").exists(), "so that its first start need not measure"
    assert "node run" in said and made["stake"] == str(100 * CREDIT)
    record = bench.treasury.operator(OperatorId(int(made["operator"])))
    assert (record.node, record.owner, record.active) == (made["address"], owner, True)
    assert bench.treasury.eth_balance(record.node) == 2 * 10**16
    written = toml.read_text()
    secret = (bench.wallets / "node.password").read_text().strip()
    assert written.startswith(before) and secret not in written and "password_file" in written
    assert (bench.wallets / "node.password").stat().st_mode & 0o777 == 0o600
    ran: list[Any] = []
    monkeypatch.setattr("proofyard.node.service.run", lambda settings, password, **_: ran.append((settings, password)))
    assert main(["--config", str(toml), "node", "run"]) == 0, "it needs no flag"
    ((settings, password),) = ran
    assert (settings.data_dir, password) == (tmp_path / "a $folder", None)
    assert (settings.preset, settings.idle_only, settings.max_celsius) == ("home", True, 80)
    assert Wallet.unlock(settings.wallet, password_file=settings.password_file).address == made["address"]

    nonce = bench.nonce(owner)
    code, there, said = bench.run("node", "init", "--yes", "--preset", "farm", passwords=OWNER)
    assert 'nothing was changed; write preset = "farm"' in said
    assert (code, there["operator"], there["active"]) == (0, made["operator"], True)
    assert bench.nonce(owner) == nonce and toml.read_text() == written


def test_who_cannot_pay_is_told_before_anything_is_written(bench: Bench, tmp_path: Path) -> None:
    before = (tmp_path / "proofyard.toml").read_text()
    code, _, said = bench.run("node", "init", "--yes", passwords=OWNER)
    assert code == 2 and "proofyard wallet new owner" in said
    bench.wallet("owner", tokens=99)
    code, _, said = bench.run("node", "init", "--yes", passwords=OWNER)
    assert code != 0 and "CREDIT" in said
    assert (tmp_path / "proofyard.toml").read_text() == before and not (bench.wallets / "node.json").exists()
