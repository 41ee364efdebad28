"""Connections to the chain, as settings and flags name it."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from proofyard.cli.context import config_of
from proofyard.cli.options import NetworkFlags
from proofyard.cli.settings import NetworkSettings, load
from proofyard.protocol.types import Address

if TYPE_CHECKING:
    from proofyard.chain import ChainClient


def network_of(context: typer.Context, flags: NetworkFlags) -> NetworkSettings:
    """Which network is meant."""
    return load(NetworkSettings, "network", toml=config_of(context), flags=flags.given())


def reader(context: typer.Context, flags: NetworkFlags) -> "ChainClient":
    """A client that signs nothing."""
    from proofyard.chain import ChainClient

    settings = network_of(context, flags)
    return ChainClient(settings.rpc_url, Address(settings.registry), first_block=settings.from_block)


def signer(rpc_url: str, registry: str, from_block: int, wallet: Path, password_file: Path | None) -> "ChainClient":
    """A client that signs with a wallet; its password is asked for where no file holds it."""
    from proofyard.chain import ChainClient
    from proofyard.cli.wallets import unlock

    return ChainClient(rpc_url, Address(registry), unlock(wallet, password_file), first_block=from_block)
