"""Keystore files: what is one, what is something else, and the key in it (Web3 Secret Storage, version 3).

Geth, cast, ethers, MyEtherWallet and this package write such files, with small differences: keys in capitals, no
address, a version that is a text. What looks alike and is not is named for what it is, because the next step differs.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_utils.address import is_address, to_checksum_address

from proofyard.chain.errors import FalseAddress, UnsafeKeystore, WrongPassword
from proofyard.protocol.types import Address

MAX_SCRYPT_BYTES = 1 << 30
"""Memory that opening a keystore may take; the usual cost takes 256 MiB."""
MAX_PBKDF2_ROUNDS = 50_000_000
RESTORE = "restore it from a backup"


def parse(path: Path, data: bytes) -> dict[str, Any]:
    """The keystore in a file's content. Raises `UnsafeKeystore` that says what the file is instead."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        text = data.decode("utf-8", errors="replace").strip().removeprefix("0x")
        if len(text) == 64 and all(digit in "0123456789abcdefABCDEF" for digit in text):
            raise UnsafeKeystore(
                path, f"it is a private key in the clear; encrypt it first: proofyard wallet import NAME {path}"
            ) from None
        raise UnsafeKeystore(path, f"it is no keystore of version 3; {RESTORE}") from None
    other = _is_rather(found)
    if other:
        raise UnsafeKeystore(path, other)
    keystore: dict[str, Any] = _lower(found)
    return keystore | {"version": 3}


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
    try:
        key = bytes(Account.decrypt(dict(keystore), password))
        address = Address(Account.from_key(key).address)
    except Exception as error:  # the libraries raise whatever their own do
        if "MAC mismatch" in str(error):
            raise WrongPassword(path) from None
        raise UnsafeKeystore(path, f"it is no keystore of version 3 ({_short(error)}); {RESTORE}") from None
    said = keystore.get("address")
    if said and address_in(keystore) != address:
        raise FalseAddress(path, str(said)[:60], address)
    return key


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
        return (
            "it is a vault of MetaMask, which holds a seed phrase and no single key; show the account's private key in "
            "MetaMask (Account details), write it to a file and run: proofyard wallet import NAME FILE"
        )
    if {"encseed", "ethaddr"} <= names:
        return "it is a wallet of Ethereum's presale; open it with Geth (`geth wallet import`), which writes version 3"
    if {"mnemonic", "privatekey", "private_key", "seed"} & names and not isinstance(crypto, dict):
        return "it holds a key in the clear; write the private key alone to a file and run: proofyard wallet import"
    if version in (1, "1") or (isinstance(crypto, dict) and "keyheader" in crypto):
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
    numbers = {name: params.get(name, 1) for name in ("n", "r", "p", "c")}
    if not all(type(number) is int and number > 0 for number in numbers.values()):
        raise UnsafeKeystore(path, f"the cost of its password is no number; {RESTORE}")
    memory = 128 * numbers["n"] * numbers["r"]
    if memory > MAX_SCRYPT_BYTES or numbers["p"] > 1024 or numbers["c"] > MAX_PBKDF2_ROUNDS:
        raise UnsafeKeystore(
            path, f"opening it would take {memory >> 20} MiB or too long; encrypt it with a usual cost"
        )


def _lower(value: Any) -> Any:
    """Names in lower case, as far as they are nested: ethers writes `Crypto`."""
    return {str(name).lower(): _lower(each) for name, each in value.items()} if isinstance(value, dict) else value


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:120]
