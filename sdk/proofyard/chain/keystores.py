"""Keystore files: what is one, what is something else, and the key in it (Web3 Secret Storage, version 3).

Geth, cast, ethers, MyEtherWallet and this package write such files, with small differences: keys in capitals, no
address, a version that is a text. What looks alike and is not is named for what it is, because the next step differs.
"""

import codecs
import contextlib
import json
import re
import shlex
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unicodedata import normalize

from eth_account import Account
from eth_utils.address import is_address, to_checksum_address

from proofyard.chain.errors import FalseAddress, UnsafeKeystore, WrongPassword
from proofyard.chain.phrases import words_in
from proofyard.protocol.types import Address

MAX_SCRYPT_BYTES = 1 << 30
"""Memory that opening a keystore may take; the usual cost takes 256 MiB."""
MAX_SCRYPT_WORK = 1 << 25
"""Blocks that are mixed, n * r * p: 16 times the usual cost."""
MAX_PBKDF2_ROUNDS = 50_000_000
KEY_BYTES, MOST_KEY_BYTES = 32, 64
"""Bytes that are made of the password: a key for the cipher and one for the check."""
IV_BYTES = 16
RESTORE = "restore it from a backup"
EXPORT = (
    "show the account's private key in the program that made it (MetaMask: Account details), or its seed phrase, and "
    "run: proofyard wallet import NAME"
)
_KEY = re.compile(r"""\s*["']?(?:0[xX])?([0-9a-fA-F]{64})["']?\s*""")


def text_in(data: bytes) -> str:
    """A text file's content as editors write it: UTF-8, or with their mark UTF-16. Raises `UnicodeDecodeError`."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")


def key_in(data: bytes) -> str | None:
    """The digits of a private key in the clear, where a file holds nothing else."""
    try:
        found = _KEY.fullmatch(text_in(data))
    except UnicodeDecodeError:
        return None
    return found[1] if found else None


def phrase_in(data: bytes) -> str | None:
    """The words of a seed phrase in the clear, where a file holds nothing else."""
    try:
        return " ".join(words_in(text_in(data))) or None
    except UnicodeDecodeError:
        return None


def _import(path: Path) -> str:
    return f"encrypt its account first: proofyard wallet import NAME {shlex.quote(str(path))}"


def parse(path: Path, data: bytes) -> dict[str, Any]:
    """The keystore in a file's content. Raises `UnsafeKeystore` that says what the file is instead."""
    if key_in(data) is not None:
        raise UnsafeKeystore(path, f"it is a private key in the clear; {_import(path)}")
    try:
        found = json.loads(data)
        other, keystore = _is_rather(found), _lower(found)
    except (ValueError, RecursionError):
        if phrase_in(data) is not None:
            raise UnsafeKeystore(path, f"it is a seed phrase in the clear; {_import(path)}") from None
        raise UnsafeKeystore(path, f"it is no keystore of version 3; {RESTORE}") from None
    if other:
        raise UnsafeKeystore(path, other)
    return dict(keystore) | {"version": 3}


def address_in(keystore: Mapping[str, Any]) -> Address | None:
    """The address that a keystore says it is of, in any spelling; some say none."""
    text = keystore.get("address")
    if not isinstance(text, str) or not text:
        return None
    text = "0x" + text.lower().removeprefix("0x")
    return Address(to_checksum_address(text)) if is_address(text) else None


def decrypt(path: Path, keystore: Mapping[str, Any], password: str) -> bytes:
    """The private key. Raises `WrongPassword`, `UnsafeKeystore`, and `FalseAddress` where it is not that of the
    address in the file."""
    _require_affordable(path, keystore["crypto"])
    _require_whole(path, keystore["crypto"])
    try:
        key = _opened(keystore, password)
        address = Address(Account.from_key(key).address)
    except Exception as error:  # the libraries raise whatever their own do
        if "MAC mismatch" in str(error):
            raise WrongPassword(path) from None
        raise UnsafeKeystore(path, f"it is no keystore of version 3 ({_short(error)}); {RESTORE}") from None
    said = keystore.get("address")
    if said and address_in(keystore) != address:
        raise FalseAddress(path, str(said)[:60], address)
    return key


def _opened(keystore: Mapping[str, Any], password: str) -> bytes:
    """The key, whichever way the letters of the password are written in Unicode: ethers takes NFKC, others take what
    was typed, and keyboards and file systems differ."""
    forms = dict.fromkeys([password, *(normalize(form, password) for form in ("NFKC", "NFC", "NFD", "NFKD"))])
    for form in list(forms)[:-1]:
        with contextlib.suppress(ValueError):
            return bytes(Account.decrypt(dict(keystore), form))
    return bytes(Account.decrypt(dict(keystore), list(forms)[-1]))


