"""`packets.c`: whole groups of packets with one call, by a C compiler of this machine and the OpenSSL that Python has.

Neither is a dependency: without them, and where what was built does not open and seal as aioquic does, `library` is
None and `packets` does the same work in Python. `load` is for a thread; the transport goes on meanwhile.
"""

import _ssl
import ctypes
import logging
import threading
import weakref
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from struct import Struct
from typing import Self

from aioquic.quic.crypto import CryptoContext, derive_key_iv_hp
from aioquic.tls import CipherSuite

from proofyard.runtime.compiling import NoCompiler, build
from proofyard.transport.packets import (
    SAMPLE,
    Flight,
    Growing,
    PlainReader,
    PlainSealer,
    Reader,
    Run,
    Sealer,
    Source,
)

logger = logging.getLogger("proofyard.transport")

MOST = 64
"""Packets that one call takes."""

MOST_BYTES = MOST * (16 << 10)
SOURCE = Path(__file__).with_name("packets.c")
FLAGS = ("-O2", "-shared", "-fPIC")
FUNCTIONS = (
    *("CIPHER_CTX_new", "CIPHER_CTX_free", "aes_128_gcm", "EncryptInit_ex", "EncryptUpdate", "EncryptFinal_ex"),
    *("DecryptInit_ex", "DecryptUpdate", "DecryptFinal_ex", "CIPHER_CTX_ctrl"),
)
"""Of OpenSSL's EVP, in the order of `Crypto` in packets.c; the same since OpenSSL 1.1."""

_SOURCE = Struct("7qP")
_BYTE = ctypes.c_char
_OTHER, _ASKS = 1, 2


UNUSABLE = (NoCompiler, OSError, AttributeError, RuntimeError, MemoryError)


class _Run(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("at", "start", "stop", "expected", "largest", "room", "bits", "growths", "filled"),
            *("number", "first", "size", "stream"),
        )
    )


class _Growth(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("id", "next", "limit", "size"))


_BEGUN, _GROWTH = Struct("9q"), Struct("4q")


class _Scratch(threading.local):
    """What the library fills during one call, in each thread that calls it."""

    def __init__(self) -> None:
        self.out = ctypes.create_string_buffer(MOST_BYTES)
        self.plain = ctypes.create_string_buffer(MOST_BYTES)
        self.samples = ctypes.create_string_buffer(MOST * SAMPLE)
        self.sent = (ctypes.c_int64 * (3 * MOST))()
        self.turns = (ctypes.c_int64 * MOST)()
        self.room = ctypes.c_int64()
        self.run = _Run()
        self.growths = (_Growth * MOST)()
        self.owners = (ctypes.c_int32 * MOST)()
        self.pieces = (ctypes.c_int64 * MOST)()


class Library:
    """packets.c with its OpenSSL. Raises one of `UNUSABLE` where this machine has none."""

    def __init__(self) -> None:
        # It holds the interpreter's lock: a call takes less than handing the lock to another thread and back may take.
        self.c = ctypes.PyDLL(str(build("packets", SOURCE, FLAGS, folder=None)))
        openssl = ctypes.CDLL(_ssl.__file__)
        found = [ctypes.cast(openssl[f"EVP_{name}"], ctypes.c_void_p) for name in FUNCTIONS]
        self.c.packets_use((ctypes.c_void_p * len(found))(*found))
        number, text, pointer = ctypes.c_int64, ctypes.c_char_p, ctypes.c_void_p
        for name, result, arguments in (
            ("keys", pointer, (text, text, ctypes.c_int)),
            ("release", None, (pointer,)),
            (
                "seal",
                number,
                (pointer, text, number, ctypes.c_uint64, number, number, *[pointer] * 2, number, *[pointer] * 4),
            ),
            ("hide", None, (pointer, number, number, number, text)),
            ("open", number, (pointer, text, *[number] * 3, *[text] * 3, *[pointer] * 5, number)),
            ("sort", None, (pointer,) * 6),
        ):
            function = getattr(self.c, f"packets_{name}")
            function.restype, function.argtypes = result, arguments
        self.scratch = _Scratch()
        self._check()

    def _check(self) -> None:
        keys = CryptoContext()
        keys.setup(cipher_suite=CipherSuite.AES_128_GCM_SHA256, secret=bytes(range(32)), version=1)
        assert keys.aead is not None
        data, start, number = bytearray(range(251)) * 40, b"\x41" + bytes(8), 70_000

        def flight(sealer: Sealer) -> Flight:
            source = Source(4, data, 70_000, 70_000, 70_000 + len(data), 0, 1 << 30, -1)
            return sealer.seal(start, number, 1200, MOST, [source], 1 << 30, lambda samples: bytes(len(samples)))

        def run(reader: Reader) -> Run:
            return reader.run(0, number, number - 1, 1 << 30, lambda stream: (70_000, 1 << 30))

        made = flight(PlainSealer(keys.aead))
        given = (made.datagrams, bytes(SAMPLE * MOST), start[1:], 0x40)
        compiled = CompiledKeys(self, keys, sends=True), CompiledKeys(self, keys, sends=False)
        if flight(CompiledSealer(compiled[0])) != made:
            raise RuntimeError("it does not seal as it should")
        if run(CompiledReader(compiled[1], *given)) != run(PlainReader(keys.aead, *given)):
            raise RuntimeError("it does not open as it should")


library: Library | None = None


@cache
def load() -> None:
    """Have `library` if this machine can. Takes a second where it has to be compiled first."""
    global library
    try:
        library = Library()
    except UNUSABLE as error:
        logger.info("packets are opened and sealed in Python: %s", error)


