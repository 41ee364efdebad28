import asyncio
import itertools
import threading
from pathlib import Path

import pytest

from proofyard.artifacts import (
    ArtifactTooLarge,
    ArtifactUnavailable,
    BlockStore,
    CorruptArtifact,
    StoreUnusable,
    fetch,
    fetcher,
)
from proofyard.artifacts.builder import CHUNK_BYTES
from proofyard.artifacts.exchange import LOOKS_PER_S, LOOKS_SAVED_S, PEERS, Looks, PeerBlocks, RemoteBlocks
from proofyard.artifacts.fetcher import _Job
from proofyard.artifacts.gathering import Gatherer
from proofyard.artifacts.unixfs import Link, directory_node, file_node, node_cid
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.types import Address
from proofyard.transport import ConnectionLost, RequestFailed

LIMIT = 1 << 30


@pytest.fixture
def new_store(tmp_path):
    return lambda name: BlockStore(tmp_path / name)


class LyingStore(BlockStore):
    """Serves blocks of the right size and the wrong content."""

    def get_block(self, cid):
        block = super().get_block(cid)
        return block[:-1] + bytes([block[-1] ^ 1])


class SlowStore(BlockStore):
    """Counts what it serves, and takes its time."""

    served = 0

    def get_block(self, cid):
        import time

        time.sleep(0.01)
        self.served += 1
        return super().get_block(cid)


async def test_a_folder_is_fetched_and_served_on(store, seeder, new_store, tmp_path, pattern):
    source = tmp_path / "model"
    (source / "sub").mkdir(parents=True)
    (source / "weights").write_bytes(pattern(9 * CHUNK_BYTES + 5))
    (source / "sub" / "empty").write_bytes(b"")
    first = new_store("first")
    cid = first.link_directory(source)
    progress = []
    await fetch(store, cid, [await seeder(first)], max_bytes=LIMIT, on_progress=lambda *news: progress.append(news))
    assert not list(store.missing(cid))
    assert progress[-1][1] == 0
    third = new_store("third")
    await fetch(third, cid, [await seeder(store)], max_bytes=LIMIT)
    assert (third.export(cid, tmp_path / "out") / "weights").read_bytes() == pattern(9 * CHUNK_BYTES + 5)


async def test_two_providers_share_the_work(store, seeder, tmp_path, pattern):
    one, two = SlowStore(tmp_path / "one"), SlowStore(tmp_path / "two")
    data = pattern(60 * CHUNK_BYTES)
    cid = one.put_bytes(data)
    two.put_bytes(data)
    await fetch(store, cid, [await seeder(one), await seeder(two)], max_bytes=LIMIT)
    assert store.get_bytes(cid) == data
    assert one.served > 1
    assert two.served > 1


async def test_providers_that_have_different_parts_complete_each_other(store, seeder, new_store, pattern):
    one, two = new_store("one"), new_store("two")
    data = pattern(20 * CHUNK_BYTES)
    cid = one.put_bytes(data)
    two.put_bytes(data)
    for i in range(20):
        lacking = one if i % 2 else two
        lacking._block_path(raw_cid(data[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES])).unlink()
    await fetch(store, cid, [await seeder(one), await seeder(two)], max_bytes=LIMIT)
    assert store.get_bytes(cid) == data


async def test_a_provider_that_lies_is_dropped_and_another_one_delivers(store, seeder, new_store, tmp_path, pattern):
    honest, liar = new_store("honest"), LyingStore(tmp_path / "liar")
    data = pattern(30 * CHUNK_BYTES)
    cid = honest.put_bytes(data)
    liar.put_bytes(data)
    lying = await seeder(liar)
    await fetch(store, cid, [lying, await seeder(honest)], max_bytes=LIMIT)
    assert store.get_bytes(cid) == data
    assert lying.closed.is_set()
    assert "something else as block" in lying.reason


