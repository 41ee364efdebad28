"""Connections to the chain, as settings and flags name it."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from proofyard.cli.context import config_of
from proofyard.cli.options import NetworkFlags
from proofyard.cli.settings import NetworkSettings, load
from proofyard.cli.wallets import PASSWORD_FLAG, unlock
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


def signer(
    rpc_url: str,
    registry: str,
    from_block: int,
    wallet: Path,
    password_file: Path | None,
    password_flag: str = PASSWORD_FLAG,
) -> "ChainClient":
    """A client that signs with a wallet; its password is asked for where no file holds it. `password_flag` names it."""
    from proofyard.chain import ChainClient

    key = unlock(wallet, password_file, password_flag)
    return ChainClient(rpc_url, Address(registry), key, first_block=from_block)
