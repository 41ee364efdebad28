"""A verifier that falls silent with a job of which a part is paid: another one takes the job, once it is free, and has
done what is left of it."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from simulated import Counting, SimulatedNode
from stage import CREDIT, FakeChain, Verifier, introduce, join, make_verifier, record_of

from proofyard.chain import Wallet
from proofyard.chain.errors import ChainUnreachable
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.messages import Announce
from proofyard.protocol.record import decode_record
from proofyard.protocol.types import BatchId, Cid, JobId, Wei
from proofyard.protocol.view import JobFacts
from proofyard.verifier import duties, looking
from proofyard.verifier.duties import look_for_free_jobs
from proofyard.verifier.engine.effects import CommitBatch, Effect
from proofyard.verifier.engine.rows import Job, JobState, Task, TaskState, Work

TASKS, FIRST = 4, 2
"""So many tasks, and how many of them the first verifier gets paid before it is silent."""


class Town:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chain = FakeChain()
        settings: dict[str, Any] = {"workload": Counting(TASKS), "lease_s": 0.5, "batch_tasks": FIRST}
        self.first: Verifier = make_verifier(self.chain, folder, **settings)
        self.second: Verifier = make_verifier(self.chain, folder, **settings)
        self.third: Verifier = make_verifier(self.chain, folder, **settings)
        introduce(self.first, self.second, self.third)
        self.wallets = [Wallet.generate() for _ in range(5)]
        self.records = [record_of(self.chain.add_node(wallet, valid=0)) for wallet in self.wallets]
        manifest = encode_manifest(Manifest(workload="lora", params={}))
        # The second has it from signing for the first.
        cid = self.first.context.store.put_bytes(manifest)
        self.facts = facts = JobFacts(
            manifest=cid_digest(cid),
            requester=Wallet.generate().address,
            reward=Wei(4 * CREDIT),
            audit_fee=Wei(CREDIT),
            verifier_fee=Wei(CREDIT),
            units=TASKS,
            auditors_per_segment=2,
            segments_per_audit=1,
            workload=0,
            deadline=self.chain.clock + 10_000,
        )
        self.job = self.chain.add_job(facts)
        self.unreadable = False
        monkeypatch.setattr(looking, "load_settled", self._settled)
        monkeypatch.setattr(duties, "LOOK_AGAIN_S", 0.0)

    def bring(self, verifier: Verifier) -> None:
        announce = Announce(("lora",), 0, 0, "", tasks=2, audits=4)
        for number, (wallet, record) in enumerate(zip(self.wallets, self.records, strict=True)):
            join(verifier, SimulatedNode(verifier, wallet, queue=4, silence=0, seed=number), record, announce)

    async def _settled(self, chain: Any, _read: Callable[[Cid, int], Awaitable[bytes]], number: BatchId) -> Any:
        """A batch's last settlement, as its record says."""
        if self.unreadable:
            raise ChainUnreachable("http://127.0.0.1:1", "nobody has the record")
        settlement = self.chain.batches[number].settlement
        assert settlement is not None
        record = decode_record(self.first.context.store.get_bytes(settlement.record))
        event = SimpleNamespace(record=settlement.record, batch=number)
        return SimpleNamespace(event=event, view=chain.view(number), record=record, check_record=lambda: None)

    async def lead_until_half(self) -> None:
        """The first verifier settles one batch and commits no more."""
        perform = self.first.runner._perform
        committed = 0

        async def once(effect: Effect) -> float | None:
            nonlocal committed
            if isinstance(effect, CommitBatch):
                committed += 1
                if committed > 1:
                    return None
            return await perform(effect)

        self.first.runner._perform = once
        self.bring(self.first)
        async with self.first.running():
            await self.first.until(lambda: self.units_paid() == FIRST, seconds=120)

    def units_paid(self) -> int:
        return sum(line.paid_units for batch in self.chain.batches.values() for line in batch.content.lines)

    def row(self) -> Job:
        return self.second.rows.jobs[JobId(self.job)]


@pytest.mark.parametrize("readable", [True, False])
async def test_a_silent_verifiers_job_is_carried_on_from_what_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    """Where the records cannot be had everything is done again, and paid no second time."""
    town = Town(tmp_path, monkeypatch)
    second = town.second
    async with town.third.running(), second.running():
        await town.lead_until_half()
        town.unreadable = not readable
        await second.until(lambda: town.row().elsewhere and town.row().units_paid == FIRST)
        await look_for_free_jobs(second.context)
        await second.runner.tell_all([])
        assert town.row().elsewhere, "its verifier was there a moment ago"
        town.chain.last_active[town.job] = 0
        second.context.look_at_jobs.clear()
        await look_for_free_jobs(second.context)
        await second.until(lambda: town.row().state == JobState.RUNNING)
        assert town.chain.taken[town.job] == town.chain.seats[1].id
        done = [task.index for task in second.rows.tasks.values() if task.state == TaskState.ACCEPTED]
        assert len(done) == (FIRST if readable else 0)
        if readable:
            for index in done:  # who worked has what came of it
                result = second.rows.works[town.job, index, 1].result
                second.context.store.put_bytes(town.first.context.store.get_bytes(result))
            town.bring(second)
            await second.until(lambda: town.row().state == JobState.DONE)
            await second.runner.tell_all([])
            assert town.units_paid() == TASKS
            (row,) = second.stored(Job)
            assert (row.state, row.units_paid) == (JobState.DONE, TASKS)
            own = {work.task for work in second.stored(Work) if work.batch}
            assert own.isdisjoint(done) and len(own) == TASKS - FIRST, "what is paid is not done again"
            assert {task.state for task in second.stored(Task)} == {TaskState.ACCEPTED}


async def test_a_job_that_is_closed_or_whose_verifier_lives_stays_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = Town(tmp_path, monkeypatch)
    second = town.second
    async with town.third.running(), second.running():
        await town.lead_until_half()
        await second.until(lambda: town.row().elsewhere)
        town.chain.last_active[town.job] = 0
        town.chain.closed.add(town.job)
        await look_for_free_jobs(second.context)
        await second.runner.tell_all([])
        assert town.row().elsewhere and not second.rows.tasks


async def test_a_job_that_was_published_to_another_verifier_is_begun_with_what_that_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reorganisation the number that this verifier took is another job's."""
    town = Town(tmp_path, monkeypatch)
    first, third = town.first.context.store, town.third.context.store
    model, text = first.put_bytes(b"m" * 600_000), first.put_bytes(b"t" * 1000)
    cid = first.put_bytes(encode_manifest(Manifest(workload="lora", params={}, model=model, data=text, seed=1)))
    job = town.chain.add_job(replace(town.facts, manifest=cid_digest(cid)))
    async with town.third.running():
        await town.third.until(lambda: job in town.third.rows.jobs and town.third.rows.jobs[job].reason)
        assert not third.has(cid), "nothing is fetched for a job that is not its own"
        town.chain.mine()
        town.third.context.chain.take_job(job)
        await town.third.until(lambda: town.third.rows.jobs[job].state == JobState.RUNNING)
        assert not any(third.missing(cid, model, text))
