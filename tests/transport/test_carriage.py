"""The ends of a circuit sign for what a relay carried, and what they have signed is kept and shown."""

import asyncio
import os
import time
from types import SimpleNamespace

import msgspec
import pytest
from eth_account.messages import encode_typed_data

from proofyard.cli.relay import payer_of
from proofyard.protocol.carriage import (
    CARRIAGE_TYPE,
    NOBODY,
    CarriageReceipt,
    CarriageRefused,
    Circuit,
    Counted,
    validate_receipt,
)
from proofyard.protocol.keccak import keccak
from proofyard.protocol.messages import Ack, Acks, ShowCarriage
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Digest
from proofyard.transport import ConnectionLost, RequestFailed, punching
from proofyard.transport import receipts as keeping
from proofyard.transport.receipts import Receipts
from proofyard.transport.relay import Opened, Receipted, RelayLimits

DATA = os.urandom(3_000_000)


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    size: int = 0


class Told(msgspec.Struct, frozen=True, tag="told"):
    text: str = ""


async def answer(connection, message, body):
    return Told(connection.way), DATA[: message.size]


async def ask(connection, size=0):
    async with connection.exchange(Ask(size), reply=Told) as reply:
        return await reply.body.read_all(1 << 24)


async def until(condition, seconds=60):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def receipt_of(new_identity, network):
    """A receipt that its ends have signed, each as it is told to."""
    relay, caller, host, payer = (new_identity() for _ in range(4))

    def made(caller_counts=(10, 20), host_counts=(20, 10), circuit=b"", begun=None, **changes):
        about = Circuit(
            relay=relay.address,
            circuit=Digest(circuit or os.urandom(32)),
            caller=caller.address,
            host=host.address,
            payer=changes.get("payer", payer.address),
            begun=int(time.time()) if begun is None else begun,
        )
        signed = [
            Counted(*counts, end.sign_digest(about.digest(network, end.address, *counts)))
            for end, counts in ((caller, caller_counts), (host, host_counts))
        ]
        return CarriageReceipt(about, *signed)

    return made


@pytest.fixture
def receipts(tmp_path):
    return Receipts(tmp_path / "carried")


@pytest.fixture
async def three(peer, new_identity, receipts, monkeypatch):
    """A host, a relay that keeps receipts, and a caller that works for a verifier's job; they stay relayed."""
    monkeypatch.setattr(punching, "RETRIES_S", ())
    relay, host, caller = await peer(), await peer(), await peer()
    service = relay.become_relay(receipts=receipts)
    host.on(Ask, answer)
    way = Route("relayed", "127.0.0.1", relay.port, relay.address)
    await host.reserve(way)
    return host, relay, caller, way, service


async def test_both_ends_sign_for_what_was_carried_as_they_use_it(three, receipts, network, new_identity, monkeypatch):
    host, relay, caller, way, service = three
    monkeypatch.setattr("proofyard.transport.carried.STEP_BYTES", 1_000_000)
    payer = new_identity().address
    connection = await caller.connect_by([way], expect=host.address, payer=payer)
    for _ in range(4):
        await ask(connection, len(DATA))
    await until(lambda: len(receipts) == 1 and receipts.to_show()[payer][0].carried > 10_000_000)
    assert not connection.closed.is_set()
    await connection.close()
    await until(lambda: service.circuits == 0)
    await until(lambda: receipts.to_show()[payer][0].carried > 4 * len(DATA))
    (receipt,) = receipts.to_show()[payer]
    validate_receipt(receipt, network)
    circuit = receipt.circuit
    assert (circuit.relay, circuit.caller, circuit.host) == (relay.address, caller.address, host.address)
    assert receipt.carried <= service.carried_bytes


async def test_what_nobody_pays_for_is_not_kept(three, receipts):
    host, _, caller, way, service = three
    connection = await caller.connect_by([way], expect=host.address)
    await ask(connection, len(DATA))
    await connection.close()
    await until(lambda: service.circuits == 0)
    assert len(receipts) == 0


