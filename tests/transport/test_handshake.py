import asyncio
import dataclasses

import pytest

from proofyard.protocol.commitment import Domain
from proofyard.transport import (
    Endpoint,
    EndpointUnavailable,
    HandshakeRejected,
    PeerUnreachable,
    WrongPeer,
)
from proofyard.transport.handshake import Transcript


async def test_both_sides_learn_the_wallet_at_the_other_end(peer):
    server, client = await peer(), await peer()
    connection = await client.connect("127.0.0.1", server.port, expect=server.address)
    assert connection.peer == server.address
    assert connection.is_client
    assert server.connections[client.address].peer == client.address
    assert connection.remote == ("127.0.0.1", server.port)


async def test_a_live_connection_is_used_again_in_either_direction(peer):
    server, client = await peer(), await peer()
    first, second = await asyncio.gather(
        *(client.connect("127.0.0.1", server.port, expect=server.address) for _ in range(2))
    )
    assert first is second
    assert await client.connect("127.0.0.1", server.port, expect=server.address) is first
    back = await server.connect("127.0.0.1", client.port, expect=client.address)
    assert back is server.connections[client.address]
    assert not back.is_client


async def test_another_wallet_than_expected_is_refused(peer, new_identity):
    server, client = await peer(), await peer()
    with pytest.raises(WrongPeer, match=server.address):
        await client.connect("127.0.0.1", server.port, expect=new_identity().address)
    assert not client.connections


async def test_a_wallet_that_signs_with_another_key_is_refused(peer, new_identity):
    impostor, victim = new_identity(), new_identity()
    impostor.address = victim.address
    server, client = await peer(), await peer(identity=impostor)
    with pytest.raises(HandshakeRejected, match="another wallet"):
        await client.connect("127.0.0.1", server.port)
    assert not server.connections


async def test_a_server_that_signs_with_another_key_is_refused(peer, new_identity):
    impostor, victim = new_identity(), new_identity()
    impostor.address = victim.address
    server, client = await peer(identity=impostor), await peer()
    with pytest.raises(HandshakeRejected, match="another wallet"):
        await client.connect("127.0.0.1", server.port, expect=victim.address)
    assert not client.connections


async def test_peers_of_another_network_are_refused(peer, network):
    server = await peer()
    client = await peer(network=Domain(network.chain_id + 1, network.registry))
    with pytest.raises(HandshakeRejected, match="another network"):
        await client.connect("127.0.0.1", server.port)


async def test_a_signature_made_for_one_certificate_is_worthless_for_another(network, new_identity):
    client, server = new_identity(), new_identity()
    towards_attacker = Transcript(network, client.address, server.address, b"c" * 32, b"s" * 32, b"attacker" * 4)
    signature = client.sign_digest(towards_attacker.digest("client"))
    towards_attacker.require("client", signature)
    relayed = dataclasses.replace(towards_attacker, certificate=b"server's" * 4)
    with pytest.raises(HandshakeRejected, match="relayed"):
        relayed.require("client", signature)


async def test_a_signature_in_one_role_is_worthless_in_the_other(network, new_identity):
    wallet = new_identity()
    both = Transcript(network, wallet.address, wallet.address, b"c" * 32, b"s" * 32, b"f" * 32)
    with pytest.raises(HandshakeRejected):
        both.require("server", wallet.sign_digest(both.digest("client")))


async def test_an_unwelcome_wallet_is_told_why(peer):
    server = await peer(admit=lambda wallet: f"{wallet} is not registered")
    client = await peer()
    with pytest.raises(HandshakeRejected, match=f"{client.address} is not registered"):
        await client.connect("127.0.0.1", server.port)


async def test_a_banned_wallet_is_disconnected_and_refused(peer):
    server, client = await peer(), await peer()
    connection = await client.connect("127.0.0.1", server.port)
    server.penalise(client.address, 100, "sent a forged block")
    await asyncio.wait_for(connection.closed.wait(), 60)
    assert "forged block" in connection.reason
    with pytest.raises(HandshakeRejected, match="banned for"):
        await client.connect("127.0.0.1", server.port)


async def test_a_peer_does_not_connect_to_itself(peer):
    alone = await peer()
    with pytest.raises(HandshakeRejected, match="itself"):
        await alone.connect("127.0.0.1", alone.port)


async def test_nobody_there_is_reported_in_time(peer):
    client, gone = await peer(), await peer()
    port = gone.port
    await gone.close()
    with pytest.raises(PeerUnreachable, match=str(port)):
        await client.connect("127.0.0.1", port, timeout=0.3)


async def test_an_unknown_host_name_is_reported(peer):
    client = await peer()
    with pytest.raises(PeerUnreachable, match="name cannot be resolved"):
        await client.connect("no-such-host.invalid", 1, timeout=60)


async def test_a_port_in_use_is_reported(peer, network, new_identity):
    taken = await peer()
    with pytest.raises(EndpointUnavailable, match=f"{taken.port}.*--port"):
        async with Endpoint(new_identity(), network=network, port=taken.port):
            pass


async def test_both_ends_are_told_of_a_disconnection(peer):
    server, client = await peer(), await peer()
    gone = asyncio.Event()
    server.on_disconnected.append(lambda connection: gone.set())
    connection = await client.connect("127.0.0.1", server.port)
    await connection.close("enough")
    await asyncio.wait_for(gone.wait(), 60)
    assert not server.connections
    assert not client.connections
