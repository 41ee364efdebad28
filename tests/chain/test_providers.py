"""Endpoints that behave as public providers do."""

import errno
import gzip
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rpc_stand_in import (
    Answer,
    Forward,
    Rule,
    behind,
    elsewhere,
    error,
    log_range,
    lost_answer,
    null,
    ordinary,
    per_second,
    standing_in,
    status,
    times,
)
from scripts.compatibility import section
from world import CREDIT, MANIFEST

from proofyard.chain import (
    Anvil,
    ChainClient,
    ChainUnreachable,
    Cursor,
    JobTerms,
    Rollback,
    Wallet,
    deploy_network,
    endpoints,
)
from proofyard.chain.endpoints import Budget
from proofyard.chain.errors import AnotherChain, BadRpcUrl, ChainBehind, ChainError, NoRegistry, WrongChain
from proofyard.chain.events import StakeChanged
from proofyard.chain.following import MAX_RANGE, WORKED_TO_GROW, RangeSize
from proofyard.chain.pushed import websocket_of
from proofyard.chain.sender import Sender
from proofyard.chain.turns import Turn
from proofyard.chain.urls import shown_all
from proofyard.protocol.types import Wei

SECRETS = ("user", "secret", "KEY", "abc")
ADDRESS = "http://user:secret@{}/v2/KEY?token=abc"


PASSING: dict[str, Rule] = {
    "429": times(3, status(429)),
    "429 with Retry-After": times(2, status(429, Retry_After="1")),
    "502": times(3, status(502)),
    "503": times(2, status(503)),
    "null": times(2, null, "eth_chainId", "eth_getCode", "eth_call"),
    "-32005": times(2, error(-32005, "limit exceeded")),
    "429 in a body": times(2, error(429, "Your app has exceeded its compute units per second capacity.", 429)),
    "header not found": times(2, error(-32000, "header not found"), "eth_call"),
}
FATAL: dict[str, tuple[Rule, str]] = {
    "401": (status(401), "HTTP status 401"),
    "404": (status(404), "HTTP status 404"),
    "403 with an error": (error(-32000, "no such key", 403), "HTTP status 403: no such key"),
    "an error for the key": (error(-32600, "Must be authenticated!"), "it refuses: must be authenticated"),
    "no such method": (error(-32601, "method not found"), "does not say which chain it is: method not found"),
    "HTML": (status(200, b"<html>"), "does not speak JSON-RPC"),
    "a list": (status(200, b"[]"), "does not speak JSON-RPC"),
    "no result": (status(200, b'{"jsonrpc":"2.0","id":1}'), "does not speak JSON-RPC"),
    "no number": (lambda data, forward: {"result": "not a number"}, "does not say which chain it is"),
}
RANGES: dict[str, Rule] = {
    "maximum block range": error(-32000, "exceed maximum block range: 500"),
    "10000 results": error(-32005, "query returned more than 10000 results. Try with this block range [0x1, 0x2]."),
    "too wide": error(-32000, "block range too wide"),
    "with status 400": error(-32600, "You can make eth_getLogs requests with up to a 500 block range.", 400),
    "unknown words": error(-32602, "something that nobody has heard of"),
    "413": status(413),
    "504": status(504),
}
ODD: dict[str, tuple[Answer, str]] = {
    "301": (
        Answer(301, b"", Location="https://user:secret@new.example/KEY?token=abc"),
        "a redirect to https://new.example;",
    ),
    "307 without a host": (Answer(307, b"", Location="/v3"), "HTTP status 307, a redirect"),
    "308 to nowhere": (Answer(308, b""), "HTTP status 308, a redirect"),
    "broken gzip": (Answer(200, b"\x1f\x8b\x08 no gzip at all", Content_Encoding="gzip"), "connection refused or lost"),
    "packed HTML": (Answer(200, gzip.compress(b"<html>"), Content_Encoding="gzip"), "does not speak JSON-RPC"),
    "a gzip bomb": (Answer(200, gzip.compress(bytes(3 << 20)), Content_Encoding="gzip"), "over the limit"),
    "a huge body": (Answer(200, bytes(3 << 20)), "over the limit"),
    "a body that never ends": (Answer(200, b" " * 20, Drip="0.1"), "does not end"),
    "nothing": (Answer(200, b""), "does not speak JSON-RPC"),
    "100,000 brackets": (Answer(200, b"[" * 100_000), "does not speak JSON-RPC"),
}
TIP_METHOD = "eth_maxPriorityFeePerGas"
SENT: dict[str, Rule] = {
    "502 once it was forwarded": times(1, lost_answer, "eth_sendRawTransaction"),
    "the same, again and again": times(3, lost_answer, "eth_sendRawTransaction"),
    "429 for a receipt": times(3, status(429), "eth_getTransactionReceipt"),
    "502 before it was forwarded": times(3, status(502), "eth_sendRawTransaction"),
    "null for a receipt": times(2, null, "eth_getTransactionReceipt"),
    "already imported": times(
        1, error(-32010, "Transaction with the same hash was already imported."), "eth_sendRawTransaction"
    ),
    "401 for a receipt": times(2, status(401), "eth_getTransactionReceipt"),
    "403 for a receipt, for long": times(9, status(403), "eth_getTransactionReceipt"),
    "OldNonce": times(
        1, error(-32010, "OldNonce, Current nonce: 5, nonce of rejected tx: 3"), "eth_sendRawTransaction"
    ),
    "FeeTooLowToCompete": times(3, error(-32010, "FeeTooLowToCompete"), "eth_sendRawTransaction"),
    "server is busy": times(3, error(-32009, "Server is busy, try again later"), "eth_sendRawTransaction"),
    "no word on tips": times(99, error(-32601, "the method does not exist/is not available"), TIP_METHOD),
    "Nonce too high": times(1, error(-32006, "Nonce too high"), "eth_sendRawTransaction"),
}
NO_BATCHES: dict[str, Rule] = {
    "batches: 400": status(400),
    "batches: 405": status(405),
    "batches: 501": status(501),
    "batches: an error": error(-32600, "batch requests are not allowed"),
    "batches: an empty list": status(200, b"[]"),
    "batches: -32005": error(-32005, "Batched requests are not supported by this server"),
    "batches: too large": error(-32011, "The batch response was too large"),
}


