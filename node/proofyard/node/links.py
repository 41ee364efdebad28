"""A node's standing connections to the verifiers: dialled out, announced, and made again whenever they end.

A home node is reached by nobody; it dials, and verifiers send their offers back over the same connection.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec

from proofyard.chain import ChainClient, VerifierRecord
from proofyard.chain.events import (
    EndpointSet,
    KeyRotated,
    OperatorRegistered,
    OperatorRetired,
    QuorumChanged,
    StakeChanged,
)
from proofyard.node.news import Lookout, News
from proofyard.protocol.messages import Ack, Announce
from proofyard.protocol.types import Address, ProofyardError
from proofyard.transport import Connection, Endpoint, RequestFailed, TransportError

logger = logging.getLogger("proofyard.node")

R = TypeVar("R", bound=msgspec.Struct)

REFRESH_S = 15.0
SEATING = (OperatorRegistered, OperatorRetired, KeyRotated, EndpointSet, StakeChanged, QuorumChanged)
"""Events after which other verifiers may be active, or be somewhere else."""
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 15.0
GREETING_S = 300.0
"""Between two announcements on one connection. That a verifier has restarted shows in reports that it does not answer,
and where there is nothing to report in pings: QUIC gives the connection up (`IDLE_TIMEOUT`)."""
ANSWER_S = 10.0
"""A verifier that sends nothing at all for this long while it owes an answer is dialled again: it may have restarted,
which QUIC notices late. One that is only slow keeps its connection: dialling again would give it more to do."""


class VerifierLinks:
    """Keeps one announced connection to every active verifier."""

    def __init__(
        self, endpoint: Endpoint, chain: ChainClient, announce: Callable[[], Announce], news: News | None = None
    ) -> None:
        self._endpoint = endpoint
        self._chain = chain
        self._announce = announce
        self._live: dict[Address, Connection] = {}
        self._keepers: dict[Address, tuple[str, asyncio.Task[None]]] = {}
        self._parting = "this verifier is elsewhere now"
        """Why a connection is closed whose keeper ends."""
        self._joined = asyncio.Event()
        self._changed = asyncio.Event()
        self._news = news or News()
        self._lookout = Lookout(self._news, SEATING, lambda: REFRESH_S)

    async def run(self) -> None:
        """Follow the Registry's list of verifiers until cancelled."""
        try:
            while True:
                try:
                    if self._lookout.begins():
                        self._follow(await asyncio.to_thread(self._chain.active_verifiers))
                        self._lookout.ended()
                except ProofyardError as error:
                    logger.warning("the list of verifiers cannot be read: %s", error)
                except Exception:
                    logger.exception("the list of verifiers cannot be read")
                await self._news.wait(self._lookout.next_at() - asyncio.get_running_loop().time())
        finally:
            self._parting = "this node is stopping"
            for _, task in self._keepers.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in self._keepers.values()), return_exceptions=True)

    def _follow(self, verifiers: list[VerifierRecord]) -> None:
        wanted = {verifier.node: verifier.endpoint for verifier in verifiers}
        for address, (endpoint, task) in list(self._keepers.items()):
            if wanted.get(address) != endpoint:
                task.cancel()
                del self._keepers[address]
        for address, endpoint in wanted.items():
            if address not in self._keepers:
                self._keepers[address] = (endpoint, asyncio.create_task(self._keep(address, endpoint)))

    async def _keep(self, verifier: Address, endpoint: str) -> None:
        """Until cancelled: then the verifier is not to be had there any more, and what still is connected ends."""
        try:
            await self._stay(verifier, endpoint)
        finally:
            self._live.pop(verifier, None)
            if verifier in self._endpoint.connections:
                await self._endpoint.connections[verifier].close(self._parting)

    async def _stay(self, verifier: Address, endpoint: str) -> None:
        retry = FIRST_RETRY_S
        while True:
            try:
                connection = await self._endpoint.connect_to(endpoint, expect=verifier)
                # What changes while an announcement is under way is in the next one.
                changed = self._changed
                while await self._greet(verifier, connection):
                    retry = FIRST_RETRY_S
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(GREETING_S):
                            await _any(connection.closed, changed)
                    changed = self._changed
            except TransportError as error:
                logger.info("verifier %s at %r: %s", verifier, endpoint, error)
            self._live.pop(verifier, None)
            await asyncio.sleep(retry)
            retry = min(2 * retry, LAST_RETRY_S)

    async def _greet(self, verifier: Address, connection: Connection) -> bool:
        """Announce this node; whether the verifier takes it. A connection without an answer is closed."""
        try:
            answer = await connection.request(self._announce(), reply=Ack, timeout=ANSWER_S)
        except RequestFailed as error:
            logger.info("verifier %s cannot tell whether it takes this node: %s", verifier, error)
            return self._live.get(verifier) is connection
        except TransportError:
            if connection.silent_s < ANSWER_S:
                return self._live.get(verifier) is connection
            await connection.close("no answer")
            raise
        if not answer.proceed:
            logger.warning("verifier %s does not take this node: %s", verifier, answer.reason)
        elif self._live.get(verifier) is not connection:
            logger.info("joined verifier %s at %s:%s", verifier, *connection.remote)
            self._live[verifier] = connection
            self._joined.set()
        return answer.proceed

    def announce_again(self) -> None:
        """What this node announces has changed: tell every verifier."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def connection(self, verifier: Address) -> Connection | None:
        """The live connection to a verifier."""
        return self._live.get(verifier)

    async def payer(self, verifier: Address) -> Connection | None:
        """The same, for who is shown what this node has carried."""
        return self._live.get(verifier)

    def live(self) -> list[Connection]:
        """The live connections to all verifiers."""
        return list(self._live.values())

    async def joined(self) -> None:
        """Until some verifier has taken this node."""
        await self._joined.wait()

    async def try_request(
        self, verifier: Address, message: msgspec.Struct, reply: type[R], *, refusals: bool = False
    ) -> R | None:
        """One attempt; None where the verifier is away or does not answer. A refusal is None as well, or with
        `refusals` raised as `RequestFailed`."""
        connection = self._live.get(verifier)
        if connection is None:
            return None
        try:
            return await connection.request(message, reply=reply, timeout=ANSWER_S)
        except RequestFailed as error:
            if refusals:
                raise
            logger.info("%s refuses: %s", verifier, error)
        except TransportError as error:
            logger.info("%s: %s", verifier, error)
            if connection.silent_s >= ANSWER_S:
                await connection.close("no answer")
        return None


async def _any(*events: asyncio.Event) -> None:
    """Until one of these is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
