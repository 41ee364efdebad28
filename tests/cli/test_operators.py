"""Joining and leaving a network by commands, on a real chain."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proofyard.chain import Anvil, ChainClient, Params, Wallet, deploy_network
from proofyard.cli import main
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
