"""Whatever stands in whichever field of a job spec: it is a job, or it is refused by the field's name, and before
anything is paid."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import huggingface_hub
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proofyard.artifacts import BlockStore
from proofyard.protocol.manifest import encode_manifest
from proofyard.sdk import JOBS, JobRefused, Limits, NoVerifier, Offer, make_job
from proofyard.sdk.inputs import Sources
from proofyard.sdk.preparing import work_of
from proofyard.sdk.terms import check_offer
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model

HUGE = 10**40
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, HUGE, -HUGE, 0.5, -0.0, math.nan, math.inf, -math.inf, 1e308, 5e-324, b"", b"x"),
    *("", " ", "x" * 10_000, "a\0b", "\ud800", "../..", "ünï", "-1", "nan", [], {}, (), set(), object, object()),
    *([None], [math.nan], [HUGE], [[]], {"": None}, {1: 2}, {"lr": [math.nan]}, {"rank": HUGE}, {"a": {"b": []}}),
    *(["nothing"], {"a\nb": 1}),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=4)
VALUES = st.sampled_from(ODD) | st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
NAMES = {"options": "params", "base": "params", "vary": "params", "seq_len": "tokens"}
"""Fields whose contents are named one by one."""


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("inputs")
    model, data = write_tiny_model(folder / "model"), write_tiny_corpus(folder / "text.jsonl", documents=3)
    more: dict[str, dict[str, Any]] = {
        "lora": {"workers": 1, "seq_len": 16},
        "sweep": {"vary": {"lr": [0.1]}, "base": {"holdout_percent": 30, "seq_len": 16}},
        "evaluate": {"max_tokens": 32},
    }
    return {
        name: make_job(name, {"model": model, "data": data, **more.get(name, {})}) for name in JOBS if name != "embed"
    } | {"embed": JOBS["embed"](model=model, data=data)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BlockStore:
    return BlockStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no hub."""

    def away(*_: Any, **__: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)


def nobody(*_: Any) -> Any:
    raise NoVerifier("nobody is there")


def look_at(spec: Any, field: str, store: BlockStore) -> None:
    """Nothing but `JobRefused` may come of it, one sentence that names the field."""
    try:
        encode_manifest(work_of(spec, store, Sources(nobody, nobody), Limits()).manifest)
    except NoVerifier:
        assert field == "adapter"  # the number of a job: nobody could be asked
    except JobRefused as error:
        said = str(error)
        assert "\n" not in said
        assert len(said) < 1000
        value = getattr(spec, field)
        inner = set(value) if isinstance(value, Mapping) else set()
        assert (
            field in said
            or any(str(name) in said for name in inner)
            or NAMES.get(field, "\0") in said
            or said.startswith("data: ")
        ), said


@pytest.mark.parametrize("name", sorted(JOBS))
def test_odd_values_are_refused_by_the_name_of_their_field(name: str, specs: Any, store: BlockStore) -> None:
    for field in fields(specs[name]):
        for value in ODD:
            look_at(replace(specs[name], **{field.name: value}), field.name, store)


@pytest.mark.parametrize("name", sorted(JOBS))
def test_so_is_whatever_else_there_is(name: str, specs: Any, store: BlockStore) -> None:
    names = [field.name for field in fields(specs[name])]

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(names), VALUES)
    def anything(field: str, value: Any) -> None:
        look_at(replace(specs[name], **{field: value}), field, store)

    anything()


@pytest.mark.parametrize("field", [each.name for each in fields(Offer)])
def test_so_are_terms(field: str) -> None:
    usual = Offer(reward=10**18, audit_fee=10**18)  # type: ignore[arg-type]
    for value in ODD:
        try:
            check_offer(replace(usual, **{field: value}))
        except JobRefused as error:
            assert str(error).startswith(f"{field}: ")
