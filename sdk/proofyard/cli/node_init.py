"""`proofyard node init`: from an idle machine to a registered node, with one question asked."""

import asyncio
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.chains import network_of, operator_with, signer
from proofyard.cli.context import config_of
from proofyard.cli.errors import UsageError
from proofyard.cli.extras import require
from proofyard.cli.funds import ETHER, parse_ether
from proofyard.cli.limits import node_settings
from proofyard.cli.node_report import report
from proofyard.cli.options import KEYS, KeystoreDir, NetworkFlags, PasswordFile
from proofyard.cli.output import AsJson, emit, format_credits, note, parse_credits, say
from proofyard.cli.run import require_endpoint
from proofyard.cli.staking import stake_of
from proofyard.cli.wallet_names import free_name
from proofyard.cli.wallets import confirm, unlock, wallets_dir
from proofyard.protocol.amounts import format_amount
from proofyard.protocol.types import Address, Wei
from proofyard.runtime.presets import NODE_PRESETS, WHAT_NODES_ARE
from proofyard.runtime.toml_files import NoToml, read_toml
from proofyard.sdk.errors import BadSetting
from proofyard.sdk.settings import NetworkSettings, data_dir, default_toml

if TYPE_CHECKING:
    from proofyard.chain import ChainClient, Wallet
    from proofyard.node.advice import Advice
    from proofyard.node.hardware import Hardware
    from proofyard.node.lately import Lately
    from proofyard.node.settings import NodeSettings

GAS_PURSE = "0.02"
OWNER_PASSWORD_FLAG = "--owner-password-file"  # noqa: S105 (a flag's name)


@dataclass(frozen=True)
class Found:
    """What was found out about machine and network. `uplink`: bytes a second, None where it was not measured."""

    hardware: "Hardware"
    lately: "Lately"
    uplink: float | None


@dataclass(frozen=True)
class Keys:
    """The hot key's files, which are made where they are not there yet."""

    name: str
    keystore: Path
    password_file: Path | None

    @property
    def is_new(self) -> bool:
        return not self.keystore.exists()


