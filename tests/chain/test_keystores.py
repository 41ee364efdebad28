"""Keystores and password files as other programs, and people, make them."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from scripts.compatibility import section

from proofyard.chain import Wallet, list_wallets, wallet_path
from proofyard.chain.errors import FalseAddress, PasswordUnreadable, UnsafeKeystore, WrongPassword
from proofyard.chain.wallet import read_password

ROWS = section("keystores").rows
CAST = next(row for row in ROWS if row["program"] == "cast")


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
    for text in (key, "0x" + key.upper() + "\n", f"\ufeff {key}\r\n"):
        assert Wallet.from_file(written(tmp_path, text), str).address == CAST["address"]
    for wrong in ("0" * 64, "f" * 64):
        with pytest.raises(UnsafeKeystore, match="no private key"):
            Wallet.from_file(written(tmp_path, wrong), str)
    for wrong in (key[:-1], key + "0", "apple " * 12):
        with pytest.raises(UnsafeKeystore):
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
        ({"crypto": {"ciphertext": "00"}}, "wrong password"),
        ({"crypto": []}, "no `crypto`"),
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
    ],
)
def test_a_password_file_that_is_none_says_why(content: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(PasswordUnreadable, match=says):
        read_password(written(tmp_path, content, "password"))
