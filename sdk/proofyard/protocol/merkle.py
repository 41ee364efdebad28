"""Binary Merkle trees with positions: traces, commitment batches, payouts and audits all use this one.

Shape of RFC 6962 (an odd node at the end of a level moves up unchanged), hashed with keccak-256 so that the
Registry can check proofs: a leaf is keccak256(0x00 || data), a node is keccak256(0x01 || left || right). A proof is
checked together with the leaf's index and the number of leaves, so a proof for one position cannot serve another.
"""

from collections.abc import Sequence

from proofyard.protocol.keccak import keccak
from proofyard.protocol.types import Digest

MAX_DEPTH = 32


def leaf_hash(data: bytes) -> Digest:
    return Digest(keccak(b"\x00" + data))


def node_hash(left: bytes, right: bytes) -> Digest:
    return Digest(keccak(b"\x01" + left + right))


def levels(leaves: Sequence[bytes]) -> list[list[Digest]]:
    """All levels of the tree over `leaves` (their data, not hashes), leaves first, the last one holding the root."""
    if not leaves:
        raise ValueError("a Merkle tree needs at least one leaf")
    rows = [[leaf_hash(leaf) for leaf in leaves]]
    while len(rows[-1]) > 1:
        below = rows[-1]
        row = [node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        if len(below) % 2:
            row.append(below[-1])
        rows.append(row)
    return rows


def root(leaves: Sequence[bytes]) -> Digest:
    return levels(leaves)[-1][0]


def proof(leaves: Sequence[bytes], index: int) -> list[Digest]:
    """The siblings from the leaf at `index` up to the root, lowest first."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    return path_in(levels(leaves), index)


def path_in(rows: Sequence[Sequence[Digest]], index: int) -> list[Digest]:
    """The same in a tree of which all `levels` are known."""
    path = []
    for row in rows[:-1]:
        sibling = index ^ 1
        if sibling < len(row):
            path.append(row[sibling])
        index //= 2
    return path


def root_from_proof(data: bytes, index: int, size: int, path: Sequence[bytes]) -> Digest | None:
    """The root that `path` leads to from `data` at `index` of `size` leaves; None where the path has another length."""
    if not 0 <= index < size or size > 1 << MAX_DEPTH:
        return None
    here, siblings = leaf_hash(data), iter(path)
    while size > 1:
        if index ^ 1 < size:
            sibling = next(siblings, None)
            if sibling is None or len(sibling) != 32:
                return None
            here = node_hash(sibling, here) if index % 2 else node_hash(here, sibling)
        index, size = index // 2, (size + 1) // 2
    return here if next(siblings, None) is None else None


def verify(tree_root: bytes, data: bytes, index: int, size: int, path: Sequence[bytes]) -> bool:
    return root_from_proof(data, index, size, path) == tree_root
