"""What a node and a verifier have in common: folder, disk, ports, the Registry's word, IPFS, other peers."""

import asyncio
import errno
import shutil
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from proofyard.artifacts.errors import ArtifactError
from proofyard.artifacts.ipfs import IpfsNode
from proofyard.chain import NodeRecord, Role, VerifierRecord, Wallet
from proofyard.chain.errors import ChainError
from proofyard.doctor.checking import Once, Seen, Skipped, fault, fine, note
from proofyard.doctor.machine import ipv6_addresses
from proofyard.doctor.setup import Setup, WalletUse
from proofyard.protocol.amounts import format_amount
from proofyard.protocol.codec import CodecError, decode_json
from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Wei
from proofyard.runtime.folder import BELONGS, runs_as
from proofyard.transport import Endpoint, TransportError
from proofyard.transport.reach import address_in, is_dialled_from_elsewhere, listening_host, listening_port

LEAST_DISK_BYTES = 1 << 30
GIB = 1 << 30
DIAL_S = 5.0
ASK_S = 10.0
MOST_PEERS = 8
"""Verifiers that are dialled."""
OLDEST_KUBO = (0, 10)
"""The first whose RPC has what is used here."""


# The folder and the disk


def folder(data_dir: Path, service: str, setup: Setup, use: WalletUse) -> Seen:
    """Whether a data folder can be used, and is this wallet's in this network."""
    at = next(each for each in (data_dir.absolute(), *data_dir.absolute().parents) if each.exists())
    if not at.is_dir():
        return fault(str(data_dir), f"{at} is no folder", "give another data_dir")
    if not _writable(at):
        return fault(str(data_dir), f"nothing can be written in {at}", "correct its owner, or give another data_dir")
    try:
        known = decode_json((data_dir / BELONGS).read_bytes(), dict[str, str])
    except FileNotFoundError:
        return fine(str(data_dir), "nothing is in it yet")
    except CodecError:
        return note(str(data_dir / BELONGS), "it was cut off while it was written")
    given: dict[str, str] = {"service": service}
    with suppress(Skipped):
        given["wallet"] = use.address()
    with suppress(Skipped, ChainError):
        given |= setup.chain().identity()
    for field, value in given.items():
        if known.get(field, value) != value and value:
            found = f"it holds the work of another {field}: {known[field]}, not {value}"
            return fault(str(data_dir), found, "give another data_dir, or correct wallet and network")
    process = runs_as(data_dir)
    return fine(str(data_dir), f"this {service}'s" + (f", which runs as process {process}" if process else ""))


def _writable(at: Path) -> bool:
    probe = at / f".proofyard-doctor-{id(at)}"
    try:
        probe.write_bytes(b"x")
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)  # the disk's own check says so
    finally:
        with suppress(OSError):
            probe.unlink()
    return True


def disk(data_dir: Path, wanted_bytes: int) -> Seen:
    """`wanted_bytes`: what the settings let the service fill there, with what it has already."""
    at = next(each for each in (data_dir.absolute(), *data_dir.absolute().parents) if each.exists())
    usage = shutil.disk_usage(at)
    found = f"{usage.free / GIB:.1f} GiB of {usage.total / GIB:.1f} are free"
    if usage.free < LEAST_DISK_BYTES:
        return fault(str(data_dir), found, "make room, or give a data_dir on another disk")
    if usage.free < wanted_bytes:
        return note(
            str(data_dir), f"{found}, settings allow {wanted_bytes / GIB:.0f}", "lower cache_bytes, or make room"
        )
    return fine(str(data_dir), found)


# Ports


def udp(host: str, port: int, endpoint: str, process: str | None) -> Seen:
    """Whether the address to listen on can be bound. `endpoint`: where others are told to reach it, as it is set or
    registered; `process`: the one of this service that runs, whose port it then is."""
    to_bind, number = listening_host(host, endpoint), listening_port(port, endpoint)
    where = f"UDP {to_bind}, port {number or 'any'}"
    if process:
        return fine(where, f"used by this service's own process {process}")
    return _bound(where, to_bind, number, socket.SOCK_DGRAM)


def tcp(host: str, port: int, process: str | None) -> Seen:
    where = f"TCP {host}, port {port or 'any'}"
    if process:
        return fine(where, f"used by this service's own process {process}")
    return _bound(where, host, port, socket.SOCK_STREAM)


def _bound(where: str, host: str, port: int, kind: socket.SocketKind) -> Seen:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return fault(
                where, "another program uses this port", f"stop it (ss -anp | grep :{port}), or set another port"
            )
        if error.errno == errno.EACCES:
            return fault(where, "this user may not listen there", "set a port above 1023")
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return fault(where, "this machine has no such address", "correct host; empty follows from the endpoint")
        return fault(where, f"it cannot be bound ({error.strerror})", "correct host and port")
    return fine(where, "free")


