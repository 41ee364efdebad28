"""Seeds are those of blocks that may go away again."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stage import FakeChain, make_verifier

from proofyard.chain import BatchDrawn
from proofyard.chain.events import Position
from proofyard.protocol.types import BatchId, Digest
from proofyard.verifier import leading
from proofyard.verifier.context import Context
from proofyard.verifier.engine import effects
from proofyard.verifier.engine.chain import FOLLOWED
from proofyard.verifier.engine.machine import Engine
from proofyard.verifier.engine.rows import Batch, BatchState

BATCH, BLOCK = BatchId(7), 5
ONE, OTHER = Digest(b"1" * 32), Digest(b"2" * 32)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    made = make_verifier(FakeChain(), tmp_path).context
    yield made
    made.database.close()


async def test_no_plan_is_drawn_from_a_block_that_the_engine_was_not_told_of(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it replaced before that, nobody would say that it went away."""

    class Planned(Exception):
        pass

    def plan(*_: Any) -> None:
        raise Planned

    batch = Batch(id=1, state=BatchState.COMMITTED, root=b"", members=b"", lines=())
    batch.chain_id = BATCH
    context.runner.engine = Engine(context.runner.rules, [batch])
    monkeypatch.setattr(leading, "BLOCK_POLL_S", 0.01)
    monkeypatch.setattr(context.chain, "batch", plan)
    looks = 0

    def view(_: BatchId) -> Any:
        nonlocal looks
        looks += 1
        return SimpleNamespace(draw_block=BLOCK, header=None)

    monkeypatch.setattr(context.chain, "view", view)
    context.told_to = BLOCK - 1
    drawing = asyncio.create_task(leading.draw(context, effects.Draw(1, 0)))
    while looks < 3:
        await asyncio.sleep(0.01)
        assert not drawing.done()
    context.told_to = BLOCK
    with pytest.raises(Planned):
        await drawing


@pytest.mark.parametrize(
    ("state", "seed", "again"),
    [
        (BatchState.AUDITING, ONE, False),
        (BatchState.AUDITING, OTHER, True),
        (BatchState.JUDGED, OTHER, True),
        (BatchState.SIGNED, OTHER, True),
        (BatchState.COMMITTED, OTHER, False),
        (BatchState.SETTLED, OTHER, False),
        (BatchState.TAKEN, OTHER, False),
    ],
)
def test_the_seed_that_the_chain_stores_is_the_one(
    context: Context, state: BatchState, seed: Digest, again: bool
) -> None:
    batch = Batch(id=1, state=state, root=b"", members=b"", lines=())
    batch.chain_id, batch.seed, batch.commit_block = BATCH, ONE, 3
    engine = Engine(context.runner.rules, [batch])
    stored = BatchDrawn(Position(9, ONE, 0), BATCH, seed)
    FOLLOWED[BatchDrawn](engine.world, stored, 9, SimpleNamespace(chain=9.0, mono=9.0))  # type: ignore[arg-type]
    assert (batch.state == BatchState.COMMITTED) == (again or state == BatchState.COMMITTED)
