"""Many light peers in one process, for `bench_nat_swarm.py`: the real transport, table and gossip, and nothing else.

Told by one line of JSON on stdin: `hosts`, where they listen (loopback addresses, each a network of its own); `seed`,
whom they begin with; `seconds`, how long they run once a second line has come. Says `ready` once all listen, and in the
end, as JSON, how many others each knows, and of those whom `of` names.

With `hostile` they are not peers but pretend to be: each pushes its record to the seed and to `victims`, and whoever
asks one is told of the others alone.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

from proofyard.discovery import Gossip
from proofyard.discovery.messages import MOST_TOLD, ExchangePeers, KnownPeers
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Address
from proofyard.runtime.chance import chance
from proofyard.transport import Body, Connection, Endpoint, TransportError
from transport_roles import NETWORK, Identity

PORT = 4433
PUSH_S = 5.0


async def hostile(endpoints: list[Endpoint], records: list[bytes], victims: Iterable[dict[str, Any]]) -> None:
    """Push records, again and again."""

    async def answer(connection: Connection, _message: ExchangePeers, _body: Body) -> KnownPeers:
        return KnownPeers(chance.choice(records), tuple(chance.sample(records, min(MOST_TOLD, len(records)))))

    for endpoint in endpoints:
        endpoint.on(ExchangePeers, answer)
    while True:
        for endpoint, record in zip(endpoints, records, strict=True):
            for victim in victims:
                with contextlib.suppress(TransportError):
                    connection = await endpoint.connect(victim["host"], PORT)
                    await connection.request(ExchangePeers(record, 0), reply=KnownPeers)
        await asyncio.sleep(PUSH_S)


async def run(told: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        endpoints = [
            await stack.enter_async_context(Endpoint(Identity(), network=NETWORK, host=host, port=PORT, strangers=1024))
            for host in told["hosts"]
        ]
        seed = told.get("seed")
        seeds = [] if seed is None else [(Address(seed["wallet"]), (Route("direct", seed["host"], PORT),))]
        trusted = {wallet for wallet, _ in seeds}
        gossips = [
            Gossip(
                endpoint,
                routes=lambda host=endpoint.host: (Route("direct", host, PORT),),  # type: ignore[misc]
                seeds=lambda: seeds,
                trusts=trusted.__contains__,
                here=True,
            )
            for endpoint in endpoints
        ]
        print(json.dumps({"wallets": [each.address for each in endpoints]}), flush=True)
        order = json.loads(await asyncio.to_thread(sys.stdin.readline))
        if told.get("hostile"):
            records = [each.record() for each in gossips]
            work = [asyncio.create_task(hostile(endpoints, records, order["victims"]))]
        elif told.get("serves"):
            for each in gossips:
                each.serve()
            work = []
        else:
            work = [asyncio.create_task(each.run()) for each in gossips]
        await asyncio.sleep(order["seconds"])
        marked = set(order.get("of", ()))
        found = [
            {
                "known": len(each.table),
                "tried": each.table.tried,
                "neighbours": len(each.neighbours()),
                "marked": sum(known.record.node in marked for known in each.table),
                "marked_tried": sum(known.record.node in marked and known.tried_at > 0 for known in each.table),
            }
            for each in gossips
        ]
        print(json.dumps(found), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.stdin.readline())))
