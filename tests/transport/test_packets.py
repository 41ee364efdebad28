"""Groups of packets by `packets.c` against plain Python: the same, whatever is sent and whatever comes."""

import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aioquic.quic.crypto import CryptoContext
from aioquic.tls import CipherSuite

from proofyard.runtime import compiling
from proofyard.transport import compiled
from proofyard.transport.compiled import CompiledReader, CompiledSealer, Library
from proofyard.transport.packets import SAMPLE, Flight, PlainReader, PlainSealer, Reader, Run, Source, varint

CID = bytes(range(8))
LIMITS = [1 << 14, 1 << 20, 1 << 30, (1 << 62) - 1]
EDGES = (0, 4, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30)
"""Numbers of streams: the first and last of each size."""


@pytest.fixture
def keys() -> CryptoContext:
    made = CryptoContext()
    made.setup(cipher_suite=CipherSuite.AES_128_GCM_SHA256, secret=bytes(range(32)), version=1)
    return made


@pytest.fixture
def engines(keys: CryptoContext, library: Library) -> tuple[CompiledSealer, compiled.CompiledKeys]:
    sends, receives = (compiled.keys_of(keys, sends=each) for each in (True, False))
    assert sends is not None and receives is not None
    return CompiledSealer(sends), receives


def masks(samples: bytes) -> bytes:
    """Not AES, but other bytes for other samples."""
    return bytes(each ^ 0x5A for each in samples)


def sources(chance: random.Random) -> list[Source]:
    made = []
    for stream in range(chance.choice([1, 1, 2, 5])):
        base = chance.choice([0, 0, 50, 16_000, (1 << 30) - 20_000, 1 << 40])
        data = bytearray(chance.randbytes(chance.choice([1, 900, 60_000])))
        start = base + chance.randrange(len(data))
        held = chance.choice([base + len(data), chance.randint(start, base + len(data))])
        highest = chance.choice([start, max(0, start - 900), base + len(data)])
        fin = chance.choice([-1, base + len(data)])
        held = -1 if chance.random() < 0.1 else held
        number = chance.choice([4 * stream, 4 * stream + 100, 4 * stream + (1 << 33), *EDGES])
        made.append(Source(number, data, base, start, held, highest, chance.choice([*LIMITS, 1 << 41, start]), fin))
    return made


def like(made: list[Source]) -> list[Source]:
    return [Source(*(getattr(each, name) for name in Source.__slots__)) for each in made]


@pytest.mark.parametrize("seed", range(150))
def test_flights_are_the_same(seed, keys, engines):
    chance = random.Random(seed)
    one, other = (made := sources(chance)), like(made)
    given = (
        bytes((0x41 | chance.choice([0, 4, 32]),)) + CID[: chance.choice([0, 8])],
        chance.choice([0, 65_530, 1 << 33]),
        chance.choice([1200, 1452, 16_000]),
        chance.choice([1, 7, compiled.MOST]),
    )
    room = chance.choice([0, 1000, 20_000, 1 << 40])
    plain = PlainSealer(keys.aead).seal(*given, one, room, masks)
    assert engines[0].seal(*given, other, room, masks) == plain
    assert one == other


def few_bytes(chance: random.Random, size: int) -> list[Source]:
    """Sources with so little that a packet of a few bytes often ends just where something else does."""
    made = []
    for stream in chance.sample(EDGES, chance.choice([1, 2, 5])):
        base = chance.choice([0, 0, 40, 16_370, (1 << 30) - 30])
        data = bytearray(chance.randbytes(chance.choice([1, 20, 90, 90])))
        start, end = base + chance.choice([0, chance.randint(0, len(data))]), base + len(data)
        head = varint(stream) + (varint(start) if start else b"")
        stop = min(max(start, start + size - 30 - len(head)), end)
        held, limit, fin = (chance.choice([start, stop, end, chance.randint(start, end)]) for _ in range(3))
        highest = chance.choice([start, stop, end, chance.randint(start, stop)])
        held = chance.choice([held, held, end, end, end, end, -1])
        limit, fin = chance.choice([limit, 1 << 40, 1 << 40]), chance.choice([fin, -1])
        made.append(Source(stream, data, base, start, held, highest, limit, fin))
    return made


