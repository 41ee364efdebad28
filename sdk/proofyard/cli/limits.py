"""`proofyard node pause`, `resume`, `limits`: told to a node while it runs, and kept for its next start."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.context import config_of
from proofyard.cli.errors import UsageError
from proofyard.cli.output import AsJson, emit, note, table
from proofyard.sdk.errors import BadSetting

if TYPE_CHECKING:
    from proofyard.node.control import Status
    from proofyard.node.settings import NodeSettings

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The node's folder, if not as in the settings.")]
Switch = bool | None


def node_settings(context: typer.Context, folder: Path | None = None) -> "NodeSettings":
    """The settings of the node on this machine, as far as they are written; its folder is always known."""
    from proofyard.cli import run

    return run.node_settings(config_of(context), {"data_dir": folder}, {"registry": "", "wallet": Path()})


def pause(
    context: typer.Context,
    minutes: Annotated[
        float | None,
        typer.Option("--for", min=0.1, max=1e6, metavar="MINUTES", help="For so long; else until resumed."),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Give back what is under way, instead of finishing it.")] = False,
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Take no new work. What is under way is finished; what is owed for past work goes on."""
    from proofyard.node.control import later
    from proofyard.node.gate import UNTIL_RESUMED

    until = UNTIL_RESUMED if minutes is None else later(minutes)
    _command(context, folder, {"paused_until": until}, as_json, hand_back=now)


def resume(context: typer.Context, folder: DataDir = None, as_json: AsJson = False) -> None:
    """Take work again after a pause, within the limits that are set."""
    _command(context, folder, {"paused_until": 0.0}, as_json)


def limits(
    context: typer.Context,
    hours: Annotated[str | None, typer.Option(help="Hours of the day to work in: 22-6, or all.")] = None,
    cheap_hours: Annotated[str | None, typer.Option(help="Hours of cheap power, preferred by jobs with time.")] = None,
    idle_only: Annotated[
        Switch, typer.Option("--idle-only/--always", help="Only while nobody else uses the GPU, or the CPU.")
    ] = None,
    max_watts: Annotated[int | None, typer.Option(min=0, help="Most power of the GPU; 0 for any.")] = None,
    max_celsius: Annotated[int | None, typer.Option(min=0, help="Most warmth of the GPU; 0 for any.")] = None,
    max_upload: Annotated[int | None, typer.Option(min=0, help="Bytes a second that are sent; 0 for any.")] = None,
    least_free_bytes: Annotated[int | None, typer.Option(min=0, help="Memory that stays free for others.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Back to what the settings say.")] = False,
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show or change this machine's node's limits.

    Also while it runs."""
    changes = {
        "hours": hours,
        "cheap_hours": cheap_hours,
        "idle_only": idle_only,
        "max_watts": max_watts,
        "max_celsius": max_celsius,
        "max_upload": max_upload,
        "least_free_bytes": least_free_bytes,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    if reset and given:
        raise UsageError("--reset takes back all limits; give it alone")
    _command(context, folder, given, as_json, reset=reset)


def _command(
    context: typer.Context,
    folder: Path | None,
    changes: dict[str, Any],
    as_json: bool,
    *,
    hand_back: bool = False,
    reset: bool = False,
) -> None:
    """Write what is commanded, and say what holds now."""
    settings = node_settings(context, folder)
    from proofyard.node import control

    if (changes or reset) and not settings.data_dir.is_dir():
        raise UsageError(f"there is no node in {settings.data_dir}; make one with `proofyard node init`")
    try:
        before = control.limits_of(settings)
        if reset:
            control.write_orders(settings.data_dir, control.Orders())
        elif changes:
            control.change(settings.data_dir, changes, hand_back=hand_back)
        orders = control.read_orders(settings.data_dir)
        now = control.apply(before, orders)
    except ValueError as error:
        raise BadSetting(next(iter(changes), "limits"), f"{_flags(changes)}: {error}") from None
    facts = {name: getattr(now, name) for name in now.__struct_fields__}
    rows = [(name, _shown(name, value), _source(orders.limits, name, value)) for name, value in facts.items()]
    status = control.read_status(settings.data_dir)
    emit(
        {"limits": facts, "commanded": sorted(orders.limits)}, as_json=as_json, text=table(rows, ("LIMIT", "VALUE", ""))
    )
    if changes or reset:
        note(_when(status))


def _flags(changes: dict[str, Any]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in changes) or "limits"


def _shown(name: str, value: object) -> str:
    if name == "paused_until" and isinstance(value, float):
        return "until resumed" if value < 0 else time.strftime("%d %b %H:%M", time.localtime(value)) if value else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value else "-"


def _source(commanded: dict[str, Any], name: str, value: object) -> str:
    if name in commanded and (value or name != "paused_until"):
        return "by command"
    return "settings" if value else ""


def _when(status: "Status | None") -> str:
    from proofyard.node.control import is_alive

    if status is not None and is_alive(status):
        return f"the running node (process {status.pid}) keeps to it within seconds: proofyard node status"
    return "no node runs here now; it keeps to it when it starts: proofyard node run"
