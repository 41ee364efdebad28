"""What a new wallet may be called, and where it goes."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proofyard.cli.errors import UsageError
from proofyard.cli.output import emit, note
from proofyard.cli.wallets import wallets_dir

if TYPE_CHECKING:
    from proofyard.chain import Wallet

Name = Annotated[str, typer.Argument(help="The wallet's name.")]
LONGEST_NAME = 100


def free_name(name: str, keystore_dir: Path | None) -> tuple[str, Path]:
    """A new wallet's name, with or without .json, and its file."""
    from proofyard.chain.errors import WalletExists
    from proofyard.chain.wallet import wallet_path
    from proofyard.protocol.addresses import looks_like_address

    plain = name.removesuffix(".json")
    odd = (
        not plain
        or plain != plain.strip()
        or len(plain) > LONGEST_NAME
        or Path(plain).name != plain
        or plain.startswith((".", "-"))
    )
    if odd or not plain.isprintable() or plain.endswith(".sending") or looks_like_address(plain):
        raise UsageError(
            f"{name!r} cannot be a wallet's name; use up to {LONGEST_NAME} letters, digits and dashes, no address"
        )
    path = wallet_path(wallets_dir(keystore_dir), plain)
    if path.exists():
        raise WalletExists(path)
    return plain, path


def saved(wallet: "Wallet", name: str, path: Path, password: str, as_json: bool) -> None:
    wallet.save(path, password)
    facts = {"name": name, "address": wallet.address, "file": str(path)}
    emit(facts, as_json=as_json, text=wallet.address)
    note(f"written to {path}; keep a copy of that file and its password")
    note(f"next: have tokens and ether sent to it; on a devnet: proofyard wallet faucet {shlex.quote(name)}")
