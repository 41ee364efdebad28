"""Receipts for what a relay carried: its two ends count the bytes that they sent and that came, and sign that.

Each end can speak for itself alone: what it sent may be lost before the relay, and what came may be less than was sent.
So what counts as carried is, in each direction, the less of what one end sent and what came to the other. A relay and
one end that lie together gain nothing by that; for both ends and the relay together see `docs/network.md`.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from proofyard.protocol.codec import Bytes32, Key
from proofyard.protocol.commitment import Domain, address_word, word
from proofyard.protocol.keccak import keccak
from proofyard.protocol.peer_record import NOBODY as NOBODY
from proofyard.protocol.signature import signed_by
from proofyard.protocol.types import Address, Digest, ProofyardError, Signature

CARRIAGE_TYPE = (
    "Carriage(address relay,bytes32 circuit,address caller,address host,address payer,uint64 begun,"
    "address end,uint64 sent,uint64 received)"
)
CARRIAGE_TYPEHASH = Digest(keccak(CARRIAGE_TYPE.encode()))
MAX_BYTES = 1 << 62
Bytes = Annotated[int, Meta(ge=0, lt=MAX_BYTES)]


class CarriageRefused(ProofyardError, ValueError):
    """A receipt for what a relay carried says nothing."""

    exit_code = 4


class Circuit(msgspec.Struct, frozen=True, kw_only=True):
    """What `relay` carries between `caller` and `host`, under a number that it drew, since `begun` (Unix seconds by its
    clock). `payer`: the verifier for whose job the caller asked for it, which may pay; the zero address for nobody."""

    relay: Key
    circuit: Bytes32
    caller: Key
    host: Key
    payer: Key
    begun: Annotated[int, Meta(ge=0, lt=1 << 62)]

    def digest(self, domain: Domain, end: Address, sent: int, received: int) -> Digest:
        """What the wallet `end` signs under EIP-712: it has sent so many bytes into it, and so many have come."""
        keys = (self.caller, self.host, self.payer)
        parts = (CARRIAGE_TYPEHASH, address_word(self.relay), self.circuit, *map(address_word, keys))
        counts = (word(self.begun, 8), address_word(end), word(sent, 8), word(received, 8))
        return domain.typed_digest(keccak(b"".join((*parts, *counts))))


class Counted(msgspec.Struct, frozen=True):
    """What one end has signed last: bytes since the circuit was opened, tags included."""

    sent: Bytes
    received: Bytes
    signature: Annotated[Signature, Meta(max_length=65)]


class CarriageReceipt(msgspec.Struct, frozen=True):
    """A circuit and what both ends say of it."""

    circuit: Circuit
    caller: Counted
    host: Counted

    @property
    def carried(self) -> int:
        """Bytes in both directions."""
        return min(self.caller.sent, self.host.received) + min(self.host.sent, self.caller.received)


def validate_receipt(receipt: CarriageReceipt, domain: Domain) -> None:
    """Raise `CarriageRefused` unless three different wallets have a part in it, and both ends have signed it."""
    circuit = receipt.circuit
    if len({circuit.relay, circuit.caller, circuit.host}) < 3:
        raise CarriageRefused("the ends of a circuit and its relay are three wallets")
    for end, counted in ((circuit.caller, receipt.caller), (circuit.host, receipt.host)):
        digest = circuit.digest(domain, end, counted.sent, counted.received)
        if not signed_by(digest, counted.signature, end):
            raise CarriageRefused(f"{end} has not signed what it is said to have counted")
