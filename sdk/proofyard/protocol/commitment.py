"""Commitments: what a worker signs once a task is done, and cannot change afterwards.

EIP-712 typed data under the Registry's domain, so a signature of another chain or another Registry is worthless
here. `struct_hash` is also the commitment's leaf data in the batch root.
"""

import functools
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.codec import Bytes32, Key, Task32
from proofyard.protocol.keccak import keccak
from proofyard.protocol.signature import signed_by
from proofyard.protocol.types import Address, Cid, Digest, JobId, Signature

DOMAIN_NAME = "Proofyard"
DOMAIN_VERSION = "1"

COMMITMENT_TYPE = (
    "Commitment(uint256 jobId,uint32 task,address node,bytes32 manifest,bytes32 inputs,"
    "bytes32 traceRoot,uint32 segments,bytes result,uint64 workUnits,bytes32 mark)"
)
COMMITMENT_TYPEHASH = Digest(keccak(COMMITMENT_TYPE.encode()))
RECEIPT_TYPE = "Receipt(bytes32 leaf,uint256 job,uint64 deadline)"
RECEIPT_TYPEHASH = Digest(keccak(RECEIPT_TYPE.encode()))
DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
_DOMAIN_TYPEHASH = keccak(DOMAIN_TYPE.encode())


@dataclass(frozen=True)
class Domain:
    """The EIP-712 domain of one Registry on one chain."""

    chain_id: int
    registry: Address

    @functools.lru_cache(maxsize=64)  # noqa: B019 (a domain is a value, and there are few)
    def separator(self) -> Digest:
        names = keccak(DOMAIN_NAME.encode()) + keccak(DOMAIN_VERSION.encode())
        return Digest(keccak(_DOMAIN_TYPEHASH + names + word(self.chain_id) + address_word(self.registry)))

    def typed_digest(self, struct_hash: bytes) -> Digest:
        """What a wallet signs: keccak256(0x1901 || domain separator || struct hash)."""
        return Digest(keccak(b"\x19\x01" + self.separator() + struct_hash))


@dataclass(frozen=True)
class Commitment:
    """A finished task. `inputs` and `trace_root` are Merkle roots over CID bytes (`merkle.root`); the trace has
    `segments` + 1 leaves, one per boundary state; `manifest` is the sha2-256 digest of the manifest's raw block; `mark`
    seals whether it is work or a decoy (`proofyard.protocol.mark`). What is decoded fits its Solidity type, so that it
    has a struct hash, unless `result` is no CID."""

    job: Annotated[JobId, Meta(ge=0)]
    task: Task32
    node: Key
    manifest: Bytes32
    inputs: Bytes32
    trace_root: Bytes32
    segments: Annotated[int, Meta(ge=0, lt=1 << 32)]
    result: Cid
    work_units: Annotated[int, Meta(ge=0, lt=1 << 62)]
    mark: Bytes32

    def struct_hash(self) -> Digest:
        return self._struct_hash

    @functools.cached_property
    def _struct_hash(self) -> Digest:
        """Asked for by every step that a commitment takes."""
        return Digest(
            keccak(
                b"".join(
                    (
                        COMMITMENT_TYPEHASH,
                        word(self.job),
                        word(self.task, 4),
                        address_word(self.node),
                        self.manifest,
                        self.inputs,
                        self.trace_root,
                        word(self.segments, 4),
                        keccak(cid_bytes(self.result)),
                        word(self.work_units, 8),
                        self.mark,
                    )
                )
            )
        )

    def is_signed(self, domain: Domain, signature: Signature) -> bool:
        """Whether its node signed it. Every plan that counts it and every record that it is in ask: what was found is
        kept with the commitment, and a signature that is not the one found right is looked at."""
        if self.__dict__.get("_signed") == (domain, signature):
            return True
        found = signed_by(domain.typed_digest(self.struct_hash()), signature, self.node)
        if found:
            self.__dict__["_signed"] = domain, signature
        return found


def word(value: int, size: int = 32) -> bytes:
    """An unsigned integer of `size` bytes as `abi.encode` has it. Raises `OverflowError` for one that does not fit."""
    return value.to_bytes(size, "big").rjust(32, b"\0")


def address_word(address: Address) -> bytes:
    """An address as `abi.encode` has it."""
    return bytes.fromhex(address[2:]).rjust(32, b"\0")


def receipt_struct_hash(leaf: Digest, job: JobId, deadline: int) -> Digest:
    """A verifier's promise that the commitment `leaf` is in a batch of its `job` by `deadline` (Unix seconds)."""
    return Digest(keccak(b"".join((RECEIPT_TYPEHASH, leaf, word(job), word(deadline, 8)))))
