"""`proofyard contracts`: what a dapp in another language needs of a network."""

from pathlib import Path
from typing import Annotated

import typer

from proofyard.cli.chains import reader
from proofyard.cli.options import NetworkFlags
from proofyard.cli.output import AsJson, emit, note
from proofyard.cli.tree import App

app = App()


@app.verb("contracts", "contracts deployment/")
def contracts(
    context: typer.Context,
    flags: NetworkFlags,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty folder.")],
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier call wrote there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a network's addresses and ABIs, for dapps.

    Into a folder: `deployment.json`, and each contract's ABI (`Registry.json`)."""
    from proofyard.chain.export import write_deployment
    from proofyard.sdk.destinations import require_free

    require_free(folder, force=force)
    facts = write_deployment(folder, reader(context, flags))
    written = {name: str(value) for name, value in facts.items()}
    emit(written, as_json=as_json, text="\n".join(f"{name:<9} {value}" for name, value in written.items()))
    note(f"written with the ABIs into {folder}; docs/dapps.md shows what to do with them")
