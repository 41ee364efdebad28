"""The JSON-RPC connection: one web3 instance, with every error it can raise turned into one of ours.

What is asked is asked again, with a growing pause and at the next endpoint where there are several, when the answer is
none: 429, 502 and its kind, a lost connection, null where there is always something. That holds for sending too: the
same signed bytes have no effect twice.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import requests
from eth_utils.abi import abi_to_signature, function_signature_to_4byte_selector
from web3 import HTTPProvider, Web3
from web3.exceptions import (
    BadFunctionCallOutput,
    BadResponseFormat,
    ContractLogicError,
    TooManyRequests,
    Web3Exception,
    Web3RPCError,
)
from web3.middleware import AttributeDictMiddleware
from web3.types import RPCEndpoint, RPCResponse

from proofyard.chain.abi import contract, contract_names
from proofyard.chain.codec import codec
from proofyard.chain.endpoints import FIRST_PAUSE_S, Endpoint, EndpointFailed, addresses, endpoint
from proofyard.chain.errors import ChainBehind, ChainError, ChainUnreachable, InsufficientBalance, Refused, WrongChain
from proofyard.chain.refusals import refusal
from proofyard.chain.troubles import Trouble, error_of, text_of, trouble, trouble_in
from proofyard.chain.urls import shown_all
from proofyard.protocol.types import Address

LONGEST_PAUSE_S = 4.0
"""Between two requests to the only endpoint there is."""
PATIENCE_S = 20.0
"""So long an endpoint is asked again that is out of order for a moment, where there is no other."""
CATCH_UP_S, CATCH_UP_POLL_S = 5.0, 0.1
"""So long, and so often, for a block that another node behind the same address has already."""
ASK_AGAIN_S = 60.0
"""How long an endpoint's word on which chain it is holds."""
BATCH_REFUSED = frozenset({400, 405, 406, 415, 422, 501})
DENYING_STATUS = frozenset({401, 402, 403, 407})
"""No contract refuses so, whatever stands in the body."""
PASSING_STATUS = frozenset({408, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524})
NEVER_NULL = frozenset(
    {
        "eth_blockNumber",
        "eth_call",
        "eth_chainId",
        "eth_estimateGas",
        "eth_gasPrice",
        "eth_getBalance",
        "eth_getCode",
        "eth_getLogs",
        "eth_getTransactionCount",
        "eth_maxPriorityFeePerGas",
        "eth_sendRawTransaction",
    }
)
"""To these there is always an answer. So there is for the newest block."""
OF_STATE = ("eth_call", "eth_estimateGas", "eth_getTransactionCount")
"""What is answered from the newest block's state."""
FRESH_S = 30.0
"""So long after a transaction of one's own, what is asked of the newest state may be about it."""
AGAIN = ("eth_", "net_", "web3_")
"""What begins so may be asked twice; test chains have commands that may not."""
TOKEN_ERRORS = ("TransferFailed", "TransferFromFailed")
"""Errors of Solady's SafeTransferLib, which no ABI lists."""


Observer = Callable[[str, float, Any], None]
"""Told of a request: its method, the seconds that it took, and the answer as JSON-RPC has it, or the exception."""


class BatchRefused(Exception):
    """An endpoint takes one request at a time."""