async def test_a_lie_alone_is_no_artifact(store, seeder, tmp_path, pattern):
    liar = LyingStore(tmp_path / "liar")
    cid = liar.put_bytes(pattern(1000))
    with pytest.raises(ArtifactUnavailable, match="something else as block"):
        await fetch(store, cid, [await seeder(liar)], max_bytes=LIMIT)
    assert not store.has(cid)


async def test_nobody_has_it(store, seeder, new_store):
    with pytest.raises(ArtifactUnavailable, match="lacks blocks"):
        await fetch(store, raw_cid(b"unknown"), [await seeder(new_store("empty"))], max_bytes=LIMIT)
    with pytest.raises(ArtifactUnavailable, match="no provider is known"):
        await fetch(store, raw_cid(b"unknown"), [], max_bytes=LIMIT)


async def test_a_fetch_that_was_cut_off_continues(store, seeder, tmp_path, pattern):
    source = SlowStore(tmp_path / "source")
    data = pattern(100 * CHUNK_BYTES)
    cid = source.put_bytes(data)
    provider = await seeder(source)
    half = asyncio.Event()
    task = asyncio.create_task(
        fetch(
            store,
            cid,
            [provider],
            max_bytes=LIMIT,
            on_progress=lambda done, missing: half.set() if done > len(data) // 2 else None,
        )
    )
    await half.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    lacking = len(list(store.missing(cid)))
    assert 0 < lacking <= 50
    before = source.served
    restarted = BlockStore(store.path)
    await fetch(restarted, cid, [provider], max_bytes=LIMIT)
    assert source.served - before <= lacking + 8
    assert restarted.get_bytes(cid) == data


async def test_what_is_complete_needs_no_provider(store, pattern):
    cid = store.put_bytes(pattern(3 * CHUNK_BYTES))
    await fetch(store, cid, [], max_bytes=LIMIT)


async def test_an_artifact_over_the_limit_is_refused_at_its_root(store, seeder, new_store, pattern):
    source = new_store("source")
    cid = source.put_bytes(pattern(20 * CHUNK_BYTES))
    with pytest.raises(ArtifactTooLarge):
        await fetch(store, cid, [await seeder(source)], max_bytes=100_000)
    assert len(list(store.missing(cid))) == 20


async def test_a_file_that_claims_to_be_endless_is_refused_at_its_root(store, seeder, new_store):
    source = new_store("source")
    block = file_node([Link(raw_cid(b"x"), "", 1)] * 2, [1 << 61, 1 << 61]).encode()
    source.put_block(node_cid(block), block)
    with pytest.raises(ArtifactTooLarge, match=str(1 << 62)):
        await fetch(store, node_cid(block), [await seeder(source)], max_bytes=LIMIT)


async def test_a_disk_that_fills_up_ends_a_fetch_and_loses_nothing(store, seeder, new_store, pattern, monkeypatch):
    source = new_store("source")
    data = pattern(40 * CHUNK_BYTES)
    cid = source.put_bytes(data)
    provider = await seeder(source)
    rename, count, one_at_a_time = Path.replace, itertools.count(), threading.Lock()

    def full(self, target):
        with one_at_a_time:
            if next(count) >= 10:
                raise OSError(28, "No space left on device")
            return rename(self, target)

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(StoreUnusable, match=r"No space left.*free some space"):
        await fetch(store, cid, [provider], max_bytes=LIMIT)
    assert len(list(store.blocks())) == 10  # while the disk is full: a thread may be about to write one more
    monkeypatch.undo()
    await fetch(store, cid, [provider], max_bytes=LIMIT)
    assert store.get_bytes(cid) == data


async def test_a_malformed_dag_is_corrupt_whoever_sends_it(store, seeder, new_store):
    source = new_store("source")
    block = b"\x0a\x02\x08\x05"
    source.put_block(node_cid(block), block)
    with pytest.raises(CorruptArtifact):
        await fetch(store, node_cid(block), [await seeder(source)], max_bytes=LIMIT)


