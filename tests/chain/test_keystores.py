"""Keystores and password files as other programs, and people, make them."""

import codecs
import json
import os
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from scripts.compatibility import section

from proofyard.chain import Wallet, list_wallets, wallet_path
from proofyard.chain.errors import (
    BadKey,
    BadPhrase,
    FalseAddress,
    PasswordUnreadable,
    UnknownWallet,
    UnsafeKeystore,
    WrongPassword,
)
from proofyard.chain.wallet import read_password

ROWS = section("keystores").rows
CAST = next(row for row in ROWS if row["program"] == "cast")
SALTED = {"n": 8192, "r": 8, "p": 1, "dklen": 32, "salt": "00"}
DEAR = ({"n": 1 << 30}, {"n": 1 << 21}, {"r": 1 << 40}, {"p": 1 << 20}, {"n": 1 << 20, "p": 8})
ODD = ({"n": 8191}, {"n": 1}, {"dklen": 16}, {"dklen": 1 << 31}, {"dklen": 1 << 40})


def written(folder: Path, content: str | bytes, name: str = "alice.json") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['program']}: {row['form'][:30]}")
def test_each_programs_file_works_or_is_named_for_what_it_is(row: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, row["content"])
    if "refused" in row:
        with pytest.raises(UnsafeKeystore, match=row["refused"]):
            Wallet.unlock(path, password="x")
        assert list_wallets(tmp_path) == []
    else:
        assert Wallet.unlock(path, password=row["password"]).address == row["address"]
    if "address" in row:
        imported = Wallet.from_file(path, lambda: row.get("password", ""))
        assert imported.address == row["address"]
    else:
        with pytest.raises(UnsafeKeystore, match=row["refused"]):
            Wallet.from_file(path, lambda: "x")


def test_a_key_in_the_clear_may_be_written_as_people_do(tmp_path: Path) -> None:
    key = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
    for text in (key, "0x" + key.upper() + "\n", f"\ufeff {key}\r\n", "0X" + key, f'"0x{key}"', f"'{key}'\n"):
        for data in (text.encode(), text.lstrip("\ufeff").encode("utf-16")):
            path = written(tmp_path, data)
            assert Wallet.from_file(path, str).address == CAST["address"]
            with pytest.raises(UnsafeKeystore, match="wallet import NAME"):
                Wallet.unlock(path, password="x")
    for wrong in ("0" * 64, "f" * 64):
        with pytest.raises(BadKey, match="no private key"):
            Wallet.from_file(written(tmp_path, wrong), str)
    for wrong in (key[:-1], key + "0", "apple " * 12):
        with pytest.raises((UnsafeKeystore, BadPhrase)):
            Wallet.from_file(written(tmp_path, wrong), str)


@pytest.mark.parametrize("said", ["0x" + "11" * 20, "11" * 20, "0x12", "nonsense", "0x" + "2C" * 20])
def test_the_key_of_another_account_than_the_file_says_is_refused(said: str, tmp_path: Path) -> None:
    keystore = json.loads(CAST["content"]) | {"address": said}
    with pytest.raises(FalseAddress, match="mixed up") as caught:
        Wallet.unlock(written(tmp_path, json.dumps(keystore)), password=CAST["password"])
    assert caught.value.found == CAST["address"]


