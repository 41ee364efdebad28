"""What the ends of circuits have signed for a relay: the last of each circuit, on disk, until its payer was shown it.

A file holds all of them, written anew whenever something has come. What was signed within `SAVE_S` before a crash is
lost with it, and with the next signature of a circuit that goes on it is made good.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from proofyard.protocol.carriage import NOBODY, CarriageReceipt
from proofyard.protocol.codec import CodecError, decode, encode
from proofyard.protocol.messages import Acks, ShowCarriage
from proofyard.protocol.types import Address, Digest
from proofyard.transport.connection import Connection
from proofyard.transport.errors import TransportError

logger = logging.getLogger("proofyard.transport")

FILE = "carried"
MOST_KEPT = 4096
MAX_BYTES = 4 << 20
"""Of the file: a receipt has 520 bytes."""

KEPT_S = 24 * 3600
"""After so long a payer pays for a circuit no more."""

SAVE_S, SHOW_S = 10.0, 60.0
SHOWN_AT_ONCE = 64
ANSWER_S = 20.0


class SavedReceipts(msgspec.Struct, frozen=True, tag="saved-receipts-1"):
    """What the file holds."""

    receipts: Annotated[tuple[CarriageReceipt, ...], Meta(max_length=MOST_KEPT)]


class Receipts:
    """Those of one relay, in a file; without one they are kept in memory alone. A file that cannot be read is left out,
    and written anew."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._kept: dict[Digest, CarriageReceipt] = {}
        self._shown: dict[Digest, int] = {}
        """Bytes of each circuit that its payer was shown."""
        self._changed = False
        try:
            saved = decode(file.read_bytes(), SavedReceipts, max_bytes=MAX_BYTES).receipts if file is not None else ()
            self._kept = {each.circuit.circuit: each for each in saved}
        except FileNotFoundError:
            pass
        except (OSError, CodecError) as error:
            logger.warning("%s is left out, and written anew: %s", file, error)

    def __len__(self) -> int:
        return len(self._kept)

    def note(self, receipt: CarriageReceipt) -> None:
        """The last of its circuit. One that nobody pays for is not kept."""
        if receipt.circuit.payer != NOBODY:
            self._kept.pop(receipt.circuit.circuit, None)
            self._kept[receipt.circuit.circuit] = receipt
            self._changed = True
            if len(self._kept) > MOST_KEPT:
                self._forget(next(iter(self._kept)))

    def to_show(self) -> dict[Address, list[CarriageReceipt]]:
        """What payers have not been shown yet."""
        found: dict[Address, list[CarriageReceipt]] = {}
        for number, receipt in self._kept.items():
            if receipt.carried > self._shown.get(number, 0):
                found.setdefault(receipt.circuit.payer, []).append(receipt)
        return found

    def save(self) -> None:
        """Write what has come since; what is too old goes."""
        for number in [each for each, kept in self._kept.items() if kept.circuit.begun < time.time() - KEPT_S]:
            self._forget(number)
        if not self._changed or self._file is None:
            return
        self._changed = False
        temporary = self._file.with_name(f".{self._file.name}.new")
        temporary.write_bytes(encode(SavedReceipts(tuple(self._kept.values()))))
        temporary.replace(self._file)

    async def run(self, connect: Callable[[Address], Awaitable[Connection | None]]) -> None:
        """Keep them on disk, and show them to whom they name, until cancelled. `connect`: a connection to a payer, None
        where there is none."""
        try:
            rounds = 0
            while True:
                await asyncio.sleep(SAVE_S)
                self._save()
                rounds += 1
                if rounds % int(SHOW_S / SAVE_S) == 0:
                    await self.show(connect)
        finally:
            self._save()

    async def show(self, connect: Callable[[Address], Awaitable[Connection | None]]) -> None:
        """One attempt with each payer."""
        for payer, receipts in self.to_show().items():
            try:
                connection = await connect(payer)
                for first in range(0, len(receipts) if connection is not None else 0, SHOWN_AT_ONCE):
                    assert connection is not None
                    await self._show(connection, receipts[first : first + SHOWN_AT_ONCE])
            except TransportError as error:
                logger.info("%s is not shown what was carried for its jobs: %s", payer, error)

    async def _show(self, connection: Connection, receipts: list[CarriageReceipt]) -> None:
        answers = await connection.request(ShowCarriage(tuple(receipts)), reply=Acks, timeout=ANSWER_S)
        for receipt, answer in zip(receipts, answers.answers, strict=False):
            self._shown[receipt.circuit.circuit] = receipt.carried
            if not answer.proceed:
                logger.info("%s does not pay for %s bytes: %s", connection.peer, receipt.carried, answer.reason)

    def _forget(self, number: Digest) -> None:
        del self._kept[number]
        self._shown.pop(number, None)
        self._changed = True

    def _save(self) -> None:
        try:
            self.save()
        except OSError as error:
            logger.warning("what this relay has carried is not kept: %s", error)
