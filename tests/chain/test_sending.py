"""Transactions that get stuck, are replaced, or cannot be sent at all."""

import socket
import threading
import time

import pytest
from world import CREDIT

from proofyard.chain import Anvil, ChainClient, ChainUnreachable, InsufficientBalance, Wallet
from proofyard.chain.abi import contract, contract_names
from proofyard.chain.devchain import PortInUse
from proofyard.chain.errors import BadRegistry, NoRegistry, NoWallet, Refused
from proofyard.chain.refusals import StakeTooLow, UnknownJob
from proofyard.chain.rpc import TOKEN_ERRORS
from proofyard.chain.sender import Sender
from proofyard.protocol.types import Address, JobId, Wei


def pending(anvil: Anvil) -> list[dict[str, str]]:
    """The transactions that wait for a block."""
    content = anvil._request("txpool_content", [])["pending"]
    return [transaction for sender in content.values() for transaction in sender.values()]


def wait_for_pending(anvil: Anvil, *, nonce: int, tip_above: int = 0) -> int:
    """Wait until just one transaction is pending, with that nonce and a tip above `tip_above`; its tip."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        found = [(int(entry["nonce"], 16), int(entry["maxPriorityFeePerGas"], 16)) for entry in pending(anvil)]
        if [number for number, tip in found if tip > tip_above] == [nonce]:
            return found[0][1]
        time.sleep(0.05)
    raise AssertionError(f"no such transaction is pending: {pending(anvil)}")


def test_a_stuck_transaction_is_sent_again_with_a_higher_fee_and_takes_effect_once(network) -> None:
    anvil, wallet, sender = network.anvil, network.key(), network.deployer.wallet
    client = ChainClient(anvil.rpc_url, network.deployment.registry, sender, patience=0.3)
    nonce = client._w3.eth.get_transaction_count(sender.address)
    anvil._request("evm_setAutomine", [False])
    try:
        sending = threading.Thread(target=client.transfer, args=(wallet.address, Wei(CREDIT)))
        sending.start()
        first = wait_for_pending(anvil, nonce=nonce)
        wait_for_pending(anvil, nonce=nonce, tip_above=first)
        anvil.mine()
        sending.join(60)
        assert not sending.is_alive()
    finally:
        anvil._request("evm_setAutomine", [True])
    assert client.token_balance(wallet.address) == CREDIT


def test_a_nonce_that_another_program_took_is_given_up_and_the_action_sent_anew(network) -> None:
    anvil, target = network.anvil, network.key()
    wallet = network.deployer.wallet
    chain = network.deployer
    data = chain._token.encode_abi("transfer", [target.address, CREDIT])
    nonce = chain._w3.eth.get_transaction_count(wallet.address)
    anvil._request("evm_setAutomine", [False])
    try:
        patient = Sender(chain._w3, anvil.rpc_url, wallet, patience=60, receipt_lag=0.5)
        sending = threading.Thread(target=patient.send, args=("the transfer", chain.token, data))
        sending.start()
        wait_for_pending(anvil, nonce=nonce)
        block = chain._w3.eth.get_block("latest")
        rival = {
            "to": wallet.address,
            "value": 0,
            "gas": 21_000,
            "nonce": nonce,
            "maxFeePerGas": block["baseFeePerGas"] * 20 + 10**12,
            "maxPriorityFeePerGas": 10**12,
            "chainId": chain.chain_id,
        }
        chain._w3.eth.send_raw_transaction(wallet.account.sign_transaction(rival).raw_transaction)
        anvil.mine()
        wait_for_pending(anvil, nonce=nonce + 1)
        anvil.mine()
        sending.join(60)
        assert not sending.is_alive()
    finally:
        anvil._request("evm_setAutomine", [True])
    assert chain.token_balance(target.address) == CREDIT


def test_too_little_of_either_currency_is_said_with_both_amounts(network) -> None:
    poor = Wallet.generate()
    client = network.client(poor)
    with pytest.raises(InsufficientBalance) as tokens:
        client.add_stake(Wei(5))
    assert (tokens.value.have, tokens.value.need) == (0, 5)
    network.deployer.transfer(poor.address, Wei(CREDIT))
    with pytest.raises(InsufficientBalance, match="ETH"):
        client.approve(Wei(CREDIT))


def test_a_refusal_is_an_exception_with_its_operands(network) -> None:
    owner = network.owner(10)
    with pytest.raises(StakeTooLow) as refused:
        owner.register_node(Wallet.generate(), Wei(CREDIT), 1)
    assert refused.value.operands["stake"] == CREDIT
    assert refused.value.operands["required"] == 100 * CREDIT
    with pytest.raises(UnknownJob, match="there is no job 99"):
        owner.job(JobId(99))


CONTRACTS = [name for name in contract_names() if name != "Credit"]


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_error_of_the_contracts_has_its_exception_and_its_sentence(name: str) -> None:
    kinds = {kind.__name__: kind for kind in Refused.__subclasses__()}
    for entry in contract(name).abi:
        if entry["type"] == "error":
            operands = {item["name"]: 1 for item in entry["inputs"]}
            kind = kinds[entry["name"]]
            assert kind.sentence and str(kind(entry["name"], operands))


def test_every_refusal_is_an_error_of_a_contract() -> None:
    entries = [entry for name in CONTRACTS for entry in contract(name).abi]
    declared = {entry["name"] for entry in entries if entry["type"] == "error"}
    assert {kind.__name__ for kind in Refused.__subclasses__()} <= declared | set(TOKEN_ERRORS)


def test_reading_needs_no_wallet_and_writing_asks_for_one(network) -> None:
    reader = network.client(None)
    assert reader.active_nodes() == []
    with pytest.raises(NoWallet):
        reader.withdraw()


def test_no_chain_no_registry_and_no_port_are_told_apart(network) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ChainUnreachable):
            ChainClient(f"http://127.0.0.1:{port}", network.deployment.registry)
        taken.listen()
        with pytest.raises(PortInUse), Anvil(port=port):
            pass
    with pytest.raises(NoRegistry):
        ChainClient(network.anvil.rpc_url, Address("0x" + "11" * 20))
    for wrong in ("nonsense", "", network.deployment.registry[:-1], network.deployment.registry.swapcase()):
        with pytest.raises(BadRegistry, match=r"registry: .* is no address"):
            ChainClient(network.anvil.rpc_url, Address(wrong))
    for spelling in (str.lower, str.upper, lambda text: text[2:], lambda text: f" {text}\n"):
        registry = Address(spelling(network.deployment.registry))
        assert ChainClient(network.anvil.rpc_url, registry).registry == network.deployment.registry
