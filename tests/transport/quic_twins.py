"""Two copies of one end of a connection: what one does in the usual way and the other in a quicker one is compared,
down to every field of theirs and every byte that they send."""

import copy
import dataclasses
import os
import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from types import MethodType
from typing import Any

import pytest
from aioquic.quic import connection, events
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketNumberWindow
from aioquic.quic.stream import QuicStreamSender
from aioquic.tls import Epoch

from proofyard.transport.bounds import Frames
from proofyard.transport.congestion import PathModel
from proofyard.transport.flights import FullPacket
from proofyard.transport.quic import Credentials, PeerQuic, configuration

CREDENTIALS = Credentials.fresh()
ADDRESS = ("192.0.2.1", 1)
"""Not loopback, so that packets have the size for the internet."""


def joined(now: float = 0.0) -> tuple[PeerQuic, PeerQuic]:
    """A client and a server that have shaken hands, and found that datagrams of 1,452 bytes pass."""
    client = PeerQuic(configuration=configuration(None))
    server = PeerQuic(
        configuration=configuration(CREDENTIALS),
        original_destination_connection_id=client.original_destination_connection_id,
    )
    client.connect(ADDRESS, now)
    for _ in range(12):
        now += 0.01
        for side, other in ((client, server), (server, client)):
            for data, _address in side.datagrams_to_send(now):
                if len(data) <= 1452:
                    other.receive_datagram(data, ADDRESS, now)
            while side.next_event() is not None:
                pass
    assert client._max_datagram_size == server._max_datagram_size == 1452
    return client, server


def twin(quic: PeerQuic) -> PeerQuic:
    """A copy that shares only what does not change after the handshake."""
    shared: list[object] = [quic.tls, quic._logger, quic._configuration, *quic._crypto_buffers.values()]
    for pair in [*quic._cryptos.values(), *quic._cryptos_initial.values()]:
        for keys in (pair.recv, pair.send):
            shared += [keys.aead, keys.hp]
    twin = copy.deepcopy(quic, {id(each): each for each in shared})
    twin._model._sent = {  # known by the packets' ids
        id(packet): quic._model._sent[id(original)]
        for space, copied in zip(quic._spaces.values(), twin._spaces.values(), strict=True)
        for original, packet in zip(space.sent_packets.values(), copied.sent_packets.values(), strict=True)
        if id(original) in quic._model._sent
    }
    return twin


@contextmanager
def same_chance(seed: int) -> Iterator[None]:
    """What aioquic draws at random: the same for each twin."""
    chance = random.Random(seed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(connection.os, "urandom", chance.randbytes)
        yield


assert connection.os is os


def drained(quic: PeerQuic) -> list[Any]:
    """The events so far; what came of a stream between two others in one piece."""
    found: list[Any] = []
    grown: dict[int, tuple[bytes, bool]] = {}
    while (event := quic.next_event()) is not None:
        if isinstance(event, events.StreamDataReceived):
            before, _ = grown.get(event.stream_id, (b"", False))
            grown[event.stream_id] = (before + event.data, event.end_stream)
        else:
            found += [grown, event]
            grown = {}
    return [*found, grown]


def picture(thing: Any, seen: dict[int, int] | None = None) -> Any:
    """Everything that belongs to an object, to be compared."""
    seen = {} if seen is None else seen
    if thing is None or isinstance(thing, bool | int | float | str | bytes | range | Enum):
        return thing
    if isinstance(thing, bytearray):
        return bytes(thing)
    if isinstance(thing, MethodType):
        return thing.__qualname__
    if id(thing) in seen:
        return f"object {seen[id(thing)]}"
    seen[id(thing)] = len(seen)
    if isinstance(thing, QuicPacketNumberWindow):
        top = thing._lower + thing._size
        return thing._lower, [number for number in range(thing._lower, top + 1) if number in thing]
    if isinstance(thing, FullPacket | QuicSentPacket):
        # Looked at piece by piece: a full packet makes its handlers when it is asked, known by no place in memory.
        fields = {field.name: getattr(thing, field.name) for field in dataclasses.fields(QuicSentPacket)}
        del fields["quic_logger_frames"]
        told = [(handler.__qualname__, [picture(each, seen) for each in args]) for handler, args in fields.pop(_TOLD)]
        return fields, told
    if isinstance(thing, Frames):
        return "what counts the frames of each packet anew"
    if isinstance(thing, dict):
        content = [(picture(key, seen), picture(value, seen)) for key, value in thing.items()]
        return type(thing).__name__, content, _fields(thing, seen)
    if isinstance(thing, list | tuple | deque):
        return [picture(each, seen) for each in thing], _fields(thing, seen)
    if isinstance(thing, set | frozenset):
        return sorted(map(repr, thing))
    if callable(thing):
        return getattr(thing, "__qualname__", type(thing).__name__)
    return type(thing).__name__, _fields(thing, seen)


def differences(one: Any, other: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two pictures are not the same."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for at, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{where}[{at}]")
    elif one != other:
        yield where, one, other


def compare(one: PeerQuic, other: PeerQuic) -> None:
    """Two twins have told the same, are in the same state, and wait for the same time."""
    assert drained(one) == drained(other)
    assert list(differences(picture(one), picture(other))) == []
    assert one.get_timer() == other.get_timer()


def _fields(thing: Any, seen: dict[int, int]) -> Any:
    names = [*getattr(thing, "__dict__", {}), *getattr(type(thing), "__slots__", ())]
    values = {name: getattr(thing, name, None) for name in names if name not in _LEFT_OUT}
    if isinstance(thing, PathModel):
        values["_sent"] = [dataclasses.astuple(sent) for sent in thing._sent.values()]  # known by the packets' ids
    if isinstance(thing, QuicStreamSender):  # set once aioquic has looked for more in vain
        values["buffer_is_empty"] = thing.buffer_is_empty or not (thing._pending_eof or len(thing._pending))
    return {name: picture(value, seen) for name, value in values.items()}


_TOLD = "delivery_handlers"

_LEFT_OUT = {"tls", "_logger", "_configuration", "_events", "aead", "hp", "_flies", "_opening", "_sealing"}
"""What is shared, compared otherwise, or of no consequence; and what a test puts in place of a method:"""
_LEFT_OUT |= {"_sends_data_alone", "on_ack_received"}


def keys_of(quic: PeerQuic) -> Any:
    return quic._cryptos[Epoch.ONE_RTT]
