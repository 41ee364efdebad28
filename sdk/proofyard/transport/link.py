"""One QUIC connection on the event loop: datagrams in and out, timers, streams. Knows nothing of wallets."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from time import perf_counter
from typing import Protocol

from aioquic.quic import events

from proofyard.transport import stun
from proofyard.transport.arrivals import GROUP
from proofyard.transport.carried import Carrier
from proofyard.transport.errors import ConnectionLost, RequestCancelled
from proofyard.transport.memory import Account, Memory
from proofyard.transport.quic import CONNECTION_WINDOW, GREETING_WINDOW, KEEP_ALIVE, KEEP_ALIVE_NEAR, PeerQuic
from proofyard.transport.reach import is_near
from proofyard.transport.stream import Stream
from proofyard.transport.udp import Datagram, SocketAddress

logger = logging.getLogger("proofyard.transport")

OVERFULL = 0x13
"""QUIC application error code: others need the memory that what you sent takes up."""


TURN_S = 0.02
"""How long all connections together may compute on what arrived before others have their turn. 250 packets of a fast
transfer on loopback take 6 ms."""

MOST_WAITING = 4 << 20
"""Bytes of one connection that wait for its turn: what the socket holds for all."""


EARLY_S = 5.0
"""A timer that would fire so much too early is set anew: nothing is under way, and it would wake an idle process."""


STALL_S, STALLS_S = 1.5, 6.0
"""A peer of which no packet came for so long, while a request is under way, may be out of reach; and how long after the
last of the request it is asked for beside the usual pings. Most requests that take longer only wait for an answer."""


class LinkOwner(Protocol):
    """What a link needs of its endpoint."""

    memory: Memory
    carrier: Carrier

    def send(self, datagrams: list[Datagram]) -> None: ...
    def connection_id_issued(self, link: "Link", connection_id: bytes) -> None: ...
    def connection_id_retired(self, link: "Link", connection_id: bytes) -> None: ...
    def link_stirred(self) -> None: ...
    def link_abused(self, link: "Link", reason: str) -> None: ...
    def link_misbehaved(self, link: "Link") -> None: ...
    def link_closed(self, link: "Link") -> None: ...


class Link:
    """Drives a `PeerQuic`. New streams of the peer wait until `accept_streams` says who serves them."""

    def __init__(self, owner: LinkOwner, quic: PeerQuic, remote: SocketAddress) -> None:
        self.quic = quic
        self.remote = remote
        self.secured = asyncio.Event()
        """Set when TLS is complete, and when the link is closed before that."""
        self.recognised = asyncio.Event()
        """Set for a server when the peer has resumed a session, which it may use before TLS is complete; and with
        `secured`."""
        self.resumed = False
        """Whether TLS resumed an earlier session; known once secured."""
        self.early_accepted = False
        """Whether the server took what was sent before TLS was complete (0-RTT); known once secured."""
        self.closed = asyncio.Event()
        self.reason = ""
        """Why it is closed."""
        self.kept = 0
        """Bytes that were kept for the peer when it ended."""
        self.account = Account(owner.memory)
        """What is kept for the peer in buffers."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        """When the last packet of the peer's came, by the loop's clock."""
        self._pinged_at = self.heard_at
        self._moved_at = self.heard_at
        """When something of a stream came or went."""
        self._streams: dict[int, Stream] = {}
        self._openers: list[asyncio.Future[None]] = []
        self._waiting: asyncio.Queue[Stream | None] = asyncio.Queue()
        self._accept: Callable[[Stream], object] = self._waiting.put_nowait
        self._window = GREETING_WINDOW
        self._consumed = 0
        self._granted = GREETING_WINDOW
        self._arrived: deque[Datagram] = deque()
        self._waiting_bytes = 0
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transmit_handle: asyncio.Handle | None = None

    def connect(self, *, wait_seconds: float = 0.0) -> None:
        """Send the first flight of a client, with what is written within `wait_seconds` where TLS allows it."""
        self.quic.connect(self.remote, now=self._loop.time())
        if wait_seconds:
            self._loop.call_later(wait_seconds, self._transmit_soon)
        else:
            self._transmit()

    async def open_stream(self) -> Stream:
        """A new bidirectional stream, once the peer allows one more. Raises `ConnectionLost`."""
        while not self.closed.is_set() and not self.quic.may_open_stream():
            waiter = self._loop.create_future()
            self._openers.append(waiter)
            await waiter
        if self.closed.is_set():
            raise self._lost()
        stream_id = self.quic.get_next_available_stream_id()
        self.quic.send_stream_data(stream_id, b"")  # takes the number
        return self._begin(stream_id)

    async def next_stream(self) -> Stream:
        """The peer's next stream, while nobody accepts them. Raises `ConnectionLost`."""
        stream = await self._waiting.get()
        if stream is None:
            raise self._lost()
        return stream

    def accept_streams(self, accept: Callable[[Stream], object]) -> None:
        """The peer is known: widen its window, and give its streams to `accept`."""
        self._accept = accept
        while not self._waiting.empty() and (stream := self._waiting.get_nowait()) is not None:
            accept(stream)
        self._window = CONNECTION_WINDOW
        self._grant()

    def ping(self) -> None:
        """Keep the path open."""
        self._pinged_at = self._loop.time()
        self.quic.send_ping(0)
        self._transmit_soon()

    @property
    def ping_at(self) -> float:
        """When the path has been silent for so long that it needs a ping, by the loop's clock."""
        silence = KEEP_ALIVE_NEAR if is_near(self.address[0]) else KEEP_ALIVE
        return max(self.heard_at, self._pinged_at) + silence

    def is_busy(self) -> bool:
        """Whether a request is under way, or something that was sent is not acknowledged."""
        return bool(self._streams) or self.quic.buffered() > 0

    def is_stalled(self) -> bool:
        """Whether the path may be gone under a request."""
        now = self._loop.time()
        if now - self.heard_at < STALL_S:
            return False
        return (bool(self._streams) and now - self._moved_at < STALLS_S) or self.quic.buffered() > 0

    @property
    def address(self) -> SocketAddress:
        """Where the peer is now."""
        return self.quic.get_peer_address() or self.remote

    @property
    def proved_address(self) -> SocketAddress | None:
        """The same, once the peer has shown that it receives there."""
        return self.quic.get_peer_address() if self.quic.address_proved() else None

    @property
    def seen_at(self) -> SocketAddress | None:
        """The same on the wire: where a relay carries the peer, that of the relay."""
        return (self._owner.carrier.outer_of(self.address) or self).proved_address

    def probe(self, addresses: Iterable[SocketAddress]) -> None:
        """Look for the peer at further addresses; a connection goes on at the first of them that answers."""
        if not self.closed.is_set():
            self.quic.probe(addresses)
            self._transmit_soon()

    def open_to(self, addresses: Iterable[SocketAddress]) -> None:
        """Have this host's router let in what comes from there."""
        if not self.closed.is_set():
            self._owner.send([(stun.indication(), address) for address in addresses])

    def stop_probing(self) -> None:
        """Keep to the path in use."""
        if not self.closed.is_set():
            self.quic.stop_probing()
            self._transmit_soon()

    def close(self, code: int, reason: str) -> None:
        """Tell the peer and end everything; idempotent."""
        if not self.closed.is_set():
            self.quic.close(error_code=code, reason_phrase=reason[:200])
            self._transmit()
            self._end(reason)

    # Datagrams and timers

    def receive(self, datagrams: list[Datagram], seconds: float = TURN_S) -> None:
        """Datagrams that arrived together. What is not taken within `seconds` waits for the others' turns; what is too
        much to wait is lost, and QUIC sends it again."""
        size = _bytes_of(datagrams)
        if self._waiting_bytes + size <= MOST_WAITING:
            self._arrived += datagrams
            self._waiting_bytes += size
        else:
            for datagram in datagrams:
                if self._waiting_bytes < MOST_WAITING:
                    self._arrived.append(datagram)
                    self._waiting_bytes += len(datagram[0])
        if self._turn is None:
            self._take(seconds)

    def _take(self, seconds: float) -> None:
        self._turn = None
        if self.closed.is_set():
            return
        now, before, until = self._loop.time(), self.quic.payloads, perf_counter() + seconds
        try:
            while self._arrived:
                group = list(islice(self._arrived, GROUP))
                taken = self.quic.receive_datagrams(group, now, until)
                for _ in range(taken):
                    self._arrived.popleft()
                self._waiting_bytes -= _bytes_of(group[:taken])
                if self.quic.tally.abuse:
                    self._abused(self.quic.tally.abuse)
                    return
                if perf_counter() > until:
                    break
        except Exception as error:
            # A packet that trips the QUIC engine must cost its sender the connection, not us the process.
            logger.warning("dropping %s:%s after an error in QUIC: %r", self.remote[0], self.remote[1], error)
            self._end("its packets could not be processed")
            return
        if self._arrived:
            self._turn = self._loop.call_soon(self._take, seconds)
        self._taken(now, before)

    def _taken(self, now: float, before: int) -> None:
        if self.quic.payloads != before:
            self.heard_at = now
        if not self.quic.begun():
            self._end("it does not speak QUIC")
            return
        if self.quic.recognised():
            self.recognised.set()
        if self.quic.refused():
            self._owner.link_misbehaved(self)
        self._process_events()
        self._settle()
        if self.account.is_over():
            self.close(OVERFULL, "too much of what it sent waits to be read")
            return
        for stream in list(self._streams.values()):
            stream.acknowledged()
        self._wake_openers()
        self._transmit()

    def _abused(self, reason: str) -> None:
        logger.warning("%s:%s is cut off: %s", self.remote[0], self.remote[1], reason)
        self._transmit()
        self._owner.link_abused(self, reason)
        self._end(reason)

    def _settle(self) -> None:
        sending = self.quic.buffered() if self.account.sending else 0
        self.account.settle(sending, max(0, self.quic.unread() - self._consumed))

    def _transmit_soon(self) -> None:
        if self._transmit_handle is None:
            self._transmit_handle = self._loop.call_soon(self._transmit)

    def _transmit(self) -> None:
        if self._transmit_handle is not None:
            self._transmit_handle.cancel()
            self._transmit_handle = None
        if self.closed.is_set():
            return
        datagrams = self.quic.datagrams_to_send(now=self._loop.time())
        if datagrams:
            self._owner.send(datagrams)
        self._arm_timer()

    def _arm_timer(self) -> None:
        at = self.quic.get_timer()
        if at is None or (self._timer is not None and at - EARLY_S < self._timer.when() <= at):
            # A timer that fires early finds nothing to do and arms the next one; cancelling costs more.
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        at = self.quic.get_timer()
        if at is not None and at > now:
            self._arm_timer()
            return
        if at is not None:
            self.quic.handle_timer(now=now)
            self._process_events()
        self._transmit()

    def _process_events(self) -> None:
        while (event := self.quic.next_event()) is not None:
            self._handle(event)

    def _handle(self, event: events.QuicEvent) -> None:
        match event:
            case events.StreamDataReceived(data=data, end_stream=end, stream_id=stream_id):
                self._moved_at = self._loop.time()
                self._stream_of_peer(stream_id).feed(data, end)
                self._forget_if_finished(stream_id)
            case events.StreamReset(error_code=code, stream_id=stream_id):
                self._stream_of_peer(stream_id).peer_reset(RequestCancelled(code), self.quic.received_size(stream_id))
                self._forget_if_finished(stream_id)
            case events.StopSendingReceived(error_code=code, stream_id=stream_id):
                self.quic.drop_unsent(stream_id)
                # It may concern a stream that is over for us and only waits for its acknowledgement.
                if stream_id in self._streams:
                    self._streams[stream_id].peer_stopped(RequestCancelled(code))
                    self._forget_if_finished(stream_id)
            case events.HandshakeCompleted(session_resumed=resumed, early_data_accepted=early):
                self.resumed, self.early_accepted = resumed, early
                self.secured.set()
                self.recognised.set()
            case events.ConnectionIdIssued(connection_id=connection_id):
                self._owner.connection_id_issued(self, connection_id)
            case events.ConnectionIdRetired(connection_id=connection_id):
                self._owner.connection_id_retired(self, connection_id)
            case events.ConnectionTerminated(reason_phrase=reason, error_code=code):
                self._end(reason or ("closed by the peer" if code == 0 else f"QUIC error {code:#x}"))
            case _:
                pass

    def _stream_of_peer(self, stream_id: int) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._begin(stream_id)
            self._accept(stream)
        return stream

    def _begin(self, stream_id: int) -> Stream:
        if not self._streams:
            self._owner.link_stirred()
        stream = self._streams[stream_id] = Stream(self, stream_id)
        return stream

    def _forget_if_finished(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and stream.finished:
            del self._streams[stream_id]

    def _end(self, reason: str) -> None:
        if self.closed.is_set():
            return
        self.reason = reason
        self.closed.set()
        self._arrived.clear()
        self.secured.set()
        self.recognised.set()
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.put_nowait(None)
        error = self._lost()
        for stream in list(self._streams.values()):
            stream.lost(error)
        self._streams.clear()
        self._wake_openers()
        self.kept = self.account.total
        self.account.settle(0, 0)
        self.quic.let_go()
        self._owner.link_closed(self)

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(f"{self.remote[0]}:{self.remote[1]}", self.reason)

    def _wake_openers(self) -> None:
        if self._openers and (self.closed.is_set() or self.quic.may_open_stream()):
            # All of them look again; those that are too late wait once more, behind the others.
            waiters, self._openers = self._openers, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    # StreamOwner

    def stream_send(self, stream_id: int, data: bytes | memoryview, end: bool) -> None:
        if not self.closed.is_set() and self.quic.writable(stream_id):
            self.quic.send_stream_data(stream_id, data, end_stream=end)  # type: ignore[arg-type]
            self.account.sent(len(data))
            self._moved_at = self._loop.time()
            self._transmit_soon()
        self._forget_if_finished(stream_id)

    def stream_unacknowledged(self, stream_id: int) -> int:
        return self.quic.unacknowledged(stream_id)

    def stream_may_send(self) -> bool:
        return self.closed.is_set() or self.account.may_send()

    def stream_consumed(self, stream_id: int, count: int, limit: int) -> None:
        self._consumed += count
        self.account.consumed(count)
        if self.quic.grant_stream(stream_id, limit):
            self._transmit_soon()
        self._grant()
        self._forget_if_finished(stream_id)

    def stream_reset(self, stream_id: int, code: int) -> None:
        if not self.closed.is_set():
            self.quic.reset_stream(stream_id, code)
            self.quic.drop_unsent(stream_id)
            self._settle()
            self._transmit_soon()
        self._forget_if_finished(stream_id)

    def stream_stop(self, stream_id: int, code: int) -> None:
        if not self.closed.is_set():
            self.quic.stop_stream(stream_id, code)
            self._transmit_soon()

    def _grant(self) -> None:
        if self._granted - self._consumed <= self._window // 2:
            self._granted = self._consumed + self._window
            self.quic.grant_connection(self._granted)
            self._transmit_soon()


def _bytes_of(datagrams: list[Datagram]) -> int:
    return sum(len(data) for data, _ in datagrams)
