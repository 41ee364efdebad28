"""What a node keeps of its tasks, and that what it owes can be had all the same, whatever became of its disk."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from machine import UNUSED, Node, until
from stand_ins import CONNECTION, VERIFIER, member_of

from proofyard.artifacts import BlockStore, cid_of_bytes
from proofyard.artifacts.exchange import HasBlocks
from proofyard.node import retention as retention_module
from proofyard.node import serving
from proofyard.node.journal import HeldTask
from proofyard.node.keeping import Keeping
from proofyard.node.repair import Debts
from proofyard.protocol.cid import cid_bytes, cid_digest, raw_cid
from proofyard.protocol.manifest import Manifest, TaskSpec, encode_manifest
from proofyard.protocol.messages import SubmitCommitment, SubmitCommitments, TaskOffer
from proofyard.protocol.types import JobId, TaskIndex
from proofyard.workloads.errors import OutOfDisk
from proofyard.workloads.executor import TaskTrace
from proofyard.workloads.lora import WORKLOAD


def trace_of(folder: Path, states: int, size: int) -> TaskTrace:
    folder.mkdir()
    paths = [folder / str(number) for number in range(states)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * size)
    result = folder / "result"
    result.write_bytes(b"made of the last")
    return TaskTrace(tuple(paths), result, 0)


async def test_a_state_that_was_not_kept_is_computed_again_when_a_peer_asks(start: Callable[..., Any]) -> None:
    node: Node = await start(budget=30_000, segments=5, segment_steps=1)
    trace = await node.work()
    kept = [number for number, cid in enumerate(trace) if node.file(cid).exists()]
    assert kept == [0, 3], "a state has 13 KB, two fit"
    assert node.journal.kept_bytes() <= 30_000

    await node.agent.offer_task(CONNECTION, node.offer(1), UNUSED)
    held = await node.asked[HasBlocks](CONNECTION, HasBlocks(cid_bytes(trace[5])), UNUSED)
    assert held.held == b"\x01", "it can be had from here, and from nobody else"
    await node.given(trace[5])
    assert cid_of_bytes(node.store.get_bytes(trace[5])) == trace[5]
    assert not await node.get(cid_of_bytes(b"something else"))


@pytest.mark.parametrize("damage", ["deleted", "corrupt"])
async def test_damage_to_a_kept_state_is_repaired_before_anybody_is_told_that_it_is_not_here(
    start: Callable[..., Any], damage: str
) -> None:
    node: Node = await start(budget=1 << 20, segments=3, segment_steps=1)
    trace = await node.work()
    if damage == "deleted":
        node.lose(trace[2])
    else:
        data = bytearray(node.file(trace[2]).read_bytes())
        data[-9] ^= 1
        node.file(trace[2]).write_bytes(data)
    await node.given(trace[2])
    assert cid_of_bytes(node.store.get_bytes(trace[2])) == trace[2]


async def test_a_state_is_made_again_although_the_one_that_it_was_thinned_to_is_damaged(
    start: Callable[..., Any],
) -> None:
    node: Node = await start(budget=30_000, segments=5, segment_steps=1)
    trace = await node.work()
    for cid in (trace[0], trace[3]):
        node.lose(cid)
    await node.given(trace[5])
    assert node.file(trace[3]).exists() and node.file(trace[0]).exists(), "what is kept is whole again too"


async def test_a_result_that_was_lost_is_made_again_from_the_states(start: Callable[..., Any]) -> None:
    node: Node = await start(budget=30_000, segments=5, segment_steps=1)
    trace = await node.work()
    result = node.links.delivered[0].commitment.result
    if result not in trace:
        node.lose(result)
        node.lose(trace[3])
        await node.given(result)


async def test_damage_is_found_before_anybody_asks(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_module, "CHECK_PAUSE_S", 0.0)
    node: Node = await start(budget=1 << 20, segments=3, segment_steps=1)
    trace = await node.work()
    node.lose(trace[1])
    node.file(trace[2]).write_bytes(b"rubbish")
    await node.retention.inspect(node.agent.owe)
    await until(lambda: node.file(trace[1]).exists() and node.file(trace[2]).exists())
    assert cid_of_bytes(node.store.get_bytes(trace[2])) == trace[2]


SALT = bytes(32)


def test_a_state_that_two_tasks_share_is_owed_until_both_are_final(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "blocks")
    shared, own = store.put_bytes(b"the same first state"), [store.put_bytes(bytes([n]) * 9) for n in range(2)]
    tasks = [
        HeldTask(VERIFIER.address, task, SubmitCommitment(member.commitment, member.signature, member.trace, SALT), 1)
        for number in range(2)
        for spec in [TaskSpec(index=TaskIndex(number), kind="t")]
        for task in [TaskOffer(JobId(1), raw_cid(b"m"), spec, (), (), 15.0)]
        for member in [member_of(JobId(1), raw_cid(b"m"), spec, (shared, own[number]), own[number])]
    ]
    debts = Debts(store)
    debts.follow(tasks)
    debts.follow(tasks[1:])
    assert debts.incomplete() == []
    store_file = store.path / "blocks" / shared[-2:] / shared
    store_file.unlink()
    assert [owed.cid for owed in debts.incomplete()] == [shared]
    assert debts.of(own[0]) is None and debts.of(own[1]) is not None
    debts.follow([])
    assert debts.incomplete() == [] and debts.of(shared) is None


async def test_what_does_not_come_out_again_is_not_tried_for_everybody_who_asks(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    node: Node = await start(budget=1 << 20, segments=2, segment_steps=1)
    trace = await node.work()
    runs = 0

    async def another(*_: Any, **__: Any) -> bytes:
        nonlocal runs
        runs += 1
        return b"another state"

    monkeypatch.setattr(node.agent._executor, "run_segment", another)
    node.lose(trace[2])
    for _ in range(3):
        assert not await node.get(trace[2])
    assert runs == 1


async def test_whoever_asks_waits_no_longer_than_peers_do(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MEND_S", 0.05)
    node: Node = await start(budget=1 << 20, segments=5, segment_steps=1)
    trace = await node.work()
    answer = await node.agent.offer_task(CONNECTION, longer(node), UNUSED)
    assert answer.proceed, answer.reason
    await until(lambda: node.agent._executor.busy)
    stop, may_stop = node.agent._executor.stop, asyncio.Event()

    async def stop_later() -> None:
        await may_stop.wait()
        await stop()

    monkeypatch.setattr(node.agent._executor, "stop", stop_later)
    node.lose(trace[3])
    assert not await node.get(trace[3])
    may_stop.set()
    await until(lambda: node.file(trace[3]).exists())
    await node.given(trace[3])


async def test_a_running_task_makes_way_for_a_state_that_is_owed_and_goes_on(start: Callable[..., Any]) -> None:
    node: Node = await start(budget=30_000, segments=5, segment_steps=1)
    trace = await node.work()
    answer = await node.agent.offer_task(CONNECTION, longer(node), UNUSED)
    assert answer.proceed, answer.reason
    await until(lambda: node.agent._executor.busy)
    await node.given(trace[2])
    assert len(node.links.delivered) == 1, "the state is there before the task that was interrupted is done"
    assert [offer.job for _, offer, done in node.journal.open_tasks() if done is None] == [JobId(2)]
    await until(lambda: node.agent._executor.busy)


def longer(node: Node) -> TaskOffer:
    """A task of job 2 that takes minutes."""
    manifest = msgspec.msgpack.decode(node.store.get_bytes(node.manifest), type=Manifest)
    slow = msgspec.structs.replace(manifest, params=manifest.params | {"segment_steps": 1 << 16, "segments": 5})
    cid = node.store.put_bytes(encode_manifest(slow))
    node.chain.manifests[JobId(2)] = cid_digest(cid)
    return TaskOffer(JobId(2), cid, WORKLOAD.graph(slow)[1], (), (), 15.0)


async def test_what_is_promised_is_on_the_disk_before_it_leaves(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    left: list[list[str]] = []
    node: Node = await start(budget=1 << 20, segments=2, segment_steps=1)
    flush, send = os.fsync, node.links.try_request

    def fsync(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        flush(handle)

    async def try_request(verifier: Any, message: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(message, SubmitCommitments):
            left.append(list(synced))
        return await send(verifier, message, *rest, **more)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(node.links, "try_request", try_request)
    trace = await node.work()
    promised = {*trace, node.links.delivered[0].commitment.result}
    assert promised <= set(left[0])
    assert left[0][-1] == "node.db-wal", "and so is what is noted of it"
    assert not any((node.agent._settings.data_dir / "executor").glob("*/*.safetensors")), "nothing is kept twice"


async def test_states_are_let_go_when_their_batch_is_final_and_not_before(start: Callable[..., Any]) -> None:
    node: Node = await start(budget=1 << 20, segments=2, segment_steps=1)
    trace = await node.work()
    submission = node.links.delivered[0]
    other = member_of(JobId(1), node.manifest, node.offer(1).task, trace, submission.commitment.result)
    members = [msgspec.structs.replace(other, commitment=submission.commitment)]
    node.chain.commit(node.store, members)
    await node.retention.tidy(grace_s=-1)
    assert all(node.store.has(cid) for cid in trace)
    assert node.store.has(node.manifest)

    node.chain.time = 161
    node.chain.commit(node.store, members)
    await node.retention.tidy(grace_s=-1)
    assert node.journal.held() == []
    leases = list((node.store.path / "pins").iterdir())
    assert leases, "what was needed a moment ago stays until its lease is over"
    for lease in leases:
        lease.unlink()
    await node.retention.tidy(grace_s=-1)
    assert not any(node.store.has(cid) for cid in (*trace, node.manifest))
    assert not await node.get(trace[1]), "nothing is owed any more"


async def test_a_task_whose_states_do_not_fit_at_all_is_refused(start: Callable[..., Any], tmp_path: Path) -> None:
    node: Node = await start(budget=250)
    trace = trace_of(tmp_path / "one", 6, 100)
    kept = node.retention.keep(trace)
    assert (len(kept.states), kept.every, kept.state_bytes) == (6, 3, 100)
    assert node.store.get_bytes(kept.result) == trace.result.read_bytes()
    with pytest.raises(OutOfDisk, match="the disk budget for states is 250"):
        node.retention.keep(trace_of(tmp_path / "two", 2, 251))


async def test_states_are_stored_while_their_task_runs_and_none_is_collected_before_it_ends(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    node: Node = await start(budget=1 << 20)
    trace = trace_of(tmp_path / "task", 6, 100)
    async with Keeping(node.retention, 5) as keeping:
        for number, path in enumerate(trace.states[:-1]):
            keeping.take(number, path)
        early = [cid_of_bytes(path.read_bytes()) for path in trace.states[:-1]]
        await until(lambda: all(node.store.has(cid) for cid in early))
        await node.retention.tidy(grace_s=-1)
        kept = await keeping.finish(trace)
        assert (kept.states[:-1], kept.every) == (tuple(early), 1)
        assert all(node.store.has(cid) for cid in (*kept.states, kept.result))
    await node.retention.tidy(grace_s=-1)
    assert all(node.store.has(cid) for cid in kept.states[:-1]), "until their leases are over"


async def test_states_that_do_not_all_fit_are_stored_when_it_is_known_which(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    node: Node = await start(budget=250)
    trace = trace_of(tmp_path / "task", 6, 100)
    async with Keeping(node.retention, 5) as keeping:
        for number, path in enumerate(trace.states):
            keeping.take(number, path)
        kept = await keeping.finish(trace)
    assert kept.every == 3
    assert [node.store.has(cid) for cid in kept.states] == [True, False, False, True, False, False]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"budget": 100}, "the disk budget for states is 100"),
        ({"budget": 1 << 30, "memory": 1 << 30, "batch": 4096, "seq_len": 64}, "segment 0 does not fit in memory"),
    ],
)
async def test_a_node_without_room_says_so_and_hands_the_task_back(
    start: Callable[..., Any], limits: dict[str, int], reason: str
) -> None:
    node: Node = await start(**{"segments": 1, "segment_steps": 1} | limits)
    await node.agent.offer_task(CONNECTION, node.offer(0), UNUSED)
    await until(lambda: node.links.handed_back)
    assert reason in node.links.handed_back[0].reason
    assert not node.links.delivered
    assert node.journal.open_tasks() == node.journal.held() == []
