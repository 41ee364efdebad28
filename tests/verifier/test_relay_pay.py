"""What a verifier pays relays for carrying between the nodes of its jobs, and whom it does not."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sqlmodel import select
from stage import CREDIT, DOMAIN, STAKE, FakeChain, Link, make_verifier

from proofyard.chain import Anvil, ChainClient, Wallet, deploy_network
from proofyard.protocol.carriage import CarriageReceipt, Circuit, Counted
from proofyard.protocol.codec import encode
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import ShowCarriage
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Address, Cid, Digest, JobId, TaskIndex, Wei
from proofyard.transport import Endpoint, RequestFailed, punching
from proofyard.transport.receipts import Receipts
from proofyard.verifier import carriage
from proofyard.verifier.carriage import DAY_S, GIB, Carriers
from proofyard.verifier.engine.rows import Job, Task, Work
from proofyard.verifier.engine.world import Rows
from proofyard.verifier.store.tables import Carried

FEE = 100 * CREDIT
MANIFEST = Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")


class Scene:
    """A verifier with one job, two nodes at it, one that is not, and a relay without a stake."""

    def __init__(self, folder: Any, **settings: Any) -> None:
        self.chain = FakeChain()
        self.verifier = make_verifier(self.chain, folder, **{"relay_price": "1", "relay_a_day": "1000"} | settings)
        self.context = self.verifier.context
        self.caller, self.host, self.idle, self.relay = (Wallet.generate() for _ in range(4))
        self.owners = {
            wallet.address: self.chain.add_node(wallet).owner for wallet in (self.caller, self.host, self.idle)
        }
        self.result = self.context.store.put_bytes(os.urandom(50_000_000 // 64))
        self.set_work(100)
        self.carriers = Carriers(self.context)

    def set_work(self, works: int) -> None:
        """So many works of the job, which two nodes share."""
        job = Job(
            id=JobId(1),
            manifest=MANIFEST,
            requester=self.caller.address,
            opened_block=1,
            opened_hash=bytes(32),
            units=1,
            reward="1",
            audit_fee="1",
            verifier_fee=str(FEE),
            auditors_per_segment=2,
            segments_per_audit=1,
            deadline=10,
            workload=0,
        )
        spec = encode(TaskSpec(index=TaskIndex(0), kind="train", segments=15))
        rows = [job, Task(job=job.id, index=TaskIndex(0), spec=spec, reward="1")]
        for attempt in range(works):
            node = (self.caller, self.host)[attempt % 2].address
            rows.append(
                Work(
                    job=job.id,
                    task=TaskIndex(0),
                    attempt=attempt,
                    node=node,
                    owner=self.owners[node],
                    result=self.result,
                )
            )
        world = SimpleNamespace(rows=Rows(rows))
        self.context.runner = SimpleNamespace(engine=SimpleNamespace(world=world))  # type: ignore[assignment]

    def receipt(
        self, size: int, *, caller: Wallet | None = None, host: Wallet | None = None, **changes: Any
    ) -> CarriageReceipt:
        caller, host = caller or self.caller, host or self.host
        about = {
            "relay": self.relay.address,
            "circuit": Digest(os.urandom(32)),
            "caller": caller.address,
            "host": host.address,
            "payer": self.verifier.wallet.address,
            "begun": int(self.context.chain_time()),
        }
        circuit = Circuit(**about | changes)
        ends = ((caller, 0, size), (host, size, 0))
        counted = [Counted(*each, end.sign_digest(circuit.digest(DOMAIN, end.address, *each))) for end, *each in ends]
        return CarriageReceipt(circuit, *counted)

    async def show(self, *receipts: CarriageReceipt, by: Wallet | None = None) -> list[str]:
        """Why each of them counts for nothing; "" where it does."""
        connection: Any = Link((by or self.relay).address, self.context.store)
        answers = await self.carriers.show(connection, ShowCarriage(receipts), None)  # type: ignore[arg-type]
        assert all(each.proceed == (not each.reason) for each in answers.answers)
        return [each.reason for each in answers.answers]

    async def owed(self) -> int:
        rows = await self.context.database.ask(lambda session: session.exec(select(Carried)).all())
        return sum(int(row.amount) for row in rows)

    def next_day(self) -> None:
        self.chain.clock += DAY_S
        self.chain.block += 1
        self.context.saw_block(*self.context.chain.head())


@pytest.fixture
def anvil() -> Iterator[Anvil]:
    with Anvil() as running:
        yield running


@pytest.fixture
def scene(tmp_path: Any) -> Scene:
    return Scene(tmp_path)


async def test_what_was_carried_between_nodes_of_a_job_is_paid_once(scene: Scene) -> None:
    first = scene.receipt(GIB // 4)
    assert await scene.show(first) == [""]
    assert await scene.owed() == CREDIT // 4
    grown = scene.receipt(GIB // 2, circuit=first.circuit.circuit)
    assert await scene.show(first, grown, grown, scene.receipt(GIB // 4)) == ["", "", "", ""]
    assert await scene.owed() == 3 * CREDIT // 4
    await scene.carriers.pay()
    assert scene.chain.sent == []
    scene.next_day()
    for _ in range(2):
        await scene.carriers.pay()
    assert scene.chain.sent == [("pay", (scene.relay.address, 3 * CREDIT // 4))]
    assert await scene.show(scene.receipt(GIB, circuit=first.circuit.circuit)) == [""]
    scene.next_day()
    await scene.carriers.pay()
    assert scene.chain.sent[1:] == [("pay", (scene.relay.address, CREDIT // 2))]


async def test_a_payment_that_was_cut_off_is_made_once_and_as_it_was(scene: Scene, monkeypatch: Any) -> None:
    await scene.show(scene.receipt(GIB // 4))
    scene.next_day()
    subjects, send = [], scene.context.send

    async def cut_off(subject: str, call: Any) -> None:
        subjects.append(subject)
        await send(subject, call)
        if len(subjects) == 1:
            raise OSError("the process dies")

    monkeypatch.setattr(scene.context, "send", cut_off)
    with pytest.raises(OSError, match="dies"):
        await scene.carriers.pay()
    await scene.show(scene.receipt(GIB // 4))
    scene.next_day()
    await scene.carriers.pay()
    amounts = [amount for _, (_, amount) in scene.chain.sent]
    assert subjects[0] == subjects[1] != subjects[2]
    assert amounts == [CREDIT // 4] * 3, "the outbox sends a subject once, and the amount of one never changes"


async def test_a_registered_relay_is_paid_to_its_owner(scene: Scene) -> None:
    scene.relay = scene.idle
    assert await scene.show(scene.receipt(GIB)) == [""]
    scene.next_day()
    await scene.carriers.pay()
    assert scene.chain.sent == [("pay", (scene.owners[scene.idle.address], CREDIT))]


async def test_who_has_no_part_in_a_job_brings_nothing(scene: Scene) -> None:
    stranger = Wallet.generate()
    no_job = "no two owners' nodes"
    for ends in ({"caller": scene.idle}, {"host": scene.idle}, {"caller": stranger}, {"caller": scene.host}):
        (reason,) = await scene.show(scene.receipt(GIB, **ends))
        assert no_job in reason or "three wallets" in reason
    sibling = Wallet.generate()
    scene.chain.add_node(sibling, owner=Address(scene.owners[scene.caller.address]))
    scene.relay = sibling
    scene.context._reads.clear()
    (reason,) = await scene.show(scene.receipt(GIB))
    assert no_job in reason
    assert await scene.owed() == 0


async def test_two_nodes_of_one_owner_bring_nothing(scene: Scene) -> None:
    scene.chain.facts[1] = replace(scene.chain.facts[1], owner=scene.chain.facts[0].owner)
    (reason,) = await scene.show(scene.receipt(GIB))
    assert "no two owners' nodes" in reason


async def test_a_receipt_that_is_not_one_brings_nothing(scene: Scene) -> None:
    good, now = scene.receipt(GIB), int(scene.context.chain_time())
    forged = msgspec.structs.replace(good, host=msgspec.structs.replace(good.host, sent=2 * GIB))
    for receipt, why in (
        (forged, "has not signed"),
        (scene.receipt(GIB, relay=scene.idle.address), "another relay's"),
        (scene.receipt(GIB, payer=scene.idle.address), "another verifier"),
        (scene.receipt(GIB, begun=now - 2 * DAY_S), "too long ago"),
        (scene.receipt(GIB, begun=now + DAY_S), "in the future"),
        (scene.receipt(1000), "fewer than"),
    ):
        (reason,) = await scene.show(receipt)
        assert why in reason
    assert await scene.show(good, by=scene.idle) == ["it is another relay's, or for another verifier"]
    assert await scene.owed() == 0


async def test_liars_gain_no_more_than_a_part_of_the_jobs_fee(tmp_path: Any) -> None:
    scene = Scene(tmp_path, relay_fee_bps=100)
    scene.set_work(10_000)
    reasons = [(await scene.show(scene.receipt(1 << 50)))[0] for _ in range(3)]
    assert reasons[0] == ""
    assert all("is used up" in each for each in reasons[1:])
    assert await scene.owed() == FEE // 100


async def test_liars_gain_no_more_than_the_artifacts_can_have_needed(scene: Scene) -> None:
    scene.set_work(2)
    await scene.show(scene.receipt(1 << 50))
    needed = 2 * carriage.STATES_OF_RESULT * 16 * scene.context.store.size(scene.result)
    assert await scene.owed() == needed * CREDIT // GIB


async def test_all_relays_together_get_so_much_a_day(tmp_path: Any) -> None:
    scene = Scene(tmp_path, relay_a_day="0.5")
    assert await scene.show(scene.receipt(GIB // 4), scene.receipt(GIB)) == ["", ""]
    scene.relay = Wallet.generate()
    (reason,) = await scene.show(scene.receipt(GIB))
    assert "used up" in reason
    assert await scene.owed() == CREDIT // 2
    scene.next_day()
    assert await scene.show(scene.receipt(GIB // 4)) == [""]


async def test_receipts_have_bounds(scene: Scene, monkeypatch: Any) -> None:
    monkeypatch.setattr(carriage, "ROWS_A_DAY", 2)
    receipts = [scene.receipt(GIB // 64) for _ in range(3)]
    assert [bool(each) for each in await scene.show(*receipts)] == [False, False, True]
    with pytest.raises(RequestFailed, match="busy"):
        for _ in range(100):
            await scene.show()


async def test_what_is_worth_less_than_its_gas_waits_for_more_and_not_for_ever(scene: Scene) -> None:
    scene.context.settings.token_per_ether = 10**9  # type: ignore[misc]
    await scene.show(scene.receipt(GIB // 64))
    for _ in range(carriage.LAST_DAYS):
        scene.next_day()
        await scene.carriers.pay()
        assert scene.chain.sent == []
    scene.next_day()
    await scene.carriers.pay()
    assert scene.chain.sent == [("pay", (scene.relay.address, CREDIT // 64))]


async def test_a_verifier_without_a_price_says_so(tmp_path: Any) -> None:
    scene = Scene(tmp_path, relay_price="")
    assert await scene.show(scene.receipt(GIB)) == ["this verifier pays no relays"]
    assert await scene.owed() == 0


class Ask(msgspec.Struct, frozen=True, tag="ask-relayed"):
    size: int


class Told(msgspec.Struct, frozen=True, tag="told-relayed"):
    pass


async def test_a_real_relay_is_owed_for_what_real_nodes_had_it_carry(scene: Scene, monkeypatch: Any) -> None:
    monkeypatch.setattr(punching, "RETRIES_S", ())
    size, payer = 5_000_000, scene.verifier.wallet.address

    async def answer(_connection: Any, message: Ask, _body: Any) -> tuple[Told, bytes]:
        return Told(), bytes(message.size)

    async with AsyncExitStack() as stack:
        wallets = (scene.verifier.wallet, scene.relay, scene.host, scene.caller)
        starting = (stack.enter_async_context(Endpoint(each, network=DOMAIN, host="127.0.0.1")) for each in wallets)
        verifier, relay, host, caller = [await each for each in starting]
        verifier.on(ShowCarriage, scene.carriers.show)
        receipts = Receipts()
        service = relay.become_relay(receipts=receipts)
        host.on(Ask, answer)
        way = Route("relayed", "127.0.0.1", relay.port, relay.address)
        await host.reserve(way)
        connection = await caller.connect_by([way], expect=host.address, payer=payer)
        async with connection.exchange(Ask(size), reply=Told) as reply:
            assert len(await reply.body.read_all(size)) == size
        await connection.close()
        async with asyncio.timeout(30):
            while receipts.to_show().get(payer, [None])[0] is None or receipts.to_show()[payer][0].carried < size:
                await asyncio.sleep(0.01)
        (receipt,) = receipts.to_show()[payer]

        async def connect(_payer: Address) -> Any:
            return await relay.connect("127.0.0.1", verifier.port)

        await receipts.show(connect)
        assert not receipts.to_show()
    assert size < receipt.carried <= service.carried_bytes
    assert await scene.owed() == receipt.carried * CREDIT // GIB


async def test_the_transfer_arrives_on_a_real_chain(anvil: Anvil) -> None:
    deployment = deploy_network(anvil.rpc_url, anvil.wallet(0))
    client = ChainClient(anvil.rpc_url, deployment.registry, anvil.wallet(0))
    relay, node, owner = (Wallet.generate() for _ in range(3))
    assert client.payee(relay.address) == relay.address
    client.pay(client.payee(relay.address), Wei(5))
    assert client.token_balance(relay.address) == 5
    anvil.fund(owner.address)
    client.transfer(owner.address, Wei(STAKE))
    ChainClient(anvil.rpc_url, deployment.registry, owner).register_node(node, STAKE, 1)
    assert client.payee(node.address) == owner.address
