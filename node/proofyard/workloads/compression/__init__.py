"""Small encodings of a vector of binary32 numbers: int8, int4, two bits, the largest of each block in two bits, signs.

Equal numbers have equal bytes on every machine: what decides anything is a comparison, or an operation of IEEE
arithmetic on one number at a time. How many bytes there are follows from the count of numbers alone, so a decoder
takes no more memory and time than its schema says; and each value has one encoding, all other bytes are refused.

    blocks     the vector in runs of `block` numbers, the last one filled up with zeros
    scale      L of a block, one for each: the upper 16 bits of a positive binary32, 0 for a block of zeros
    int8       then a byte for each number, q in -127 .. 127; the number is (q * L) / 127
    int4       then half a byte for each, q + 8 with q in -7 .. 7, the first in the low bits; (q * L) / 7
    topk-2bit  then for each block a byte of signs, a byte of sizes (1: L, 0: L / 2) and the rank of the set of the
               8 positions that are kept, among all such sets (`ranks`); all else is 0
    two-bit    then a bit for each number, 1: negative, and another one for each, 1: L, 0: L / 3
    sign       then a bit for each number, 1: -L, 0: L; every n-th block alone, in turn from round to round

Some number of a block that is not zero is L or -L. So L, and with it everything, follows from the numbers.
"""

from typing import Literal

from proofyard.workloads.compression.codec import Codec
from proofyard.workloads.compression.linear import LinearCodec
from proofyard.workloads.compression.sign import SignCodec
from proofyard.workloads.compression.topk import MAX_BLOCK, MIN_BLOCK, TopKCodec
from proofyard.workloads.compression.twobit import TwoBitCodec

Compression = Literal["int8", "int4", "two-bit", "topk-2bit", "sign"]
MAX_TURNS = 64

INT8 = LinearCodec(levels=127, block=256)
INT4 = LinearCodec(levels=7, block=64)


def codec_named(name: Compression, block: int, turns: int, number: int) -> Codec:
    """The encoding of this name in round `number`; of every `block` numbers `topk-2bit` keeps eight, and of every
    `turns` blocks `sign` sends one."""
    plain: dict[str, Codec] = {"int8": INT8, "int4": INT4, "two-bit": TwoBitCodec()}
    return plain.get(name) or (SignCodec(turns, number % turns) if name == "sign" else TopKCodec(block))


__all__ = [
    "INT4",
    "INT8",
    "MAX_BLOCK",
    "MAX_TURNS",
    "MIN_BLOCK",
    "Codec",
    "Compression",
    "LinearCodec",
    "SignCodec",
    "TopKCodec",
    "TwoBitCodec",
    "codec_named",
]
