"""What owners have in flight with other verifiers."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from stage import DOMAIN, ChainBatch, FakeChain, make_verifier

from proofyard.chain import Wallet
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.members import Member, encode_members, members_root
from proofyard.protocol.settlement import Header, OperatorId
from proofyard.protocol.types import Address, BatchId, Digest, JobId, Signature, TaskIndex, Wei
from proofyard.protocol.view import JobFacts
from proofyard.verifier import elsewhere as watching
from proofyard.verifier.elsewhere import in_flight_elsewhere, stake_of_owner
from proofyard.verifier.engine.events import Backed, Elsewhere, NodesListed
from proofyard.verifier.exposure import elsewhere

ZERO = Digest(bytes(32))


def member(node: str, job: int, units: int) -> Member:
    digests = (ZERO, ZERO, ZERO)
    commitment = Commitment(JobId(job), TaskIndex(0), Address(node), *digests, 1, raw_cid(b"r"), units, ZERO)
    return Member(commitment, Signature(b""), ())


def test_what_is_in_flight_elsewhere_counts_the_owner_over_all_its_nodes() -> None:
    """By the member lists of other verifiers' batches, for no more than their jobs pay."""
    facts = JobFacts(ZERO, Address("0xR"), Wei(1000), Wei(0), Wei(0), 10, 2, 1, 0, 0)
    lists = [
        [member("0xA", 1, 2), member("0xB", 1, 1)],
        [member("0xA", 1, 99), member("0xC", 2, 1), member("0xD", 1, 1)],
    ]
    owners = {Address("0xA"): Address("0xO"), Address("0xB"): Address("0xO"), Address("0xC"): Address("0xP")}
    assert elsewhere(lists, {JobId(1): facts}, owners) == {"0xO": 200 + 100 + 1000}


async def test_what_a_hostile_verifier_commits_to_takes_nobodys_stake(tmp_path: Path) -> None:
    """A list on chain of work that nobody signed, and of a job that never was: honest owners get work as before."""
    chain, worker = FakeChain(), Wallet.generate()
    verifier = make_verifier(chain, tmp_path)
    owner = chain.add_node(worker).owner
    job = chain.add_job(JobFacts(ZERO, Address("0xR"), Wei(1000), Wei(0), Wei(0), 10, 2, 1, 0, chain.clock + 1000))
    verifier.context.domain = DOMAIN

    def commit(*members: Member) -> None:
        data = encode_members(members)
        header = Header(members_root(members), len(members), cid_digest(verifier.context.store.put_bytes(data)), ())
        number = BatchId(len(chain.batches) + 1)
        chain.batches[number] = ChainBatch(number, header, OperatorId(99), chain.block, chain.clock)

    own = member(worker.address, job, 2)
    signature = worker.sign_digest(DOMAIN.typed_digest(own.commitment.struct_hash()))
    commit(replace(own, signature=signature))
    commit(member(worker.address, job, 9), member(worker.address, job + 7, 9))
    assert await in_flight_elsewhere(verifier.context) == {owner: 200}
    verifier.context.database.close()


async def test_the_engine_is_told_what_its_owner_has_at_stake_and_open_after_one_block() -> None:
    asked: list[tuple[str, int]] = []

    def account(owner: str, *, block: int) -> Any:
        asked.append((owner, block))
        return SimpleNamespace(stake=Wei(5), exposed=7)

    async def on_chain(call: Any) -> Any:
        return call()

    async def verifiers() -> list[Any]:
        return [SimpleNamespace(node="other", owner="b"), SimpleNamespace(node="own", owner="a")]

    chain = SimpleNamespace(account=account, block_number=lambda: 12)
    context: Any = SimpleNamespace(
        chain=chain, on_chain=on_chain, verifiers=verifiers, wallet=SimpleNamespace(address="own")
    )
    assert await stake_of_owner(context) == Backed(Wei(5), 7, 12)
    assert asked == [("a", 12)], "both of the same block"
    context.wallet.address = "without a seat"
    assert await stake_of_owner(context) is None


@pytest.mark.parametrize(("part", "reads"), [(1e9, 5), (1e-9, 1)], ids=["soon read", "many of them"])
async def test_the_nodes_of_the_chain_are_read_as_often_as_that_is_cheap(
    monkeypatch: pytest.MonkeyPatch, part: float, reads: int
) -> None:
    posted: list[object] = []
    rounds, read, enough = [0], [0], asyncio.Event()

    async def in_flight(_: object) -> dict[str, int]:
        rounds[0] += 1
        if rounds[0] > 5:
            enough.set()
            await asyncio.Event().wait()
        return {}

    async def nodes() -> list[Any]:
        read[0] += 1
        await asyncio.sleep(0.001)
        return [SimpleNamespace(node="0xA", owner="0xB", workloads=3)]

    async def no_stake(_: object) -> None: ...

    monkeypatch.setattr(watching, "PART", part)
    monkeypatch.setattr(watching, "POLL_S", 0.0)
    monkeypatch.setattr(watching, "in_flight_elsewhere", in_flight)
    monkeypatch.setattr(watching, "stake_of_owner", no_stake)
    context: Any = SimpleNamespace(runner=SimpleNamespace(recall=[], post=posted.append), active_nodes=nodes)
    loop = asyncio.create_task(watching.watch_exposure(context))
    async with asyncio.timeout(60):
        await enough.wait()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert read == [reads]
    assert posted == [Elsewhere(()), NodesListed((("0xA", "0xB", 3),))], "the engine hears what is new"
