"""What peers can make each other keep and compute is bounded: each bound is tried from outside, by who breaks it."""

import asyncio
import contextlib
import gc
import os
import time
from types import SimpleNamespace

import msgspec
import pytest
from aioquic.quic.packet import QuicFrameType
from scripts.forged_frames import in_pieces, send_frames, varint

from proofyard.artifacts import GetBlocks, serve_blocks
from proofyard.artifacts.exchange import READS_OF_PEER, Blocks
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.transport import Endpoint, HandshakeRejected, TransportError, heap, switchboard
from proofyard.transport import endpoint as endpoints
from proofyard.transport import memory as memories
from proofyard.transport.bounds import MAX_ACK_RANGES, MAX_PIECES, MAX_PIECES_OF_STREAM, Pieces, Tally
from proofyard.transport.link import MOST_WAITING
from proofyard.transport.memory import LEAST_OF_PEER, MOST_OF_CONNECTION, MOST_OF_PEER, Account, Memory
from proofyard.transport.places import Caller, Places
from proofyard.transport.quic import PeerQuic, configuration
from proofyard.transport.switchboard import MAX_GREETINGS, MAX_GREETINGS_OF_HOST, NEWCOMERS_AT_ONCE


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    text: str = ""


class Told(msgspec.Struct, frozen=True, tag="told"):
    text: str = ""


async def answer(connection, message, body):
    return Told(message.text)


ATTACKS = {
    "one stream in 60,000 pieces": lambda: in_pieces(60_000, 1),
    "60 streams in 60,000 pieces": lambda: in_pieces(60_000, 60),
    "its TLS messages in 60,000 pieces": lambda: (
        [(QuicFrameType.CRYPTO, varint(2 * each, 1) + b"x") for each in range(start, start + 100)]
        for start in range(1, 60_000, 100)
    ),
    "a TLS message that is far away": lambda: [[(QuicFrameType.CRYPTO, varint(200_000, 1) + b"x")]],
    "acknowledgements of every other packet": lambda: [
        [(QuicFrameType.ACK, varint(60_000, 0, 7000, 0) + varint(0, 0) * 7000)] for _ in range(20)
    ],
    "pings, a packet full each": lambda: ([(QuicFrameType.PING, b"")] * 15_000 for _ in range(20)),
    "limits that change nothing": lambda: (
        [(QuicFrameType.MAX_DATA, varint(1))] * 6000 for _ in range(50)
    ),
    "acknowledgements in 500 ranges each": lambda: (
        [(QuicFrameType.ACK, varint(60_000, 0, 500, 0) + varint(0, 0) * 500)] * 10 for _ in range(300)
    ),
    "acknowledgements in many ranges, many in a packet": lambda: (
        [(QuicFrameType.ACK, varint(60_000, 0, 60, 0) + varint(0, 0) * 60)] * 12 for _ in range(600)
    ),
    "challenges of the path, few in a packet": lambda: (
        [(QuicFrameType.PATH_CHALLENGE, bytes(8))] * 10 for _ in range(600)
    ),
    "connection IDs that retire each other": lambda: (
        [(QuicFrameType.NEW_CONNECTION_ID, varint(n, n) + b"\x08" + n.to_bytes(8, "big") + bytes(16))
         for n in range(start, start + 10)] for start in range(1, 6000, 10)
    ),
    "words about streams that were never used": lambda: (
        [(QuicFrameType.STREAM_DATA_BLOCKED, varint(4 * 40, 5))] * 3000 for _ in range(50)
    ),
}  # fmt: skip


@pytest.mark.parametrize("packets", ATTACKS.values(), ids=ATTACKS)
async def test_who_makes_us_compute_for_nothing_is_cut_off_and_banned(peer, packets):
    server, client, other = await peer(), await peer(), await peer()
    server.on(Ask, answer)
    connection = await client.connect("127.0.0.1", server.port)
    bystander = await other.connect("127.0.0.1", server.port)
    longest = 0.0
    for frames in packets():
        send_frames(connection._link, frames)
        before = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - before)
        if connection.closed.is_set() or client.address not in server.connections:
            break
    # It need not hear of its end: it may have retired every name that the server had for it.
    async with asyncio.timeout(60):
        while client.address in server.connections:
            await asyncio.sleep(0.01)
    await connection.close()
    assert longest < 2.0
    assert "banned" in server._refusal(client.address)
    assert await bystander.request(Ask("on"), reply=Told, timeout=60) == Told("on")
    with pytest.raises(HandshakeRejected, match="banned"):
        await client.connect("127.0.0.1", server.port)


