"""`node run` and `verifier run`: settings in, service on, until Ctrl-C or SIGTERM."""

import ipaddress
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.context import config_of, serve_logs
from proofyard.cli.extras import require
from proofyard.cli.options import NETWORK, PEERS, ServiceFlags
from proofyard.cli.wallets import password_for
from proofyard.runtime.folder import own_folder
from proofyard.sdk.errors import BadSetting
from proofyard.sdk.settings import data_dir, load

if TYPE_CHECKING:
    from proofyard.node.settings import NodeSettings


OWNER, LIMITS, DISK, COURT = "yours", "limits", "disk", "court"
API, STORE, TIMES, BATCHES, JOBS = "api", "store", "times", "batches", "jobs"
"""Panels of options."""


@dataclass(frozen=True, kw_only=True)
class NodeFlags(ServiceFlags):
    """One option for each of `NodeSettings`' fields."""

    preset: Annotated[
        str | None,
        typer.Option(
            help="Suits a machine: small, medium, large, home (people use it) or farm.", rich_help_panel=LIMITS
        ),
    ] = None
    ws_url: Annotated[
        str | None, typer.Option(help="The chain's websocket, if not in the same place.", rich_help_panel=NETWORK)
    ] = None
    workload: Annotated[list[str] | None, typer.Option(help="What to execute; may be repeated; all if empty.")] = None
    threads: Annotated[int | None, typer.Option(help="CPU threads of the executor, 0 for all.")] = None
    memory_limit_bytes: Annotated[
        int | None, typer.Option(help="Memory limit of the executor, 0 for none.", rich_help_panel=LIMITS)
    ] = None
    jury: Annotated[
        bool | None,
        typer.Option(
            "--jury/--no-jury", help="Sit on juries; a node that is drawn and does not is fined.", rich_help_panel=COURT
        ),
    ] = None
    micro_batch: Annotated[
        int | None,
        typer.Option(
            help="Sequences computed at once, 0 for a whole batch; fewer take less memory.", rich_help_panel=LIMITS
        ),
    ] = None
    state_budget_bytes: Annotated[
        int | None,
        typer.Option(help="Disk for states that are owed until their challenge window closes.", rich_help_panel=DISK),
    ] = None
    cache_bytes: Annotated[
        int | None, typer.Option(help="Disk for fetched inputs that may be useful again.", rich_help_panel=DISK)
    ] = None
    tasks_held: Annotated[
        int | None,
        typer.Option(
            help="Tasks held for one verifier at a time: inputs of the next come meanwhile.", rich_help_panel=LIMITS
        ),
    ] = None
    max_task_steps: Annotated[
        int | None, typer.Option(help="Most steps, or rows, of one task.", rich_help_panel=LIMITS)
    ] = None
    max_step_tokens: Annotated[
        int | None,
        typer.Option(help="Most tokens that one step computes, or of the longest text.", rich_help_panel=LIMITS),
    ] = None
    max_segments: Annotated[int | None, typer.Option(help="Most segments of one task.", rich_help_panel=LIMITS)] = None
    max_task_s: Annotated[
        float | None, typer.Option(help="Most seconds that a task may compute.", rich_help_panel=LIMITS)
    ] = None
    max_step_s: Annotated[
        float | None, typer.Option(help="Most seconds without a sign of life of a job.", rich_help_panel=LIMITS)
    ] = None
    max_model_bytes: Annotated[
        int | None, typer.Option(help="Largest model that is fetched.", rich_help_panel=LIMITS)
    ] = None
    max_data_bytes: Annotated[
        int | None, typer.Option(help="Largest data file that is fetched.", rich_help_panel=LIMITS)
    ] = None
    max_state_bytes: Annotated[int | None, typer.Option(help="Largest state or result.", rich_help_panel=LIMITS)] = None
    max_task_reward: Annotated[
        int | None,
        typer.Option(metavar="CREDIT", help="Most that a task may pay, in whole CREDIT.", rich_help_panel=LIMITS),
    ] = None
    min_price: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRICE", help="Least that a unit of work pays: CREDIT, or WORKLOAD=CREDIT.", rich_help_panel=OWNER
        ),
    ] = None
    unpaid: Annotated[
        bool | None, typer.Option("--unpaid/--no-unpaid", help="Take jobs that pay nothing.", rich_help_panel=OWNER)
    ] = None
    sandbox: Annotated[
        str | None,
        typer.Option(metavar="ENGINE", help="docker or podman, to hold jobs in a container.", rich_help_panel=OWNER),
    ] = None
    sandbox_image: Annotated[
        str | None, typer.Option(metavar="NAME@sha256:HEX", help="That container's image.", rich_help_panel=OWNER)
    ] = None
    unsandboxed: Annotated[
        bool | None,
        typer.Option(
            "--unsandboxed/--no-unsandboxed", help="Compute jobs even where nothing holds them.", rich_help_panel=OWNER
        ),
    ] = None
    hours: Annotated[
        str | None, typer.Option(help="Hours of the day in which it takes work, such as 22-6.", rich_help_panel=OWNER)
    ] = None
    cheap_hours: Annotated[str | None, typer.Option(help="Hours in which power is cheap.", rich_help_panel=OWNER)] = (
        None
    )
    idle_only: Annotated[
        bool | None,
        typer.Option(
            "--idle-only/--no-idle-only", help="Work while nobody else uses the GPU or CPU.", rich_help_panel=OWNER
        ),
    ] = None
    max_watts: Annotated[int | None, typer.Option(help="Most that the GPU may draw.", rich_help_panel=OWNER)] = None
    max_celsius: Annotated[int | None, typer.Option(help="How warm the GPU may get.", rich_help_panel=OWNER)] = None
    max_upload: Annotated[
        int | None, typer.Option(help="Most bytes a second that it sends.", rich_help_panel=OWNER)
    ] = None
    least_free_bytes: Annotated[
        int | None, typer.Option(help="Memory that stays free for others.", rich_help_panel=OWNER)
    ] = None
    stop_s: Annotated[
        int | None, typer.Option(help="Seconds for the segment under way when it is stopped.", rich_help_panel=LIMITS)
    ] = None
    prove_s: Annotated[
        int | None,
        typer.Option(help="Seconds that a check of its memory may take, 0 to claim none.", rich_help_panel=LIMITS),
    ] = None
    watts: Annotated[
        int | None, typer.Option(help="What the machine draws at work, where it cannot be read.", rich_help_panel=OWNER)
    ] = None
    power_price: Annotated[
        str | None, typer.Option(metavar="CREDIT", help="Price of a kilowatt hour.", rich_help_panel=OWNER)
    ] = None
    page: Annotated[
        bool | None, typer.Option("--page/--no-page", help="Serve a page on this machine.", rich_help_panel=OWNER)
    ] = None
    page_port: Annotated[
        int | None, typer.Option(help="Its TCP port, 0 for 8791 or a free one.", rich_help_panel=OWNER)
    ] = None
    max_decoys_bps: Annotated[
        int | None,
        typer.Option(
            help="Most decoys made for a verifier, in 1/10,000 of its tasks, and one more.", rich_help_panel=LIMITS
        ),
    ] = None
    defend: Annotated[
        bool | None,
        typer.Option(
            "--defend/--no-defend", help="Challenge what is held against this node wrongly.", rich_help_panel=COURT
        ),
    ] = None
    bond_budget: Annotated[
        int | None,
        typer.Option(
            metavar="CREDIT", help="Most of the owner's stake in this node's bonds at one time.", rich_help_panel=COURT
        ),
    ] = None
    draw_juries: Annotated[
        bool | None,
        typer.Option("--draw-juries/--no-draw-juries", help="Draw juries for the reward.", rich_help_panel=COURT),
    ] = None
    claim: Annotated[bool | None, typer.Option("--claim/--no-claim", help="Collect this node's pay by itself.")] = None
    claim_above: Annotated[
        str | None,
        typer.Option(metavar="CREDIT", help="Pay that is due before it is collected.", rich_help_panel=OWNER),
    ] = None
    token_per_ether: Annotated[
        int | None,
        typer.Option(
            help="What a wei of gas costs in base units of CREDIT; 0 for not compared.", rich_help_panel=OWNER
        ),
    ] = None
    second_holder: Annotated[
        str | None,
        typer.Option(
            metavar="HOLDER",
            help="Who is handed every state: an IPFS RPC's multiaddress, or WALLET@HOST:PORT.",
            rich_help_panel=DISK,
        ),
    ] = None
    relays: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WALLET@HOST:PORT", help="Who carries for it where nobody reaches it.", rich_help_panel=PEERS
        ),
    ] = None
    relay: Annotated[
        bool | None,
        typer.Option("--relay/--no-relay", help="Carry for nodes that nobody reaches.", rich_help_panel=PEERS),
    ] = None
    relay_unreceipted_bytes: Annotated[
        int | None,
        typer.Option(help="End what carries more than its ends have signed for, 0 for never.", rich_help_panel=PEERS),
    ] = None
    relay_bytes_s: Annotated[
        int | None,
        typer.Option(help="Most bytes a second that it carries for others, 0 for any.", rich_help_panel=PEERS),
    ] = None
    discover: Annotated[
        bool | None,
        typer.Option("--discover/--no-discover", help="Tell peers who is there, and be told.", rich_help_panel=PEERS),
    ] = None
    peers: Annotated[
        list[str] | None,
        typer.Option(metavar="WALLET@HOST:PORT", help="A peer to begin with; may be repeated.", rich_help_panel=PEERS),
    ] = None
    lan: Annotated[
        bool | None,
        typer.Option("--lan/--no-lan", help="Find nodes of the same local network by mDNS.", rich_help_panel=PEERS),
    ] = None
    hide_address: Annotated[
        bool | None,
        typer.Option(
            "--hide-address/--no-hide-address",
            help="Have nobody pass on this node's address, but its relays alone.",
            rich_help_panel=PEERS,
        ),
    ] = None
    map_port: Annotated[
        bool | None,
        typer.Option("--map-port/--no-map-port", help="Ask the router for a port.", rich_help_panel=PEERS),
    ] = None
    hold_for: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WALLET", help="A node whose states are held here; may be repeated.", rich_help_panel=DISK
        ),
    ] = None
    hold_bytes: Annotated[int | None, typer.Option(help="Disk for other nodes' states.", rich_help_panel=DISK)] = None
    adversary: Annotated[str | None, typer.Option(hidden=True)] = None
    accomplices: Annotated[Path | None, typer.Option(hidden=True)] = None

    def given(self) -> dict[str, Any]:
        flags = super().given()
        flags["workloads"] = flags.pop("workload")
        return flags


