"""What a node does unasked, as one of those that decide what a job's rounds take, and how its verifier gets it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from machine import UNUSED, Node, until
from msgspec.structs import replace
from stand_ins import CONNECTION

from proofyard.node.agent import NotDone
from proofyard.protocol.bls import BlsSignature
from proofyard.protocol.certificate import Certificate, Delta, Phase
from proofyard.protocol.messages import CancelTasks, SubmitCommitment
from proofyard.protocol.types import JobId, TaskIndex

SMALL = {"budget": 1 << 20, "segments": 2, "segment_steps": 1, "decoys": 0}
Coming = asyncio.Future[SubmitCommitment | None]


def as_voter(node: Node) -> Coming:
    """Its tasks are its own from now on; what the future says becomes of them."""
    coming: Coming = asyncio.get_running_loop().create_future()
    node.agent.votes_in = lambda _job: True
    node.agent.voted = lambda _offer, _manifest: coming
    return coming


def certified(done: SubmitCommitment) -> SubmitCommitment:
    delta = Delta(done.commitment.task, done.commitment.result)
    return replace(done, certificate=Certificate(Phase.COMMIT, 1, (delta,), b"\1", BlsSignature(bytes(96))))


async def test_a_verifier_is_given_what_was_done_unasked_once_a_round_has_taken_it(start: Callable[..., Any]) -> None:
    node: Node = await start(**SMALL)
    coming, offer = as_voter(node), node.offer(0)
    done = await node.agent.do(offer)
    assert await node.agent.do(offer) == done and not node.links.delivered, "once, and for nobody yet"
    assert all(node.store.has(cid) for cid in (done.commitment.result, *done.trace))
    node.agent._settings = replace(node.agent._settings, tasks_held=0)
    answer = await node.agent.offer_task(CONNECTION, offer, UNUSED)
    assert answer.proceed, answer.reason
    await until(lambda: any(work.waits for work in node.agent.works))
    assert not node.links.delivered
    coming.set_result(certified(done))
    await until(lambda: node.links.delivered)
    assert node.links.delivered == [certified(done)]
    await until(lambda: not node.journal.open_tasks())
    own, owed = node.agent._wallet.address, CONNECTION.peer
    assert {held.verifier for held in node.journal.held()} == {own, owed}
    assert node.journal.kept_bytes() < 2 * sum(node.store.size(cid) for cid in done.trace), "one copy"
    assert node.journal.submission(owed, offer) == certified(done)


async def test_what_is_to_be_made_of_other_results_is_done_like_any_other_task(start: Callable[..., Any]) -> None:
    node: Node = await start(**SMALL)
    coming, offer = as_voter(node), node.offer(0)
    assert (await node.agent.offer_task(CONNECTION, offer, UNUSED)).proceed
    coming.set_result(None)
    await until(lambda: node.links.delivered)
    assert node.links.delivered[0].certificate is None


async def test_what_is_called_off_while_its_round_is_waited_for_is_not_owed(start: Callable[..., Any]) -> None:
    node: Node = await start(**SMALL)
    coming, offer = as_voter(node), node.offer(0)
    assert (await node.agent.offer_task(CONNECTION, offer, UNUSED)).proceed
    await until(lambda: any(work.waits for work in node.agent.works))
    assert await node.agent.close("it is night", at_once=True) == [], "waiting takes nothing"
    await node.agent.cancel_tasks(CONNECTION, CancelTasks(((JobId(1), TaskIndex(0)),), "no round takes it"), UNUSED)
    assert not node.agent.works and not node.journal.open_tasks()
    await until(lambda: coming.cancelled())
    assert not node.links.delivered and not node.links.handed_back


async def test_a_node_that_takes_nothing_does_nothing_unasked(start: Callable[..., Any]) -> None:
    node: Node = await start(**SMALL)
    await node.agent.close("it is night", at_once=False)
    with pytest.raises(NotDone, match="it is night"):
        await node.agent.do(node.offer(0))


async def test_what_its_round_does_without_is_interrupted(start: Callable[..., Any]) -> None:
    node: Node = await start(**SMALL | {"segments": 400, "segment_steps": 50})
    doing = asyncio.create_task(node.agent.do(node.offer(0)))
    await until(lambda: node.agent.current is not None)
    doing.cancel()
    await asyncio.gather(doing, return_exceptions=True)
    await until(lambda: node.agent.current is None)
    assert not node.journal.open_tasks()
