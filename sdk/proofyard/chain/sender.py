"""Sending transactions from one wallet: one at a time, until mined, through stuck and replaced ones, lost answers and
restarts.

There is never more than one nonce in flight, the wallet's next one on chain. A transaction that is not mined in time
is sent again under the same nonce with a higher fee, so at most one of its versions can take effect. Where another
program uses the same wallet and takes the nonce, the transaction can no longer be mined and is sent under the next one.
Each version pays a few wei of its own, so no two programs ever make the same transaction: one that an endpoint knows
is this one, and an answer that got lost is asked for again. What is sent is written down first (`chain.turns`).
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from eth_typing import HexStr
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import TransactionNotFound, Web3RPCError
from web3.types import BlockIdentifier, RPCEndpoint, TxParams, TxReceipt
from web3.types import Wei as EthWei

from proofyard.chain.errors import ChainError, ChainUnreachable, FeeRefused, InsufficientBalance, TransactionLost
from proofyard.chain.rpc import Provider, decode_rpc_error, mapped_errors
from proofyard.chain.troubles import Trouble, error_of, text_of, trouble_of
from proofyard.chain.turns import Sent, Turn
from proofyard.chain.urls import shown_all
from proofyard.chain.wallet import Wallet
from proofyard.protocol.keccak import keccak

logger = logging.getLogger(__name__)

T = TypeVar("T")

GAS_MARGIN = 1.25
"""State can change between the estimate and the block."""
REPLACEMENT_BUMP = 1.25
"""Nodes take a replacement that pays at least 10% more, some 12.5%."""
MIN_TIP = 10**6
"""Wei per gas to the proposer where the chain suggests less."""
OWN_WEI = 1 << 20
"""The last digits of a tip are random below this, a thousandth of a gwei. Where two programs that send the same under
the same nonce draw the same ones it is one transaction, and one of two payments is lost."""
SLOWEST_POLL_S = 1.0
UNSURE_S = 3.0
"""After an answer that was lost the same bytes are sent again, so long after."""
MAX_VERSIONS = 32
MOST_UNDERPAID = 20
"""So often a fee is raised at once because an endpoint calls it too low: one that calls any fee so is out of order."""
SAME_CALL_S = 3600
"""A call that was cut off so long ago is not the one that is made again now."""


class Sender:
    """Sends for one wallet. Without a receipt in `patience` seconds it raises the fee, after `deadline` it gives up.

    `receipt_lag`: a node may show the nonce as taken before it shows the receipt; only after so many more seconds
    without one has some other transaction taken it.
    """

    def __init__(
        self,
        w3: Web3,
        rpc_url: str,
        wallet: Wallet,
        *,
        patience: float = 30.0,
        deadline: float = 300.0,
        poll: float = 0.1,
        receipt_lag: float = 10.0,
    ) -> None:
        self._w3 = w3
        self._rpc_url = rpc_url
        self._wallet = wallet
        self._patience = patience
        self._deadline = deadline
        self._poll = poll
        self._receipt_lag = receipt_lag
        self._lock = threading.Lock()

    def send(self, what: str, to: str | None, data: str, *, in_next_block: bool = False, value: int = 0) -> TxReceipt:
        """Send and wait until mined. Raises `Refused` when the contract refuses, before or in the block.

        `what` names the action in errors; `to` is None to create a contract; `value` in wei. `in_next_block`: it is
        refused in the newest block and not in the one that comes, so the estimate is asked for that. Where the same was
        sent before and its end was not seen, by a call that was cut off, that is followed to its end and nothing is
        sent again.
        """
        with self._lock, self._wallet.turns.take() as turn, mapped_errors(self._rpc_url):
            wanted = Sent(-1, what, to, data, 0, began=int(time.time()), value=str(value))
            found = self._resumed(turn, wanted)
            if found is not None:
                return found
            self._finish(turn)
            at: BlockIdentifier | None = "pending" if in_next_block else None
            receipt = self._until_mined(turn, wanted, at)
            if receipt["status"] != 1:
                self._w3.eth.call(self._call(wanted), receipt["blockNumber"])  # raises the reason
                raise ChainError(f"{what} failed in block {receipt['blockNumber']} and would not now; try it again")
            return receipt

    def resume(self, to: str | None, data: str, value: int = 0) -> TxReceipt | None:
        """The receipt of the same call, made before and cut off, once it is mined; None where there was none."""
        with self._lock, self._wallet.turns.take() as turn, mapped_errors(self._rpc_url):
            return self._resumed(turn, Sent(-1, "", to, data, 0, value=str(value)))

    def _resumed(self, turn: Turn, wanted: Sent) -> TxReceipt | None:
        left = turn.sent(int(self._w3.eth.chain_id))
        if left is None or time.time() - left.began > SAME_CALL_S:
            return None
        if (left.to, left.data, left.value) != (wanted.to, wanted.data, wanted.value):
            return None
        if left.nonce >= self._next_nonce() and not self._is_known(left):
            return None
        logger.warning("%s was sent before by a call that was cut off; it is looked for, and not sent again", left.what)
        receipt = self._until_mined(turn, left, None)
        return receipt if receipt["status"] == 1 else None

    def left(self) -> str:
        """A sentence: what a call that was cut off has sent, and what became of it; empty where there is nothing."""
        with self._lock, self._wallet.turns.take() as turn, mapped_errors(self._rpc_url):
            sent = turn.sent(int(self._w3.eth.chain_id))
            if sent is None or time.time() - sent.began > SAME_CALL_S:
                return ""
            found = [receipt for raw in sent.versions if (receipt := self._receipt(raw)) is not None]
            if found:
                block, ended = found[0]["blockNumber"], "" if found[0]["status"] == 1 else ", where it failed"
                became = f"is in block {block}{ended}: {HexBytes(found[0]['transactionHash']).to_0x_hex()}"
            elif self._is_known(sent):
                became = "is not mined yet"
            else:
                return ""
            return f"{sent.what} was sent before by a call that was cut off, and {became}"

    def finish(self) -> None:
        """Follow what this wallet has on its way, from an earlier call or program, to its end."""
        with self._lock, self._wallet.turns.take() as turn, mapped_errors(self._rpc_url):
            self._finish(turn)

    def _finish(self, turn: Turn) -> None:
        chain_id = int(self._w3.eth.chain_id)
        left = turn.sent(chain_id)
        if left is None:
            return
        if left.nonce >= self._next_nonce() and self._is_known(left):
            logger.warning("%s was sent before and is not mined yet; it is waited for first", left.what)
            self._until_mined(turn, left, None)
        turn.keep(chain_id, None)

    def _until_mined(self, turn: Turn, sent: Sent, at: BlockIdentifier | None) -> TxReceipt:
        """The receipt of one of its versions. Under which nonce is decided here, and again when that is taken."""
        chain_id, give_up = int(self._w3.eth.chain_id), time.monotonic() + self._deadline
        reached, underpaid = bool(sent.versions), 0
        if not sent.versions:
            self._begin(sent, at)
        while True:  # at least once, however long it took to prepare
            turn.keep(chain_id, sent)
            means, seconds = self._submit(sent)
            reached = reached or means in (None, Trouble.KNOWN)
            if means == Trouble.UNDERPAID:
                underpaid += 1
                if underpaid > MOST_UNDERPAID and not reached:
                    raise FeeRefused(sent.what, self._rpc_url, REPLACEMENT_BUMP**MOST_UNDERPAID)
            if means in (Trouble.UNDERPAID, Trouble.GAP):
                time.sleep(self._poll)
                gone = means == Trouble.GAP and not reached
            else:
                wanted = self._patience if seconds is None else seconds
                receipt, gone = self._await_receipt(sent, wanted, give_up, reached=reached)
                if receipt is not None:
                    turn.keep(chain_id, None)
                    provider = self._w3.provider
                    assert isinstance(provider, Provider)
                    provider.wrote(int(receipt["blockNumber"]))
                    return receipt
            if gone:
                self._patiently(lambda: self._begin(sent, at), give_up, sent)  # refused here if done by another
                reached = False
            if time.monotonic() >= give_up or len(sent.versions) >= MAX_VERSIONS:
                raise self._lost(sent)
            if seconds is None and not gone:
                self._patiently(lambda: self._sign(sent), give_up, sent)

    def _begin(self, sent: Sent, at: BlockIdentifier | None) -> None:
        """Give it the next nonce, and its first version."""
        sent.gas = self._estimate(self._call(sent), at)
        sent.nonce, sent.tip, sent.max_fee, sent.versions = self._next_nonce(), 0, 0, []
        self._sign(sent)

    def _submit(self, sent: Sent) -> tuple[Trouble | None, float | None]:
        """Send the newest version. What the endpoint thinks of it, and how long to wait for a receipt before the same
        bytes are sent again; None where the next version is to pay more. Raises what no repetition helps against."""
        try:
            self._w3.eth.send_raw_transaction(HexBytes(sent.versions[-1]))
        except ChainUnreachable:
            return None, UNSURE_S
        except Web3RPCError as error:
            means = trouble_of(error)
            if means == Trouble.FUNDS:
                raise self._too_poor(sent.gas * sent.max_fee + int(sent.value)) from None
            if means == Trouble.OTHER_CHAIN:
                raise ChainError(
                    f"the chain at {shown_all(self._rpc_url)} takes no transactions of the chain that it says it is: "
                    f"{text_of(error_of(error))}; check rpc_url"
                ) from None
            if means in (Trouble.KNOWN, Trouble.USED, Trouble.TAKEN, Trouble.UNDERPAID, Trouble.GAP):
                return means, None
            raise decode_rpc_error(self._rpc_url, error) from None
        return None, None

    def _await_receipt(
        self, sent: Sent, seconds: float, give_up: float, *, reached: bool
    ) -> tuple[TxReceipt | None, bool]:
        """The receipt of whichever version was mined, after `seconds` none. And whether none can be mined any more:
        the nonce is taken, and the chain, which answered all the time, has shown none of them for `receipt_lag`.
        `reached`: the endpoint may have taken one of them."""
        until, poll = min(give_up, time.monotonic() + seconds), self._poll
        taken_since: float | None = None
        while True:
            try:
                for raw in reversed(sent.versions):
                    receipt = self._receipt(raw)
                    if receipt is not None:
                        return receipt, False
                now = time.monotonic()
                if taken_since is None and self._next_nonce() > sent.nonce:
                    if not reached:
                        return None, True
                    taken_since, until = now, give_up
                if taken_since is not None and now - taken_since >= self._receipt_lag and not self._is_known(sent):
                    return None, True
            except ChainUnreachable as error:
                logger.warning("%s is on its way; %s", sent.what, error)
                taken_since = None
            if time.monotonic() >= until:
                return None, False
            time.sleep(poll)
            poll = min(SLOWEST_POLL_S, poll * 1.2)

    def _patiently(self, ask: Callable[[], T], give_up: float, sent: Sent) -> T:
        """What the chain says, once it answers."""
        while True:
            try:
                return ask()
            except ChainUnreachable:
                if time.monotonic() > give_up:
                    raise self._lost(sent) from None
                time.sleep(SLOWEST_POLL_S)

    def _lost(self, sent: Sent) -> TransactionLost:
        return TransactionLost(sent.what, self._deadline, [_hash(raw).to_0x_hex() for raw in sent.versions])

    def _estimate(self, call: TxParams, at: BlockIdentifier | None) -> int:
        try:
            return int(self._w3.eth.estimate_gas(call, at) * GAS_MARGIN)
        except Web3RPCError as error:
            if trouble_of(error) == Trouble.FUNDS:
                raise self._too_poor(0) from None
            raise

    def _too_poor(self, need: int) -> InsufficientBalance:
        have = int(self._w3.eth.get_balance(self._wallet.account.address))
        return InsufficientBalance(self._wallet.address, have, max(need, have + 1), "ETH for gas")

    def _sign(self, sent: Sent) -> None:
        """Add a version: at today's fees, and so much above the last one that it replaces it."""
        base = int(self._w3.eth.get_block("latest").get("baseFeePerGas", 0))
        tip = max(self._suggested_tip(base), MIN_TIP) + secrets.randbelow(OWN_WEI)
        sent.tip = max(tip, int(sent.tip * REPLACEMENT_BUMP) + 1)
        sent.max_fee = max(2 * base + sent.tip, int(sent.max_fee * REPLACEMENT_BUMP) + 1)
        transaction: TxParams = {
            **self._call(sent),
            "nonce": sent.nonce,  # type: ignore[typeddict-item]
            "gas": sent.gas,
            "maxPriorityFeePerGas": EthWei(sent.tip),
            "maxFeePerGas": EthWei(sent.max_fee),
            "chainId": self._w3.eth.chain_id,
        }
        signed = self._wallet.account.sign_transaction(cast(dict[str, Any], transaction))
        sent.versions = [*sent.versions, HexBytes(signed.raw_transaction).to_0x_hex()]

    def _suggested_tip(self, base: int) -> int:
        """Wei per gas to the proposer, by the endpoint. One that has no word for it has a gas price, tip included."""
        said = self._w3.provider.make_request(RPCEndpoint("eth_maxPriorityFeePerGas"), []).get("result")
        return int(said, 16) if isinstance(said, str) else int(self._w3.eth.gas_price) - base

    def _call(self, sent: Sent) -> TxParams:
        call: TxParams = {
            "from": self._wallet.account.address,
            "data": HexStr(sent.data),
            "value": EthWei(int(sent.value)),
        }
        if sent.to is not None:
            call["to"] = Web3.to_checksum_address(sent.to)
        return call

    def _receipt(self, raw: str) -> TxReceipt | None:
        try:
            found = self._w3.eth.get_transaction_receipt(_hash(raw))
        except TransactionNotFound:
            return None
        return found if found.get("blockNumber") is not None else None  # some show one before it is mined

    def _is_known(self, sent: Sent) -> bool:
        """Whether the endpoint has any version."""
        for raw in sent.versions:
            try:
                self._w3.eth.get_transaction(_hash(raw))
                return True
            except TransactionNotFound:
                continue
        return False

    def _next_nonce(self) -> int:
        return int(self._w3.eth.get_transaction_count(self._wallet.account.address, "latest"))


def _hash(raw: str) -> HexBytes:
    return HexBytes(keccak(bytes(HexBytes(raw))))
