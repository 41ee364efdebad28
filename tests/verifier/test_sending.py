"""Which transactions are sent again after a reorganisation: those whose subject the rows still have. Which jobs are
taken together."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proofyard.chain import Anchor
from proofyard.chain.errors import ChainUnreachable
from proofyard.chain.refusals import AnchorGone, JobIsClosed, JobTakenBy, NothingTaken
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.types import Address, BatchId, Digest, JobId
from proofyard.verifier.context import Context, Taking
from proofyard.verifier.engine.effects import TakeJob
from proofyard.verifier.engine.rows import Batch, BatchState, Job, JobState
from proofyard.verifier.engine.world import Rows
from proofyard.verifier.outbox import OutboxClosed
from proofyard.verifier.sending import LINGER_S, anchor_of, commit_subject, take_job, wanted

REQUESTER = Address("0x" + "aa" * 20)
WHAT = "theFunction"
"""What a subject ends with: the function that is called."""


def job(**changes: Any) -> Job:
    usual: dict[str, Any] = {
        "id": JobId(5),
        "manifest": raw_cid(b"m"),
        "requester": REQUESTER,
        "opened_block": 30,
        "opened_hash": bytes(32),
        "units": 10,
        "reward": "1",
        "audit_fee": "1",
        "verifier_fee": "0",
        "auditors_per_segment": 2,
        "segments_per_audit": 1,
        "deadline": 2**40,
        "workload": 0,
    }
    return Job(**usual | changes)


def batch(**changes: Any) -> Batch:
    usual: dict[str, Any] = {"id": 7, "root": Digest(bytes(32)), "members": b"", "lines": (), "chain_id": BatchId(9)}
    return Batch(**usual | changes)


HERE = f"0x{bytes(32).hex()}"


def still(subject: str, *rows: Job | Batch) -> bool:
    context = SimpleNamespace(rows=Rows(rows))
    return wanted(cast(Context, context), f"{subject} {WHAT}")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"state": JobState.TAKING}, True),
        ({"state": JobState.FAILED}, False),
        ({"gone": True}, False),
        ({"opened_block": 31}, False),
    ],
)
def test_a_job_is_taken_again_while_it_is_that_job(changes: dict[str, Any], expected: bool) -> None:
    assert still(f"take-jobs 5 30 0 {HERE}", job(**changes)) is expected


def test_a_job_that_is_not_there_is_not_taken() -> None:
    assert not still(f"take-jobs 5 30 0 {HERE}")


def test_jobs_are_taken_again_while_one_of_them_is_to_be() -> None:
    assert still(f"take-jobs 4 29 0 5 30 0 6 31 7 {HERE}", job())
    assert not still(f"take-jobs 4 29 0 5 31 0 6 31 7 {HERE}", job())
    assert not still(f"take-jobs 30 5 0 {HERE}", job())


@pytest.mark.parametrize("state", [JobState.TAKING, JobState.RUNNING])
def test_what_names_a_job_is_not_sent_again_once_the_chain_has_another_block_there(state: JobState) -> None:
    """Nobody knows what the number stands for: the engine is told, and begins anew with what it is then."""
    moved = job(opened_hash=bytes([1]) * 32, state=state)
    assert still(f"take-jobs 4 29 0 5 30 0 {HERE}", job(state=state), job(id=JobId(4), opened_block=29))
    assert not still(f"take-jobs 4 29 0 5 30 0 {HERE}", moved, job(id=JobId(4), opened_block=29))
    lines = ((JobId(4), 3), (JobId(5), 2))
    assert still(commit_subject(batch(lines=lines), anchor_of(job())), batch(lines=lines), job(), job(id=JobId(4)))
    assert not still(commit_subject(batch(lines=lines), anchor_of(job())), batch(lines=lines), moved)


def test_an_older_job_that_moved_keeps_nothing_back() -> None:
    """Where the youngest one stands under its block so does everything before it."""
    older = job(id=JobId(4), opened_block=29, opened_hash=bytes([1]) * 32)
    lines = ((JobId(4), 3), (JobId(5), 2))
    assert still(commit_subject(batch(lines=lines), anchor_of(job())), batch(lines=lines), job(), older)


@pytest.mark.parametrize("state", BatchState)
def test_a_batch_is_committed_and_settled_again_unless_it_is_given_up(state: BatchState) -> None:
    lives = state not in (BatchState.DROPPED, BatchState.TAKEN)
    assert still(f"commit 7 {HERE}", batch(state=state)) is lives
    assert still("settle 9 0 abcd", batch(state=state)) is lives


def test_an_attempt_that_is_over_is_not_settled_again() -> None:
    assert not still("settle 9 0 abcd", batch(attempt=1))
    assert still("settle 9 1 abcd", batch(attempt=1))


@pytest.mark.parametrize(
    "subject", ["commit 8", "settle 10 0 ab", "finalize 9 100", "attend 3", "answer 1 ab", "draw 9 4"]
)
def test_what_the_rows_do_not_tell_the_contract_does(subject: str) -> None:
    assert still(subject)


# Taking together


class Registry:
    """Holds jobs as the contract does, and tells whoever takes them one by one why it does not let it."""

    def __init__(self, *, others: set[int] = frozenset(), over: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.others, self.over, self.own = others, over, set[int]()
        self.sent: list[tuple[str, list[int]]] = []
        self.mined = asyncio.Event()
        self.mined.set()
        self.takings: list[Taking] = []
        self.takes = asyncio.Lock()
        self.rows = Rows([job(id=JobId(number)) for number in range(300)])
        self.asked_jobs: dict[JobId, None] = {}
        self.chain = self
        self.trouble: Exception | None = None
        self.anchor = anchor_of(job())
        self.tasks: list[asyncio.Task[None]] = []

    def job(self, number: JobId) -> Any:
        return SimpleNamespace(closed=False, verifier=1 if number in self.own else 0, last_active=0)

    def take_job(self, number: JobId, anchor: Anchor) -> None:
        if anchor != self.anchor:
            raise AnchorGone("AnchorGone", {"number": anchor.number, "hash": anchor.hash, "found": self.anchor.hash})
        if number in self.others:
            raise JobTakenBy("JobTakenBy", {"job": number, "verifier": 2, "freeAt": 9})
        if number in self.over:
            raise JobIsClosed("JobIsClosed", {"job": number})
        self.own.add(number)

    def take_jobs(self, numbers: Sequence[JobId], anchor: Anchor) -> frozenset[JobId]:
        if anchor != self.anchor:
            raise AnchorGone("AnchorGone", {"number": anchor.number, "hash": anchor.hash, "found": self.anchor.hash})
        free = frozenset(numbers) - self.others - self.over
        if not free:
            raise NothingTaken("NothingTaken", {})
        self.own |= free
        return free

    async def on_chain(self, call: Callable[[], Any]) -> Any:
        return call()

    async def own_(self) -> int:
        return 1

    async def send(self, subject: str, call: Callable[[Any], Any]) -> Any:
        self.sent.append((subject, [int(word) for word in subject.split()[1:-1:3]]))
        await self.mined.wait()
        if self.trouble is not None:
            raise self.trouble
        return call(self)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    @property
    def groups(self) -> list[list[int]]:
        return [group for _, group in self.sent]


class Network:
    """A context over a `Registry`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.own = registry.own_

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_registry", "own"):
            super().__setattr__(name, value)
        else:
            setattr(self._registry, name, value)


