"""A verifier: its seat, where it listens, its API and database, the others, where it keeps what it knows."""

import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proofyard.chain import NodeRecord, Role
from proofyard.doctor import service
from proofyard.doctor.checking import Check, Once, Seen, Skipped, fault, fine, note
from proofyard.doctor.node import models
from proofyard.doctor.setup import Setup
from proofyard.protocol.codec import read_json
from proofyard.runtime import answers
from proofyard.runtime.folder import runs_as

if TYPE_CHECKING:
    from proofyard.verifier.settings import VerifierSettings

ASK_S = 10.0
MAX_ANSWER_BYTES = 1 << 16


def checks(setup: Setup) -> list[Check]:
    looks: dict[str, Callable[[], Seen]] = {} if setup.verifier is None else _looks(setup, setup.verifier)
    if setup.api:
        looks["api"] = partial(ready, setup.api)
    return [Check("verifier", name, look) for name, look in looks.items()]


def _looks(setup: Setup, own: "VerifierSettings") -> dict[str, Callable[[], Seen]]:
    use = next(each for each in setup.wallets if each.role == "verifier")
    record = Once(lambda: setup.operator(use))
    process = partial(runs_as, own.data_dir)
    return {
        "registered": lambda: service.registered(record(), Role.VERIFIER, use.address(), use.keystore.stem),
        "stake": lambda: service.stake(setup, record(), Role.VERIFIER),
        "seat": lambda: seat(setup, record()),
        "listening": lambda: service.udp(own.host, own.port, own.endpoint or service.endpoint_of(record), process()),
        "endpoint": lambda: service.reach(own.endpoint or service.endpoint_of(record), needed=True),
        "api port": lambda: service.tcp(own.api_host, own.api_port, process()),
        "database": lambda: database(own.database_url),
        "other verifiers": lambda: service.peers(setup, use.address()),
        "folder": lambda: service.folder(own.data_dir, "verifier", setup, use),
        "disk": lambda: service.disk(own.data_dir, own.cache_bytes),
        "models": lambda: models(own.model_dirs),
        "ipfs": lambda: service.ipfs(own.ipfs),
    }


def seat(setup: Setup, record: NodeRecord | None) -> Seen:
    """Whether it has a seat that counts."""
    if record is None or record.role is not Role.VERIFIER:
        raise Skipped("it is not registered")
    found = next((each for each in setup.chain().active_verifiers() if each.id == record.id), None)
    if found is None:
        return fault(f"operator {record.id}", "it has no seat: it was left, or taken away as idle", "register it again")
    if not found.counts:
        wait = f"{setup.chain().params().seat_delay} s after it was taken"
        return note(f"seat {found.slot}", f"it counts {wait}; until then it only follows")
    return fine(f"seat {found.slot}", "it counts")


def database(url: str) -> Seen:
    """Whether the database's server can be reached; the file of SQLite is looked at with its folder. The URL may hold a
    password and is not shown."""
    parts = urlsplit(url)
    if not url or parts.scheme.startswith("sqlite"):
        raise Skipped("SQLite in the data folder")
    host, port = parts.hostname or "localhost", parts.port or 5432
    try:
        socket.create_connection((host, port), timeout=ASK_S).close()
    except OSError as error:
        todo = "start PostgreSQL, or correct database_url"
        return fault(f"{host}:{port}", f"no database answers ({error.strerror or error})", todo)
    return fine(f"{host}:{port}", "there")


def ready(api: str) -> Seen:
    """What a running verifier says of itself."""
    url = f"{api.rstrip('/')}/ready"
    if urlsplit(url).scheme not in ("http", "https"):
        return fault(api, "it is no HTTP address", "give --api like http://127.0.0.1:8790")
    try:
        _, body = answers.get(url, MAX_ANSWER_BYTES, ASK_S)
    except answers.NoAnswer as error:
        return fault(url, f"nobody answers ({error.reason})", "start the verifier, or correct --api")
    try:
        wrong = [check for check in read_json(body)["checks"] if not check["holds"]]
        reasons = [f"{check['name']}: {check['reason']}" for check in wrong]
    except (ValueError, KeyError, TypeError):
        return fault(url, "what answers is no verifier", "correct --api")
    if reasons:
        return fault(url, f"it is not ready: {'; '.join(reasons)}", "see its log, and docs/operate.md")
    return fine(url, "ready")