@pytest.mark.parametrize("seed", range(300))
def test_flights_are_the_same_at_every_edge(seed, keys, engines):
    chance = random.Random(seed)
    size = chance.randint(31, 50)
    one, other = (made := few_bytes(chance, size)), like(made)
    given = b"\x41" + CID, 7, size, chance.choice([1, 7, compiled.MOST])
    room = chance.choice([1 << 40, chance.randrange(60)])
    plain = PlainSealer(keys.aead).seal(*given, one, room, masks)
    assert engines[0].seal(*given, other, room, masks) == plain
    assert one == other


@pytest.mark.parametrize(("start", "held"), [(0, 9_000), (69_999, 79_000), (70_000, 79_001), (75_000, 1 << 40)])
def test_nothing_is_sent_of_what_lies_outside_of_a_buffer(start, held, engines):
    outside = Source(4, bytearray(9_000), 70_000, start, held, 0, 1 << 50, -1)
    assert engines[0].seal(b"\x41" + CID, 7, 1200, 20, [outside], 1 << 50, masks).datagrams == []
    within = replace(outside, start=70_000, held=79_000)
    assert engines[0].seal(b"\x41" + CID, 7, 1200, 20, [within], 1 << 50, masks).datagrams


def datagrams(chance: random.Random, keys: CryptoContext) -> tuple[list[bytes], int]:
    """Flights one behind the other, and the number of the first packet, before the path has had its way with them."""
    first = number = chance.choice([0, 7, 65_500, 1 << 33])
    made: list[bytes] = []
    for _ in range(chance.choice([1, 3])):
        sent = [
            Source(each, bytearray(chance.randbytes(9_000)), 70_000, 70_000, 79_000, 0, 1 << 30, -1)
            for each in (0, 4, 1 << 20)[: chance.choice([1, 1, 3])]
        ]
        flight = PlainSealer(keys.aead).seal(
            b"\x41" + CID, number, 1200, 20, sent, 1 << 30, lambda each: bytes(len(each))
        )
        made += flight.datagrams
        number += len(flight.datagrams) + chance.choice([0, 0, 3])
    for _ in range(chance.choice([0, 0, 2])):
        at = chance.randrange(len(made))
        damage = [
            made[at][: chance.randrange(40)],
            chance.randbytes(900),
            b"\x41" + CID + chance.randbytes(60),
            made[at][:-1] + b"?",
            made[chance.randrange(len(made))],
            bytes((made[at][0] ^ 1 << chance.randrange(8),)) + made[at][1:],
            one_packet(keys, number, chance.choice([b"", b"\x0e", b"\x0e\x40", b"\x01" * 30, bulk(chance)])),
        ]
        made[at] = chance.choice(damage)
    return made[: compiled.MOST], first


def bulk(chance: random.Random) -> bytes:
    """A frame that looks like those of a run."""
    integers = b"".join(
        chance.choice([b"\x04", b"\x40\x04", b"\x80\x01\x11\x70", b"\xc0" + bytes(7)]) for _ in range(3)
    )
    return b"\x0e" + integers + bytes(chance.choice([0, 4, 20]))


def one_packet(
    keys: CryptoContext, number: int, plain: bytes, bits: int = 0x41, cid: bytes = CID, mask: bytes = bytes(SAMPLE)
) -> bytes:
    """Its number is shown in as many bytes as `bits` say."""
    assert keys.aead is not None
    size = (bits & 3) + 1
    shown = number & (1 << 8 * size) - 1
    body = keys.aead.encrypt(plain, bytes((bits,)) + cid + shown.to_bytes(size, "big"), number)
    hidden = shown ^ int.from_bytes(mask[1 : 1 + size], "big")
    return bytes((bits ^ mask[0] & 0x1F,)) + cid + hidden.to_bytes(size, "big") + body


