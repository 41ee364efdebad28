"""Transactions of the verifier's wallet: written before they are sent, several in flight, followed until they last.

One subject is sent once. A transaction that is not mined in time is replaced by one with a higher fee under the same
nonce; one that goes with a block in a reorganisation is sent again, unless its subject is not wanted any more: then an
empty transaction takes its nonce, so that those behind it do not wait for ever. What is in flight when the verifier
stops or dies is taken up again from the database.

A thread of its own talks to the chain, and whoever sends waits in a thread of theirs.
"""

import logging
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from eth_typing import HexStr
from hexbytes import HexBytes
from sqlalchemy import func
from sqlmodel import Session, col, delete, select
from web3 import Web3
from web3.exceptions import BlockNotFound, TransactionNotFound, Web3RPCError
from web3.types import TxParams, TxReceipt

from proofyard.chain import ChainClient, Wallet
from proofyard.chain.errors import ChainError, InsufficientBalance, TransactionLost
from proofyard.chain.rpc import Observer, Provider, connect, mapped_errors
from proofyard.chain.sender import GAS_MARGIN, MIN_TIP, REPLACEMENT_BUMP
from proofyard.chain.troubles import Trouble, error_of, text_of, trouble_of
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.keccak import keccak
from proofyard.protocol.types import ExitCode, ProofyardError
from proofyard.verifier.store.database import Database, DatabaseError
from proofyard.verifier.store.tables import Transaction

logger = logging.getLogger(__name__)

SENT, MINED, FAILED, VOID, FINAL = "sent", "mined", "failed", "void", "final"
"""In flight; in a block; in a block, and refused there; its nonce went to an empty one; there for good."""
FOLLOWED = (SENT, MINED, FAILED, VOID)

IN_FLIGHT = 16
"""Transactions without a block at a time."""
CONFIRMATIONS = 64
"""Blocks on top of a transaction's own after which it is followed no more."""
MAX_VERSIONS = 16
MAX_REFUSALS = 8
"""So often the endpoint may take no version of a transaction before it is given up."""
MAX_KEPT = 10_000
"""Transactions there for good that are remembered, so that their subjects are not sent again."""
MAX_VERSIONS_BYTES = 64 << 20
EMPTY_GAS = 21_000
FAST_POLL_S, POLL_S, SLOW_POLL_S = 0.05, 0.25, 5.0
"""How often the chain is asked: after sending, while something is in flight, while what is mined is confirmed."""
RETRY_S, MAX_RETRY_S = 0.5, 10.0
LOCK = "outbox"
STOP_S = 1.0


class OutboxClosed(ProofyardError):
    """The verifier stops; what is in flight is followed when it runs again."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the verifier stops; what is in flight is followed when it runs again")


class NotWanted(ProofyardError):
    """A transaction's subject was withdrawn before it was mined."""

    def __init__(self, what: str, subject: str) -> None:
        super().__init__(f"{what} was withdrawn: {subject} is not wanted any more")


@dataclass
class _Request:
    """Somebody who waits for a transaction to be mined."""

    subject: str
    what: str
    to: str
    data: bytes
    done: "Future[TxReceipt]" = field(default_factory=Future)


@dataclass(frozen=True)
class _Head:
    number: int
    hash: bytes
    base_fee: int


@dataclass
class _Flight:
    """What is remembered of a nonce that is not mined, by the monotonic clock."""

    sent_at: float = float("-inf")
    next_since: float | None = None
    """Since when it is the wallet's next one."""
    taken_since: float | None = None
    """Since when the chain has some transaction of this nonce, and shows none of these versions."""
    underpaid: bool = False
    """The endpoint takes no replacement at this fee."""
    refusals: int = 0
    went_at: float | None = None
    """When its block turned out to be gone."""


@dataclass(frozen=True)
class _Fees:
    """Wei per gas."""

    tip: int
    max_fee: int