async def test_a_folder_whose_part_is_nowhere_names_what_is_missing(store, seeder, new_store):
    source = new_store("source")
    block = directory_node([Link(raw_cid(b"gone"), "gone", 4)]).encode()
    source.put_block(node_cid(block), block)
    with pytest.raises(ArtifactUnavailable, match="1 blocks are missing"):
        await fetch(store, node_cid(block), [await seeder(source)], max_bytes=LIMIT)


async def test_a_provider_that_goes_away_is_replaced(store, seeder, tmp_path, new_store, pattern):
    slow, other = SlowStore(tmp_path / "slow"), new_store("other")
    data = pattern(60 * CHUNK_BYTES)
    cid = slow.put_bytes(data)
    other.put_bytes(data)
    first = await seeder(slow)
    asyncio.get_running_loop().call_later(0.05, asyncio.ensure_future, first.close("power cut"))
    await fetch(store, cid, [first, await seeder(other)], max_bytes=LIMIT)
    assert store.get_bytes(cid) == data


async def test_a_connection_that_is_lost_is_made_again(store, seeder, tmp_path, pattern):
    class Closing(SlowStore):
        """Ends every connection of its peer once."""

        def get_block(self, cid):
            block = super().get_block(cid)
            if self.served == 5:
                loop.call_soon_threadsafe(
                    lambda: [each._link.close(0, "flaky") for each in server.connections.values()]
                )
            return block

    source = Closing(tmp_path / "source")
    data = pattern(40 * CHUNK_BYTES)
    cid = source.put_bytes(data)
    first = await seeder(source)
    leecher, server = seeder.leecher, seeder.endpoints[-1]
    await first.close()
    loop = asyncio.get_running_loop()
    await fetch(store, cid, [RemoteBlocks(leecher, "127.0.0.1", server.port)], max_bytes=LIMIT)
    assert store.get_bytes(cid) == data
    assert leecher.connections[server.address]._link.resumed


async def test_a_range_needs_only_its_own_blocks(store, seeder, new_store, pattern):
    source = new_store("source")
    data = pattern(180 * CHUNK_BYTES)
    cid = source.put_bytes(data)
    start, stop = 173 * CHUNK_BYTES + 7, 176 * CHUNK_BYTES + 1
    await fetch(store, cid, [await seeder(source)], max_bytes=LIMIT, span=(start, stop))
    assert b"".join(store.read_range(cid, start, stop - start)) == data[start:stop]
    leaves = [block.cid for block in store.blocks() if block.cid.startswith("bafk")]
    assert len(leaves) == 4
    await fetch(store, cid, [], max_bytes=LIMIT, span=(start, stop))


async def test_a_range_of_a_folder_is_refused(store, seeder, new_store, tmp_path):
    source = new_store("source")
    (tmp_path / "folder").mkdir()
    cid = source.put_directory(tmp_path / "folder")
    with pytest.raises(CorruptArtifact, match="it is a directory"):
        await fetch(store, cid, [await seeder(source)], max_bytes=LIMIT, span=(0, 1))


def blocks_of(count):
    return [raw_cid(bytes([i])) for i in range(count)]


async def test_what_most_peers_lack_is_asked_for_first(store):
    cids = blocks_of(30)
    job = _Job(cids[0], LIMIT, store, cids, None, 3)
    job.surveyed("one", cids, cids[10:12])
    job.surveyed("two", cids, cids[10:15])
    assert set(await job.take("three", 2)) == set(cids[10:12])
    assert set(await job.take("three", 3)) == set(cids[12:15])
    assert not set(await job.take("two", 25)) & set(cids[10:15])


async def test_what_a_peer_has_got_meanwhile_is_asked_of_it(store):
    cids = blocks_of(3)
    job = _Job(cids[0], LIMIT, store, cids, None, 2)
    job.surveyed("one", cids, cids)
    assert await job.take("one", 3) == []
    assert set(job.unsurveyed("one")) == set(cids)
    job.surveyed("one", cids, cids[1:])
    assert await job.take("one", 3) == cids[:1]


