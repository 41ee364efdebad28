"""What a new node finds, is told and is advised."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proofyard.chain import VerifierRecord, Wallet
from proofyard.cli.run import node_settings
from proofyard.devnet.network import toml_text
from proofyard.node.advice import GIB, advise, with_preset
from proofyard.node.hardware import Card, Hardware, find_hardware
from proofyard.node.lately import Lately, Paid
from proofyard.node.uplink import measure_uplink
from proofyard.protocol.commitment import Domain
from proofyard.protocol.messages import LINE_PROBE_BYTES, Ack, LineProbe
from proofyard.protocol.types import Address, JobId
from proofyard.runtime.presets import NODE_PRESETS
from proofyard.transport import Endpoint, RequestFailed
from proofyard.verifier import lines
from proofyard.verifier.lines import Lines

DOMAIN = Domain(31_337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
NO_HISTORY = Lately((), 0.0, 4)
CPU = Hardware("a processor", 8, 32 * GIB, 20 * GIB, 500 * GIB, (), "native")
# No card is here: what the driver would say of it stands in.
GPU = Hardware(
    "a processor", 16, 64 * GIB, 60 * GIB, 500 * GIB, (Card("a card", 24 * GIB, "nvidia-smi"),), "cuda-triton"
)


def paid(job: int, units: int, price: int, workload: str = "lora") -> Paid:
    return Paid(JobId(job), workload, units, price)


def test_prices_are_weighed_by_work_and_there_is_none_without_a_history() -> None:
    lately = Lately((paid(1, 10, 100), paid(2, 80, 5), paid(3, 10, 1), paid(4, 1, 7, "embed")), 3600.0, 4)
    assert lately.low_prices() == {"lora": 5, "embed": 7}
    assert lately.usual_price("lora") == 5 and lately.usual_price("map") is None
    assert lately.total() == 1000 + 400 + 10 + 7 and lately.jobs == 4
    assert NO_HISTORY.low_prices() == {} and NO_HISTORY.total() == 0


def test_advice_follows_from_what_there_is() -> None:
    here = advise(CPU, NO_HISTORY, 1e6)
    assert here.settings["threads"] == 7 and here.settings["memory_limit_bytes"] == 24 * GIB
    assert here.settings["max_upload"] == 800_000 and "min_price" not in here.settings
    assert any("no history" in note for note in here.notes)
    card = advise(GPU, Lately((paid(1, 10, 5 * 10**15),), 60.0, 1), None)
    assert "threads" not in card.settings and "max_upload" not in card.settings
    assert card.settings["max_model_bytes"] == 6 * GIB and card.settings["min_price"] == ["lora=0.005"]
    small = Hardware("a processor", 1, 2 * GIB, GIB, 2 * GIB, (), "native")
    little = advise(small, NO_HISTORY, None)
    assert "lora" not in little.settings["workloads"] and "embed" in little.settings["workloads"]
    assert little.settings["threads"] == 1 and little.settings["memory_limit_bytes"] >= GIB
    assert any("may run full" in note for note in little.notes)
    odd = advise(Hardware("a processor", 4, 32 * GIB, GIB, 99 * GIB, (), ""), NO_HISTORY, None)
    assert odd.settings["workloads"] == ["map"], "what needs no arithmetic"


@pytest.mark.parametrize("name", NODE_PRESETS)
def test_a_preset_goes_before_what_was_found_and_says_what_is_short(name: str, tmp_path: Path) -> None:
    advice = with_preset(advise(CPU, NO_HISTORY, 1e6), name)
    assert advice.settings["preset"] == name
    assert not advice.settings.keys() & NODE_PRESETS[name].keys(), "the table says them"
    assert advice.settings["workloads"] and advice.settings["threads"] == 7
    short = [note for note in advice.notes if note.startswith("the preset")]
    assert bool(short) == (name in ("large", "farm")), "this machine has 32 GB"
    (tmp_path / "p.toml").write_text(toml_text({"node": advice.settings}))
    needed = {"registry": "0x1", "wallet": tmp_path / "w"}
    settings = node_settings(tmp_path / "p.toml", needed)
    assert settings.max_data_bytes == NODE_PRESETS[name]["max_data_bytes"]


def test_this_machine_is_found(tmp_path: Path) -> None:
    found = find_hardware(tmp_path / "not" / "there", "native")
    assert found.cores >= 1 and found.memory_bytes > 0 and found.disk_bytes > 0 and not found.on_gpu
    assert found.working_bytes == found.memory_bytes


async def test_an_uplink_is_measured_over_the_transport_against_a_verifier() -> None:
    key, taken = Wallet.generate(), []
    async with Endpoint(key, network=DOMAIN) as verifier:

        async def probe(connection: Any, message: LineProbe, body: Any) -> Ack:
            taken.append(body.size)
            return await Lines().probe(connection, message, body)

        verifier.on(LineProbe, probe)
        at = SimpleNamespace(node=key.address, endpoint=f"127.0.0.1:{verifier.port}")
        away = SimpleNamespace(node=key.address, endpoint="")
        rate = await measure_uplink(DOMAIN, [cast(VerifierRecord, each) for each in (away, at)])
    assert rate is not None and rate > 0
    assert taken and taken[-1] <= LINE_PROBE_BYTES
    assert await measure_uplink(DOMAIN, []) is None


class Bytes:
    """A body of so many bytes, or one that never comes."""

    def __init__(self, size: int, *, comes: bool = True) -> None:
        self.size, self._comes = size, comes

    async def __aiter__(self) -> Any:
        if not self._comes:
            await asyncio.Event().wait()
        yield b""


async def test_probes_are_bounded_for_each_peer_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "PROBE_S", 0.05)

    def peer(number: int) -> Any:
        return SimpleNamespace(peer=f"0x{number}")

    async def ask(found: Lines, number: int, body: Bytes) -> str:
        try:
            await found.probe(peer(number), LineProbe(), cast(Any, body))
        except RequestFailed as error:
            return error.code
        return ""

    found = Lines()
    assert await ask(found, 0, Bytes(LINE_PROBE_BYTES + 1)) == "too-large"
    assert await ask(found, 0, Bytes(9, comes=False)) == "too-slow"
    assert [await ask(found, 1, Bytes(1024)) for _ in range(5)] == ["", "", "", "", "busy"]
    said = [await ask(found, number, Bytes(LINE_PROBE_BYTES)) for number in range(2, 12)]
    assert said[:6] == [""] * 6 and said[-1] == "busy", "wallets cost nothing"
    slow = Lines()
    many = await asyncio.gather(*(ask(slow, number, Bytes(9, comes=False)) for number in range(20, 40)))
    assert sorted(set(many)) == ["busy", "too-slow"] and many.count("too-slow") == lines.AT_ONCE