class Outbox:
    """See the module's docstring. `wanted` tells of a subject whether it still is to be sent; it is asked before a
    transaction is sent again, and after a reorganisation not before `followed`: since when, by the monotonic clock, it
    knows all that the chain says. Without a block in `patience` seconds a transaction pays more, and whoever waits for
    it longer than `deadline` is told so; it is followed all the same.

    `receipt_lag`: an endpoint may show a nonce as taken before it shows the receipt; only after so many more seconds
    without one has another program taken it.
    """

    def __init__(
        self,
        chain: ChainClient,
        wallet: Wallet,
        database: Database,
        *,
        process: str = "",
        wanted: Callable[[str], bool] = lambda subject: True,
        followed: Callable[[], float] = lambda: float("inf"),
        patience: float = 30.0,
        deadline: float = 300.0,
        receipt_lag: float = 10.0,
        confirmations: int = CONFIRMATIONS,
    ) -> None:
        self.wanted, self.followed = wanted, followed
        self.process = process
        self._chain = chain
        self._rpc_url = chain.rpc_url
        self._w3 = connect(chain.rpc_url)
        self._wallet = wallet
        self._database = database
        self._patience = patience
        self._deadline = deadline
        self._receipt_lag = receipt_lag
        self._confirmations = confirmations
        self._requests: deque[_Request] = deque()
        self._waiting: defaultdict[str, list[_Request]] = defaultdict(list)
        """Who waits for a subject that is in flight."""
        self._flights: defaultdict[int, _Flight] = defaultdict(_Flight)
        self._tip: tuple[int, bytes] | None = None
        """A block on which everything that is mined rests."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    # For whoever sends

    def client(self, subject: str | None = None) -> ChainClient:
        """A client whose transactions go through here, as those of `subject`; without one, each is a subject of its
        own. Its calls block until they are mined: for threads only."""
        return self._chain.sending_by(_For(self, subject))

    def send(self, subject: str, what: str, to: str, data: bytes) -> TxReceipt:
        """The receipt of the one transaction of `subject`, sent unless it was before. Raises `Refused` where the
        contract refuses it, before or in its block; then the subject may be sent anew."""
        request = _Request(subject, what, to, data)
        with self._lock:
            if self._closed:
                raise OutboxClosed(what)
            self._requests.append(request)
        self._wake.set()
        try:
            return request.done.result(self._deadline)
        except TimeoutError:
            if request.done.cancel() or not request.done.done():
                raise TransactionLost(what, self._deadline, self._hashes_of(subject)) from None
            return request.done.result()

    def start(self) -> None:
        """Begin with what is in flight by the database."""
        self._thread.start()

    def close(self) -> None:
        """Let everybody go. What is in flight stays so."""
        with self._lock:
            self._closed = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
        self._let_go()

    @property
    def observers(self) -> list[Observer]:
        """Told of every request to the chain's endpoint from now on."""
        provider = self._w3.provider
        assert isinstance(provider, Provider)
        return provider.observers

    @property
    def in_flight(self) -> list[Transaction]:
        """What is sent and in no block yet."""
        return [row for row in self._rows() if row.state == SENT]

    # The thread

    def _run(self) -> None:
        errors = 0
        while not self._closed:
            try:
                pause = self._round()
                errors = 0
            except DatabaseError:
                break
            except ProofyardError as error:
                errors += 1
                pause = min(MAX_RETRY_S, RETRY_S * 2.0 ** min(errors - 1, 8))
                logger.warning("transactions wait for the chain: %s", error)
            except Exception:
                errors += 1
                pause = min(MAX_RETRY_S, RETRY_S * 2.0 ** min(errors - 1, 8))
                logger.exception("transactions met an internal error; trying again")
            self._wake.wait(pause)
            self._wake.clear()
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            left = [*self._requests, *(request for each in self._waiting.values() for request in each)]
            self._requests.clear()
            self._waiting.clear()
        for request in left:
            _fail(request, OutboxClosed(request.what))

    def _round(self) -> float | None:
        """One look at everything; how long until the next one, None where nothing is to be looked at."""
        rows = self._rows()
        if not rows and not self._requests and not self._waiting:
            return None
        with mapped_errors(self._rpc_url):
            head, count = self._head(), self._count()
            moved = self._tip != (head.number, head.hash)
            if moved:
                self._stand(rows, head)
            for row in sorted((row for row in rows if row.state == SENT), key=lambda row: row.nonce):
                self._follow(row, head, count, moved=moved)
            fresh = [*self._fill_gaps(rows, count, head), *self._take_requests(rows, head, count)]
            for row in fresh:
                self._submit(row)
            self._answer_others(rows)
        if fresh:
            return FAST_POLL_S
        if any(row.state == SENT for row in rows) or self._requests or self._waiting:
            return POLL_S
        return SLOW_POLL_S

    # What is mined

    def _stand(self, rows: Sequence[Transaction], head: _Head) -> None:
        """Look whether what is mined still is: where the last tip still is in the chain, so is all that rests on it."""
        mined = [row for row in rows if row.state in (MINED, FAILED, VOID)]
        if self._tip is None or self._hash_of(self._tip[0]) != self._tip[1]:
            hashes = {number: self._hash_of(number) for number in {row.block for row in mined if row.block is not None}}
            for row in mined:
                if hashes.get(row.block or -1) != row.block_hash:
                    self._went(row)
        self._tip = (head.number, head.hash)
        for row in mined:
            if row.state != SENT and (row.block or 0) + self._confirmations <= head.number:
                self._lasts(row)

    def _went(self, row: Transaction) -> None:
        """The block that it was in has not happened."""
        logger.warning("%s (%s): its block %s is gone; it is looked at again", row.what, row.subject, row.block)
        row.state, row.block, row.block_hash, row.hash, row.reason = SENT, None, b"", b"", ""
        self._flights[row.nonce] = _Flight(went_at=time.monotonic())
        self._store(row)

    def _lasts(self, row: Transaction) -> None:
        """So many blocks are on it that it stays."""
        if row.state != MINED:
            self._delete(row)
            return
        row.state, row.data, row.versions, row.empties = FINAL, b"", encode([]), encode([])

        def keep(session: Session) -> None:
            session.merge(row)
            session.exec(
                delete(Transaction).where(
                    col(Transaction.nonce) < row.nonce - MAX_KEPT, col(Transaction.state) == FINAL
                )
            )

        self._database.ask_here(keep)

    # What is in flight

    def _follow(self, row: Transaction, head: _Head, count: int, *, moved: bool) -> None:
        flight, now = self._flights[row.nonce], time.monotonic()
        receipt = self._receipt_of(row, head) if moved or row.nonce < count else None
        if receipt is not None:
            self._mined(row, receipt)
            return
        if row.nonce < count:
            flight.taken_since = now if flight.taken_since is None else flight.taken_since
            if now - flight.taken_since >= self._receipt_lag:
                self._taken_by_another(row)
            return
        flight.taken_since = None
        if row.nonce == count and flight.next_since is None:
            flight.next_since = now
        if flight.sent_at == float("-inf"):
            if flight.went_at is None or self.followed() > flight.went_at:
                self._again(row, head)
        elif flight.refusals >= MAX_REFUSALS and not row.withdrawn:
            self._withdraw(row, head, ChainError(f"{row.what}: the chain's endpoint does not take it: {row.reason}"))
        elif row.nonce == count and (
            flight.underpaid or now - max(flight.next_since or now, flight.sent_at) >= self._patience
        ):
            self._replace(row, head)
        elif now - flight.sent_at >= self._patience:
            self._submit(row)

    def _again(self, row: Transaction, head: _Head) -> None:
        """Send what this process has not sent: it was written before a crash, or went with its block."""
        if row.withdrawn or self._is_known(row):
            self._submit(row)
        elif not self.wanted(row.subject):
            self._withdraw(row, head, NotWanted(row.what, row.subject))
        else:
            try:
                gas = self._estimate(row.to, row.data)
            except ChainError as error:
                if error.exit_code == ExitCode.UNREACHABLE:
                    raise
                logger.warning("%s (%s) is not sent again: %s", row.what, row.subject, error)
                self._withdraw(row, head, error)
                return
            if gas > row.gas:
                # What was before it is not there any more.
                row.gas = gas
                self._sign(row, self._fees(head))
                self._store(row)
            self._submit(row)

    def _replace(self, row: Transaction, head: _Head) -> None:
        """The same, or nothing where it is not wanted any more, for a higher fee."""
        if not row.withdrawn and not self.wanted(row.subject):
            self._withdraw(row, head, NotWanted(row.what, row.subject))
            return
        if len(_versions(row)) < MAX_VERSIONS:
            self._sign(row, self._fees(head))
            self._store(row)
            logger.info("%s (%s) is sent again for a higher fee", row.what, row.subject)
        self._submit(row)

    def _withdraw(self, row: Transaction, head: _Head, why: Exception) -> None:
        """Let an empty transaction have its nonce."""
        row.withdrawn, row.reason = True, str(why)
        self._sign(row, self._fees(head))
        self._store(row)
        self._tell(row.subject, why)
        self._submit(row)

    def _taken_by_another(self, row: Transaction) -> None:
        """Another program used the nonce: this takes effect under the next one, unless it is refused by now."""
        logger.warning("%s (%s): another program uses this wallet and took nonce %s", row.what, row.subject, row.nonce)
        self._delete(row)
        row.state = FINAL
        if row.withdrawn:
            return
        waiting = self._waiting.pop(row.subject, [])
        with self._lock:
            self._requests.extendleft([_Request(row.subject, row.what, row.to, row.data), *waiting])

    def _mined(self, row: Transaction, receipt: TxReceipt) -> None:
        self._flights.pop(row.nonce, None)
        row.block, row.block_hash = int(receipt["blockNumber"]), bytes(receipt["blockHash"])
        row.hash = bytes(receipt["transactionHash"])
        error: Exception | None = None
        if row.hash in decode(row.empties, list[bytes]):
            row.state, error = VOID, NotWanted(row.what, row.subject)
        elif receipt["status"] == 1:
            row.state = MINED
        else:
            row.state, error = FAILED, self._why(row)
            row.reason = str(error)
            logger.warning("%s (%s) was refused in block %s: %s", row.what, row.subject, row.block, error)
        self._store(row)
        for request in self._waiting.pop(row.subject, []):
            if error is None:
                _succeed(request, receipt)
            else:
                _fail(request, error)

    def _why(self, row: Transaction) -> Exception:
        """Why it was refused in its block."""
        try:
            with mapped_errors(self._rpc_url):
                self._w3.eth.call(self._call(row.to, row.data), row.block)
        except ChainError as error:
            if error.exit_code != ExitCode.UNREACHABLE:
                return error
        return ChainError(f"{row.what} failed in block {row.block} and would not now; try it again")

    # New ones

    def _take_requests(self, rows: list[Transaction], head: _Head, count: int) -> list[Transaction]:
        """What is new in flight; written, and not sent yet."""
        fresh: list[Transaction] = []
        later: list[_Request] = []
        try:
            while self._requests:
                with self._lock:
                    request = self._requests.popleft()
                if request.done.cancelled():
                    continue
                later.append(request)
                try:
                    with mapped_errors(self._rpc_url):
                        row, begun = self._begin(request, rows, head, count)
                except ChainError as error:
                    if error.exit_code == ExitCode.UNREACHABLE:
                        raise
                    _fail(request, error)
                    begun, row = True, None
                if begun:
                    later.pop()
                if row is not None:
                    rows.append(row)
                    fresh.append(row)
        finally:
            with self._lock:
                self._requests.extendleft(reversed(later))
        return fresh

    def _begin(
        self, request: _Request, rows: list[Transaction], head: _Head, count: int
    ) -> tuple[Transaction | None, bool]:
        """A new transaction where one is written, and whether the request is taken: it waits or is answered."""
        known = self._of(request.subject)
        if known is not None and not self._answered(request, known):
            self._waiting[request.subject].append(request)
            own = next((row for row in rows if row.nonce == known.nonce), None)
            if known.withdrawn and own is not None and own.state == SENT:
                own.withdrawn, own.reason = False, ""
                self._sign(own, self._fees(head))
                self._store(own)
                self._flights[own.nonce] = _Flight(next_since=time.monotonic())
                self._submit(own)
        if known is not None:
            return None, True
        if sum(row.state == SENT for row in rows) >= IN_FLIGHT:
            return None, False
        gas, fees = self._estimate(request.to, request.data), self._fees(head)
        row = self._database.ask_here(lambda session: self._claimed(session, request, gas, fees, count))
        self._waiting[request.subject].append(request)
        new = row.process == self.process and all(row.nonce != other.nonce for other in rows if other.state == SENT)
        return (row if new else None), True

    def _answered(self, request: _Request, row: Transaction) -> bool:
        """Whether what was sent before is the answer."""
        if row.state == SENT:
            return False
        receipt = self._receipt(row.hash)
        if receipt is not None:
            _succeed(request, receipt)
        elif row.state == FINAL:
            _fail(request, ChainError(f"{row.what} was mined in block {row.block}, and its receipt is not to be had"))
        return receipt is not None or row.state == FINAL

    def _claimed(self, session: Session, request: _Request, gas: int, fees: _Fees, count: int) -> Transaction:
        """Give it the next nonce and write it down with its first version, for all processes at once."""
        self._database.lock(session, LOCK)
        known = _of(session, request.subject)
        if known is not None:
            return known
        last = session.exec(select(func.max(Transaction.nonce)).where(col(Transaction.state).in_(FOLLOWED))).one()
        nonce = max(count, -1 if last is None else last + 1)
        row = self._made(nonce, request.subject, request.what, request.to, request.data, gas, fees)
        session.exec(delete(Transaction).where(col(Transaction.nonce) == nonce))
        session.add(row)
        return row

    def _made(self, nonce: int, subject: str, what: str, to: str, data: bytes, gas: int, fees: _Fees) -> Transaction:
        row = Transaction(
            nonce=nonce,
            subject=subject,
            what=what,
            to=to,
            data=data,
            gas=gas,
            versions=encode([]),
            empties=encode([]),
            withdrawn=not to,
            written_at=time.time(),
            process=self.process,
        )
        self._sign(row, fees)
        return row

    def _fill_gaps(self, rows: list[Transaction], count: int, head: _Head) -> list[Transaction]:
        """A nonce before one in flight that nobody sends: an empty transaction takes it."""
        own = [row.nonce for row in rows if row.state == SENT]
        if not own or max(own) - count < len([nonce for nonce in own if nonce >= count]):
            return []
        fees, last = self._fees(head), max(own)

        def fill(session: Session) -> list[Transaction]:
            self._database.lock(session, LOCK)
            between = (col(Transaction.nonce) >= count, col(Transaction.nonce) < last)
            there = {row.nonce: row.state for row in session.exec(select(Transaction).where(*between))}
            gaps = [nonce for nonce in range(count, last) if there.get(nonce, FINAL) == FINAL]
            session.exec(delete(Transaction).where(col(Transaction.nonce).in_(gaps)))
            made = [self._made(nonce, f"gap {nonce}", "nothing", "", b"", EMPTY_GAS, fees) for nonce in gaps]
            session.add_all(made)
            return made

        made = self._database.ask_here(fill)
        for row in made:
            logger.warning("nonce %s of this wallet is nobody's; an empty transaction takes it", row.nonce)
        rows.extend(made)
        return made

    def _answer_others(self, rows: Sequence[Transaction]) -> None:
        """Whoever waits for what another process sends, or for what was moved meanwhile."""
        own = {row.subject for row in rows if row.state == SENT}
        for subject in [subject for subject in self._waiting if subject not in own]:
            row = self._of(subject)
            if row is not None and row.state == SENT:
                continue
            waiting = self._waiting.pop(subject)
            with self._lock:
                self._requests.extend(waiting)

    # Signing and sending

    def _fees(self, head: _Head) -> _Fees:
        """What is paid today."""
        tip = int(max(self._w3.eth.max_priority_fee, MIN_TIP))
        return _Fees(tip, 2 * head.base_fee + tip)

    def _sign(self, row: Transaction, fees: _Fees) -> None:
        """Add a version to a row: at today's fees, and so much above the last one that it replaces it."""
        row.tip = max(fees.tip, int(row.tip * REPLACEMENT_BUMP) + 1)
        row.max_fee = max(fees.max_fee, int(row.max_fee * REPLACEMENT_BUMP) + 1)
        own = self._wallet.address
        transaction: dict[str, Any] = {
            "to": Web3.to_checksum_address(own if row.withdrawn else row.to),
            "data": b"" if row.withdrawn else row.data,
            "nonce": row.nonce,
            "gas": EMPTY_GAS if row.withdrawn else row.gas,
            "maxPriorityFeePerGas": row.tip,
            "maxFeePerGas": row.max_fee,
            "chainId": self._chain.chain_id,
            "value": 0,
        }
        signed = self._wallet.account.sign_transaction(transaction)
        row.versions = encode([*_versions(row), bytes(signed.raw_transaction)])
        if row.withdrawn:
            row.empties = encode([*decode(row.empties, list[bytes]), bytes(signed.hash)])

    def _submit(self, row: Transaction) -> None:
        """Give the newest version to the endpoint. What it does not take is looked at again."""
        flight = self._flights[row.nonce]
        flight.underpaid, means, message = False, None, ""
        try:
            self._w3.eth.send_raw_transaction(HexBytes(_versions(row)[-1]))
        except Web3RPCError as error:
            means, message = trouble_of(error), text_of(error_of(error))
        flight.sent_at = time.monotonic()
        if not message or means in (Trouble.KNOWN, Trouble.USED):
            return
        if means == Trouble.FUNDS:
            have = self._w3.eth.get_balance(self._wallet.account.address)
            lacking = InsufficientBalance(self._wallet.address, have, row.gas * row.max_fee, "ETH for gas")
            logger.warning("%s (%s) waits: %s", row.what, row.subject, lacking)
            self._tell(row.subject, lacking)
            return
        flight.underpaid = means in (Trouble.UNDERPAID, Trouble.TAKEN)
        flight.refusals += not flight.underpaid
        row.reason = message
        logger.warning("%s (%s) is not taken by the chain's endpoint: %s", row.what, row.subject, message)

    def _estimate(self, to: str, data: bytes) -> int:
        """Gas for the next block, those in flight before it included. Raises `Refused`."""
        with mapped_errors(self._rpc_url):
            return int(self._w3.eth.estimate_gas(self._call(to, data), "pending") * GAS_MARGIN)

    def _call(self, to: str, data: bytes) -> TxParams:
        return {
            "from": self._wallet.account.address,
            "to": Web3.to_checksum_address(to),
            "data": HexStr("0x" + data.hex()),
        }

    # Reading

    def _head(self) -> _Head:
        block = self._w3.eth.get_block("latest")
        return _Head(int(block["number"]), bytes(block["hash"]), int(block.get("baseFeePerGas", 0)))

    def _hash_of(self, number: int) -> bytes:
        try:
            return bytes(self._w3.eth.get_block(number)["hash"])
        except BlockNotFound:
            return b""

    def _count(self) -> int:
        return int(self._w3.eth.get_transaction_count(self._wallet.account.address, "latest"))

    def _receipt_of(self, row: Transaction, head: _Head) -> TxReceipt | None:
        """Of whichever version was mined, in a block not newer than `head`."""
        for raw in reversed(_versions(row)):
            receipt = self._receipt(keccak(raw))
            if receipt is not None and int(receipt["blockNumber"]) <= head.number:
                return receipt
        return None

    def _receipt(self, hash_: bytes) -> TxReceipt | None:
        try:
            return self._w3.eth.get_transaction_receipt(HexBytes(hash_)) if hash_ else None
        except TransactionNotFound:
            return None

    def _is_known(self, row: Transaction) -> bool:
        """Whether the endpoint has any version."""
        for raw in _versions(row):
            try:
                self._w3.eth.get_transaction(HexBytes(keccak(raw)))
                return True
            except TransactionNotFound:
                continue
        return False

    def _rows(self) -> list[Transaction]:
        """Of this process, not there for good."""
        own = select(Transaction).where(col(Transaction.state).in_(FOLLOWED), Transaction.process == self.process)
        return self._database.ask_here(lambda session: list(session.exec(own)))

    def _of(self, subject: str) -> Transaction | None:
        return self._database.ask_here(lambda session: _of(session, subject))

    def _store(self, row: Transaction) -> None:
        self._database.ask_here(lambda session: session.merge(row))

    def _delete(self, row: Transaction) -> None:
        self._flights.pop(row.nonce, None)
        self._database.ask_here(lambda s: s.exec(delete(Transaction).where(col(Transaction.nonce) == row.nonce)))

    def _hashes_of(self, subject: str) -> list[str]:
        row = self._of(subject)
        return [] if row is None else [HexBytes(keccak(raw)).to_0x_hex() for raw in _versions(row)]

    def _tell(self, subject: str, error: Exception) -> None:
        for request in self._waiting.pop(subject, []):
            _fail(request, error)


