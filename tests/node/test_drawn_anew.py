"""A batch that is drawn anew after a reorganisation, while its first draw's audits are on their way through a node."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from machine import until
from stand_ins import SEED, VERIFIER
from test_audits import AFTER, SECOND, TASK, Bench

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import Drawn, Wallet
from proofyard.node.agent import _audit_progress
from proofyard.node.work import Work
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.messages import AuditFailed, AuditOffer, OpenSeal
from proofyard.protocol.seal import seal_of
from proofyard.protocol.types import BatchId, Digest, JobId, SegmentIndex
from proofyard.workloads.errors import SegmentFailed

OLD = Digest(b"o" * 32)
REQUEST = OpenSeal(BatchId(3), JobId(1), TASK.index, SegmentIndex(1))
PEER: Any = SimpleNamespace(peer=VERIFIER.address)


def drawn_first(bench: Bench) -> tuple[AuditOffer, AuditOffer]:
    """The offers of a batch that is drawn with `OLD` so far, and of that which `draw_anew` makes."""
    anew = bench.offer(SECOND)
    bench.chain.seed = lambda _: Drawn(OLD, 10)  # type: ignore[method-assign]
    return msgspec.structs.replace(anew, seed=OLD), anew


def draw_anew(bench: Bench) -> None:
    bench.chain.seed = lambda _: Drawn(SEED, 10)  # type: ignore[method-assign]


async def test_a_new_seal_is_not_lost_behind_the_old_one(tmp_path: Path) -> None:
    """The verifier is deaf while the old seal waits; it hears again after the reorganisation and offers anew."""
    bench = Bench(tmp_path, AFTER)
    old, anew = drawn_first(bench)
    bench.links.deaf.add(VERIFIER.address)
    runs = asyncio.create_task(bench.agent.run())
    assert (await bench.agent.offer_audit(PEER, old, None)).proceed
    await until(lambda: bench.links.seals)
    draw_anew(bench)
    assert (await bench.agent.offer_audit(PEER, anew, None)).proceed
    await until(lambda: bench.executed == 2 and not bench.agent._accepted)
    bench.links.deaf.clear()
    await until(lambda: any(seal.seed == SEED for seal in bench.links.seals))
    runs.cancel()


async def test_an_answer_to_the_old_seal_does_not_close_the_new_one(tmp_path: Path) -> None:
    """Restart between: the old seal's answer must not mark the new one as delivered."""
    bench = Bench(tmp_path, AFTER)
    anew = bench.offer(SECOND)
    old = msgspec.structs.replace(anew, seed=OLD)
    assert await bench.audit(SECOND) is not None
    bench.journal.submitted(VERIFIER.address, old)
    assert [o.seed for _, o, _ in bench.journal.open_audits()] == [SEED]


async def test_an_offer_anew_while_the_old_one_is_prepared(tmp_path: Path) -> None:
    """What is sent can be opened."""
    bench = Bench(tmp_path, AFTER)
    old, anew = drawn_first(bench)
    plain, go = bench.agent._gather, asyncio.Event()

    gathering: list[Work] = []

    async def gather(work: Work) -> None:
        await plain(work)
        gathering.append(work)
        await go.wait()

    bench.agent._gather = gather  # type: ignore[method-assign]
    runs = asyncio.create_task(bench.agent.run())
    assert (await bench.agent.offer_audit(PEER, old, None)).proceed
    await until(lambda: gathering)
    draw_anew(bench)
    assert (await bench.agent.offer_audit(PEER, anew, None)).proceed
    go.set()
    await until(lambda: bench.links.seals)
    runs.cancel()
    (seal,) = bench.links.seals
    opening = bench.journal.opening(VERIFIER.address, REQUEST)
    assert opening is not None and seal_of(opening.opening(), bench.wallet.address) == seal.seal


