"""`proofyard node` and `proofyard verifier`: join a network, serve it, look at one's standing, leave."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.chains import network_of, operator_with, reader, signer
from proofyard.cli.claim import claim
from proofyard.cli.dispute import dispute
from proofyard.cli.earnings import earnings
from proofyard.cli.errors import UsageError
from proofyard.cli.install import install
from proofyard.cli.limits import limits, pause, resume
from proofyard.cli.node_data import data
from proofyard.cli.node_init import init
from proofyard.cli.node_status import address_in_settings, local_status, page, shown
from proofyard.cli.options import KEYS, KeystoreDir, NetworkFlags, PasswordFile, address_of
from proofyard.cli.output import AsJson, emit, format_credits, note, parse_credits, table
from proofyard.cli.run import node_run, require_endpoint, verifier_run
from proofyard.cli.staking import stake_of
from proofyard.cli.tree import App
from proofyard.cli.wallets import PASSWORD_FLAG, named_file, unlock
from proofyard.protocol.types import Address, Wei
from proofyard.runtime.times import moment, span

if TYPE_CHECKING:
    from proofyard.chain import ChainClient, NodeRecord
    from proofyard.protocol.settlement import OperatorId

node = App("Lend a GPU: register a node, run it, claim its pay.")
verifier = App("Run a verifier: schedule, audit, settle.")

Owner = Annotated[str, typer.Option(help="Wallet that holds the stake and is paid.")]
OwnerPassword = Annotated[
    Path | None, typer.Option("--owner-password-file", help="File with the owner's password.", rich_help_panel=KEYS)
]
Key = Annotated[str, typer.Option("--wallet", help="Wallet of the hot key, which signs the work.")]
Stake = Annotated[
    Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Stake; the least that suffices if empty.")
]
KeyAddress = Annotated[str, typer.Argument(metavar="ADDRESS", help="Address of the hot key, or its wallet's name.")]
LAST_SLOT = 255
OWNER_PASSWORD_FLAG = "--owner-password-file"  # noqa: S105 (a flag's name)


@node.verb("register", "node register --wallet home --owner owner")
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
    from proofyard.protocol.workload_bits import WORKLOADS, workload_bits
    from proofyard.workloads.workload import load_workload

    for name in workload or ():
        load_workload(name)
    require_endpoint(endpoint)
    chain = _owner(context, flags, owner, owner_password_file, keystore_dir, OWNER_PASSWORD_FLAG)
    hot = unlock(named_file(wallet, keystore_dir), password_file)
    amount = stake_of(chain, hot.address, stake, chain.params().node_stake)
    bits = workload_bits(workload or WORKLOADS)
    _registered(chain.register_node(hot, amount, bits, endpoint), hot.address, amount, as_json)
    note(f"next: proofyard node run --wallet {quote(wallet)}")


@verifier.verb("register", "verifier register --wallet home --owner owner --endpoint 203.0.113.7:4433")
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
    """Register a verifier under its owner and put up its stake.

    Its BLS key is derived from its hot key."""
    require_endpoint(endpoint, needed=True)
    chain = _owner(context, flags, owner, owner_password_file, keystore_dir, OWNER_PASSWORD_FLAG)
    hot = unlock(named_file(wallet, keystore_dir), password_file)
    amount = stake_of(chain, hot.address, stake, chain.params().verifier_stake)
    _registered(chain.register_verifier(hot, amount, endpoint), hot.address, amount, as_json)
    if not next(seat.counts for seat in chain.active_verifiers() if seat.node == hot.address):
        note(f"its seat counts for batches from {span(chain.params().seat_delay)} on, until then it can only follow")
    note(f"next: proofyard verifier run --wallet {quote(wallet)} --port {endpoint.rpartition(':')[2]}")


@node.verb("status", "node status")
def node_status(
    context: typer.Context,
    flags: NetworkFlags,
    address: Annotated[
        str | None,
        typer.Argument(metavar="ADDRESS", help="Hot key's address, or its wallet's name; this machine's if empty."),
    ] = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Print what this machine's node does, and its standing."""
    here = local_status(context)
    known = here.address if here else ""
    if address is None and not known:
        known = address_in_settings(context)
    key = address_of(known if address is None else address, keystore_dir)
    local, lines = ({}, []) if here is None or here.address != key else shown(here)
    facts, text = _standing(reader(context, flags), key)
    emit({**facts, "here": local or None}, as_json=as_json, text="\n".join([*lines, text]))


