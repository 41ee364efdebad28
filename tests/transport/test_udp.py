import asyncio
import os
import sys

import pytest

from proofyard.transport.udp import Shaper, UdpSocket


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "plain"])
@pytest.mark.parametrize("receive_offload", [True, False], ids=["offload", "plain"])
async def test_the_same_datagrams_arrive_with_and_without_offload(offload, receive_offload):
    arrived, complete = [], asyncio.Event()
    sizes = [1200] * 70 + [1200, 900, 1200, 1200, 1, 16_000, 16_000, 100, 5000, 1200, 1300, 1300]
    sent = [os.urandom(size) for size in sizes]

    def collect(batch):
        arrived.extend(data for data, _ in batch)
        if len(arrived) == len(sent):
            complete.set()

    receiver = UdpSocket.bind("127.0.0.1", 0, collect, offload=receive_offload)
    sender = UdpSocket.bind("127.0.0.1", 0, lambda batch: None, offload=offload)
    try:
        sender.send([(data, receiver.address) for data in sent])
        await asyncio.wait_for(complete.wait(), 60)
    finally:
        sender.close()
        receiver.close()
    assert arrived == sent


async def test_datagrams_for_several_peers_do_not_mix():
    boxes, sockets = [[], []], []
    for box in boxes:
        sockets.append(UdpSocket.bind("127.0.0.1", 0, lambda batch, box=box: box.extend(data for data, _ in batch)))
    sender = UdpSocket.bind("127.0.0.1", 0, lambda batch: None)
    sender.send([(bytes([i]) * 100, sockets[i % 3 // 2].address) for i in range(90)])
    while sum(map(len, boxes)) < 90:
        await asyncio.sleep(0.01)
    for sock in (sender, *sockets):
        sock.close()
    assert [data[0] for data in boxes[0]] == [i for i in range(90) if i % 3 < 2]
    assert [data[0] for data in boxes[1]] == [i for i in range(90) if i % 3 == 2]


async def test_a_datagram_that_no_route_takes_is_lost_and_nothing_else():
    arrived = asyncio.get_running_loop().create_future()
    receiver = UdpSocket.bind("127.0.0.1", 0, lambda batch: arrived.set_result(batch[0][0]))
    sender = UdpSocket.bind("127.0.0.1", 0, lambda batch: None)
    sender.send([(b"x" * 66_000, receiver.address), (b"x", ("255.255.255.255", 9)), (b"after", receiver.address)])
    assert await asyncio.wait_for(arrived, 60) == b"after"
    sender.close()
    receiver.close()


@pytest.mark.skipif(sys.platform != "linux", reason="how to forbid fragments differs between systems")
async def test_datagrams_are_not_cut_into_fragments():
    sender = UdpSocket.bind("127.0.0.1", 0, lambda batch: None)
    assert sender._sock.getsockopt(0, 10) == 3  # IP_MTU_DISCOVER is IP_PMTUDISC_PROBE
    sender.close()


@pytest.mark.parametrize("port", [0, -1, 65_536, 1 << 70])
async def test_a_datagram_for_no_port_is_lost_and_nothing_else(port):
    """It once stayed at the head of the queue, so that nothing left this socket any more."""
    arrived = asyncio.get_running_loop().create_future()
    receiver = UdpSocket.bind("127.0.0.1", 0, lambda batch: arrived.set_result(batch[0][0]))
    sender = UdpSocket.bind("127.0.0.1", 0, lambda batch: None)
    sender.send([(b"nowhere", ("127.0.0.1", port)), (b"after", receiver.address)])
    assert await asyncio.wait_for(arrived, 60) == b"after"
    sender.close()
    receiver.close()


async def test_what_is_over_an_uplinks_limit_waits_and_is_not_lost():
    arrived, complete = 0, asyncio.Event()

    def collect(batch):
        nonlocal arrived
        arrived += sum(len(data) for data, _ in batch)
        if arrived == 100 * 1200:
            complete.set()

    shaper, clock = Shaper(), asyncio.get_running_loop().time
    shaper.bytes_s = 400_000.0
    receiver = UdpSocket.bind("127.0.0.1", 0, collect)
    senders = [UdpSocket.bind("127.0.0.1", 0, lambda batch: None, shaper=shaper) for _ in range(2)]
    try:
        began = clock()
        for number in range(100):
            senders[number % 2].send([(bytes(1200), receiver.address)])
        await asyncio.wait_for(complete.wait(), 60)
        seconds = clock() - began
        # What the kernel cuts into datagrams goes at once and is waited for afterwards: the last of each socket.
        assert seconds > 0.4 * 100 * 1200 / 400_000, "one limit for all sockets"
        arrived, shaper.bytes_s = 0, 0.0
        complete.clear()
        senders[0].send([(bytes(1200), receiver.address)] * 100)
        assert senders[0]._held is None and not senders[0]._queue, "without a limit nothing waits"
        await asyncio.wait_for(complete.wait(), 60)
    finally:
        for each in (*senders, receiver):
            each.close()