class Provider(HTTPProvider):
    """Asks the first endpoint that is in order, and tells `observers` of each request, in the thread that made it.

    All endpoints must be of one chain: that of the first that answered, or the one that is `expected`. Its id is asked
    once. Raises `ChainUnreachable` with what is wrong at each, and `WrongChain`.
    """

    def __init__(self, rpc_url: str, expected: int | None = None) -> None:
        super().__init__(rpc_url, exception_retry_configuration=None)
        self.observers: list[Observer] = []
        self.newest = 0
        """The newest block that is known to be there."""
        self._fresh_until = 0.0
        self._rpc_url = rpc_url
        self._endpoints = [endpoint(url) for url in addresses(rpc_url)]
        self._chain_id = expected

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        if method == "eth_chainId":
            return {"jsonrpc": "2.0", "id": 0, "result": cast(Any, hex(self.chain_id()))}
        if method in OF_STATE and time.monotonic() < self._fresh_until and "latest" in (params[1:2] or ["latest"]):
            return self._of_one_that_knows(str(method), params)
        return self._request(method, params)

    def _request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        again = str(method).startswith(AGAIN) and method != "eth_sendTransaction"
        newest = method == "eth_getBlockByNumber" and params and params[0] == "latest"
        data = self.encode_rpc_request(method, params)
        needs = method in NEVER_NULL or bool(newest)
        return cast(RPCResponse, self._ask(str(method), data, needs=needs, again=again))

    def make_batch_request(self, batch_requests: Any) -> Any:
        """One after the other where the endpoint takes no batches."""
        try:
            return self._ask_many("batch", list(batch_requests), needs=False)
        except BatchRefused:
            return [self.make_request(method, params) for method, params in batch_requests]

    def together(self, *asked: tuple[str, Any]) -> list[Any]:
        """The answers to all of these in one request, so that they are of one chain at one time even where several
        nodes share an address; each is an error or a result that is not null (`result_of`). They are answered in their
        order, and observers are told of the last, which it is about. Raises `BatchRefused`."""
        return self._ask_many(asked[-1][0], [(RPCEndpoint(method), params) for method, params in asked], needs=True)

    def saw(self, block: int) -> None:
        """A block that there is: a node that does not have it is behind."""
        self.newest = max(self.newest, block)

    def wrote(self, block: int) -> None:
        """A block with a transaction of whoever asks here: what they ask next is about the state behind it."""
        self.saw(block)
        self._fresh_until = time.monotonic() + FRESH_S

    def _of_one_that_knows(self, method: str, params: Any) -> RPCResponse:
        """The answer of a node that has the newest block that was seen. Where none has it for `CATCH_UP_S`, the chain
        was reorganised."""
        until = time.monotonic() + CATCH_UP_S
        while True:
            try:
                head, answer = self.together(("eth_blockNumber", []), (method, params))
            except BatchRefused:
                return self._request(RPCEndpoint(method), params)
            newest = int(result_of(head), 16)
            if newest >= self.newest or time.monotonic() > until:
                self.newest = newest
                return cast(RPCResponse, answer)
            time.sleep(CATCH_UP_POLL_S)

    def _ask_many(self, method: str, asked: list[tuple[RPCEndpoint, Any]], *, needs: bool) -> list[Any]:
        data = self.encode_batch_rpc_request(asked)
        answers: list[Any] = self._ask(method, data, needs=needs, again=True, many=len(asked))
        return answers

    def chain_id(self) -> int:
        """Which chain this is, asked once."""
        if self._chain_id is None:
            self._chain_id = self._number(self._ask("eth_chainId", self._question(), needs=True, again=True))
        return self._chain_id

    def require_one_chain(self) -> None:
        """Ask each endpoint once which chain it is. Raises `WrongChain` unless all that answer are of the chain that is
        expected, or of one, and `ChainUnreachable` where none does."""
        found: list[tuple[Endpoint, int]] = []
        for each in self._endpoints if len(self._endpoints) > 1 else []:
            try:
                found.append((each, self._number(self._at(each, "eth_chainId", self._question(), needs=True))))
            except EndpointFailed as failed:
                each.failed(failed)
        if not found:
            answer = self._ask("eth_chainId", self._question(), needs=True, again=True)
            found = [(self._next(), self._number(answer))]
        if self._chain_id is None:
            self._chain_id = found[0][1]
        for each, chain_id in found:
            each.chain_id, each.asked_at = chain_id, time.monotonic()
            if chain_id != self._chain_id:
                raise WrongChain(each.shown, chain_id, self._chain_id)

    def _question(self) -> bytes:
        return self.encode_rpc_request(RPCEndpoint("eth_chainId"), [])

    def _number(self, answer: Any) -> int:
        if isinstance(answer, Mapping) and isinstance(error := answer.get("error"), Mapping):
            raise ChainUnreachable(self._rpc_url, f"it does not say which chain it is: {text_of(error)[:200]}")
        try:
            return int(answer["result"], 16)
        except (KeyError, TypeError, ValueError):
            raise ChainUnreachable(self._rpc_url, "what answers there does not say which chain it is") from None

    def _ask(self, method: str, data: bytes, *, needs: bool, again: bool, many: int = 0) -> Any:
        """The answer of the first endpoint that gives one. `needs`: null is none; `again`: it may be asked twice;
        `many`: how many requests there are in the batch that it is, or 0."""
        start = until = time.monotonic()
        pause = FIRST_PAUSE_S
        while True:
            each = self._next()
            try:
                self._require_chain(each, method)
                answer = self._at(each, method, data, needs=needs, many=many)
            except EndpointFailed as failed:
                each.failed(failed)
                now, until = time.monotonic(), max(until, start + failed.patience)
                alone = len(self._endpoints) == 1
                wait = failed.wait or pause if alone else max(0.0, min(e.rests_until for e in self._endpoints) - now)
                if not again or (now + wait > until and (alone or wait > 0)):
                    raise ChainUnreachable(self._rpc_url, self._why(each, failed)) from None
                time.sleep(wait)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                each.answered()
                return answer

    def _next(self) -> Endpoint:
        now = time.monotonic()
        ready = next((each for each in self._endpoints if each.rests_until <= now), None)
        return ready or min(self._endpoints, key=lambda each: each.rests_until)

    def doubt(self) -> None:
        """What an endpoint shows may be another chain: it is asked before its next answer counts."""
        for each in self._endpoints:
            each.asked_at = float("-inf")

    def _require_chain(self, each: Endpoint, method: str) -> None:
        """Raise `EndpointFailed` for an endpoint of another chain. Behind an address may be another node tomorrow, so
        it is asked again now and then."""
        if self._chain_id is None or method == "eth_chainId":
            return
        now = time.monotonic()
        if each.chain_id is None or now - each.asked_at > ASK_AGAIN_S:
            each.chain_id = self._number(self._at(each, "eth_chainId", self._question(), needs=True))
            each.asked_at = now
        if each.chain_id != self._chain_id:
            each.asked_at = float("-inf")
            raise EndpointFailed(f"it is chain {each.chain_id} and not {self._chain_id}")

    def _at(self, each: Endpoint, method: str, data: bytes, *, needs: bool, many: int = 0) -> Any:
        if many and not each.takes_batches:
            raise BatchRefused
        start, answer = time.monotonic(), None
        try:
            status, body = each.post(data)
            if many:
                answer = self._judged_batch(each, method, status, body, needs=needs, many=many)
            else:
                answer = self._judged(each, method, status, body, needs=needs)
        except Exception as error:
            answer = error
            raise
        finally:
            for observer in self.observers:
                observer(method, time.monotonic() - start, answer)
        return answer

    def _judged(self, each: Endpoint, method: str, status: int, body: bytes, *, needs: bool) -> Any:
        """The answer, where it is one. Some send what JSON-RPC calls an error with a status of its own."""
        answer = self._decoded(body)
        error: Any = answer.get("error") if isinstance(answer, dict) else None
        self._require_no_wait(each, method, error)
        if status in DENYING_STATUS:
            self._require_status(method, status, error)
        if error is not None:
            return answer
        self._require_status(method, status)
        if not isinstance(answer, dict) or "result" not in answer:
            raise EndpointFailed("what answers there does not speak JSON-RPC")
        if needs and answer["result"] is None:
            raise EndpointFailed(f"it answers null to {method}", patience=PATIENCE_S / 2)
        return answer

    def _judged_batch(self, each: Endpoint, method: str, status: int, body: bytes, *, needs: bool, many: int) -> Any:
        """The answers to a batch in their order. Raises `BatchRefused` where there is none to each of its requests."""
        answer = self._decoded(body)
        said = answer if isinstance(answer, list) else [answer]
        errors = [one.get("error") for one in said if isinstance(one, dict)]
        batch = isinstance(answer, dict) and trouble_in(answer.get("error")) == Trouble.BATCH
        for error in [] if batch else errors:
            self._require_no_wait(each, method, error)
        if isinstance(answer, dict) and not batch and trouble_in(answer.get("error")):
            return [answer] * many  # it is about what was asked for, and not about the batch
        if status not in BATCH_REFUSED and not (isinstance(answer, dict) and "error" in answer):
            self._require_status(method, status)
            ids = {one["id"] for one in said if isinstance(one, dict) and isinstance(one.get("id"), int)}
            if len(said) == len(ids) == many:
                if needs and any(one.get("error") is None and one.get("result") is None for one in said):
                    why = f"it is behind: it answers null beside {method}"
                    raise EndpointFailed(why, patience=CATCH_UP_S, wait=CATCH_UP_POLL_S)
                return sorted(said, key=lambda one: int(one["id"]))
            if answer is None:
                raise EndpointFailed("what answers there does not speak JSON-RPC")
        each.takes_batches = False
        raise BatchRefused

    def _decoded(self, body: bytes) -> Any:
        try:
            return self.decode_rpc_response(body)
        except (ValueError, RecursionError):
            return None

    @staticmethod
    def _require_no_wait(each: Endpoint, method: str, error: Any) -> None:
        """Raise `EndpointFailed` for an error that passes."""
        means = trouble_in(error)
        if means == Trouble.BUSY:
            each.too_often()
        if means == Trouble.BUSY or (means == Trouble.SLOW and method != "eth_getLogs"):
            raise EndpointFailed(text_of(error)[:200], patience=PATIENCE_S)
        if means == Trouble.DENIED:
            raise EndpointFailed(f"it refuses: {text_of(error)[:200]}")
        if means == Trouble.NOT_YET:
            raise EndpointFailed(f"it is behind: {text_of(error)[:200]}", patience=CATCH_UP_S, wait=CATCH_UP_POLL_S)

    @staticmethod
    def _require_status(method: str, status: int, error: Any = None) -> None:
        if not 200 <= status < 300:
            logs = method == "eth_getLogs" and status in (500, 504)  # fewer blocks are asked for instead
            passing = status in PASSING_STATUS and not logs
            said = f": {text_of(error)[:200]}" if isinstance(error, Mapping) else ""
            raise EndpointFailed(f"HTTP status {status}{said}", patience=PATIENCE_S if passing else 0.0)

    def _why(self, each: Endpoint, failed: EndpointFailed) -> str:
        if len(self._endpoints) == 1:
            return failed.reason
        return "; ".join(f"{e.shown}: {e.failure or failed.reason}" for e in self._endpoints if e.failure or e is each)


