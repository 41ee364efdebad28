"""What a node answers to an audit, and what it does with a task that nobody can execute."""

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from machine import until
from stand_ins import CONNECTION, DOMAIN, SEED, VERIFIER, FakeChain, FakeLinks, member_of

from proofyard.artifacts import BlockStore, cid_of_bytes
from proofyard.chain import Wallet
from proofyard.node.adversary import CopyingAuditor, FalseAccuser, LazyAuditor
from proofyard.node.agent import Agent
from proofyard.node.journal import Journal
from proofyard.node.limits import OfferRefused
from proofyard.node.service import offered
from proofyard.node.settings import NodeSettings
from proofyard.node.work import Work
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.messages import AuditFailed, AuditOffer, OpenSeal, OpenSeals, SealOpened, TaskFailed, TaskOffer
from proofyard.protocol.seal import CANNOT_EXECUTE, MAX_REASON, keyed_digest, seal_of, seal_struct_hash
from proofyard.protocol.signature import require_signer
from proofyard.protocol.types import BatchId, Cid, Digest, JobId, SegmentIndex, TaskIndex
from proofyard.workloads.errors import OutOfMemory, SegmentFailed
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs

MANIFEST = Manifest(
    workload="lora",
    model=cid_of_bytes(b"model"),
    data=cid_of_bytes(b"data"),
    params={
        "modules": {"m": (4, 4)},
        "rank": 2,
        "alpha": 1.0,
        "lr": 0.1,
        "rounds": 2,
        "workers": 1,
        "segments": 2,
        "segment_steps": 1,
        "batch": 1,
        "seq_len": 8,
    },
)
TASK = WORKLOAD.graph(MANIFEST)[0]
FIRST = WORKLOAD.initial_state(MANIFEST, TASK, Inputs())
SECOND = encode_state(dict(decode_state(FIRST)) | {"step": np.array(1, np.int64)})
AFTER = b"the state after"


class Bench:
    """An agent whose executor gives `outcome`."""

    def __init__(self, folder: Path, outcome: bytes | Exception, kind: type[Agent] = Agent) -> None:
        self.outcome, self.executed = outcome, 0
        self.store = BlockStore(folder / "blocks")
        self.journal = Journal(folder / "node.db")
        self.links, self.chain, self.wallet = FakeLinks(), FakeChain(), Wallet.generate()
        self.manifest = self.store.put_bytes(encode_manifest(MANIFEST))
        self.chain.manifests[JobId(1)] = cid_digest(self.manifest)
        for content in (b"model", b"data", FIRST, SECOND):
            self.store.put_bytes(content)
        parts: tuple[Any, ...] = (
            NodeSettings(registry=DOMAIN.registry, wallet=folder, data_dir=folder),
            self.wallet,
            self.chain,
            SimpleNamespace(on=lambda *_: None),
            self.links,
            self.store,
            self,
            self.journal,
            SimpleNamespace(note_held=lambda: None, room=lambda: 0, arrived=lambda _: None),
        )
        self.agent = kind(*parts)

    async def run_segment(self, *_: Any, **__: Any) -> bytes:
        self.executed += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    run_task = run_segment

    def offer(self, before: bytes, segment: int = 1) -> AuditOffer:
        """An audit of a task of batch 3 whose states are the two that there are, and `before` where it is asked for."""
        trace: list[Cid] = [cid_of_bytes(FIRST), cid_of_bytes(SECOND), cid_of_bytes(AFTER)]
        trace[segment] = self.store.put_bytes(before)
        self.chain.commit(self.store, [member_of(JobId(1), self.manifest, TASK, trace, trace[-1])])
        place = (JobId(1), self.manifest, TASK, SegmentIndex(segment))
        return AuditOffer(BatchId(3), SEED, *place, trace[segment], (), 15.0)

    async def audit(self, before: bytes, segment: int = 1) -> SealOpened | None:
        offer = self.offer(before, segment)
        self.journal.accept_audit(VERIFIER.address, offer)
        work = Work(VERIFIER.address, offer)
        await self.agent._gather(work)
        await self.agent._audit(work, offer)
        request = OpenSeal(offer.batch, offer.job, TASK.index, offer.segment)
        return self.journal.opening(VERIFIER.address, request)


async def test_an_answer_is_a_digest_keyed_for_this_node_and_no_state_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AFTER)
    opened = await bench.audit(SECOND)
    assert opened is not None
    assert (opened.after, opened.reason, len(opened.salt)) == (cid_digest(cid_of_bytes(AFTER)), "", 32)
    assert opened.keyed == keyed_digest(SEED, bench.wallet.address, AFTER)
    assert not bench.store.has(cid_of_bytes(AFTER))


