"""Two wallets prove themselves to each other on the first stream of a connection.

    client                                   server
    Hello(address, nonce)             ->
                                      <-     Challenge(address, nonce)
    Proof(signature)                  ->
                                      <-     Welcome(signature) or Refusal(reason)

Both sign the same EIP-712 struct, under the Registry's domain, that names both wallets, both nonces, the signer's
role, and the SHA-256 fingerprint of the server's TLS certificate. TLS 1.3 proves that the server holds that
certificate's key, so somebody in the middle, who must show another certificate, cannot use either signature. A
refused or unproven client never makes the server sign.
"""

import os
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from eth_abi.abi import encode as abi_encode
from eth_utils.address import is_checksum_address

from proofyard.protocol.commitment import Domain
from proofyard.protocol.keccak import keccak
from proofyard.protocol.signature import SignatureInvalid, recover
from proofyard.protocol.types import Address, Digest, Signature
from proofyard.transport.errors import HandshakeRejected, ProtocolViolation, WrongPeer
from proofyard.transport.frames import frame, read_frame
from proofyard.transport.stream import Stream

HANDSHAKE_SECONDS = 10.0
MAX_GREETING_BYTES = 2048
NONCE_BYTES = 32

HANDSHAKE_TYPE = (
    "Handshake(string role,address client,address server,bytes32 clientNonce,bytes32 serverNonce,bytes32 certificate)"
)
T = TypeVar("T")
_TYPEHASH = keccak(HANDSHAKE_TYPE.encode())


class Identity(Protocol):
    """A wallet that signs 32-byte digests."""

    @property
    def address(self) -> Address: ...

    def sign_digest(self, digest: Digest) -> Signature: ...


class Admission(Protocol):
    """Says why a wallet is not welcome, or None."""

    def __call__(self, peer: Address) -> str | None: ...


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    v: int
    address: Address
    nonce: bytes


class Challenge(msgspec.Struct, frozen=True, tag="challenge"):
    address: Address
    nonce: bytes


class Proof(msgspec.Struct, frozen=True, tag="proof"):
    signature: Signature


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    signature: Signature


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    reason: str


@dataclass(frozen=True)
class Transcript:
    """What both sides sign. `certificate` is the SHA-256 fingerprint of the server's certificate."""

    network: Domain
    client: Address
    server: Address
    client_nonce: bytes
    server_nonce: bytes
    certificate: bytes

    def digest(self, role: str) -> Digest:
        """The EIP-712 digest that `role` ("client" or "server") signs."""
        kinds = ["bytes32", "bytes32", "address", "address", "bytes32", "bytes32", "bytes32"]
        values = [
            _TYPEHASH,
            keccak(role.encode()),
            self.client,
            self.server,
            self.client_nonce,
            self.server_nonce,
            self.certificate,
        ]
        return self.network.typed_digest(keccak(abi_encode(kinds, values)))

    def require(self, role: str, signature: Signature) -> None:
        """Raise `HandshakeRejected` unless the wallet in `role` signed this transcript."""
        signer = self.client if role == "client" else self.server
        try:
            found = recover(self.digest(role), signature)
        except SignatureInvalid as error:
            raise HandshakeRejected(signer, str(error)) from None
        if found != signer:
            raise HandshakeRejected(
                signer, f"the {role}'s signature is by another wallet, for another network, or relayed"
            )


def fingerprint(certificate: x509.Certificate) -> bytes:
    """The SHA-256 fingerprint of a certificate's DER form."""
    return certificate.fingerprint(hashes.SHA256())


async def greet(
    stream: Stream, identity: Identity, network: Domain, certificate: bytes, remote: str, expect: Address | None
) -> Address:
    """The client's side; returns the server's wallet. Raises `HandshakeRejected` or `WrongPeer`."""
    nonce = os.urandom(NONCE_BYTES)
    await stream.write(frame(Hello(v=1, address=identity.address, nonce=nonce)), HANDSHAKE_SECONDS)
    answer = await _read_answer(stream)
    if isinstance(answer, Refusal):
        raise HandshakeRejected(remote, answer.reason)
    if not isinstance(answer, Challenge):
        raise ProtocolViolation(f"{remote} welcomes a client that has proved nothing")
    if expect is not None and answer.address != expect:
        raise WrongPeer(remote, expect, answer.address)
    transcript = _transcript(network, identity.address, answer.address, nonce, answer.nonce, certificate)
    await stream.write(frame(Proof(identity.sign_digest(transcript.digest("client")))), HANDSHAKE_SECONDS)
    answer = await _read_answer(stream)
    if isinstance(answer, Refusal):
        raise HandshakeRejected(remote, answer.reason)
    if not isinstance(answer, Welcome):
        raise ProtocolViolation(f"{remote} challenges twice")
    transcript.require("server", answer.signature)
    stream.finish()
    return transcript.server


async def receive_greeting(
    stream: Stream, identity: Identity, network: Domain, certificate: bytes, admit: Admission
) -> Address:
    """The server's side; returns the client's wallet. A refused client is told why. Raises `HandshakeRejected`."""
    hello = await _read(stream, Hello)
    nonce = os.urandom(NONCE_BYTES)
    transcript = _transcript(network, hello.address, identity.address, hello.nonce, nonce, certificate)
    try:
        if hello.v != 1:
            raise HandshakeRejected(hello.address, f"version {hello.v} of the handshake is not known here")
        await stream.write(frame(Challenge(identity.address, nonce)), HANDSHAKE_SECONDS)
        proof = await _read(stream, Proof)
        transcript.require("client", proof.signature)
        reason = admit(transcript.client)
        if reason is not None:
            raise HandshakeRejected(transcript.client, reason)
    except HandshakeRejected as error:
        await stream.write(frame(Refusal(error.reason)), HANDSHAKE_SECONDS)
        stream.finish()
        raise
    await stream.write(frame(Welcome(identity.sign_digest(transcript.digest("server")))), HANDSHAKE_SECONDS)
    stream.finish()
    return transcript.client


async def _read(stream: Stream, kind: type[T]) -> T:
    return await read_frame(stream, kind, HANDSHAKE_SECONDS, MAX_GREETING_BYTES)


async def _read_answer(stream: Stream) -> Challenge | Welcome | Refusal:
    answer: Challenge | Welcome | Refusal = await _read(stream, Challenge | Welcome | Refusal)  # type: ignore[arg-type]
    return answer


def _transcript(
    network: Domain, client: Address, server: Address, client_nonce: bytes, server_nonce: bytes, certificate: bytes
) -> Transcript:
    for name, address in (("client", client), ("server", server)):
        if not is_checksum_address(address):
            raise ProtocolViolation(f"the {name}'s address {address[:60]!r} is not an EIP-55 address")
    if len(client_nonce) != NONCE_BYTES or len(server_nonce) != NONCE_BYTES:
        raise ProtocolViolation(f"a handshake nonce must be {NONCE_BYTES} bytes")
    return Transcript(network, client, server, client_nonce, server_nonce, certificate)
