"""What a node says that its machine can do: measured by itself, signed, and shown to whoever checks it.

The record claims blocks of memory held at one time and steps a second of the computation by which it is checked
(`proofyard.workloads.filling`), so that a check needs no other figure than the claim. Integers alone: whoever compares
two of them compares the same numbers everywhere.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from proofyard.protocol.codec import CodecError, Key, decode, encode
from proofyard.protocol.commitment import Domain, address_word, word
from proofyard.protocol.keccak import keccak
from proofyard.protocol.signature import signed_by
from proofyard.protocol.types import Address, Digest, Signature

VERSION = 1
MAX_CAPABILITY_BYTES = 512
BLOCK_BYTES = 1 << 16
MOST_BLOCKS = 1 << 24
"""A TiB."""
OLDEST_S, AHEAD_S = 90 * 86_400, 3600
"""How old a record may be by the chain's clock, and how far ahead of it."""

CAPABILITY_TYPE = (
    "Capability(uint32 version,address node,string device,uint32 cores,uint64 blocks,uint64 stepsPerSecond,"
    "uint64 measuredAt)"
)
CAPABILITY_TYPEHASH = Digest(keccak(CAPABILITY_TYPE.encode()))


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """What `node` measured at `measured_at` (Unix seconds) with `cores` processors. `device`: the arithmetic and where
    it computes, such as `cpu` or `cuda`. `blocks` of 64 KiB were allocated, filled and held together, at
    `steps_per_s` blocks a second, rounded down."""

    version: Annotated[int, Meta(ge=0, lt=1 << 32)] = VERSION
    node: Key
    device: Annotated[str, Meta(max_length=32)]
    cores: Annotated[int, Meta(ge=1, lt=1 << 16)]
    blocks: Annotated[int, Meta(ge=2, le=MOST_BLOCKS)]
    steps_per_s: Annotated[int, Meta(ge=1, lt=1 << 32)]
    measured_at: Annotated[int, Meta(ge=0, lt=1 << 62)]

    @property
    def memory_bytes(self) -> int:
        return self.blocks * BLOCK_BYTES

    def struct_hash(self) -> Digest:
        """EIP-712's hash of it, to be signed under a network's domain."""
        return Digest(
            keccak(
                b"".join(
                    (
                        CAPABILITY_TYPEHASH,
                        word(self.version, 4),
                        address_word(self.node),
                        keccak(self.device.encode()),
                        word(self.cores, 4),
                        word(self.blocks, 8),
                        word(self.steps_per_s, 8),
                        word(self.measured_at, 8),
                    )
                )
            )
        )


class Signed(msgspec.Struct, frozen=True):
    """A record and its node's signature, as `Announce` carries them."""

    capability: Capability
    signature: Annotated[Signature, Meta(max_length=65)]


class CapabilityRefused(CodecError):
    """A record that says nothing here: of another version, network or wallet, too old, or not signed."""


def seal_capability(capability: Capability, signature: Signature) -> bytes:
    return encode(Signed(capability, signature))


def read_capability(data: bytes, node: Address, domain: Domain, now: int) -> Capability:
    """The record that `node` announces, at chain time `now`. Raises `CodecError`, of which `CapabilityRefused`."""
    signed = decode(data, Signed, max_bytes=MAX_CAPABILITY_BYTES)
    found = signed.capability
    if found.version != VERSION:
        raise CapabilityRefused(f"a capability record of version {found.version}; known here is {VERSION}")
    if found.node != node:
        raise CapabilityRefused(f"a capability record of {found.node}, announced by {node}")
    if not now - OLDEST_S <= found.measured_at <= now + AHEAD_S:
        raise CapabilityRefused(f"a capability record of {found.measured_at}, at {now} by the chain's clock")
    if not signed_by(domain.typed_digest(found.struct_hash()), signed.signature, node):
        raise CapabilityRefused(f"a capability record that {node} did not sign for this network")
    return found
