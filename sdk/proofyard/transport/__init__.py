"""QUIC between wallets: one UDP socket, a proved wallet at either end, one stream per request."""

from proofyard.transport.connection import Answer, Connection, Handler, Reply
from proofyard.transport.endpoint import Endpoint
from proofyard.transport.errors import (
    ConnectionLost,
    DeadlineExceeded,
    EndpointUnavailable,
    HandshakeRejected,
    MessageTooLarge,
    PeerUnreachable,
    ProtocolViolation,
    RequestCancelled,
    RequestFailed,
    TransportError,
    WrongPeer,
)
from proofyard.transport.frames import Body, Source
from proofyard.transport.handshake import Admission, Identity

__all__ = [
    "Admission",
    "Answer",
    "Body",
    "Connection",
    "ConnectionLost",
    "DeadlineExceeded",
    "Endpoint",
    "EndpointUnavailable",
    "Handler",
    "HandshakeRejected",
    "Identity",
    "MessageTooLarge",
    "PeerUnreachable",
    "ProtocolViolation",
    "Reply",
    "RequestCancelled",
    "RequestFailed",
    "Source",
    "TransportError",
    "WrongPeer",
]
