"""Sending transactions from one wallet: one at a time, until mined, through stuck and replaced ones.

There is never more than one nonce in flight, the wallet's next one on chain. A transaction that is not mined in time
is sent again under the same nonce with a higher fee, so at most one of its versions can take effect. Where another
program uses the same wallet and takes the nonce, the transaction can no longer be mined and is sent under the next one.
"""

import threading
import time
from typing import Any, cast

from eth_typing import HexStr
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import TransactionNotFound, Web3RPCError
from web3.types import BlockIdentifier, TxParams, TxReceipt
from web3.types import Wei as EthWei

from proofyard.chain.errors import ChainError, InsufficientBalance, TransactionLost
from proofyard.chain.rpc import decode_rpc_error, mapped_errors
from proofyard.chain.wallet import Wallet

GAS_MARGIN = 1.25
"""State can change between the estimate and the block."""
REPLACEMENT_BUMP = 1.25
"""Nodes take a replacement that pays at least 10% more."""
MIN_TIP = 10**6
"""Wei per gas to the proposer where the chain suggests less."""


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

    def send(self, what: str, to: str | None, data: str, *, in_next_block: bool = False) -> TxReceipt:
        """Send and wait until mined. Raises `Refused` when the contract refuses, before or in the block.

        `what` names the action in errors; `to` is None to create a contract. `in_next_block`: it is refused in the
        newest block and not in the one that comes, so the estimate is asked for that.
        """
        with self._lock, mapped_errors(self._rpc_url):
            call: TxParams = {"from": self._wallet.account.address, "data": HexStr(data)}
            if to is not None:
                call["to"] = Web3.to_checksum_address(to)
            receipt = self._until_mined(what, call, "pending" if in_next_block else None)
            if receipt["status"] != 1:
                self._w3.eth.call(call, receipt["blockNumber"])  # raises the reason
                raise ChainError(f"{what} failed in block {receipt['blockNumber']} and would not now; try it again")
            return receipt

    def _until_mined(self, what: str, call: TxParams, at: BlockIdentifier | None) -> TxReceipt:
        gas = self._estimate(call, at)
        give_up = time.monotonic() + self._deadline
        sent: list[HexBytes] = []
        nonce, bump = self._next_nonce(), 1.0
        while time.monotonic() < give_up:
            transaction = self._priced(call, gas, nonce, bump)
            try:
                sent.append(self._submit(transaction))
            except Web3RPCError as error:
                if not self._is_about_nonce(error, transaction):
                    raise
            receipt = self._await_receipt(sent, nonce, min(self._patience, give_up - time.monotonic()))
            if receipt is not None:
                return receipt
            if self._next_nonce() > nonce:
                gas = self._estimate(call, at)  # refused here if another program did the same
                nonce, bump, sent = self._next_nonce(), 1.0, []
            else:
                bump *= REPLACEMENT_BUMP
        raise TransactionLost(what, self._deadline, [hash_.to_0x_hex() for hash_ in sent])

    def _await_receipt(self, sent: list[HexBytes], nonce: int, seconds: float) -> TxReceipt | None:
        """The receipt of whichever version was mined; None once that cannot or did not happen."""
        until, taken = time.monotonic() + seconds, False
        while True:
            for transaction in sent:
                try:
                    return self._w3.eth.get_transaction_receipt(transaction)
                except TransactionNotFound:
                    continue
            if time.monotonic() >= until:
                return None
            if not taken and self._next_nonce() > nonce:
                taken, until = True, time.monotonic() + self._receipt_lag
            time.sleep(self._poll)

    def _estimate(self, call: TxParams, at: BlockIdentifier | None) -> int:
        return int(self._w3.eth.estimate_gas(call, at) * GAS_MARGIN)

    def _priced(self, call: TxParams, gas: int, nonce: int, bump: float) -> TxParams:
        base = int(self._w3.eth.get_block("latest").get("baseFeePerGas", 0))
        tip = int(max(self._w3.eth.max_priority_fee, MIN_TIP) * bump)
        transaction: TxParams = {
            **call,
            "nonce": nonce,  # type: ignore[typeddict-item]
            "gas": gas,
            "maxPriorityFeePerGas": EthWei(tip),
            "maxFeePerGas": EthWei(int(2 * base * bump) + tip),
            "chainId": self._w3.eth.chain_id,
            "value": EthWei(0),
        }
        return transaction

    def _submit(self, transaction: TxParams) -> HexBytes:
        signed = self._wallet.account.sign_transaction(cast(dict[str, Any], transaction))
        try:
            return self._w3.eth.send_raw_transaction(signed.raw_transaction)
        except Web3RPCError as error:
            if "already" in message_of(error):
                return HexBytes(signed.hash)
            raise

    def _is_about_nonce(self, error: Web3RPCError, transaction: TxParams) -> bool:
        """Whether sending again, under the next nonce or with a higher fee, can help."""
        message = message_of(error)
        if "insufficient funds" in message:
            have = self._w3.eth.get_balance(self._wallet.account.address)
            need = int(transaction["gas"]) * int(transaction["maxFeePerGas"])
            raise InsufficientBalance(self._wallet.address, have, need, "ETH for gas")
        if any(sign in message for sign in ("nonce too low", "underpriced", "replacement")):
            return True
        raise decode_rpc_error(self._rpc_url, error)

    def _next_nonce(self) -> int:
        return int(self._w3.eth.get_transaction_count(self._wallet.account.address, "latest"))


def message_of(error: Web3RPCError) -> str:
    """What the endpoint says, in lower case."""
    details: Any = (error.rpc_response or {}).get("error", {})
    return str(details.get("message", error) if isinstance(details, dict) else error).lower()
