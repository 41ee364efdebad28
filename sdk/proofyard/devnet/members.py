"""Who takes part in a local network: names, wallets in encrypted files, stakes."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from proofyard.chain import Wallet
from proofyard.chain.wallet import wallet_path

SCRYPT_ROUNDS = 1 << 12
"""Keys that guard nothing are unlocked quickly, by many processes at once."""


@dataclass(frozen=True)
class Member:
    """A participant. `role`: node, verifier or requester. `key` signs its work, `owner` holds stake and tokens; a
    requester's are the same. `adversary`: the way a node cheats."""

    name: str
    role: str
    key: Wallet
    owner: Wallet
    adversary: str | None = None


@dataclass(frozen=True)
class Keys:
    """A wallet's keystore and the file with its password, both of mode 0600."""

    keystore: Path
    password_file: Path


def keys_of(directory: Path, name: str) -> Keys:
    return Keys(wallet_path(directory, name), directory / f"{name}.password")


def new_keys(count: int) -> list[Wallet]:
    """Fresh keys in the order of their addresses, by which verifiers break ties between nodes that are equally busy:
    who gets the first ones is sure to be offered work."""
    return sorted((Wallet.generate() for _ in range(count)), key=lambda wallet: wallet.address)


def store_wallet(directory: Path, name: str, wallet: Wallet) -> Wallet:
    """Keep a wallet in `directory`, encrypted with a random password that lies beside it."""
    keys = keys_of(directory, name)
    password = secrets.token_urlsafe(18)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    keys.password_file.touch(mode=0o600, exist_ok=False)
    keys.password_file.write_text(password + "\n")
    wallet.save(keys.keystore, password, scrypt_rounds=SCRYPT_ROUNDS)
    return wallet
