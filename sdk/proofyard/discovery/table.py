"""The peers that one peer knows of: bounded, and shared out so that no few networks or owners can fill it.

As in Bitcoin's address manager, what was only heard of and what was reached are kept apart: `heard` takes what others
say, `tried` what answered with its wallet. Nothing that is only heard drives out what was tried, and what a peer has
not met itself it does not pass on: an invented record goes no further than to whom it was told.

Each record takes a place in several groups, and each group has few: its network (/24 and /16, IPv6 /48 and /32) or
that of the relays it names, its owner where it has a stake, and the network of whoever told it. A group that is full
takes a newcomer only for one of its own that is worth less: without a stake, or that did not answer.
"""

import functools
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from random import Random

from proofyard.protocol.peer_record import PeerRecord
from proofyard.protocol.types import Address
from proofyard.runtime.chance import chance
from proofyard.runtime.recent import Recent

NEAR, FAR = {4: 24, 6: 48}, {4: 16, 6: 32}
"""Bits that addresses of one customer, and of one network provider's pool, share; by version of IP."""

MAX_MISSES = 3
"""A peer that was reached before is forgotten when it did not answer so often, any other the first time."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 3600.0
"""Until a peer that did not answer is tried again, doubled each time."""

SILENT_S, MAX_SILENT = 600.0, 1024
"""For so long nobody is heard of who was forgotten for not answering."""

Group = tuple[str, str]


@dataclass(frozen=True)
class Caps:
    """Places: of the two parts of the table, and within each of a group by its kind. `of_near` and `of_far`: networks;
    `of_relay`: one network's relays; `staked_`: the same of peers with a stake, which nobody has many of for nothing;
    `of_owner`: one stake's; `of_teller`, `of_stranger`: what one network has told, whoever it is that speaks."""

    heard: int = 1024
    tried: int = 256
    of_near: int = 1
    of_far: int = 2
    of_relay: int = 8
    staked_near: int = 8
    staked_far: int = 32
    staked_relay: int = 64
    of_owner: int = 4
    of_teller: int = 96
    of_stranger: int = 4

    def of(self, group: Group) -> int:
        return int(getattr(self, group[0]))


@dataclass(frozen=True)
class Teller:
    """Who told of a peer: the IP address it spoke from, and whether its word weighs more than a stranger's: a verifier,
    whoever the operator named, a peer with a stake."""

    host: str
    trusted: bool = False


@dataclass(frozen=True)
class Known:
    """A peer: its record, and that as it was signed, to be passed on. `owner`: whose stake stands behind it, "" for
    nobody's. `met`: it was there itself, under the address that it names. `tried_at`, `pause_until`: Unix seconds."""

    record: PeerRecord
    data: bytes
    owner: str = ""
    teller: Teller = Teller("")
    met: bool = False
    tried_at: float = 0.0
    misses: int = 0
    pause_until: float = 0.0

    @property
    def worth(self) -> tuple[bool, bool, bool]:
        """Of two, the one that stays."""
        return self.misses == 0, bool(self.owner), self.met

    @functools.cached_property
    def places(self) -> frozenset[Group]:
        """The groups that it has a place in, wherever in the table it is."""
        staked = "staked" if self.owner else "of"
        found: set[Group] = {("of_owner", self.owner)} if self.owner else set()
        for route in self.record.routes:
            near, far = networks_of(route.host)
            if self.record.is_relayed:
                found.add((f"{staked}_relay", near))
            elif route.kind != "relayed":
                found |= {(f"{staked}_near", near), (f"{staked}_far", far)}
        return frozenset(found)

    @functools.cached_property
    def told(self) -> Group:
        """The group of whoever told of it."""
        return "of_teller" if self.teller.trusted else "of_stranger", networks_of(self.teller.host)[1]


class _Part:
    """One part of the table. Every group has at most as many as its cap, all together at most `total`."""

    def __init__(self, total: int, caps: Caps, *, tried: bool) -> None:
        self.known: dict[Address, Known] = {}
        self.groups: dict[Group, dict[Address, None]] = {}
        self._total, self._caps, self._tried = total, caps, tried

    def put(self, known: Known) -> Sequence[Known] | None:
        """Have it here; who had to go for it, or None where it has no place."""
        node, before = known.record.node, self.known.get(known.record.node)
        mine = self._groups_of(before) if before is not None else frozenset()
        full = [each for each in self._groups_of(known) - mine if len(self.groups.get(each, ())) >= self._caps.of(each)]
        crowds = [self.groups[group] for group in full]
        if before is None and len(self.known) >= self._total:
            crowds.append(dict.fromkeys(self.known))
        leaving: dict[Address, Known] = {}
        for crowd in crowds:
            if leaving.keys() & crowd.keys():
                continue
            weakest = min((self.known[each] for each in crowd if each != node), key=lambda each: each.worth)
            if weakest.worth >= known.worth:
                return None
            leaving[weakest.record.node] = weakest
        for each in (*leaving, node):
            self.drop(each)
        self.known[node] = known
        for group in self._groups_of(known):
            self.groups.setdefault(group, {})[node] = None
        return list(leaving.values())

    def drop(self, node: Address) -> None:
        """Idempotent."""
        known = self.known.pop(node, None)
        for group in self._groups_of(known) if known is not None else ():
            del self.groups[group][node]
            if not self.groups[group]:
                del self.groups[group]

    def _groups_of(self, known: Known) -> frozenset[Group]:
        return known.places if self._tried else known.places | {known.told}


