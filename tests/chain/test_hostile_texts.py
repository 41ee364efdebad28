"""What anybody may write on chain, and everybody has to read: no text or byte string ends the reading."""

import pytest
from eth_abi.abi import encode
from web3 import Web3

from proofyard.chain import Cursor, Role
from proofyard.chain.codec import codec
from proofyard.chain.events import EndpointSet, OperatorRegistered, record_cid
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.protocol.types import Wei

CREDIT = 10**18
TEXTS = [b"\xff\xfe\x80:1", b"\xed\xa0\x80", b"\x1b[2J\r\n127.0.0.1:1", b"\x00" * 40, b"\xc3"]


def send_raw(network, sender: str, signature: str, *kinds_and_values) -> None:
    """A call whose arguments no library would encode."""
    kinds, values = kinds_and_values
    data = Web3.keccak(text=signature)[:4] + encode(kinds, values)
    request = network.anvil._request
    request("anvil_impersonateAccount", [sender])
    request("eth_sendTransaction", [{"from": sender, "to": network.deployment.registry, "data": "0x" + data.hex()}])
    network.anvil.mine(1)


@pytest.mark.parametrize("text", TEXTS)
def test_an_endpoint_that_is_no_text_is_read_like_any_other(network, text: bytes) -> None:
    """One such endpoint once ended every verifier, and kept everybody from reading any event after it."""
    owner, chain = network.owner(1000), network.deployer
    operator = owner.register_node(network.key(), Wei(100 * CREDIT), 1)
    send_raw(network, owner.wallet.address, "setEndpoint(uint32,string)", ["uint32", "bytes"], [operator, text])
    (node,) = chain.active_nodes()
    assert (node.id, node.role) == (operator, Role.NODE)
    assert node.endpoint.isprintable()
    events, _ = chain.events.read(Cursor(network.deployment.block))
    assert [type(event) for event in events][-1] is EndpointSet
    assert any(isinstance(event, OperatorRegistered) for event in events)
    assert [known.id for known in chain.history().nodes(chain.block_number())] == [operator]


def test_a_plain_text_stays_as_it_is() -> None:
    for text in ("", "127.0.0.1:4433", "[::1]:9", "knoten-\N{LATIN SMALL LETTER U WITH DIAERESIS}.example:1"):
        assert codec().decode(["string"], codec().encode(["string"], [text])) == (text,)


def test_a_record_that_is_no_cid_is_one_that_nobody_can_show() -> None:
    """Two thirds of the seats could otherwise settle anything and keep everybody from reading it, and a challenge."""
    right = raw_cid(b"a record")
    assert record_cid(cid_bytes(right)) == right
    for junk in (bytes(36), b"\xff" * 36, b"\x01\x71\x12\x20" + bytes(32)):
        assert record_cid(junk) == raw_cid(junk), "a record is never as short as this artifact"