@pytest.mark.parametrize("spell", [str.lower, str.upper, lambda text: text, lambda text: text[2:]])
def test_the_address_in_a_file_may_be_in_any_spelling(spell: Any, tmp_path: Path) -> None:
    keystore = json.loads(CAST["content"]) | {"address": spell(CAST["address"])}
    path = written(tmp_path, json.dumps(keystore))
    assert Wallet.unlock(path, password=CAST["password"]).address == CAST["address"]
    assert list_wallets(tmp_path) == [("alice", CAST["address"])]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version is '2'"),
        ({"version": None}, "version is 'None'"),
        ({"crypto": {"cipher": "aes-256-gcm"}}, "encrypted with 'aes-256-gcm'"),
        ({"crypto": {"kdf": "argon2"}}, "no keystore of version 3"),
        ({"crypto": {"kdfparams": {"n": 1 << 40, "r": 8, "p": 1, "dklen": 32, "salt": "00"}}}, "usual cost"),
        ({"crypto": {"kdfparams": {"n": "many"}}}, "cost of its password is no number"),
        ({"crypto": {"kdfparams": None}}, "no keystore of version 3"),
        ({"crypto": {"ciphertext": "zz"}}, "no keystore of version 3"),
        ({"crypto": {"ciphertext": "00" * 32}}, "wrong password"),
        ({"crypto": []}, "no `crypto`"),
        ({"version": 3.0}, r"version is '3.0'"),
        *(({"crypto": {"kdfparams": SALTED | cost}}, "usual cost") for cost in DEAR),
        *(({"crypto": {"kdfparams": SALTED | cost}}, "none that a program writes") for cost in ODD),
        *(({"crypto": {"kdfparams": SALTED | {"n": n}}}, "is no number") for n in (0, -2, 8192.0, "8192", True, None)),
        ({"crypto": {"kdf": "pbkdf2", "kdfparams": {"c": 10**9, "dklen": 32, "salt": "00"}}}, "usual cost"),
        ({"crypto": {"mac": None}}, "its mac is not of 32 bytes"),
        ({"crypto": {"mac": ""}}, "its mac is not of 32 bytes"),
        ({"crypto": {"ciphertext": ""}}, "its ciphertext is not of 32 bytes"),
        ({"crypto": {"cipherparams": {}}}, r"its cipherparams.iv is not of 16 bytes"),
        ({"crypto": {"cipherparams": {"iv": "8079"}}}, r"its cipherparams.iv is not of 16 bytes"),
        ({"crypto": {"cipherparams": "8079"}}, r"its cipherparams.iv is not of 16 bytes"),
        ({"crypto": {"cipher": "AES-128-CTR"}}, "encrypted with 'AES-128-CTR'"),
    ],
)
def test_a_damaged_keystore_is_one_sentence(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    keystore = json.loads(CAST["content"])
    for name, value in change.items():
        keystore[name] = keystore[name] | value if isinstance(value, dict) else value
    with pytest.raises((UnsafeKeystore, WrongPassword), match=says):
        Wallet.unlock(written(tmp_path, json.dumps(keystore)), password=CAST["password"])


def test_a_keystore_may_lie_there_under_its_bare_name(tmp_path: Path) -> None:
    written(tmp_path, CAST["content"], "alice")
    written(tmp_path, "x", "notes.txt")
    assert list_wallets(tmp_path) == [("alice", None)]
    assert wallet_path(tmp_path, "alice") == tmp_path / "alice"
    assert wallet_path(tmp_path, "bob.json") == tmp_path / "bob.json"
    assert wallet_path(tmp_path, "bob") == tmp_path / "bob.json"


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"open sesame", "open sesame"),
        (b"open sesame\r\n", "open sesame"),
        (codecs.BOM_UTF8 + b"open sesame\n", "open sesame"),
        ("öffne dich\n".encode("utf-16"), "öffne dich"),
        (codecs.BOM_UTF16_BE + "öffne dich".encode("utf-16-be"), "öffne dich"),
        (b" spaces count ", " spaces count "),
    ],
)
def test_a_password_file_is_read_as_editors_write_it(content: bytes, password: str, tmp_path: Path) -> None:
    assert read_password(written(tmp_path, content, "password")) == password


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (codecs.BOM_UTF8, "is empty"),
        (b"   \n", "is empty"),
        ("öffne dich".encode("latin-1"), "byte 1 is no UTF-8, it may be Latin-1"),
        ("Sesam öffne".encode("cp1252"), "byte 7 is no UTF-8"),
        (b"one\ntwo\n", "several lines"),
        (b"o\0p\0e\0n\0", "no text"),
        (b"x" * 5000, "more than 4096 bytes"),
    ],
)
def test_a_password_file_that_is_none_says_why(content: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(PasswordUnreadable, match=says):
        read_password(written(tmp_path, content, "password"))


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/tmp", "/no/such/file", "a\0b"])
def test_what_is_no_password_file_is_said_at_once(path: str) -> None:
    with pytest.raises(PasswordUnreadable, match="name another one"):
        read_password(Path(path))


@pytest.mark.parametrize("made_with", ["\u00f6ffne", "o\u0308ffne", "\ufb03", "\u212b", "\u30ac"])
@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_password_may_be_typed_in_another_form_of_unicode(made_with: str, form: Any, tmp_path: Path) -> None:
    """ethers encrypts with NFKC, others with what was typed, and macOS types what it likes."""
    wallet, path = Wallet.from_key(bytes([7]) * 32), tmp_path / "w.json"
    used = normalize("NFKC", made_with)
    wallet.save(path, used, scrypt_rounds=2)
    assert Wallet.unlock(path, password=normalize(form, made_with)).address == wallet.address
    with pytest.raises(WrongPassword):
        Wallet.unlock(path, password=used + "\u00e9")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("test " * 11 + "junk\n", "seed phrase"),
        ("1" * 64, "wallet import NAME"),
        ('{"device": {}, "version": 1}', "its version is '1'"),
        ('{"_format": "hh3-keystore-v1", "data": {}}', "no keystore of version 3"),
        ('{"encoded": "x", "encoding": {"version": "3"}, "address": "5x"}', "no keystore of version 3"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHQ\n", "no keystore of version 3"),
        (CAST["content"][:-20], "restore it from a backup"),
        (CAST["content"] * 2, "restore it from a backup"),
        ("[" * 30_000, "restore it from a backup"),
        ('{"version": 3, "crypto": ' + '{"a":' * 600 + "1" + "}" * 601, "restore it from a backup"),
        ('{"version": 3, "crypto": ' + "9" * 5000 + "}", "restore it from a backup"),
        ("null", "no keystore of version 3"),
        (f"[{CAST['content']}]", "no keystore of version 3"),
    ],
)
def test_more_that_is_no_keystore(content: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeKeystore, match=says):
        Wallet.unlock(written(tmp_path, content), password="x")


def test_a_folder_of_wallets_may_hold_anything(tmp_path: Path) -> None:
    """Links to nowhere and in circles, folders, pipes and devices are passed over, and nobody waits for them."""
    written(tmp_path, CAST["content"])
    (tmp_path / "folder.json").mkdir()
    for name, target in (("lost", "nowhere"), ("circle", "circle.json"), ("zero", "/dev/zero"), ("also", "alice.json")):
        (tmp_path / f"{name}.json").symlink_to(target)
    os.mkfifo(tmp_path / "pipe.json")
    written(tmp_path, '{"version": 3, "crypto": ' + '{"a":' * 600 + "1" + "}" * 601, "deep.json")
    assert list_wallets(tmp_path) == [("alice", None), ("also", None)]
    with pytest.raises(UnknownWallet, match="known are alice, also"):
        Wallet.unlock(tmp_path / "lost.json", password="x")
    for name in ("folder", "circle", "zero"):
        with pytest.raises(UnsafeKeystore):
            Wallet.unlock(tmp_path / f"{name}.json", password="x")