async def test_a_circuit_that_nobody_signs_for_ends(peer, receipts, monkeypatch):
    monkeypatch.setattr(punching, "RETRIES_S", ())
    monkeypatch.setattr("proofyard.transport.ways.Ways._sign_for", lambda *_: None)
    relay, host, caller = await peer(), await peer(), await peer()
    relay.become_relay(RelayLimits(unreceipted_bytes=1_000_000), receipts)
    host.on(Ask, answer)
    way = Route("relayed", "127.0.0.1", relay.port, relay.address)
    await host.reserve(way)
    connection = await caller.connect_by([way], expect=host.address)
    with pytest.raises(ConnectionLost, match="have not signed"):
        await ask(connection, len(DATA))


async def test_a_circuit_that_is_signed_for_goes_on(peer, receipts, monkeypatch):
    monkeypatch.setattr(punching, "RETRIES_S", ())
    monkeypatch.setattr("proofyard.transport.carried.STEP_BYTES", 100_000)
    relay, host, caller = await peer(), await peer(), await peer()
    relay.become_relay(RelayLimits(unreceipted_bytes=8_000_000), receipts)
    host.on(Ask, answer)
    way = Route("relayed", "127.0.0.1", relay.port, relay.address)
    await host.reserve(way)
    connection = await caller.connect_by([way], expect=host.address)
    for _ in range(4):
        assert await ask(connection, len(DATA)) == DATA


async def test_a_relay_takes_no_signature_but_its_ends_own_and_the_most_that_one_has_signed_for(
    three, network, monkeypatch
):
    host, relay, caller, way, service = three
    monkeypatch.setattr("proofyard.transport.ways.Ways._sign_for", lambda *_: None)
    connection = await caller.connect_by([way], expect=host.address, payer=relay.address)
    await ask(connection, 1000)
    outer = caller.connections[relay.address]
    tag, (circuit, _, _) = next(
        (tag, legs) for tag, legs in service._legs.items() if legs[1].end.peer == caller.address
    )

    def signed(sent, received, by=caller):
        digest = circuit.about.digest(network, by.address, sent, received)
        return Receipted(tag, Counted(sent, received, by.identity.sign_digest(digest)))

    assert await outer.request(signed(100, 200), reply=Opened) == Opened(tag)
    assert await outer.request(signed(100, 199), reply=Opened) == Opened(tag)
    assert circuit.caller.counted.received == 200
    with pytest.raises(RequestFailed, match="has not signed"):
        await outer.request(signed(100, 300, by=host), reply=Opened)
    with pytest.raises(RequestFailed, match="nothing is carried here"):
        await host.connections[relay.address].request(signed(100, 300), reply=Opened)
    with pytest.raises(RequestFailed, match="bad-request"):
        await outer.request(msgspec.structs.replace(signed(0, 0), counted=Counted(-1, 0, b"")), reply=Opened)
    with pytest.raises(RequestFailed, match="too often"):
        for _ in range(1000):
            await outer.request(signed(100, 200), reply=Opened)


def test_a_wallet_of_any_make_signs_the_same(receipt_of, network):
    """EIP-712, as other libraries compute it."""
    circuit = receipt_of().circuit
    names = [tuple(each.split(" ")) for each in CARRIAGE_TYPE[len("Carriage(") : -1].split(",")]
    message = msgspec.structs.asdict(circuit) | {"end": circuit.host, "sent": 7, "received": 1 << 40}
    domain = {"name": "Proofyard", "version": "1", "chainId": network.chain_id, "verifyingContract": network.registry}
    types = {"Carriage": [{"type": kind, "name": name} for kind, name in names]}
    signable = encode_typed_data(domain, types, message)
    digest = keccak(b"\x19" + signable.version + signable.header + signable.body)
    assert circuit.digest(network, circuit.host, 7, 1 << 40) == digest


