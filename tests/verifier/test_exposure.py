"""What owners have in flight with other verifiers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace
from stage import DOMAIN, ChainBatch, FakeChain, make_verifier

from proofyard.chain import Wallet
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.members import Member, encode_members, members_root
from proofyard.protocol.settlement import Header, OperatorId
from proofyard.protocol.types import Address, BatchId, Digest, JobId, Signature, TaskIndex, Wei
from proofyard.protocol.view import JobFacts
from proofyard.verifier.elsewhere import in_flight_elsewhere, stake_of_owner
from proofyard.verifier.engine.events import Backed
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
