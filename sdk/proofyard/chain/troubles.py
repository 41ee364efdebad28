"""What an endpoint means when it refuses: every client and provider has words and codes of its own for it.

Codes alone do not tell: -32000 is everything at Geth, -32005 is "too many requests" by EIP-1474 and "gas limit exceeds
block gas limit" at Besu, -32010 is any refusal at Parity. So texts come first, in the order below, then codes that have
one meaning. The tests go through the messages of each client (tests/compatibility/rpc_messages.toml).
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from web3.exceptions import Web3RPCError


class Trouble(StrEnum):
    """Why an endpoint refuses, as far as it matters for what to do next."""

    KNOWN = "it has this transaction already"
    USED = "the nonce is used"
    TAKEN = "another transaction waits under this nonce"
    GAP = "a nonce before this one is missing"
    UNDERPAID = "it pays too little"
    FUNDS = "the account cannot pay for it"
    GAS = "it asks for more gas than a block has, or for too little"
    OTHER_CHAIN = "it is signed for another chain"
    BUSY = "too many requests"
    RANGE = "too many blocks or logs at once"
    SLOW = "it took too long"
    BATCH = "it takes no batches, or smaller ones"
    DENIED = "it refuses the key, or has none"
    NOT_YET = "the endpoint is not so far yet"
    PRUNED = "the endpoint has forgotten it"


_TEXTS: tuple[tuple[Trouble, str], ...] = (
    (
        Trouble.BATCH,
        r"batche?[ds]? (?:requests? |response )?(?:are|is|was) (?:not supported|too large)|batch too large",
    ),
    (Trouble.TAKEN, r"with (?:the )?same nonce|with nonce \d+ already"),
    (
        Trouble.KNOWN,
        r"already known|alreadyknown|(?<!un)known transaction|already imported|existing tx with same hash"
        r"|already exists|already in (?:the )?(?:mem)?pool|duplicate hash",
    ),
    (
        Trouble.TAKEN,
        r"replacement|could not replace existing tx|another transaction with same nonce|ownnoncealreadyused"
        r"|replace pending|replaced by transaction|in-?flight transaction limit|not replaced|already reserved",
    ),
    (
        Trouble.GAP,
        r"nonce (?:is )?too high|nonce ?gap|lower nonce invalid|lower nonce exists|noncetoofarinfuture"
        r"|too distant from current|gapped.nonce",
    ),
    (
        Trouble.USED,
        r"nonce too low|oldnonce|nonce is too low|incorrect nonce|nonce has already been used"
        r"|lower than (?:the current|account) nonce|correct nonce|invalid (?:transaction )?nonce"
        r"|incorrect account sequence",
    ),
    (
        Trouble.FUNDS,
        r"insufficient ?funds|insufficient balance|doesn't have enough funds|not have enough funds"
        r"|insufficient maxfeepergas for sender"
        r"|not enough balance|upfront cost exceeds|exceeds account balance|gas required exceeds allowance",
    ),
    (
        Trouble.UNDERPAID,
        r"underpriced|fee ?too ?low|feetoolowtocompete|gas price (?:is )?(?:too low|below)|fee is too low"
        r"|gas price .*is too low|base ?fee|sub-pool is full|pool is full|txpool.*full"
        r"|too many transactions in the queue|cap less than|tip too low|cap too low|pool overflow|queue full"
        r"|tip cap \d+, minimum needed|insufficient fees?\b|minimum global fee"
        r"|discarded on insert|pool size constraints|feepergas too low",
    ),
    (
        Trouble.GAS,
        r"exceeds block gas limit|gas ?limit ?exceeded|intrinsic ?gas|exceeds current gas limit"
        r"|gas is beyond limit|gas limit too high|gas uint64 overflow|transaction gas is too low"
        r"|max transaction gas limit|gas limit is greater than|floor data gas cost"
        r"|requires at least \d+ gas|per transaction gas limit",
    ),
    (Trouble.OTHER_CHAIN, r"chain ?id|invalidtxchainid|replay.protected|signed for another chain"),
    (
        Trouble.BUSY,
        r"rate.?limit|too many requests|request limit|compute units per second|exceeded its .*capacity"
        r"|requests per second|daily request|call rate|request rate|rps limit|usage limit|free limit exceeded"
        r"|capacity (?:limit )?exceeded|too busy|no backend is currently|temporarily unavailable"
        r"|cannot fulfill request|is busy|overloaded|please (?:retry|try again)|temporary internal error"
        r"|upstream connect error|service unavailable|too many connections|exceeded the capacity",
    ),
    (
        Trouble.NOT_YET,
        r"beyond (?:current )?head|unknown block|header not found|block not found|sync is still in progress"
        r"|is not available yet|after last accepted block|blockoutofrange"
        r"|\bsyncing\b|node is not synced|world state not available|unable to find block header|unfinalized data"
        r"|header for hash not found|greater than (?:the )?latest block"
        r"|block is in the future|indexing is in progress|block \S+ not found|cannot be found|resource not found",
    ),
    (
        Trouble.RANGE,
        r"block.?range|more than \d+ (?:results|logs)|response size|range .*(?:limit|large|exceed|wide|max)"
        r"|ranges over|number of requested blocks|response (?:is )?too (?:large|big)|limit the query"
        r"|query must be smaller|range allowed|query exceeds limit|too many (?:logs|results|blocks)|limited to"
        r"|max(?:imum)? .*range|exceeds max results",
    ),
    (Trouble.SLOW, r"query timeout|request time(?:d )?out|deadline exceeded|execution (?:timeout|aborted \(timeout)"),
    (
        Trouble.DENIED,
        r"project id settings|must be authenticated|unauthori[sz]ed|authenticate your request|invalid api key"
        r"|api key is not|invalid project id|invalid access key|access denied|forbidden",
    ),
    (
        Trouble.PRUNED,
        r"pruned|missing trie node|archive|history .*not available|historical state|no state available"
        r"|world state unavailable|state (?:\S+ )?(?:is )?not available|proof window",
    ),
)
_PATTERNS = tuple((trouble, re.compile(pattern)) for trouble, pattern in _TEXTS)
_HEIGHT = re.compile(r"block height is (\d+) but requested was (\d+)")
"""Anvil says so of a block that is not there yet, and of one whose state it has forgotten."""
_CODES = {
    429: Trouble.BUSY,
    -32005: Trouble.BUSY,
    -32001: Trouble.NOT_YET,
    -32006: Trouble.GAP,
    -32009: Trouble.UNDERPAID,
    4444: Trouble.PRUNED,
}
REVERTED = 3
_REVERT = re.compile(r"(?:error: )?(?:execution reverted|reverted|vm exception|vm execution error)")
"""What a contract says is its own business, whatever words are in it."""
MAX_TEXT = 2000
"""Characters of a message that are looked at."""


def trouble(error: Mapping[str, Any]) -> Trouble | None:
    """What the `error` of a JSON-RPC answer means; None for anything else, such as a contract that refuses."""
    text, code = text_of(error), error.get("code")
    if code == REVERTED or _REVERT.match(text):
        return None
    if (height := _HEIGHT.search(text)) and int(height[2]) <= int(height[1]):
        return Trouble.PRUNED
    found = next((meaning for meaning, pattern in _PATTERNS if pattern.search(text)), None)
    return found or (_CODES.get(code) if isinstance(code, int) else None)


def trouble_in(error: Any) -> Trouble | None:
    """The same of whatever stands where an answer has its error."""
    return trouble(error) if isinstance(error, Mapping) else None


def text_of(error: Mapping[str, Any]) -> str:
    """What it says, in lower case: some put the reason into `data`."""
    data = error.get("data")
    said = data if isinstance(data, str) and not data.startswith("0x") else ""
    if isinstance(data, Mapping):
        said = " ".join(str(value) for value in data.values() if isinstance(value, str))
    return f"{error.get('message', '')} {said}".strip()[:MAX_TEXT].lower()


def error_of(error: Web3RPCError) -> Mapping[str, Any]:
    """The `error` of the answer that web3 raised."""
    details: Any = (error.rpc_response or {}).get("error")
    return details if isinstance(details, Mapping) else {"message": str(details or error)}


def trouble_of(error: Web3RPCError) -> Trouble | None:
    return trouble(error_of(error))
