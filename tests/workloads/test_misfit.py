"""What does not fit among a job's parameters is said with what it is and what is allowed."""

from typing import Any

import msgspec
import pytest

from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.params import misfit

FIT: dict[str, Any] = {"modules": {"q_proj": [8, 8]}, "rank": 4}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rank", 0, ("rank", "is 0; it has to be `int` >= 1")),
        ("lr", "fast", ("lr", "is 'fast'; it has to be `float`")),
        ("outer", "adam", ("outer", "is 'adam'; it has to be one of 'none', 'plain', 'nesterov'")),
        ("compression", 8, ("compression", "is 8; it has to be one of 'int8', 'int4', 'two-bit', 'topk-2bit', 'sign'")),
        ("beta3", 0.9, ("", "does not fit; Object contains unknown field `beta3`")),
        ("modules", {"q_proj": [8, "8"]}, ("modules[...][1]", "does not fit; it has to be `int`")),
    ],
)
def test_what_does_not_fit_is_said_with_what_is_allowed(name: str, value: Any, said: tuple[str, str]) -> None:
    values = {**FIT, name: value}
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(values, LoraParams)
    assert misfit(refused.value, values, LoraParams) == said


def test_a_value_without_end_is_cut() -> None:
    values = {**FIT, "rank": "8" * 10_000}
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(values, LoraParams)
    assert len(misfit(refused.value, values, LoraParams)[1]) < 200
