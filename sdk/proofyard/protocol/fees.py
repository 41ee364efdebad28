"""What verifiers are paid for a job, and what it costs them: one formula for who proposes a fee and who takes it."""

from proofyard.protocol.types import Wei

BPS = 10_000
FEE_BPS = 500
"""The verifiers' proposed part of the reward, in 1/10,000."""

GAS_PER_TASK = 250_000
"""What a task costs its verifiers on chain where batches are small: its part of a commit, a draw and a settlement."""

TOKEN_PER_ETHER = 1
"""Base units of the token that pay one wei of gas, where nobody says otherwise."""

USUAL_FEE_BPS = 5_000
"""Of what a job's gas costs at the present price, what verifiers take at least unless their operators say otherwise:
the price may have doubled since the fee was proposed."""

USUAL_TASKS = 50_000
"""Tasks of one job that verifiers take unless their operators say otherwise."""


def propose_verifier_fee(reward: Wei, tasks: int, gas_price: int, token_per_ether: int = TOKEN_PER_ETHER) -> Wei:
    """What verifiers are offered where a requester names nothing, in base units of the token.

    5% of the reward for scheduling, drawing and judging, and the gas that the tasks cost them at `gas_price` (wei of
    ether for a unit of gas), each wei at `token_per_ether` base units. Nothing on chain knows the token's price; with
    another one give a fee of your own. What is not used comes back.
    """
    return Wei(-(-reward * FEE_BPS // BPS) + gas_fee(tasks, gas_price, token_per_ether))


def gas_fee(tasks: int, gas_price: int, token_per_ether: int = TOKEN_PER_ETHER) -> Wei:
    """What the gas of so many tasks costs at a price, in base units of the token."""
    return Wei(tasks * GAS_PER_TASK * gas_price * token_per_ether)


def least_verifier_fee(tasks: int, gas_price: int, token_per_ether: int, least_bps: int) -> Wei:
    """What a verifier takes at least that wants `least_bps` (1/10,000) of its gas, rounded up."""
    return Wei(-(-gas_fee(tasks, gas_price, token_per_ether) * least_bps // BPS))