async def test_two_offers_anew_while_the_old_one_is_stopped(tmp_path: Path) -> None:
    """The executor takes a moment to take the stop; the verifier offers again meanwhile."""
    bench = Bench(tmp_path, AFTER)
    old, anew = drawn_first(bench)
    free = asyncio.Event()

    async def run_segment(*_: Any, **__: Any) -> bytes:
        bench.executed += 1
        if bench.executed == 1:
            await free.wait()
        return AFTER

    async def stop() -> None:
        await asyncio.sleep(0.1)

    bench.run_segment = run_segment  # type: ignore[method-assign]
    bench.stop = stop  # type: ignore[attr-defined]
    runs = asyncio.create_task(bench.agent.run())
    assert (await bench.agent.offer_audit(PEER, old, None)).proceed
    await until(lambda: bench.executed == 1)
    draw_anew(bench)
    await asyncio.gather(*(bench.agent.offer_audit(PEER, anew, None) for _ in range(2)))
    free.set()
    await until(lambda: bench.links.seals and not bench.agent._accepted)
    runs.cancel()
    opening = bench.journal.opening(VERIFIER.address, REQUEST)
    assert opening is not None and bench.executed == 2
    assert [(each.seed, each.seal) for each in bench.links.seals] == [
        (SEED, seal_of(opening.opening(), bench.wallet.address))
    ]


async def test_a_late_offer_of_the_old_draw_leaves_the_new_one_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AFTER)
    old, anew = drawn_first(bench)
    draw_anew(bench)
    go = asyncio.Event()

    async def run_segment(*_: Any, **__: Any) -> bytes:
        bench.executed += 1
        await go.wait()
        return AFTER

    bench.run_segment = run_segment  # type: ignore[method-assign]
    runs = asyncio.create_task(bench.agent.run())
    assert (await bench.agent.offer_audit(PEER, anew, None)).proceed
    await until(lambda: bench.executed == 1)
    late = await bench.agent.offer_audit(PEER, old, None)
    assert not late.proceed and "seed is not the one" in late.reason
    go.set()
    await until(lambda: bench.links.seals)
    runs.cancel()
    assert [seal.seed for seal in bench.links.seals] == [SEED] and not bench.links.handed_back


async def test_the_same_answer_to_the_same_draw_has_one_seal_whatever_became_of_the_nodes_files(tmp_path: Path) -> None:
    """A draw that comes back after another one, or a node that was set up anew."""
    wallet, sealed = Wallet.generate(), []
    for name in ("before", "after"):
        bench = Bench(tmp_path / name, AFTER)
        bench.agent._wallet = wallet
        sealed.append(await bench.audit(SECOND))
    assert sealed[0] == sealed[1] is not None
    bench.outcome = b"another state"
    other = await bench.audit(SECOND)
    assert other is not None and sealed[1] is not None
    assert other.salt != sealed[1].salt, "the salt of one answer hides no other"


async def test_so_has_a_failure_and_each_draw_has_another_salt(tmp_path: Path) -> None:
    wallet, sealed = Wallet.generate(), []
    for name in ("before", "after"):
        bench = Bench(tmp_path / name, SegmentFailed(1, "the loss is NaN"))
        bench.agent._wallet = wallet
        sealed.append(await bench.audit(SECOND))
    assert sealed[0] == sealed[1] is not None
    offer = bench.offer(SECOND)
    salts = {
        bench.agent._salt(each, cid_digest(cid_of_bytes(AFTER)), reason)
        for each in (offer, msgspec.structs.replace(offer, seed=OLD))
        for reason in ("", "the loss is NaN")
    }
    assert len(salts) == 4


async def test_what_a_node_says_of_a_seat_names_its_draw(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AFTER)
    _, anew = drawn_first(bench)
    work = Work(VERIFIER.address, anew)
    bench.agent._hand_back(work, "out of memory")
    await until(lambda: bench.links.handed_back)
    (failed,) = bench.links.handed_back
    assert isinstance(failed, AuditFailed) and failed.seed == SEED
    assert _audit_progress(work).seed == SEED
