"""A node that has nothing to do asks the chain nothing, and still misses nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from world import World

from proofyard.chain import BatchSettled, Params
from proofyard.chain.events import ChallengeOpened, topic_of
from proofyard.chain.pushed import follow_logs, websocket_of
from proofyard.node import court as court_module
from proofyard.node import news as news_module
from proofyard.node.court import CourtWatch
from proofyard.node.duties import Duties
from proofyard.node.news import Lookout, News

SETTLED, OPENED = topic_of(BatchSettled), topic_of(ChallengeOpened)


class Clock:
    """The event loop's time, as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)


def looked(lookout: Lookout, wanted: float | None = None) -> bool:
    """Whether a look was due, and was done."""
    due = lookout.begins()
    if due:
        lookout.ended(*([] if wanted is None else [wanted]))
    return due


async def test_who_hears_of_everything_looks_after_news_and_at_the_times_that_it_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        clock, news = Clock(patched), News()
        lookout = Lookout(news, [BatchSettled], lambda: 5.0)
        assert looked(lookout) and not looked(lookout)
        clock.now += 5
        assert looked(lookout), "nothing is pushed: it polls"
        news.up()
        clock.now += 5
        assert looked(lookout), "what happened before is not known"
        clock.now += 60
        assert not looked(lookout)
        news.heard(OPENED, "0xcourt")
        assert not looked(lookout), "that is nothing to it"
        news.heard(SETTLED, "0xregistry")
        assert looked(lookout)
        news.heard(SETTLED, "0xregistry")
        assert not looked(lookout), "not oftener than it may"
        clock.now += 5
        assert looked(lookout, wanted=clock.now + 100)
        clock.now += 99
        assert not looked(lookout)
        clock.now += 1
        assert looked(lookout)
        clock.now += news_module.CHECK_S
        assert looked(lookout), "now and then all the same"
        news.down()
        clock.now += 5
        assert looked(lookout)


async def test_a_look_that_fails_is_done_again_and_news_that_come_meanwhile_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        clock, news = Clock(patched), News()
        news.up()
        lookout = Lookout(news, [BatchSettled], lambda: 5.0)
        assert lookout.begins()
        clock.now += 5
        assert lookout.begins(), "the last one did not end"
        news.heard(SETTLED, "0xregistry")
        lookout.ended()
        clock.now += 5
        assert looked(lookout)
        clock.now += 5
        assert not looked(lookout)


async def test_an_idle_node_makes_no_request_and_is_woken_by_a_challenge(
    deploy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(court_module, "POLL_S", 0.02)
    world = World.build(deploy(Params(challenge_window=900)), verifiers=1, nodes=7)
    job = world.open_job(world.network.owner(1000), tasks=7, reward=800)
    chain, news = world.network.client(world.nodes[0]), News()
    requests: list[str] = []
    chain._w3.provider.observers.append(lambda method, *_: requests.append(method))
    watch = CourtWatch(chain, Duties(), news=news)
    pushing = asyncio.create_task(
        follow_logs(websocket_of(world.network.anvil.rpc_url), [chain.registry, chain.court], news)
    )
    watching = asyncio.create_task(watch.run())

    async def until(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.02)

    await until(lambda: news.live and watch._lookout._seen == news.count(watch._lookout._kinds))
    requests.clear()
    await asyncio.sleep(50 * court_module.POLL_S)
    assert requests == []
    await asyncio.to_thread(world.disputed, job, world.network.owner(50))
    await until(lambda: watch._docket._open)
    await until(lambda: len(requests) > 20)
    for task in (watching, pushing):
        task.cancel()
    await asyncio.gather(watching, pushing, return_exceptions=True)
    assert not news.live


async def test_an_endpoint_that_pushes_nothing_is_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = asyncio.Event()

    class Listener(News):
        def down(self) -> None:
            super().down()
            refused.set()

    listener = Listener()
    pushing = asyncio.create_task(follow_logs("ws://127.0.0.1:9", [], listener))
    async with asyncio.timeout(60):
        await refused.wait()
    assert not listener.live
    pushing.cancel()
    await asyncio.gather(pushing, return_exceptions=True)