def init(
    context: typer.Context,
    flags: NetworkFlags,
    wallet: Annotated[str, typer.Option(help="Wallet of the hot key, made where there is none.")] = "node",
    owner: Annotated[str, typer.Option(help="Wallet that stakes and is paid; it must be there.")] = "owner",
    stake: Annotated[
        Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Stake; the least that suffices if empty.")
    ] = None,
    gas: Annotated[
        Any, typer.Option(parser=parse_ether, metavar="ETHER", help="Ether that the hot key gets for gas.")
    ] = GAS_PURSE,
    endpoint: Annotated[str, typer.Option(help="HOST:PORT, for a node that others can reach.")] = "",
    preset: Annotated[str, typer.Option(metavar="NAME", help="Limits: small, medium, large, home or farm.")] = "",
    folder: Annotated[Path | None, typer.Option("--data-dir", help="Where the node keeps its files.")] = None,
    password_file: PasswordFile = None,
    owner_password_file: Annotated[
        Path | None, typer.Option(OWNER_PASSWORD_FLAG, help="File with the owner's password.", rich_help_panel=KEYS)
    ] = None,
    keystore_dir: KeystoreDir = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure memory and speed now, not in a quiet minute.")
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show only; write and send nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make this machine a node, after one question."""
    require("node", "proofyard node init")
    require_endpoint(endpoint)
    if preset and preset not in NODE_PRESETS:
        known = "; ".join(f"{name}: {what}" for name, what in WHAT_NODES_ARE.items())
        raise UsageError(f"--preset: there is none named {preset!r}; there are {known}")
    file = (config_of(context) or default_toml()).absolute()
    if _is_configured(file):
        _what_is_there(context, flags, file, as_json)
        if preset:
            note(
                f'nothing was changed; write preset = "{preset}" under [node] in {file}; what else stands there goes '
                "before it"
            )
        return
    network = network_of(context, flags)
    keys = _keys(wallet, password_file, keystore_dir)
    owner_file = None if dry_run else _owner_file(owner, keystore_dir)
    chain = _reading(network)
    _network_table(file, network)
    data = (folder or data_dir("node")).absolute()
    note("looking at this machine and at the network; this takes some seconds")
    found = asyncio.run(_find(chain, data))
    advice = _advised(found, preset)
    lines = report(chain, found.hardware, found.lately, found.uplink, advice, str(file))
    say("\n".join(lines)) if not as_json else None
    facts = _facts(found, advice, file, keys)
    if owner_file is None:
        _told(facts, as_json)
        note("nothing was written or sent; call it without --dry-run to become a node")
        return
    paying = signer(network, owner_file, owner_password_file, OWNER_PASSWORD_FLAG)
    assert paying.wallet is not None, "an owner was unlocked"
    hot = _hot_key(keys)
    amount = stake_of(paying, hot.address, stake, paying.params().node_stake)
    short = Wei(max(0, int(gas) - paying.eth_balance(hot.address)))
    _require_funds(paying, amount, short)
    question = f"stake {format_credits(amount)} of {paying.wallet.address} for the node {hot.address}"
    question += f" and send it {format_amount(short, ETHER)} for gas" if short else ""
    confirm(f"{question}, on chain {paying.chain_id}?", yes=yes, otherwise="nothing was written or sent")
    _save_hot_key(keys, hot)
    _write_settings(file, _network_table(file, network) | {"node": _node_table(keys, data, endpoint, advice)})
    if short:
        paying.transfer(hot.address, short, ether=True)
    operator = paying.register_node(hot, amount, _bits(advice), endpoint)
    if measure:
        facts["measured"] = asyncio.run(_measured(paying, found, node_settings(context)))
    facts |= {"operator": str(operator), "address": hot.address, "stake": str(amount)}
    _told(facts, as_json, f"operator {operator}: {hot.address} with {format_credits(amount)} at stake")
    _next(file)


# What is there already


def _is_configured(file: Path) -> bool:
    """Whether the settings file has a node in it."""
    return bool(_tables(file).get("node"))


def _tables(file: Path) -> dict[str, Any]:
    try:
        return read_toml(file) if file.exists() else {}
    except NoToml as error:
        raise BadSetting("config", f"the settings file {file} {error}, or give --config another file") from None
    except OSError as error:
        raise BadSetting(
            "config", f"{file} cannot be read ({error}); correct it or give --config another file"
        ) from None


def _what_is_there(context: typer.Context, flags: NetworkFlags, file: Path, as_json: bool) -> None:
    """A second call: say what the first one made, and what is left to do."""
    from proofyard.chain.wallet import list_wallets

    settings = node_settings(context)
    address = (
        dict(list_wallets(settings.wallet.parent)).get(settings.wallet.stem) if settings.wallet.is_file() else None
    )
    facts: dict[str, Any] = {"settings": str(file), "address": address, "data_dir": str(settings.data_dir)}
    if address is None:
        raise UsageError(
            f"{file} has a [node] whose wallet {settings.wallet} is not there; restore it, or delete [node]"
        )
    chain = _reading(network_of(context, flags))
    operator = chain.operator_of(address)
    facts["operator"] = None if operator is None else str(operator)
    if operator is None:
        text = f"{file} has a node, {address}, that is not registered"
        emit(facts, as_json=as_json, text=text)
        name = shlex.quote(str(settings.wallet))
        note(f"next: proofyard node register --wallet {name} --owner OWNER")
        return
    record = operator_with(chain, address)
    state = "active" if record.active else "not active: its owner's stake is too little, or it has left"
    facts |= {"active": record.active, "stake": str(record.stake), "owner": record.owner}
    text = (
        f"{file} has a node already: operator {operator}, {address}, {state}, {format_credits(record.stake)} at stake"
    )
    emit(facts, as_json=as_json, text=text)
    _next(file)


# Finding


def _reading(network: NetworkSettings) -> "ChainClient":
    from proofyard.chain import ChainClient

    where = (network.rpc_url, Address(network.registry))
    return ChainClient(*where, first_block=network.from_block, chain_id=network.chain_id or None)


async def _find(chain: "ChainClient", folder: Path) -> Found:
    from proofyard.node.hardware import backend_of, find_hardware
    from proofyard.node.lately import read_lately
    from proofyard.node.uplink import measure_uplink

    verifiers = await asyncio.to_thread(chain.active_verifiers)
    uplink = await measure_uplink(chain.domain, verifiers)  # before anything else takes the processors
    lately = await asyncio.to_thread(read_lately, chain)
    hardware = await asyncio.to_thread(find_hardware, folder, await backend_of())
    return Found(hardware, lately, uplink)


async def _measured(chain: "ChainClient", found: Found, settings: "NodeSettings") -> dict[str, Any] | None:
    """What this machine can show, kept for the node; None where that is nothing."""
    import msgspec

    from proofyard.node.measuring import measured_here, shown

    note(f"measuring memory and speed; this takes up to {settings.prove_s} s")
    measured = await measured_here(found.hardware, settings, chain.now())
    if measured is None:
        return None
    note(f"it can show {shown(measured.blocks)}, at {measured.steps_per_s} steps a second on {measured.device}")
    return {name: value for name, value in msgspec.to_builtins(measured).items() if name != "machine"}


def _advised(found: Found, preset: str) -> "Advice":
    from proofyard.node.advice import advise, with_preset

    advice = advise(found.hardware, found.lately, found.uplink)
    return with_preset(advice, preset) if preset else advice


def _facts(found: Found, advice: "Advice", file: Path, keys: Keys) -> dict[str, Any]:
    import msgspec

    machine = msgspec.to_builtins(found.hardware)
    paid = {name: str(price) for name, price in found.lately.low_prices().items()}
    return {
        "machine": machine,
        "uplink": found.uplink,
        "paid": {"total": str(found.lately.total()), "seconds": found.lately.seconds, "low": paid},
        "settings": {"file": str(file), **advice.settings},
        "notes": list(advice.notes),
        "wallet": str(keys.keystore),
        "operator": None,
    }


def _told(facts: dict[str, Any], as_json: bool, text: str = "") -> None:
    if as_json or text:
        emit(facts, as_json=as_json, text=text)


def _next(file: Path) -> None:
    where = "" if file == default_toml().absolute() else f"--config {shlex.quote(str(file))} "
    note(f"next: proofyard {where}node run\nor as a service: proofyard {where}node install")


# Wallets and money


def _keys(name: str, password_file: Path | None, keystore_dir: Path | None) -> Keys:
    """The hot key's files. A new one gets a random password in a file of its own, unless one is given."""
    from proofyard.chain.wallet import wallet_path

    plain = name.removesuffix(".json")
    path = wallet_path(wallets_dir(keystore_dir), plain).absolute()
    if not path.exists():
        free_name(plain, keystore_dir)
        return Keys(plain, path, (password_file or path.with_suffix(".password")).absolute())
    beside = path.with_suffix(".password")
    return Keys(plain, path, (password_file or beside).absolute() if password_file or beside.exists() else None)


def _owner_file(name: str, keystore_dir: Path | None) -> Path:
    from proofyard.chain.wallet import wallet_path

    path = (
        Path(name) if len(Path(name).parts) > 1 else wallet_path(wallets_dir(keystore_dir), name.removesuffix(".json"))
    )
    if not path.exists():
        shown = shlex.quote(name)
        raise UsageError(
            f"--owner: there is no wallet {path}; make one with `proofyard wallet new {shown}` and have CREDIT for the "
            f"stake and ether for gas sent to it (on a devnet: `proofyard wallet faucet {shown}`)"
        )
    return path


def _hot_key(keys: Keys) -> "Wallet":
    """The hot key: there already, or made in memory, and saved once the question is answered."""
    from proofyard.chain import Wallet

    if keys.is_new:
        return Wallet.generate()
    return unlock(keys.keystore, keys.password_file)


def _save_hot_key(keys: Keys, hot: "Wallet") -> None:
    if not keys.is_new or keys.password_file is None:
        return
    from proofyard.chain.wallet import read_password

    keys.keystore.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not keys.password_file.exists():
        keys.password_file.touch(mode=0o600, exist_ok=False)
        keys.password_file.write_text(secrets.token_urlsafe(24) + "\n")
    hot.save(keys.keystore, read_password(keys.password_file))


def _require_funds(chain: "ChainClient", stake: Wei, ether: Wei) -> None:
    """Raise before anything is written where the owner has too little."""
    from proofyard.chain.errors import InsufficientBalance

    assert chain.wallet is not None, "an owner was unlocked"
    chain.require_balance(stake)
    have = chain.eth_balance(chain.wallet.address)
    if have <= ether:
        raise InsufficientBalance(chain.wallet.address, have, ether, "ETH with its gas")


def _bits(advice: "Advice") -> int:
    from proofyard.protocol.workload_bits import workload_bits

    return workload_bits(advice.settings["workloads"])


# The settings file


def _network_table(file: Path, network: NetworkSettings) -> dict[str, dict[str, Any]]:
    """[network], so that every command finds it; nothing where the file names one. Raises `UsageError` where that is
    another one."""
    tables = _tables(file)
    known = {**tables, **tables.get("network", {})}
    if "registry" not in known and "network" not in tables:
        given = {name: getattr(network, name) for name in ("rpc_url", "registry", "from_block", "chain_id")}
        return {"network": {name: value for name, value in given.items() if value}}
    if str(known.get("registry", "")).lower() != network.registry.lower():
        raise UsageError(f"{file} names the Registry {known.get('registry')}; give --config another file for this one")
    return {}


def _node_table(keys: Keys, data: Path, endpoint: str, advice: "Advice") -> dict[str, Any]:
    """What goes under [node]: paths and limits, no secret."""
    table: dict[str, Any] = {"wallet": str(keys.keystore)}
    table |= {"password_file": str(keys.password_file)} if keys.password_file else {}
    table |= {"data_dir": str(data)} | ({"endpoint": endpoint} if endpoint else {})
    return {name: _escaped(value) for name, value in (table | advice.settings).items()}


def _escaped(value: Any) -> Any:
    """A path may hold a $, which settings take for a variable."""
    return value.replace("$", "$$") if isinstance(value, str) and "/" in value and "://" not in value else value


def _write_settings(file: Path, tables: dict[str, dict[str, Any]]) -> None:
    """Add tables to the file, and leave what is in it as it is."""
    from proofyard.devnet.network import toml_text
    from proofyard.runtime.paths import require_replaceable

    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.read_text(encoding="utf-8-sig").rstrip() + "\n\n" if file.exists() else ""
    require_replaceable(file)
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(before + toml_text(tables), encoding="utf-8")
    temporary.replace(file)
