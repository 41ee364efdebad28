import json
from pathlib import Path

import pytest
from eth_keys.constants import SECPK1_N

from proofyard.chain import Wallet, list_wallets, recover_commitment_signer, sign_commitment, wallet_path
from proofyard.chain.errors import PasswordUnreadable, UnknownWallet, UnsafeKeystore, WalletExists, WrongPassword
from proofyard.protocol import bls
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.roster import roster_of
from proofyard.protocol.signature import SignatureInvalid
from proofyard.protocol.types import Address, Digest, JobId, Signature, TaskIndex

FAST = 1 << 10
DOMAIN = Domain(31337, Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Wallet]:
    path, wallet = wallet_path(tmp_path, "alice"), Wallet.generate()
    wallet.save(path, "open sesame", scrypt_rounds=FAST)
    return path, wallet


def test_a_saved_wallet_unlocks_with_its_password_or_the_file_that_holds_it(saved, tmp_path: Path) -> None:
    path, wallet = saved
    assert path.stat().st_mode & 0o777 == 0o600
    assert Wallet.unlock(path, password="open sesame").address == wallet.address
    password_file = tmp_path / "password"
    password_file.write_text("open sesame\n")
    assert Wallet.unlock(path, password_file=password_file).address == wallet.address
    assert list_wallets(tmp_path) == [("alice", wallet.address)]


def test_a_wrong_password_and_an_unknown_wallet_say_what_to_do(saved, tmp_path: Path) -> None:
    path, _ = saved
    with pytest.raises(WrongPassword, match="--password-file"):
        Wallet.unlock(path, password="guess")
    with pytest.raises(UnknownWallet, match="known are alice"):
        Wallet.unlock(wallet_path(tmp_path, "bob"), password="x")
    with pytest.raises(UnsafeKeystore, match="no password was given"):
        Wallet.unlock(path)
    with pytest.raises(PasswordUnreadable, match="password file"):
        Wallet.unlock(path, password_file=tmp_path / "missing")


def test_a_keystore_that_others_can_read_is_refused(saved) -> None:
    path, _ = saved
    path.chmod(0o640)
    with pytest.raises(UnsafeKeystore, match="chmod 600"):
        Wallet.unlock(path, password="open sesame")


@pytest.mark.parametrize("content", [b"", b"[]", b"not json", b"{}", b'{"crypto": 1, "version": 3}', b"x" * 70_000])
def test_a_file_that_is_no_keystore_is_refused(tmp_path: Path, content: bytes) -> None:
    path = wallet_path(tmp_path, "broken")
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UnsafeKeystore):
        Wallet.unlock(path, password="x")


def test_a_key_is_never_overwritten_and_never_shown(saved) -> None:
    path, wallet = saved
    with pytest.raises(WalletExists):
        Wallet.generate().save(path, "other", scrypt_rounds=FAST)
    assert wallet.account.key.hex() not in repr(wallet)
    assert wallet.account.key.hex() not in json.dumps(path.read_text())


def test_a_commitment_names_its_signer_and_a_malleable_signature_is_refused() -> None:
    wallet, empty = Wallet.generate(), Digest(bytes(32))
    commitment = Commitment(JobId(1), TaskIndex(2), wallet.address, empty, empty, empty, 4, raw_cid(b"r"), 9, empty)
    signature = sign_commitment(DOMAIN, commitment, wallet)
    assert recover_commitment_signer(DOMAIN, commitment, signature) == wallet.address
    high = SECPK1_N - int.from_bytes(signature[32:64], "big")
    twin = Signature(signature[:32] + high.to_bytes(32, "big") + bytes([55 - signature[64]]))
    with pytest.raises(SignatureInvalid, match="lower"):
        recover_commitment_signer(DOMAIN, commitment, twin)


def test_the_bls_key_follows_from_the_hot_key() -> None:
    wallet = Wallet.from_key("0x" + "11" * 32)
    assert wallet.bls_secret() == Wallet.from_key(bytes([0x11]) * 32).bls_secret()
    assert wallet.bls_secret() != Wallet.generate().bls_secret()


def test_a_voter_has_a_key_of_its_own_and_proves_it() -> None:
    wallet = Wallet.from_key(bytes([0x11]) * 32)
    voter = wallet.as_voter(5)
    assert voter == Wallet.from_key(bytes([0x11]) * 32).as_voter(5) and voter.key == bls.public_key(
        wallet.voter_secret()
    )
    assert wallet.voter_secret() != wallet.bls_secret(), "whoever settles with one does not vote with it"
    assert roster_of([voter]).by_node[wallet.address] == voter