@dataclass
class Known:
    """What a receiver knows when a group comes."""

    expected: int
    largest: int
    room: int
    streams: dict[int, tuple[int, int]]
    """The byte that each lacks next, and its limit."""


def everything(reader: Reader, count: int, known: Known) -> list[Run]:
    """The runs of a group, and what is left of it."""
    runs, at = [], 0
    expected, largest, room, limits = known.expected, known.largest, known.room, known.streams
    while at < count:
        run = reader.run(at, expected, largest, room, limits.get)
        runs.append(run)
        limits = limits | {stream: (following, limits[stream][1]) for stream, following, _ in run.grown}
        room -= sum(len(data) for *_, data in run.grown)
        largest, expected, at = max(run.numbers[-1] if run.numbers else 0, largest), run.expected, run.at + 1
    return runs


@pytest.mark.parametrize("seed", range(150))
def test_runs_are_the_same(seed, keys, engines):
    chance = random.Random(seed)
    made, first = datagrams(chance, keys)
    limits = {stream: (70_000, chance.choice([70_000, 74_000, 1 << 30])) for stream in (0, 4)}
    known = Known(first, first - 1, chance.choice([0, 5_000, 1 << 40]), limits)
    given = (made, bytes(SAMPLE * len(made)), CID, 0x40)
    plain = everything(PlainReader(keys.aead, *given), len(made), known)
    assert everything(CompiledReader(engines[1], *given), len(made), known) == plain


def sized(value: int, size: int) -> bytes:
    """An integer of variable length in so many bytes."""
    return (value | size.bit_length() - 1 << 8 * size - 2).to_bytes(size, "big")


def spoilt(frame: bytes, wrong: str, chance: random.Random) -> bytes:
    """A frame that is wrong in one thing, as long as before."""
    made = bytearray(frame)
    at = 1 + (1 << (frame[1] >> 6))
    if wrong == "kind":
        made[0] ^= chance.choice([1, 2, 4, 6, 64])
    elif wrong == "stream":
        made[at - 1] ^= chance.choice([1, 2])
    elif wrong == "offset":
        made[at + 3] ^= chance.choice([1, 128])
    elif wrong == "length":
        made[at + 5] ^= chance.choice([1, 128])
    elif wrong == "size of an integer":
        made[chance.choice([at, at + 4])] ^= chance.choice([64, 128, 192])
    return bytes(made)


WRONG = ("kind", "stream", "offset", "length", "size of an integer", "bits", "cid", "number", "half", "tag", "short")


