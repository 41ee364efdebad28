"""A stand-in for what a home's router answers when a host asks for a port: PCP or NAT-PMP, with a real rule of nftables
behind each port that it gives. It is no router for people: run by tests/nat in the namespace of one.

python scripts/stand_in_router.py ADDRESS (pcp|nat-pmp)
"""

import socket
import struct
import subprocess
import sys

PORT, UDP, GIVEN_S, FIRST = 5351, 17, 3600, 50_001
OUTSIDE = "100.64.0.2"
"""What it says that its address outside is: one of another router's network."""
TABLE = """table ip mapped {{
 chain in {{
  type nat hook prerouting priority -101;
  {rules}
 }}
}}
"""


def write(given: dict[tuple[str, int], int]) -> None:
    """Have these ports, by host and port, lead to their hosts."""
    rules = "\n  ".join(
        f'iifname "wan" udp dport {public} dnat to {host}:{port}' for (host, port), public in given.items()
    )
    text = "table ip mapped\ndelete table ip mapped\n" + TABLE.format(rules=rules)
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def answer(data: bytes, host: str, speaks: str, given: dict[tuple[str, int], int]) -> bytes:
    """What a request is answered with, and done for it."""
    if data[0] == 2 and speaks == "nat-pmp":
        return struct.pack("!BBHI", 0, 0x81, 1, 0)
    if data == bytes(2):
        return struct.pack("!BBHI4s", 0, 0x80, 0, 0, socket.inet_aton(OUTSIDE))
    port, lifetime = struct.unpack_from("!H", data, 40 if data[0] == 2 else 4)[0], struct.unpack_from("!I", data, 4)[0]
    if data[0] == 0:
        lifetime = struct.unpack_from("!I", data, 8)[0]
    if lifetime:
        given.setdefault((host, port), FIRST + len(given))
    public = given[host, port] if lifetime else given.pop((host, port), 0)
    write(given)
    if data[0] == 0:
        return struct.pack("!BBHIHHI", 0, 0x81, 0, 0, port, public, min(lifetime, GIVEN_S))
    head = struct.pack("!BBBBII12x", 2, 0x81, 0, 0, min(lifetime, GIVEN_S), 0)
    return head + data[24:40] + struct.pack("!HH", port, public) + bytes(10) + b"\xff\xff" + socket.inet_aton(OUTSIDE)


def main() -> None:
    address, speaks = sys.argv[1:]
    given: dict[tuple[str, int], int] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))
        print("ready", flush=True)
        while True:
            data, (host, port) = sock.recvfrom(1100)
            sock.sendto(answer(data, host, speaks, given), (host, port))


if __name__ == "__main__":
    main()
