"""A client's own history of its Registry, read as far as it is needed."""

import threading
import time

from proofyard.chain.court_reader import CourtReader
from proofyard.chain.errors import ChainBehind, ChainError
from proofyard.chain.events import BatchSettled
from proofyard.chain.following import Cursor
from proofyard.chain.history import BlockFacts, History
from proofyard.chain.records import VerifierRecord
from proofyard.chain.rpc import mapped_errors
from proofyard.chain.urls import shown_all
from proofyard.protocol.types import Address, BatchId, Digest, JobId
from proofyard.protocol.view import BatchView

REORGANISED_TRIES = 5
CATCH_UP_S, CATCH_UP_POLL_S = 20.0, 0.5
"""So long an endpoint that is behind what was read of it may take to catch up."""


class HistoryReader(CourtReader):
    """Reads the present of a Registry, and its past from events. The first call that needs the past reads all events
    from `first_block` on and keeps what they say in memory; later ones read only what is new."""

    def __init__(self, rpc_url: str, registry: Address, *, first_block: int = 0, chain_id: int | None = None) -> None:
        super().__init__(rpc_url, registry, first_block=first_block, chain_id=chain_id)
        self._cursor = Cursor()
        self._history: History | None = None
        self._reading = threading.Lock()

    def history(self) -> History:
        """The past, read up to the head. It is shared: ask it from one thread at a time."""
        with self._reading:
            return self._read_on()

    def view(self, batch: BatchId, attempt: int | None = None) -> BatchView:
        """What the record of a batch is held against: of its newest attempt, or of an earlier one.

        Raises `NotDrawn` before its draw block is there, and `EventsMissing` where the batch or the attempt is not
        known.
        """
        with self._reading:
            for _ in range(REORGANISED_TRIES):
                history = self._read_on()
                undone = history.rollbacks
                drawn = self._block_facts(history.draw_block(batch))
                view = history.view(batch, drawn, attempt)
                if self._read_on().rollbacks == undone:
                    return view
        raise ChainError(f"the chain at {shown_all(self.rpc_url)} is reorganised again and again; try again later")

    def settlements(self, job: JobId, block: int) -> list[BatchSettled]:
        """`History.settlements`, of everything up to `block` at least."""
        with self._reading:
            known = self._history
            return (known if known and known.read_to >= block else self._read_on()).settlements(job)

    def signers_of(self, batch: BatchId) -> list[VerifierRecord]:
        """Who may sign the batch's settlement: the verifiers of its quorum that still have the seats that they had in
        it."""
        with self._reading:
            seats = {(seat.slot, seat.operator) for seat in self._read_on().quorum(batch)}
        return [record for record in self.active_verifiers() if (record.slot, record.id) in seats]

    def _read_on(self) -> History:
        if self._history is None:
            self._history, self._cursor = History(self.domain, self.params()), Cursor(self.first_block)
        give_up = time.monotonic() + CATCH_UP_S
        while True:
            try:
                events, after = self.events.read(self._cursor)
            except ChainBehind:
                if time.monotonic() > give_up:
                    raise
                time.sleep(CATCH_UP_POLL_S)
                continue
            if after == self._cursor:
                return self._history
            self._history.apply(events, after.next_block - 1)
            self._cursor = after

    def _block_facts(self, number: int) -> BlockFacts:
        with mapped_errors(self.rpc_url):
            block = self._w3.eth.get_block(number)
        return BlockFacts(number, Digest(bytes(block["hash"])), int(block["timestamp"]))
