"""`proofyard wallet import`, `export`, `password`: accounts of other programs, and ours for them."""

import getpass
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proofyard.cli.errors import UsageError
from proofyard.cli.options import KeystoreDir, PasswordFile
from proofyard.cli.output import AsJson, emit, note
from proofyard.cli.wallet_names import Name, free_name, saved
from proofyard.cli.wallets import confirm, named_file, new_password, password_for, unlock

if TYPE_CHECKING:
    from proofyard.chain import Wallet

STDIN = Path("-")
MAX_SECRET_BYTES = 4096
NEW_PASSWORD_FLAG = "--new-password-file"  # noqa: S105 (a flag's name)
LAST_ACCOUNT = (1 << 31) - 1
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def import_(
    name: Name,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="What holds it; - for stdin; you are asked if left out."),
    ] = None,
    account: Annotated[int, typer.Option(min=0, max=LAST_ACCOUNT, help="Which account of a seed phrase, from 0.")] = 0,
    password_file: PasswordFile = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Take over an account of MetaMask, Geth, cast or ethers.

    By keystore, private key or seed phrase (12 to 24 words).

    A keystore keeps its password, a key or phrase gets a new one. The other program's file stays as it is.
    """
    from proofyard.chain import Wallet
    from proofyard.chain.wallet import read_password

    name, path = free_name(name, keystore_dir)
    if file is None or file == STDIN:
        saved(_asked(file, account), name, path, new_password(name, password_file), as_json)
        return
    if not file.exists():
        raise UsageError(f"FILE: there is no {file}; give the file that the other program wrote")
    known: list[str] = []

    def password() -> str:
        found = read_password(password_file) if password_file else password_for(file, None)
        known.append(found or "")
        return known[0]

    wallet = Wallet.from_file(file, password, account)
    saved(wallet, name, path, known[0] if known else new_password(name, password_file), as_json)


def _asked(file: Path | None, account: int) -> "Wallet":
    """The wallet of a private key or seed phrase that is typed, hidden, or comes from another program."""
    from proofyard.chain import Wallet

    if file is None and sys.stdin.isatty():
        data = getpass.getpass("Private key or seed phrase (not shown): ").encode()
    elif file is None:
        raise UsageError("FILE: there is no terminal to ask on; give a file, or - for standard input")
    else:
        data = sys.stdin.buffer.read(MAX_SECRET_BYTES + 1)
    wallet = Wallet.from_secret(data, account)
    if wallet is None:
        raise UsageError(
            "that is neither a private key (64 digits from 0 to f) nor a seed phrase (12 to 24 words); a keystore is "
            "named as FILE"
        )
    return wallet


def export(
    name: Name,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A new file; printed on stdout if left out.")
    ] = None,
    private_key: Annotated[
        bool,
        typer.Option("--unsafe-private-key", help="The private key in the clear instead. Whoever sees it has all."),
    ] = False,
    yes: Yes = False,
    password_file: PasswordFile = None,
    keystore_dir: KeystoreDir = None,
) -> None:
    """Write a wallet's keystore, for other programs or machines.

    Its password stays the same. With --unsafe-private-key it is the key
    itself, after you have confirmed it.
    """
    from proofyard.chain.wallet import read_keystore

    path = named_file(name, keystore_dir)
    if private_key:
        question = f"show the private key of {path}? Whoever sees it has all that the account holds."
        confirm(question, yes=yes, otherwise="nothing was shown")
        content = "0x" + bytes(unlock(path, password_file).account.key).hex()
    else:
        content = json.dumps(read_keystore(path))
    if file is None:
        print(content, flush=True)
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"FILE: there is something at {file} already; give a new file") from None
    with os.fdopen(descriptor, "w") as out:
        out.write(content + "\n")
    note(f"written to {file}, for your eyes alone (mode 0600)")


def password(
    name: Name,
    password_file: PasswordFile = None,
    new_password_file: Annotated[
        Path | None, typer.Option(NEW_PASSWORD_FLAG, help="File with the new password; without it you are asked.")
    ] = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Change a wallet's password. Copies of its file keep the old one."""
    path = named_file(name, keystore_dir)
    wallet = unlock(path, password_file)
    wallet.encrypt_anew(new_password(name, new_password_file, NEW_PASSWORD_FLAG))
    facts = {"address": wallet.address, "file": str(path)}
    emit(facts, as_json=as_json, text=f"{path} has the new password")
    note("files with the old password (--password-file) have to be changed too; programs that run go on")