@dataclass(frozen=True, kw_only=True)
class VerifierFlags(ServiceFlags):
    """One option for each of `VerifierSettings`' fields."""

    api_host: Annotated[
        str | None,
        typer.Option(help="Address of the HTTP API; anybody who reaches it may read it.", rich_help_panel=API),
    ] = None
    api_port: Annotated[
        int | None, typer.Option(help="TCP port of the HTTP API, 0 for any free one.", rich_help_panel=API)
    ] = None
    api_streams: Annotated[int | None, typer.Option(help="Readers of live events at a time.", rich_help_panel=API)] = (
        None
    )
    api_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", help="A name that it is asked for by, if on loopback; may be repeated.", rich_help_panel=API
        ),
    ] = None
    database_url: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL; SQLite in the data directory if empty.", rich_help_panel=STORE)
    ] = None
    process: Annotated[
        str | None,
        typer.Option(
            help="This process's name, where several of one wallet share a PostgreSQL.", rich_help_panel=STORE
        ),
    ] = None
    blocks_dir: Annotated[
        Path | None, typer.Option(help="Artifacts, which such processes share as well.", rich_help_panel=STORE)
    ] = None
    lease_s: Annotated[
        float | None, typer.Option(help="Seconds of silence after which a task is taken back.", rich_help_panel=TIMES)
    ] = None
    audit_s: Annotated[
        float | None,
        typer.Option(
            help="Seconds in which an auditor's answer is wanted, five minutes while nobody waits for it.",
            rich_help_panel=TIMES,
        ),
    ] = None
    state_due_s: Annotated[
        float | None,
        typer.Option(help="Seconds that a worker has to deliver a committed state.", rich_help_panel=TIMES),
    ] = None
    recheck_s: Annotated[
        float | None,
        typer.Option(
            help="Seconds that a state called withheld is asked for before a record is signed.", rich_help_panel=TIMES
        ),
    ] = None
    max_state_bytes: Annotated[
        int | None,
        typer.Option(help="Largest state that is looked at here before it is audited.", rich_help_panel=BATCHES),
    ] = None
    receipt_blocks: Annotated[
        int | None,
        typer.Option(help="Blocks on the one that took a job before its first receipt.", rich_help_panel=BATCHES),
    ] = None
    batch_tasks: Annotated[
        int | None, typer.Option(help="Commitments of all jobs that make a batch.", rich_help_panel=BATCHES)
    ] = None
    batch_s: Annotated[
        float | None,
        typer.Option(
            help="Seconds that a commitment waits for its batch; few wait five times as long.", rich_help_panel=BATCHES
        ),
    ] = None
    decoys_bps: Annotated[
        int | None,
        typer.Option(help="Tasks before which a decoy is put into a batch, in 1/10,000.", rich_help_panel=BATCHES),
    ] = None
    least_fee_bps: Annotated[
        int | None,
        typer.Option(
            help="Least verifier fee of a job, in 1/10,000 of what its gas costs; 0 for any.", rich_help_panel=JOBS
        ),
    ] = None
    token_per_ether: Annotated[
        int | None,
        typer.Option(help="What a wei of gas costs in base units of the network's token.", rich_help_panel=JOBS),
    ] = None
    job_tasks: Annotated[int | None, typer.Option(help="Most tasks of a job.", rich_help_panel=JOBS)] = None
    all_tasks: Annotated[
        int | None, typer.Option(help="Most tasks of all running jobs; others wait.", rich_help_panel=JOBS)
    ] = None
    relay_price: Annotated[
        str | None,
        typer.Option(help="Pay of relays for a GiB between nodes of a job, in CREDIT.", rich_help_panel=JOBS),
    ] = None
    relay_fee_bps: Annotated[
        int | None,
        typer.Option(help="Most of a job's verifier fee that relays get, in 1/10,000.", rich_help_panel=JOBS),
    ] = None
    relay_a_day: Annotated[
        str | None, typer.Option(help="Most that relays get in a day, in CREDIT.", rich_help_panel=JOBS)
    ] = None
    takeover: Annotated[
        bool | None,
        typer.Option(
            "--takeover/--no-takeover", help="Take over batches that others leave unsettled.", rich_help_panel=BATCHES
        ),
    ] = None
    keep_s: Annotated[
        float | None, typer.Option(help="Seconds that a finished job's artifacts are kept.", rich_help_panel=STORE)
    ] = None
    cache_bytes: Annotated[int | None, typer.Option(help="Disk for what no open job needs.", rich_help_panel=STORE)] = (
        None
    )
    blind: Annotated[bool | None, typer.Option("--blind", hidden=True)] = None

    def given(self) -> dict[str, Any]:
        flags = super().given()
        flags["api_names"] = flags.pop("api_name")
        return flags