def test_an_end_that_lies_gains_nothing_alone(receipt_of, network):
    honest = receipt_of(caller_counts=(1000, 5000), host_counts=(5200, 990))
    assert honest.carried == 990 + 5000
    for lie in ((1 << 60, 1 << 60), (0, 1 << 61)):
        assert receipt_of(caller_counts=lie, host_counts=(5200, 990)).carried <= 5200 + 990
        assert receipt_of(caller_counts=(1000, 5000), host_counts=lie).carried <= 1000 + 5000
    validate_receipt(honest, network)


def test_a_receipt_is_signed_by_both_ends_of_another_relay(receipt_of, network):
    good = receipt_of()
    circuit = good.circuit
    replace = msgspec.structs.replace
    for changed in (
        *(replace(circuit, **{name: circuit.payer}) for name in ("relay", "caller", "host")),
        replace(circuit, payer=circuit.host),
        replace(circuit, begun=circuit.begun + 1),
        replace(circuit, circuit=Digest(bytes(32))),
        replace(circuit, relay=circuit.caller),
        replace(circuit, caller=circuit.host, host=circuit.caller),
    ):
        with pytest.raises(CarriageRefused):
            validate_receipt(replace(good, circuit=changed), network)
    for name, counted in (("caller", good.host), ("host", replace(good.host, sent=21)), ("host", good.caller)):
        with pytest.raises(CarriageRefused):
            validate_receipt(replace(good, **{name: counted}), network)


def test_the_last_receipt_of_each_circuit_outlives_the_relay(receipts, receipt_of, tmp_path):
    first, last, other = (
        receipt_of(circuit=bytes(32)),
        receipt_of((30, 40), (40, 30), circuit=bytes(32)),
        receipt_of(),
    )
    old, nobodys = receipt_of(begun=int(time.time()) - 2 * keeping.KEPT_S), receipt_of(payer=NOBODY)
    for each in (first, other, last, old, nobodys):
        receipts.note(each)
    receipts.save()
    again = Receipts(tmp_path / "carried")
    assert again.to_show() == {last.circuit.payer: [other, last]}
    (tmp_path / "carried").write_bytes(b"rubbish")
    assert len(Receipts(tmp_path / "carried")) == 0


def test_so_many_receipts_are_kept_and_no_more(receipts, receipt_of, monkeypatch):
    monkeypatch.setattr(keeping, "MOST_KEPT", 3)
    made = [receipt_of() for _ in range(5)]
    for each in made:
        receipts.note(each)
    assert receipts.to_show() == {made[0].circuit.payer: made[2:]}


async def test_a_payer_is_shown_what_has_come_since(peer, receipts, receipt_of):
    relay, verifier = await peer(), await peer()
    shown = []

    async def look(_connection, message, _body):
        shown.append([each.carried for each in message.receipts])
        return Acks(tuple(Ack(each.carried > 30, "too few") for each in message.receipts))

    verifier.on(ShowCarriage, look)

    async def connect(payer):
        return None if payer == NOBODY else await relay.connect("127.0.0.1", verifier.port, timeout=0.5)

    number = os.urandom(32)
    for each in (receipt_of(), receipt_of(circuit=number)):
        receipts.note(each)
    await receipts.show(connect)
    await receipts.show(connect)
    receipts.note(receipt_of((30, 40), (40, 30), circuit=number))
    await receipts.show(connect)
    assert shown == [[30, 30], [70]]
    await verifier.close()
    receipts.note(receipt_of())
    await receipts.show(connect)
    assert len(shown) == 2


async def test_a_relay_without_a_stake_finds_who_pays_in_the_registry(peer, new_identity):
    relay, verifier = await peer(), await peer()
    known = [SimpleNamespace(node=verifier.address, endpoint=f"127.0.0.1:{verifier.port}")]
    chain = SimpleNamespace(active_verifiers=lambda: known)
    connection = await payer_of(chain, relay, verifier.address)
    assert connection.peer == verifier.address
    assert await payer_of(chain, relay, new_identity().address) is None
