"""Wallets: secp256k1 keys in encrypted keystore files (Web3 Secret Storage, version 3), readable by their owner only.

A program unlocks its hot key; an owner key, which holds the stake and is paid, can stay elsewhere. BLS keys, a
verifier's and a voter's, are derived from the hot key, so one file and one password hold all.
"""

import hashlib
import hmac
import json
import os
import shlex
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coincurve import PrivateKey
from eth_account import Account
from eth_account.signers.local import LocalAccount

from proofyard.chain import keystores, phrases
from proofyard.chain.errors import BadKey, PasswordUnreadable, UnknownWallet, UnsafeKeystore, WalletError, WalletExists
from proofyard.chain.turns import SUFFIX, Turns
from proofyard.protocol import bls, roster
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.roster import Voter
from proofyard.protocol.settlement import consent_digest, possession_digest
from proofyard.protocol.signature import recover
from proofyard.protocol.types import Address, Digest, Signature

KEYSTORE_SUFFIX = ".json"
MAX_KEYSTORE_BYTES = 64 * 1024
MAX_PASSWORD_BYTES = 4096
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
    def from_phrase(cls, phrase: str, account: int = 0) -> "Wallet":
        """The wallet of a seed phrase's account, counted from 0. Raises `BadPhrase`."""
        return cls(Account.from_key(phrases.key_of(phrase, account)))

    @classmethod
    def unlock(cls, path: Path, *, password: str | None = None, password_file: Path | None = None) -> "Wallet":
        """The wallet in a keystore file. Raises `UnknownWallet`, `WrongPassword`, `PasswordUnreadable` or
        `UnsafeKeystore`."""
        keystore = read_keystore(path)
        secret = password if password is not None else _read_password(path, password_file)
        return cls(Account.from_key(keystores.decrypt(path, keystore, secret)), path)

    @classmethod
    def from_file(cls, path: Path, password: Callable[[], str], account: int = 0) -> "Wallet":
        """The wallet in a keystore of another program, or in a text file with a private key in hexadecimal digits or a
        seed phrase, of which `account` is taken. `password` is asked for a keystore alone. Raises as `unlock`, whoever
        may read the file, and `BadPhrase`."""
        data = _content(path)
        if (found := cls.from_secret(data, account)) is not None:
            return found
        keystore = keystores.parse(path, data)
        return cls(Account.from_key(keystores.decrypt(path, keystore, password())))

    @classmethod
    def from_secret(cls, data: bytes, account: int = 0) -> "Wallet | None":
        """The wallet of a private key or a seed phrase in the clear, None for anything else. Raises `BadPhrase`, and
        `BadKey` for a number that is no key."""
        phrase = keystores.phrase_in(data)
        if phrase is not None:
            return cls.from_phrase(phrase, account)
        digits = keystores.key_in(data)
        if digits is None:
            return None
        try:
            return cls(Account.from_key(bytes.fromhex(digits)))
        except Exception:  # the libraries raise whatever their own do
            raise BadKey from None

    def save(self, path: Path, password: str, *, scrypt_rounds: int = SCRYPT_ROUNDS) -> None:
        """Encrypt into a new file of mode 0600, which is there whole or not at all. Raises `WalletExists` rather than
        overwrite a key."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_keystore(path, Account.encrypt(self.account.key, password, kdf="scrypt", iterations=scrypt_rounds))

    def encrypt_anew(self, password: str, *, scrypt_rounds: int = SCRYPT_ROUNDS) -> None:
        """Give the keystore that this was unlocked from another password; it is there whole at any time."""
        assert self.turns.keystore is not None, "it was unlocked from a file"
        keystore = Account.encrypt(self.account.key, password, kdf="scrypt", iterations=scrypt_rounds)
        write_keystore(self.turns.keystore.resolve(), keystore, replace=True)

    def sign_digest(self, digest: bytes) -> Signature:
        """65 bytes r, s, v over a 32-byte digest, low s."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return Signature(signature[:64] + bytes((signature[64] + 27,)))

    def salt_for(self, digest: bytes) -> bytes:
        """32 bytes that nobody without the key can guess, the same each time: the hash of its signature (RFC 6979) over
        a digest that is signed for nothing else and shown to nobody."""
        return hashlib.sha256(self.sign_digest(digest)).digest()

    def bls_secret(self) -> bls.SecretKey:
        """The verifier key that belongs to this hot key: KeyGen over HMAC-SHA256(key, "proofyard-bls")."""
        return bls.keygen(hmac.digest(bytes(self.account.key), b"proofyard-bls", hashlib.sha256))

    def voter_secret(self) -> bls.SecretKey:
        """The key that a node votes with about rounds: KeyGen over HMAC-SHA256(key, "proofyard-voter")."""
        return bls.keygen(hmac.digest(bytes(self.account.key), b"proofyard-voter", hashlib.sha256))

    def as_voter(self, weight: int) -> Voter:
        """This hot key's place in a roster, with the proof that its BLS key is its own. `weight`: its stake in whole
        tokens."""
        secret = self.voter_secret()
        key = bls.public_key(secret)
        return Voter(
            self.address, key, bls.prove_possession(secret, roster.possession_digest(self.address, key)), weight
        )

    def consent(self, domain: Domain, owner: Address) -> Signature:
        """This hot key's agreement to be registered by `owner`."""
        return self.sign_digest(consent_digest(domain, owner, self.address))

    def prove_possession(self, domain: Domain, owner: Address) -> tuple[bytes, bytes]:
        """The BLS public key and its proof of possession for `owner`, in the form that the Registry takes."""
        secret = self.bls_secret()
        key = bls.public_key_point(bls.public_key(secret))
        proof = bls.prove_possession(secret, possession_digest(domain, owner, self.address, key))
        return key, bls.signature_point(proof)


