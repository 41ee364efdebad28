"""What this machine's node says of itself: whether it runs, why it takes no work, what it holds."""

from typing import TYPE_CHECKING, Any

import typer

from proofyard.cli.errors import UsageError
from proofyard.cli.limits import node_settings

if TYPE_CHECKING:
    from proofyard.node.control import Status


def local_status(context: typer.Context) -> "Status | None":
    """What the node in this machine's folder wrote last; None where none has run."""
    from proofyard.node.control import read_status

    return read_status(node_settings(context).data_dir)


def address_in_settings(context: typer.Context) -> str:
    """The address of the wallet that the settings name. Raises `UsageError` where they name none."""
    from proofyard.chain.wallet import list_wallets

    wallet = node_settings(context).wallet
    found = dict(list_wallets(wallet.parent)).get(wallet.stem) if wallet.is_file() else None
    if found is None:
        raise UsageError("ADDRESS: no node has run here; give its hot key's address, or make one: proofyard node init")
    return found


def shown(status: "Status") -> tuple[dict[str, Any], list[str]]:
    """A status as data, and as lines for people."""
    import msgspec

    from proofyard.node.control import is_alive

    alive = is_alive(status)
    facts = {**msgspec.to_builtins(status), "running": alive, "pid": str(status.pid)}
    state = "takes work" if not status.reason else f"takes no work: {status.reason}"
    lines = [f"{'here':<18} " + (f"runs (process {status.pid}), {state}" if alive else "does not run")]
    lines += [f"{'verifiers':<18} {len(status.verifiers)} joined"] if alive else []
    lines += [f"{'holds':<18} {work}" for work in status.works if alive]
    lines += [f"{'not measured':<18} {spot}" for spot in status.blind]
    lines += [f"{'left':<18} {line}" for line in status.left]
    return facts, lines
