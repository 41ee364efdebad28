"""What a home's line carries: a round trip to a public host, and bytes of a TCP connection each way."""

import json
import subprocess
import sys
from dataclasses import dataclass

from home_networks import Host

PORT = 7000
SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as door:
    print("ready", flush=True)
    line, _ = door.accept()
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(20):
        line.sendall(line.recv(1))
    line.recv(1)
    line.sendall(bytes(int(sys.argv[3])))
    left = int(sys.argv[4])
    while left:
        left -= len(line.recv(min(left, 1 << 16)))
    line.sendall(b".")
"""
CLIENT = """
import json, socket, sys, time
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
trips = []
for _ in range(20):
    start = time.perf_counter()
    line.sendall(b".")
    line.recv(1)
    trips.append(time.perf_counter() - start)
left = int(sys.argv[3])
start = time.perf_counter()
line.sendall(b".")
while left:
    left -= len(line.recv(min(left, 1 << 16)))
down = time.perf_counter() - start
start = time.perf_counter()
line.sendall(bytes(int(sys.argv[4])))
line.recv(1)
print(json.dumps([min(trips), down, time.perf_counter() - start]))
"""


@dataclass(frozen=True)
class Rates:
    """The shortest of 20 round trips, and what arrived of a connection's bytes by the time that all had taken."""

    round_trip_ms: float
    down_mbit: float
    up_mbit: float


def rates(public: Host, home: Host, *, down_bytes: int, up_bytes: int) -> Rates:
    where = [public.address, str(PORT)]
    sizes = [str(down_bytes), str(up_bytes)]
    command = public.command(sys.executable, "-c", SERVER, *where, *sizes)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            found = subprocess.check_output(home.command(sys.executable, "-c", CLIENT, *where, *sizes))
        finally:
            server.kill()
    trip, down, up = json.loads(found)
    return Rates(1000 * trip, down_bytes * 8e-6 / down, up_bytes * 8e-6 / up)
