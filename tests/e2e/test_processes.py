"""One verifier as two processes on one PostgreSQL: the one that leads is killed in the middle of a job, the other
finishes it."""

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from proofyard.devnet.forked import fork_server
from proofyard.devnet.network import DevNetwork, toml_text
from proofyard.devnet.postgres import NoPostgres, PostgresServer
from proofyard.devnet.process import Child
from proofyard.protocol.messages import LogLine
from proofyard.sdk import Client, LoraJob, credits, submit_job

NAME = "verifier-1"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    pytest.importorskip("psycopg")
    try:
        server = PostgresServer()
    except NoPostgres as reason:
        pytest.skip(str(reason))
    yield server
    server.close()


def process(network: DevNetwork, name: str, url: str, **changes: Any) -> Child:
    """A process of the network's verifier, with its settings and these."""
    home = network.directory / NAME
    usual = tomllib.loads((home / "proofyard.toml").read_text())["verifier"]
    shared = {"database_url": url, "process": name, "blocks_dir": str(home / "blocks"), "data_dir": f"data-{name}"}
    ready, toml = home / f"ready-{name}.json", home / f"process-{name}.toml"
    toml.write_text(toml_text({"verifier": usual | shared | changes | {"ready_file": str(ready)}}))
    child = Child(
        name,
        ["--config", str(toml), "verifier", "run"],
        log=network.log_of(NAME).with_name(f"{name}.log"),
        ready=ready,
        server=fork_server(),
    )
    child.wait_ready(150)
    return child


def test_a_verifier_whose_leading_process_dies_goes_on_in_another(
    network: DevNetwork, client: Client, job: LoraJob, postgres: PostgresServer
) -> None:
    network.kill(NAME)
    url = postgres.database()
    first = process(network, "first", url)
    second = process(network, "second", url, port=0)
    killed: list[str] = []

    def kill_once(event: LogLine) -> None:
        if event.kind == "committed" and not killed:
            killed.append(event.kind)
            first.kill()

    try:
        handle = submit_job(replace(job, rounds=2), reward=credits(60), audit_fee=credits(6), client=client)
        report = handle.wait(280, on_event=kill_once)
        assert killed
        assert report.tasks_valid == report.tasks == 8
        assert network.books().conserved
    finally:
        first.kill()
        second.kill()
        network.restart(NAME)
