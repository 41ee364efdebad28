"""sign: each number as its sign, with the mean magnitude of its block; of some blocks, the others' turn comes later.

What a few steps of AdamW move is nearly of one size everywhere: its signs hold more of it than its largest numbers do
(EF-signSGD, arXiv 1901.09847). A block whose turn it is not is left out whole, for the next rounds.
"""

from dataclasses import dataclass

import numpy as np

from proofyard.workloads.compression.codec import (
    block_count,
    blocks_of,
    read_scales,
    require,
    require_size,
    scale_bits,
    scales,
    write_scales,
)
from proofyard.workloads.exact_sums import tree_sum
from proofyard.workloads.state import Array

BLOCK = 256


@dataclass(frozen=True)
class SignCodec:
    """Sends the blocks number `turn`, `turn` + `turns`, ... ."""

    turns: int
    turn: int

    def size(self, count: int) -> int:
        return self._sent(count) * (2 + BLOCK // 8)

    def encode(self, values: Array) -> Array:
        rows = blocks_of(values, BLOCK)[self.turn :: self.turns]
        bits = scale_bits((tree_sum(np.abs(rows)) / BLOCK).astype(np.float32))
        signs = (rows < 0) & (bits[:, None] != 0)
        return np.concatenate([write_scales(bits), np.packbits(signs, axis=1, bitorder="little").reshape(-1)])

    def decode(self, data: Array, count: int) -> Array:
        require_size(data, self.size(count))
        sent, blocks = self._sent(count), block_count(count, BLOCK)
        bits = read_scales(data, sent)
        signs = np.unpackbits(data[2 * sent :], bitorder="little").reshape(sent, BLOCK)
        require(not (signs.any(axis=1) & (bits == 0)).any(), "a block of zeros says more")
        sizes = scales(bits)[:, None]
        rows, marks = np.zeros((blocks, BLOCK), np.float32), np.zeros((blocks, BLOCK), np.uint8)
        rows[self.turn :: self.turns] = np.where(signs, -sizes, sizes)
        marks[self.turn :: self.turns] = signs
        require(not marks.reshape(-1)[count:].any(), "something stands behind the last number")
        found: Array = rows.reshape(-1)[:count] + np.float32(0)
        return found

    def _sent(self, count: int) -> int:
        return len(range(self.turn, block_count(count, BLOCK), self.turns))
