"""Finding where two traces part: a descent of their Merkle trees, which reads O(log N) digests instead of N.

A tree is anything that gives the digest at (level, index); level 0 holds the leaves' hashes, the last one the root.
Positions are those of `proofyard.protocol.merkle`: an odd node at the end of a level moves up unchanged.
"""

from collections.abc import Callable

from proofyard.protocol.types import Digest

NodeAt = Callable[[int, int], Digest]


def first_difference(size: int, one: NodeAt, other: NodeAt) -> int | None:
    """Index of the first leaf in which two trees of `size` leaves differ, None where their roots are equal.

    Reads the root and at most one node of each level below it, so 1 + ceil(log2(size)) digests of either tree at
    most: where the left children are equal, the right ones must differ.
    """
    if size < 1:
        raise ValueError("a Merkle tree needs at least one leaf")
    widths = [size]
    while widths[-1] > 1:
        widths.append((widths[-1] + 1) // 2)
    top = len(widths) - 1
    if one(top, 0) == other(top, 0):
        return None
    index = 0
    for level in reversed(range(top)):
        index *= 2
        if index + 1 < widths[level] and one(level, index) == other(level, index):
            index += 1
    return index
