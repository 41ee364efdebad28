"""Mutated input at every door, for a moment each. `make fuzz` is the long mode.

Whatever comes in, only the errors of the protocol come out, and memory stays bounded.
"""

import asyncio
import resource
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import fuzz
from fuzz import try_door
from fuzz_doors import DOORS, Door

INPUTS = 2000
SEED = 1


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
async def test_only_errors_of_the_protocol_come_out(door: Door) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = await try_door(door, int(INPUTS * min(1.0, door.share / 5)), SEED)
    assert not found["shown"], found
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


async def test_what_goes_wrong_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "HANG_S", 0.1)

    @asynccontextmanager
    async def opened(chance):
        async def knock() -> None:
            if chance.random() < 0.5:
                raise KeyError("nobody foresaw this")
            while True:
                pass

        yield knock

    found = await try_door(Door("broken", 1, opened), 8, 5)
    assert found["crashes"] > 0
    assert found["hangs"] > 0
    assert found["crashes"] + found["hangs"] == found["inputs"] == 8
    await asyncio.sleep(0)
