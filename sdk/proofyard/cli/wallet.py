"""`proofyard wallet`: keys in encrypted files."""

from pathlib import Path
from typing import Annotated

import typer

from proofyard.cli.chains import reader
from proofyard.cli.errors import UsageError
from proofyard.cli.options import KeystoreDir, NetworkFlags, PasswordFile, grouped, parse_address
from proofyard.cli.output import AsJson, emit, format_credits, note, table
from proofyard.cli.wallets import new_password, wallets_dir
from proofyard.protocol.types import Address

app = typer.Typer(no_args_is_help=True, help="Make and look at wallets: keys in encrypted files.")

Name = Annotated[str, typer.Argument(help="The wallet's name.")]
LONGEST_NAME = 100


@app.command()
def new(
    name: Name, password_file: PasswordFile = None, keystore_dir: KeystoreDir = None, as_json: AsJson = False
) -> None:
    """Make a new wallet. Its password is asked for twice and stored nowhere: without it the key is lost."""
    from proofyard.chain import Wallet
    from proofyard.chain.errors import WalletExists
    from proofyard.chain.wallet import wallet_path

    if not name or len(name) > LONGEST_NAME or Path(name).name != name or name.startswith("."):
        raise UsageError(f"{name!r} cannot be a wallet's name; use up to {LONGEST_NAME} letters, digits and dashes")
    path = wallet_path(wallets_dir(keystore_dir), name)
    if path.exists():
        raise WalletExists(path)
    wallet = Wallet.generate()
    wallet.save(path, new_password(name, password_file))
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
    emit(facts, as_json=as_json, text=table(found, ("NAME", "ADDRESS")))
    if not found:
        note(f"no wallets in {directory}; next: proofyard wallet new NAME")


@app.command()
def show(name: Name, keystore_dir: KeystoreDir = None, as_json: AsJson = False) -> None:
    """Print a wallet's address and file."""
    from proofyard.chain.wallet import wallet_path

    directory = wallets_dir(keystore_dir)
    address = _address(name, directory)
    path = str(wallet_path(directory, name))
    emit({"name": name, "address": address, "file": path}, as_json=as_json, text=f"{address}\n{path}")


@app.command()
@grouped
def balance(
    context: typer.Context, name: Name, flags: NetworkFlags, keystore_dir: KeystoreDir = None, as_json: AsJson = False
) -> None:
    """Print what a wallet holds and has at stake. NAME may be an address."""
    chain = reader(context, flags)
    address = parse_address(name) if name.startswith("0x") else _address(name, wallets_dir(keystore_dir))
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
    return known[name]
