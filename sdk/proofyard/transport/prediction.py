"""Which port a symmetric NAT gives next, where that follows from those before.

Many routers count: each new flow gets the next port, every second one (so that even stays even), or one from a small
range. A peer behind such a router has a relay say which ports a few new sockets of its have got, and tells the peer
that it is to meet which come next. That one sends a datagram to each of them, so that its own router lets in whichever
it is; what then comes is QUIC's own and proves itself.

The relay may lie about the ports, and a peer about what comes next: it costs few small datagrams, to the address that
is probed anyhow. Ports that are random by design (RFC 6056) are not predicted; such peers stay with the relay.
"""

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from proofyard.transport import stun
from proofyard.transport.connection import Connection
from proofyard.transport.reachability import LEAST_PORT, observe

MAX_AHEAD = 16
"""Ports that one attempt at meeting tries."""

ATTEMPTS_AHEAD = 3
"""Attempts that go on where the one before has ended: the router keeps the port that it gave at the first."""

FRESH_S = 15.0
"""After so long the router has given ports to others, and forgotten what was tried (RFC 4787: 120 s, many have 30)."""

LEAST_SEEN = 3
MOST_STEP = 16
"""Between two flows of one host, within milliseconds."""

SOCKETS, SOCKETS_TRIED = 4, 16
ANSWER_S = 1.0
MOST_OTHERS = 3
"""Peers beside the relay that are asked where they see this one."""


@dataclass
class Standing:
    """How this peer can be met. `seen`: where the relay sees it; `symmetric`: others see it at other ports of the same
    address; `ahead`: the ports that its router probably gives next, the likeliest first."""

    seen: tuple[str, int] | None = None
    symmetric: bool = False
    ahead: list[int] = field(default_factory=list)

    def take(self) -> tuple[int, ...]:
        """Those for one more attempt."""
        taken, self.ahead = self.ahead[:MAX_AHEAD], self.ahead[MAX_AHEAD:]
        return tuple(taken)


def predict(ports: Sequence[int], count: int = MAX_AHEAD * ATTEMPTS_AHEAD) -> list[int]:
    """At most `count` ports that may come after `ports`, which were given in this order, the likeliest first; none
    where no easy rule has made them."""
    steps = [after - before for before, after in pairwise(ports)]
    if len(ports) < LEAST_SEEN or not all(steps):
        return []
    if max(map(abs, steps)) <= MOST_STEP and len({step > 0 for step in steps}) == 1:
        stride = math.copysign(math.gcd(*steps), steps[0])
        ahead = [ports[-1] + int(stride) * number for number in range(1, count + 1)]
    elif max(ports) - min(ports) <= MOST_STEP:
        middle = (max(ports) + min(ports)) // 2
        ahead = sorted(range(middle - count // 2, middle + (count + 1) // 2), key=lambda port: abs(port - middle))
    else:
        return []
    return [port for port in ahead if LEAST_PORT <= port < 65_536]


async def stand(relay: Connection, others: Sequence[Connection], port: int) -> Standing:
    """Ask the relay, and peers that were dialled directly, in the order in which that was. `port`: what this peer's
    socket is bound to."""
    asked = [each for each in others if each is not relay][-MOST_OTHERS:]
    where, *elsewhere = await asyncio.gather(observe(relay), *map(_observe_soon, asked))
    if where is None or ":" in where[0]:
        return Standing(where)
    seen = {relay: where, **dict(zip(asked, elsewhere, strict=True))}
    in_order = [each for each in others if each in seen] if relay in others else [*asked, relay]
    ports = [at[1] for at in map(seen.get, in_order) if at is not None and at[0] == where[0]]
    if len(set(ports)) < 2:
        return Standing(where)
    given = await given_ports(relay.remote, where[0], parity=port % 2)
    return Standing(where, True, predict(given) or predict(ports) or predict([*ports, *given]))


async def given_ports(relay: tuple[str, int], public: str, *, parity: int) -> list[int]:
    """The ports of the address `public` that the router gives to new sockets, in the order in which they send, as the
    relay at host and port sees it. `parity`: of their own ports, for routers that keep it."""
    try:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(_socket(parity)) for _ in range(SOCKETS)]
            identifiers = [os.urandom(stun.ID_BYTES) for _ in sockets]
            for sock, identifier in zip(sockets, identifiers, strict=True):
                sock.connect(relay)
                sock.send(stun.request(identifier))
            found = await asyncio.gather(*map(_answered, sockets, identifiers))
    except OSError:
        return []
    return [at[1] for at in found if at is not None and at[0] == public]


def _socket(parity: int) -> socket.socket:
    """A new one, of the other parity where a few tries give no better."""
    with contextlib.ExitStack() as stack:
        for _ in range(SOCKETS_TRIED):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("", 0))
            if sock.getsockname()[1] % 2 == parity:
                break
        kept = sock.dup()
    kept.setblocking(False)
    return kept


async def _answered(sock: socket.socket, identifier: bytes) -> tuple[str, int] | None:
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(ANSWER_S):
            return stun.mapped(await asyncio.get_running_loop().sock_recv(sock, stun.MAX_ANSWER), identifier)
    return None


async def _observe_soon(peer: Connection) -> tuple[str, int] | None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            return await observe(peer)
    return None


class Forecasts:
    """The standing of one endpoint towards each connection that is met, kept while it is fresh. `now` is the loop's
    clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._kept: dict[Connection, tuple[Standing, float]] = {}

    async def of(self, connection: Connection, look: Callable[[], Awaitable[Standing]]) -> Standing:
        standing, at = self._kept.get(connection, (None, 0.0))
        if standing is None or self._now() - at > FRESH_S:
            standing = await look()
            if not connection.closed.is_set():
                self._kept[connection] = (standing, self._now())
        return standing

    def forget(self, connection: Connection) -> None:
        self._kept.pop(connection, None)