def _is_rather(found: Any) -> str:
    """What something else is, and what to do with it; empty for a keystore of version 3."""
    if isinstance(found, list) and len(found) in (32, 64) and all(isinstance(each, int) for each in found):
        return "it is a key of another kind of chain, as Solana writes it; give the keystore of an Ethereum account"
    if not isinstance(found, dict):
        return f"it is no keystore of version 3; {RESTORE}"
    names = {str(name).lower() for name in found}
    values = _lower(found)
    crypto, version = values.get("crypto"), values.get("version")
    if "pubkey" in names or (isinstance(crypto, dict) and isinstance(crypto.get("kdf"), dict)) or version in (4, "4"):
        return (
            "it is an EIP-2335 keystore: a validator's BLS key for staking, and no account that could send anything; "
            "give the keystore of an Ethereum account"
        )
    if {"data", "iv", "salt"} <= names or "vault" in names or "keyringcontroller" in names:
        return f"it is a vault of MetaMask, which holds a seed phrase and no single key; {EXPORT}"
    if {"encseed", "ethaddr"} <= names:
        return "it is a wallet of Ethereum's presale; open it with Geth (`geth wallet import`), which writes version 3"
    if {"mnemonic", "privatekey", "private_key", "seed"} & names and not isinstance(crypto, dict):
        return "it holds a key in the clear; write the private key alone to a file and run: proofyard wallet import"
    if isinstance(crypto, dict) and (version in (1, "1") or "keyheader" in crypto):
        return "it is a keystore of version 1; open it once with Geth (`geth account update`), which writes version 3"
    if str(version) != "3":
        return f"it is no keystore of version 3 (its version is {str(version)[:20]!r}); {RESTORE}"
    if not isinstance(crypto, dict):
        return f"it is no keystore of version 3 (it has no `crypto`); {RESTORE}"
    cipher = crypto.get("cipher")
    if cipher != "aes-128-ctr":
        return f"it is encrypted with {str(cipher)[:40]!r}; version 3 is read with aes-128-ctr alone"
    return ""


def _require_affordable(path: Path, crypto: Mapping[str, Any]) -> None:
    """Raise `UnsafeKeystore` where opening it would take more memory or time than any wallet asks for."""
    given = crypto.get("kdfparams")
    params: Mapping[str, Any] = given if isinstance(given, dict) else {}
    numbers = {name: params.get(name, default) for name, default in (("n", 2), ("r", 1), ("p", 1), ("c", 1))}
    length = params.get("dklen", KEY_BYTES)
    if not all(type(number) is int and number > 0 for number in (*numbers.values(), length)):
        raise UnsafeKeystore(path, f"the cost of its password is no number; {RESTORE}")
    n, blocks = numbers["n"], numbers["n"] * numbers["r"]
    if n & (n - 1) or n == 1 or not KEY_BYTES <= length <= MOST_KEY_BYTES:
        raise UnsafeKeystore(path, f"the cost of its password is none that a program writes; {RESTORE}")
    memory = 128 * blocks
    if memory > MAX_SCRYPT_BYTES or blocks * numbers["p"] > MAX_SCRYPT_WORK or numbers["c"] > MAX_PBKDF2_ROUNDS:
        raise UnsafeKeystore(
            path, f"opening it would take {memory >> 20} MiB or too long; encrypt it with a usual cost"
        )


def _require_whole(path: Path, crypto: Mapping[str, Any]) -> None:
    """Raise `UnsafeKeystore` unless the parts have their sizes. With another start of the cipher the password fits and
    the key is a wrong one: the check does not go over it."""
    start = crypto.get("cipherparams")
    parts = {
        "cipherparams.iv": (start.get("iv") if isinstance(start, dict) else None, IV_BYTES),
        "ciphertext": (crypto.get("ciphertext"), KEY_BYTES),
        "mac": (crypto.get("mac"), KEY_BYTES),
    }
    for name, (value, size) in parts.items():
        digits = value.lower().removeprefix("0x") if isinstance(value, str) else ""
        if len(digits) != 2 * size or digits.strip(string.hexdigits):
            raise UnsafeKeystore(
                path, f"it is no keystore of version 3, or was cut off (its {name} is not of {size} bytes); {RESTORE}"
            )


def _lower(value: Any) -> Any:
    """Names in lower case, as far as they are nested: ethers writes `Crypto`."""
    return {str(name).lower(): _lower(each) for name, each in value.items()} if isinstance(value, dict) else value


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:120]