def write_keystore(path: Path, keystore: Mapping[str, Any], *, replace: bool = False) -> None:
    """Write a keystore to a file of mode 0600, which is there whole or not at all. Raises `WalletExists` for one that
    is there, unless it is to be replaced."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".wallet-", encoding="utf-8", delete=False) as file:
        try:
            json.dump(keystore, file)
            file.flush()
            os.fsync(file.fileno())
            if replace:
                Path(file.name).replace(path)
            else:
                os.link(file.name, path)
        except FileExistsError:
            raise WalletExists(path) from None
        finally:
            Path(file.name).unlink(missing_ok=True)


def read_keystore(path: Path) -> dict[str, Any]:
    """The keystore in a file, not unlocked. Raises `UnknownWallet` or `UnsafeKeystore`."""
    data = _content(path)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UnsafeKeystore(path, f"others may read it; run: chmod 600 {shlex.quote(str(path))}")
    return keystores.parse(path, data)


def list_wallets(directory: Path) -> list[tuple[str, Address | None]]:
    """Name and address of each keystore in `directory`, without unlocking any; other files are passed over. The address
    is None where the file does not say it, as cast writes them."""
    found = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        if path.name.startswith(".") or path.name.endswith(SUFFIX) or not path.is_file():
            continue
        try:
            keystore = keystores.parse(path, _content(path))
        except WalletError:
            continue
        found.append((path.name.removesuffix(KEYSTORE_SUFFIX), keystores.address_in(keystore)))
    return found


def wallet_path(directory: Path, name: str) -> Path:
    """Where the wallet `name` lies in `directory`: `name`.json, or a file of just that name, as cast and Geth write
    them."""
    path = directory / f"{name.removesuffix(KEYSTORE_SUFFIX)}{KEYSTORE_SUFFIX}"
    bare = directory / name
    return bare if not path.exists() and bare.is_file() else path


def sign_commitment(domain: Domain, commitment: Commitment, wallet: Wallet) -> Signature:
    return wallet.sign_digest(domain.typed_digest(commitment.struct_hash()))


def recover_commitment_signer(domain: Domain, commitment: Commitment, signature: Signature) -> Address:
    """Who signed `commitment`; compare with `commitment.node`. Raises `SignatureInvalid`."""
    return recover(Digest(domain.typed_digest(commitment.struct_hash())), signature)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEYSTORE_BYTES + 1)
    except FileNotFoundError:
        known = list_wallets(path.parent)
        name = path.name.removesuffix(KEYSTORE_SUFFIX)
        raise UnknownWallet(name, path.parent, [name for name, _ in known]) from None
    except (OSError, ValueError) as error:
        raise UnsafeKeystore(path, f"it cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > MAX_KEYSTORE_BYTES:
        raise UnsafeKeystore(path, f"it is no keystore: it has more than {MAX_KEYSTORE_BYTES} bytes")
    return data


def read_password(password_file: Path) -> str:
    """The password in a file: its one line, without the end of it, in UTF-8 or, with their mark, UTF-16. Raises
    `PasswordUnreadable`."""
    try:
        with password_file.open("rb") as file:
            data = file.read(MAX_PASSWORD_BYTES + 1)
    except (OSError, ValueError) as error:
        raise PasswordUnreadable(password_file, getattr(error, "strerror", None) or str(error)) from None
    if len(data) > MAX_PASSWORD_BYTES:
        raise PasswordUnreadable(password_file, f"it has more than {MAX_PASSWORD_BYTES} bytes")
    try:
        text = keystores.text_in(data).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise PasswordUnreadable(
            password_file, f"byte {error.start + 1} is no UTF-8, it may be Latin-1; save it as UTF-8"
        ) from None
    if not text.strip():
        raise PasswordUnreadable(password_file, "it is empty; write the password into it")
    if len(text.splitlines()) > 1:
        raise PasswordUnreadable(password_file, "it has several lines; a password is one line")
    if "\0" in text:
        raise PasswordUnreadable(password_file, "it is no text; save it as UTF-8")
    return text


def _read_password(path: Path, password_file: Path | None) -> str:
    if password_file is None:
        raise UnsafeKeystore(path, "it is encrypted and no password was given; name a --password-file")
    return read_password(password_file)
