"""Directories too large for one block, sharded by the hashes of their names as Kubo does it (HAMT).

A name's hash is read one byte at a time. A shard has a slot for each value of its byte: an entry alone in its slot is
linked from there, several are in a shard of their own, which goes by the next byte. So the shape follows from the names
alone. Source: https://specs.ipfs.tech/unixfs/#hamt-sharded-directory.
"""

import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from proofyard.artifacts.errors import SourceUnusable
from proofyard.artifacts.unixfs import Kind, Link, Node, name_bytes, node_cid
from proofyard.protocol.types import Cid

FANOUT = 256
HASH_BYTES = 8
_MASK = (1 << 64) - 1


def build_shards(entries: Sequence[Link], put_node: Callable[[Cid, bytes], None]) -> Link:
    """The root of a sharded directory of `entries`, whose names differ."""
    return _shard([(murmur3(name_bytes(entry.name)), entry) for entry in entries], 0, put_node)


def _shard(hashed: Sequence[tuple[bytes, Link]], level: int, put_node: Callable[[Cid, bytes], None]) -> Link:
    if level == HASH_BYTES:
        raise SourceUnusable(hashed[0][1].name, "and another name have the same hash; rename one of them")
    slots: defaultdict[int, list[tuple[bytes, Link]]] = defaultdict(list)
    for each in hashed:
        slots[each[0][level]].append(each)
    links, bits = [], 0
    for slot, found in sorted(slots.items()):
        if len(found) == 1:
            link = replace(found[0][1], name=f"{slot:02X}{found[0][1].name}")
        else:
            link = replace(_shard(found, level + 1, put_node), name=f"{slot:02X}")
        links.append(link)
        bits |= 1 << slot
    node = Node(Kind.SHARD, tuple(links), bits.to_bytes((bits.bit_length() + 7) // 8, "big"), fanout=FANOUT)
    block = node.encode()
    cid = node_cid(block)
    put_node(cid, block)
    return Link(cid, "", len(block) + sum(link.tsize for link in links))


def murmur3(data: bytes) -> bytes:
    """The first 64 bits of MurmurHash3 x64 128 with seed 0, big-endian.

    Source: https://github.com/aappleby/smhasher/blob/master/src/MurmurHash3.cpp.
    """
    first = second = 0
    whole = len(data) // 16 * 16
    for low, high in struct.iter_unpack("<QQ", data[:whole]):
        first = (_rotate(first ^ _mixed_low(low), 27) + second) * 5 + 0x52DCE729 & _MASK
        second = (_rotate(second ^ _mixed_high(high), 31) + first) * 5 + 0x38495AB5 & _MASK
    rest = data[whole:]
    first ^= _mixed_low(int.from_bytes(rest[:8], "little")) ^ len(data)
    second ^= _mixed_high(int.from_bytes(rest[8:], "little")) ^ len(data)
    first = first + second & _MASK
    second = second + first & _MASK
    return (_finished(first) + _finished(second) & _MASK).to_bytes(HASH_BYTES, "big")


def _mixed_low(word: int) -> int:
    return _rotate(word * 0x87C37B91114253D5 & _MASK, 31) * 0x4CF5AD432745937F & _MASK


def _mixed_high(word: int) -> int:
    return _rotate(word * 0x4CF5AD432745937F & _MASK, 33) * 0x87C37B91114253D5 & _MASK


def _rotate(word: int, by: int) -> int:
    return (word << by | word >> 64 - by) & _MASK


def _finished(word: int) -> int:
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _MASK
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return word ^ word >> 33
