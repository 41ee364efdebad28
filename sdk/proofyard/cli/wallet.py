"""`proofyard wallet`: keys in encrypted files."""

from pathlib import Path

import typer

from proofyard.cli import funds, wallet_keys
from proofyard.cli.chains import reader
from proofyard.cli.errors import UsageError
from proofyard.cli.options import KeystoreDir, NetworkFlags, PasswordFile, address_of
from proofyard.cli.output import AsJson, emit, format_credits, note, table
from proofyard.cli.tree import App
from proofyard.cli.wallet_names import Name, free_name, saved
from proofyard.cli.wallets import new_password, wallets_dir
from proofyard.protocol.amounts import format_amount
from proofyard.protocol.types import Address, Wei

app = App("Keys in encrypted files, and what they hold: make, fund, send.")


@app.verb("new", "wallet new home")
def new(
    name: Name, password_file: PasswordFile = None, keystore_dir: KeystoreDir = None, as_json: AsJson = False
) -> None:
    """Make a new wallet. Its password is asked for twice and stored nowhere: without it the key is lost."""
    from proofyard.chain import Wallet

    name, path = free_name(name, keystore_dir)
    password = new_password(name, password_file)
    saved(Wallet.generate(), name, path, password, as_json)


@app.verb("list", "wallet list")
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


@app.verb("show", "wallet show home")
def show(name: Name, keystore_dir: KeystoreDir = None, as_json: AsJson = False) -> None:
    """Print a wallet's address and file."""
    from proofyard.chain.wallet import wallet_path

    directory = wallets_dir(keystore_dir)
    name = name.removesuffix(".json")
    address = _address(name, directory)
    path = str(wallet_path(directory, name))
    emit({"name": name, "address": address, "file": path}, as_json=as_json, text=f"{address}\n{path}")


@app.verb("balance", "wallet balance home")
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
    ether = Wei(chain.eth_balance(address))
    facts = {"address": address, "ether": str(ether), **{key: str(amount) for key, amount in amounts.items()}}
    lines = [f"{key:<10} {format_credits(amount)}" for key, amount in amounts.items()]
    emit(facts, as_json=as_json, text="\n".join([*lines, f"{'ether':<10} {format_amount(ether, funds.ETHER)}"]))


app.verb("send", "wallet send bob 12.5 --wallet home")(funds.send)
app.verb("faucet", "wallet faucet home owner")(funds.faucet)
app.verb("import", "wallet import home keystore.json")(wallet_keys.import_)
app.verb("export", "wallet export home home-keystore.json")(wallet_keys.export)
app.verb("password", "wallet password home")(wallet_keys.password)


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
