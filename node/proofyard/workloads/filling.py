"""Filling memory with matrix products: what a node does to show the memory and the speed that it claims.

A memory is a chain of blocks, matrices of 256 x 256 integers of 7 bits. The first follows from a seed. Each other one
is the exact product of the block before it and of an earlier one, which the block before it names, reduced to 7 bits:

    earlier(i) = (first four entries of X[i-1], as 28 bits) * (i - 1) >> 28
    X[i] = ((X[i-1] @ X[earlier(i)]) >> 6) + key(seed, i)  mod 128, as -64 .. 63

Which block is needed is known only once the one before is there (data-dependent addressing, as in scrypt and Argon2d),
so blocks that are not kept have to be computed again from others that are not kept either. `key` adds a number to each
column, so that no step of one seed is one of another. Sums stay below 2^20: binary32 and int32 hold them exactly, in
whatever order.

Whoever filled a memory commits to it with the Merkle root of its blocks' SHA-256, and then opens steps that are drawn:
the two blocks before the product are shown, and the checker multiplies them itself (`check_step`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256, shake_256

import numpy as np
import numpy.typing as npt

from proofyard.protocol import merkle
from proofyard.protocol.capability import BLOCK_BYTES
from proofyard.protocol.commitment import Domain, address_word
from proofyard.protocol.types import Address, Digest, ProofyardError

SIDE = 256
SHIFT, MASK, HALF = 6, 127, 64
Block = npt.NDArray[np.int8]


class StepRefused(ProofyardError):
    """What was shown of a memory is not what follows from its seed."""


@dataclass(frozen=True)
class Opening:
    """Step `number` of a memory: the bytes of the two blocks that it multiplies, and the Merkle paths of these and of
    the block that comes out."""

    number: int
    before: bytes
    earlier: bytes
    paths: tuple[tuple[Digest, ...], tuple[Digest, ...], tuple[Digest, ...]]


def seed_of(domain: Domain, node: Address, nonce: bytes) -> bytes:
    """What a node of one network fills its memory from: no other node's answer is of use to it."""
    return sha256(b"proofyard memory" + domain.separator() + address_word(node) + nonce).digest()


def first_block(seed: bytes) -> Block:
    drawn = np.frombuffer(shake_256(seed).digest(BLOCK_BYTES), np.uint8)
    return _centred(drawn.reshape(SIDE, SIDE))


def key_of(seed: bytes, number: int) -> npt.NDArray[np.int32]:
    """(256,): what step `number` adds to each column."""
    return np.frombuffer(shake_256(seed + number.to_bytes(8, "big")).digest(SIDE), np.uint8).astype(np.int32)


def earlier_of(before: Block, number: int) -> int:
    """Which block is multiplied with the one `before` block `number`."""
    drawn = 0
    for entry in before[0, :4].tolist():
        drawn = drawn << 7 | (entry + HALF)
    return drawn * (number - 1) >> 28


def next_block(before: Block, earlier: Block, key: npt.NDArray[np.int32]) -> Block:
    """Block `number`, whose key this is."""
    sums = (before.astype(np.float32) @ earlier.astype(np.float32)).astype(np.int32)
    sums >>= SHIFT
    sums += key
    return _centred(sums)


def leaf_of(block: bytes | memoryview) -> bytes:
    return sha256(block).digest()


def check_root(seed: bytes, root: Digest, blocks: int, path: Sequence[bytes]) -> None:
    """Raise `StepRefused` unless a memory of so many blocks begins with its seed."""
    if not merkle.verify(root, leaf_of(first_block(seed).tobytes()), 0, blocks, path):
        raise StepRefused("the memory does not begin with the block that follows from the seed")


def check_step(seed: bytes, root: Digest, blocks: int, opening: Opening) -> None:
    """Raise `StepRefused` unless a step of the memory was computed. One product of two matrices."""
    before, number = _block(opening.before), opening.number
    earlier_number = earlier_of(before, number)
    after = next_block(before, _block(opening.earlier), key_of(seed, number))
    shown = (
        (opening.before, number - 1, "before it"),
        (opening.earlier, earlier_number, f"{earlier_number} that it multiplies"),
        (after.tobytes(), number, "that comes of it"),
    )
    for (block, place, name), path in zip(shown, opening.paths, strict=True):
        if not merkle.verify(root, leaf_of(block), place, blocks, path):
            raise StepRefused(f"step {number}: the block {name} is not in the memory")


class Committed:
    """The Merkle tree over a memory's blocks."""

    def __init__(self, leaves: Iterable[bytes]) -> None:
        self._levels = merkle.levels(list(leaves))

    @property
    def root(self) -> Digest:
        return self._levels[-1][0]

    def path(self, number: int) -> tuple[Digest, ...]:
        return tuple(merkle.path_in(self._levels, number))


def _block(data: bytes) -> Block:
    if len(data) != BLOCK_BYTES:
        raise StepRefused(f"a block has {BLOCK_BYTES} bytes, {len(data)} were shown")
    found = np.frombuffer(data, np.int8).reshape(SIDE, SIDE)
    if int(found.min()) < -HALF or int(found.max()) >= HALF:
        raise StepRefused("an entry of a block has more than 7 bits")
    return found


def _centred(numbers: npt.NDArray[np.uint8] | npt.NDArray[np.int32]) -> Block:
    numbers = numbers & MASK
    return numbers.astype(np.int8) - np.int8(HALF)
