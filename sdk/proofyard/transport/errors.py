"""What can go wrong between two peers.

TransportError
├── EndpointUnavailable     the UDP socket cannot be bound
├── PeerUnreachable         nobody answers at that host and port
├── ConnectionLost          the connection ended while something was under way
├── HandshakeRejected       one side refuses the other: wrong key, wrong network, banned
│   └── WrongPeer           another wallet answers there
├── ProtocolViolation       the peer sent what no correct peer sends
│   └── MessageTooLarge     it claims or sends more than the limit
├── RequestFailed           the peer answered with a typed error, or a handler wants to
├── RequestCancelled        one side reset the stream of a request
├── DeadlineExceeded        no answer, or no progress of a body, in time
└── RouterFailed            this home's router gives no answer of use
    └── RouterRefused       it answered with an error of UPnP
"""

from proofyard.protocol.types import Address, ExitCode, ProofyardError


class TransportError(ProofyardError):
    """Base of everything that `proofyard.transport` raises."""


class EndpointUnavailable(TransportError):
    """The UDP socket cannot be bound, most often because the port is in use."""

    exit_code = ExitCode.PORT_IN_USE

    def __init__(self, host: str, port: int, reason: str) -> None:
        self.host, self.port = host, port
        step = "choose another --host, or --port (0 is any free one)"
        super().__init__(f"cannot listen on UDP {host}:{port}: {reason}; {step}")


class PeerUnreachable(TransportError):
    """No QUIC peer answers at `host`:`port`."""

    exit_code = 3

    def __init__(self, host: str, port: int, reason: str) -> None:
        self.host, self.port = host, port
        super().__init__(f"no peer answers at {host}:{port} ({reason}); check that it runs and that UDP passes")


class ConnectionLost(TransportError):
    """The connection to `peer` ended; what was under way may or may not have happened there."""

    exit_code = 3

    def __init__(self, peer: str, reason: str) -> None:
        self.peer, self.reason = peer, reason
        super().__init__(f"the connection to {peer} is gone: {reason or 'closed by the peer'}; connect again")


class HandshakeRejected(TransportError):
    """The two wallets did not come to terms. `reason` is safe to show."""

    def __init__(self, peer: str, reason: str) -> None:
        self.peer, self.reason = peer, reason
        super().__init__(f"the handshake with {peer} was refused: {reason}")


class WrongPeer(HandshakeRejected):
    """Another wallet answers than the one expected at this address."""

    exit_code = 4

    def __init__(self, peer: str, expected: Address, found: str) -> None:
        self.expected, self.found = expected, found
        super().__init__(peer, f"expected wallet {expected}, found {found}; its endpoint record may be out of date")


class ProtocolViolation(TransportError):
    """The peer sent something that no correct peer sends; it costs the peer score."""

    exit_code = ExitCode.PROTOCOL_VIOLATION


class MessageTooLarge(ProtocolViolation):
    """`what` is `size` bytes, more than `limit`; nothing of it was buffered."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        self.size, self.limit = size, limit
        super().__init__(f"{what} of {size} bytes is over the limit of {limit} bytes")


class RequestFailed(TransportError):
    """A typed refusal. Handlers raise it to answer with `code` and `message`; the requester gets the same.

    Codes of this layer: `unknown-request`, `bad-request`, `too-large`, `deadline`, `busy`, `failed`, `internal`.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"the peer answered {code}: {message}")


class RequestCancelled(TransportError):
    """The other side reset the stream with an application error code before it was complete."""

    def __init__(self, error_code: int) -> None:
        self.error_code = error_code
        super().__init__(f"the peer cancelled the request (stream error {error_code:#x})")


class DeadlineExceeded(TransportError):
    """`what` took longer than `seconds`."""

    def __init__(self, what: str, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"{what} did not finish within {seconds:g} s")


class RouterFailed(TransportError):
    """The router at `router` was asked for something by UPnP, and what came back is of no use."""

    exit_code = 3

    def __init__(self, router: str, reason: str) -> None:
        self.router, self.reason = router, reason
        super().__init__(f"the router {router} is of no use by UPnP: {reason}; forward a UDP port by hand")


class RouterRefused(RouterFailed):
    """It answered `action` with the error `code` of UPnP, 0 where it names none."""

    def __init__(self, router: str, action: str, code: int) -> None:
        self.action, self.code = action, code
        super().__init__(router, f"it refuses {action} with error {code}")