async def test_peers_that_have_nothing_do_not_keep_an_artifact_from_coming(store, seeder, new_store, pattern):
    full, empty = new_store("full"), new_store("empty")
    data = pattern(20 * CHUNK_BYTES)
    cid = full.put_bytes(data)
    await fetch(store, cid, [await seeder(empty), await seeder(full)], max_bytes=LIMIT)
    assert store.get_bytes(cid) == data


async def test_the_last_blocks_do_not_wait_for_a_peer_that_hangs(store, seeder, new_store, pattern):
    class Hanging:
        """Takes requests and never answers."""

        name = "hanging"
        asked = 0

        async def blocks(self, cids):
            self.asked += len(cids)
            await asyncio.Event().wait()
            yield cids[0], None

        async def lacks(self, cids):
            return []

        def penalise(self, points, reason): ...

    source, hanging = new_store("source"), Hanging()
    data = pattern(10 * CHUNK_BYTES)
    cid = source.put_bytes(data)
    await fetch(store, cid, [hanging, await seeder(source)], max_bytes=LIMIT)
    assert store.get_bytes(cid) == data
    assert hanging.asked > 0


async def test_a_request_for_half_a_cid_is_refused(store, seeder):
    from proofyard.artifacts import Blocks, GetBlocks
    from proofyard.artifacts.exchange import HasBlocks, Held

    connection = await seeder(store)
    for cids in (b"x", b"y" * 36, b"\x01\x55\x13\x40" + bytes(64), b"\x01\x71\x12\x20" + bytes(32)):
        with pytest.raises(RequestFailed, match="bad-request"):
            await connection.request(GetBlocks(cids), reply=Blocks)
        with pytest.raises(RequestFailed, match="bad-request"):
            await connection.request(HasBlocks(cids), reply=Held)
    with pytest.raises(RequestFailed, match="bad-request"):
        await connection.request(GetBlocks(bytes(36 * 65)), reply=Blocks)


async def test_what_is_larger_than_was_asked_for_stays_where_it_is(store, seeder, new_store):
    source = new_store("source")
    small, large = source.put_bytes(b"s" * 100), source.put_bytes(b"l" * 101)
    provider = PeerBlocks(await seeder(source), 100)
    assert [found async for found in provider.blocks([large, small])] == [(large, None), (small, b"s" * 100)]
    gatherer = Gatherer(store, largest=100)
    assert await gatherer.gather("0xP", await seeder(source), [small, large]) == {small: 100, large: None}
    assert store.has(small) and not store.has(large)


async def test_a_provider_that_stumbles_is_asked_again(store, seeder, new_store, pattern):
    class Stumbling:
        """A peer whose first answers fail."""

        name = "stumbling"
        failures = 2

        def __init__(self, connection):
            self._peer = PeerBlocks(connection)

        async def blocks(self, cids):
            if self.failures:
                self.failures -= 1
                raise RequestFailed("busy", "try again")
            async for block in self._peer.blocks(cids):
                yield block

        async def lacks(self, cids):
            return []

        def penalise(self, points, reason): ...

    source = new_store("source")
    data = pattern(5 * CHUNK_BYTES)
    cid = source.put_bytes(data)
    await fetch(store, cid, [Stumbling(await seeder(source))], max_bytes=LIMIT)
    assert store.get_bytes(cid) == data


class Stalling:
    """A provider that claims to have everything, and never sends a block to its end."""

    def __init__(self, name):
        self.name = name
        self.asked = 0

    async def blocks(self, cids):
        self.asked += 1
        await asyncio.Event().wait()
        yield cids[0], b""

    async def lacks(self, cids):
        return []

    def penalise(self, points, reason):
        """Nothing can be held against it."""