BROADCAST = ipaddress.IPv4Address("255.255.255.255")
LEAST_MEMORY_BYTES = 1 << 30
"""torch alone takes about half of it."""


def require_model(directory: Path, field: str = "model") -> None:
    """Raise `BadSetting` unless `directory` holds a Hugging Face model with safetensors weights."""
    from proofyard.workloads.errors import InputRefused
    from proofyard.workloads.model_files import read_config, weight_files

    flag = f"--{field.removesuffix('s').replace('_', '-')}"
    if not directory.is_dir():
        raise BadSetting(field, f"{flag}: {directory} is no directory; give that of a Hugging Face model")
    try:
        read_config(directory)
        weight_files(directory)
    except InputRefused as error:
        raise BadSetting(field, f"{flag}: {error}; give the directory of a Hugging Face model") from None


def _require_places(model_dirs: Iterable[Path], ready_file: Path | None) -> None:
    """Raise `BadSetting` for a model directory that is none, or a ready file that could not be written."""
    for directory in model_dirs:
        require_model(directory, "model_dirs")
    if ready_file is not None and not ready_file.absolute().parent.is_dir():
        raise BadSetting("ready_file", f"--ready-file: there is no folder {ready_file.parent}; make it first")


def require_endpoint(endpoint: str, *, needed: bool = False) -> None:
    """Raise `BadSetting` for an endpoint that nobody could dial; an empty one says that there is none."""
    if not endpoint and not needed:
        return
    from proofyard.sdk import BadPeer, PeerAddress
    from proofyard.transport.reach import address_in

    try:
        host = PeerAddress.parse(endpoint).host
    except BadPeer as error:
        raise BadSetting("endpoint", f"--endpoint: {error}") from None
    address = address_in(endpoint)
    if address is None:
        return
    if address.is_unspecified or address.is_multicast or address == BROADCAST or "%" in host:
        raise BadSetting(
            "endpoint",
            f"--endpoint: {host} is no address that others can dial; give the one that they reach, and {host} as "
            "--host of `run`",
        )


