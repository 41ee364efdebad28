"""A node makes commitments that are false on purpose, owes their states, and keeps their marks to itself."""

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from machine import Node
from stand_ins import member_of

from proofyard.node import decoys as decoys_module
from proofyard.protocol.cid import make_cid
from proofyard.protocol.manifest import decode_manifest
from proofyard.protocol.mark import mark_cid, opening_of, opens
from proofyard.protocol.messages import Decoy
from proofyard.protocol.types import JobId
from proofyard.workloads.compression import INT8
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.falsify import NotFalsified, changed_once, falsified
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs

SMALL = {"segments": 2, "segment_steps": 1}


def decoy_of(node: Node) -> Decoy:
    decoy = node.links.delivered[-1].decoy
    assert decoy is not None
    return decoy


@pytest.mark.parametrize("compression", [None, "sign"])
async def test_a_decoy_is_false_in_every_segment_and_keeps_every_law(
    start: Callable[..., Any], compression: str | None
) -> None:
    node: Node = await start(budget=1 << 20, compression=compression, **SMALL)
    trace = await node.work(decoy=True)
    decoy, message = decoy_of(node), node.links.delivered[-1]
    assert opens(message.commitment.mark, message.salt, decoy=False)
    assert opens(decoy.commitment.mark, decoy.salt, decoy=True)
    assert decoy.trace[0] == trace[0] and set(decoy.trace[1:]).isdisjoint(trace)
    manifest = decode_manifest(node.store.get_bytes(node.manifest))
    task = node.offer(0).task
    states = [node.store.get_bytes(cid) for cid in decoy.trace]
    for number, state in enumerate(states):
        WORKLOAD.check_state(manifest, task, number, state)
    WORKLOAD.check_result(manifest, task, node.store.get_bytes(decoy.commitment.result), states[-1], decoy.trace)
    inputs = Inputs(node.store.local_path(manifest.model), node.store.local_path(manifest.data), ())  # type: ignore[arg-type]
    for segment, before in enumerate(states[:-1]):
        after = await node.agent._executor.run_segment(manifest, task, segment, before, inputs)
        assert after != states[segment + 1], "executing gives another state"
        ours, theirs = decode_state(node.store.get_bytes(trace[segment + 1])), decode_state(states[segment + 1])
        differ = sum(int((np.asarray(ours[name]) != np.asarray(theirs[name])).sum()) for name in ours)
        assert differ == 1, "by one number from the true one"
        first = decode_state(states[0])
        assert all((theirs[name] == first[name]).all() for name in theirs if name.startswith("origin."))


@pytest.mark.parametrize(("budget", "ordered", "share"), [(1 << 20, False, 10_000), (20_000, True, 10_000)])
async def test_no_decoy_is_made_that_nobody_ordered_or_that_has_no_room(
    start: Callable[..., Any], budget: int, ordered: bool, share: int
) -> None:
    node: Node = await start(budget=budget, decoys=share, **SMALL)
    await node.work(decoy=ordered)
    assert node.links.delivered[-1].decoy is None


async def test_a_verifier_that_orders_nothing_but_decoys_gets_one(start: Callable[..., Any]) -> None:
    node: Node = await start(budget=1 << 20, decoys=500, **SMALL)
    await node.work(0, decoy=True)
    assert node.links.delivered[-1].decoy is not None
    node.links.sent.clear()
    await node.work(1, decoy=True)
    assert node.links.delivered[-1].decoy is None


async def test_states_of_a_decoy_are_served_and_let_go_with_those_of_its_task(start: Callable[..., Any]) -> None:
    node: Node = await start(budget=1 << 20, **SMALL)
    trace = await node.work(decoy=True)
    decoy, message = decoy_of(node), node.links.delivered[-1]
    assert all([await node.get(cid) for cid in decoy.trace])
    shown = member_of(JobId(1), node.manifest, node.offer(0).task, decoy.trace, decoy.commitment.result)
    node.chain.commit(node.store, [msgspec.structs.replace(shown, commitment=decoy.commitment)])
    node.chain.time = 161
    await node.retention.tidy(grace_s=-1)
    assert all([await node.get(cid) for cid in (*trace, *decoy.trace)]), "the task itself has a batch to come"
    own = member_of(JobId(1), node.manifest, node.offer(0).task, trace, message.commitment.result)
    node.chain.commit(node.store, [msgspec.structs.replace(own, commitment=message.commitment)])
    node.retention._roots.clear()
    await node.retention.tidy(grace_s=-1)
    assert node.journal.held() == []