async def test_providers_that_stall_together_keep_nobody_from_one_that_delivers(
    store, seeder, new_store, pattern, monkeypatch
):
    """Two that sit on the same block once kept an honest one from being asked for it."""
    monkeypatch.setattr(fetcher, "HEDGE_SECONDS", 0.05)
    honest = new_store("honest")
    data = pattern(9 * CHUNK_BYTES)
    cid = honest.put_bytes(data)
    stalling = [Stalling(f"stalling {number}") for number in range(8)]
    await fetch(store, cid, [*stalling, await seeder(honest)], max_bytes=LIMIT, patience_s=60)
    assert store.get_bytes(cid) == data
    assert any(provider.asked for provider in stalling)


async def test_a_block_that_comes_twice_does_not_end_a_fetch_before_it_is_walked(store, new_store, pattern):
    """The second time it came, what is below it counted as wanted while the first one's walk was still looking."""
    source = new_store("source")
    cid = source.put_bytes(pattern(5 * CHUNK_BYTES))
    root, first = source.get_block(cid), threading.Event()
    looking = store.missing

    def slow_at_first(*cids, seen, go_on):
        found = list(looking(*cids, seen=seen, go_on=go_on))
        if not first.is_set():
            first.set()
            release.wait(30)
        return found

    store.missing, release = slow_at_first, threading.Event()
    job = _Job(cid, LIMIT, store, [cid], None, 2)
    try:
        assert (await job.take("a", 1), await job.take("b", 1)) == ([cid], [cid])
        once = asyncio.create_task(job.keep(cid, root, "a"))
        await asyncio.to_thread(first.wait, 30)
        await job.keep(cid, root, "b")
        assert not job.done.is_set()
        assert job.missing == 5
    finally:
        release.set()
    await once
    assert job.missing == 5


async def test_a_walk_that_was_given_up_is_made_again(store, new_store, pattern):
    """A provider whose other request fails loses its lanes in the middle of one."""
    source = new_store("source")
    cid = source.put_bytes(pattern(5 * CHUNK_BYTES))
    job = _Job(cid, LIMIT, store, [cid], None, 1)
    await job.take("a", 1)
    looking, started, release = store.missing, threading.Event(), threading.Event()

    def slow(*cids, seen, go_on):
        found = list(looking(*cids, seen=seen, go_on=go_on))
        started.set()
        release.wait(30)
        return found

    store.missing = slow
    given_up = asyncio.create_task(job.keep(cid, source.get_block(cid), "a"))
    await asyncio.to_thread(started.wait, 30)
    given_up.cancel()
    release.set()
    await asyncio.gather(given_up, return_exceptions=True)
    job.give_back({cid}, "a")
    store.missing = looking
    assert await job.take("b", 1) == [cid]
    await job.keep(cid, source.get_block(cid), "b")
    assert job.missing == 5


@pytest.mark.parametrize("span", [None, (0, CHUNK_BYTES)], ids=["whole", "range"])
async def test_a_provider_that_only_trickles_ends_a_fetch(store, new_store, pattern, span):
    cid = new_store("other").put_bytes(pattern(3 * CHUNK_BYTES))
    with pytest.raises(ArtifactUnavailable, match="only 0 bytes came"):
        await fetch(store, cid, [Stalling("trickling")], max_bytes=LIMIT, span=span, patience_s=0.1)


class Pouring:
    """A provider that has everything at hand; `sends` makes what it sends, and is told which block of all it is."""

    name = "pouring"

    def __init__(self, sends):
        self.sends, self.sent, self.points = sends, 0, 0

    async def blocks(self, cids):
        for cid in cids:
            self.sent += 1
            yield cid, self.sends(cid, self.sent)
            await asyncio.sleep(0)

    async def lacks(self, cids):
        return []

    def penalise(self, points, reason):
        self.points += points


def breaks_off(source, at, *, forges=False):
    """What a peer sends that is gone at its block `at`, and has made up the one before."""

    def sends(cid, number):
        if number == at:
            raise ConnectionLost("pouring", "gone")
        return b"forged" if forges and number == at - 1 else source.get_block(cid)

    return sends


async def until(met):
    async with asyncio.timeout(30):
        while not met():
            await asyncio.sleep(0.001)