def _require_node_values(settings: "NodeSettings") -> None:
    """Raise `BadSetting` for what no type can say."""
    from proofyard.node.holding import parse_holder
    from proofyard.node.hours import parse_hours
    from proofyard.node.limits import OfferRefused
    from proofyard.node.prices import parse_prices
    from proofyard.protocol.addresses import read_address
    from proofyard.protocol.amounts import read_amount
    from proofyard.protocol.routes import read_relay

    readers: dict[str, Callable[[Any], object]] = {
        "min_price": parse_prices,
        "power_price": lambda text: read_amount(text or "0"),
        "claim_above": lambda text: read_amount(text or "0"),
        "hours": parse_hours,
        "cheap_hours": parse_hours,
    }

    if 0 < settings.memory_limit_bytes < LEAST_MEMORY_BYTES:
        raise BadSetting(
            "memory_limit_bytes",
            f"memory_limit_bytes: {settings.memory_limit_bytes} bytes are too few for the executor to start; give at "
            f"least {LEAST_MEMORY_BYTES}, or 0 for no limit",
        )
    for field, read in readers.items():
        try:
            read(getattr(settings, field))
        except ValueError as error:
            raise BadSetting(field, f"{field}: {error}") from None
    if not settings.workloads:
        raise BadSetting("workloads", "workloads: there is none to be executed; name one, or leave the setting out")
    for field in ("relays", "peers"):
        try:
            for peer in getattr(settings, field):
                read_relay(peer)
        except ValueError as error:
            raise BadSetting(field, f"{field}: {error}") from None
    try:
        for address in settings.hold_for:
            read_address(address)
    except ValueError as error:
        raise BadSetting("hold_for", f"hold_for: {error}") from None
    if settings.second_holder and not settings.second_holder.startswith("/"):
        try:
            parse_holder(settings.second_holder)
        except OfferRefused as error:
            raise BadSetting("second_holder", f"second_holder: {error.reason}") from None