def taking(registry: Registry, *jobs: int) -> list[asyncio.Task[float]]:
    context = cast(Context, Network(registry))
    return [asyncio.create_task(take_job(context, TakeJob(JobId(number)))) for number in jobs]


async def outcomes(tasks: Sequence[asyncio.Task[float]]) -> list[str]:
    """What came of each: the name of its error, or nothing."""
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(each).__name__ if isinstance(each, BaseException) else "" for each in found]


async def test_jobs_of_a_moment_are_taken_in_one_transaction() -> None:
    registry = Registry()
    assert await outcomes(taking(registry, *range(1, 41))) == [""] * 40
    assert registry.groups == [list(range(1, 41))] and registry.own == set(range(1, 41))


async def test_jobs_that_come_while_some_are_being_taken_go_together_in_the_next_transaction() -> None:
    registry = Registry()
    registry.mined.clear()
    first = taking(registry, 1)
    while not registry.sent:
        await asyncio.sleep(0.01)
    rest = [*taking(registry, 2)]
    await asyncio.sleep(2 * LINGER_S)
    rest += taking(registry, 3, 4)
    await asyncio.sleep(2 * LINGER_S)
    assert registry.groups == [[1]]
    registry.mined.set()
    assert await outcomes([*first, *rest]) == [""] * 4
    assert registry.groups == [[1], [2, 3, 4]]


async def test_no_transaction_takes_more_jobs_than_it_may() -> None:
    registry = Registry()
    await outcomes(taking(registry, *range(1, 151)))
    assert [len(group) for group in registry.groups] == [64, 64, 22] and len(registry.own) == 150


@pytest.mark.parametrize("rest", [[], [3], [3, 4, 5]], ids=["alone", "with one", "with several"])
async def test_a_job_that_cannot_be_taken_ends_as_if_it_were_alone_and_holds_up_no_other(rest: list[int]) -> None:
    registry = Registry(others={1}, over={2})
    assert await outcomes(taking(registry, 1, 2, *rest)) == ["TakenByAnother", "Permanent", *[""] * len(rest)]
    assert registry.own == set(rest)
    assert len(registry.sent) == 3, "all at once, and then those that were left"


@pytest.mark.parametrize(
    "trouble", [ChainUnreachable("http://host", "away"), OutboxClosed("takeJobs"), ZeroDivisionError()]
)
async def test_what_keeps_a_transaction_back_is_told_to_all_that_wait_for_it(trouble: Exception) -> None:
    registry = Registry()
    registry.trouble = trouble
    assert await outcomes(taking(registry, 1, 2, 3)) == [type(trouble).__name__] * 3
    registry.trouble = None
    assert await outcomes(taking(registry, 1, 2, 3)) == [""] * 3


@pytest.mark.parametrize("jobs", [[1], [1, 2], [1, 2, 3]])
async def test_jobs_of_a_block_that_went_are_tried_again_and_not_given_up(jobs: list[int]) -> None:
    registry = Registry()
    registry.anchor = Anchor(30, Digest(bytes([1]) * 32))
    assert await outcomes(taking(registry, *jobs)) == ["AnchorGone"] * len(jobs)
    assert not registry.own
    for each in registry.rows.jobs.values():
        each.opened_hash = bytes([1]) * 32
    assert await outcomes(taking(registry, *jobs)) == [""] * len(jobs)


async def test_who_does_not_wait_any_more_holds_up_no_other() -> None:
    registry = Registry()
    first, *rest = taking(registry, 1, 2, 3)
    await asyncio.sleep(LINGER_S / 4)
    first.cancel()
    assert await outcomes(rest) == ["", ""]
    assert await outcomes(taking(registry, 4)) == [""]


async def test_what_is_this_verifiers_already_is_looked_at_and_not_taken() -> None:
    registry = Registry()
    registry.own = {1}
    assert await outcomes(taking(registry, 1)) == [""]
    assert registry.sent == [] and list(registry.asked_jobs) == [1]
