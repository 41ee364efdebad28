"""What an operator wants for a unit of work; a job that pays less is left to others."""

from collections.abc import Iterable, Mapping

from proofyard.chain import JobRecord
from proofyard.node.limits import OfferRefused
from proofyard.protocol.amounts import format_amount, read_amount
from proofyard.protocol.types import Wei

EVERY = ""
"""The workload that stands for all that have no price of their own."""


def parse_prices(texts: Iterable[str]) -> dict[str, Wei]:
    """Base units of CREDIT for a work unit, by workload: `0.001` for all, `embed=0.0001` for one. Raises `ValueError`
    with what to write instead."""
    prices: dict[str, Wei] = {}
    for text in texts:
        name, separator, amount = text.rpartition("=")
        if separator and not name.strip():
            raise ValueError(f"{text!r} names no workload before its =; write it like embed=0.0001, or 0.001 for all")
        if name.strip() in prices:
            raise ValueError(f"{name.strip() or 'all workloads'} has two prices; leave one of them out")
        prices[name.strip()] = read_amount(amount)
    return prices


def check_price(prices: Mapping[str, Wei], job: JobRecord, workload: str, *, unpaid: bool) -> None:
    """Raise `OfferRefused` for a job that pays nothing, unless `unpaid`, or less for a unit of work than is wanted."""
    if not job.reward and not unpaid:
        raise OfferRefused("the job's reward", "is nothing; this node works for none unless its setting `unpaid` is on")
    wanted = prices.get(workload, prices.get(EVERY, Wei(0)))
    if job.reward < wanted * job.units:
        paid = format_amount(job.reward // job.units)
        raise OfferRefused(
            "the job's reward", f"is {paid} for a unit of {workload}, this node's min_price is {format_amount(wanted)}"
        )
