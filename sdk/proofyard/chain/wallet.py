"""Wallets: secp256k1 keys in encrypted keystore files (Web3 Secret Storage, version 3), readable by their owner only.

A program unlocks its hot key; an owner key, which holds the stake and is paid, can stay elsewhere. A verifier's BLS
key is derived from its hot key, so one file and one password hold both.
"""

import hashlib
import hmac
import json
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coincurve import PrivateKey
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from proofyard.chain.errors import PasswordUnreadable, UnknownWallet, UnsafeKeystore, WalletExists, WrongPassword
from proofyard.chain.turns import Turns
from proofyard.protocol import bls
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.settlement import consent_digest, possession_digest
from proofyard.protocol.signature import recover
from proofyard.protocol.types import Address, Digest, Signature

KEYSTORE_SUFFIX = ".json"
MAX_KEYSTORE_BYTES = 64 * 1024
SCRYPT_ROUNDS = 1 << 17
"""Cost of one guess at a password: about 0.3 s and 128 MB."""


class Wallet:
    """An unlocked key. Its `repr` shows the address only; the key is never logged."""

    def __init__(self, account: LocalAccount, keystore: Path | None = None) -> None:
        self.account = account
        self.turns = Turns(keystore)
        self.address = Address(account.address)
        self._key = PrivateKey(bytes(account.key))

    def __repr__(self) -> str:
        return f"Wallet({self.address})"

    @classmethod
    def generate(cls) -> "Wallet":
        return cls(Account.create())

    @classmethod
    def from_key(cls, key: bytes | str) -> "Wallet":
        """The wallet of a private key in the clear: devnets and tests."""
        return cls(Account.from_key(key))

    @classmethod
    def unlock(cls, path: Path, *, password: str | None = None, password_file: Path | None = None) -> "Wallet":
        """The wallet in a keystore file. Raises `UnknownWallet`, `WrongPassword` or `UnsafeKeystore`."""
        keystore = _read_keystore(path)
        secret = password if password is not None else _read_password(path, password_file)
        try:
            return cls(Account.from_key(Account.decrypt(keystore, secret)), path)
        except ValueError as error:
            if "MAC mismatch" in str(error):
                raise WrongPassword(path) from None
            raise UnsafeKeystore(path, f"it is no keystore of version 3 ({error}); restore it from a backup") from None
        except (KeyError, TypeError) as error:
            raise UnsafeKeystore(
                path, f"it is no keystore of version 3 ({error!r}); restore it from a backup"
            ) from None

    def save(self, path: Path, password: str, *, scrypt_rounds: int = SCRYPT_ROUNDS) -> None:
        """Encrypt into a new file of mode 0600, which is there whole or not at all. Raises `WalletExists` rather than
        overwrite a key."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        keystore = Account.encrypt(self.account.key, password, kdf="scrypt", iterations=scrypt_rounds)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".wallet-", encoding="utf-8") as file:
            json.dump(keystore, file)
            file.flush()
            os.fsync(file.fileno())
            try:
                os.link(file.name, path)
            except FileExistsError:
                raise WalletExists(path) from None

    def sign_digest(self, digest: bytes) -> Signature:
        """65 bytes r, s, v over a 32-byte digest, low s."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return Signature(signature[:64] + bytes((signature[64] + 27,)))

    def bls_secret(self) -> bls.SecretKey:
        """The verifier key that belongs to this hot key: KeyGen over HMAC-SHA256(key, "proofyard-bls")."""
        return bls.keygen(hmac.digest(bytes(self.account.key), b"proofyard-bls", hashlib.sha256))

    def consent(self, domain: Domain, owner: Address) -> Signature:
        """This hot key's agreement to be registered by `owner`."""
        return self.sign_digest(consent_digest(domain, owner, self.address))

    def prove_possession(self, domain: Domain, owner: Address) -> tuple[bytes, bytes]:
        """The BLS public key and its proof of possession for `owner`, in the form that the Registry takes."""
        secret = self.bls_secret()
        key = bls.public_key_point(bls.public_key(secret))
        proof = bls.prove_possession(secret, possession_digest(domain, owner, self.address, key))
        return key, bls.signature_point(proof)


def list_wallets(directory: Path) -> list[tuple[str, Address]]:
    """Name and address of each keystore in `directory`, without unlocking any; other files are passed over."""
    found = []
    for path in sorted(directory.glob(f"*{KEYSTORE_SUFFIX}")):
        try:
            address = json.loads(path.read_bytes()[:MAX_KEYSTORE_BYTES])["address"]
            found.append((path.stem, Address(to_checksum_address(address))))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def wallet_path(directory: Path, name: str) -> Path:
    """Where the wallet `name` lies in `directory`."""
    return directory / f"{name}{KEYSTORE_SUFFIX}"


def sign_commitment(domain: Domain, commitment: Commitment, wallet: Wallet) -> Signature:
    return wallet.sign_digest(domain.typed_digest(commitment.struct_hash()))


def recover_commitment_signer(domain: Domain, commitment: Commitment, signature: Signature) -> Address:
    """Who signed `commitment`; compare with `commitment.node`. Raises `SignatureInvalid`."""
    return recover(Digest(domain.typed_digest(commitment.struct_hash())), signature)


def _read_keystore(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_KEYSTORE_BYTES + 1)
    except FileNotFoundError:
        known: Sequence[tuple[str, Address]] = list_wallets(path.parent)
        raise UnknownWallet(path.stem, path.parent, [name for name, _ in known]) from None
    except OSError as error:
        raise UnsafeKeystore(path, f"it cannot be read ({error.strerror})") from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise UnsafeKeystore(path, f"others may read it; run: chmod 600 {path}")
    try:
        keystore = json.loads(data) if len(data) <= MAX_KEYSTORE_BYTES else None
    except ValueError:
        keystore = None
    if not isinstance(keystore, dict):
        raise UnsafeKeystore(path, "it is no keystore of version 3; restore it from a backup")
    return keystore


def read_password(password_file: Path) -> str:
    """The password in a file, without the end of its line. Raises `PasswordUnreadable`."""
    try:
        return password_file.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise PasswordUnreadable(password_file, str(error.strerror)) from None
    except UnicodeDecodeError:
        raise PasswordUnreadable(password_file, "it is no text in UTF-8") from None


def _read_password(path: Path, password_file: Path | None) -> str:
    if password_file is None:
        raise UnsafeKeystore(path, "it is encrypted and no password was given; name a --password-file")
    return read_password(password_file)