class _For:
    """What a client sends by: the outbox, for one subject."""

    def __init__(self, outbox: Outbox, subject: str | None) -> None:
        self._outbox, self._subject = outbox, subject

    def send(self, what: str, to: str | None, data: str, *, in_next_block: bool = False) -> TxReceipt:
        assert to is not None, "a verifier creates no contracts"
        subject = f"{what} {uuid.uuid4().hex}" if self._subject is None else f"{self._subject} {what}"
        return self._outbox.send(subject, what, to, bytes.fromhex(data.removeprefix("0x")))


def _of(session: Session, subject: str) -> Transaction | None:
    """The transaction of a subject, unless it was refused or withdrawn: then the subject may be sent anew."""
    found = session.exec(
        select(Transaction)
        .where(Transaction.subject == subject, col(Transaction.state).in_([SENT, MINED, FINAL]))
        .order_by(col(Transaction.nonce).desc())
    )
    return found.first()


def _versions(row: Transaction) -> list[bytes]:
    return decode(row.versions, list[bytes], max_bytes=MAX_VERSIONS_BYTES)


def _succeed(request: _Request, receipt: TxReceipt) -> None:
    if not request.done.done() and request.done.set_running_or_notify_cancel():
        request.done.set_result(receipt)


def _fail(request: _Request, error: Exception) -> None:
    if not request.done.done() and request.done.set_running_or_notify_cancel():
        request.done.set_exception(error)
