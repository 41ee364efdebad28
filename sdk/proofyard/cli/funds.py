"""`proofyard wallet send` and `faucet`: tokens and ether from one account to another."""

from typing import Annotated, Any

import typer

from proofyard.cli.chains import network_of, requester_of, signer
from proofyard.cli.errors import UsageError
from proofyard.cli.options import KeystoreDir, NetworkFlags, WalletFlags, address_of
from proofyard.cli.output import AsJson, emit, format_credits, note, parse_credits, table
from proofyard.cli.wallets import confirm
from proofyard.protocol.amounts import format_amount
from proofyard.protocol.types import Address, Wei

ETHER = "ETH"
FAUCET_TOKENS, FAUCET_ETHER = "1,000", "10"
MOST_AT_ONCE = 64


def parse_ether(text: str) -> Wei:
    """Wei of an amount of ether typed by a person. Raises `typer.BadParameter`."""
    return parse_credits(text, ETHER)


def send(
    context: typer.Context,
    flags: WalletFlags,
    to: Annotated[str, typer.Argument(metavar="TO", help="An address, or the name of a wallet of yours.")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="How much, such as 12 or 0.5.")],
    ether: Annotated[bool, typer.Option("--ether", help="Ether, which pays for gas, instead of CREDIT.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send CREDIT, or with --ether the chain's own currency.

    Asks once, and prints what is left.

    A call that was cut off may be made again within an hour: it finds what was sent and pays nothing twice.
    """
    unit = ETHER if ether else "CREDIT"
    value = parse_credits(amount, unit)
    if not value:
        raise UsageError("AMOUNT: 0 moves nothing; give more than that")
    recipient = address_of(to, flags.keystore_dir)
    settings = requester_of(context, flags)
    chain = signer(settings, settings.wallet, settings.password_file)
    assert chain.wallet is not None, "a wallet was unlocked"
    sender = chain.wallet.address
    found = chain.transferred(recipient, value, ether=ether)
    if found is None:
        chain.require_transferable(recipient, value, ether=ether)
        shown = recipient if to.strip().lower() == recipient.lower() else f"{to} ({recipient})"
        what = ", which is a contract," if chain.is_contract(recipient) else ""
        question = f"send {format_amount(value, unit)} from {sender} to {shown}{what} on chain {chain.chain_id}?"
        confirm(question, yes=yes, otherwise="nothing was sent")
        hash_ = chain.transfer(recipient, value, ether=ether)
    else:
        note("this call was made before and cut off: it has come to its end, nothing was sent again")
        hash_ = found
    left = Wei(chain.eth_balance(sender)) if ether else chain.token_balance(sender)
    facts = {
        "from": sender,
        "to": recipient,
        "amount": str(value),
        "currency": unit,
        "transaction": "0x" + hash_.hex(),
        "left": str(left),
    }
    text = f"sent {format_amount(value, unit)} to {recipient} (transaction {facts['transaction']})"
    emit(facts, as_json=as_json, text=f"{text}\nleft {format_amount(left, unit)}")


def faucet(
    context: typer.Context,
    flags: NetworkFlags,
    to: Annotated[list[str], typer.Argument(metavar="WALLET", help="Names of wallets, or addresses.")],
    amount: Annotated[
        Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Tokens for each.", show_default=FAUCET_TOKENS)
    ] = FAUCET_TOKENS,
    ether: Annotated[
        Any, typer.Option(parser=parse_ether, metavar="ETHER", help="Ether for each.", show_default=FAUCET_ETHER)
    ] = FAUCET_ETHER,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Fund wallets on a devnet with tokens and ether.

    They are worth nothing; no other chain has a faucet."""
    addresses = [address_of(each, keystore_dir) for each in to[:MOST_AT_ONCE]]
    if len(to) > MOST_AT_ONCE:
        raise UsageError(f"WALLET: {len(to)} at once are too many; give at most {MOST_AT_ONCE}")
    settings = network_of(context, flags)
    from proofyard.chain import ChainClient
    from proofyard.chain.devchain import give

    for address in addresses:
        give(settings.rpc_url, Address(settings.registry), address, amount, ether)
    chain = ChainClient(settings.rpc_url, Address(settings.registry))
    has = {address: (chain.token_balance(address), chain.eth_balance(address)) for address in addresses}
    facts = [{"address": address, "tokens": str(tokens), "ether": str(wei)} for address, (tokens, wei) in has.items()]
    rows = [(address, format_credits(tokens), format_amount(wei, ETHER)) for address, (tokens, wei) in has.items()]
    emit(facts, as_json=as_json, text=table(rows, ("ADDRESS", "HAS", "")))