def test_the_page_lists_what_is_tried_here() -> None:
    listed = [case for row in section("rpc_providers").rows if isinstance(row["does"], list) for case in row["does"]]
    assert sorted(listed) == sorted([*PASSING, *FATAL, *RANGES, *ODD, *SENT, *NO_BATCHES])


@pytest.mark.parametrize("rule", PASSING.values(), ids=PASSING.keys())
def test_what_passes_is_waited_for(network, rule: Rule) -> None:
    with standing_in(network.anvil.rpc_url, rule) as provider:
        chain = ChainClient(provider.url, network.deployment.registry)
        assert chain.active_nodes() == []


@pytest.mark.parametrize(("rule", "says"), FATAL.values(), ids=FATAL.keys())
def test_what_does_not_pass_is_said_at_once_with_status_and_host_and_no_key(network, rule: Rule, says: str) -> None:
    with standing_in(network.anvil.rpc_url, rule) as provider:
        url = ADDRESS.format(f"127.0.0.1:{provider.port}")
        with pytest.raises(ChainUnreachable, match=says) as caught:
            ChainClient(url, network.deployment.registry)
        assert f"http://127.0.0.1:{provider.port} (" in str(caught.value)
        assert not any(secret in str(caught.value) for secret in SECRETS)
        assert provider.paths[0] == "/v2/KEY?token=abc"
        assert provider.authorizations[0] == "Basic dXNlcjpzZWNyZXQ="


def test_no_error_shows_more_of_an_address_than_its_host(network) -> None:
    with standing_in(network.anvil.rpc_url) as provider:
        url = ADDRESS.format(f"127.0.0.1:{provider.port}")
        chain = ChainClient(url, network.deployment.registry, Wallet.generate())
        said: list[str] = []
        for work in (
            lambda: ChainClient(url, "0x" + "11" * 20),  # type: ignore[arg-type]
            lambda: ChainClient(url.replace("http", "ftp"), network.deployment.registry),
            lambda: ChainClient("http://user:secret@host:99999/KEY?abc", network.deployment.registry),
            lambda: ChainClient("KEY", network.deployment.registry),
            lambda: ChainClient(url, network.deployment.registry, first_block=10**9),
            chain.block_number,
            chain.attend,
        ):
            provider.rules[:] = [error(-32601, "method not found")] if len(said) > 4 else []
            with pytest.raises(ChainError) as caught:
                work()
            said.append(str(caught.value))
        assert not [text for text in said if any(secret in text for secret in SECRETS)]
    with pytest.raises(ChainUnreachable) as gone:
        ChainClient(f"{url},{url}2", network.deployment.registry)
    assert not any(secret in str(gone.value) for secret in SECRETS)