async def test_the_same_holds_for_who_was_dialled(peer):
    """A node that dials a verifier is as safe from it as a verifier from a node."""
    server, client = await peer(), await peer()
    connection = await client.connect("127.0.0.1", server.port)
    link = server.connections[client.address]._link
    for each in in_pieces(3000, 1):
        # Streams that a server opens have odd numbers.
        send_frames(link, [(kind, varint(161) + content[2:]) for kind, content in each], size=1200)
    await asyncio.wait_for(connection.closed.wait(), 60)
    assert "banned" in client._refusal(server.address)


def test_pieces_are_what_aioquic_would_keep():
    from aioquic.quic.rangeset import RangeSet

    ours, theirs = Pieces(Tally()), RangeSet()
    for start, stop in [(5, 7), (9, 12), (1, 2), (7, 9), (20, 21), (0, 1), (3, 4), (2, 3), (21, 30), (15, 40)]:
        ours.add(start, stop)
        theirs.add(start, stop)
        assert list(ours) == list(theirs)
    assert ours.shift() == theirs.shift()
    assert list(ours) == list(theirs)
    assert ours._tally.pieces == len(ours)


def test_who_loses_every_other_packet_is_no_attacker():
    tally = Tally()
    pieces = Pieces(tally)
    for each in range(900):
        pieces.add(2400 * each, 2400 * each + 1200)
    assert len(pieces) == 900 < MAX_PIECES_OF_STREAM < MAX_PIECES
    assert MAX_ACK_RANGES >= 64
    for now in range(60):
        for _ in range(500):
            tally.count_frames(5, float(now))
    assert not tally.abuse


def test_frames_that_have_us_answer_count_for_more():
    from proofyard.transport.bounds import RARE, Frames

    frames = Frames({kind: (lambda *_: None, 0) for kind in (QuicFrameType.STREAM_BASE, *RARE)})
    frames[QuicFrameType.STREAM_BASE]
    assert frames.seen == 1
    for kind in RARE:
        frames.begin_packet()
        frames[kind]
        assert frames.seen > 16
    frames.begin_packet()
    frames.count_ranges(64)
    assert frames.seen == 0
    frames.count_ranges(400)
    assert frames.seen == 100


@pytest.mark.parametrize("payload", [b"\0", b"\0" * 900, b"\0\0\x01\0", b"\x01" + b"\0" * 50 + b"\x01"])
def test_padding_is_passed_over_as_aioquic_does(payload):
    from aioquic.buffer import Buffer

    at = payload.index(0) + 1
    ours, theirs = Buffer(data=payload), Buffer(data=payload)
    quic = PeerQuic(configuration=configuration(None))
    for handle, buf in ((quic._handle_padding_frame, ours), (super(PeerQuic, quic)._handle_padding_frame, theirs)):
        buf.seek(at)
        handle(None, 0, buf)
    assert ours.tell() == theirs.tell()


async def test_what_quic_refuses_again_and_again_is_a_ban(peer):
    server, client = await peer(), await peer()
    reason = ""
    for _ in range(13):
        try:
            connection = await client.connect("127.0.0.1", server.port)
        except TransportError as error:
            reason = str(error)
            break
        send_frames(connection._link, [(QuicFrameType.HANDSHAKE_DONE, b"")], size=1200)
        await asyncio.wait_for(connection.closed.wait(), 60)
    assert "no valid QUIC" in reason