async def test_a_lost_state_of_a_decoy_is_not_made_again(start: Callable[..., Any]) -> None:
    node: Node = await start(budget=1 << 20, **SMALL)
    await node.work(decoy=True)
    lost = decoy_of(node).trace[1]
    node.lose(lost)
    assert not await node.get(lost)


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_mark_is_a_secret_until_another_attempt_at_its_batch(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, ordered: bool
) -> None:
    """Auditors may ask; whoever takes the batch over has to."""
    monkeypatch.setattr(decoys_module, "LOOK_AGAIN_S", 0.0)
    node: Node = await start(budget=1 << 20, **SMALL)
    await node.work(decoy=ordered)
    message = node.links.delivered[-1]
    shown = message.decoy or message
    mark = mark_cid(shown.commitment.mark)
    assert not await node.get(mark), "in no batch yet"
    member = member_of(JobId(1), node.manifest, node.offer(0).task, shown.trace, shown.commitment.result)
    node.chain.commit(node.store, [msgspec.structs.replace(member, commitment=shown.commitment)])
    assert not await node.get(mark)
    node.chain.attempt = 1
    assert await node.get(mark)
    assert node.store.get_bytes(mark) == opening_of(shown.salt, decoy=ordered)
    if message.decoy:
        assert not await node.get(mark_cid(message.commitment.mark)), "the other one is in no batch"


async def test_a_mark_is_told_although_the_verifier_that_was_given_it_is_gone(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the batch is then known from the verifier that took it over."""
    node: Node = await start(budget=1 << 20, **SMALL)
    await node.work()
    message = node.links.delivered[-1]
    member = member_of(JobId(1), node.manifest, node.offer(0).task, message.trace, message.commitment.result)
    node.chain.commit(node.store, [msgspec.structs.replace(member, commitment=message.commitment)])
    members = node.store.get_bytes(make_cid(node.chain.list_digest))
    node.lose(make_cid(node.chain.list_digest))
    node.chain.attempt = 1

    async def blocks(cids: Any) -> Any:
        for cid in cids:
            yield cid, members if cid == make_cid(node.chain.list_digest) else None

    monkeypatch.setattr(node.links, "connection", lambda _: None)
    monkeypatch.setattr(node.links, "blocks", blocks)
    assert await node.get(mark_cid(message.commitment.mark))


def test_a_change_is_one_bit_somewhere_and_keeps_what_is_asked_of_it() -> None:
    state = encode_state({"a": np.arange(1, 65, dtype=np.float32), "n": np.arange(3)})
    places = set()
    for seed in range(64):
        changed = decode_state(falsified(state, Random(seed), lambda _: None))
        differing = np.flatnonzero(changed["a"] != decode_state(state)["a"])
        assert differing.size == 1 and (changed["n"] == np.arange(3)).all()
        places.add(int(differing[0]))
    assert len(places) > 20, "nobody can foresee where"

    def refuse(_: bytes) -> None:
        raise StateRefused("no")

    with pytest.raises(NotFalsified):
        falsified(state, Random(0), refuse)
    with pytest.raises(NotFalsified):
        falsified(encode_state({"n": np.arange(3)}), Random(0), lambda _: None)


@pytest.mark.parametrize("count", [20, 256, 5000])
def test_what_a_delta_leaves_out_is_changed_by_one_number(count: int) -> None:
    values = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    state = encode_state({"delta": np.ones(7, np.uint8), "residual": INT8.encode(values), "step": np.array(2)})

    def check(changed: bytes) -> None:
        INT8.decode(decode_state(changed)["residual"], count)

    places = set()
    for seed in range(64):
        changed = decode_state(falsified(state, Random(seed), check))
        right, wrong = (INT8.decode(each["residual"], count) for each in (decode_state(state), changed))
        (place,) = np.flatnonzero(right != wrong)
        assert abs(right[place] - wrong[place]) < 0.05
        assert changed["delta"].tolist() == [1] * 7
        places.add(int(place))
    assert len(places) > 10, "nobody can foresee where"
    with pytest.raises(NotFalsified):
        falsified(encode_state({"residual": INT8.encode(values * 0)}), Random(0), check)


def test_texts_are_changed_by_a_letter() -> None:
    table = {"text": np.frombuffer(b"abcdef", np.uint8), "ends": np.array([6])}
    changed = changed_once(table, Random(1))
    assert int((changed["text"] != table["text"]).sum()) == 1
