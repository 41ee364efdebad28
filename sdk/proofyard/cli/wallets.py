"""Which keystore a command means, and its password: from a file, or typed and never shown."""

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from proofyard.cli.errors import UsageError
from proofyard.runtime.fitting import fitted, width_of
from proofyard.sdk.settings import config_dir

if TYPE_CHECKING:
    from proofyard.chain import Wallet


def wallets_dir(given: Path | None) -> Path:
    """Where wallets lie: the directory that was named, or `wallets` next to the settings."""
    return given or config_dir() / "wallets"


def wallet_file(given: str | None, directory: Path | None) -> Path | None:
    """The keystore file of a wallet that was named on the command line by name or by path."""
    if given is None:
        return None
    from proofyard.chain.wallet import wallet_path

    path = Path(given).expanduser()
    if len(path.parts) > 1 or (path.suffix == ".json" and path.exists()):
        return path
    return wallet_path(wallets_dir(directory), given)


def named_file(wallet: str, directory: Path | None) -> Path:
    """The same of one that has to be named."""
    path = wallet_file(wallet, directory)
    assert path is not None, "a wallet was named"
    return path


CHOICE = " [y/N]: y"
PASSWORD_FLAG = "--password-file"  # noqa: S105 (a flag's name)


def unlock(path: Path, password_file: Path | None, flag: str = PASSWORD_FLAG) -> "Wallet":
    """The wallet of a keystore, with the password from a file or from the terminal. `flag` names the file."""
    from proofyard.chain import Wallet

    return Wallet.unlock(path, password=password_for(path, password_file, flag), password_file=password_file)


def password_for(path: Path, password_file: Path | None, flag: str = PASSWORD_FLAG) -> str | None:
    """A keystore's password typed on the terminal, hidden; None where a file holds it, or there is no keystore.

    Raises `UsageError` where there is no terminal to ask on.
    """
    if password_file or not path.exists():
        return None
    if not sys.stdin.isatty():
        raise UsageError(f"the wallet {path} is encrypted and there is no terminal to ask on; give {flag}")
    return getpass.getpass(f"Password of {path}: ")


def confirm(question: str, *, yes: bool, otherwise: str) -> None:
    """Ask on the terminal before something that cannot be undone, once; `yes` says it is answered already.
    `otherwise`: what is said where the answer is no. Raises `UsageError`."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"there is no terminal to ask on: {question} Give --yes to say so")
    width = width_of(sys.stderr)
    if not typer.confirm(fitted(question, None if width is None else width - len(CHOICE)), err=True):
        raise UsageError(otherwise)


def new_password(name: str, password_file: Path | None, flag: str = PASSWORD_FLAG) -> str:
    """A new password for a wallet: from a file, or asked for twice, hidden. Raises `UsageError` for an empty one."""
    if password_file is not None:
        from proofyard.chain.wallet import read_password

        return read_password(password_file)
    if not sys.stdin.isatty():
        raise UsageError(f"the wallet {name} needs a new password and there is no terminal to ask on; give {flag}")
    first = getpass.getpass(f"New password for {name}: ")
    if not first.strip():
        raise UsageError("an empty password protects nothing; nothing was written")
    if getpass.getpass("Once more: ") != first:
        raise UsageError("the two passwords differ; nothing was written")
    return first