def node_settings(
    toml: Path | None, flags: Mapping[str, Any], usual: Mapping[str, Any] = MappingProxyType({})
) -> "NodeSettings":
    """A node's settings; a preset stands behind everything that is given, `usual` values behind that."""
    from proofyard.node.settings import NodeSettings
    from proofyard.runtime.presets import NODE_PRESETS

    defaults = {"data_dir": data_dir("node"), **usual}
    settings = load(NodeSettings, "node", toml=toml, flags=flags, defaults=defaults)
    if settings.preset:
        defaults |= NODE_PRESETS[settings.preset]
        settings = load(NodeSettings, "node", toml=toml, flags=flags, defaults=defaults)
    return settings


def node_run(context: typer.Context, flags: NodeFlags) -> None:
    """Lend this machine: execute and audit tasks, and be paid.

    Register it first: `proofyard node register`. Settings may also stand in the settings file, under [node].
    """
    require("node", "proofyard node run")
    serve_logs(context)
    from proofyard.node import service

    settings = node_settings(config_of(context), flags.given())
    _require_places(settings.model_dirs, settings.ready_file)
    require_endpoint(settings.endpoint)
    _require_node_values(settings)
    password = password_for(settings.wallet, settings.password_file)
    with own_folder(settings.data_dir):
        service.run(settings, password=password, on_page=_tell_page)


def _tell_page(url: str) -> None:
    """The page's address with its token, once, and to a person alone: what goes to a file is a log."""
    if sys.stdout.isatty():
        typer.echo(f"This node's page, for this machine alone:\n{url}")


def verifier_run(context: typer.Context, flags: VerifierFlags) -> None:
    """Schedule jobs, draw and judge audits, settle.

    Register the verifier first. Settings may also stand in the settings file, under [verifier], or in variables such as
    PROOFYARD_VERIFIER_WALLET.
    """
    require("verifier", "proofyard verifier run")
    serve_logs(context)
    from proofyard.verifier import service
    from proofyard.verifier.settings import VerifierSettings

    defaults = {"data_dir": data_dir("verifier")}
    settings = load(VerifierSettings, "verifier", toml=config_of(context), flags=flags.given(), defaults=defaults)
    _require_places(settings.model_dirs, settings.ready_file)
    require_endpoint(settings.endpoint)
    password = password_for(settings.wallet, settings.password_file)
    with own_folder(settings.data_dir):
        service.run(settings, password=password)