async def test_whoever_sends_much_is_taken_in_turns(peer):
    """What came is taken bit by bit, others between; what is too much to wait is lost and comes again."""
    server, client, other = await peer(), await peer(), await peer()
    server.on(Ask, answer)
    connection = await client.connect("127.0.0.1", server.port)
    bystander = await other.connect("127.0.0.1", server.port)
    link = server.connections[client.address]._link
    taken: list[int] = []
    receive = link.quic.receive_datagram

    def slow(data, address, now):
        taken.append(len(data))
        return receive(data, address, now)

    link.quic.receive_datagram = slow
    noise = [(b"\x40" + os.urandom(1199), link.remote)] * 100
    link.receive(noise, 0.0)
    assert len(taken) == 1
    link.receive(noise, 0.0)
    assert len(taken) == 1, "its turn comes with the loop's next"
    for before in range(2, 12):
        await asyncio.sleep(0)
        assert len(taken) == before
    link.receive([(b"\x40" + bytes(15_999), link.remote)] * 1000, 0.0)
    assert link._waiting_bytes <= MOST_WAITING + 16_000
    assert await bystander.request(Ask("on"), reply=Told, timeout=60) == Told("on")
    assert await connection.request(Ask("me too"), reply=Told, timeout=60) == Told("me too")
    while link._arrived:
        await asyncio.sleep(0.01)
    assert link._waiting_bytes == 0


async def test_newcomers_in_a_crowd_show_their_address_first(peer, monkeypatch):
    """Packets that open connections and come from anywhere cost nothing but an answer after the first few."""
    server = await peer()
    server.on(Ask, answer)
    begun = []
    server._board._on_incoming = begun.append
    sent = []
    server._board._sockets.send = sent.extend
    first = PeerQuic(configuration=configuration(None))
    first.connect(("192.0.2.1", 1), 0.0)
    packet = first.datagrams_to_send(0.0)[0][0]
    start = asyncio.get_running_loop().time()
    monkeypatch.setattr(switchboard, "_now", lambda: start)
    for number in range(500):
        mangled = packet[:6] + number.to_bytes(8, "big") + packet[14:]
        server._board.receive([(mangled, (f"198.51.{number % 250}.1", 1 + number))])
        await asyncio.sleep(0)
    monkeypatch.undo()
    assert len(begun) == NEWCOMERS_AT_ONCE
    asked = [data for data, _ in sent if data[0] & 0xF0 == 0xF0]
    assert len(asked) + len(begun) == 500
    del server._board._sockets.send
    server._board._on_incoming = server._incoming
    newcomer = await peer()
    connection = await newcomer.connect("127.0.0.1", server.port)
    assert await connection.request(Ask("hello"), reply=Told) == Told("hello")


# Memory


async def test_answers_that_nobody_reads_are_bounded_for_each_and_all(peer):
    server, honest = await peer(), await peer()
    block = os.urandom(4 << 20)

    async def send(connection, message, body):
        return Told(), block

    server.on(Ask, send)
    greedy = [await peer() for _ in range(3)]
    pool = server._board.memory.sending
    async with contextlib.AsyncExitStack() as stack:
        asks = []
        for each in greedy:
            connection = await each.connect("127.0.0.1", server.port)
            connection._link._grant = lambda: None
            for _ in range(60):
                asks.append(stack.enter_async_context(connection.exchange(Ask(), reply=Told, timeout=60)))
        waiting = [asyncio.ensure_future(ask) for ask in asks]
        while any(pool.of(each.address) < MOST_OF_CONNECTION for each in greedy):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        for each in greedy:
            assert pool.of(each.address) <= MOST_OF_CONNECTION + (64 << 10)
        connection = await honest.connect("127.0.0.1", server.port)
        async with connection.exchange(Ask(), reply=Told) as reply:
            assert await reply.body.read_all(len(block)) == block
        for each in greedy:
            await each.close()
        await asyncio.gather(*waiting, return_exceptions=True)
    while pool.used:
        await asyncio.sleep(0.01)
    assert not pool._of


class Held(bytes):
    """A block that counts how many of its kind are in memory."""

    alive = 0

    def __new__(cls, size: int) -> "Held":
        cls.alive += 1
        return super().__new__(cls, size)

    def __del__(self) -> None:
        type(self).alive -= 1


