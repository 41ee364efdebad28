"""`proofyard relay`: carry packets between peers that do not reach each other. Needs a wallet, and nothing on chain."""

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proofyard.cli.chains import network_of, requester_of
from proofyard.cli.context import serve_logs
from proofyard.cli.errors import UsageError
from proofyard.cli.options import PEERS, WalletFlags
from proofyard.cli.tree import App
from proofyard.cli.wallets import unlock
from proofyard.protocol.types import Address

if TYPE_CHECKING:
    from proofyard.chain import ChainClient, Wallet
    from proofyard.transport import Connection, Endpoint
    from proofyard.transport.relay import Relay, RelayLimits

logger = logging.getLogger("proofyard.transport")

app = App("Carry for nodes that nobody reaches, without a stake or a GPU.")

PORT = 4433
SAY_S = 300.0
"""Between two lines in the log about what it carries."""


@app.callback()
def _relay() -> None:
    """A group even with one command."""


@app.verb("run", "relay run --wallet relay --port 4433")
def run(
    context: typer.Context,
    flags: WalletFlags,
    host: Annotated[
        str, typer.Option(help="Address to listen on; every one, IPv4 and IPv6, if empty.", rich_help_panel=PEERS)
    ] = "",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="UDP port to listen on, 0 for any free one.")] = PORT,
    bytes_s: Annotated[int, typer.Option(min=0, help="Most bytes a second that it carries, 0 for any.")] = 0,
    circuit_bytes: Annotated[
        int, typer.Option(min=1, help="Most bytes that one connection carries.", rich_help_panel=PEERS)
    ] = 4 << 30,
    reservations: Annotated[
        int, typer.Option(min=1, max=4096, help="Nodes that it carries for at a time.", rich_help_panel=PEERS)
    ] = 512,
    unreceipted_bytes: Annotated[
        int,
        typer.Option(
            min=0,
            help="End a connection whose ends have not signed for so many bytes, 0 for never.",
            rich_help_panel=PEERS,
        ),
    ] = 0,
    receipts: Annotated[
        Path | None,
        typer.Option(
            help="File that keeps what the ends have signed; without one it is lost with the relay.",
            rich_help_panel=PEERS,
        ),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Written, as JSON, once it serves.", rich_help_panel=PEERS)
    ] = None,
) -> None:
    """Carry packets between nodes until Ctrl-C. They are encrypted between the two.

    It has to be reachable over UDP. Nodes name it in their setting `relays`. What they sign for it is shown to the
    verifiers for whose jobs it was, some of which pay for it.
    """
    from proofyard.chain import ChainClient
    from proofyard.runtime.service import run_service
    from proofyard.transport.reach import ANYWHERE, ANYWHERE_IPV4, has_ipv6
    from proofyard.transport.relay import RelayLimits

    serve_logs(context)
    settings, network = requester_of(context, flags), network_of(context, flags)
    if settings.wallet is None:
        raise UsageError("--wallet: name the wallet that the relay is known by; make one: proofyard wallet new relay")
    wallet = unlock(settings.wallet, settings.password_file)
    chain = ChainClient(
        network.rpc_url,
        Address(network.registry),
        first_block=network.from_block,
        chain_id=network.chain_id or None,
    )
    limits = RelayLimits(
        bytes_s=float(bytes_s),
        circuit_bytes=circuit_bytes,
        reservations=reservations,
        unreceipted_bytes=unreceipted_bytes,
    )
    bound = host or (ANYWHERE if has_ipv6() else ANYWHERE_IPV4)
    run_service(_serve(wallet, chain, bound, port, limits, ready_file, receipts))


async def _serve(
    wallet: "Wallet",
    chain: "ChainClient",
    host: str,
    port: int,
    limits: "RelayLimits",
    ready_file: Path | None,
    receipts: Path | None,
) -> None:
    from proofyard.discovery import Gossip
    from proofyard.runtime.service import write_ready
    from proofyard.transport import Endpoint
    from proofyard.transport.reach import exposure
    from proofyard.transport.receipts import Receipts

    async with Endpoint(wallet, network=chain.domain, host=host, port=port) as endpoint:
        kept = Receipts(receipts)
        relay = endpoint.become_relay(limits, kept)
        Gossip(endpoint).serve()
        logger.info("relay %s: %s", wallet.address, exposure(endpoint.host, endpoint.port))
        logger.info(
            'nodes use it by relays = ["%s@HOST:%s"], HOST being where they reach it', wallet.address, endpoint.port
        )
        write_ready(ready_file, wallet.address, endpoint.port)
        showing = asyncio.create_task(kept.run(partial(payer_of, chain, endpoint)))
        try:
            while True:
                await asyncio.sleep(SAY_S)
                _say(relay)
        finally:
            _say(relay)
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)


async def payer_of(chain: "ChainClient", endpoint: "Endpoint", verifier: Address) -> "Connection | None":
    """A connection to a verifier that has carrying paid, where the Registry says that it is."""
    from proofyard.chain.errors import ChainError

    try:
        known = await asyncio.to_thread(chain.active_verifiers)
    except ChainError as error:
        logger.info("the Registry does not say now who pays for what was carried: %s", error)
        return None
    found = next((each for each in known if each.node == verifier and each.endpoint), None)
    return None if found is None else await endpoint.connect_to(found.endpoint, expect=verifier)


def _say(relay: "Relay") -> None:
    logger.info(
        "carries for %s nodes, %s connections, %s bytes in all",
        relay.reservations,
        relay.circuits,
        relay.carried_bytes,
    )
