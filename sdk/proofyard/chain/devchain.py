"""A chain of one's own: a real anvil process, the contracts deployed to it, and a faucet."""

import os
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, Self

from eth_abi.abi import encode as abi_encode
from eth_utils.abi import collapse_if_tuple
from web3 import Web3
from web3.types import Nonce
from web3.utils import get_create_address

from proofyard.chain.abi import contract
from proofyard.chain.client import ChainClient
from proofyard.chain.errors import ChainUnreachable, DevChainError, NoFaucet, PortInUse
from proofyard.chain.foundry import find_tool
from proofyard.chain.records import Params
from proofyard.chain.rpc import connect, mapped_errors
from proofyard.chain.sender import Sender
from proofyard.chain.wallet import Wallet
from proofyard.protocol.types import Address, Wei
from proofyard.runtime.parent import end_with_parent

CHAIN_ID = 31337
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
STATES_KEPT = 500
"""Blocks whose state anvil keeps, in memory. Left to itself it writes older ones to the disk, the chain's whole state
for each block, and does little else once a chain is some hundred blocks long."""
SUPPLY = Wei(1_000_000_000 * 10**18)
DEV_MNEMONIC = "test test test test test test test test test test test junk"
"""The mnemonic that anvil's rich accounts are derived from, known to everybody."""


@dataclass(frozen=True)
class Deployment:
    """A network's contracts. Clients need the Registry's address alone: it names the others, and the Lens is for those
    who call it by its address. `block` is the Registry's, where its events begin."""

    credit: Address
    registry: Address
    court: Address
    lens: Address
    chain_id: int
    block: int


class Anvil:
    """A running anvil that listens on `host`, for use in a `with` statement. `port` 0 takes a free one.

    `block_time` seconds between blocks, with `mixed` one more for each transaction; None mines only those. Its clock
    is the machine's, `warp` moves it forward. The process ends with this one. Raises `ToolNotFound`, `PortInUse` or
    `DevChainError`.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        block_time: int | None = None,
        mixed: bool = False,
        accounts: int = 10,
        log: Path | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._block_time = block_time
        self._mixed = mixed
        self._accounts = accounts
        self._log_path = log
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    @property
    def rpc_url(self) -> str:
        return f"http://{self._host}:{self.port}"

    def __enter__(self) -> Self:
        tool = find_tool("anvil")
        self.port = _free_port(self._host, self._port)
        command = [str(tool), "--host", self._host, "--port", str(self.port), "--chain-id", str(CHAIN_ID)]
        command += ["--accounts", str(self._accounts), "--mnemonic", DEV_MNEMONIC, "--hardfork", "prague"]
        command += ["--prune-history", str(STATES_KEPT), "--no-request-size-limit"]
        if self._block_time is not None:
            command += ["--block-time", str(self._block_time)]
            command += ["--mixed-mining"] if self._mixed else []
        log: IO[bytes] = self._log_path.open("wb") if self._log_path else TemporaryFile()
        with log:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=partial(end_with_parent, os.getpid()),
            )
            try:
                self._wait_ready(log)
            except BaseException:
                self.stop()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "anvil has not been started"
        return self._process.pid

    def stop(self) -> None:
        """End the process. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wallet(self, index: int) -> Wallet:
        """One of anvil's own accounts, which have 10,000 ether each."""
        return Wallet.from_phrase(DEV_MNEMONIC, index)

    def fund(self, account: Address, ether: int = 100) -> None:
        """Give an account ether for gas."""
        self._request("anvil_setBalance", [account, hex(ether * 10**18)])

    def mine(self, blocks: int = 1) -> None:
        self._request("anvil_mine", [hex(blocks)])

    def warp(self, seconds: int) -> None:
        """Move the chain's clock forward and mine a block there."""
        self._request("evm_increaseTime", [hex(seconds)])
        self.mine()

    def set_mining(self, block_time: int | None) -> None:
        """From now on mine every `block_time` seconds, or with None each transaction at once and nothing else."""
        if block_time is None:
            self._request("evm_setAutomine", [True])
        else:
            self._request("evm_setAutomine", [False])
            self._request("evm_setIntervalMining", [block_time])

    def receipts(self, block: int) -> list[dict[str, Any]]:
        """The receipts of a block's transactions, as JSON-RPC has them."""
        return list(self._request("eth_getBlockReceipts", [hex(block)]))

    def _request(self, method: str, params: list[Any]) -> Any:
        with mapped_errors(self.rpc_url):
            answer = connect(self.rpc_url).provider.make_request(method, params)  # type: ignore[arg-type]
        if "error" in answer:
            raise DevChainError(f"anvil refuses {method}: {answer['error']}")
        return answer["result"]

    def _wait_ready(self, log: IO[bytes]) -> None:
        assert self._process is not None
        w3 = connect(self.rpc_url)
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                said = _tail(log)
                if "in use" in said.lower():
                    raise PortInUse(self.port)
                raise DevChainError(f"anvil ended with code {self._process.returncode}: {said}")
            with suppress(ChainUnreachable):
                if int(w3.eth.chain_id) == CHAIN_ID:
                    return
            time.sleep(0.05)
        raise DevChainError(
            f"anvil did not answer on port {self.port} within {START_TIMEOUT_S:.0f} s; is the machine busy?"
        )


