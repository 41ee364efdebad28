"""Options that several commands share, written once.

Those in a panel are explained by `--help-all` alone.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from proofyard.cli.wallets import wallet_file, wallets_dir
from proofyard.protocol.types import Address

LARGEST_ID = 2**256 - 1
"""Jobs, batches and challenges are counted in a word of the chain."""


SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
MAX_DURATION_S = 36_500 * 86_400


def parse_duration(text: str) -> int:
    """Seconds of `90`, `30m`, `12h` or `7d`. Raises `typer.BadParameter`."""
    seconds = scaled(text, SECONDS, "a duration; write it like 90s, 30m, 12h or 7d")
    if seconds > MAX_DURATION_S:
        raise typer.BadParameter(f"{text!r} is longer than 36500d")
    return seconds


def scaled(text: str, units: dict[str, int], what: str) -> int:
    found = re.fullmatch(r"([0-9]{1,18})\s*([a-z]*)", text.strip().lower())
    if found is None or found[2] not in units:
        raise typer.BadParameter(f"{text[:100]!r} is not {what}")
    return int(found[1]) * units[found[2]]


def parse_address(text: str) -> Address:
    """An address typed by a person, in any spelling. Raises `typer.BadParameter`."""
    from proofyard.protocol.addresses import read_address

    try:
        return read_address(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; copy it from `proofyard wallet list` or `devnet`") from None


def address_of(text: str, keystore_dir: Path | None) -> Address:
    """The address that a person means: typed, or that of a wallet by its name. Raises `typer.BadParameter`."""
    from proofyard.chain.wallet import list_wallets
    from proofyard.protocol.addresses import looks_like_address

    if looks_like_address(text):
        return parse_address(text)
    known = dict(list_wallets(wallets_dir(keystore_dir)))
    found = known.get(text.strip().removesuffix(".json"))
    if found is not None:
        return found
    if text.strip().removesuffix(".json") in known:
        raise typer.BadParameter(f"the wallet {text!r} does not say its address; give the address itself")
    names = f"known are {', '.join(known)}" if known else "there are none yet"
    raise typer.BadParameter(f"{text!r} is neither an address nor a wallet; {names}")


LAST_BLOCK = 2**63 - 1
NETWORK, KEYS, PEERS = "network", "wallet", "peers"
"""Panels of options."""
KeystoreDir = Annotated[
    Path | None,
    typer.Option(
        envvar="PROOFYARD_KEYSTORE_DIR", help="Where wallets lie, if not with the settings.", rich_help_panel=KEYS
    ),
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(help="File with the wallet's password; without it you are asked.", rich_help_panel=KEYS),
]


@dataclass(frozen=True, kw_only=True)
class NetworkFlags:
    """Which network to talk to."""

    rpc_url: Annotated[
        str | None,
        typer.Option(
            help="The chain's JSON-RPC endpoint; several with commas, the next while one is away.",
            rich_help_panel=NETWORK,
        ),
    ] = None
    registry: Annotated[
        str | None, typer.Option(help="Address of the network's Registry contract.", rich_help_panel=NETWORK)
    ] = None
    from_block: Annotated[
        int | None,
        typer.Option(
            min=0, max=LAST_BLOCK, help="Block that the Registry was made in; 0 looks for it.", rich_help_panel=NETWORK
        ),
    ] = None
    chain_id: Annotated[
        int | None,
        typer.Option(
            min=0, max=LAST_BLOCK, help="The chain that is meant; 0 for whichever answers.", rich_help_panel=NETWORK
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """The flags as `settings.load` takes them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class WalletFlags(NetworkFlags):
    """Which network to talk to, and as whom."""

    wallet: Annotated[str | None, typer.Option(help="A wallet's name, or a keystore file.")] = None
    password_file: PasswordFile = None
    keystore_dir: KeystoreDir = None

    def given(self) -> dict[str, Any]:
        flags = asdict(self)
        flags["wallet"] = wallet_file(self.wallet, flags.pop("keystore_dir"))
        return flags


@dataclass(frozen=True, kw_only=True)
class ServiceFlags(WalletFlags):
    """What `node run` and `verifier run` have in common."""

    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on for other peers (QUIC over UDP); follows from the endpoint if empty.",
            rich_help_panel=PEERS,
        ),
    ] = None
    port: Annotated[
        int | None, typer.Option(help="UDP port to listen on, 0 for any free one.", rich_help_panel=PEERS)
    ] = None
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where others reach it, if not as registered.", rich_help_panel=PEERS),
    ] = None
    data_dir: Annotated[Path | None, typer.Option(help="Where blocks, states and the database are kept.")] = None
    model_dir: Annotated[list[Path] | None, typer.Option(help="A model directory, used in place; may be repeated.")] = (
        None
    )
    ipfs: Annotated[
        str | None,
        typer.Option(
            metavar="MULTIADDRESS", help="RPC of an IPFS daemon to ask for what no peer has.", rich_help_panel=PEERS
        ),
    ] = None
    ready_file: Annotated[
        Path | None, typer.Option(help="Written, as JSON, once it serves.", rich_help_panel=PEERS)
    ] = None

    def given(self) -> dict[str, Any]:
        flags = super().given()
        flags["model_dirs"] = flags.pop("model_dir")
        return flags
