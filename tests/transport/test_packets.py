"""Groups of packets by `packets.c` against plain Python: the same, whatever is sent and whatever comes."""

import random
from pathlib import Path

import pytest
from aioquic.quic.crypto import CryptoContext
from aioquic.tls import CipherSuite

from proofyard.runtime import compiling
from proofyard.transport import compiled
from proofyard.transport.compiled import CompiledReader, CompiledSealer, Library
from proofyard.transport.packets import SAMPLE, Flight, PlainReader, PlainSealer, Reader, Run, Source

CID = bytes(range(8))
LIMITS = [1 << 14, 1 << 20, 1 << 30, (1 << 62) - 1]


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
        number = chance.choice([4 * stream, 4 * stream + 100, 4 * stream + (1 << 33)])
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


def one_packet(keys: CryptoContext, number: int, plain: bytes) -> bytes:
    assert keys.aead is not None
    header = b"\x41" + CID + (number & 0xFFFF).to_bytes(2, "big")
    return header + keys.aead.encrypt(plain, header, number)


def everything(reader: Reader, count: int, first: int, chance: random.Random) -> list[Run]:
    """The runs of a group, and what is left of it."""
    runs, at, largest, expected = [], 0, first - 1, first
    limits = {stream: (70_000, chance.choice([70_000, 74_000, 1 << 30])) for stream in (0, 4)}
    room = chance.choice([0, 5_000, 1 << 40])
    while at < count:
        run = reader.run(at, expected, largest, room, limits.get)
        runs.append(run)
        limits |= {stream: (following, limits[stream][1]) for stream, following, _ in run.grown}
        room -= sum(len(data) for *_, data in run.grown)
        largest, expected, at = max(run.numbers[-1] if run.numbers else 0, largest), run.expected, run.at + 1
    return runs


@pytest.mark.parametrize("seed", range(150))
def test_runs_are_the_same(seed, keys, engines):
    chance = random.Random(seed)
    made, first = datagrams(chance, keys)
    given = (made, bytes(SAMPLE * len(made)), CID, 0x40)
    plain = everything(PlainReader(keys.aead, *given), len(made), first, random.Random(seed))
    assert everything(CompiledReader(engines[1], *given), len(made), first, random.Random(seed)) == plain


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
