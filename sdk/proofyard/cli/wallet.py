"""`proofyard wallet`: keys in encrypted files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proofyard.cli.chains import reader
from proofyard.cli.errors import UsageError
from proofyard.cli.options import KeystoreDir, NetworkFlags, PasswordFile, address_of, grouped
from proofyard.cli.output import AsJson, emit, format_credits, note, table
from proofyard.cli.wallets import new_password, password_for, wallets_dir
from proofyard.protocol.types import Address

if TYPE_CHECKING:
    from proofyard.chain import Wallet

app = typer.Typer(no_args_is_help=True, help="Make and look at wallets: keys in encrypted files.")

Name = Annotated[str, typer.Argument(help="The wallet's name.")]
LONGEST_NAME = 100


@app.command()
def new(
    name: Name, password_file: PasswordFile = None, keystore_dir: KeystoreDir = None, as_json: AsJson = False
) -> None:
    """Make a new wallet. Its password is asked for twice and stored nowhere: without it the key is lost."""
    from proofyard.chain import Wallet

    name, path = _free(name, keystore_dir)
    password = new_password(name, password_file)
    _saved(Wallet.generate(), name, path, password, as_json)


@app.command("import")
def import_(
    name: Name,
    file: Annotated[
        Path, typer.Argument(help="Keystore of Geth, cast, ethers, ...; or a text file with a private key.")
    ],
    password_file: PasswordFile = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Take over an account: from another program's keystore, whose password stays, or from a private key as MetaMask
    exports it, which is encrypted with a new one."""
    from proofyard.chain import Wallet
    from proofyard.chain.wallet import read_password

    name, path = _free(name, keystore_dir)
    if not file.exists():
        raise UsageError(f"FILE: there is no {file}; give the file that the other program wrote")
    known: list[str] = []

    def password() -> str:
        found = read_password(password_file) if password_file else password_for(file, None)
        known.append(found or "")
        return known[0]

    wallet = Wallet.from_file(file, password)
    _saved(wallet, name, path, known[0] if known else new_password(name, password_file), as_json)


def _free(name: str, keystore_dir: Path | None) -> tuple[str, Path]:
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


def _saved(wallet: "Wallet", name: str, path: Path, password: str, as_json: bool) -> None:
    wallet.save(path, password)
    facts = {"name": name, "address": wallet.address, "file": str(path)}
    emit(facts, as_json=as_json, text=wallet.address)
    note(f"written to {path}; keep a copy of that file and its password\nnext: send {wallet.address} tokens and ether")


@app.command("list")
def list_(keystore_dir: KeystoreDir = None, as_json: AsJson = False) -> None:
    """List the wallets; none is unlocked."""
    from proofyard.chain.wallet import list_wallets

    directory = wallets_dir(keystore_dir)
    found = list_wallets(directory)
    facts = [{"name": name, "address": address} for name, address in found]
    rows = [(name, address or "not in the file") for name, address in found]
    emit(facts, as_json=as_json, text=table(rows, ("NAME", "ADDRESS")))
    if not found:
        note(f"no wallets in {directory}; next: proofyard wallet new NAME")


@app.command()
def show(name: Name, keystore_dir: KeystoreDir = None, as_json: AsJson = False) -> None:
    """Print a wallet's address and file."""
    from proofyard.chain.wallet import wallet_path

    directory = wallets_dir(keystore_dir)
    name = name.removesuffix(".json")
    address = _address(name, directory)
    path = str(wallet_path(directory, name))
    emit({"name": name, "address": address, "file": path}, as_json=as_json, text=f"{address}\n{path}")


@app.command()
@grouped
def balance(
    context: typer.Context, name: Name, flags: NetworkFlags, keystore_dir: KeystoreDir = None, as_json: AsJson = False
) -> None:
    """Print what a wallet holds and has at stake. NAME may be an address."""
    address = address_of(name, keystore_dir)
    chain = reader(context, flags)
    account = chain.account(address)
    amounts = {
        "tokens": chain.token_balance(address),
        "stake": account.stake,
        "unbonding": account.unbonding,
    }
    ether = chain.eth_balance(address)
    facts = {"address": address, "ether": str(ether), **{key: str(amount) for key, amount in amounts.items()}}
    lines = [f"{key:<10} {format_credits(amount)}" for key, amount in amounts.items()]
    emit(facts, as_json=as_json, text="\n".join([*lines, f"{'ether':<10} {ether / 10**18:.6f}"]))


def _address(name: str, directory: Path) -> Address:
    from proofyard.chain.errors import UnknownWallet
    from proofyard.chain.wallet import list_wallets

    known = dict(list_wallets(directory))
    if name not in known:
        raise UnknownWallet(name, directory, sorted(known))
    address = known[name]
    if address is None:
        raise UsageError(f"the wallet {name} does not say its address; `wallet import` writes one that does")
    return address