def reach(endpoint: str, *, needed: bool) -> Seen:
    """Whether others can use the endpoint that they are told."""
    if not endpoint:
        if needed:
            return fault("endpoint", "none is registered", 'set endpoint = "HOST:PORT", where others reach it')
        return fine("endpoint", "none: it dials the others")
    try:
        address = address_in(endpoint)
    except ValueError as error:
        return fault("endpoint", str(error), "write it as HOST:PORT or [IPV6]:PORT")
    if not is_dialled_from_elsewhere(endpoint):
        return note("endpoint", f"{endpoint} is of this machine alone", "set endpoint where others are to reach it")
    if address is not None and address.version == 6 and not ipv6_addresses():
        return fault(
            "endpoint", f"{endpoint} is IPv6, which this machine has not", "turn IPv6 on, or use IPv4 or a name"
        )
    if address is None:
        host = endpoint.rpartition(":")[0]
        try:
            socket.getaddrinfo(host, None)
        except (OSError, UnicodeError):  # the latter for what can be no name
            return fault(
                "endpoint", f"the name {host} leads to no address", "correct endpoint, or the name's DNS entry"
            )
    return fine("endpoint", endpoint)


# The Registry's word


def endpoint_of(record: Once[NodeRecord | None]) -> str:
    """Where the Registry says that a node or verifier is; "" where nothing is known, which other checks tell of."""
    try:
        found = record()
    except Exception:
        return ""
    return found.endpoint if found else ""


def registered(record: NodeRecord | None, role: Role, address: str, wallet: str) -> Seen:
    """Whether the Registry has this key as an operator of the right kind. `wallet`: what to type for it."""
    kind = role.name.lower()
    if record is None:
        return fault(address, "the Registry does not know this key", f"proofyard {kind} register --wallet {wallet}")
    if record.role is not role:
        other = record.role.name.lower()
        return fault(address, f"operator {record.id} is a {other}, not a {kind}", "give the wallet of the right one")
    return fine(address, f"operator {record.id} of {record.owner}")


def stake(setup: Setup, record: NodeRecord | None, role: Role) -> Seen:
    """Whether the owner's stake still backs what it has registered."""
    if record is None or record.role is not role:
        raise Skipped("it is not registered")
    chain = setup.chain()
    account, params = chain.account(record.owner), chain.params()
    needed = Wei(account.nodes * params.node_stake + params.bound(account, chain.now()))
    kind, add = role.name.lower(), f"proofyard {role.name.lower()} stake CREDIT --owner WALLET"
    free = Wei(account.stake - account.frozen)
    have, frozen, bound = map(format_amount, (account.stake, account.frozen, needed))
    found = f"{have}, of which {frozen} frozen; {bound} bound"
    if not record.active:
        if account.stake >= needed and account.stake >= params.node_stake:
            return fault(
                record.owner, f"operator {record.id} is retired", f"proofyard {kind} register with a new wallet"
            )
        return fault(record.owner, f"too little to be active: {found}", add)
    if free < needed:
        return note(record.owner, f"faults hold a part: {found}", add)
    return fine(record.owner, found)


# Others


def ipfs(multiaddress: str) -> Seen:
    """Whether the IPFS daemon that is set answers, and is of a kind that is used here."""
    if not multiaddress:
        raise Skipped("no IPFS daemon is set")
    try:
        version = asyncio.run(_ipfs_version(multiaddress))
    except TimeoutError:
        return fault(multiaddress, f"no answer in {ASK_S:.0f} s", "start the daemon, or leave ipfs out")
    except ArtifactError as error:
        return fault(multiaddress, str(error).partition("; ")[0], "start the daemon, or correct ipfs, or leave it out")
    return ipfs_release(multiaddress, version)


def ipfs_release(multiaddress: str, version: str) -> Seen:
    numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdecimal())
    if numbers < OLDEST_KUBO:
        return fault(
            multiaddress, f"IPFS {version} is too old", f"install Kubo {'.'.join(map(str, OLDEST_KUBO))} or newer"
        )
    return fine(multiaddress, f"IPFS {version}")


async def _ipfs_version(multiaddress: str) -> str:
    daemon = IpfsNode(multiaddress)
    async with asyncio.timeout(ASK_S):
        return await daemon.version()


def peers(setup: Setup, own: str) -> Seen:
    """Whether the network's verifiers answer over QUIC. `own`: whom not to dial."""
    chain = setup.chain()
    seats = [seat for seat in chain.active_verifiers() if seat.node != own][:MOST_PEERS]
    if not seats:
        raise Skipped("the Registry has no other verifier")
    silent = asyncio.run(_silent(chain.domain, seats))
    where = ", ".join(seat.endpoint for seat in seats)
    if len(silent) == len(seats):
        todo = "let UDP out (firewall, router), or wait if they are down"
        return fault(where, f"no verifier answers: {next(iter(silent.values()))}", todo)
    if silent:
        return note(where, f"{len(silent)} of {len(seats)} do not answer: {', '.join(silent)}")
    return fine(where, "each answers")


async def _silent(network: Domain, seats: Sequence[VerifierRecord]) -> dict[str, str]:
    """The endpoints of those that do not answer, and why."""
    async with Endpoint(Wallet.generate(), network=network) as endpoint:

        async def why(seat: VerifierRecord) -> str:
            try:
                async with asyncio.timeout(DIAL_S):
                    await endpoint.connect_to(seat.endpoint, expect=seat.node)
            except TimeoutError:
                return f"no answer within {DIAL_S:g} s"
            except TransportError as error:
                return str(error).partition("; ")[0]
            return ""

        reasons = await asyncio.gather(*map(why, seats))
    return {seat.endpoint: reason for seat, reason in zip(seats, reasons, strict=True) if reason}
