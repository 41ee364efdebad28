"""Whose turn it is to send from a wallet, and what it has on its way.

Programs on one machine agree over a file beside the keystore: one sends at a time, and what is sent stands in the file
until it is mined. So whoever sends next, also after a crash, follows that to its end first, and no two of them give
out the same nonce. Where there is no keystore, or nothing can be written or locked beside it (as on some
network disks), this holds within one process.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from proofyard.chain.errors import WalletBusy
from proofyard.protocol.codec import CodecError, decode_json

logger = logging.getLogger(__name__)

SUFFIX = ".sending"
WAIT_S, POLL_S = 600.0, 0.1
MAX_BYTES = 8 << 20
MAX_SUBMISSIONS = 64
"""Calls that were cut off and are remembered; the oldest are forgotten."""
MAX_MODELS = 1024
"""Jobs whose models' names are remembered."""


class Sent(msgspec.Struct):
    """A transaction under one nonce and all its versions, the signed bytes in hex; fees in wei a unit of gas. `began`:
    Unix seconds, by this machine, of the call that it is for. `value`: wei that it moves, in decimal digits."""

    nonce: int
    what: str
    to: str | None
    data: str
    gas: int
    tip: int = 0
    max_fee: int = 0
    versions: list[str] = []
    began: int = 0
    value: str = "0"


class Kept(msgspec.Struct):
    """What is remembered of a wallet, by chain id: the transaction on its way. `submissions`: see `remember`. `models`:
    see `name_model`."""

    sent: dict[str, Sent] = {}
    submissions: dict[str, str] = {}
    models: dict[str, str] = {}


class Turn:
    """The right to send, while it lasts."""

    def __init__(self, kept: Kept, file: BinaryIO | None) -> None:
        self._kept, self._file = kept, file

    def sent(self, chain_id: int) -> Sent | None:
        """What was sent on a chain and not seen mined."""
        return self._kept.sent.get(str(chain_id))

    def keep(self, chain_id: int, sent: Sent | None) -> None:
        """Write down what is about to be sent, or that nothing is on its way any more."""
        self._kept.sent.pop(str(chain_id), None)
        if sent is not None:
            self._kept.sent[str(chain_id)] = sent
        self._write()

    def submission(self, call: str) -> str | None:
        """The nonce that a call was given which did not come to its end."""
        return self._kept.submissions.get(call)

    def remember(self, call: str, nonce: str | None) -> None:
        """Give a call that is about to be made its nonce, or forget it: it has come to its end."""
        self._kept.submissions.pop(call, None)
        if nonce is not None:
            self._kept.submissions[call] = nonce
        _forget_oldest(self._kept.submissions, MAX_SUBMISSIONS)
        self._write()

    def model(self, job: str) -> str:
        """What the model of a job is called, "" where nothing is remembered."""
        return self._kept.models.get(job, "")

    def name_model(self, job: str, name: str) -> None:
        """Remember how the model of a job is called: here alone, a path says more than its owner means to."""
        self._kept.models[job] = name
        _forget_oldest(self._kept.models, MAX_MODELS)
        self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        data = msgspec.json.encode(self._kept)
        self._file.seek(0)
        self._file.write(data)
        self._file.truncate()
        self._file.flush()
        os.fsync(self._file.fileno())


def _forget_oldest(kept: dict[str, str], most: int) -> None:
    for old in list(kept)[:-most]:
        del kept[old]


class Turns:
    """Takes turns for one wallet, whose keystore is a file or None."""

    def __init__(self, keystore: Path | None) -> None:
        self.keystore = keystore
        self._path = None if keystore is None else keystore.with_name(keystore.name + SUFFIX)
        self._lock = threading.Lock()
        self._kept = Kept()

    @contextmanager
    def take(self) -> Iterator[Turn]:
        """Wait for the turn. Raises `WalletBusy` where another program keeps it for `WAIT_S` seconds."""
        with self._lock:
            file = self._open()
            if file is None:
                yield Turn(self._kept, None)
                return
            with file:
                self._wait(file)
                yield Turn(_read(file), file)

    def _open(self) -> BinaryIO | None:
        if self._path is None:
            return None
        try:
            return os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
        except OSError as error:
            logger.info("what this wallet sends is not written down (%s): %s", self._path, error.strerror)
            return None

    def _wait(self, file: BinaryIO) -> None:
        until, told = time.monotonic() + WAIT_S, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise WalletBusy(str(self._path), WAIT_S) from None
            except OSError as error:
                logger.warning("programs take no turns with this wallet (%s): %s", self._path, error.strerror)
                return
            if not told:
                logger.info("another program sends with this wallet; waiting for it")
                told = True
            time.sleep(POLL_S)


def _read(file: BinaryIO) -> Kept:
    """What stands in the file; nothing where it was cut off while it was written."""
    data = file.read(MAX_BYTES + 1)
    if not data.strip():
        return Kept()
    try:
        return decode_json(data, Kept)
    except CodecError:
        logger.warning("what this wallet has sent before cannot be read; looking at the chain alone")
        return Kept()
