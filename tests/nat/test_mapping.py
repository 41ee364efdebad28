"""A router is asked for a port, and strangers get through by it. The router's part is a stand-in with real rules."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

STAND_IN = Path(__file__).parents[2] / "scripts" / "stand_in_router.py"
ROUTERS = {"port-restricted": "pcp", "symmetric": "nat-pmp"}
OUTSIDE = "100.64.0.2"
"""What the stand-in says that its address outside is: of another router's network."""


def test_strangers_reach_a_node_by_the_port_that_its_router_maps(internet, home_networks):
    with ExitStack() as stack:
        programs = stack.enter_context(home_networks.Peers())
        one, other = (programs.start(internet.public()) for _ in range(2))
        stranger = programs.start(internet.home("symmetric"))
        nodes = []
        for kind, speaks in ROUTERS.items():
            home = internet.home(kind)
            inner = home.address.rpartition(".")[0] + ".1"
            router = home_networks.Host(home.router, inner, home.public)
            command = router.command(sys.executable, str(STAND_IN), inner, speaks)
            stand_in = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(stand_in.kill)
            assert stand_in.stdout.readline() == "ready\n"
            nodes.append((router, programs.start(home)))
        for _, node in nodes:
            for peer in (one, other):
                node.tell("connect", wallet=peer.wallet, host=peer.host.public, port=4433)
            node.begin("map")
        for (router, node), speaks in zip(nodes, ROUTERS.values(), strict=True):
            found = node.answer()
            assert (found["by"].lower(), found["outside"]) == (speaks, OUTSIDE)
            assert found["confirmed"] == [f"mapped {router.public}:{found['port']}"]
            routes = [{"kind": "mapped", "host": router.public, "port": found["port"]}]
            assert stranger.tell("reach", wallet=node.wallet, routes=routes)["way"] == "direct"
            assert stranger.tell("fetch", wallet=node.wallet, size=1000)["bytes"] == 1000
            node.tell("unmap")
            rules = subprocess.check_output(router.command("nft", "list", "table", "ip", "mapped"), text=True)
            assert "dnat" not in rules
