"""Money between wallets, and accounts of other programs, by commands on a real chain."""

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proofyard.chain import Anvil, ChainClient, Params, Wallet, deploy_network
from proofyard.chain.errors import NoFaucet
from proofyard.chain.sender import Sender
from proofyard.cli import main
from proofyard.protocol.types import ExitCode

CREDIT = 10**18
PHRASE = "test test test test test test test test test test test junk"
ACCOUNTS = ("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture(scope="module")
def treasury() -> Iterator[ChainClient]:
    with Anvil() as anvil:
        deployer = anvil.wallet(0)
        network = deploy_network(anvil.rpc_url, deployer, Params())
        yield ChainClient(anvil.rpc_url, network.registry, deployer)


@pytest.fixture
def run(
    treasury: ChainClient, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    (tmp_path / "pw").write_text("pw\n")
    toml = tmp_path / "proofyard.toml"
    toml.write_text(f'rpc_url = "{treasury.rpc_url}"\nregistry = "{treasury.registry}"\npassword_file = "pw"\n')
    monkeypatch.setenv("PROOFYARD_KEYSTORE_DIR", str(tmp_path / "wallets"))
    monkeypatch.setenv("PROOFYARD_CONFIG", str(toml))
    for name in ("alice", "bob"):
        Wallet.generate().save(tmp_path / "wallets" / f"{name}.json", "pw", scrypt_rounds=2)

    def call(*args: str) -> tuple[int, Any, str]:
        code = main(args)
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out.startswith(("{", "[")) else printed.out, printed.err

    return call


def balance(run: Run, name: str) -> tuple[int, int]:
    found = run("wallet", "balance", name, "--json")[1]
    return int(found["tokens"]), int(found["ether"])


def test_the_faucet_of_a_devnet_funds_a_wallet_that_sends_on(run: Run) -> None:
    assert run("wallet", "faucet", "alice", "--ether", "2", "--json")[0] == 0
    assert balance(run, "alice") == (1000 * CREDIT, 2 * CREDIT)
    code, sent, _ = run("wallet", "send", "bob", "12.5", "--wallet", "alice", "--yes", "--json")
    assert code == 0
    assert (sent["amount"], sent["left"]) == (str(125 * CREDIT // 10), str(9875 * CREDIT // 10))
    code, sent, _ = run("wallet", "send", "bob", "0.5", "--ether", "--wallet", "alice", "--yes", "--json")
    assert code == 0
    assert 1.49 * CREDIT < int(sent["left"]) < 1.5 * CREDIT
    assert balance(run, "bob") == (125 * CREDIT // 10, CREDIT // 2)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("bob", "5"), ExitCode.BALANCE_TOO_SMALL, "has 0 CREDIT and needs 5 CREDIT"),
        (("bob", "5", "--ether"), ExitCode.BALANCE_TOO_SMALL, "ETH with its gas"),
        (("alice", "1"), 2, "it is the sender's own"),
        (("0x" + "0" * 40, "1"), 2, "nobody has its key"),
        (("0x" + "dead".rjust(40, "0"), "1", "--ether"), 2, "nobody has its key"),
        (("REGISTRY", "1"), 2, "the network's Registry contract"),
        (("TOKEN", "1", "--ether"), 2, "the network's token contract"),
        (("COURT", "1"), 2, "the network's Court contract"),
        (("bob", "0"), 2, "AMOUNT: 0 moves nothing"),
        (("bob", "1e3", "--ether"), 2, "is not an amount of ETH"),
        (("bobb", "1"), 2, "neither an address nor a wallet"),
        (("0x12", "1"), 2, "is no address"),
    ],
)
def test_what_would_be_lost_or_cannot_be_paid_is_refused(
    args: tuple[str, ...], code: int, says: str, run: Run, treasury: ChainClient
) -> None:
    named = {"REGISTRY": treasury.registry, "TOKEN": treasury.token, "COURT": treasury.court}
    got, _, said = run("wallet", "send", *(named.get(each, each) for each in args), "--wallet", "alice", "--yes")
    assert (got, says in said) == (code, True), said


def test_nothing_is_sent_before_somebody_says_so(run: Run) -> None:
    run("wallet", "faucet", "alice", "bob")
    code, _, said = run("wallet", "send", "bob", "1", "--wallet", "alice")
    assert code == 2
    assert "on chain 31337? Give --yes" in said
    assert balance(run, "bob")[0] == 1000 * CREDIT


@pytest.mark.parametrize("ether", [False, True])
def test_a_call_that_was_cut_off_pays_once(
    ether: bool, run: Run, treasury: ChainClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("wallet", "faucet", "alice")
    args = ("wallet", "send", "bob", "9", "--wallet", "alice", "--yes", *(["--ether"] if ether else []))
    with monkeypatch.context() as patched:

        def cut(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(Sender, "_await_receipt", cut)
        assert run(*args)[0] == 130
    code, _, said = run(*args)
    assert code == 0
    assert "nothing was sent again" in said
    assert balance(run, "bob")[ether] == 9 * CREDIT


def test_elsewhere_there_is_no_faucet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proofyard.chain.devchain.CHAIN_ID", 1)
    code, _, said = run("wallet", "faucet", "alice")
    assert (code, "has no faucet" in said) == (2, True)
    assert NoFaucet(1).exit_code == 2


@pytest.mark.parametrize(
    ("content", "args", "address"),
    [
        (PHRASE, (), ACCOUNTS[0]),
        (f"  {PHRASE.upper()}\n", ("--account", "1"), ACCOUNTS[1]),
        (PHRASE.replace(" ", "\n"), (), ACCOUNTS[0]),
        (KEY, (), ACCOUNTS[0]),
        (KEY[2:] + "\n", (), ACCOUNTS[0]),
    ],
)
def test_a_phrase_or_key_is_taken_over_encrypted_and_stays_where_it_was(
    content: str, args: tuple[str, ...], address: str, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    code, made, said = run(
        "wallet", "import", "taken", str(file), *args, "--password-file", str(tmp_path / "pw"), "--json"
    )
    assert code == 0, said
    assert made["address"] == address
    assert file.read_text() == content
    assert "junk" not in Path(made["file"]).read_text()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PHRASE.replace("junk", "test"), "the checksum is wrong"),
        (PHRASE.replace("junk", "secretly"), "word 12 of 12 is in none"),
        ("0x" + "0" * 64, "is no private key"),
        ("f" * 64, "is no private key"),
        ("hello", "is no keystore"),
    ],
)
def test_a_wrong_phrase_or_key_is_told_without_showing_it(content: str, says: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(content)
    code, _, said = run("wallet", "import", "taken", str(tmp_path / "secret"))
    assert (code, says in said) == (2, True), said
    assert "secretly" not in said
    assert content not in said
    assert not (tmp_path / "wallets" / "taken.json").exists()


def test_a_wallet_is_exported_as_keystore_or_after_a_yes_as_key(run: Run, tmp_path: Path) -> None:
    Wallet.from_phrase(PHRASE).save(tmp_path / "wallets" / "rich.json", "pw", scrypt_rounds=2)
    password = ("--password-file", str(tmp_path / "pw"))
    out = tmp_path / "exported"
    assert run("wallet", "export", "rich", str(out))[0] == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert Wallet.unlock(out, password="pw").address == ACCOUNTS[0]
    code, _, said = run("wallet", "export", "rich", str(out))
    assert (code, "give a new file" in said) == (2, True)
    code, shown, said = run("wallet", "export", "rich", "--unsafe-private-key", *password)
    assert (code, shown, "Give --yes" in said) == (2, "", True)
    code, shown, said = run("wallet", "export", "rich", "--unsafe-private-key", "--yes", *password)
    assert (code, shown.strip()) == (0, KEY)
    assert KEY[2:] not in said


def test_a_password_is_changed_and_the_old_one_is_of_no_use(run: Run, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("better\n")
    file, before = tmp_path / "wallets" / "alice.json", (tmp_path / "wallets" / "alice.json").read_bytes()
    old, new = ("--password-file", str(tmp_path / "pw")), ("--new-password-file", str(tmp_path / "new"))
    (tmp_path / "wrong").write_text("wrong\n")
    assert run("wallet", "password", "alice", "--password-file", str(tmp_path / "wrong"), *new)[0] == 5
    assert file.read_bytes() == before
    assert run("wallet", "password", "alice", *old, *new)[0] == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Wallet.unlock(file, password="better")
    assert run("wallet", "password", "alice", *old, *new)[0] == ExitCode.WRONG_PASSWORD
    assert list((tmp_path / "wallets").glob(".*")) == []
