"""An operator's page: who is let in, what is told, what can be commanded, and what the node earned and refused."""

import asyncio
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from pages_scene import PageScene, hurry

from proofyard.node import control, ledger, page
from proofyard.node.ledger import DAY_S, HOUR_S, Ledger, Pay, earned
from proofyard.node.page import HOST, TOKEN_FILE, TOKEN_HEADER, PageUnavailable, listen, token_of, url_of
from proofyard.node.tally import OTHER, REASONS, RECENT, Tally
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.record import BatchRecord, RecordedPayout, encode_record, payouts_of
from proofyard.protocol.settlement import OperatorId, payout_root
from proofyard.protocol.types import Address, BatchId, ProofyardError, Wei

CHANGES = ("/v1/pause", "/v1/resume", "/v1/limits")


def key_of(scene: PageScene) -> dict[str, str]:
    return {TOKEN_HEADER: scene.token}


async def test_nothing_is_told_or_changed_without_the_token(tmp_path: Path) -> None:
    scene = PageScene(tmp_path)
    async with scene.up() as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        for given in ({}, {TOKEN_HEADER: "x" * 43}, {TOKEN_HEADER: ""}, {"Authorization": f"Bearer {scene.token}"}):
            for path in ("/v1/node", "/v1/events", f"/v1/node?token={scene.token}"):
                assert (await client.get(path, headers=given)).status_code == 401
            for path in CHANGES:
                assert (await client.post(path, json={}, headers=given)).status_code == 401
        assert not (tmp_path / control.LIMITS).exists()
        found = (await client.get("/v1/node", headers=key_of(scene))).json()
        assert found["standing"]["rank"] == 2 and found["pay"]["unpaid"] == "9215000000000000000"


