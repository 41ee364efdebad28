"""Nothing foreign leaves the SDK: every exception of the libraries that it stands on, injected where a client meets
it."""

import asyncio
import contextlib
import importlib
import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proofyard.protocol.types import BatchId, Cid, JobId, ProofyardError
from proofyard.sdk import AsyncClient, LibraryFailed, MachineRefused, MapJob, Offer
from proofyard.sdk.seams import LOCAL, NETWORK, no_foreign, ours

LIBRARIES = (
    *("web3.exceptions", "requests.exceptions", "urllib3.exceptions", "aiohttp", "websockets.exceptions", "eth_abi"),
    *("eth_abi.exceptions", "eth_utils.exceptions", "eth_keys.exceptions", "eth_account", "aioquic.quic.connection"),
    *("aioquic.tls", "aioquic.buffer", "cryptography.exceptions", "ipfshttpclient.exceptions", "msgspec", "httpx"),
    *("numpy.exceptions", "safetensors", "tokenizers", "tenacity", "psutil", "pyarrow", "datasets.exceptions"),
    *("huggingface_hub.errors", "pandas.errors", "coincurve", "pydantic_core"),
)


def exceptions_of(name: str) -> list[type[Exception]]:
    try:
        module = importlib.import_module(name)
    except ImportError:
        return []
    return [
        each
        for each in vars(module).values()
        if inspect.isclass(each)
        and issubclass(each, Exception)
        and not issubclass(each, Warning)
        and each.__module__.partition(".")[0] not in {*sys.stdlib_module_names, "proofyard"}
    ]


def instance_of(kind: type[Exception]) -> Exception:
    try:
        error = kind.__new__(kind)
    except TypeError:  # one that is not made without its operands
        error = type(kind.__name__, (Exception,), {"__module__": kind.__module__})()
    with contextlib.suppress(Exception):
        error.__init__("https://node/v3/SECRETKEY is gone")  # type: ignore[misc]
    return error


FOREIGN = sorted(
    {each for name in LIBRARIES for each in exceptions_of(name)},
    key=lambda each: (each.__module__, each.__qualname__),
)
MACHINE = (PermissionError(13, "denied", "/x"), OSError(28, "No space left", "/y"), TimeoutError(), ConnectionError())


def test_the_exceptions_of_every_library_are_ours_at_the_seam() -> None:
    assert len(FOREIGN) > 150
    for kind in FOREIGN:
        found = ours(instance_of(kind))
        assert isinstance(found, LibraryFailed), kind
        assert "SECRETKEY" not in str(found) or found.package not in NETWORK, kind
    for error in MACHINE:
        assert isinstance(ours(error), MachineRefused)
    for own in (ValueError("x"), KeyError("x"), RuntimeError("what a generator of the caller's raises")):
        assert ours(own) is None


def test_a_built_in_error_from_inside_a_library_is_its() -> None:
    import eth_utils

    with pytest.raises(LibraryFailed, match="the library eth_utils failed with ValueError"), no_foreign():
        eth_utils.to_checksum_address("0xnothing")


def test_every_library_that_is_required_is_known() -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    required = pyproject.split("dependencies = [")[1].split("]")[0]
    names = set(re.findall(r'"([\w-]+)', required))
    modules = {"safe-pysha3": "sha3", "milagro-bls-binding": "milagro_bls_binding"}
    found = {modules.get(name, name.replace("-", "_")) for name in names} - {"rich", "typer", "jinja2"}
    assert found <= NETWORK | LOCAL, found - NETWORK - LOCAL


class Raising:
    """An object every member of which raises."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        async def later(*_: Any, **__: Any) -> Any:
            raise self._error

        def fail(*_: Any, **__: Any) -> Any:
            raise self._error

        return later if name in ("ask", "one", "publish", "read", "fetch", "names", "close") else fail


class Broken(AsyncClient):
    """A client whose chain, peers and store raise one error, whatever they are asked."""

    def __init__(self, folder: Path, error: Exception) -> None:
        super().__init__("", "", cast(Any, SimpleNamespace(turns=Raising(error), address="0x")), data_dir=folder)
        self._connect = cast(Any, Raising(error).connect)
        self._chain = self._peers = cast(Any, Raising(error))


CALLS: dict[str, Any] = {
    "connect": lambda client: client.connect(),
    "prepare": lambda client: client.prepare(MapJob(data=[{"text": "a"}]), Offer(reward=10**18, audit_fee=10**18)),
    "estimate": lambda client: client.estimate(MapJob(data=[{"text": "a"}]), Offer(reward=10**18, audit_fee=10**18)),
    "open": lambda client: client.open(SimpleNamespace(since=0, terms=None, call="")),
    "publish": lambda client: client.publish(JobId(1), ()),
    "report": lambda client: client.report(JobId(1)),
    "wait": lambda client: client.job(JobId(1)).wait(),
    "log": lambda client: client.job(JobId(1)).log(),
    "left_of": lambda client: client.left_of(JobId(1)),
    "failure": lambda client: client.failure(JobId(1), "it failed"),
    "end": lambda client: client.end(JobId(1)),
    "prove": lambda client: client.prove(JobId(1)),
    "settled": lambda client: client.settled(BatchId(1)),
    "result": lambda client: client.result(JobId(1), "nowhere"),
    "read": lambda client: client.read(Cid("bafk"), 1),
    "short_of_owners": lambda client: client.short_of_owners(SimpleNamespace(manifest=None, terms=None)),
    "close": lambda client: client.close(),
}


@pytest.mark.parametrize("call", sorted(CALLS))
def test_no_public_call_lets_one_through(call: str, tmp_path: Path) -> None:
    kinds = [kind for kind in FOREIGN if kind.__module__.startswith(("web3", "requests", "aioquic", "msgspec", "eth_"))]
    for error in [*map(instance_of, kinds[::6]), *MACHINE]:
        client = Broken(tmp_path, error)
        try:
            asyncio.run(CALLS[call](client))
        except ProofyardError:
            continue
        except AttributeError:
            assert call == "short_of_owners"  # what was given is no prepared job
