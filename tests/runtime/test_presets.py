"""The table of presets: what stands in it are settings and parameters that there are, in order of size."""

from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest

from proofyard.cli.run import node_settings
from proofyard.node.settings import NodeSettings
from proofyard.runtime.presets import JOB_PRESETS, NODE_PRESETS, WHAT_NODES_ARE, job_preset
from proofyard.sdk.errors import BadSetting
from proofyard.sdk.jobs import JOBS
from proofyard.workloads.lora_params import LoraParams

OTHERS = {"alpha": 16.0, "lr": 1e-3, "rank": 8, "rounds": 1, "workers": 1, "modules": {"a": (8, 8)}}
NEEDED = {"registry": "0x" + "12" * 20, "wallet": Path("w.json")}


@pytest.mark.parametrize("name", NODE_PRESETS)
def test_a_nodes_preset_is_made_of_its_settings(name: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(f'[node]\npreset = "{name}"\ntasks_held = 3\n')
    settings = node_settings(tmp_path / "p.toml", NEEDED)
    expected = {**NODE_PRESETS[name], "tasks_held": 3}
    assert {key: getattr(settings, key) for key in expected} == expected
    assert name in WHAT_NODES_ARE
    assert node_settings(tmp_path / "p.toml", NEEDED | {"max_task_s": 7.0}).max_task_s == 7.0


def test_every_preset_can_be_named_and_no_other(tmp_path: Path) -> None:
    assert set(get_args(get_type_hints(NodeSettings)["preset"])) == {"", *NODE_PRESETS}
    with pytest.raises(BadSetting, match="preset"):
        node_settings(None, NEEDED | {"preset": "huge"})


@pytest.mark.parametrize("size", JOB_PRESETS)
def test_a_jobs_preset_is_made_of_its_parameters(size: str) -> None:
    for workload, values in JOB_PRESETS[size].items():
        assert set(values) <= {each.name for each in fields(JOBS[workload])}
    sweep = JOB_PRESETS[size]["sweep"]["base"]
    for params in (JOB_PRESETS[size]["lora"], sweep):
        msgspec.convert({**OTHERS, **params}, LoraParams)
    assert set(JOB_PRESETS[size]) == set(JOBS)


def test_sizes_grow() -> None:
    for workload in JOBS:
        for one, other in (("small", "medium"), ("medium", "large")):
            small, large = JOB_PRESETS[one][workload], JOB_PRESETS[other][workload]
            assert all(large[key] >= value for key, value in small.items() if isinstance(value, int))


def test_what_is_given_goes_before_a_preset() -> None:
    found = job_preset("small", "sweep", {"sequences": 3, "base": {"seq_len": 16}, "data": "x"})
    assert found["sequences"] == 3
    assert found["base"] == {**JOB_PRESETS["small"]["sweep"]["base"], "seq_len": 16}
    assert found["data"] == "x"
    assert job_preset("small", "somebody's", {"a": 1}) == {"a": 1}
