"""Transactions on a real chain: each takes effect once, whatever happens to it, its chain or its verifier.

A transfer of one token to an address of the test's own stands for what is sent: its balance counts the effects.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from proofyard.chain import Anchor, Anvil, ChainClient, Wallet, deploy_network
from proofyard.chain.errors import ChainError, InsufficientBalance, TransactionLost
from proofyard.chain.refusals import UnknownJob
from proofyard.protocol.types import Address, JobId, Wei
from proofyard.verifier import outbox as outbox_module
from proofyard.verifier.outbox import FAILED, FINAL, IN_FLIGHT, MINED, SENT, VOID, NotWanted, Outbox, OutboxClosed
from proofyard.verifier.store.database import Database
from proofyard.verifier.store.tables import Transaction


class Chain:
    """An anvil with the contracts on it, and one wallet that sends."""

    def __init__(self, anvil: Anvil) -> None:
        self.anvil = anvil
        self.deployed = deploy_network(anvil.rpc_url, anvil.wallet(0))
        self.treasury = ChainClient(anvil.rpc_url, self.deployed.registry, anvil.wallet(0))

    def ask(self, method: str, *params: Any) -> Any:
        return self.anvil._request(method, list(params))

    def mining(self, seconds: int | None) -> None:
        """A block for each transaction (0), every so many seconds, or none by itself."""
        self.ask("evm_setIntervalMining", seconds or 0)
        self.ask("evm_setAutomine", seconds == 0)

    def wallet(self) -> ChainClient:
        """A new wallet with ether and 100 tokens."""
        wallet = Wallet.generate()
        self.anvil.fund(wallet.address)
        self.treasury.transfer(wallet.address, Wei(100))
        return ChainClient(self.anvil.rpc_url, self.deployed.registry, wallet)

    def pool(self) -> dict[int, int]:
        """Nonce and tip of what waits for a block."""
        content = self.ask("txpool_content")
        waiting = [
            each for part in ("pending", "queued") for sender in content[part].values() for each in sender.values()
        ]
        return {int(each["nonce"], 16): int(each["maxPriorityFeePerGas"], 16) for each in waiting}

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Its endpoint takes requests and answers none."""
        os.kill(self.anvil.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.anvil.pid, signal.SIGCONT)

    def mine(self, blocks: int = 1) -> None:
        self.anvil.mine(blocks)


@pytest.fixture(scope="module")
def one_chain() -> Iterator[Chain]:
    with Anvil() as anvil:
        yield Chain(anvil)


@pytest.fixture
def chain(one_chain: Chain) -> Iterator[Chain]:
    yield one_chain
    one_chain.ask("anvil_dropAllTransactions")
    one_chain.mining(0)


class Sending:
    """A wallet's outbox on a database, and who waits for it. Each `again` is another life of the same verifier."""

    def __init__(self, chain: Chain, url: str) -> None:
        self.chain, self.url = chain, url
        self.client = chain.wallet()
        self.target = Address(Wallet.generate().address)
        self.lives: list[tuple[Outbox, Database]] = []
        self._threads = ThreadPoolExecutor(64)

    def again(self, *, start: bool = True, **settings: Any) -> Outbox:
        if self.lives and "process" not in settings:
            self.lives[-1][0].close()
        database = Database(self.url)
        wallet = self.client.wallet
        assert wallet is not None
        usual = {"patience": 60.0, "deadline": 60.0, "receipt_lag": 0.3}
        outbox = Outbox(self.client, wallet, database, **usual | settings)
        self.lives.append((outbox, database))
        if start:
            outbox.start()
        return outbox

    def pay(self, subject: str, amount: int = 1, outbox: Outbox | None = None) -> "Future[None]":
        client = (outbox or self.lives[-1][0]).client(subject)
        data = client._token.encode_abi("transfer", [self.target, amount])
        return self._threads.submit(client._send, "transfer", client.token, data)  # type: ignore[arg-type]

    def rows(self) -> list[Transaction]:
        query = select(Transaction).order_by(Transaction.nonce)  # type: ignore[arg-type]
        return self.lives[-1][1].ask_here(lambda session: list(session.exec(query)))

    def states(self) -> list[str]:
        return [row.state for row in self.rows()]

    @property
    def paid(self) -> int:
        return self.client.token_balance(self.target)

    def close(self) -> None:
        for outbox, database in self.lives:
            outbox.close()
            database.close()
        self._threads.shutdown(wait=True)


