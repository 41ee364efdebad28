"""Places for peers of whom nothing is known yet, shared out between the parts of the network that they come from.

Whoever has many addresses has them in few subnets, mostly. When places run out, a newcomer gets that of the oldest in
the subnet (and there the host) that has most, unless it comes from there itself and the oldest has had no time yet.
"""

import ipaddress
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from proofyard.transport.guard import host_key

T = TypeVar("T", bound=Hashable)

PREFIX = {4: 24, 6: 48}
"""Bits of an address that one customer of a network provider shares, by version of IP."""


@dataclass(frozen=True)
class Caller:
    """Where a newcomer comes from. `known`: somebody was there before who proved a wallet."""

    host: str
    subnet: str
    known: bool = False

    @classmethod
    def at(cls, host: str, port: int, *, known: bool = False) -> "Caller":
        """On loopback every process is a host and a subnet of its own, as in `host_key`."""
        key = host_key(host, port)
        return cls(key, key if key != host else _subnet(host), known)


@dataclass(frozen=True)
class _Taken:
    caller: Caller
    at: float


class Places(Generic[T]):
    """`total` places, of which a subnet and a host may have so many. Who has had one for `patience_s` may lose it to
    anybody. Times are monotonic seconds, passed in."""

    def __init__(self, total: int, *, of_subnet: int, of_host: int, patience_s: float) -> None:
        self._total, self._of_subnet, self._of_host = total, of_subnet, of_host
        self._patience_s = patience_s
        self._taken: dict[T, _Taken] = {}
        self._subnets: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._taken)

    def __contains__(self, who: T) -> bool:
        return who in self._taken

    def is_full(self, caller: Caller) -> bool:
        """Whether somebody has to go before `caller` can come."""
        return (
            len(self._taken) >= self._total
            or self._subnets[caller.subnet] >= self._of_subnet
            or self._hosts[caller.host] >= self._of_host
        )

    def take(self, who: T, caller: Caller, now: float) -> None:
        self._taken[who] = _Taken(caller, now)
        self._subnets[caller.subnet] += 1
        self._hosts[caller.host] += 1

    def leave(self, who: T) -> None:
        """Idempotent."""
        place = self._taken.pop(who, None)
        if place is not None:
            for counter, key in ((self._subnets, place.caller.subnet), (self._hosts, place.caller.host)):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]

    def to_give_way(self, caller: Caller, now: float) -> T | None:
        """Who has to go for `caller`; None where nobody has to, so that it cannot come."""
        if self._hosts[caller.host] >= self._of_host:
            hosts = {caller.host}
        elif self._subnets[caller.subnet] >= self._of_subnet:
            hosts = self._largest({caller.subnet})
        else:
            unknown = {each.caller.subnet for each in self._taken.values() if not each.caller.known}
            most = max((self._subnets[subnet] for subnet in unknown), default=0)
            hosts = self._largest({subnet for subnet in unknown if self._subnets[subnet] == most})
            if caller.known or most > self._subnets[caller.subnet] + 1:
                return self._oldest(hosts, now)
        fair = max((self._hosts[host] for host in hosts), default=0) > self._hosts[caller.host] + 1
        return self._oldest(hosts, now if fair else now - self._patience_s)

    def _largest(self, subnets: Iterable[str]) -> set[str]:
        """The hosts in these subnets that have most."""
        inside = {each.caller.host for each in self._taken.values() if each.caller.subnet in subnets}
        most = max((self._hosts[host] for host in inside), default=0)
        return {host for host in inside if self._hosts[host] == most}

    def _oldest(self, hosts: set[str], before: float) -> T | None:
        """Of those that came by then; known ones stay as long as there are others."""
        found = [(each.caller.known, each.at, who) for who, each in self._taken.items() if each.caller.host in hosts]
        oldest = min(found, key=lambda entry: entry[:2], default=None)
        return oldest[2] if oldest is not None and oldest[1] <= before else None


def _subnet(host: str) -> str:
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, PREFIX[address.version]), strict=False))
