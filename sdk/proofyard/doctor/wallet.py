"""Each wallet that the settings name: the file, its password, and what the account holds."""

import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shlex import quote

from proofyard.chain.turns import SUFFIX, Kept
from proofyard.chain.wallet import read_password
from proofyard.doctor.checking import Check, Seen, Skipped, fault, fine, note
from proofyard.doctor.setup import Setup, WalletUse
from proofyard.protocol.amounts import format_amount
from proofyard.protocol.codec import CodecError, decode_json

GAS = 1_000_000
"""Units of gas for a few transactions of each kind."""
FEW = 10
"""So many times that is an account with enough for some time."""


def checks(setup: Setup) -> list[Check]:
    return [
        Check("wallet", f"{use.role}'s {name}" if len(setup.wallets) > 1 else name, look)
        for use in setup.wallets
        for name, look in _looks(setup, use).items()
    ]


def _looks(setup: Setup, use: WalletUse) -> dict[str, Callable[[], Seen]]:
    looks: dict[str, Callable[[], Seen]] = {
        "keystore": partial(keystore, use),
        "password": partial(password, use),
        "ether": lambda: ether(setup.chain().eth_balance(use.address()), setup.chain().gas_price(), use.address()),
        "on its way": partial(on_its_way, use.keystore),
    }
    if use.role == "requester":
        looks["tokens"] = lambda: tokens(setup.chain().token_balance(use.address()), use.address())
    return looks


def keystore(use: WalletUse) -> Seen:
    """Whether the file is there, is a keystore, and can be read by its owner alone."""
    path = use.keystore
    if not path.exists():
        return fault(str(path), "there is no such keystore", "proofyard wallet list, or correct wallet")
    if not use.is_private:
        return fault(str(path), f"others may read it (mode {_mode(path)})", f"chmod 600 {quote(str(path))}")
    try:
        return fine(str(path), f"of {use.address()}")
    except Skipped:
        return note(str(path), "its address is not known without its password")


def password(use: WalletUse) -> Seen:
    """Whether the file with the password opens the keystore, and is private."""
    if use.password_file is None:
        raise Skipped("no password_file is set: the password is asked for")
    if not use.keystore.exists():
        raise Skipped("there is no keystore")
    read_password(use.password_file)
    if stat.S_IMODE(use.password_file.stat().st_mode) & 0o077:
        found = f"others may read it (mode {_mode(use.password_file)})"
        return fault(str(use.password_file), found, f"chmod 600 {quote(str(use.password_file))}")
    if not use.is_private:
        raise Skipped("the keystore is not used while others may read it")
    use.key()
    return fine(str(use.password_file), "it opens the keystore")


def ether(balance: int, gas_price: int, account: str) -> Seen:
    """Whether an account can pay for its transactions. `balance` and `gas_price` in wei."""
    need = GAS * gas_price
    found = f"{balance / 10**18:.6f} ether; a few transactions take {need / 10**18:.6f}"
    if balance < max(1, need):
        return fault(account, found, f"send {account} ether for gas")
    if balance < FEW * need:
        return note(account, found, f"send {account} more ether soon")
    return fine(account, found)


def tokens(balance: int, account: str) -> Seen:
    if not balance:
        return fault(account, "no CREDIT to pay for work with", f"send {account} CREDIT")
    return fine(account, format_amount(balance))


def on_its_way(path: Path) -> Seen:
    """Whether a transaction was sent and not seen mined: the next command of this wallet follows it to its end."""
    journal = path.with_name(path.name + SUFFIX)
    try:
        kept = decode_json(journal.read_bytes() or b"{}", Kept)
    except FileNotFoundError:
        kept = Kept()
    except CodecError:
        return note(str(journal), "it was cut off while it was written", "the next command begins it anew")
    if kept.sent:
        what = ", ".join(sent.what for sent in kept.sent.values())
        return note(str(journal), f"sent and not seen mined: {what}", "the next command of this wallet follows it")
    return fine(str(journal), "nothing")


def _mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):03o}"