def until(condition: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it never came")


@pytest.fixture
def sending(chain: Chain, tmp_path: Path) -> Iterator[Sending]:
    made = Sending(chain, f"sqlite:///{tmp_path / 'verifier.db'}")
    yield made
    made.close()


# Once


@pytest.mark.parametrize("block_s", [0, 2])
def test_a_subject_is_sent_once_however_often_it_is_asked_for(chain: Chain, sending: Sending, block_s: int) -> None:
    sending.again()
    chain.mining(block_s)
    receipts = [each.result(60) for each in [sending.pay("rent") for _ in range(8)]]
    sending.again()
    receipts.append(sending.pay("rent").result(60))
    assert len({receipt["transactionHash"] for receipt in receipts}) == 1  # type: ignore[index]
    assert sending.paid == 1 and sending.states() == [MINED]
    sending.pay("more rent").result(60)
    assert sending.paid == 2


@pytest.mark.parametrize("block_s", [0, 2])
def test_several_are_in_flight_and_take_effect_in_one_block(chain: Chain, sending: Sending, block_s: int) -> None:
    sending.again()
    chain.mining(block_s or None)
    payments = [sending.pay(f"bill {number}") for number in range(IN_FLIGHT + 4)]
    until(lambda: len(chain.pool()) >= IN_FLIGHT or block_s)
    if not block_s:
        nonces = sorted(chain.pool())
        assert nonces == list(range(IN_FLIGHT)), "no more at a time"
        chain.mine()
        until(lambda: len(chain.pool()) == 4)
        chain.mine()
    for payment in payments:
        payment.result(60)
    assert sending.paid == len(payments)
    assert [row.nonce for row in sending.rows()] == list(range(len(payments)))


def test_what_the_contract_refuses_is_not_sent_and_may_be_asked_again(sending: Sending) -> None:
    outbox = sending.again()
    client = outbox.client("take")
    for _ in range(2):
        with pytest.raises(UnknownJob):
            client.take_job(JobId(99), Anchor(0, client.block_hash(0)))
    with pytest.raises(InsufficientBalance):
        sending.pay("too much", 101).result(60)
    sending.pay("too much", 100).result(60)
    assert sending.rows()[0].nonce == 0 and sending.paid == 100


def test_what_is_refused_in_its_block_ends_with_the_reason(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = sending.again()
    monkeypatch.setattr(outbox, "_estimate", lambda *_: 100_000)
    with pytest.raises(InsufficientBalance):
        sending.pay("too much", 101).result(60)
    assert sending.states() == [FAILED] and "needs" in sending.rows()[0].reason
    sending.pay("too much", 100).result(60)
    assert sending.states() == [FAILED, MINED] and sending.paid == 100


def test_one_that_waits_for_one_in_flight_is_refused_by_what_that_one_does(chain: Chain, sending: Sending) -> None:
    """The estimate is of the next block."""
    sending.again()
    chain.mining(None)
    first = sending.pay("all", 100)
    until(lambda: chain.pool())
    with pytest.raises(InsufficientBalance):
        sending.pay("one more").result(60)
    chain.mine()
    first.result(60)


# Stuck and lost


def test_a_stuck_one_is_replaced_for_a_higher_fee(chain: Chain, sending: Sending) -> None:
    sending.again(patience=0.3)
    chain.mining(None)
    payment, behind = sending.pay("rent"), None
    first = until(lambda: chain.pool().get(0))
    behind = sending.pay("behind it")
    until(lambda: chain.pool().get(0, 0) > first and 1 in chain.pool())
    chain.mine()
    payment.result(60), behind.result(60)
    assert sending.paid == 2
    assert len({row.hash for row in sending.rows()}) == 2


def test_a_dropped_one_is_sent_again(chain: Chain, sending: Sending) -> None:
    sending.again(patience=0.5)
    chain.mining(None)
    payments = [sending.pay(f"bill {number}") for number in range(3)]
    until(lambda: len(chain.pool()) == 3)
    chain.ask("anvil_dropAllTransactions")
    until(lambda: len(chain.pool()) == 3)
    chain.mine()
    for payment in payments:
        payment.result(60)
    assert sending.paid == 3


def test_whoever_waits_too_long_is_told_and_finds_it_later(chain: Chain, sending: Sending) -> None:
    outbox = sending.again(deadline=0.5)
    chain.mining(None)
    while not chain.pool():
        with pytest.raises(TransactionLost):
            sending.pay("rent").result(60)
    outbox._deadline = 60.0
    chain.mine()
    sending.pay("rent").result(60)
    assert sending.paid == 1


def test_without_ether_it_says_so_and_goes_on_once_there_is_some(chain: Chain, sending: Sending) -> None:
    outbox = sending.again(patience=0.3)
    chain.ask("anvil_setBalance", outbox._wallet.address, "0x1")
    with pytest.raises(ChainError, match="for gas"):
        sending.pay("rent").result(60)
    chain.anvil.fund(outbox._wallet.address)
    sending.pay("rent").result(60)
    assert sending.paid == 1


def test_another_program_that_takes_the_nonce_delays_and_doubles_nothing(chain: Chain, sending: Sending) -> None:
    sending.again()
    chain.mining(None)
    payment = sending.pay("rent")
    tip = until(lambda: chain.pool().get(0))
    wallet = sending.client.wallet
    assert wallet is not None
    rival = {
        "to": wallet.address,
        "value": 0,
        "gas": 21_000,
        "nonce": 0,
        "chainId": sending.client.chain_id,
        "maxFeePerGas": 10**13,
        "maxPriorityFeePerGas": tip + 10**12,
    }
    raw = wallet.account.sign_transaction(rival).raw_transaction
    sending.client._w3.eth.send_raw_transaction(raw)
    chain.mine()
    until(lambda: 1 in chain.pool())
    chain.mine()
    payment.result(60)
    assert sending.paid == 1 and [row.nonce for row in sending.rows()] == [1]


def test_a_nonce_that_nobody_sends_does_not_stop_those_behind_it(chain: Chain, sending: Sending) -> None:
    outbox = sending.again(start=False, patience=0.3)
    chain.mining(None)
    outbox.start()
    payments = [sending.pay(f"bill {number}") for number in range(3)]
    until(lambda: len(chain.pool()) == 3)
    sending.lives[-1][0].close()
    lost = sending.rows()[1]
    sending.lives[-1][1].ask_here(lambda session: session.delete(session.merge(lost)))
    chain.ask("anvil_dropAllTransactions")
    chain.mining(0)
    sending.again(patience=0.3)
    until(lambda: sending.states() == [MINED, VOID, MINED])
    assert sending.paid == 2
    assert all(isinstance(each.exception(60), OutboxClosed) for each in payments)


# The verifier dies


def test_a_verifier_that_dies_between_writing_and_sending_sends_it_when_it_is_back(
    sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = sending.again()
    monkeypatch.setattr(dead, "_submit", lambda row: None)
    lost = sending.pay("rent")
    until(sending.states)
    assert sending.paid == 0
    sending.again()
    assert isinstance(lost.exception(60), OutboxClosed)
    until(lambda: sending.states() == [MINED])
    sending.pay("rent").result(60)
    assert sending.paid == 1


def test_a_verifier_that_dies_after_sending_follows_it_when_it_is_back(chain: Chain, sending: Sending) -> None:
    sending.again()
    chain.mining(None)
    sending.pay("rent"), sending.pay("wages")
    until(lambda: len(chain.pool()) == 2)
    sending.lives[-1][0].close()
    chain.mine()
    sending.again()
    for subject in ("rent", "wages"):
        sending.pay(subject).result(60)
    assert sending.paid == 2 and len(sending.rows()) == 2


def test_an_endpoint_that_hangs_is_waited_for(chain: Chain, sending: Sending) -> None:
    sending.again()
    sending.pay("rent").result(60)
    with chain.hanging():
        payments = [sending.pay(f"bill {number}") for number in range(3)]
        time.sleep(1)
        assert not any(payment.done() for payment in payments)
    for payment in payments:
        payment.result(60)
    assert sending.paid == 4


def test_it_stops_at_once_while_the_chain_hangs(chain: Chain, sending: Sending) -> None:
    sending.again()
    chain.mining(None)
    payment = sending.pay("rent")
    until(lambda: chain.pool())
    with chain.hanging():
        time.sleep(0.5)
        start = time.monotonic()
        sending.lives[-1][0].close()
        assert isinstance(payment.exception(60), OutboxClosed)
        assert isinstance(sending.pay("late").exception(60), OutboxClosed)
        assert time.monotonic() - start < 8


# Reorganisations


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("block_s", [0, 1])
def test_what_goes_with_its_block_is_sent_again(chain: Chain, sending: Sending, depth: int, block_s: int) -> None:
    sending.again()
    chain.mine(5)
    chain.mining(block_s)
    for number in range(3):
        sending.pay(f"bill {number}").result(60)
    chain.mining(None)
    chain.ask("anvil_reorg", depth, [])
    assert sending.paid < 3
    chain.mining(block_s)
    until(lambda: sending.paid == 3)
    until(lambda: sending.states() == [MINED] * 3)
    sending.pay("bill 2").result(60)
    assert sending.paid == 3


def test_what_is_not_wanted_any_more_is_not_sent_again(chain: Chain, sending: Sending) -> None:
    """An empty transaction has its nonce, so that the one behind it goes through."""
    unwanted: set[str] = set()
    sending.again(wanted=lambda subject: subject not in unwanted, patience=0.3)
    chain.mine(3)
    sending.pay("rent").result(60)
    sending.pay("wages").result(60)
    unwanted.add("rent transfer")
    chain.ask("anvil_reorg", 2, [])
    until(lambda: sending.states() == [VOID, MINED])
    assert sending.paid == 1
    unwanted.clear()
    sending.pay("rent").result(60)
    assert sending.paid == 2


def test_nothing_is_sent_again_before_it_is_known_what_the_chain_says_now(chain: Chain, sending: Sending) -> None:
    known = [float("-inf")]
    sending.again(followed=lambda: known[0])
    chain.mine(3)
    sending.pay("rent").result(60)
    chain.ask("anvil_reorg", 1, [])
    until(lambda: sending.states() == [SENT])
    time.sleep(0.5)
    assert sending.paid == 0
    known[0] = float("inf")
    until(lambda: sending.paid == 1)


def test_one_that_is_withdrawn_while_it_is_stuck_and_wanted_again_is_one(chain: Chain, sending: Sending) -> None:
    unwanted = {"rent transfer"}
    sending.again(wanted=lambda subject: subject not in unwanted, patience=0.4)
    chain.mining(None)
    payment = sending.pay("rent")
    assert isinstance(payment.exception(60), NotWanted)
    unwanted.clear()
    again = sending.pay("rent")
    until(lambda: not sending.rows()[0].withdrawn)
    chain.mining(0)
    chain.mine()
    again.result(60)
    assert sending.paid == 1 and sending.states() == [MINED]


def test_what_has_blocks_enough_on_it_is_followed_no_more(chain: Chain, sending: Sending) -> None:
    sending.again(confirmations=5)
    sending.pay("rent").result(60)
    chain.mine(5)
    sending.pay("wages").result(60)
    until(lambda: sending.states() == [FINAL, MINED])
    assert sending.rows()[0].data == b""
    sending.pay("rent").result(60)
    assert sending.paid == 2


# Several processes


def test_processes_that_share_a_wallet_meet_no_nonce_twice_and_send_a_subject_once(chain: Chain, url: str) -> None:
    sending = Sending(chain, url)
    try:
        outboxes = [sending.again(process=f"process {number}") for number in range(3)]
        own = [
            sending.pay(f"bill {number} of {outbox.process}", outbox=outbox)
            for number in range(10)
            for outbox in outboxes
        ]
        shared = [sending.pay(f"shared {number}", outbox=outbox) for number in range(5) for outbox in outboxes]
        for payment in [*own, *shared]:
            payment.result(60)
        assert sending.paid == 30 + 5
        assert [row.nonce for row in sending.rows()] == list(range(35))
    finally:
        sending.close()


def test_the_endpoint_is_left_alone_while_nothing_is_in_flight(
    chain: Chain, sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "SLOW_POLL_S", 0.01)
    outbox = sending.again(confirmations=1)
    sending.pay("rent").result(60)
    chain.mine()
    until(lambda: sending.states() == [FINAL])
    rounds: list[threading.Thread] = []
    head = outbox._head
    monkeypatch.setattr(outbox, "_head", lambda: rounds.append(threading.current_thread()) or head())
    time.sleep(0.5)
    assert rounds == []