def result_of(answer: Any) -> Any:
    """What one of the answers to a batch says. Raises `Web3RPCError` where it is an error."""
    if (error := answer.get("error")) is not None:
        raise Web3RPCError(str(error), rpc_response=answer)
    return answer["result"]


def connect(rpc_url: str, chain_id: int | None = None) -> Web3:
    """A web3 instance of the chain with this id, where one is named; nothing is sent yet. Raises `BadRpcUrl`."""
    # Without those that resolve names and check what this package has set itself, asking for the chain's id each time.
    w3 = Web3(Provider(rpc_url, chain_id), middleware=[(AttributeDictMiddleware, "attrdict")])
    w3.codec = codec()
    return w3


@contextmanager
def mapped_errors(rpc_url: str) -> Iterator[None]:
    """Turns errors of requests and web3 into `ChainUnreachable`, `Refused` or `ChainError`."""
    try:
        yield
    except (requests.RequestException, TooManyRequests) as error:
        raise ChainUnreachable(rpc_url, type(error).__name__) from None
    except BadResponseFormat:
        raise ChainUnreachable(rpc_url, "what answers there does not speak JSON-RPC") from None
    except ContractLogicError as error:
        raise decode_revert(error.data, str(error.message)) from None
    except BadFunctionCallOutput:
        where = shown_all(rpc_url)
        raise ChainError(f"the contract on {where} does not answer; check the Registry's address") from None
    except Web3RPCError as error:
        raise decode_rpc_error(rpc_url, error) from None
    except Web3Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise ChainError(f"the chain at {shown_all(rpc_url)} answers strangely: {what}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ChainUnreachable(rpc_url, f"it answers strangely: {type(error).__name__}: {error}") from None


def decode_rpc_error(rpc_url: str, error: Web3RPCError) -> ChainError:
    """The refusal in an RPC error, where there is one."""
    details = error_of(error)
    data = details.get("data")
    if isinstance(data, str) and data.startswith("0x") and len(data) >= 10:
        return decode_revert(data, str(details.get("message")))
    message = str(details.get("message"))
    if trouble(details) == Trouble.NOT_YET:
        return ChainBehind(rpc_url, message)
    return ChainError(f"the chain at {shown_all(rpc_url)} refuses the request: {message}")


def decode_revert(data: Any, message: str) -> ChainError:
    """A contract's revert data as an exception with its operands."""
    raw = bytes.fromhex(data[2:]) if isinstance(data, str) and data.startswith("0x") else b""
    entry = _ERRORS.get(raw[:4])
    if entry is None:
        return Refused("revert", {"message": message, "data": raw.hex()})
    values = codec().decode([item["type"] for item in entry["inputs"]], raw[4:])
    operands: dict[str, Any] = {
        item["name"]: Web3.to_checksum_address(value) if item["type"] == "address" else value
        for item, value in zip(entry["inputs"], values, strict=True)
    }
    if entry["name"] == "ERC20InsufficientBalance":
        return InsufficientBalance(Address(operands["sender"]), operands["balance"], operands["needed"], "CREDIT")
    return refusal(entry["name"], operands)


def _error_table() -> dict[bytes, dict[str, Any]]:
    entries = [entry for name in contract_names() for entry in contract(name).abi]
    entries += [{"type": "error", "name": name, "inputs": []} for name in TOKEN_ERRORS]
    return {
        function_signature_to_4byte_selector(abi_to_signature(entry)): entry  # type: ignore[arg-type]
        for entry in entries
        if entry["type"] == "error"
    }


_ERRORS = _error_table()