class PeerTable:
    """Of the peer `own`. Times are Unix seconds, passed in."""

    def __init__(self, own: Address, caps: Caps | None = None, choose: Random = chance) -> None:
        caps = caps or Caps()
        self._own, self._choose = own, choose
        self._heard, self._tried = _Part(caps.heard, caps, tried=False), _Part(caps.tried, caps, tried=True)
        self._silent: Recent[Address, float] = Recent(MAX_SILENT)

    def __len__(self) -> int:
        return len(self._heard.known) + len(self._tried.known)

    def __iter__(self) -> Iterator[Known]:
        yield from self._tried.known.values()
        yield from self._heard.known.values()

    def __contains__(self, node: Address) -> bool:
        return self.get(node) is not None

    @property
    def tried(self) -> int:
        """How many have answered."""
        return len(self._tried.known)

    def get(self, node: Address) -> Known | None:
        return self._tried.known.get(node) or self._heard.known.get(node)

    def wants(self, record: PeerRecord, now: float) -> bool:
        """Whether a record would be of any use, before its signature is looked at."""
        known = self.get(record.node)
        if record.node == self._own or (known is not None and known.record.sequence >= record.sequence):
            return False
        return record.expires > now and (known is not None or (self._silent.get(record.node) or 0.0) <= now)

    def hear(self, known: Known, now: float) -> bool:
        """Take what somebody tells, whose signature is right; whether there was a place for it."""
        record = known.record
        if not self.wants(record, now):
            return False
        before = self.get(record.node)
        if not record.routes:
            self._drop(record.node)
            return False
        if before is not None:
            known = replace(known, met=known.met or before.met, tried_at=before.tried_at)
        part = self._tried if record.node in self._tried.known else self._heard
        return part.put(known) is not None

    def meet(self, node: Address) -> None:
        """Its peer is there itself, at the address that its record names, or by the relays that it does."""
        for part in (self._tried, self._heard):
            known = part.known.get(node)
            if known is not None:
                part.known[node] = replace(known, met=True)

    def reached(self, node: Address, now: float) -> None:
        """It was dialled, and answered with its wallet."""
        known = self.get(node)
        if known is None:
            return
        known = replace(known, met=True, tried_at=now, misses=0, pause_until=0.0)
        if node in self._tried.known:
            self._tried.known[node] = known
            return
        left = self._tried.put(known)
        if left is None:
            self._heard.known[node] = known
            return
        self._heard.drop(node)
        for each in left:
            self._heard.put(each)

    def missed(self, node: Address, now: float) -> None:
        """It was dialled, and did not answer."""
        known = self.get(node)
        if known is None:
            return
        misses = known.misses + 1
        if misses >= (MAX_MISSES if known.tried_at else 1):
            self._drop(node)
            self._silent.put(node, now + SILENT_S)
            return
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**known.misses)
        part = self._tried if node in self._tried.known else self._heard
        part.known[node] = replace(known, misses=misses, pause_until=now + pause)

    def to_tell(self, count: int, now: float, to: Address) -> list[Known]:
        """What is passed on when somebody asks: peers that this one has met, in no order, whose records hold."""
        found = [each for each in self if each.met and each.record.expires > now and each.record.node != to]
        return self._choose.sample(found, min(count, len(found)))

    def met(self, nodes: Iterable[Address], now: float) -> list[Known]:
        """Those of these peers that this one has met, whose records hold."""
        found = (self.get(node) for node in dict.fromkeys(nodes))
        return [each for each in found if each is not None and each.met and each.record.expires > now]

    def to_try(self, now: float, besides: Iterable[Address], *, only_heard: bool = False) -> Known | None:
        """Somebody to dial: half of the time one who was reached before, half of the time one only heard of."""
        avoided = set(besides) | {self._own}

        def ready(part: _Part) -> list[Known]:
            return [each for each in part.known.values() if each.pause_until <= now and each.record.node not in avoided]

        heard = ready(self._heard)
        tried = [] if only_heard else ready(self._tried)
        first, second = (tried, heard) if self._choose.random() < 0.5 else (heard, tried)
        found = first or second
        return self._choose.choice(found) if found else None

    def nearest(self, digest: bytes, count: int) -> list[Known]:
        """Of those met the `count` whose wallets, hashed, are nearest to a digest (XOR, as in
        Kademlia): who looks for something and who has it choose the same, as far as they know the same peers."""
        wanted = int.from_bytes(digest, "big")
        found = [each for each in self if each.met]
        return sorted(found, key=lambda each: wanted ^ _place(each.record.node))[:count]

    def forget_expired(self, now: float) -> None:
        """Let go of what was only heard of and holds no more. Who was reached may still be where it was."""
        for known in [each for each in self._heard.known.values() if each.record.expires <= now]:
            self._heard.drop(known.record.node)

    def hold_to(self, owner_of: Callable[[Address], str]) -> None:
        """Stakes have changed: everybody anew, by what is at stake now."""
        for part in (self._tried, self._heard):
            changed = [each for each in part.known.values() if owner_of(each.record.node) != each.owner]
            for known in changed:
                part.drop(known.record.node)
            for known in changed:
                part.put(replace(known, owner=owner_of(known.record.node)))

    def restore(self, known: Known) -> None:
        """Take what was kept on disk from when this peer ran last, as far as there are places. Records that are over
        are dialled all the same, and passed on by nobody."""
        if known.record.node not in self and known.record.node != self._own and known.record.routes:
            (self._tried if known.tried_at else self._heard).put(known)

    def _drop(self, node: Address) -> None:
        self._tried.drop(node)
        self._heard.drop(node)


def networks_of(host: str) -> tuple[str, str]:
    """The near and the far network of an IP address; the text itself where it is none."""
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return host, host
    bits = NEAR[address.version], FAR[address.version]
    near, far = (str(ipaddress.ip_network((address, each), strict=False)) for each in bits)
    return near, far


def _place(node: Address) -> int:
    return int.from_bytes(sha256(bytes.fromhex(node[2:])).digest(), "big")
