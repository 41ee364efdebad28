"""Connections to the chain, as settings and flags name it."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from proofyard.cli.context import config_of
from proofyard.cli.errors import UsageError
from proofyard.cli.options import NetworkFlags, WalletFlags
from proofyard.cli.output import note
from proofyard.cli.wallets import PASSWORD_FLAG, unlock
from proofyard.protocol.types import Address
from proofyard.sdk.settings import SHARED, NetworkSettings, RequesterSettings, load

if TYPE_CHECKING:
    from proofyard.chain import ChainClient, NodeRecord


def network_of(context: typer.Context, flags: NetworkFlags) -> NetworkSettings:
    """Which network is meant."""
    return load(NetworkSettings, "network", toml=config_of(context), flags=flags.given())


def requester_of(context: typer.Context, flags: WalletFlags) -> RequesterSettings:
    """Which network is meant, and whose wallet signs."""
    return load(RequesterSettings, "requester", toml=config_of(context), flags=flags.given(), shared=SHARED)


def reader(context: typer.Context, flags: NetworkFlags) -> "ChainClient":
    """A client that signs nothing."""
    from proofyard.chain import ChainClient

    settings = network_of(context, flags)
    return ChainClient(
        settings.rpc_url,
        Address(settings.registry),
        first_block=settings.from_block,
        chain_id=settings.chain_id or None,
    )


class Network(Protocol):
    """What settings say of a network."""

    @property
    def rpc_url(self) -> str: ...
    @property
    def registry(self) -> str: ...
    @property
    def from_block(self) -> int: ...
    @property
    def chain_id(self) -> int: ...


def signer(
    network: Network,
    wallet: Path,
    password_file: Path | None,
    password_flag: str = PASSWORD_FLAG,
) -> "ChainClient":
    """A client that signs with a wallet; its password is asked for where no file holds it. `password_flag` names it."""
    from proofyard.chain import ChainClient

    key = unlock(wallet, password_file, password_flag)
    chain = ChainClient(
        network.rpc_url,
        Address(network.registry),
        key,
        first_block=network.from_block,
        chain_id=network.chain_id or None,
    )
    tell_left(chain)
    return chain


def tell_left(chain: "ChainClient") -> None:
    """Say what a call that was cut off has sent: this one may find all of it done, and nothing to do."""
    if left := chain.left_behind():
        note(left)


def operator_with(chain: "ChainClient", key: Address) -> "NodeRecord":
    """The operator of a hot key. Raises `UsageError` where the Registry knows none."""
    operator = chain.operator_of(key)
    if operator is None:
        raise UsageError(
            f"the Registry knows no operator with the hot key {key}; give the hot key's address, not the owner's, or "
            "register it first"
        )
    return chain.operator(operator)
