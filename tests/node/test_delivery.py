"""A verifier that goes away or never answers holds up nothing but what it is owed itself."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import VERIFIER, FakeLinks

from proofyard.artifacts import BlockStore, cid_of_bytes
from proofyard.chain import Wallet
from proofyard.node import delivery
from proofyard.node.delivery import AT_ONCE, MAX_REFUSALS, SEALS, Courier, Parcel
from proofyard.node.journal import JournalError
from proofyard.node.keeping import small_artifacts
from proofyard.node.receipts import ReceiptInvalid
from proofyard.protocol.messages import (
    BLOCKS_WITH_BYTES,
    MAX_BLOCKS_WITH,
    SMALL_STATE_BYTES,
    Ack,
    Acks,
    Refusal,
    SubmitSeal,
    SubmitSeals,
)
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex
from proofyard.transport import RequestFailed

DEAF, OTHER = Wallet.generate().address, VERIFIER.address


class Desk:
    """A courier, and what became of each parcel."""

    def __init__(self, links: Any) -> None:
        self.disk_full = False
        self.secured: list[str] = []
        self.courier = Courier(links, self.secure)
        self.taken: list[str] = []
        self.given_up: dict[str, str] = {}
        self.over: dict[str, str] = {}
        self.numbers = count()

    async def secure(self, parcels: Sequence[Parcel]) -> None:
        if self.disk_full:
            raise JournalError("the disk is full")
        self.secured += [parcel.name for parcel in parcels]

    def send(self, verifier: Address, name: str, taken: Callable[[Any], None] | None = None) -> None:
        async def over() -> str:
            return self.over.get(name, "")

        def given_up(reason: str) -> None:
            self.given_up[name] = reason

        place = (BatchId(1), JobId(1), TaskIndex(next(self.numbers)), SegmentIndex(0))
        message = SubmitSeal(*place, Digest(bytes(32)), Digest(bytes(32)), Signature(bytes(65)))
        self.courier.send(
            verifier, Parcel(name, SEALS, message, taken or (lambda _: self.taken.append(name)), given_up, over)
        )

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(delivery, "LAST_RETRY_S", 0.05)
    monkeypatch.setattr(delivery, "OVER_EVERY_S", 0.05)


async def test_one_that_never_answers_keeps_nothing_from_the_others() -> None:
    waits = asyncio.Event()

    class Links(FakeLinks):
        async def try_request(self, verifier: Address, message: Any, _reply: object, **_: Any) -> Any:
            if verifier == DEAF:
                await waits.wait()
                return None
            return await super().try_request(verifier, message, _reply)

    desk = Desk(Links())
    for number in range(3):
        desk.send(DEAF, f"to the deaf {number}")
        desk.send(OTHER, f"to the other {number}")
    await desk.until(lambda: len(desk.taken) == 3)
    assert desk.taken == [f"to the other {number}" for number in range(3)]
    assert desk.courier.waiting(DEAF) == 3
    await desk.courier.close()


async def test_a_delivery_is_tried_until_it_is_taken_and_once_only() -> None:
    links = FakeLinks(deaf={DEAF})
    desk = Desk(links)
    desk.send(DEAF, "one")
    desk.send(DEAF, "one")
    await desk.until(lambda: len(links.sent) > 2)
    links.deaf.clear()
    await desk.until(lambda: desk.taken)
    assert (desk.taken, desk.courier.waiting(DEAF), desk.given_up) == (["one"], 0, {})
    await desk.courier.close()


async def test_what_is_of_no_use_any_more_is_dropped_and_the_rest_goes_on() -> None:
    links = FakeLinks(deaf={DEAF})
    desk = Desk(links)
    desk.over["late"] = "nothing of job 1 can be committed any more"
    desk.send(DEAF, "late")
    desk.send(DEAF, "wanted")
    await desk.until(lambda: desk.given_up)
    assert "nothing of job 1 can be committed" in desk.given_up["late"]
    links.deaf.clear()
    await desk.until(lambda: desk.taken)
    assert desk.taken == ["wanted"]
    await desk.courier.close()


@pytest.mark.parametrize(("code", "attempts"), [("failed", MAX_REFUSALS), ("busy", None)], ids=["refused", "only busy"])
async def test_a_refusal_ends_a_delivery_and_trouble_of_the_verifiers_own_does_not(
    code: str, attempts: int | None
) -> None:
    tried = 0

    async def refuse(*_: Any, **__: Any) -> Any:
        nonlocal tried
        tried += 1
        if attempts is None and tried > 2 * MAX_REFUSALS:
            return Acks((Ack(),))
        raise RequestFailed(code, "no such task")

    desk = Desk(SimpleNamespace(try_request=refuse))
    desk.send(OTHER, "one")
    await desk.until(lambda: desk.given_up or desk.taken)
    assert (tried == attempts, bool(desk.taken)) == (attempts is not None, attempts is None)
    await desk.courier.close()


async def test_an_answer_that_is_worth_nothing_is_no_answer() -> None:
    def worthless(_: Any) -> None:
        raise ReceiptInvalid("it is for another commitment")

    desk = Desk(FakeLinks())
    desk.send(OTHER, "one", worthless)
    await desk.until(lambda: desk.given_up)
    assert "another commitment" in desk.given_up["one"]
    await desk.courier.close()


async def test_what_is_due_together_goes_in_one_message() -> None:
    links = FakeLinks()
    desk = Desk(links)
    for number in range(AT_ONCE + 3):
        desk.send(OTHER, f"{number}")
    await desk.until(lambda: len(desk.taken) == AT_ONCE + 3)
    assert [len(message.seals) for message in links.told(SubmitSeals)] == [AT_ONCE, 3]
    await desk.courier.close()


async def test_one_that_is_refused_takes_no_other_along() -> None:
    """What is taken is done with at once, what is busy comes again, what is refused ends after some tries."""
    tries: Counter[int] = Counter()

    async def answer(_verifier: Address, message: SubmitSeals, _reply: object, **_: Any) -> Any:
        tries.update(seal.task for seal in message.seals)
        return SimpleNamespace(answers=tuple(answer_to(seal.task) for seal in message.seals))

    def answer_to(task: int) -> Ack | Refusal:
        if task == 1:
            return Refusal("SubmissionRefused", "it is another one")
        return Refusal("busy", "later") if task == 2 and tries[2] <= 2 * MAX_REFUSALS else Ack()

    desk = Desk(SimpleNamespace(try_request=answer))
    for name in ("good", "bad", "busy"):
        desk.send(OTHER, name)
    await desk.until(lambda: desk.courier.waiting(OTHER) == 0)
    assert (desk.taken, tries) == (["good", "busy"], {0: 1, 1: MAX_REFUSALS, 2: 2 * MAX_REFUSALS + 1})
    assert "it is another one" in desk.given_up["bad"]
    await desk.courier.close()


@pytest.mark.parametrize("given", [0, 1, 3])
async def test_another_number_of_answers_is_no_answer(given: int) -> None:
    tried = 0

    async def answer(_verifier: Address, message: SubmitSeals, _reply: object, **_: Any) -> Any:
        nonlocal tried
        tried += 1
        return Acks((Ack(),) * (given if tried < 4 else len(message.seals)))

    desk = Desk(SimpleNamespace(try_request=answer))
    desk.send(OTHER, "one")
    desk.send(OTHER, "two")
    await desk.until(lambda: len(desk.taken) == 2)
    assert tried >= 4 and desk.given_up == {}
    await desk.courier.close()


async def test_nothing_leaves_before_what_it_promises_lasts() -> None:
    links = FakeLinks(deaf={OTHER})
    desk = Desk(links)
    desk.disk_full = True
    desk.send(OTHER, "one")
    await asyncio.sleep(5 * delivery.FIRST_RETRY_S + delivery.LINGER_S)
    assert links.sent == []
    desk.disk_full = False
    await desk.until(lambda: len(links.sent) > 2)
    links.deaf.clear()
    await desk.until(lambda: desk.taken)
    assert desk.secured == ["one"], "once, however often it is tried"
    await desk.courier.close()


def work(store: BlockStore, *states: bytes, result: bytes = b"result", lacking: int = -1) -> Any:
    """A work whose states and result are in a store, but for one."""
    cids = [cid_of_bytes(data) for data in (*states, result)]
    for number, data in enumerate((*states, result)):
        if number != lacking:
            store.put_bytes(data)
    return SimpleNamespace(trace=tuple(cids[:-1]), commitment=SimpleNamespace(result=cids[-1]))


@pytest.mark.parametrize("packs", [True, False])
def test_small_states_go_with_their_commitments(tmp_path: Path, packs: bool) -> None:
    store = BlockStore(tmp_path, packs=packs)
    small, large = [b"%d" % number for number in range(4)], b"x" * (SMALL_STATE_BYTES + 1)
    for works, found in (
        ([work(store, *small)], {*small, b"result"}),
        ([work(store, *small), work(store, *small, result=b"other")], {*small, b"result", b"other"}),
        ([work(store, large, large)], set()),
        ([work(store, *small[:2], result=large)], {small[1]}),
        ([work(store, b"gone", b"last", lacking=0)], {b"last", b"result"}),
        ([work(store, b"here", b"never put", lacking=1)], set()),
    ):
        taken = small_artifacts(store, works)
        assert set(taken) == found and len(taken) == len(found)


def test_what_goes_with_commitments_fits_a_message(tmp_path: Path) -> None:
    store = BlockStore(tmp_path, packs=True)
    tiny = [work(store, *(b"%d of %d" % (number, each) for number in range(16))) for each in range(60)]
    assert len(small_artifacts(store, tiny)) == MAX_BLOCKS_WITH
    full = [work(store, (b"%d" % each).ljust(SMALL_STATE_BYTES), result=b"r%d" % each) for each in range(100)]
    assert BLOCKS_WITH_BYTES - SMALL_STATE_BYTES < sum(map(len, small_artifacts(store, full))) <= BLOCKS_WITH_BYTES
