"""A real router, miniupnpd with real rules of nftables, is asked for a port, and strangers get through by it."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

DAEMON = shutil.which("miniupnpd")
pytestmark = pytest.mark.skipif(DAEMON is None, reason="needs miniupnpd (Debian: miniupnpd-nftables)")

TABLE = """table inet filter {
 chain miniupnpd { }
 chain prerouting_miniupnpd { }
 chain postrouting_miniupnpd { }
 chain in {
  type nat hook prerouting priority -101;
  iifname "wan" jump prerouting_miniupnpd
 }
}
"""
SETTINGS = """ext_ifname=wan
listening_ip=lan
http_port=0
enable_natpmp={natpmp}
enable_upnp=yes
secure_mode=yes
force_igd_desc_v1={first}
{outside}uuid=00000000-0000-0000-0000-000000000001
allow 1024-65535 0.0.0.0/0 1024-65535
"""
OUTSIDE = "9.9.9.9"
"""What the router says of itself; it refuses to say that it is in a range of the documentation."""


LISTENS = {"PCP": ":14E7 ", "UPnP": ":076C "}
"""The ports 5351 and 1900, as Linux lists them."""

ROUTERS = (("port-restricted", "UPnP", "yes"), ("symmetric", "UPnP", "no"), ("port-restricted", "PCP", "no"))
"""What a home's router does, by which protocol it maps ports, and whether it is a gateway of the first version."""

REFUSED = "UPnP with error 501"


@contextmanager
def miniupnpd(router: Any, folder: Path, speaks: str, first: str, outside: str = "") -> Iterator[None]:
    """Run it on a home's router, which says that it has the address `outside`, or finds out which."""
    subprocess.run(router.command("nft", "-f", "-"), input=TABLE, text=True, check=True)
    folder.mkdir()
    settings = folder / "miniupnpd.conf"
    said = f"ext_ip={outside}\n" if outside else ""
    settings.write_text(SETTINGS.format(natpmp="yes" if speaks == "PCP" else "no", first=first, outside=said))
    command = router.command(DAEMON, "-d", "-f", str(settings), "-P", str(folder / "pid"))
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            while LISTENS[speaks] not in subprocess.check_output(router.command("cat", "/proc/net/udp"), text=True):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            yield
        finally:
            process.kill()


def test_strangers_reach_a_node_by_the_port_that_a_real_router_maps(internet: Any, home_networks: Any, tmp_path: Path):
    with ExitStack() as stack:
        programs = stack.enter_context(home_networks.Peers())
        one, other = (programs.start(internet.public()) for _ in range(2))
        stranger = programs.start(internet.home("symmetric"))
        nodes = []
        for kind, speaks, first in ROUTERS:
            home = internet.home(kind)
            inner = home.address.rpartition(".")[0] + ".1"
            router = home_networks.Host(home.router, inner, home.public)
            stack.enter_context(miniupnpd(router, tmp_path / home.namespace, speaks, first, OUTSIDE))
            nodes.append((router, speaks, programs.start(home)))
        behind_two = internet.home("port-restricted", behind=internet.home("port-restricted"))
        router = home_networks.Host(behind_two.router, behind_two.address.rpartition(".")[0] + ".1", "")
        stack.enter_context(miniupnpd(router, tmp_path / behind_two.namespace, "UPnP", "no"))
        refused = programs.start(behind_two)
        for node in (*(node for _, _, node in nodes), refused):
            for peer in (one, other):
                node.tell("connect", wallet=peer.wallet, host=peer.host.public, port=4433)
            node.begin("map")
        for router, speaks, node in nodes:
            found = node.answer()
            assert found["confirmed"] == [f"mapped {router.public}:{found['port']}"]
            assert (found["by"], found["outside"]) == (speaks, OUTSIDE), "which is where nobody sees the node"
            assert node.tell("renew") == {"port": found["port"]}
            routes = [{"kind": "mapped", "host": router.public, "port": found["port"]}]
            assert stranger.tell("reach", wallet=node.wallet, routes=routes)["way"] == "direct"
            assert stranger.tell("fetch", wallet=node.wallet, size=1000)["bytes"] == 1000
            node.tell("unmap")
            rules = subprocess.check_output(router.command("nft", "list", "table", "inet", "filter"), text=True)
            assert "dnat" not in rules
        found = refused.answer()
        assert (found["port"], found["outside"], found["refused"]) == (0, "", REFUSED)
