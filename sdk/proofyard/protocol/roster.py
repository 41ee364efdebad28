"""Who decides which deltas a round takes where nobody is in charge: nodes with BLS keys and weights.

A quorum is more than two thirds of all weight. Two quorums share more than a third of it, so one honest voter at least
as long as liars have less than a third.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from proofyard.protocol import bls
from proofyard.protocol.addresses import read_address
from proofyard.protocol.bls import BlsSignature, PublicKey, SecretKey
from proofyard.protocol.codec import Key, encode
from proofyard.protocol.keccak import keccak
from proofyard.protocol.types import Address, Digest, ExitCode, ProofyardError

MAX_VOTERS = 128
"""A certificate of so many is checked in 30 ms with milagro, and what a view change moves fits a home link."""

BlsKey = Annotated[PublicKey, Meta(min_length=48, max_length=48)]
Signed = Annotated[BlsSignature, Meta(min_length=96, max_length=96)]
Signers = Annotated[bytes, Meta(min_length=1, max_length=MAX_VOTERS // 8)]
"""Bit i % 8 of byte i // 8 stands for voter i."""


class RosterInvalid(ProofyardError, ValueError):
    """Voters that cannot decide on anything, or one whose key is not shown to be its own."""

    exit_code = ExitCode.PROOF_MISMATCH


class Scheme(Protocol):
    """Signatures that aggregate. The network's is `BLS`."""

    def sign(self, secret: SecretKey, message: bytes) -> BlsSignature: ...
    def aggregate(self, signatures: Sequence[BlsSignature]) -> BlsSignature: ...
    def verify(self, keys: Sequence[PublicKey], message: bytes, signature: BlsSignature) -> bool: ...
    def proves(self, key: PublicKey, digest: bytes, possession: BlsSignature) -> bool: ...


class _Bls:
    def sign(self, secret: SecretKey, message: bytes) -> BlsSignature:
        return bls.sign(secret, message)

    def aggregate(self, signatures: Sequence[BlsSignature]) -> BlsSignature:
        return bls.aggregate(signatures)

    def verify(self, keys: Sequence[PublicKey], message: bytes, signature: BlsSignature) -> bool:
        return bls.verify_aggregate(keys, message, signature)

    def proves(self, key: PublicKey, digest: bytes, possession: BlsSignature) -> bool:
        return bls.verify_possession(key, digest, possession)


BLS: Scheme = _Bls()


class Voter(msgspec.Struct, frozen=True):
    """A node that votes. `possession` proves that it knows the secret of its key (`possession_digest`); `weight` is its
    stake in whole tokens, as the chain has it for the job."""

    node: Key
    key: BlsKey
    possession: Signed
    weight: Annotated[int, Meta(ge=1, lt=1 << 48)]


def possession_digest(node: Address, key: PublicKey) -> Digest:
    """What a voter's key signs under the tag of proofs of possession. Without it a key could be made that cancels those
    of others, and one voter would sign for all."""
    return Digest(keccak(b"proofyard voter" + bytes.fromhex(node[2:]) + key))


@dataclass(frozen=True)
class Roster:
    """Voters in ascending order of their addresses; made by `roster_of`."""

    voters: tuple[Voter, ...]

    @functools.cached_property
    def digest(self) -> Digest:
        return Digest(keccak(encode(self.voters)))

    @functools.cached_property
    def total(self) -> int:
        return sum(voter.weight for voter in self.voters)

    @functools.cached_property
    def by_node(self) -> dict[Address, Voter]:
        return {voter.node: voter for voter in self.voters}

    def weight(self, nodes: Iterable[Address]) -> int:
        return sum(self.by_node[node].weight for node in nodes)

    def is_quorum(self, weight: int) -> bool:
        """Whether this is more than two thirds of all weight."""
        return 3 * weight > 2 * self.total

    def has_honest(self, weight: int) -> bool:
        """Whether this is a third of all weight at least: not all of it lies."""
        return 3 * weight >= self.total

    def signers(self, nodes: Iterable[Address]) -> bytes:
        """The bits of these voters."""
        wanted, bits = set(nodes), bytearray(-(-len(self.voters) // 8))
        for place, voter in enumerate(self.voters):
            if voter.node in wanted:
                bits[place // 8] |= 1 << place % 8
        return bytes(bits)

    def signed_by(self, signers: bytes) -> tuple[Voter, ...] | None:
        """The voters whose bits are set; None for bits that are no voter's, or not as many as there are voters."""
        if len(signers) != -(-len(self.voters) // 8) or int.from_bytes(signers, "little") >> len(self.voters):
            return None
        return tuple(voter for place, voter in enumerate(self.voters) if signers[place // 8] >> place % 8 & 1)

    def leaders(self, seed: bytes, round_digest: bytes) -> tuple[Address, ...]:
        """In which order voters lead a round, over and over. `seed` is the chain's, drawn after the roster was fixed:
        nobody chooses an address by its place."""
        return tuple(sorted(self.by_node, key=lambda node: keccak(seed + round_digest + bytes.fromhex(node[2:]))))


def roster_of(voters: Sequence[Voter], scheme: Scheme = BLS) -> Roster:
    """Raises `RosterInvalid`, which names the voter. With BLS it takes 0.3 s a voter."""
    if not 1 <= len(voters) <= MAX_VOTERS:
        raise RosterInvalid(f"there are {len(voters)} voters, 1 to {MAX_VOTERS} can decide; draw some of them")
    ordered = tuple(sorted(voters, key=lambda voter: bytes.fromhex(voter.node[2:])))
    if len({bytes.fromhex(voter.node[2:]) for voter in ordered}) < len(ordered):
        raise RosterInvalid("a node votes twice in it; name each once")
    if odd := [voter.node for voter in ordered if voter.node != read_address(voter.node)]:
        raise RosterInvalid(f"{odd[0]} is not written with its checksum; peers are known by that spelling alone")
    if len({voter.key for voter in ordered}) < len(ordered):
        raise RosterInvalid("two voters have one key; each needs its own")
    for voter in ordered:
        if not scheme.proves(voter.key, possession_digest(voter.node, voter.key), voter.possession):
            raise RosterInvalid(f"{voter.node} does not prove that its key is its own; leave it out")
    return Roster(ordered)
