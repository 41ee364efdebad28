"""`node run` and `verifier run`: settings in, service on, until Ctrl-C or SIGTERM."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from proofyard.cli.context import config_of, serve_logs
from proofyard.cli.extras import require
from proofyard.cli.options import ServiceFlags, grouped
from proofyard.cli.settings import data_dir, load
from proofyard.cli.wallets import password_for


@dataclass(frozen=True, kw_only=True)
class NodeFlags(ServiceFlags):
    """One option for each of `NodeSettings`' fields."""

    workload: Annotated[
        list[str] | None, typer.Option(help="What to execute; may be repeated; all that is built in if empty.")
    ] = None
    threads: Annotated[int | None, typer.Option(help="CPU threads of the executor, 0 for all.")] = None
    memory_limit_bytes: Annotated[int | None, typer.Option(help="Memory limit of the executor, 0 for none.")] = None
    jury: Annotated[
        bool | None, typer.Option("--jury/--no-jury", help="Sit on juries; a node that is drawn and does not is fined.")
    ] = None
    micro_batch: Annotated[
        int | None, typer.Option(help="Sequences computed at once, 0 for a whole batch; fewer take less memory.")
    ] = None
    state_budget_bytes: Annotated[
        int | None, typer.Option(help="Disk for states that are owed until their challenge window closes.")
    ] = None
    cache_bytes: Annotated[int | None, typer.Option(help="Disk for fetched inputs that may be useful again.")] = None
    adversary: Annotated[str | None, typer.Option(hidden=True)] = None

    def given(self) -> dict[str, Any]:
        flags = super().given()
        return {**flags, "workloads": flags.pop("workload")}


@dataclass(frozen=True, kw_only=True)
class VerifierFlags(ServiceFlags):
    """One option for each of `VerifierSettings`' fields."""

    api_host: Annotated[str | None, typer.Option(help="Address of the HTTP status API.")] = None
    api_port: Annotated[int | None, typer.Option(help="TCP port of the HTTP status API, 0 for any free one.")] = None
    database_url: Annotated[str | None, typer.Option(help="SQLAlchemy URL; SQLite in the data directory if empty.")] = (
        None
    )
    lease_s: Annotated[float | None, typer.Option(help="Seconds of silence after which a task is taken back.")] = None


@grouped
def node_run(context: typer.Context, flags: NodeFlags) -> None:
    """Lend this machine's GPU or CPU: execute tasks, audit those of others, and be paid. Ctrl-C stops cleanly.

    Register the node first: `proofyard node register`. Settings may also stand in the settings file under [node] or
    in variables such as PROOFYARD_NODE_WALLET.
    """
    require("node", "proofyard node run")
    serve_logs(context)
    from proofyard.node import service
    from proofyard.node.settings import NodeSettings

    defaults = {"data_dir": data_dir("node")}
    settings = load(NodeSettings, "node", toml=config_of(context), flags=flags.given(), defaults=defaults)
    service.run(settings, password=password_for(settings.wallet, settings.password_file))


@grouped
def verifier_run(context: typer.Context, flags: VerifierFlags) -> None:
    """Schedule jobs, collect commitments, draw and judge audits, settle. Ctrl-C stops cleanly, nothing is lost.

    Register the verifier first: `proofyard verifier register`. Settings may also stand in the settings file under
    [verifier] or in variables such as PROOFYARD_VERIFIER_WALLET.
    """
    require("verifier", "proofyard verifier run")
    serve_logs(context)
    from proofyard.verifier import service
    from proofyard.verifier.settings import VerifierSettings

    defaults = {"data_dir": data_dir("verifier")}
    settings = load(VerifierSettings, "verifier", toml=config_of(context), flags=flags.given(), defaults=defaults)
    service.run(settings, password=password_for(settings.wallet, settings.password_file))
