"""Calling the Lens without an address: its code travels with the call, so nobody has to say where one is deployed.

The call creates a Lens over the Registry, asks it, and returns its answer, all in one `eth_call` without `to` at any
block whose state the endpoint has. Nothing is sent. The answer is returned as the code of a contract would be, so it
may have at most 24,576 bytes (EIP-170): pages are small enough for that.
"""

from typing import Any

from eth_abi.abi import encode as abi_encode
from eth_utils.abi import get_abi_output_types
from web3 import Web3
from web3.types import BlockIdentifier

from proofyard.chain.abi import contract
from proofyard.chain.codec import codec
from proofyard.chain.rpc import mapped_errors
from proofyard.protocol.types import Address

NODE_PAGE = 32
SLOT_PAGE = 32
BATCH_PAGE = 200

_PROLOGUE_BYTES = 60


def deployless_call(creation: bytes, call: bytes) -> bytes:
    """Code that creates a contract, calls it with `call` and ends with what that returned or reverted with."""
    size, length = len(creation).to_bytes(3, "big"), len(call).to_bytes(3, "big")
    call_at = (_PROLOGUE_BYTES + len(creation)).to_bytes(3, "big")
    create = b"\x62" + size + b"\x60" + bytes([_PROLOGUE_BYTES]) + b"\x60\x00\x39"  # CODECOPY(0, creation)
    create += b"\x62" + size + b"\x60\x00\x60\x00\xf0"  # CREATE
    ask = b"\x62" + length + b"\x62" + call_at + b"\x60\x00\x39"  # CODECOPY(0, call)
    ask += b"\x60\x00\x60\x00\x62" + length + b"\x60\x00\x84\x5a\xfa"  # STATICCALL
    copy = b"\x3d\x60\x00\x60\x00\x3e"  # RETURNDATACOPY(0, all)
    answer = b"\x60" + bytes([_PROLOGUE_BYTES - 5]) + b"\x57\x3d\x60\x00\xfd\x5b\x3d\x60\x00\xf3"
    prologue = create + ask + copy + answer
    assert len(prologue) == _PROLOGUE_BYTES
    return prologue + creation + call


class Lens:
    """Asks a Lens over one Registry; see `ILens.sol`. Addresses in answers are lower-case."""

    def __init__(self, w3: Web3, rpc_url: str, registry: Address) -> None:
        self._w3 = w3
        self._rpc_url = rpc_url
        code = bytes.fromhex(contract("Lens").bytecode[2:])
        self._creation = code + abi_encode(["address"], [registry])
        self._contract = w3.eth.contract(abi=contract("Lens").abi)

    def read(self, function: str, *args: Any, block: BlockIdentifier = "latest") -> Any:
        """What the Lens answers at a block: one value, or a tuple where it returns several."""
        with mapped_errors(self._rpc_url):
            call = bytes.fromhex(self._contract.encode_abi(function, list(args))[2:])
            code = deployless_call(self._creation, call)
            answer = self._w3.eth.call({"data": code}, block)
        kinds = get_abi_output_types(self._contract.get_function_by_name(function).abi)
        values = codec().decode(kinds, bytes(answer))
        return values[0] if len(values) == 1 else values
