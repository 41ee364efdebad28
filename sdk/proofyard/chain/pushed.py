"""Logs that the chain's endpoint pushes over one websocket (`eth_subscribe`), instead of being asked again and again.

What is pushed is a hint that something happened, nothing more: whoever acts on it reads the chain. A connection that
ends is made again; until then, and where the endpoint has no websocket, `down` has been called and polling is left.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from proofyard.chain.urls import shown, split
from proofyard.protocol.codec import prepared
from proofyard.protocol.types import Address

logger = logging.getLogger("proofyard.chain")

MAX_MESSAGE_BYTES = 1 << 20
ANSWER_S = 10.0
PING_S = 50.0
"""Between two pings on a websocket; one that is not answered ends it. Each wakes an idle node; proxies in front of an
endpoint give up what is silent for a minute."""
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 300.0


class Listener(Protocol):
    """Whom the logs are told."""

    def up(self) -> None: ...
    def down(self) -> None: ...
    def heard(self, topic: str, address: str) -> None: ...


class _Log(msgspec.Struct):
    address: str = ""
    topics: tuple[str, ...] = ()


class _Params(msgspec.Struct):
    subscription: str = ""
    result: _Log | None = None


class _Message(msgspec.Struct):
    id: int | None = None
    result: str | None = None
    params: _Params | None = None


def websocket_of(rpc_url: str) -> str:
    """Where the first JSON-RPC endpoint of an `rpc_url` has its websocket, if it is in the same place."""
    parts = urlsplit(split(rpc_url)[0])
    return parts._replace(scheme="wss" if parts.scheme == "https" else "ws").geturl()


async def follow_logs(ws_url: str, contracts: Sequence[Address], listener: Listener) -> None:
    """Tell `listener` of the logs of some contracts until cancelled."""
    retry = FIRST_RETRY_S
    while True:
        try:
            async with connect(
                ws_url, max_size=MAX_MESSAGE_BYTES, ping_interval=PING_S, open_timeout=ANSWER_S, compression=None
            ) as socket:
                await _subscribe(socket, contracts)
                logger.info("logs are pushed by %s", shown(ws_url))
                retry = FIRST_RETRY_S
                listener.up()
                async for data in socket:
                    _tell(listener, data)
                reason = "it has closed the connection"
        except (OSError, TimeoutError, WebSocketException, msgspec.DecodeError, _Refused) as error:
            reason = str(error).replace(ws_url, shown(ws_url)) or type(error).__name__
        except Exception as error:
            logger.exception("what %s pushes cannot be read", shown(ws_url))
            reason = type(error).__name__
        finally:
            listener.down()
        logger.info("no logs are pushed by %s, they are polled: %s", shown(ws_url), reason)
        await asyncio.sleep(retry)
        retry = min(2 * retry, LAST_RETRY_S)


class _Refused(Exception):
    """The endpoint does not push."""


async def _subscribe(socket: ClientConnection, contracts: Sequence[Address]) -> None:
    asked = {"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["logs", {"address": list(contracts)}]}
    await socket.send(msgspec.json.encode(asked).decode())
    async with asyncio.timeout(ANSWER_S):
        message = msgspec.json.decode(await socket.recv(), type=prepared(_Message))
    if message.id != 1 or not message.result:
        raise _Refused("it does not take eth_subscribe")


def _tell(listener: Listener, data: str | bytes) -> None:
    message = msgspec.json.decode(data, type=prepared(_Message))
    log = message.params.result if message.params is not None else None
    if log is not None:
        listener.heard(log.topics[0] if log.topics else "", log.address)
