"""Peers that deliver a byte now and then: they are held to what they owe, and nobody else's batch waits for them."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proofyard.artifacts import ArtifactUnavailable, BlockStore, gathering
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.settlement import Header
from proofyard.protocol.types import BatchId, Digest
from proofyard.runtime.recent import Recent
from proofyard.verifier import context as contexts
from proofyard.verifier import delivery, membership
from proofyard.verifier.context import Context
from proofyard.verifier.delivery import NotDelivered, owed
from proofyard.verifier.membership import gather_lists

pytestmark = pytest.mark.timeout(60)


class Trickling:
    """A provider that has everything and never comes to the end of a block."""

    name = "0xTrickling"

    async def blocks(self, cids: Any) -> Any:
        await asyncio.Event().wait()
        yield cids[0], b""

    async def lacks(self, cids: Any) -> list[Any]:
        return []

    def penalise(self, points: float, reason: str) -> None:
        """It sends nothing wrong."""


def context_of(store: BlockStore) -> Any:
    """As much of a verifier as looks for artifacts, with one trickling peer and one other node."""

    async def others() -> list[Trickling]:
        return [Trickling()]

    context: Any = SimpleNamespace(
        store=store, others=others, providers=lambda *_: [Trickling()], members={"worker": 0, "other": 0}
    )
    for name in ("has_all", "find"):
        setattr(context, name, getattr(Context, name).__get__(context))
    context.lists, context.gatherer = Recent(1 << 20), gathering.Gatherer(store)
    context.fetches = {}
    context.connection = lambda _node: Trickling()
    context.members = {node: SimpleNamespace(connection=Trickling()) for node in ("worker", "other")}
    return context


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE_S", 0.05)
    monkeypatch.setattr(delivery, "LEAST_TRY_S", 0.05)
    monkeypatch.setattr(delivery, "OWED_POLL_S", 0.01)
    monkeypatch.setattr(contexts, "FIND_S", 0.05)


async def test_a_worker_that_lets_its_state_trickle_has_not_delivered_it(tmp_path: Path) -> None:
    """Its batch would never be judged, and its verifier pay for that."""
    with pytest.raises(NotDelivered):
        await owed(context_of(BlockStore(tmp_path)), "worker", raw_cid(b"state"), "state 1", patience_s=0.2)  # type: ignore[arg-type]


async def test_a_list_or_record_that_trickles_is_one_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(ArtifactUnavailable, match="did not come within"):
        await context_of(BlockStore(tmp_path)).find(raw_cid(b"a record"), max_bytes=100)


async def test_any_number_of_hidden_lists_delays_a_batch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "LISTS_S", 0.3)
    monkeypatch.setattr(contexts, "FIND_S", 30.0)
    headers = {
        BatchId(number): Header(Digest(bytes(32)), 1, cid_digest(raw_cid(bytes([number]))), ())
        for number in range(1, 40)
    }
    view: Any = SimpleNamespace(
        batch=BatchId(1),
        header=headers[BatchId(1)],
        open_batches=tuple(SimpleNamespace(batch=number, header=header) for number, header in headers.items()),
        claimed_before=(),
    )
    lists = await gather_lists(context_of(BlockStore(tmp_path)), view)
    assert lists.without(headers) == sorted(headers)
