"""The Registry, its Court, its Lens and its token behind one RPC endpoint, found from the Registry's address alone."""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from web3 import Web3
from web3.contract.contract import Contract as Web3Contract
from web3.exceptions import Web3Exception
from web3.types import BlockIdentifier

from proofyard.chain.abi import contract
from proofyard.chain.errors import BadRegistry, ChainError, ChainUnreachable, NoRegistry
from proofyard.chain.events import Event
from proofyard.chain.following import MAX_RANGE, EventReader, Topic
from proofyard.chain.lens import Lens
from proofyard.chain.rpc import CATCH_UP_POLL_S, CATCH_UP_S, Observer, Provider, connect, mapped_errors
from proofyard.protocol.addresses import read_address
from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Address, Digest, Wei

LATEST: BlockIdentifier = "latest"
CALLS_AT_ONCE = 100


class Binding:
    """What is at `registry` behind `rpc_url`: an endpoint, or several of one chain with commas between. `chain_id` is
    the chain that is meant, None for whichever it is. Safe to use from several threads.

    Raises `BadRegistry`, `ChainUnreachable`, `WrongChain` or `NoRegistry` at once when there is none; each call may
    raise `ChainUnreachable` or `Refused` later.
    """

    def __init__(self, rpc_url: str, registry: Address, *, chain_id: int | None = None) -> None:
        self.rpc_url = rpc_url
        try:
            self.registry = read_address(registry)
        except ValueError as error:
            raise BadRegistry(str(error)) from None
        self._w3 = connect(rpc_url, chain_id)
        with mapped_errors(rpc_url):
            self._provider.require_one_chain()
            self.chain_id = int(self._w3.eth.chain_id)
            if not self._w3.eth.get_code(Web3.to_checksum_address(self.registry)):
                raise NoRegistry(registry, rpc_url)
        self._contract = self._bind("Registry", self.registry)
        try:
            self.token = Address(self._call(self._contract, "token"))
            self.court = Address(self._call(self._contract, "court"))
        except ChainUnreachable:
            raise
        except ChainError:  # a contract is there, and it is none that knows token and court
            raise NoRegistry(registry, rpc_url) from None
        self._token = self._bind("Credit", self.token)
        self._court = self._bind("Court", self.court)
        self._lens = Lens(self._w3, rpc_url, self.registry)
        self.domain = Domain(self.chain_id, self.registry)
        self.events = EventReader(self._w3, rpc_url, self.registry, self.court)

    @property
    def observers(self) -> list[Observer]:
        """Told of every request to the endpoint from now on."""
        return self._provider.observers

    @property
    def _provider(self) -> Provider:
        provider = self._w3.provider
        assert isinstance(provider, Provider)
        return provider

    def _bind(self, name: str, address: Address) -> Web3Contract:
        return self._w3.eth.contract(address=Web3.to_checksum_address(address), abi=contract(name).abi)

    def _call(self, target: Web3Contract, function: str, *args: Any, block: BlockIdentifier = LATEST) -> Any:
        with mapped_errors(self.rpc_url):
            return target.functions[function](*map(spelled, args)).call(block_identifier=block)

    def _read(self, function: str, *args: Any, block: BlockIdentifier = LATEST) -> Any:
        return self._call(self._contract, function, *args, block=block)

    def _read_many(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to many calls of the Registry, `CALLS_AT_ONCE` in a request."""
        answers: list[Any] = []
        with mapped_errors(self.rpc_url):
            for start in range(0, len(calls), CALLS_AT_ONCE):
                with self._w3.batch_requests() as batch:
                    for function, *args in calls[start : start + CALLS_AT_ONCE]:
                        batch.add(self._contract.functions[function](*map(spelled, args)))
                    answers += batch.execute()
        return answers

    def block_number(self) -> int:
        """The newest block. Where a newer one was seen, whoever is behind may catch up for `CATCH_UP_S`."""
        until = time.monotonic() + CATCH_UP_S
        with mapped_errors(self.rpc_url):
            while (found := int(self._w3.eth.block_number)) < self._provider.newest and time.monotonic() < until:
                time.sleep(CATCH_UP_POLL_S)
        self._provider.newest = found
        return found

    def identity(self) -> dict[str, str]:
        """What tells this network from any other; `genesis` is empty where the endpoint does not have the first block.
        A chain for tests that begins anew has the same id and the same addresses."""
        try:
            genesis = self.block_hash(0).hex()
        except ChainError:
            genesis = ""
        return {"chain": str(self.chain_id), "registry": self.registry, "genesis": genesis}

    def block_hash(self, block: int) -> Digest:
        with mapped_errors(self.rpc_url):
            return Digest(bytes(self._w3.eth.get_block(block)["hash"]))

    def head(self) -> tuple[int, int]:
        """The latest block's number and time. Who is asked next has that block as well."""
        with mapped_errors(self.rpc_url):
            block = self._w3.eth.get_block("latest")
        self._provider.saw(int(block["number"]))
        return int(block["number"]), int(block["timestamp"])

    def block_time(self, block: int) -> int:
        """When a block was made (Unix seconds)."""
        with mapped_errors(self.rpc_url):
            return int(self._w3.eth.get_block(block)["timestamp"])

    def now(self) -> int:
        """The latest block's time: the clock that windows and deadlines go by."""
        with mapped_errors(self.rpc_url):
            return int(self._w3.eth.get_block("latest")["timestamp"])

    def next_time(self) -> int:
        """The time that a block would have if it came now, as the endpoint says: a chain that is quiet shows an old
        one, and this machine's clock may be wrong. That of the latest block where the endpoint does not say."""
        with mapped_errors(self.rpc_url):
            latest = int(self._w3.eth.get_block("latest")["timestamp"])
            with suppress(Web3Exception):
                return max(latest, int(self._w3.eth.get_block("pending")["timestamp"]))
        return latest

    def gas_price(self) -> int:
        """Wei of the chain's own currency for a unit of gas, as the endpoint suggests."""
        with mapped_errors(self.rpc_url):
            return int(self._w3.eth.gas_price)

    def eth_balance(self, account: Address) -> int:
        with mapped_errors(self.rpc_url):
            return int(self._w3.eth.get_balance(Web3.to_checksum_address(account)))

    def is_contract(self, account: Address) -> bool:
        with mapped_errors(self.rpc_url):
            return bool(self._w3.eth.get_code(Web3.to_checksum_address(account)))

    def token_balance(self, account: Address) -> Wei:
        return Wei(self._call(self._token, "balanceOf", account))

    def token_supply(self) -> Wei:
        return Wei(self._call(self._token, "totalSupply"))

    def recent_events(self, topics: Sequence[Topic]) -> list[Event]:
        """Events with these topics in the last `MAX_RANGE` blocks, oldest first."""
        return self._events_since(max(0, self.block_number() - MAX_RANGE + 1), topics)

    def _events_since(self, first: int, topics: Sequence[Topic]) -> list[Event]:
        """Events with these topics from block `first` on, which was seen, oldest first."""
        self._provider.saw(first)
        head = self.block_number()
        with mapped_errors(self.rpc_url):
            return self.events.between(first, head, topics)

    def _events_back_to(self, first: type[Event], topics: Sequence[Topic], last: int | None = None) -> list[Event]:
        """Events with these topics, oldest first, from the newest of kind `first` up to block `last`, or the head."""
        end = self.block_number() if last is None else last
        found: list[Event] = []
        with mapped_errors(self.rpc_url):
            while end >= 0:
                start = max(0, end - MAX_RANGE + 1)
                found[:0] = self.events.between(start, end, topics)
                if any(isinstance(event, first) for event in found):
                    return found
                end = start - 1
        return found


def spelled(value: Any) -> Any:
    """An argument of a call, addresses in the one spelling that web3 takes."""
    return Web3.to_checksum_address(value) if isinstance(value, str) and Web3.is_address(value.lower()) else value