async def test_blocks_that_nobody_takes_are_in_memory_for_who_has_a_turn_and_gone_with_its_connection(peer):
    server, greedy = await peer(), await peer()
    store = SimpleNamespace(block_size=lambda cid: 1 << 18, get_block=lambda cid: Held(1 << 18))
    serve_blocks(server, store)
    connection = await greedy.connect("127.0.0.1", server.port)
    connection._link._grant = lambda: None
    wanted = GetBlocks(cid_bytes(raw_cid(b"a block")) * 16)
    pool = server._board.memory.sending
    gc.disable()
    try:
        async with contextlib.AsyncExitStack() as stack:
            asks = [stack.enter_async_context(connection.exchange(wanted, reply=Blocks, timeout=60)) for _ in range(60)]
            waiting = [asyncio.ensure_future(ask) for ask in asks]
            while pool.of(greedy.address) < MOST_OF_CONNECTION:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert 0 < Held.alive <= READS_OF_PEER
            await greedy.close()
            await asyncio.gather(*waiting, return_exceptions=True)
        async with asyncio.timeout(60):  # what has ended waits for no collection
            while pool.used or Held.alive:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_what_is_sent_and_never_consumed_costs_the_greediest_its_connection(peer, monkeypatch):
    monkeypatch.setattr(memories, "RECEIVING_BYTES", 6 << 20)
    server, modest, greedy = await peer(), await peer(), await peer()
    server._board.memory.receiving.total = 6 << 20
    wait = asyncio.Event()

    async def never(connection, message, body):
        await wait.wait()
        return Told()

    server.on(Ask, never)
    first = await modest.connect("127.0.0.1", server.port)
    kept = asyncio.ensure_future(first.request(Ask(), reply=Told, body=bytes(1 << 20), timeout=60))
    second = await greedy.connect("127.0.0.1", server.port)
    sent = [asyncio.ensure_future(second.request(Ask(), reply=Told, body=bytes(3 << 20), timeout=60)) for _ in range(4)]
    await asyncio.wait_for(second.closed.wait(), 60)
    assert "waits to be read" in second.reason
    assert not first.closed.is_set()
    wait.set()
    assert await kept == Told()
    assert all(isinstance(each, TransportError) for each in await asyncio.gather(*sent, return_exceptions=True))