async def test_what_comes_waits_for_the_disk_only_when_much_of_it_is_in_memory(store, new_store, pattern, monkeypatch):
    source = new_store("source")
    data = pattern(120 * CHUNK_BYTES)
    cid = source.put_bytes(data)
    await fetch(store, cid, [Pouring(lambda cid, _: source.get_block(cid))], max_bytes=LIMIT, span=(0, 1))
    pouring, disk, storing = Pouring(lambda cid, _: source.get_block(cid)), threading.Event(), store.put_block
    monkeypatch.setattr(store, "put_block", lambda cid, block: (disk.wait(30), storing(cid, block))[1])
    # So fast that it is asked for all of it by two requests.
    monkeypatch.setattr(fetcher, "FIRST_BATCH", 60)
    under_way = asyncio.create_task(fetch(store, cid, [pouring], max_bytes=LIMIT))
    most = fetcher.LANES * (fetcher.AHEAD_BYTES // CHUNK_BYTES + 1)
    await until(lambda: pouring.sent >= most)
    await asyncio.sleep(0.05)
    assert pouring.sent == most
    disk.set()
    await under_way
    assert store.get_bytes(cid) == data


async def test_a_forged_block_among_those_that_are_being_stored_is_found(store, new_store, pattern):
    source = new_store("source")
    cid = source.put_bytes(pattern(40 * CHUNK_BYTES))
    forger = Pouring(lambda cid, number: b"forged" if number == 7 else source.get_block(cid))
    with pytest.raises(ArtifactUnavailable, match="sent something else"):
        await fetch(store, cid, [forger], max_bytes=LIMIT)
    assert forger.points == fetcher.FORGERY_POINTS
    honest = Pouring(lambda cid, _: source.get_block(cid))
    await fetch(store, cid, [honest], max_bytes=LIMIT)
    assert store.get_bytes(cid) == source.get_bytes(cid)


async def test_a_forged_block_is_found_where_the_request_breaks_off_after_it(store, new_store, pattern, monkeypatch):
    source = new_store("source")
    cid = source.put_bytes(pattern(40 * CHUNK_BYTES))
    monkeypatch.setattr(fetcher, "LANES", 1)
    forger = Pouring(breaks_off(source, 3, forges=True))
    with pytest.raises(ArtifactUnavailable, match="sent something else"):
        await fetch(store, cid, [forger], max_bytes=LIMIT)
    assert forger.points == fetcher.FORGERY_POINTS


async def test_what_came_before_a_request_broke_off_is_kept(store, new_store, pattern, monkeypatch):
    source = new_store("source")
    cid = source.put_bytes(pattern(40 * CHUNK_BYTES))
    monkeypatch.setattr(fetcher, "LANES", 1)
    breaking = Pouring(breaks_off(source, 5))
    await fetch(store, cid, [breaking], max_bytes=LIMIT)
    assert breaking.sent == 41 + 1, "nothing is sent twice"


async def test_whoever_asks_about_very_many_blocks_waits_and_nobody_else(monkeypatch):
    looks, waited, now = Looks(), [], asyncio.get_running_loop().time()

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    for _ in range(20):
        await looks.wait(Address("0x01"), 1024)
    assert waited == [], "a second's worth is saved up"
    for _ in range(9):
        await looks.wait(Address("0x01"), 1024)
    await looks.wait(Address("0x02"), 1024)
    assert waited == pytest.approx([number * 1024 / LOOKS_PER_S - LOOKS_SAVED_S for number in range(20, 29)])
    monkeypatch.undo()
    for number in range(2 * PEERS):
        await looks.wait(Address(f"0x{number:040x}"), 1)
    assert len(looks._free_at) <= PEERS


async def test_many_blocks_are_asked_about_at_once(store, seeder):
    connection = await seeder(store)
    here = [store.put_bytes(b"%d" % number) for number in range(100)]
    gone = [raw_cid(b"gone %d" % number) for number in range(100)]
    assert await PeerBlocks(connection).lacks([*here, *gone]) == gone