def test_an_address_may_be_several_and_none_may_be_nonsense() -> None:
    assert shown_all("http://a:1/KEY, https://u:p@b/x,http://c") == "http://a:1, https://b, http://c"
    assert shown_all("https://[2001:db8::1]:8545/KEY") == "https://[2001:db8::1]:8545"
    assert websocket_of("https://a:1/KEY?x=1, http://b") == "wss://a:1/KEY?x=1"
    for wrong in ("", " , ", "http://", "ws://a", "http://a:0", "http://a http://", "http://a b", "a:8545"):
        with pytest.raises(BadRpcUrl):
            ChainClient(wrong, "0x" + "11" * 20)  # type: ignore[arg-type]


def test_the_next_endpoint_is_asked_while_the_first_is_not_in_order(network) -> None:
    anvil = network.anvil.rpc_url
    for rule in (status(401), status(502), status(429), null, status(200, b"<html>")):
        with standing_in(anvil, rule) as first, standing_in(anvil) as second:
            chain = ChainClient(f"{first.url},{second.url}", network.deployment.registry)
            start = time.monotonic()
            assert chain.block_number() > 0
            assert time.monotonic() - start < 20
            assert sum(first.asked.values()) < sum(second.asked.values())
    gone = "http://127.0.0.1:9"
    assert ChainClient(f"{gone}, {anvil}", network.deployment.registry).block_number() > 0
    with pytest.raises(ChainUnreachable, match=r"http://127.0.0.1:9: connection refused.*http://127.0.0.1:10: "):
        ChainClient(f"{gone},http://127.0.0.1:10", network.deployment.registry)


@pytest.mark.parametrize("refusal", [error(-32000, "no such key", 403), error(-32600, "Unauthorized")])
def test_the_next_endpoint_is_asked_where_the_first_refuses_the_key_later(network, refusal: Rule) -> None:
    """A month's allowance ends in the middle of a run, and the body may say so as JSON-RPC does."""
    with standing_in(network.anvil.rpc_url) as provider:
        chain = ChainClient(f"{provider.url},{network.anvil.rpc_url}", network.deployment.registry)
        provider.rules[:] = [refusal]
        assert chain.active_nodes() == []


def test_a_proxy_that_cannot_be_used_is_named(network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5h://user:secret@127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "socks", None)
    for name in ("NO_PROXY", "no_proxy", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ChainError, match=r"the proxy that is set for http://127\.0\.0\.1:1 cannot be used") as refused:
        ChainClient("http://127.0.0.1:1/socks", network.deployment.registry)
    assert not any(secret in str(refused.value) for secret in SECRETS)


def test_an_endpoint_of_another_chain_is_refused(network) -> None:
    def other(data: dict[str, Any], forward: Forward) -> dict[str, Any] | None:
        return {"result": "0x5"} if data["method"] == "eth_chainId" else None

    with standing_in(network.anvil.rpc_url, other) as provider:
        urls = (f"{network.anvil.rpc_url},{provider.url}", f"{provider.url},{network.anvil.rpc_url}")
        for url in urls:
            with pytest.raises(WrongChain, match="is chain"):
                ChainClient(url, network.deployment.registry)
        with pytest.raises(WrongChain, match="is chain 5, and chain 31337 is meant"):
            ChainClient(provider.url, network.deployment.registry, chain_id=31337)
        ChainClient(provider.url, network.deployment.registry, chain_id=5)
        # One that says so only later, when its turn comes, is passed over.
        chain = ChainClient(network.anvil.rpc_url, network.deployment.registry, chain_id=31337)
        assert chain.chain_id == 31337


def other_chain(data: dict[str, Any], forward: Forward) -> dict[str, Any] | None:
    return {"result": "0x5"} if data["method"] == "eth_chainId" else None


def other_blocks(first: int) -> Rule:
    """Every block from this one on is another."""

    def rule(data: dict[str, Any], forward: Forward) -> dict[str, Any] | None:
        if data["method"] != "eth_getBlockByNumber":
            return None
        block = forward(data)["result"]
        if block is None or int(block["number"], 16) < first:
            return {"result": block}
        first_byte = int(block["hash"][2:4], 16) ^ 0xFF
        return {"result": block | {"hash": f"0x{first_byte:02x}{block['hash'][4:]}"}}

    return rule


@pytest.mark.parametrize("ask_again_s", [0.0, 60.0])
def test_an_endpoint_that_becomes_another_chain_is_noticed(network, monkeypatch, ask_again_s: float) -> None:
    """A node is switched behind its address: at once where something looks odd, else a little later."""
    monkeypatch.setattr("proofyard.chain.rpc.ASK_AGAIN_S", ask_again_s)
    owner = network.owner(10)
    with standing_in(network.anvil.rpc_url) as provider:
        chain = ChainClient(provider.url, network.deployment.registry)
        _, cursor = chain.events.read(Cursor(network.deployment.block))
        owner.add_stake(Wei(CREDIT))
        provider.rules = [other_chain, other_blocks(1)]
        for _ in range(2):
            with pytest.raises(ChainUnreachable, match="it is chain 5 and not 31337"):
                chain.events.read(cursor)
        provider.rules = []
        events, _ = chain.events.read(cursor)
        assert [e.stake for e in events if isinstance(e, StakeChanged)] == [CREDIT]


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ([other_blocks(0)], AnotherChain),
        ([other_chain, other_blocks(0)], ChainUnreachable),
        ([other_blocks(1)], Rollback),
    ],
    ids=["wiped and begun anew", "another network", "a deep reorganisation"],
)
def test_another_chain_is_no_reorganisation(network, rules: list[Rule], what: type) -> None:
    with standing_in(network.anvil.rpc_url) as provider:
        chain = ChainClient(provider.url, network.deployment.registry)
        _, cursor = chain.events.read(Cursor(network.deployment.block))
        network.owner(10).add_stake(Wei(CREDIT))
        provider.rules = rules
        if what is Rollback:
            assert isinstance(chain.events.read(cursor)[0][0], Rollback)
            return
        with pytest.raises(what):
            chain.events.read(cursor)