async def test_a_malformed_request_is_answered_and_no_error_of_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Any process of the machine may send some, again and again."""
    scene, host = PageScene(tmp_path), b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    token = TOKEN_HEADER.encode()
    async with scene.up() as url:
        for sent, status in (
            (b"GET /v1/node" + host + token + b": \xff\xfe\r\n\r\n", 401),
            (b"GET /\xff" + host + b"\r\n", 400),
            (b"GET / HTTP/9.9\r\n\r\n", 400),
            (b"G\xffT /" + host + b"\r\n", 400),
            (b"GET /" + host + b"X: " + b"a" * 9999 + b"\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00", 400),
            (b"GET /v1/%ed%a0%80" + host + token + b": " + scene.token.encode() + b"\r\n\r\n", 404),
        ):
            reader, writer = await asyncio.open_connection(HOST, int(url.rpartition(":")[2]))
            writer.write(sent)
            assert int((await reader.readline()).split()[1]) == status, sent
            writer.close()
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


async def test_a_foreign_origin_is_answered_nothing(tmp_path: Path) -> None:
    """Also with the token, should it ever have it: a browser says where a page is from, and what it asked for."""
    scene = PageScene(tmp_path)
    foreign = [{"Host": name} for name in ("evil.test", "127.0.0.1.evil.test", "localhost.evil.test:80", "", "[::g]")]
    foreign += [{"Origin": name} for name in ("http://evil.test", "null", "http://127.0.0.1", "https://127.0.0.1")]
    foreign += [{"Sec-Fetch-Site": name} for name in ("cross-site", "same-site")]
    async with scene.up() as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        for headers in foreign:
            for path in ("/v1/node", "/pages/node.js"):
                answer = await client.get(path, headers=headers | key_of(scene))
                assert answer.status_code in (403, 421), (headers, path)
                assert not any(name.startswith("access-control") for name in answer.headers)
            for path in CHANGES:
                assert (await client.post(path, json={}, headers=headers | key_of(scene))).status_code in (403, 421)
        asked = {"Origin": "http://evil.test", "Access-Control-Request-Method": "POST"}
        assert (await client.options("/v1/pause", headers=asked)).status_code == 403
        own = {"Origin": url, "Sec-Fetch-Site": "same-origin"} | key_of(scene)
        assert (await client.post("/v1/pause", json={}, headers=own)).status_code == 200
        tunnel = {"Host": "localhost:9999", "Origin": "http://localhost:9999"} | key_of(scene)
        assert (await client.get("/v1/node", headers=tunnel)).status_code == 200


async def test_a_form_changes_nothing_and_a_wrong_body_says_what_is_wrong(tmp_path: Path) -> None:
    scene = PageScene(tmp_path)
    async with scene.up() as url, httpx.AsyncClient(base_url=url, headers=key_of(scene), timeout=60) as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            assert (await client.post("/v1/pause", content=b"{}", headers={"Content-Type": kind})).status_code == 415
        for path, body, says in (
            ("/v1/pause", {"minutes": -1}, "minutes"),
            ("/v1/pause", {"minutes": 1e9}, "minutes"),
            ("/v1/pause", {"until": 1}, "until"),
            ("/v1/limits", {"hours": "25-3"}, "22-6"),
            ("/v1/limits", {"max_celsius": 999}, "max_celsius"),
            ("/v1/limits", {"paused_until": 1.0}, "is no limit"),
            ("/v1/limits", [], "body"),
        ):
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.json()["error"]) == (422, "invalid") and says in answer.json()["reason"]
        assert (await client.post("/v1/limits", content=b"x" * 5000)).status_code in (413, 415)
        large = {"Content-Type": "application/json"}
        assert (await client.post("/v1/limits", content=b" " * 5000, headers=large)).status_code == 413
        assert (await client.delete("/v1/limits")).status_code == 405
        assert (await client.get("/../../etc/passwd")).status_code == 404
        assert (await client.get("/pages/../pages/node.html")).status_code in (200, 404)
        assert not (tmp_path / control.LIMITS).exists()


async def test_what_is_commanded_is_what_the_command_line_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hurry(monkeypatch)
    caplog.set_level(logging.DEBUG)
    scene = PageScene(tmp_path)
    async with scene.up() as url, httpx.AsyncClient(base_url=url, headers=key_of(scene), timeout=60) as client:
        await client.post("/v1/limits", json={"hours": "22-6", "idle_only": True})
        await client.post("/v1/pause", json={"hand_back": True})
        orders = control.read_orders(tmp_path)
        assert orders == control.Orders(
            limits={"hours": "22-6", "idle_only": True, "paused_until": -1.0}, hand_back=True
        )
        while "paused" not in (await client.get("/v1/node")).json()["status"]["reason"]:
            await asyncio.sleep(0.02)
        await client.post("/v1/resume", json={})
        assert control.read_orders(tmp_path).limits["paused_until"] == 0.0
    assert scene.token not in caplog.text


async def test_news_come_as_events_and_only_so_many_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr(page, "STREAMS", 1)
    scene = PageScene(tmp_path)
    async with (
        scene.up() as url,
        httpx.AsyncClient(base_url=url, headers=key_of(scene), timeout=30) as client,
        client.stream("GET", "/v1/events") as stream,
    ):
        lines = stream.aiter_lines()

        async def told() -> dict[str, Any]:
            async for line in lines:
                if line.startswith("data: "):
                    return cast(dict[str, Any], json.loads(line[6:]))
            raise AssertionError("the stream ended")

        await told()
        assert (await client.get("/v1/events")).status_code == 503
        scene.agent.tally.refuse("job 5 task 1 (shard 1)", "the job's price is too low", 1.0)
        while (await told())["done"]["refused"] != {"the job's price is too low": 1}:
            pass


async def test_only_so_many_connections_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "CONNECTIONS", 3)
    scene = PageScene(tmp_path)
    async with scene.up() as url:
        port = int(url.rpartition(":")[2])
        opened = [await asyncio.open_connection(HOST, port) for _ in range(3)]
        for reader, writer in opened:
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        reader, writer = await asyncio.open_connection(HOST, port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readexactly(1)
        for _, each in [*opened, (reader, writer)]:
            each.close()


async def test_a_node_that_is_not_registered_says_so(tmp_path: Path) -> None:
    scene = PageScene(tmp_path, registered=False)
    async with scene.up() as url, httpx.AsyncClient(base_url=url, headers=key_of(scene), timeout=60) as client:
        found = (await client.get("/v1/node")).json()
        assert found["standing"] is None and found["pay"] is None and "proofyard node register" in found["trouble"]


def test_the_token_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    token, made = token_of(tmp_path)
    assert made and len(token) >= 43 and (tmp_path / TOKEN_FILE).stat().st_mode & 0o777 == 0o600
    assert token_of(tmp_path) == (token, False)
    assert url_of("http://127.0.0.1:8791", token) == f"http://127.0.0.1:8791/#{token}"
    (tmp_path / TOKEN_FILE).chmod(0o640)
    other, made = token_of(tmp_path)
    assert made and other != token, "somebody may have read it"
    (tmp_path / TOKEN_FILE).unlink()
    (tmp_path / TOKEN_FILE).symlink_to(tmp_path / "elsewhere")
    assert token_of(tmp_path)[1] and not (tmp_path / "elsewhere").exists()


def test_a_port_that_is_taken_is_named_and_the_usual_one_gives_way() -> None:
    with listen(0) as first:
        port = first.getsockname()[1]
        assert first.getsockname()[0] == HOST
        with pytest.raises(PageUnavailable, match=f"{port}.*page_port"):
            listen(port)
        with listen(0) as second:
            assert second.getsockname()[1] != port


def test_refusals_are_counted_by_reason_within_bounds() -> None:
    tally = Tally()
    tally.refuse("job 1", "busy with other tasks", 1.0)
    assert (tally.later, tally.refused, len(tally.recent)) == (1, {}, 0)
    for number in range(REASONS + 5):
        tally.refuse(f"job {number}", f"reason {number}", 1.0)
    assert len(tally.refused) == REASONS + 1 and tally.refused[OTHER] == 5
    tally.give_back("job 7", "the task failed", 2.0)
    assert len(tally.recent) == RECENT and tally.recent[0].given_back and tally.given_back == 1


# Pay


def paid(batch: int, ago_s: int, amount: int, *, at: int, claimed: bool = False, final: bool = True) -> Pay:
    indices = () if claimed else (0,)
    claimable = at - 1 if final else at + 1
    return Pay(BatchId(batch), at - ago_s, claimable, Wei(amount), {0: Wei(amount)}, indices)


def test_pay_is_added_up_by_when_it_was_settled() -> None:
    at = 10_000_000
    pays = [
        paid(1, 60, 1, at=at, final=False),
        paid(2, HOUR_S + 1, 10, at=at),
        paid(3, 2 * DAY_S, 100, at=at, claimed=True),
        paid(4, 8 * DAY_S, 1000, at=at),
    ]
    found = earned(pays, at)
    assert (found.hour, found.day, found.week, found.unpaid, found.due) == (1, 11, 111, 11, 10)
    assert found.a_day == 111 // 2 and found.batches == 3
    assert earned(pays[:1], at).a_day is None, "a minute says nothing of a day"
    assert earned([], at).a_day is None


class Registry:
    """A chain with one settled batch that pays operator 3, and one that is not settled."""

    def __init__(self, record: BatchRecord) -> None:
        self.record, self.at, self.settled_at, self.claimed = record, 5000, 4000, False
        self.root = payout_root(BatchId(1), payouts_of(record))

    def now(self) -> int:
        return self.at

    def settled(self, _job: int) -> list[Any]:
        return [SimpleNamespace(batch=BatchId(1)), SimpleNamespace(batch=BatchId(2))]

    def batch(self, batch: BatchId) -> Any:
        return SimpleNamespace(settled_at=self.settled_at if batch == 1 else 0, claimable_at=6000)

    def is_claimed(self, _batch: BatchId, _index: int) -> bool:
        return self.claimed


async def test_a_record_is_read_once_and_held_against_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = Address("0x" + "00" * 20)
    payouts = tuple(
        RecordedPayout(
            operator=OperatorId(number),
            node=nobody,
            owner=nobody,
            work=str(7 * number),
            audits="1",
            valid=0,
            segments=0,
        )
        for number in (2, 3)
    )
    empty: Any = dict.fromkeys(
        ("jobs", "tasks", "salts", "counted", "uncounted", "over", "repeated", "audits", "faults", "stale", "redress"),
        (),
    )
    record = BatchRecord(
        chain_id=1, registry=nobody, batch=BatchId(1), attempt=0, leader=OperatorId(1), payouts=payouts, **empty
    )
    chain, reads = Registry(record), []

    async def read(cid: Any, _most: int) -> bytes:
        reads.append(cid)
        if len(reads) == 1:
            raise ProofyardError("nobody has it now")
        return encode_record(record)

    monkeypatch.setattr(
        ledger, "settled_event", lambda *_: SimpleNamespace(record=raw_cid(b"record"), payout_root=chain.root)
    )
    journal: Any = SimpleNamespace(jobs_since=lambda _: [1], sealed_batches=lambda: set())
    book = Ledger(cast(Any, chain), cast(Any, SimpleNamespace(read=read)), journal, OperatorId(3))
    assert (await book.look()).unread == 2
    found = await book.look()
    assert (found.week, found.unpaid, found.due, found.unread) == (22, 22, 0, 1)
    chain.at = 7000
    assert (await book.look()).due == 22
    chain.claimed = True
    assert (await book.look()).unpaid == 0 and len(reads) == 2

    other = Ledger(cast(Any, chain), cast(Any, SimpleNamespace(read=read)), journal, OperatorId(3))
    chain.root, chain.claimed = bytes(32), False  # type: ignore[assignment]
    assert (await other.look()).week == 0, "what the chain does not know is not pay"
