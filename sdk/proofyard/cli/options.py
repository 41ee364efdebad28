"""Options that several commands share, written once.

A command takes a dataclass such as `RequesterFlags` as a parameter; `grouped` turns its fields into options.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from proofyard.cli.wallets import wallet_file, wallets_dir
from proofyard.protocol.types import Address

LARGEST_ID = 2**256 - 1
"""Jobs, batches and challenges are counted in a word of the chain."""


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
KeystoreDir = Annotated[
    Path | None,
    typer.Option(envvar="PROOFYARD_KEYSTORE_DIR", help="Where wallets lie, if not with the settings."),
]
PasswordFile = Annotated[Path | None, typer.Option(help="File with the wallet's password; without it you are asked.")]


@dataclass(frozen=True, kw_only=True)
class NetworkFlags:
    """Which network to talk to."""

    rpc_url: Annotated[
        str | None, typer.Option(help="The chain's JSON-RPC endpoint; several with commas, the next while one is away.")
    ] = None
    registry: Annotated[str | None, typer.Option(help="Address of the network's Registry contract.")] = None
    from_block: Annotated[
        int | None, typer.Option(min=0, max=LAST_BLOCK, help="Block that the Registry was made in; 0 looks for it.")
    ] = None
    chain_id: Annotated[
        int | None, typer.Option(min=0, max=LAST_BLOCK, help="The chain that is meant; 0 for whichever answers.")
    ] = None

    def given(self) -> dict[str, Any]:
        """The flags as `settings.load` takes them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class WalletFlags(NetworkFlags):
    """Which network to talk to, and as whom."""

    wallet: Annotated[str | None, typer.Option(help="A wallet's name or keystore file (`proofyard wallet list`).")] = (
        None
    )
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
        typer.Option(help="Address to listen on for other peers (QUIC over UDP); follows from the endpoint if empty."),
    ] = None
    port: Annotated[int | None, typer.Option(help="UDP port to listen on, 0 for any free one.")] = None
    endpoint: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where others reach it, if not as registered.")
    ] = None
    data_dir: Annotated[Path | None, typer.Option(help="Where blocks, states and the database are kept.")] = None
    model_dir: Annotated[
        list[Path] | None, typer.Option(help="A local model directory to use in place; may be repeated.")
    ] = None
    ipfs: Annotated[
        str | None, typer.Option(metavar="MULTIADDRESS", help="RPC of an IPFS daemon to ask for what no peer has.")
    ] = None
    ready_file: Annotated[Path | None, typer.Option(help="Written, as JSON, once it serves.")] = None

    def given(self) -> dict[str, Any]:
        flags = super().given()
        flags["model_dirs"] = flags.pop("model_dir")
        return flags


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose dataclass parameters appear as one option for each of their fields."""
    plain: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not (isinstance(kind, type) and is_dataclass(kind)):
            plain.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        hints = get_type_hints(kind, include_extras=True)
        groups[parameter.name] = (kind, [field.name for field in fields(kind)])
        plain += [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
            for f in fields(kind)
        ]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        for name, (kind, names) in groups.items():
            values[name] = kind(**{field: values.pop(field) for field in names})
        command(**values)

    with_options.__signature__ = inspect.Signature(plain)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in plain}
    return with_options
