"""A second holder: states that a worker hands to somebody else when it commits, so that they can be had without it.

A worker owes its states until its batch is final and may be cut off at any time before; a jury acquits it only if it
can obtain them. The holder is an IPFS daemon, or another node that takes them for the wallets that its operator named.
"""

import asyncio
import logging
import time
from collections.abc import Sequence

from proofyard.artifacts import BlockStore, Keeper, fetch
from proofyard.artifacts.ipfs import IpfsNode
from proofyard.chain import ChainClient
from proofyard.node.limits import OfferRefused
from proofyard.node.settings import NodeSettings
from proofyard.protocol.addresses import read_address
from proofyard.protocol.messages import Ack, Publish
from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.transport import Body, Connection, Endpoint
from proofyard.transport.reach import split_endpoint

logger = logging.getLogger("proofyard.node")

ATTEMPTS = 5
FIRST_RETRY_S = 2.0
HAND_OVER_S = 600.0
MAX_ARTIFACTS = 5000
"""A task has at most 4,096 segments."""


class SecondHolder:
    """Hands states over, in the background: the commitment does not wait for it."""

    def __init__(self, settings: NodeSettings, endpoint: Endpoint, store: BlockStore) -> None:
        self._holder = settings.second_holder
        self._endpoint = endpoint
        self._store = store
        self._ipfs = IpfsNode(self._holder) if self._holder.startswith("/") else None
        self._under_way: set[asyncio.Task[None]] = set()
        if self._holder and self._ipfs is None:
            parse_holder(self._holder)

    def take(self, cids: Sequence[Cid], what: str) -> None:
        """Have these artifacts held, if a second holder is named at all."""
        if self._holder:
            task = asyncio.create_task(self._hand_over(tuple(dict.fromkeys(cids)), what))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _hand_over(self, cids: Sequence[Cid], what: str) -> None:
        for attempt in range(ATTEMPTS):
            try:
                await (self._publish(cids) if self._ipfs else self._ask(cids))
            except ProofyardError as error:
                logger.warning("the states of %s are not with %s yet: %s", what, self._holder, error)
                await asyncio.sleep(FIRST_RETRY_S * 2**attempt)
            else:
                logger.info("the states of %s are with %s", what, self._holder)
                return
        logger.error("the states of %s are on this machine alone: %s did not take them", what, self._holder)

    async def _publish(self, cids: Sequence[Cid]) -> None:
        assert self._ipfs is not None
        for cid in cids:
            await self._ipfs.publish(self._store, cid)

    async def _ask(self, cids: Sequence[Cid]) -> None:
        wallet, place = parse_holder(self._holder)
        connection = await self._endpoint.connect_to(place, expect=wallet)
        total = sum([await asyncio.to_thread(self._store.size, cid) for cid in cids])
        answer = await connection.request(Publish(tuple(cids), total), reply=Ack, timeout=HAND_OVER_S)
        if not answer.proceed:
            raise OfferRefused("second_holder", f"refuses: {answer.reason}")


class Holder:
    """Takes other nodes' states: of the wallets that the operator named, within the bytes that it set."""

    def __init__(self, settings: NodeSettings, chain: ChainClient, endpoint: Endpoint, store: BlockStore) -> None:
        self._settings = settings
        self._chain = chain
        self._store = store
        self._keeper = Keeper(store)
        self._allowed = set(map(read_address, settings.hold_for))
        self._turn = asyncio.Lock()
        if self._allowed:
            endpoint.on(Publish, self.publish)

    async def publish(self, connection: Connection, message: Publish, _body: Body) -> Ack:
        """Fetch artifacts from the node that asks and keep them as long as they can be asked for."""
        if connection.peer not in self._allowed:
            return Ack(False, f"this node's hold_for does not name {connection.peer}")
        if len(message.artifacts) > MAX_ARTIFACTS:
            return Ack(False, f"{len(message.artifacts)} artifacts are more than {MAX_ARTIFACTS}")
        async with self._turn:
            left = self._settings.hold_bytes - await asyncio.to_thread(self._held_bytes)
            until = time.time() + await asyncio.to_thread(self._owed_s)
            for cid in message.artifacts:
                if left <= 0:
                    return Ack(False, f"this node's hold_bytes of {self._settings.hold_bytes} are used")
                await fetch(self._store, cid, [connection], max_bytes=min(left, self._settings.max_state_bytes))
                await asyncio.to_thread(self._keeper.pin, cid, until=until, reason=f"held for {connection.peer}")
                left -= await asyncio.to_thread(self._store.size, cid)
        return Ack()

    def _held_bytes(self) -> int:
        held = [pin.cid for pin in self._keeper.pins(time.time()) if pin.reason.startswith("held for ")]
        return sum(self._store.size(cid) for cid in held if not any(self._store.missing(cid)))

    def _owed_s(self) -> float:
        """How long a state can be asked for at most: until its batch is committed, settled, challenged and judged."""
        params = self._chain.params()
        waits = params.receipt_time + params.settle_grace + params.challenge_window
        return float(waits + params.court.longest_dispute)


def parse_holder(holder: str) -> tuple[Address, str]:
    """WALLET@HOST:PORT. Raises `OfferRefused`."""
    wallet, at, place = holder.partition("@")
    if not at:
        raise OfferRefused("second_holder", f"{holder!r} is neither a multiaddress nor WALLET@HOST:PORT; correct it")
    try:
        split_endpoint(place)
        return read_address(wallet), place
    except ValueError as error:
        raise OfferRefused("second_holder", f"{error}; write WALLET@HOST:PORT") from None
