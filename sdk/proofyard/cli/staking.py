"""What it takes to register an operator."""

from typing import TYPE_CHECKING

from proofyard.cli.errors import UsageError
from proofyard.cli.output import format_credits
from proofyard.protocol.types import Address, Wei

if TYPE_CHECKING:
    from proofyard.chain import ChainClient


def stake_of(chain: "ChainClient", hot: Address, given: Wei | None, each: Wei) -> Wei:
    """What registering `hot` puts up: as given, or what the owner's stake lacks to back one operator more at `each`.

    Raises `UsageError` where the contract would refuse, so that nothing is approved in vain.
    """
    assert chain.wallet is not None, "an owner was unlocked"
    owner, params = chain.wallet.address, chain.params()
    operator = chain.operator_of(hot)
    if operator is not None:
        known = chain.operator(operator)
        if known.active or known.owner != owner:
            raise UsageError(
                f"--wallet: the key {hot} belongs to operator {operator} of {known.owner} already; see "
                f"`proofyard {known.role.name.lower()} status {hot}`, or make a new one with `proofyard wallet new`"
            )
    account = chain.account(owner)
    seat = account.has_verifier or account.bound_until > chain.now()
    needed = account.nodes * params.node_stake + (params.verifier_stake if seat else 0) + each
    lacking = Wei(max(0, needed - account.stake))
    if given is not None and given < lacking:
        raise UsageError(
            f"--stake: {format_credits(given)} are too little, {format_credits(lacking)} are needed at least; leave "
            "--stake out for that"
        )
    return lacking if given is None else given
