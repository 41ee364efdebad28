"""The JSON-RPC connection: one web3 instance, with every error it can raise turned into one of ours."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import requests
from eth_utils.abi import abi_to_signature, function_signature_to_4byte_selector
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, TimeoutError
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

from proofyard.chain.abi import contract, contract_names
from proofyard.chain.codec import codec
from proofyard.chain.errors import BadRpcUrl, ChainError, ChainUnreachable, InsufficientBalance, Refused
from proofyard.chain.refusals import refusal
from proofyard.protocol.types import Address

TIMEOUT_S = 30.0
CONNECTIONS = 64
"""To one endpoint that are kept open."""
TOKEN_ERRORS = ("TransferFailed", "TransferFromFailed")
"""Errors of Solady's SafeTransferLib, which no ABI lists."""


Observer = Callable[[str, float, Any], None]
"""Told of a request: its method, the seconds that it took, and the answer as JSON-RPC has it, or the exception."""


class Post:
    """Requests to one endpoint, with the proxies and certificates that `requests` would use. It finds them out anew for
    each request, which takes longer than the request itself; here it is done once."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        session, adapter = requests.Session(), HTTPAdapter(pool_maxsize=CONNECTIONS)
        settings = session.merge_environment_settings(url, {}, False, None, None)
        first = session.prepare_request(requests.Request("POST", url, headers=headers, data=b"{}"))
        self._pool = adapter.get_connection_with_tls_context(
            first, settings["verify"], proxies=settings["proxies"], cert=settings["cert"]
        )
        self._path = adapter.request_url(first, settings["proxies"])
        self._headers = {name: str(value) for name, value in first.headers.items() if name != "Content-Length"}

    def __call__(self, data: bytes) -> bytes:
        """The answer's body. Raises `requests.RequestException`, also for an answer that is no success."""
        try:
            answer = self._pool.urlopen(
                "POST",
                self._path,
                body=data,
                headers=self._headers,
                retries=False,
                redirect=False,
                timeout=TIMEOUT_S,
            )
        except TimeoutError as error:
            raise requests.Timeout(error) from error
        except HTTPError as error:
            raise requests.ConnectionError(error) from error
        if not 200 <= answer.status < 300:
            refused = requests.Response()
            refused.status_code = answer.status
            raise requests.HTTPError(f"HTTP status {answer.status}", response=refused)
        return answer.data


class Provider(HTTPProvider):
    """An HTTP provider that tells `observers` of each request, in the thread that made it."""

    def __init__(self, rpc_url: str) -> None:
        super().__init__(rpc_url, request_kwargs={"timeout": TIMEOUT_S}, exception_retry_configuration=None)
        self.observers: list[Observer] = []
        self._rpc_url = rpc_url

    @cached_property
    def _post(self) -> Post:
        return Post(self._rpc_url, self.get_request_headers())

    def _make_request(self, method: Any, request_data: bytes) -> bytes:
        return self._post(request_data)

    def make_request(self, method: Any, params: Any) -> Any:
        return self._observed(str(method), lambda: super(Provider, self).make_request(method, params))

    def make_batch_request(self, batch_requests: Sequence[Any]) -> Any:
        return self._observed("batch", lambda: super(Provider, self).make_batch_request(list(batch_requests)))

    def _observed(self, method: str, request: Callable[[], Any]) -> Any:
        start, answer = time.monotonic(), None
        try:
            answer = request()
        except Exception as error:
            answer = error
            raise
        finally:
            for observer in self.observers:
                observer(method, time.monotonic() - start, answer)
        return answer


def connect(rpc_url: str) -> Web3:
    """A web3 instance; nothing is sent yet. Raises `BadRpcUrl`."""
    try:
        parts = urlsplit(rpc_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise BadRpcUrl(rpc_url)
    # Without those that resolve names and check what this package has set itself, asking for the chain's id each time.
    w3 = Web3(Provider(rpc_url), middleware=[(AttributeDictMiddleware, "attrdict")])
    w3.codec = codec()
    return w3


@contextmanager
def mapped_errors(rpc_url: str) -> Iterator[None]:
    """Turns errors of requests and web3 into `ChainUnreachable`, `Refused` or `ChainError`."""
    try:
        yield
    except (requests.RequestException, TooManyRequests) as error:
        raise ChainUnreachable(rpc_url, _reason(error)) from None
    except BadResponseFormat:
        raise ChainUnreachable(rpc_url, "what answers there does not speak JSON-RPC") from None
    except ContractLogicError as error:
        raise decode_revert(error.data, str(error.message)) from None
    except BadFunctionCallOutput:
        raise ChainError(f"the contract on {rpc_url} does not answer; check the Registry's address") from None
    except Web3RPCError as error:
        raise decode_rpc_error(rpc_url, error) from None
    except Web3Exception as error:
        raise ChainError(f"the chain at {rpc_url} answers strangely: {type(error).__name__}: {error}") from None
    except ValueError as error:
        raise ChainUnreachable(rpc_url, f"{type(error).__name__}: {error}") from None


def decode_rpc_error(rpc_url: str, error: Web3RPCError) -> ChainError:
    """The refusal in an RPC error, where there is one."""
    details = (error.rpc_response or {}).get("error", {})
    data = details.get("data") if isinstance(details, dict) else None
    if isinstance(data, str) and data.startswith("0x") and len(data) >= 10:
        return decode_revert(data, str(error))
    message = details.get("message", str(error)) if isinstance(details, dict) else str(error)
    return ChainError(f"the chain at {rpc_url} refuses the request: {message}")


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


def _reason(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return f"no answer in {TIMEOUT_S:.0f} s"
    if isinstance(error, requests.ConnectionError):
        return "connection refused or lost"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"what answers there is no chain, or not in order: HTTP status {error.response.status_code}"
    return type(error).__name__


def _error_table() -> dict[bytes, dict[str, Any]]:
    entries = [entry for name in contract_names() for entry in contract(name).abi]
    entries += [{"type": "error", "name": name, "inputs": []} for name in TOKEN_ERRORS]
    return {
        function_signature_to_4byte_selector(abi_to_signature(entry)): entry  # type: ignore[arg-type]
        for entry in entries
        if entry["type"] == "error"
    }


_ERRORS = _error_table()
