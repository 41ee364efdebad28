"""The chain: whether its endpoints answer and of which chain they are, what is at the Registry's address, the time."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from proofyard.chain import ChainClient
from proofyard.chain.endpoints import Endpoint, EndpointFailed, addresses
from proofyard.chain.errors import ChainError
from proofyard.chain.rpc import mapped_errors
from proofyard.chain.troubles import Trouble, trouble_in
from proofyard.chain.urls import shown
from proofyard.doctor.checking import Check, Once, Seen, Skipped, fault, fine, note
from proofyard.doctor.setup import Setup
from proofyard.protocol.codec import read_json
from proofyard.protocol.types import Address

BURST = 12
"""Requests in a row that any endpoint should take."""
SLOW_S = 2.0
SKEW_S = 60
"""A clock that is further away than this is wrong."""
STILL_S = 900
"""After so long without a block a chain stands still."""


@dataclass(frozen=True)
class Probe:
    """What an endpoint answers. `latest`, `pending`: Unix times of its newest block, and of one that came now.
    `refused`: requests of a burst that were too many for it; `failure`: why there is no answer that can be used."""

    url: str
    chain_id: int = 0
    head: int = 0
    latest: int = 0
    pending: int = 0
    seconds: float = 0.0
    refused: int = 0
    syncing: bool = False
    failure: str = ""


def checks(setup: Setup) -> list[Check]:
    try:
        urls = addresses(setup.rpc_url)
    except ChainError as error:
        message = str(error)
        return [Check("chain", "endpoint", lambda: fault("rpc_url", message, "correct it"))]
    probes = [Once(partial(probe, url)) for url in urls]
    looks: dict[str, Callable[[], Seen]] = {
        **{"endpoint" + (f" {n}" if len(urls) > 1 else ""): _answers_of(each) for n, each in enumerate(probes, 1)},
        "chain id": lambda: chain_ids([each() for each in probes], setup.chain_id),
        "registry": lambda: registry(setup, [each() for each in probes]),
        "history": lambda: history(setup.chain(), setup.from_block),
        "clock": lambda: clock_of([each() for each in probes]),
    }
    return [Check("chain", name, look) for name, look in looks.items()]


def _answers_of(each: Once[Probe]) -> "partial[Seen]":
    return partial(lambda: answers(each()))


def probe(url: str) -> Probe:
    """Ask an endpoint a few times, without the patience that a service has."""
    asked = Endpoint(url)
    start = time.monotonic()
    try:
        chain_id = int(_ask(asked, "eth_chainId"), 16)
        seconds = time.monotonic() - start
        head, latest = _block(asked, "latest")
        pending, syncing = latest, False
        with suppress(EndpointFailed):
            syncing = bool(_ask(asked, "eth_syncing"))
        with suppress(EndpointFailed, TypeError, ValueError, KeyError):
            _, pending = _block(asked, "pending")
    except EndpointFailed as failed:
        return Probe(url, failure=failed.reason)
    except (TypeError, ValueError, KeyError):
        return Probe(url, failure="what answers there is no chain")
    return Probe(url, chain_id, head, latest, pending, seconds, _refused(asked), syncing)


def _block(asked: Endpoint, tag: str) -> tuple[int, int]:
    """Number and time of a block; a pending one may have no number."""
    block = _ask(asked, "eth_getBlockByNumber", tag, False)
    return int(block["number"] or "0x0", 16), int(block["timestamp"], 16)


def _refused(asked: Endpoint) -> int:
    """How many requests of a burst it refuses because they are too many."""
    found = 0
    for _ in range(BURST):
        try:
            _ask(asked, "eth_blockNumber")
        except EndpointFailed as failed:
            found += "too many requests" in failed.reason
        if found > 1:
            break
    return found


def _ask(asked: Endpoint, method: str, *params: Any) -> Any:
    """The result. Raises `EndpointFailed`."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    status, body = asked.post(json.dumps(request).encode())
    try:
        answer = read_json(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or ("result" not in answer and "error" not in answer):
        raise EndpointFailed(f"HTTP status {status}, and no JSON-RPC")
    if "error" in answer:
        busy = trouble_in(answer["error"]) is Trouble.BUSY
        said = answer["error"].get("message", "") if isinstance(answer["error"], dict) else ""
        raise EndpointFailed("too many requests" if busy else f"it refuses {method}: {str(said)[:100]}")
    return answer["result"]


def answers(found: Probe) -> Seen:
    """Whether an endpoint is there, is not limited to a trickle, and has caught up."""
    where = shown(found.url)
    if found.failure:
        busy = "too many requests" in found.failure
        todo = "name another endpoint beside it, with a comma" if busy else "check rpc_url, and that it is running"
        return fault(where, found.failure, todo)
    if found.syncing:
        return fault(where, f"it is still syncing, at block {found.head}", "wait until it has caught up")
    if found.refused:
        todo = "name another endpoint beside it, with a comma; it is asked less often"
        return note(where, f"it answers, and limits the rate: {BURST} requests in a row are too many", todo)
    if found.seconds > SLOW_S:
        return note(where, f"it takes {found.seconds:.1f} s to answer", "name a nearer endpoint")
    return fine(where, f"block {found.head}, answers in {found.seconds * 1000:.0f} ms")


def chain_ids(probes: Sequence[Probe], expected: int) -> Seen:
    """Whether all endpoints are of the chain that is meant."""
    there = [each for each in probes if not each.failure]
    if not there:
        raise Skipped("no endpoint answers")
    meant = expected or there[0].chain_id
    others = [f"{shown(each.url)} is chain {each.chain_id}" for each in there if each.chain_id != meant]
    if others:
        found = f"{', '.join(others)}; chain {meant} is meant"
        return fault("eth_chainId", found, "name endpoints of one chain, or correct chain_id")
    return fine("eth_chainId", f"{meant}" + ("" if expected else ", and any is taken (chain_id is not set)"))


def registry(setup: Setup, probes: Sequence[Probe]) -> Seen:
    """What is at the Registry's address."""
    if not setup.registry:
        return fault("registry", "none is set", "set registry in the settings file, or PROOFYARD_REGISTRY")
    there = [each for each in probes if not each.failure]
    if not there:
        raise Skipped("no endpoint answers")
    try:
        chain = ChainClient(there[0].url, Address(setup.registry))
        seats = chain.active_verifiers()
    except ChainError as error:
        found, _, todo = str(error).partition("; ")
        return fault(setup.registry, found, todo or "check the address")
    if not seats:
        return note(chain.registry, "a Registry without verifiers: nobody schedules jobs")
    return fine(chain.registry, f"a Registry with {len(seats)} verifier{'s' if len(seats) > 1 else ''}")


def history(chain: ChainClient, from_block: int) -> Seen:
    """Whether the endpoint still has the events that everything follows from."""
    head, _ = chain.head()
    if from_block > head:
        found = f"from_block is {from_block}, the chain ends with {head}"
        return fault("from_block", found, "give the block that the Registry is in, or 0")
    first = from_block or chain.first_block
    try:
        with mapped_errors(chain.rpc_url):
            chain.events.between(first, min(first + 1, head))
    except ChainError as error:
        return fault(f"logs of block {first}", str(error), "name an endpoint that keeps all logs")
    return fine(f"logs of block {first}", "there, with all since")


def clock_of(probes: Sequence[Probe]) -> Seen:
    """The clock by the endpoint that is the furthest."""
    there = [each for each in probes if not each.failure]
    if not there:
        raise Skipped("no endpoint answers")
    best = max(there, key=lambda each: (each.head, each.latest))
    return clock(best.latest, best.pending, time.time())


def clock(latest: int, pending: int, machine: float) -> Seen:
    """The chain's time against this machine's, all in Unix seconds. `pending`: the time that a block had now, which is
    `latest` where the endpoint does not say it: a quiet chain shows no time."""
    ahead = round(machine - max(latest, pending))
    if -ahead > SKEW_S:
        found = f"this machine's clock is {_span(-ahead)} behind the chain's"
        return fault("latest block", found, "set the clock: timedatectl set-ntp true")
    if ahead > SKEW_S and pending > latest:
        found = f"this machine's clock is {_span(ahead)} ahead of the chain's"
        return fault("pending block", found, "set the clock: timedatectl set-ntp true")
    if machine - latest > STILL_S:
        found = f"no block for {_span(round(machine - latest))}: the chain stands still, or this clock is ahead"
        return note("latest block", found, "compare with another endpoint, and set the clock")
    return fine("latest block", f"{abs(ahead)} s from this machine's clock")


def _span(seconds: int) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds} s"
