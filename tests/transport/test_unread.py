"""What a stream keeps until it is read: the same bytes, whatever the pieces."""

import random

import pytest

from proofyard.transport.stream import PIECE, Unread


@pytest.mark.parametrize("seed", range(20))
def test_what_is_added_is_taken_in_order(seed):
    chance, unread, kept = random.Random(seed), Unread(), b""
    for _ in range(200):
        if chance.random() < 0.5:
            data = chance.randbytes(chance.choice([0, 1, 1, 1200, PIECE - 1, PIECE, 5 * PIECE]))
            unread.add(data)
            kept += data
        elif chance.random() < 0.02:
            assert unread.clear() == len(kept)
            kept = b""
        else:
            limit = chance.choice([0, 1, 4, 1200, PIECE, 7 * PIECE])
            assert unread.take(limit) == kept[:limit]
            kept = kept[limit:]
        assert unread.size == len(kept)


def test_small_pieces_lie_together():
    unread = Unread()
    for _ in range(10 * PIECE):
        unread.add(b"x")
    assert len(unread._pieces) == 10
    assert unread.take(20 * PIECE) == bytes(b"x" * 10 * PIECE)


def test_a_large_piece_is_handed_on_as_it_came():
    unread, data = Unread(), bytes(2 * PIECE)
    unread.add(data)
    assert unread.take(2 * PIECE) is data
