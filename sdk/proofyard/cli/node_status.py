"""What this machine's node says of itself: whether it runs, why it takes no work, what it holds."""

from typing import TYPE_CHECKING, Any

import typer

from proofyard.cli.errors import UsageError
from proofyard.cli.limits import DataDir, node_settings
from proofyard.cli.output import AsJson, emit

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


def page(context: typer.Context, folder: DataDir = None, as_json: AsJson = False) -> None:
    """Show the address that opens this machine's node's page.

    Whoever has the address can pause the node and change its limits: it is for this machine's browser.
    """
    settings = node_settings(context, folder)
    from proofyard.node.control import is_alive, read_status
    from proofyard.node.page import token_of, url_of

    status = read_status(settings.data_dir)
    if status is None or not is_alive(status):
        raise UsageError(f"no node runs in {settings.data_dir}; start it: proofyard node run")
    if not status.page:
        raise UsageError("the node runs without a page; start it again with --page")
    url = url_of(status.page, token_of(settings.data_dir)[0])
    emit({"url": url}, as_json=as_json, text=url)


def shown(status: "Status") -> tuple[dict[str, Any], list[str]]:
    """A status as data, and as lines for people."""
    import msgspec

    from proofyard.node.control import is_alive

    alive = is_alive(status)
    facts = {**msgspec.to_builtins(status), "running": alive, "pid": str(status.pid)}
    state = "takes work" if not status.reason else f"takes no work: {status.reason}"
    lines = [f"{'here':<18} " + (f"runs (process {status.pid}), {state}" if alive else "does not run")]
    lines += [f"{'verifiers':<18} {len(status.verifiers)} joined"] if alive else []
    lines += [f"{'claims' if not at else 'checked':<18} {claim}" for at, claim in enumerate(status.claims)]
    lines += [f"{'page':<18} {status.page}; open it by `proofyard node page`"] if alive and status.page else []
    lines += [f"{'reached':<18} {status.reached}"] if alive and status.reached else []
    lines += [f"{'knows':<18} {status.knows}"] if alive and status.knows else []
    lines += [f"{'holds':<18} {work}" for work in status.works if alive]
    held = status.sandbox or "nothing holds strangers' work"
    lines += [f"{'sandbox':<18} {held}"] if alive else []
    lines += [f"{'not measured':<18} {spot}" for spot in status.blind]
    lines += [f"{'left':<18} {line}" for line in status.left]
    return facts, lines