async def test_memory_of_connections_that_have_ended_goes_to_the_system(peer, monkeypatch):
    given = []
    monkeypatch.setattr(endpoints, "give_back", lambda: given.append(1))
    monkeypatch.setattr(endpoints, "GIVE_BACK_S", (0.0, 0.01))
    server = await peer()
    server.on(Ask, answer)
    server._let_go(endpoints.GIVE_BACK_BYTES // 2)
    await asyncio.sleep(0.05)
    assert not given
    server._let_go(endpoints.GIVE_BACK_BYTES)
    async with asyncio.timeout(60):
        while len(given) < 2:
            await asyncio.sleep(0.01)
    heap.give_back()


async def test_what_is_kept_for_a_connection_is_told_when_it_ends(peer, monkeypatch):
    kept = []
    server, client = await peer(), await peer()
    monkeypatch.setattr(server, "_let_go", kept.append)

    async def send(connection, message, body):
        return Told(), os.urandom(4 << 20)

    server.on(Ask, send)
    connection = await client.connect("127.0.0.1", server.port)
    connection._link._grant = lambda: None
    link = server.connections[client.address]._link
    async with contextlib.AsyncExitStack() as stack:
        asks = [stack.enter_async_context(connection.exchange(Ask(), reply=Told, timeout=60)) for _ in range(8)]
        waiting = [asyncio.ensure_future(ask) for ask in asks]
        async with asyncio.timeout(60):
            while link.account.sending < 1 << 20:
                await asyncio.sleep(0.01)
        link.close(0, "")
        await asyncio.gather(*waiting, return_exceptions=True)
    assert kept and max(kept) >= 1 << 20


def test_what_one_peer_may_have_follows_from_what_is_free():
    memory = Memory(sending=64 << 20)
    accounts = [Account(memory) for _ in range(40)]
    for number, account in enumerate(accounts):
        account.belongs_to(f"wallet {number // 8}")
        while account.may_send():
            account.sent(64 << 10)
    assert memory.sending.used <= 64 << 20
    assert all(memory.sending.of(f"wallet {each}") <= MOST_OF_PEER + (64 << 10) for each in range(5))
    for each in range(1000):
        late = Account(memory)
        late.belongs_to(f"late {each}")
        assert late.may_send()
        late.sent(LEAST_OF_PEER)
        assert not late.may_send() or memory.sending.limit() > LEAST_OF_PEER
    for account in accounts:
        account.settle(0, 0)
    assert memory.sending.of("wallet 0") == 0


# Places


def seat(places: Places[str], who: str, host: str, now: float, *, known: bool = False) -> bool:
    caller = Caller.at(host, 4000, known=known)
    if places.is_full(caller):
        other = places.to_give_way(caller, now)
        if other is None:
            return False
        places.leave(other)
    places.take(who, caller, now)
    return True


def crowd(hosts: list[str], each: int) -> Places[str]:
    places: Places[str] = Places(MAX_GREETINGS, of_subnet=128, of_host=32, patience_s=2.0)
    for host in hosts:
        for number in range(each):
            seat(places, f"{host} {number}", host, 0.0)
    return places


CROWDS = {
    "nine hosts of one subnet": [f"198.51.100.{each}" for each in range(9)],
    "nine hosts of nine subnets": [f"198.51.{each}.7" for each in range(9)],
    "forty subnets": [f"203.{each}.113.7" for each in range(40)],
    "one /48 of IPv6": [f"2001:db8:0:{each:x}::7" for each in range(60)],
    "many of IPv6": [f"2001:db8:{each:x}::7" for each in range(60)],
}


@pytest.mark.parametrize("hosts", CROWDS.values(), ids=CROWDS)
@pytest.mark.parametrize("newcomer", ["192.0.2.1", "198.51.100.200", "2001:db8:77::1", "2001:db8:0:ffff::1"])
def test_a_crowd_keeps_nobody_else_out(hosts, newcomer):
    places = crowd(hosts, 32)
    assert len(places) <= MAX_GREETINGS
    assert seat(places, "newcomer", newcomer, 0.1)
    assert len(places) <= MAX_GREETINGS
    assert "newcomer" in places


def test_who_has_most_makes_no_room_for_itself_before_its_time():
    places = crowd(["198.51.100.1"], 40)
    assert len(places) == 32
    assert not seat(places, "one more", "198.51.100.1", 1.0)
    assert seat(places, "one more", "198.51.100.1", 2.5)


def test_known_peers_come_first():
    places = crowd([f"198.{each}.100.1" for each in range(256)], 1)
    assert not seat(places, "stranger", "192.0.2.9", 0.5)
    assert seat(places, "known", "192.0.2.1", 0.5, known=True)
    for number in range(300):
        seat(places, f"later {number}", f"203.0.{number % 250}.1", 5.0)
    assert "known" in places


async def test_silent_connections_keep_nobody_waiting(peer, monkeypatch):
    monkeypatch.setattr(endpoints, "HANDSHAKE_SECONDS", 60.0)  # of the first ones, while the last ones come
    server, crowd = await peer(), [await peer() for _ in range(9)]
    server.on(Ask, answer)
    links = []
    for endpoint in crowd:
        links += [endpoint._board.dial(("127.0.0.1", server.port)) for _ in range(MAX_GREETINGS_OF_HOST)]
        await asyncio.gather(*(asyncio.wait_for(link.secured.wait(), 60) for link in links[-32:]))
    assert len(server._board._greeting) <= MAX_GREETINGS
    newcomer = await peer()
    connection = await newcomer.connect("127.0.0.1", server.port)
    assert await connection.request(Ask("hello"), reply=Told) == Told("hello")
    assert len(server._board._greeting) >= MAX_GREETINGS - 2


# Wallets without stake


async def test_strangers_give_way_to_each_other_and_never_those_for_whom_something_speaks(peer):
    server = await peer(strangers=10)
    server.on(Ask, answer)
    backed = await peer()
    connection = await backed.connect("127.0.0.1", server.port)
    server.connections[backed.address].vouch()
    crowd = []
    for _ in range(14):
        stranger = await peer()
        crowd.append(await stranger.connect("127.0.0.1", server.port))
    await asyncio.wait_for(crowd[0].closed.wait(), 60)
    assert "stake" in crowd[0].reason
    assert len(server.connections) == 11
    assert await connection.request(Ask("still"), reply=Told) == Told("still")
    assert await crowd[-1].request(Ask("me too"), reply=Told) == Told("me too")


async def test_who_dials_out_counts_nowhere(peer):
    client = await peer(strangers=1)
    servers: list[Endpoint] = [await peer() for _ in range(3)]
    for server in servers:
        await client.connect("127.0.0.1", server.port)
    assert len(client.connections) == 3
