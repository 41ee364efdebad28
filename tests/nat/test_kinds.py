"""The kernel's NATs behave as their names say, or every test beside this one would prove something else."""

import json
import subprocess
import sys

ECHO = """
import json, socket
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(("0.0.0.0", 4433))
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
while True:
    asked, sender = here.recvfrom(100)
    (other if asked == b"elsewhere" else here).sendto(json.dumps(sender).encode(), sender)
"""
STEPS = {"counting": 1, "counting-even": 2}
ASK = """
import json, socket, sys
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(("0.0.0.0", 4433))
here.settimeout(0.3)
def ask(peer, text):
    here.sendto(text, (peer, 4433))
    try:
        return json.loads(here.recvfrom(100)[0])
    except TimeoutError:
        return None
found = [ask(peer, b"here") for peer in sys.argv[1:]]
print(json.dumps(found + [ask(sys.argv[1], b"elsewhere")]))
"""


def test_each_kind_of_router_does_what_its_name_says(internet):
    peers = [internet.public(), internet.public()]
    homes = {kind: internet.home(kind) for kind in ("full-cone", "port-restricted", "symmetric", "firewall", *STEPS)}
    homes["double"] = internet.home("symmetric", behind=homes["port-restricted"])
    homes["second"] = internet.second(homes["port-restricted"])
    servers = [
        subprocess.Popen(peer.command(sys.executable, "-c", ECHO), stdout=subprocess.PIPE, text=True) for peer in peers
    ]
    try:
        for server in servers:
            assert server.stdout.readline() == "ready\n"
        seen = {}
        for name, home in homes.items():
            command = home.command(sys.executable, "-c", ASK, *(peer.address for peer in peers))
            one, two, elsewhere = json.loads(subprocess.check_output(command))
            assert one[0] == two[0] == home.public
            seen[name] = (one[1] == two[1], one[1] == 4433, elsewhere is not None)
            assert name not in STEPS or two[1] - one[1] == STEPS[name]
    finally:
        for server in servers:
            server.kill()
            server.communicate()
    assert seen == {  # the same port for everybody, its own port, open to strangers
        "full-cone": (True, False, True),
        "port-restricted": (True, False, False),
        "symmetric": (False, False, False),
        "counting": (False, False, False),
        "counting-even": (False, False, False),
        "firewall": (True, True, False),
        "double": (False, False, False),
        "second": (True, True, False),
    }
