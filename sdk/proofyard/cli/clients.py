"""The SDK's client for what settings and flags name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from proofyard.cli.chains import requester_of, tell_left
from proofyard.cli.options import WalletFlags

if TYPE_CHECKING:
    from proofyard.sdk import Client


@contextmanager
def open_client(context: typer.Context, flags: WalletFlags, store: Path | None = None) -> Iterator["Client"]:
    """An SDK client for the wallet and network that flags and settings name; `store` keeps what it reads."""
    settings = requester_of(context, flags)
    from proofyard.cli.wallets import unlock
    from proofyard.sdk import Client

    wallet = unlock(settings.wallet, settings.password_file)
    with Client(
        settings.rpc_url,
        settings.registry,
        wallet,
        data_dir=store,
        first_block=settings.from_block,
        chain_id=settings.chain_id or None,
    ) as client:
        tell_left(client.chain)
        yield client
