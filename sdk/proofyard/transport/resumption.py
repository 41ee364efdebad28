"""Session tickets: TLS itself recognises a wallet met before, and idempotent requests go out with the first packet.

The resumption secret of a TLS session is known to its two ends only, and both proved their wallets in that session; so
whoever can resume it is the same wallet again (RFC 8446 section 2.2), and nobody has to sign. Early data (0-RTT) could
be replayed by somebody who recorded it, so it carries idempotent requests only, and a server takes each ticket once
(section 8.1): a first flight that is sent again meets a server that has forgotten its ticket. Tickets live in memory
and end with the process.
"""

from dataclasses import dataclass

from aioquic.tls import SessionTicket

from proofyard.protocol.types import Address
from proofyard.transport.udp import SocketAddress

MAX_GIVEN = 4096
MAX_KEPT = 1024


@dataclass(frozen=True)
class Ticket:
    """A TLS session that can be resumed, and the wallet at its other end."""

    session: SessionTicket
    wallet: Address


class Tickets:
    """Those that this side gave to its clients, and those that servers gave to it. The oldest are dropped first."""

    def __init__(self) -> None:
        self._given: dict[bytes, Ticket] = {}
        self._kept: dict[SocketAddress, Ticket] = {}

    def give(self, ticket: Ticket) -> None:
        """Recognise a client by this ticket, once."""
        self._given[ticket.session.ticket] = ticket
        if len(self._given) > MAX_GIVEN:
            del self._given[next(iter(self._given))]

    def redeem(self, identity: bytes) -> Ticket | None:
        """The ticket that a client presents, which is worth nothing from now on; None for one never given."""
        return self._given.pop(identity, None)

    def keep(self, server: SocketAddress, ticket: Ticket) -> None:
        """Use this ticket for the next connection to `server`."""
        self._kept.pop(server, None)
        self._kept[server] = ticket
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    def take(self, server: SocketAddress, expect: Address | None) -> Ticket | None:
        """A ticket for `server`, to be used now; None when there is none, or it is another wallet's than expected."""
        ticket = self._kept.get(server)
        if ticket is None or expect not in (None, ticket.wallet):
            return None
        del self._kept[server]
        return ticket if ticket.session.is_valid else None