def deploy_network(rpc_url: str, deployer: Wallet, params: Params | None = None) -> Deployment:
    """Deploy a Credit, a Registry with its libraries, its Court and a Lens; `deployer` gets the whole supply of the
    token.

    Registry and Court name each other, so the Registry is told the address that the deployer's next contract gets.
    Where another program sends from the same wallet in between, the Court refuses and nothing can use the Registry.
    """
    w3 = connect(rpc_url)
    chosen = params or Params()
    values = [getattr(chosen, field.name) for field in fields(chosen) if field.name != "court"]
    making = _Deployer(Sender(w3, rpc_url, deployer))
    credit, _ = making.create("Credit", SUPPLY)
    making.link("Registry", "Court", "Lens")
    with mapped_errors(rpc_url):
        nonce = w3.eth.get_transaction_count(deployer.account.address)
    court = Address(get_create_address(deployer.account.address, Nonce(nonce + 1)))
    registry, block = making.create("Registry", credit, tuple(values), court)
    making.create("Court", registry, astuple(chosen.court))
    lens, _ = making.create("Lens", registry)
    with mapped_errors(rpc_url):
        return Deployment(credit, registry, court, lens, int(w3.eth.chain_id), block)


def give(rpc_url: str, registry: Address, to: Address, tokens: Wei, ether: Wei) -> None:
    """Send tokens and wei from the account that deployed a network with `deploy_network`: everybody knows its key.
    Raises `NoFaucet` on any other chain."""
    treasury = ChainClient(rpc_url, registry, Wallet.from_phrase(DEV_MNEMONIC, 0))
    assert treasury.wallet is not None, "it was just given"
    if treasury.chain_id != CHAIN_ID or not treasury.token_balance(treasury.wallet.address):
        raise NoFaucet(treasury.chain_id)
    for amount, is_ether in ((tokens, False), (ether, True)):
        if amount:
            treasury.transfer(to, amount, ether=is_ether)


class _Deployer:
    """Creates contracts, and before them each library that they are linked with, once."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._libraries: dict[str, str] = {}

    def link(self, *names: str) -> None:
        """Create the libraries of these contracts, and what those need."""
        for library in sorted({library for name in names for library in contract(name).links.values()}):
            if library not in self._libraries:
                self.link(library)
                self._libraries[library], _ = self.create(library)

    def create(self, name: str, *arguments: Any) -> tuple[Address, int]:
        """The new contract's address, and the block that it is in."""
        inputs = [item for entry in contract(name).abi if entry["type"] == "constructor" for item in entry["inputs"]]
        encoded = abi_encode([collapse_if_tuple(item) for item in inputs], arguments)
        data = contract(name).linked(self._libraries) + encoded.hex()
        receipt = self._sender.send(f"the deployment of {name}", None, data)
        address = receipt["contractAddress"]
        assert address is not None, "a mined creation has an address"
        return Address(Web3.to_checksum_address(address)), int(receipt["blockNumber"])


def _free_port(host: str, wanted: int) -> int:
    """`wanted` after checking that it is free, or any free one. Raises `PortInUse`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError:
            raise PortInUse(wanted) from None
        return int(probe.getsockname()[1])


def _tail(log: IO[bytes]) -> str:
    log.flush()
    end = log.seek(0, os.SEEK_END)
    log.seek(max(0, end - 500))
    try:
        lines = log.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return "no output"
    return lines[-1] if lines else "no output"
