"""`proofyard node` and `proofyard verifier`: join a network, serve it, look at one's standing, leave."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.claim import claim
from proofyard.cli.context import config_of
from proofyard.cli.dispute import dispute
from proofyard.cli.errors import UsageError
from proofyard.cli.options import KeystoreDir, NetworkFlags, PasswordFile, grouped
from proofyard.cli.output import AsJson, emit, format_credits, note, parse_credits
from proofyard.cli.run import node_run, verifier_run
from proofyard.cli.settings import NetworkSettings, load
from proofyard.cli.wallets import unlock, wallet_file
from proofyard.protocol.types import Address, Wei

if TYPE_CHECKING:
    from proofyard.chain import ChainClient, NodeRecord
    from proofyard.protocol.settlement import OperatorId

node = typer.Typer(no_args_is_help=True, help="Lend a GPU: register a node, run it, claim its pay.")
verifier = typer.Typer(no_args_is_help=True, help="Run a verifier: schedule, audit, settle.")
node.command("run")(node_run)
node.command("claim")(claim)
verifier.command("run")(verifier_run)
verifier.add_typer(dispute, name="dispute")

Owner = Annotated[str, typer.Option(help="Wallet that holds the stake and is paid.")]
OwnerPassword = Annotated[Path | None, typer.Option("--owner-password-file", help="File with the owner's password.")]
Key = Annotated[str, typer.Option("--wallet", help="Wallet of the hot key, which signs the work.")]
Stake = Annotated[
    Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Stake; the least that suffices if empty.")
]
KeyAddress = Annotated[str, typer.Argument(metavar="ADDRESS", help="Address of the hot key.")]


@node.command("register")
@grouped
def register_node(
    context: typer.Context,
    flags: NetworkFlags,
    wallet: Key,
    owner: Owner,
    stake: Stake = None,
    workload: Annotated[list[str] | None, typer.Option(help="What it executes; may be repeated; all if empty.")] = None,
    endpoint: Annotated[str, typer.Option(help="HOST:PORT, for a node that others can reach.")] = "",
    password_file: PasswordFile = None,
    owner_password_file: OwnerPassword = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Register a node under its owner and put up its stake, once."""
    chain = _owner(context, flags, owner, owner_password_file, keystore_dir)
    from proofyard.protocol.workload_bits import WORKLOADS, workload_bits
    from proofyard.workloads.workload import load_workload

    hot = unlock(_file(wallet, keystore_dir), password_file)
    amount = Wei(stake if stake is not None else chain.params().node_stake)
    for name in workload or ():
        load_workload(name)
    bits = workload_bits(workload or WORKLOADS)
    _registered(chain.register_node(hot, amount, bits, endpoint), hot.address, amount, as_json)
    note(f"next: proofyard node run --wallet {wallet}")


@verifier.command("register")
@grouped
def register_verifier(
    context: typer.Context,
    flags: NetworkFlags,
    wallet: Key,
    owner: Owner,
    endpoint: Annotated[str, typer.Option(help="HOST:PORT where nodes and requesters reach it.")],
    stake: Stake = None,
    password_file: PasswordFile = None,
    owner_password_file: OwnerPassword = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Register a verifier under its owner, with a BLS key that is derived from its hot key, and put up its stake."""
    chain = _owner(context, flags, owner, owner_password_file, keystore_dir)
    hot = unlock(_file(wallet, keystore_dir), password_file)
    amount = Wei(stake if stake is not None else chain.params().verifier_stake)
    _registered(chain.register_verifier(hot, amount, endpoint), hot.address, amount, as_json)
    note(f"next: proofyard verifier run --wallet {wallet} --port {endpoint.rpartition(':')[2]}")


@node.command("status")
@verifier.command("status")
@grouped
def status(context: typer.Context, flags: NetworkFlags, address: KeyAddress, as_json: AsJson = False) -> None:
    """Print how the Registry sees an operator."""
    chain = _reader(context, flags)
    record = _record(chain, address)
    account = chain.account(record.owner)
    facts = {
        "operator": str(record.id),
        "role": record.role.name.lower(),
        "active": record.active,
        "owner": record.owner,
        "stake": str(record.stake),
        "unbonding": str(account.unbonding),
        "consecutive_valid": record.consecutive_valid,
        "endpoint": record.endpoint,
    }
    text = {**facts, "stake": format_credits(record.stake), "unbonding": format_credits(account.unbonding)}
    emit(facts, as_json=as_json, text="\n".join(f"{key:<18} {value}" for key, value in text.items()))


@node.command("unstake")
@verifier.command("unstake")
@grouped
def unstake(
    context: typer.Context,
    flags: NetworkFlags,
    address: KeyAddress,
    owner: Owner,
    owner_password_file: OwnerPassword = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Retire an operator and start the release of the stake that backed it."""
    chain = _owner(context, flags, owner, owner_password_file, keystore_dir)
    record = _record(chain, address)
    params = chain.params()
    freed = params.verifier_stake if record.role.name == "VERIFIER" else params.node_stake
    chain.retire(record.id)
    amount = Wei(min(freed, record.stake))
    chain.request_unstake(amount)
    release = chain.account(record.owner).release_at
    facts = {"operator": str(record.id), "amount": str(amount), "release_at": str(release)}
    emit(facts, as_json=as_json, text=f"{format_credits(amount)} are released at Unix time {release}")
    note(f"next, after that: proofyard {record.role.name.lower()} withdraw --owner {owner}")


@node.command("withdraw")
@verifier.command("withdraw")
@grouped
def withdraw(
    context: typer.Context,
    flags: NetworkFlags,
    owner: Owner,
    owner_password_file: OwnerPassword = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Take out the stake whose release has come."""
    chain = _owner(context, flags, owner, owner_password_file, keystore_dir)
    assert chain.wallet is not None, "an owner was unlocked"
    amount = chain.account(chain.wallet.address).unbonding
    chain.withdraw()
    emit({"amount": str(amount)}, as_json=as_json, text=format_credits(amount))


def _registered(operator: "OperatorId", address: Address, stake: Wei, as_json: bool) -> None:
    facts = {"operator": str(operator), "address": address, "stake": str(stake)}
    emit(facts, as_json=as_json, text=f"operator {operator}: {address} with {format_credits(stake)} at stake")


def _record(chain: "ChainClient", address: str) -> "NodeRecord":
    operator = chain.operator_of(Address(address))
    if operator is None:
        raise UsageError(f"the Registry knows no operator with the hot key {address}; register it first")
    return chain.operator(operator)


def _reader(context: typer.Context, flags: NetworkFlags) -> "ChainClient":
    from proofyard.chain import ChainClient

    settings = load(NetworkSettings, "network", toml=config_of(context), flags=flags.given())
    return ChainClient(settings.rpc_url, Address(settings.registry))


def _owner(
    context: typer.Context, flags: NetworkFlags, owner: str, password_file: Path | None, keystore_dir: Path | None
) -> "ChainClient":
    """A chain client that signs as the owner; the settings are checked before a password is asked for."""
    settings = load(NetworkSettings, "network", toml=config_of(context), flags=flags.given())
    from proofyard.chain import ChainClient

    wallet = unlock(_file(owner, keystore_dir), password_file)
    return ChainClient(settings.rpc_url, Address(settings.registry), wallet)


def _file(wallet: str, keystore_dir: Path | None) -> Path:
    path = wallet_file(wallet, keystore_dir)
    assert path is not None, "a wallet was named"
    return path