def group(chance: random.Random, keys: CryptoContext) -> tuple[list[bytes], bytes, Known]:
    """Packets of which each goes on where its stream was but for those that are wrong in one thing, and their masks."""
    first = number = chance.choice([0, 1, 100, 200, 40_000, (1 << 16) - 3, 1 << 31, (1 << 32) - 2, (1 << 62) - 70])
    starts = {
        stream: chance.choice([0, 70_000, 1 << 29, (1 << 30) - 500])
        for stream in chance.sample(EDGES, chance.choice([1, 3, 6]))
    }
    offsets, ends, sent = dict(starts), {stream: [at] for stream, at in starts.items()}, [0]
    wrongs, made, masks = chance.choice([0, 0.05, 0.3]), [], chance.choice([bytes, chance.randbytes])(SAMPLE * 24)
    for at in range(24):
        wrong = chance.choice(WRONG) if chance.random() < wrongs else ""
        stream = chance.choice([*starts])
        offset, length = offsets[stream], chance.choice([0, 1, 6, 7, 8, 60, 300, 9_000])
        size = chance.choice([each for each in (1, 2, 4, 8) if stream < 1 << 8 * each - 2])
        head = b"\x0e" + sized(stream, size) + sized(offset, 4 if offset < 1 << 30 else 8) + sized(length, 2)
        plain = spoilt(head + chance.randbytes(length), wrong, chance)
        if not wrong and length and len(plain) >= 15:
            offsets[stream] += length
            ends[stream].append(offset + length)
            sent.append(sent[-1] + length)
        shown, bits = number, 0x40 | chance.choice([0, 32]) | chance.choice([1, 2, 3, 3])
        number += 1
        if wrong == "bits":
            bits ^= chance.choice([4, 8, 16, 64, 128])
        elif wrong == "number":
            shown = max(0, shown + chance.choice([-1, 1, 3]))
        elif wrong == "half":
            size = chance.choice([1, 2])
            bits = bits & ~3 | size - 1
            shown = max(0, shown + chance.choice([-1, 1]) * (1 << 8 * size - 1) + chance.choice([-1, 0, 1]))
        cid = bytes(8) if wrong == "cid" else CID
        data = one_packet(keys, shown, plain, bits, cid, masks[SAMPLE * at : SAMPLE * (at + 1)])
        if wrong == "tag":
            data = data[:-1] + bytes((data[-1] ^ 1,))
        elif wrong == "short":
            data = data[: chance.choice([0, 1, 9, 28, 29, 30])]
        made.append(data)
    near = chance.choice([0, 0, 1])
    limits = {
        stream: (at, chance.choice([1 << 40, chance.choice(ends[stream]) - near])) for stream, at in starts.items()
    }
    if len(limits) > 1 and chance.random() < 0.2:
        limits.popitem()
    room = chance.choice([1 << 40, chance.choice(sent) - near])
    return made, masks, Known(first, first - chance.choice([0, 1, 1, 1]), room, limits)


@pytest.mark.parametrize("seed", range(300))
def test_runs_are_the_same_at_every_edge(seed, keys, engines):
    made, masks, known = group(random.Random(seed), keys)
    given = (made, masks, CID, 0x40)
    plain = everything(PlainReader(keys.aead, *given), len(made), known)
    assert everything(CompiledReader(engines[1], *given), len(made), known) == plain


def test_a_run_hands_on_what_was_sent(keys, engines):
    sent = [Source(4 * each, bytearray([each]) * 30_000, 70_000, 70_000, 100_000, 0, 1 << 30, -1) for each in (0, 1)]
    flight = engines[0].seal(b"\x41" + CID, 9, 1200, 40, sent, 1 << 30, lambda each: bytes(len(each)))
    assert isinstance(flight, Flight) and len(flight.datagrams) == 40
    reader = CompiledReader(engines[1], flight.datagrams, bytes(SAMPLE * 40), CID, 0x40)
    run = reader.run(0, 9, 8, 1 << 30, lambda stream: (70_000, 1 << 30))
    assert (run.at, run.numbers, run.left) == (40, range(9, 49), None)
    assert run.grown == [(4 * at, each.start, bytes([at]) * (each.start - 70_000)) for at, each in enumerate(sent)]


def test_other_ciphers_are_not_compiled(library):
    keys = CryptoContext()
    keys.setup(cipher_suite=CipherSuite.CHACHA20_POLY1305_SHA256, secret=bytes(32), version=1)
    assert compiled.keys_of(keys, sends=True) is None


def test_without_a_compiler_python_does_the_work(monkeypatch, keys):
    monkeypatch.setattr(compiling, "COMPILERS", ())
    monkeypatch.setattr(compiled, "library", None)
    compiled.load.__wrapped__()
    assert compiled.keys_of(keys, sends=True) is None


def test_what_does_not_do_the_same_is_not_used(monkeypatch, library, tmp_path: Path):
    source = tmp_path / "packets.c"
    source.write_text(compiled.SOURCE.read_text().replace("number & 0xFFFF", "number & 0xFF"))
    monkeypatch.setattr(compiled, "SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match="does not seal"):
        Library()