async def test_a_defined_failure_is_an_answer_keyed_with_the_state_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SegmentFailed(1, "the loss is NaN " * 50))
    opened = await bench.audit(SECOND)
    assert opened is not None
    assert opened.after == CANNOT_EXECUTE
    assert opened.keyed == keyed_digest(SEED, bench.wallet.address, SECOND)
    assert opened.reason.startswith("segment 1 failed: the loss is NaN") and len(opened.reason) == MAX_REASON


async def test_a_state_that_breaks_a_law_cannot_be_executed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AFTER)
    opened = await bench.audit(FIRST)
    assert opened is not None
    assert (opened.after, bench.executed) == (CANNOT_EXECUTE, 0)


async def test_what_this_machine_alone_lacks_is_no_answer(tmp_path: Path) -> None:
    bench = Bench(tmp_path, OutOfMemory("the limit was reached"))
    with pytest.raises(OutOfMemory):
        await bench.audit(SECOND)
    assert bench.links.seals == []
    bench.agent._hand_back(Work(VERIFIER.address, bench.offer(SECOND)), "the limit was reached")
    await settle(bench)
    assert isinstance(bench.links.handed_back[0], AuditFailed)


async def test_a_worker_reports_a_defined_failure_and_commits_to_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SegmentFailed(0, "the loss is NaN"))
    offer = TaskOffer(JobId(1), bench.manifest, TASK, (), (), 15.0)
    bench.journal.accept_task(VERIFIER.address, offer)
    await bench.agent._work(Work(VERIFIER.address, offer))
    await settle(bench)
    assert [(type(message), message.reason) for message in bench.links.handed_back] == [
        (TaskFailed, "segment 0 failed: the loss is NaN")
    ]
    assert (bench.links.delivered, bench.journal.held(), bench.journal.open_tasks()) == ([], [], [])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": Digest(bytes(32))}, "seed"),
        ({"before": cid_of_bytes(FIRST)}, "before"),
        ({"task": WORKLOAD.graph(MANIFEST)[1]}, "task"),
        ({"segment": SegmentIndex(2), "before": cid_of_bytes(AFTER)}, "task"),
    ],
)
async def test_a_verifier_cannot_have_an_auditor_answer_something_else(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    """Otherwise the answer that it seals would convict it."""
    bench = Bench(tmp_path, AFTER)
    with pytest.raises(OfferRefused) as refusal:
        await bench.agent._gather(Work(VERIFIER.address, msgspec.structs.replace(bench.offer(SECOND), **change)))
    assert refusal.value.field == field
    assert bench.executed == 0


async def test_a_segment_has_one_seal_however_often_and_by_whomever_it_is_offered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AFTER)
    opened = await bench.audit(SECOND)
    assert opened is not None
    other = Wallet.generate().address
    for verifier in (VERIFIER.address, other):
        bench.chain.leader = verifier
        offered = SimpleNamespace(peer=verifier)
        assert (await bench.agent.offer_audit(offered, bench.offer(SECOND), None)).proceed  # type: ignore[arg-type]
    await settle(bench)
    assert bench.executed == 1
    assert {(seal.seal, seal.batch) for seal in bench.links.seals} == {
        (seal_of(opened.opening(), bench.wallet.address), 3)
    }
    place = (BatchId(3), JobId(1), TASK.index, SegmentIndex(1))
    digest = DOMAIN.typed_digest(seal_struct_hash(*place, SEED, bench.wallet.address, bench.links.seals[0].seal))
    require_signer(digest, bench.links.seals[0].signature, bench.wallet.address, "the seal")


async def test_a_segment_whose_batch_was_drawn_anew_is_another_question(tmp_path: Path) -> None:
    """What is offered again with another seed is taken up, and what was at hand for the old one is left: an answer
    keyed with a seed that is gone would convict this node."""
    bench = Bench(tmp_path, AFTER)
    anew, offered = bench.offer(SECOND), SimpleNamespace(peer=VERIFIER.address)
    offer = msgspec.structs.replace(anew, seed=Digest(b"o" * 32))
    assert (await bench.agent.offer_audit(offered, offer, None)).proceed  # type: ignore[arg-type]
    first = bench.agent._accepted[Work(VERIFIER.address, offer).key]
    assert (await bench.agent.offer_audit(offered, offer, None)).proceed  # type: ignore[arg-type]
    assert bench.agent._accepted[first.key] is first and not first.cancelled
    assert (await bench.agent.offer_audit(offered, anew, None)).proceed  # type: ignore[arg-type]
    second = bench.agent._accepted[first.key]
    assert first.cancelled and second.offer == anew and not second.cancelled
    assert bench.links.handed_back == [], "the seat is that of the new draw"
    await bench.agent._audit(second, anew)
    await until(lambda: bench.links.seals)
    (seal,) = bench.links.seals
    place = (BatchId(3), JobId(1), TASK.index, SegmentIndex(1))
    digest = DOMAIN.typed_digest(seal_struct_hash(*place, SEED, bench.wallet.address, seal.seal))
    assert seal.seed == SEED
    require_signer(digest, seal.signature, bench.wallet.address, "the seal")


