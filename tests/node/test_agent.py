"""Work for several verifiers at once: whatever one of them does, the others' is done and delivered."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from machine import UNUSED, Node, until
from stand_ins import CONNECTION, SEED, VERIFIER, member_of, receipt_for

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import Wallet
from proofyard.node import agent as agent_module
from proofyard.node import delivery, supplies
from proofyard.node.journal import Journal
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.messages import AuditOffer, CancelTasks, SubmitSeals, TaskOffer
from proofyard.protocol.types import BatchId, Cid, JobId, SegmentIndex, TaskIndex
from proofyard.workloads.lora import WORKLOAD

DEAF = Wallet.generate()
FROM_DEAF: Any = SimpleNamespace(peer=DEAF.address)
SMALL = {"budget": 1 << 20, "segments": 2, "segment_steps": 1}


def audit_of(node: Node, trace: tuple[Cid, ...], task: int = 0) -> AuditOffer:
    """An audit of the first segment of a task of job 1 with these states."""
    spec = node.offer(task).task
    node.chain.commit(node.store, [member_of(JobId(1), node.manifest, spec, trace, trace[-1])])
    place = (JobId(1), node.manifest, spec, SegmentIndex(0))
    return AuditOffer(BatchId(3), SEED, *place, trace[0], (), 15.0)


def another(node: Node, job: int, **changes: Any) -> TaskOffer:
    """A task of another job, with its manifest changed."""
    manifest = msgspec.msgpack.decode(node.store.get_bytes(node.manifest), type=Manifest)
    other = msgspec.structs.replace(manifest, seed=job, **changes)
    cid = node.store.put_bytes(encode_manifest(other))
    node.chain.manifests[JobId(job)] = cid_digest(cid)
    return TaskOffer(JobId(job), cid, WORKLOAD.graph(other)[0], (), (), 15.0)


async def test_a_verifier_that_never_answers_freezes_neither_tasks_nor_audits_of_others(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "LAST_RETRY_S", 1.0)
    node: Node = await start(**SMALL)
    node.links.deaf.add(DEAF.address)
    answer = await node.agent.offer_task(FROM_DEAF, node.offer(0), UNUSED)
    assert answer.proceed, answer.reason
    await until(lambda: node.links.delivered)
    trace = node.links.delivered[0].trace

    audit = audit_of(node, trace)
    assert (await node.agent.offer_audit(CONNECTION, audit, UNUSED)).proceed
    await until(lambda: (VERIFIER.address, SubmitSeals) in [(who, type(what)) for who, what in node.links.sent])
    task = another(node, 2)
    answer = await node.agent.offer_task(CONNECTION, task, UNUSED)
    assert answer.proceed, answer.reason
    await until(lambda: any(done.commitment.job == 2 for done in node.links.delivered))
    assert [offer.job for _, offer, done in node.journal.open_tasks() if done] == [JobId(1)]

    # As soon as it hears again it is given what it is owed.
    node.links.deaf.clear()
    node.links.receipts = lambda commitment: receipt_for(commitment, DEAF if commitment.job == 1 else VERIFIER)
    await until(lambda: not node.journal.open_tasks())
    receipts = node.journal.receipts(0)
    assert {(receipt.job, receipt.verifier) for receipt in receipts} == {(1, DEAF.address), (2, VERIFIER.address)}


async def test_a_finished_task_is_delivered_after_a_restart_and_dropped_when_it_is_of_no_use(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "OVER_EVERY_S", 0.1)
    node: Node = await start(**SMALL)
    node.links.deaf.add(DEAF.address)
    await node.agent.offer_task(FROM_DEAF, node.offer(0), UNUSED)
    await until(lambda: node.links.delivered)
    node.agent._courier._queues[DEAF.address].worker.cancel()  # type: ignore[union-attr]

    again = Journal(node.agent._settings.data_dir / "node.db")
    ((verifier, offer, submission),) = again.open_tasks()
    assert submission == node.links.delivered[0]
    node.agent._courier = delivery.Courier(node.links, node.agent._secure)  # type: ignore[arg-type]
    sent = len(node.links.delivered)
    node.agent._deliver_commitment(verifier, offer, submission)
    await until(lambda: len(node.links.delivered) > sent)
    assert again.open_tasks()
    node.chain.over = True
    await until(lambda: not again.open_tasks())
    assert again.held(), "its states stay until nothing can come of it: it may have arrived"
    again.close()


async def test_inputs_that_never_come_keep_no_other_verifiers_task_away(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supplies, "SILENCE_S", 3.0)
    node: Node = await start(**SMALL)
    node.agent._settings = msgspec.structs.replace(node.agent._settings, tasks_held=1)
    silent = asyncio.Event()
    waits = asyncio.Event()

    async def blocks(_cids: Any) -> Any:
        silent.set()
        await waits.wait()
        yield None

    monkeypatch.setattr(node.links, "blocks", blocks)
    stuck = another(node, 2, data=cid_of_bytes(b"data that nobody sends"))
    assert (await node.agent.offer_task(FROM_DEAF, stuck, UNUSED)).proceed
    await asyncio.wait_for(silent.wait(), 60)
    assert "busy" in (await node.agent.offer_task(FROM_DEAF, node.offer(0), UNUSED)).reason, "one of each verifier"
    answer = await node.agent.offer_task(CONNECTION, node.offer(0), UNUSED)
    assert answer.proceed, answer.reason
    await until(lambda: node.links.delivered)
    await until(lambda: node.links.handed_back)
    assert "nobody sent anything of the data" in node.links.handed_back[0].reason


async def test_what_was_cancelled_before_it_began_is_not_taken_up_after_a_restart(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    node: Node = await start(**SMALL)
    waits = asyncio.Event()

    async def gather(_work: Any) -> None:
        await waits.wait()

    monkeypatch.setattr(node.agent, "_gather", gather)
    offer = node.offer(0)
    assert (await node.agent.offer_task(CONNECTION, offer, UNUSED)).proceed
    keys = ((offer.job, offer.task.index), (offer.job, TaskIndex(99)))
    answers = await node.agent.cancel_tasks(CONNECTION, CancelTasks(keys, "done elsewhere"), UNUSED)
    assert len(answers.answers) == 2, "what it does not have is called off as well"
    waits.set()
    await until(lambda: not node.agent._accepted)
    assert node.journal.open_tasks() == []
    assert node.links.handed_back == [], "its verifier knows"


async def test_reports_to_one_that_does_not_answer_delay_no_others(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "LEAST_BEAT_S", 0.02)
    monkeypatch.setattr(agent_module, "MOST_BEAT_S", 0.02)
    node: Node = await start(**SMALL)
    heard: list[str] = []
    waits = asyncio.Event()

    async def try_request(verifier: str, _message: Any, _reply: object, **_: Any) -> None:
        heard.append(verifier)
        if verifier == DEAF.address:
            await waits.wait()

    monkeypatch.setattr(node.links, "try_request", try_request)
    for verifier in (DEAF.address, VERIFIER.address):
        work = agent_module.Work(verifier, node.offer(0))
        node.agent._accepted[work.key] = work
    beating = asyncio.create_task(node.agent.beat())
    await until(lambda: heard.count(VERIFIER.address) > 3)
    assert heard.count(DEAF.address) == 1
    beating.cancel()


async def test_a_place_is_free_at_once_when_a_task_is_called_off_and_the_same_task_can_be_taken_again(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    node: Node = await start(**SMALL)
    node.agent._settings = msgspec.structs.replace(node.agent._settings, tasks_held=1)
    waits, gather = asyncio.Event(), node.agent._gather

    async def gather_later(work: Any) -> None:
        await waits.wait()
        await gather(work)

    monkeypatch.setattr(node.agent, "_gather", gather_later)
    first, second = node.offer(0), another(node, 2)
    assert (await node.agent.offer_task(CONNECTION, first, UNUSED)).proceed
    assert "busy" in (await node.agent.offer_task(CONNECTION, second, UNUSED)).reason
    for offer in (first, second):
        called_off = CancelTasks(((offer.job, offer.task.index),), "done elsewhere")
        await node.agent.cancel_tasks(CONNECTION, called_off, UNUSED)
        again = second if offer is first else first
        answer = await node.agent.offer_task(CONNECTION, again, UNUSED)
        assert answer.proceed, answer.reason
    waits.set()
    await until(lambda: node.links.delivered)
    assert [done.commitment.job for done in node.links.delivered] == [1], "it was called off, and is wanted again"
    await until(lambda: not node.agent._accepted)
    assert node.journal.open_tasks() == [] and len(node.journal.held()) == 1