class CompiledKeys:
    """The keys of one direction."""

    def __init__(self, library: Library, keys: CryptoContext, *, sends: bool) -> None:
        assert keys.cipher_suite is not None and keys.secret is not None and keys.version is not None
        key, iv, _ = derive_key_iv_hp(cipher_suite=keys.cipher_suite, secret=keys.secret, version=keys.version)
        self.library = library
        self.pointer = library.c.packets_keys(key, iv, sends)
        if not self.pointer:
            raise MemoryError("OpenSSL has no context for a connection's keys")
        weakref.finalize(self, library.c.packets_release, self.pointer).atexit = False

    def __deepcopy__(self, _memo: object) -> Self:
        return self


def keys_of(keys: CryptoContext, *, sends: bool) -> CompiledKeys | None:
    """The same where this machine can, and they are for AES-128-GCM."""
    if library is None or keys.cipher_suite is not CipherSuite.AES_128_GCM_SHA256:
        return None
    return CompiledKeys(library, keys, sends=sends)


class CompiledReader:
    """`Reader` for a whole run with one call, and one more for each stream in it."""

    def __init__(self, keys: CompiledKeys, datagrams: Sequence[bytes], masks: bytes, cid: bytes, usual: int) -> None:
        """At most `MOST` datagrams of `MOST_BYTES` in all."""
        self._keys = keys
        joined, sizes = b"".join(datagrams), array("q", map(len, datagrams)).tobytes()
        self._given = (cid, len(cid), usual, len(datagrams), joined, sizes, masks)

    def run(self, at: int, expected: int, largest: int, room: int, growing: Growing) -> Run:
        c, scratch = self._keys.library.c, self._keys.library.scratch
        run, growths, plain = scratch.run, scratch.growths, scratch.plain
        _BEGUN.pack_into(run, 0, at, 0, 0, expected, largest, room, 0, 0, 0)
        filled = (ctypes.byref(run), growths, scratch.owners, scratch.pieces, plain)
        state = c.packets_open(self._keys.pointer, *self._given, *filled, 0)
        while state == _ASKS:
            start, limit = growing(run.stream) or (-1, 0)
            _GROWTH.pack_into(growths, _GROWTH.size * run.growths, run.stream, start, limit, 0)
            run.growths += 1
            state = c.packets_open(self._keys.pointer, *self._given, *filled, 1)
        left = None
        if state == _OTHER:
            left = run.number, run.first, ctypes.string_at(ctypes.addressof(plain) + run.filled, run.size)
        grown = self._sorted(run, [each for each in growths[: run.growths] if each.size]) if run.filled else []
        return Run(run.at, range(run.start, run.stop), run.bits, run.expected, grown, left)

    def _sorted(self, run: _Run, growths: list[_Growth]) -> list[tuple[int, int, bytes]]:
        scratch = self._keys.library.scratch
        if len(growths) == 1:
            return [(growths[0].id, growths[0].next, ctypes.string_at(scratch.plain, run.filled))]
        self._keys.library.c.packets_sort(
            ctypes.byref(run), scratch.growths, scratch.owners, scratch.pieces, scratch.plain, scratch.out
        )
        grown, at = [], ctypes.addressof(scratch.out)
        for growth in growths:
            grown.append((growth.id, growth.next, ctypes.string_at(at, growth.size)))
            at += growth.size
        return grown


class CompiledSealer:
    """`Sealer` for a whole flight with two calls."""

    def __init__(self, keys: CompiledKeys) -> None:
        self._keys = keys

    def seal(
        self,
        start: bytes,
        number: int,
        size: int,
        most: int,
        sources: Sequence[Source],
        room: int,
        masks: Callable[[bytes], bytes],
    ) -> Flight:
        c, scratch = self._keys.library.c, self._keys.library.scratch
        count = len(sources)
        packed = bytearray(count * _SOURCE.size)
        held = [_BYTE.from_buffer(source.data) if source.data else _BYTE() for source in sources]
        for at, source in enumerate(sources):
            # What a reset stream held is gone, and its range may still stand: nobody gets what lies behind a buffer.
            within = source.base <= source.start and source.held <= source.base + len(source.data)
            stop = source.held if within else -1
            _SOURCE.pack_into(
                *(packed, at * _SOURCE.size, source.stream, source.start, stop, source.highest, source.limit),
                *(source.fin, source.base, ctypes.addressof(held[at])),
            )
        scratch.turns[:count] = list(range(count))
        scratch.room.value = room
        made = c.packets_seal(
            *(self._keys.pointer, start, len(start), number, size, min(most, MOST, MOST_BYTES // size)),
            *(ctypes.byref(_BYTE.from_buffer(packed)), scratch.turns, count, ctypes.byref(scratch.room)),
            *(scratch.out, scratch.sent, scratch.samples),
        )
        del held
        if made < 0:
            raise MemoryError("OpenSSL could not encrypt a packet")
        if not made:
            return Flight([], [], [], [], list(range(count)))
        for at, source in enumerate(sources):
            _, source.start, _, source.highest, *_ = _SOURCE.unpack_from(packed, at * _SOURCE.size)
        c.packets_hide(scratch.out, len(start), size, made, masks(ctypes.string_at(scratch.samples, made * SAMPLE)))
        data = ctypes.string_at(scratch.out, made * size)
        datagrams = [data[at : at + size] for at in range(0, made * size, size)]
        sent = scratch.sent[: 3 * made]
        return Flight(datagrams, sent[::3], sent[1::3], sent[2::3], scratch.turns[:count])