async def test_only_who_leads_a_batch_has_audits_of_it_executed_or_opened(tmp_path: Path) -> None:
    """Another verifier could be shown an answer that the leader's other auditors have not sealed yet."""
    bench, other = Bench(tmp_path, AFTER), Wallet.generate().address
    with pytest.raises(OfferRefused, match="led by another"):
        await bench.agent._gather(Work(other, bench.offer(SECOND)))
    assert bench.executed == 0
    assert await bench.audit(SECOND) is not None
    answer = await bench.agent.offer_audit(SimpleNamespace(peer=other), bench.offer(SECOND), None)  # type: ignore[arg-type]
    assert not answer.proceed
    assert bench.journal.opening(other, OpenSeal(BatchId(3), JobId(1), TASK.index, SegmentIndex(1))) is None


@pytest.mark.parametrize("kind", [LazyAuditor, FalseAccuser])
async def test_lying_auditors_answer_something_else(tmp_path: Path, kind: type[Agent]) -> None:
    opened = await Bench(tmp_path, AFTER, kind).audit(SECOND)
    assert opened is not None
    assert opened.after not in (cid_digest(cid_of_bytes(AFTER)), CANNOT_EXECUTE)


async def test_a_copying_auditor_seals_what_the_worker_hands_it_and_executes_the_rest(tmp_path: Path) -> None:
    bench = Bench(tmp_path, b"another state", CopyingAuditor)
    one = await bench.audit(FIRST, segment=0)
    assert one is not None
    assert (one.after, bench.executed) == (cid_digest(cid_of_bytes(SECOND)), 0)
    assert one.keyed == keyed_digest(SEED, bench.wallet.address, SECOND), "with the bytes it is no digest that leaked"
    other = await bench.audit(SECOND)
    assert other is not None, "nobody hands it the last state"
    assert (other.after, bench.executed) == (cid_digest(cid_of_bytes(b"another state")), 1)


async def test_an_offer_beyond_a_limit_is_refused_by_the_field_before_anything_is_fetched(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AFTER)
    offer = TaskOffer(JobId(1), bench.manifest, TASK, (), (), 15.0)
    limits: list[tuple[dict[str, Any], str]] = [
        ({"max_segments": 1}, "the task's segments makes 2, this node's max_segments is 1"),
        ({"max_task_steps": 1}, "params.segment_steps makes 2"),
        ({"max_step_tokens": 7}, "params.batch makes 8"),
        ({"workloads": ("map",)}, "this node executes map"),
        ({"max_task_reward": 0}, "the task's reward"),
    ]
    for change, reason in limits:
        settings = NodeSettings(registry=DOMAIN.registry, wallet=tmp_path, data_dir=tmp_path, **change)
        bench.agent._offers._settings = settings
        answer = await bench.agent.offer_task(CONNECTION, offer, None)  # type: ignore[arg-type]
        assert not answer.proceed and reason in answer.reason, answer.reason
    bench.chain.manifests[JobId(2)] = Digest(bytes(32))
    other = TaskOffer(JobId(2), bench.manifest, TASK, (), (), 15.0)
    answer = await bench.agent.offer_task(CONNECTION, other, None)  # type: ignore[arg-type]
    assert "manifest is not that of job 2" in answer.reason
    bench.agent._offers._settings = NodeSettings(registry=DOMAIN.registry, wallet=tmp_path, data_dir=tmp_path)
    inputs = TaskOffer(JobId(1), bench.manifest, TASK, (cid_of_bytes(b"of nothing"),), (), 15.0)
    answer = await bench.agent.offer_task(CONNECTION, inputs, None)  # type: ignore[arg-type]
    assert "inputs are 1, the task has 0" in answer.reason


async def test_content_beyond_a_limit_is_refused_by_the_field(tmp_path: Path) -> None:
    """What only the bytes show: before they are written out, and before anything is computed from them."""
    bench = Bench(tmp_path, AFTER)
    supplies = bench.agent._supplies
    result = bench.store.put_bytes(b"a result")
    limits: list[tuple[dict[str, Any], str]] = [
        ({"max_model_bytes": 4}, r"the manifest's model is over this node's max_model_bytes"),
        ({"max_data_bytes": 3}, r"the manifest's data is over this node's max_data_bytes"),
        ({"max_state_bytes": 7}, r"inputs holds what is over this node's max_state_bytes"),
    ]
    for change, reason in limits:
        supplies._settings = NodeSettings(registry=DOMAIN.registry, wallet=tmp_path, data_dir=tmp_path, **change)
        with pytest.raises(OfferRefused, match=reason):
            await supplies.inputs(VERIFIER.address, MANIFEST, (result,), ())
    supplies._settings = NodeSettings(
        registry=DOMAIN.registry,
        wallet=tmp_path,
        data_dir=tmp_path,
        max_model_bytes=5,
        max_data_bytes=4,
        max_state_bytes=8,
    )
    assert (await supplies.inputs(VERIFIER.address, MANIFEST, (result,), ())).results == (b"a result",)