@verifier.verb("status", "verifier status home")
def status(
    context: typer.Context,
    flags: NetworkFlags,
    address: KeyAddress,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Print how the Registry sees a verifier."""
    facts, text = _standing(reader(context, flags), address_of(address, keystore_dir))
    emit(facts, as_json=as_json, text=text)


def _standing(chain: "ChainClient", key: Address) -> tuple[dict[str, Any], str]:
    """How the Registry sees an operator: as data, and for people."""
    record = operator_with(chain, key)
    account = chain.account(record.owner)
    seat = next((seat for seat in chain.active_verifiers() if seat.id == record.id), None)
    facts = {
        "operator": str(record.id),
        "role": record.role.name.lower(),
        "active": record.active,
        "owner": record.owner,
        "stake": str(record.stake),
        "frozen": str(account.frozen),
        "unbonding": str(account.unbonding),
        "bound_until": str(account.bound_until) if account.bound_until > chain.now() else None,
        "seat": seat.slot if seat else None,
        "seat_counts": seat.counts if seat else None,
        "consecutive_valid": record.consecutive_valid,
        "endpoint": record.endpoint,
    }
    amounts = ("stake", "frozen", "unbonding")
    text = facts | {name: format_credits(int(str(facts[name]))) for name in amounts}
    if account.bound_until > chain.now():
        text["bound_until"] = moment(account.bound_until)
    words = {name: ("yes" if value else "no") if isinstance(value, bool) else value for name, value in text.items()}
    return facts, "\n".join(f"{k:<18} {v}" for k, v in words.items() if v not in (None, ""))


@node.verb("stake", "node stake 50 --owner owner")
@verifier.verb("stake", "verifier stake 50 --owner owner")
def add_stake(
    context: typer.Context,
    flags: NetworkFlags,
    amount: Annotated[Any, typer.Argument(parser=parse_credits, metavar="CREDIT", help="How much to add.")],
    owner: Owner,
    owner_password_file: OwnerPassword = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Add to an owner's stake.

    It backs the owner's nodes and verifier, and bonds of challenges are taken from it."""
    if not amount:
        raise UsageError("CREDIT: 0 adds no stake; give more than that")
    chain = _owner(context, flags, owner, owner_password_file, keystore_dir, OWNER_PASSWORD_FLAG)
    assert chain.wallet is not None, "an owner was unlocked"
    chain.add_stake(Wei(amount))
    stake = chain.account(chain.wallet.address).stake
    facts = {"owner": chain.wallet.address, "stake": str(stake)}
    emit(facts, as_json=as_json, text=f"{format_credits(stake)} at stake")


@node.verb("bench", "node bench home")
def bench(
    context: typer.Context,
    flags: NetworkFlags,
    address: KeyAddress,
    owner: Annotated[str | None, typer.Option(help="Wallet of the owner; takes the places that are lacking.")] = None,
    owner_password_file: OwnerPassword = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Show whether a node's owner can be drawn for juries.

    Workload by workload; with --owner take the lacking places.

    Registering takes them by itself. A place that was left can be had again after the time to unstake.
    """
    key = address_of(address, keystore_dir)
    chain = (
        reader(context, flags)
        if owner is None
        else _owner(context, flags, owner, owner_password_file, keystore_dir, OWNER_PASSWORD_FLAG)
    )
    record = operator_with(chain, key)
    from proofyard.protocol.workload_bits import WORKLOADS, workload_bit, workload_bits

    offered = [name for name in WORKLOADS if record.workloads >> workload_bit(name) & 1]
    lacking = [name for name in offered if not chain.on_bench(record.owner, workload_bit(name))]
    if owner is not None and lacking:
        _require_owner(chain, record)
        chain.join_bench(workload_bits(lacking))
    held = {name: chain.on_bench(record.owner, workload_bit(name)) for name in offered}
    rows = [(name, "yes" if there else "no") for name, there in held.items()]
    emit({"owner": record.owner, "bench": held}, as_json=as_json, text=table(rows, ("WORKLOAD", "ON THE BENCH")))
    if not all(held.values()):
        note(f"next, where it left long enough ago: proofyard node bench {quote(address)} --owner WALLET")


@verifier.verb("attend", "verifier attend --wallet home")
def attend(
    context: typer.Context,
    flags: NetworkFlags,
    wallet: Key,
    password_file: PasswordFile = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Show that a verifier is there.

    So its seat is not taken away as idle; `verifier run` does it by itself."""
    chain = _owner(context, flags, wallet, password_file, keystore_dir)
    assert chain.wallet is not None, "a hot key was unlocked"
    chain.attend()
    emit({"verifier": chain.wallet.address, "attended": True}, as_json=as_json, text="attended")


@verifier.verb("seats", "verifier seats")
def seats(context: typer.Context, flags: NetworkFlags, as_json: AsJson = False) -> None:
    """List the verifiers that are seated, and whose seats count."""
    found = reader(context, flags).active_verifiers()
    facts = [
        {
            "slot": seat.slot,
            "operator": str(seat.id),
            "address": seat.node,
            "owner": seat.owner,
            "stake": str(seat.stake),
            "counts": seat.counts,
            "endpoint": seat.endpoint,
        }
        for seat in found
    ]
    rows = [
        (str(s.slot), str(s.id), s.node, format_credits(s.stake), "yes" if s.counts else "not yet", s.endpoint)
        for s in found
    ]
    emit(facts, as_json=as_json, text=table(rows, ("SLOT", "OPERATOR", "ADDRESS", "STAKE", "COUNTS", "ENDPOINT")))


@verifier.verb("unseat", "verifier unseat 3 --wallet home")
def unseat(
    context: typer.Context,
    flags: NetworkFlags,
    slot: Annotated[int, typer.Argument(min=0, max=LAST_SLOT, help="The seat's number, as `verifier seats` shows it.")],
    wallet: Annotated[str, typer.Option("--wallet", help="Any wallet with ether for gas.")],
    password_file: PasswordFile = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Take away an idle seat; anybody may.

    Idle is one that signed nothing and did not attend for a whole period."""
    chain = _owner(context, flags, wallet, password_file, keystore_dir)
    if all(seat.slot != slot for seat in chain.active_verifiers()):
        raise UsageError(f"SLOT: no verifier is on seat {slot}; `proofyard verifier seats` lists them")
    chain.unseat_idle(slot)
    emit({"slot": slot, "unseated": True}, as_json=as_json, text=f"seat {slot} is free")


@node.verb("unstake", "node unstake home --owner owner")
@verifier.verb("unstake", "verifier unstake home --owner owner")
def unstake(
    context: typer.Context,
    flags: NetworkFlags,
    address: KeyAddress,
    owner: Owner,
    owner_password_file: OwnerPassword = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Retire an operator and start the release of its stake.

    A verifier's stays bound for a time first."""
    key = address_of(address, keystore_dir)
    chain = _owner(context, flags, owner, owner_password_file, keystore_dir, OWNER_PASSWORD_FLAG)
    record = operator_with(chain, key)
    _require_owner(chain, record)
    params, account = chain.params(), chain.account(record.owner)
    freed = params.verifier_stake if record.role.name == "VERIFIER" else params.node_stake
    backing = account.nodes * params.node_stake + params.bound(account, chain.now())
    if record.active:
        chain.retire(record.id)
        account = chain.account(record.owner)
    elif account.unbonding or account.stake - backing < freed:  # else a call that was cut off has retired it
        step = f"proofyard {record.role.name.lower()} withdraw --owner {quote(owner)}"
        raise UsageError(f"operator {record.id} is retired already; next: {step}")
    if account.bound_until > chain.now():
        facts = {"operator": str(record.id), "amount": "0", "release_at": str(account.bound_until)}
        emit(
            facts,
            as_json=as_json,
            text=f"the seat is left; its stake stays bound until {moment(account.bound_until)}",
        )
        note(f"next, after that: proofyard verifier dispute withdraw --wallet {quote(owner)}")
        return
    amount = Wei(min(freed, account.stake))
    chain.request_unstake(amount)
    release = chain.account(record.owner).release_at
    facts = {"operator": str(record.id), "amount": str(amount), "release_at": str(release)}
    emit(facts, as_json=as_json, text=f"{format_credits(amount)} are released at {moment(release)}")
    note(f"next, after that: proofyard {record.role.name.lower()} withdraw --owner {quote(owner)}")


@node.verb("withdraw", "node withdraw --owner owner")
@verifier.verb("withdraw", "verifier withdraw --owner owner")
def withdraw(
    context: typer.Context,
    flags: NetworkFlags,
    owner: Owner,
    owner_password_file: OwnerPassword = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Take out the stake whose release has come."""
    chain = _owner(context, flags, owner, owner_password_file, keystore_dir, OWNER_PASSWORD_FLAG)
    amount = chain.withdraw()
    emit({"amount": str(amount)}, as_json=as_json, text=format_credits(amount))


node.verb("run", "node run --wallet home")(node_run)
node.verb("init", "node init --owner owner --dry-run")(init)
node.verb("install", "node install")(install)
node.verb("earnings", "node earnings")(earnings)
node.verb("claim", "node claim 1")(claim)
node.verb("pause", "node pause --for 90")(pause)
node.verb("resume", "node resume")(resume)
node.verb("page", "node page")(page)
node.verb("limits", "node limits --hours 22-6 --idle-only")(limits)
node.add_typer(data, name="data")
verifier.verb("run", "verifier run --wallet home --port 4433")(verifier_run)
verifier.add_typer(dispute, name="dispute")


def _registered(operator: "OperatorId", address: Address, stake: Wei, as_json: bool) -> None:
    facts = {"operator": str(operator), "address": address, "stake": str(stake)}
    emit(facts, as_json=as_json, text=f"operator {operator}: {address} with {format_credits(stake)} at stake")


def _require_owner(chain: "ChainClient", record: "NodeRecord") -> None:
    """Raise `UsageError` unless the client signs as the operator's owner."""
    assert chain.wallet is not None, "an owner was unlocked"
    if chain.wallet.address != record.owner:
        raise UsageError(f"--owner: operator {record.id} is owned by {record.owner}, not by {chain.wallet.address}")


def _owner(
    context: typer.Context,
    flags: NetworkFlags,
    owner: str,
    password_file: Path | None,
    keystore_dir: Path | None,
    password_flag: str = PASSWORD_FLAG,
) -> "ChainClient":
    """A chain client that signs as the owner; the settings are checked before a password is asked for."""
    settings = network_of(context, flags)
    keystore = named_file(owner, keystore_dir)
    return signer(settings, keystore, password_file, password_flag)
