"""Where the SDK's public calls end: what a library raises that nobody below has turned into one of ours is turned here.

Packages map what they expect where they meet it (`chain.rpc`, `transport.link`, `artifacts`); this is for the rest, so
that who catches `ProofyardError` has caught everything but their own mistakes, interrupts, and what their own iterators
raise.
"""

import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from proofyard.protocol.types import ProofyardError
from proofyard.sdk.errors import LibraryFailed, MachineRefused

P = ParamSpec("P")
T = TypeVar("T")

NETWORK = frozenset(
    {
        "web3",
        "requests",
        "urllib3",
        "aiohttp",
        "websockets",
        "httpx",
        "httpx2",
        "httpcore",
        "anyio",
        "eth_account",
        "eth_abi",
    }
    | {"eth_utils", "eth_keyfile", "eth_keys", "eth_rlp", "rlp", "hexbytes", "aioquic", "ipfshttpclient", "multiaddr"}
)
"""Libraries that talk to somebody: what they say may quote an address with an access key in it, and is not repeated."""
LOCAL = frozenset(
    {"cryptography", "OpenSSL", "coincurve", "py_ecc", "milagro_bls_binding", "msgspec", "pydantic", "pydantic_core"}
    | {"numpy", "tokenizers", "safetensors", "safetensors_rust", "tenacity", "psutil", "sqlite3", "platformdirs"}
    | {"pyarrow", "pandas", "datasets", "huggingface_hub", "transformers", "torch", "peft", "matplotlib", "sha3"}
)


def ours(error: Exception) -> ProofyardError | None:
    """An error of ours for what a library, or the machine, has raised; None for what is neither."""
    package = _package(error)
    if package is not None:
        return LibraryFailed(package, error, tells=package not in NETWORK)
    return MachineRefused(error) if isinstance(error, OSError) else None


@contextmanager
def no_foreign() -> Iterator[None]:
    """Nothing foreign leaves this block."""
    try:
        yield
    except ProofyardError:
        raise
    except Exception as error:
        found = ours(error)
        if found is None:
            raise
        if isinstance(found, LibraryFailed) and found.package in NETWORK:
            raise found from None
        raise found from error


def mapped(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """A coroutine function that raises nothing foreign."""

    @functools.wraps(method)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with no_foreign():
            return await method(*args, **kwargs)

    return run


def mapped_each(method: Callable[P, AsyncGenerator[T, None]]) -> Callable[P, AsyncGenerator[T, None]]:
    """The same of an asynchronous generator."""

    @functools.wraps(method)
    async def run(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        with no_foreign():
            async for item in method(*args, **kwargs):
                yield item

    return run


def _package(error: Exception) -> str | None:
    """The library that an error is of, or in whose code a built-in one was raised."""
    for name in (kind.__module__.partition(".")[0] for kind in type(error).__mro__):
        if name in NETWORK | LOCAL:
            return name
    trace, raised_in = error.__traceback__, ""
    while trace is not None:
        raised_in = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        trace = trace.tb_next
    return raised_in if raised_in in NETWORK | LOCAL else None