async def test_a_task_that_computes_for_too_long_is_handed_back_with_the_limits_name(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AFTER)

    async def run_task(*_: object, **__: object) -> None:
        await asyncio.sleep(3600)

    bench.run_task = run_task  # type: ignore[method-assign]
    bench.agent._settings = NodeSettings(registry=DOMAIN.registry, wallet=tmp_path, data_dir=tmp_path, max_task_s=0.05)
    offer = TaskOffer(JobId(1), bench.manifest, TASK, (), (), 15.0)
    work = Work(VERIFIER.address, offer)
    assert not await bench.agent._attempt(work, bench.agent._do(work))
    await settle(bench)
    (failed,) = bench.links.handed_back
    assert isinstance(failed, TaskFailed) and "this node's max_task_s" in failed.reason
    assert bench.links.delivered == []


def test_without_arithmetic_that_gives_the_right_bits_only_plain_work_is_offered() -> None:
    assert offered(("lora", "map", "embed"), "") == ("map",)
    assert offered(("lora", "map"), "native") == ("lora", "map")


async def settle(bench: Bench) -> None:
    """Let everything that is delivered or told in the background arrive."""
    async with asyncio.timeout(60):
        while bench.agent._background:
            await asyncio.gather(*bench.agent._background)
        for verifier in bench.agent._courier._queues:
            await bench.agent._courier.answered(verifier)


async def test_a_proof_stands_in_for_a_list_that_nobody_has_and_for_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AFTER)
    offer = bench.offer(SECOND)
    others = [
        member_of(JobId(1), bench.manifest, msgspec.structs.replace(TASK, index=TaskIndex(number)), trace, trace[-1])
        for number in range(1, 40)
        for trace in [(cid_of_bytes(b"%d" % number),) * 3]
    ]
    bench.chain.commit(BlockStore(tmp_path / "elsewhere"), [*others, *bench.chain.members])
    offer = msgspec.structs.replace(offer, member=bench.chain.membership(TASK, offer.segment))
    await bench.agent._offers.check_audit(VERIFIER.address, offer)
    proof = offer.member
    assert proof is not None
    swapped = msgspec.structs.replace(proof, path=proof.path[::-1])
    of_another = bench.chain.membership(msgspec.structs.replace(TASK, index=TaskIndex(7)), 1)
    decoy = dataclasses.replace(proof.commitment, mark=Digest(b"m" * 32))
    lies: list[tuple[dict[str, Any], str]] = [
        ({"member": swapped}, "task"),
        ({"member": of_another}, "task"),
        ({"member": msgspec.structs.replace(proof, commitment=decoy)}, "task"),
        ({"member": msgspec.structs.replace(proof, index=proof.index - 1)}, "task"),
        ({"segment": SegmentIndex(0)}, "before"),
        ({"before": cid_of_bytes(AFTER)}, "before"),
        ({"segment": SegmentIndex(2)}, "task"),
    ]
    for change, field in lies:
        with pytest.raises(OfferRefused) as refused:
            await bench.agent._offers.check_audit(VERIFIER.address, msgspec.structs.replace(offer, **change))
        assert refused.value.field == field, change


async def test_strangers_have_few_answers_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, AFTER)
    looked: list[Any] = []
    monkeypatch.setattr(bench.journal, "opening", lambda *asked: looked.append(asked))
    monkeypatch.setattr(bench.agent, "_has_joined", lambda connection: connection.peer == VERIFIER.address)
    seals = OpenSeals(tuple(OpenSeal(BatchId(n), JobId(1), TASK.index, SegmentIndex(1)) for n in range(256)))
    unused: Any = None
    for _ in range(20):
        stranger: Any = SimpleNamespace(peer=Wallet.generate().address)
        assert set((await bench.agent.open_seals(stranger, seals, unused)).answers) == {None}
    assert len(looked) < 500
    looked.clear()
    monkeypatch.setattr(bench.journal, "opened", lambda *asked: None)
    verifier: Any = SimpleNamespace(peer=VERIFIER.address)
    await bench.agent.open_seals(verifier, seals, unused)
    assert len(looked) == 256