def test_a_budget_is_found_by_being_refused_and_grows_again() -> None:
    budget, now = Budget(), 100.0
    assert [budget.wait(now) for _ in range(40)] == [0.0] * 40
    budget.refused(now)
    budget.refused(now + 0.5)
    assert budget.rate == 20, "refusals of requests that were under way together count once"
    first, second = budget.wait(now + 1), budget.wait(now + 1)
    assert second - first == pytest.approx(0.05)
    for step in range(40):
        budget.wait(now + 10 * (step + 1))
    assert budget.rate is None


def test_ten_requests_a_second_are_enough_for_everything(network) -> None:
    with standing_in(network.anvil.rpc_url, per_second(10)) as provider:
        chain = ChainClient(provider.url, network.deployment.registry)
        for _ in range(4):
            assert chain.active_verifiers() == []
            assert chain.history().read_to > 0
        assert chain.token_supply() > 0


def test_what_never_changes_is_asked_once(network) -> None:
    with standing_in(network.anvil.rpc_url) as provider:
        chain = ChainClient(provider.url, network.deployment.registry, network.deployer.wallet)
        target = network.key().address
        for _ in range(3):
            chain.transfer(target, Wei(1))
            chain.params()
        assert provider.asked["eth_chainId"] == 1
        assert provider.asked["eth_getCode"] == 1


# Logs


@pytest.mark.parametrize("complaint", RANGES.values(), ids=RANGES.keys())
def test_fewer_blocks_are_asked_for_where_an_endpoint_refuses_many(network, complaint: Rule) -> None:
    network.owner(5).add_stake(Wei(CREDIT))
    network.anvil.mine(60)
    network.owner(5).add_stake(Wei(2 * CREDIT))
    with standing_in(network.anvil.rpc_url, log_range(20, complaint)) as provider:
        chain = ChainClient(provider.url, network.deployment.registry)
        events, cursor = chain.events.read(Cursor(network.deployment.block))
        assert [e.stake for e in events if isinstance(e, StakeChanged)] == [CREDIT, 2 * CREDIT]
        assert cursor.next_block == chain.block_number() + 1
        assert provider.asked["eth_getLogs"] < 16


def test_an_endpoint_that_refuses_one_block_of_logs_is_given_up(network) -> None:
    refusing = times(100, error(-32000, "pruned history unavailable"), "eth_getLogs")
    with standing_in(network.anvil.rpc_url, refusing) as provider:
        chain = ChainClient(provider.url, network.deployment.registry)
        with pytest.raises(ChainError, match="pruned"):
            chain.events.read(Cursor(0))
        assert provider.asked["eth_getLogs"] == 1
        provider.rules[:] = [times(100, error(-32000, "no"), "eth_getLogs")]
        with pytest.raises(ChainError, match="refuses the request: no"):
            chain.events.read(Cursor(0))
        assert provider.asked["eth_getLogs"] < 20


def test_ranges_recover() -> None:
    size = RangeSize()
    size.refused(MAX_RANGE)
    size.refused(MAX_RANGE // 2)
    assert size.blocks == MAX_RANGE // 4
    for _ in range(2 * WORKED_TO_GROW):
        size.worked()
    assert size.blocks == MAX_RANGE
    for _ in range(20):
        size.refused(size.blocks)
    assert size.blocks == 1


def test_an_endpoint_that_is_behind_is_no_reorganisation(network) -> None:
    """One of many behind an address shows an older head, or does not know the newest block."""
    owner = network.owner(10)
    owner.add_stake(Wei(CREDIT))
    late = [0]

    def lagging(data: dict[str, Any], forward: Forward) -> dict[str, Any] | None:
        if not late[0] or data["method"] not in ("eth_getBlockByNumber", "eth_blockNumber"):
            return None
        head = int(forward({**data, "method": "eth_blockNumber", "params": []})["result"], 16) - late[0]
        if data["method"] == "eth_blockNumber":
            return {"result": hex(head)}
        wanted = data["params"][0]
        if wanted == "latest":
            return {"result": forward({**data, "params": [hex(head), False]})["result"]}
        return {"result": None} if int(wanted, 16) > head else None

    with standing_in(network.anvil.rpc_url, lagging) as provider:
        chain = ChainClient(provider.url, network.deployment.registry)
        events, cursor = chain.events.read(Cursor(network.deployment.block))
        assert events
        owner.add_stake(Wei(CREDIT))
        late[0] = 3
        with pytest.raises(ChainBehind, match="newest block"):
            chain.events.read(cursor)
        late[0] = 0
        more, _ = chain.events.read(cursor)
        assert [e.stake for e in more if isinstance(e, StakeChanged)] == [2 * CREDIT]


def test_logs_of_a_block_that_an_endpoint_does_not_have_are_not_taken_for_none(network) -> None:
    owner = network.owner(10)
    chain = network.client(None)
    _, cursor = chain.events.read(Cursor(network.deployment.block))
    owner.approve(Wei(CREDIT))
    _, cursor = chain.events.read(cursor)
    owner.add_stake(Wei(CREDIT))

    def without_logs(data: dict[str, Any], forward: Forward) -> Answer | dict[str, Any] | None:
        if data["method"] != "eth_getLogs":
            return None
        by_hash = "blockHash" in data["params"][0]
        return error(-32000, "unknown block")(data, forward) if by_hash else {"result": []}

    with standing_in(network.anvil.rpc_url, times(2, without_logs, "eth_getLogs")) as provider:
        reader = ChainClient(provider.url, network.deployment.registry)
        events, _ = reader.events.read(cursor)
    assert [e.stake for e in events if isinstance(e, StakeChanged)] == [CREDIT]


def all_events(chain: ChainClient, cursor: Cursor, give_up: float = 100.0) -> tuple[list[Any], Cursor]:
    """What there is to read behind a cursor, asked for until nothing comes and the newest block was reached."""
    found: list[Any] = []
    until = time.monotonic() + give_up
    while time.monotonic() < until:
        try:
            events, after = chain.events.read(cursor)
        except (ChainBehind, ChainUnreachable):
            continue
        found, done = found + events, after == cursor
        cursor = after
        if done and cursor.next_block > chain.block_number():
            return found, cursor
    raise AssertionError("it never catches up")


@pytest.mark.parametrize(
    ("late", "refused"),
    [(1, None), (5, None), (30, None), (2, status(400)), (4, error(-32600, "batch requests are not allowed"))],
    ids=["1", "5", "30", "2 without batches", "4 without batches"],
)
def test_no_event_is_lost_where_one_of_the_nodes_behind_an_address_is_late(
    network, late: int, refused: Rule | None
) -> None:
    owner = network.owner(100)
    network.anvil.mine(late)
    owner.add_stake(Wei(CREDIT))
    with standing_in(network.anvil.rpc_url) as provider:
        provider.nodes[:] = [ordinary, behind(late)]
        provider.without_batches = refused({"id": 0}, lambda data: data) if refused else None  # type: ignore[assignment]
        chain = ChainClient(provider.url, network.deployment.registry)
        found, cursor = all_events(chain, Cursor(network.deployment.block))
        owner.add_stake(Wei(CREDIT))
        network.anvil.mine(1)
        more, cursor = all_events(chain, cursor)
        stakes = [event.stake for event in found + more if isinstance(event, StakeChanged)]
        assert stakes == [CREDIT, 2 * CREDIT]
        assert len(chain.events.between(network.deployment.block, cursor.next_block - 1)) == len(found + more)


def test_logs_of_a_node_on_another_chain_are_not_taken(network) -> None:
    """Its block of that number is another one: what it has no logs of was there."""
    owner = network.owner(100)
    with Anvil() as other, standing_in(network.anvil.rpc_url) as provider:
        other.mine(network.deployer.block_number() + 200)
        chain = ChainClient(provider.url, network.deployment.registry)
        _, cursor = all_events(chain, Cursor(network.deployment.block))
        owner.add_stake(Wei(CREDIT))
        network.anvil.mine(3)
        foreign = elsewhere(other.rpc_url)
        provider.rules[:] = [lambda data, forward: foreign(data, forward) if data["method"] == "eth_getLogs" else None]
        # The whole batch comes from there, and only it.
        asked = provider.answer

        def whole(data: Any) -> Answer:
            if isinstance(data, list):
                return Answer(200, json.dumps([{"id": each["id"], **foreign(each, asked)} for each in data]).encode())
            return asked(data)

        provider.answer = whole  # type: ignore[method-assign]
        for _ in range(3):
            events, after = chain.events.read(cursor)
            assert (events, after) == ([], cursor)
        provider.answer, provider.rules[:] = asked, []  # type: ignore[method-assign]
        found, _ = all_events(chain, cursor)
        assert [event.stake for event in found if isinstance(event, StakeChanged)] == [CREDIT]


@pytest.mark.parametrize("late", [1, 4])
def test_what_a_wallet_did_just_now_is_there_for_what_it_does_next(network, late: int) -> None:
    """A node that is late has no allowance, no job and an old nonce."""
    requester = network.owner(100)
    network.anvil.mine(late)
    with standing_in(network.anvil.rpc_url) as provider:
        provider.nodes[:] = [ordinary, behind(late)]
        chain = ChainClient(provider.url, network.deployment.registry, requester.wallet, patience=5)
        for number in range(1, 4):
            chain.add_stake(Wei(CREDIT))
            assert network.deployer.account(chain.wallet.address).stake == number * CREDIT  # type: ignore[union-attr]
        terms = JobTerms(MANIFEST, 1, Wei(CREDIT), Wei(0), Wei(0), 2, 1, chain.now() + 86_400)
        job = chain.open_job(terms)
        assert chain.find_jobs(chain.wallet.address, MANIFEST) == [job]  # type: ignore[union-attr]


@pytest.mark.parametrize("refusal", NO_BATCHES.values(), ids=NO_BATCHES.keys())
def test_calls_that_go_together_are_made_one_by_one_where_batches_are_refused(network, refusal: Rule) -> None:
    with standing_in(network.anvil.rpc_url) as provider:
        provider.without_batches = refusal({"id": 0}, lambda data: data)  # type: ignore[assignment]
        chain = ChainClient(provider.url, network.deployment.registry)
        for _ in range(2):
            assert chain._read_many([("seats",), ("counts",)])[0] == 0
        assert provider.asked["batch"] == 1, "it is tried once"


# Answers


@pytest.mark.parametrize(("answer", "says"), ODD.values(), ids=ODD.keys())
def test_an_answer_that_is_none_is_called_what_it_is(
    network, answer: Answer, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "MAX_ANSWER_BYTES", 1 << 20)
    monkeypatch.setattr(endpoints, "BODY_S", 0.3)
    with standing_in(network.anvil.rpc_url, lambda data, forward: answer) as provider:
        with pytest.raises(ChainUnreachable, match=says) as caught:
            ChainClient(provider.url, network.deployment.registry)
        assert not any(secret in str(caught.value) for secret in SECRETS)


def test_a_packed_answer_is_unpacked(network) -> None:
    def packed(data: dict[str, Any], forward: Forward) -> Answer:
        return Answer(200, gzip.compress(json.dumps(forward(data)).encode()), Content_Encoding="gzip")

    with standing_in(network.anvil.rpc_url, packed) as provider:
        assert ChainClient(provider.url, network.deployment.registry).block_number() > 0


@pytest.mark.parametrize("kept", [0, 3, 10**6])
def test_the_registrys_block_is_found_as_far_as_there_is_state(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proofyard.chain.reader.MAX_RANGE", 2)
    with Anvil() as anvil:  # a long chain's first states are gone
        deployment = deploy_network(anvil.rpc_url, anvil.wallet(0))
        anvil.mine(10)
        head = ChainClient(anvil.rpc_url, deployment.registry).block_number()

        def forgotten(data: dict[str, Any], forward: Forward) -> Answer | None:
            if data["method"] != "eth_getCode" or data["params"][1] == "latest":
                return None
            late = int(data["params"][1], 16) < head - kept
            return error(-32000, "missing trie node 56e81f (path )")(data, forward) if late else None  # type: ignore[return-value]

        with standing_in(anvil.rpc_url, forgotten) as provider:
            found = ChainClient(provider.url, deployment.registry).first_block
    assert (0 if kept < 10 else deployment.block - 2) <= found <= deployment.block


# Sending


@pytest.mark.parametrize("rule", SENT.values(), ids=SENT.keys())
def test_a_transaction_that_was_sent_is_followed_and_has_its_effect_once(network, rule: Rule) -> None:
    target = network.key().address
    with standing_in(network.anvil.rpc_url) as provider:
        chain = ChainClient(provider.url, network.deployment.registry, network.deployer.wallet, patience=2)
        chain.require_balance(Wei(CREDIT))
        provider.rules.append(rule)
        chain.transfer(target, Wei(CREDIT))
        assert chain.token_balance(target) == CREDIT
        chain.transfer(target, Wei(CREDIT))
    assert network.deployer.token_balance(target) == 2 * CREDIT


def test_a_fee_is_not_raised_without_end(network) -> None:
    """An endpoint that calls every fee too low would have a thousand times of it signed within seconds."""
    sent: list[str] = []

    def never(data: dict[str, Any], forward: Forward) -> dict[str, Any] | None:
        if data["method"] != "eth_sendRawTransaction":
            return None
        sent.extend(data["params"])
        return {"error": {"code": -32000, "message": "transaction underpriced"}}

    owner = network.owner(100)
    with standing_in(network.anvil.rpc_url, never) as provider:
        chain = ChainClient(provider.url, network.deployment.registry, owner.wallet, patience=0.1)
        with pytest.raises(ChainError, match=r"was not sent: .* suggests a fee, and calls 87 times as much too low"):
            chain.add_stake(Wei(CREDIT))
        assert 2 < len(sent) <= 22


def test_a_nonce_that_somebody_elses_transaction_waits_under_is_left_to_it(network) -> None:
    """What never got into the pool is not waited for once the nonce is taken."""
    target, wallet = network.key().address, network.deployer.wallet
    with standing_in(network.anvil.rpc_url) as provider:
        chain = ChainClient(provider.url, network.deployment.registry, wallet)
        data = chain._token.encode_abi("transfer", [target, CREDIT])
        sender = Sender(chain._w3, provider.url, wallet, patience=60, receipt_lag=60)

        def taken(request: dict[str, Any], forward: Forward) -> Answer:
            network.deployer.transfer(target, Wei(1))
            return error(-32000, "replacement transaction underpriced")(request, forward)

        other = Wallet(wallet.account)  # of another machine, which asks nobody
        network.deployer._sender._wallet = other  # type: ignore[union-attr]
        provider.rules.append(times(1, taken, "eth_sendRawTransaction"))
        start = time.monotonic()
        sender.send("the transfer", chain.token, data)
        assert time.monotonic() - start < 40
    assert network.deployer.token_balance(target) == CREDIT + 1


def test_five_programs_with_one_wallet_send_the_same_and_all_of_it_arrives(network, tmp_path: Path) -> None:
    for keystore in (None, tmp_path / "alice.json"):
        target, account = network.key().address, network.deployer.wallet.account
        programs = [
            ChainClient(network.anvil.rpc_url, network.deployment.registry, Wallet(account, keystore), patience=2)
            for _ in range(5)
        ]
        failed: list[Exception] = []

        def run(chain: ChainClient, to: Any = target, failed: list[Exception] = failed) -> None:
            try:
                chain.transfer(to, Wei(CREDIT))
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=run, args=(chain,)) for chain in programs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not failed
        assert network.deployer.token_balance(target) == 5 * CREDIT


def test_what_a_program_left_on_its_way_is_followed_by_the_next_one_first(network, tmp_path: Path) -> None:
    anvil, keystore = network.anvil, tmp_path / "alice.json"
    account, target = network.deployer.wallet.account, network.key().address
    registry = network.deployment.registry
    anvil._request("evm_setAutomine", [False])
    try:
        first = ChainClient(anvil.rpc_url, registry, Wallet(account, keystore))
        impatient = Sender(first._w3, anvil.rpc_url, Wallet(account, keystore), patience=60, deadline=0.0)
        with pytest.raises(ChainError, match="may still be"):
            impatient.send("the transfer", first.token, first._token.encode_abi("transfer", [target, CREDIT]))
    finally:
        anvil._request("evm_setAutomine", [True])
    assert json.loads((tmp_path / "alice.json.sending").read_bytes())["sent"]
    second = ChainClient(anvil.rpc_url, registry, Wallet(account, keystore), patience=1)
    second.transfer(target, Wei(1))
    assert second.token_balance(target) == CREDIT + 1
    assert not json.loads((tmp_path / "alice.json.sending").read_bytes())["sent"]


CALLS = {
    "stake": lambda chain: chain.add_stake(Wei(5 * CREDIT)),
    "register": lambda chain: chain.register_node(Wallet.from_key(bytes([9]) * 32), Wei(100 * CREDIT), 1),
    "unstake": lambda chain: chain.request_unstake(Wei(3 * CREDIT)),
    "transfer": lambda chain: chain.transfer(Wallet.from_key(bytes([9]) * 32).address, Wei(7 * CREDIT)),
}


@pytest.mark.parametrize("mined", [True, False], ids=["mined", "not mined yet"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_same_call_again_finds_what_a_cut_off_one_sent(network, call: Any, mined: bool, tmp_path: Path) -> None:
    """As after `kill -9` between sending and the receipt; whatever the call before was, nothing is paid twice."""
    anvil, wallet = network.anvil, network.key()
    network.deployer.transfer(wallet.address, Wei(1000 * CREDIT))
    registry, keystore = network.deployment.registry, tmp_path / "alice.json"

    def program() -> ChainClient:
        return ChainClient(anvil.rpc_url, registry, Wallet(wallet.account, keystore))

    def money(chain: ChainClient) -> tuple[int, ...]:
        account = chain.account(wallet.address)
        return chain.token_balance(wallet.address), account.stake, account.unbonding, account.nodes

    program().add_stake(Wei(10 * CREDIT))
    program().approve(Wei(500 * CREDIT))
    cut_off = program()
    cut_off._sender = Sender(cut_off._w3, anvil.rpc_url, cut_off.wallet, patience=60, deadline=0.0)  # type: ignore[arg-type]
    anvil._request("evm_setAutomine", [False])
    try:
        with pytest.raises(ChainError, match="may still be"):
            call(cut_off)
        if mined:
            anvil.mine()
    finally:
        anvil._request("evm_setAutomine", [True])
    call(program())
    once, sent = money(program()), program()._w3.eth.get_transaction_count(wallet.account.address)
    assert sent == 4, "two for the first stake, the approval, and the call"
    notes = json.loads((tmp_path / "alice.json.sending").read_bytes())
    assert not notes["sent"], "that call has come to its end: the next one is another"
    program().approve(Wei(500 * CREDIT))
    assert money(program()) == once


@pytest.mark.parametrize(("seconds", "arrives"), [(0, 1), (3700, 2)])
def test_a_call_that_was_cut_off_long_ago_is_not_the_one_that_is_made_now(
    network, seconds: int, arrives: int, tmp_path: Path
) -> None:
    """Killed when the transfer was mined, and before that was written down."""
    wallet, target = Wallet(network.deployer.wallet.account, tmp_path / "alice.json"), network.key().address
    chain, notes = network.client(wallet), []
    keep = Turn.keep

    def noted(turn: Turn, chain_id: int, sent: Any) -> None:
        keep(turn, chain_id, sent)
        notes.append((tmp_path / "alice.json.sending").read_bytes())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Turn, "keep", noted)
        chain.transfer(target, Wei(1))
    began = json.loads(notes[0])["sent"][str(chain.chain_id)]["began"]
    (tmp_path / "alice.json.sending").write_bytes(notes[0].replace(b"%d" % began, b"%d" % (began - seconds)))
    chain.transfer(target, Wei(1))
    assert chain.token_balance(target) == arrives


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"sent": {"31337": 3}}'])
def test_notes_that_were_cut_off_are_no_obstacle(network, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "alice.json.sending").write_bytes(content)
    wallet = Wallet(network.deployer.wallet.account, tmp_path / "alice.json")
    target = network.key().address
    network.client(wallet).transfer(target, Wei(3))
    assert network.deployer.token_balance(target) == 3


def test_a_disk_without_locks_is_no_obstacle(
    network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_lock)
    wallet = Wallet(network.deployer.wallet.account, tmp_path / "alice.json")
    target = network.key().address
    network.client(wallet).transfer(target, Wei(3))
    assert network.deployer.token_balance(target) == 3
    assert "take no turns with this wallet" in caplog.text


def test_no_registry_is_still_told_from_no_chain(network) -> None:
    with standing_in(network.anvil.rpc_url) as provider, pytest.raises(NoRegistry):
        ChainClient(provider.url, "0x" + "22" * 20)  # type: ignore[arg-type]
