"""Data that stays at home: what a manifest says of it, where it lies, and that a shard is its whole file."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from proofyard.artifacts import BlockStore
from proofyard.artifacts.builder import cid_of_bytes, cid_of_file
from proofyard.protocol.manifest import decode_manifest, encode_manifest
from proofyard.protocol.types import TaskIndex
from proofyard.sdk import JobRefused, LoraJob
from proofyard.sdk.specs import check_spec
from proofyard.workloads.errors import InputRefused, ManifestRefused
from proofyard.workloads.inspection import lines_of
from proofyard.workloads.local_data import local_name
from proofyard.workloads.local_sets import LocalSets, described
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import check_manifest
from proofyard.workloads.lora_runner import TrainRunner
from proofyard.workloads.sweep import WORKLOAD as SWEEP
from proofyard.workloads.workload import Inputs, Resources, auditors_of, is_exact, local_data, local_file, workload_of

OWNERS = ("0x5FbDB2315678afecb367f032d93F642f64180aa3", "0x00000000000000000000000000000000000000aa")


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A file for each of two shards."""
    return [
        lines(tmp_path / f"{name}.jsonl", *({"text": f"{name} {number} " * 9} for number in range(40)))
        for name in ("north", "south")
    ]


@pytest.fixture
def job(tiny: Inputs, files: list[Path]) -> Any:
    """Makes a job whose data stays at home; keywords replace its fields."""

    def make(local: dict[str, Any] | None = None, **changes: Any) -> LoraJob:
        said = {"digests": [cid_of_file(path) for path in files], "auditors": list(OWNERS)} | (local or {})
        plain: dict[str, Any] = {"rank": 2, "workers": 2, "segments": 1, "segment_steps": 1, "batch": 2, "seq_len": 16}
        return LoraJob(model=tiny.model, data="local:wards", local=said, **plain | changes)

    return make


def test_a_manifest_names_the_file_of_each_shard_and_who_was_given_it(job: Any, files: list[Path]) -> None:
    spec = job()
    check_spec(spec)
    manifest = decode_manifest(encode_manifest(spec.manifest(cid_of_bytes(b"model"), None)))
    WORKLOAD.check(manifest)
    assert manifest.data is None
    assert manifest.inputs == (manifest.model,)
    for task in WORKLOAD.graph(manifest):
        wanted = local_file(WORKLOAD, manifest, task)
        assert wanted is not None
        assert (wanted.name, wanted.cid, wanted.schema) == ("wards", cid_of_file(files[task.index % 2]), "text")
    assert not is_exact(WORKLOAD, manifest), "no jury could be shown that a segment is wrong"
    assert auditors_of({1: manifest}, workload_of) == {
        1: frozenset({OWNERS[0], "0x00000000000000000000000000000000000000AA"})
    }
    open_to_all = job(local={"auditors": [], "unaudited": True}).manifest(cid_of_bytes(b"model"), None)
    assert auditors_of({1: open_to_all}, workload_of) == {1: frozenset()}


def test_jobs_of_published_data_say_nothing_of_it(lora_manifest: Any) -> None:
    manifest = lora_manifest()
    assert local_data(WORKLOAD, manifest) is None
    assert local_file(WORKLOAD, manifest, WORKLOAD.graph(manifest)[0]) is None
    assert is_exact(WORKLOAD, manifest)
    assert auditors_of({1: manifest}, workload_of) == {}


@pytest.mark.parametrize(
    ("local", "said"),
    [
        ({"digests": [cid_of_bytes(b"one")]}, "1 digests for 2 workers"),
        ({"digests": ["b" + "a" * 58] * 2}, "no CID"),
        ({"auditors": []}, "says neither which owners"),
        ({"unaudited": True}, "say one"),
        ({"auditors": [OWNERS[1], OWNERS[1].upper().replace("X", "x")]}, "twice"),
        ({"schema": "pairs"}, "learns from others"),
        ({"schema": "table"}, "local"),
        ({"auditors": ["0x5fbDB2315678afecb367f032d93F642f64180aa3"]}, "its own checksum"),
        ({"name": "other"}, "goes with data"),
        ({"colour": 1}, "local"),
    ],
)
def test_what_fits_no_job_is_refused_by_its_field(job: Any, local: dict[str, Any], said: str) -> None:
    with pytest.raises((JobRefused, ManifestRefused), match=said):
        job(local=local).manifest(cid_of_bytes(b"model"), None)


def test_neither_half_goes_without_the_other(job: Any, tiny: Inputs, lora_manifest: Any) -> None:
    with pytest.raises(JobRefused, match="goes with data"):
        LoraJob(model=tiny.model, data=tiny.data, local={"digests": []}).manifest(None, None)  # type: ignore[arg-type]
    with pytest.raises(JobRefused, match="goes with data"):
        LoraJob(model=tiny.model, data="local:wards").manifest(None, None)  # type: ignore[arg-type]
    with pytest.raises(JobRefused, match="epochs"):
        job(epochs=2).measured()
    both = job().manifest(cid_of_bytes(b"model"), None)
    with pytest.raises(ManifestRefused, match="stays at home"):
        WORKLOAD.check(lora_manifest(**both.params))
    swept = replace(lora_manifest(), workload="sweep", params={"base": both.params, "vary": {"alpha": [1.0]}})
    swept.params["base"] |= {"workers": 1, "rounds": 1}
    with pytest.raises(ManifestRefused, match="on data that all have"):
        SWEEP.check(swept)
    assert [local_name(said) for said in ("local:a", Path("local:a"))] == ["a", "a"]
    assert [local_name(said) for said in ("./local:a", tiny.data, [{}])] == ["", "", ""]


def test_a_shard_trains_on_all_of_its_file(job: Any, tiny: Inputs, files: list[Path]) -> None:
    manifest = job().manifest(cid_of_bytes(b"model"), None)
    params, tasks = check_manifest(manifest), WORKLOAD.graph(manifest)
    runners = [
        TrainRunner(manifest, params, task, Inputs(tiny.model, path), Resources())
        for task, path in zip(tasks, files, strict=False)
    ]
    states = [WORKLOAD.initial_state(manifest, task, Inputs()) for task in tasks[:2]]
    after = [runner.run(0, state, lambda _: None) for runner, state in zip(runners, states, strict=True)]
    other = TrainRunner(manifest, params, tasks[0], Inputs(tiny.model, files[1]), Resources())
    assert after[0] != other.run(0, states[0], lambda _: None), "another file is another state"
    assert WORKLOAD.agrees(manifest, tasks[0], 0, states[0], after[0], after[0])
    assert not WORKLOAD.agrees(manifest, tasks[0], 0, states[0], after[0], after[1])
    assert tasks[0].index == TaskIndex(0)


def test_a_set_is_kept_for_its_operator_alone_and_found_by_its_digest(tmp_path: Path, files: list[Path]) -> None:
    sets = LocalSets(tmp_path / "local")
    assert (sets.all(), sets.remove("wards"), sets.path(cid_of_file(files[0]))) == ([], None, None)
    kept = sets.add("wards", files[0], *described(files[0]))
    assert (kept.documents, kept.size, kept.schema) == (40, files[0].stat().st_size, "text")
    assert kept.cid == cid_of_file(files[0]) == BlockStore(tmp_path / "blocks").put_bytes(files[0].read_bytes())
    path = sets.path(kept.cid)
    assert path == sets.file(kept)
    assert path is not None
    assert path.read_bytes() == files[0].read_bytes()
    assert [each.stat().st_mode & 0o077 for each in (tmp_path / "local", path)] == [0, 0]
    sets.add("copy", files[0], *described(files[0]))
    sets.remove("wards")
    assert path.is_file(), "another name has it too"
    other = sets.add("copy", files[1], *described(files[1]))
    assert not path.exists(), "the name means another file now"
    assert [each.cid for each in sets.all()] == [other.cid]
    assert sorted(each.name for each in (tmp_path / "local").iterdir()) == sorted([f"{other.cid}.jsonl", "copy.json"])


def test_a_file_that_was_changed_is_not_found_any_more(tmp_path: Path, files: list[Path]) -> None:
    sets = LocalSets(tmp_path / "local")
    kept = sets.add("wards", files[0], *described(files[0]))
    assert sets.path(kept.cid) is not None
    sets.file(kept).write_bytes(files[1].read_bytes())
    assert sets.path(kept.cid) is None
    assert LocalSets(tmp_path / "local").path(kept.cid) is None
    (tmp_path / "local" / "odd.json").write_text("{" * 9000)
    assert [each.name for each in sets.all()] == ["wards"]


def test_all_lines_of_a_set_are_of_one_kind_and_read_in_the_sandbox(tmp_path: Path) -> None:
    chat = {"text": "question, answer", "trained": [[10, 16]]}
    pair = chat | {"rejected_answer": {"text": "question, other", "trained": [[10, 15]]}}
    for schema, row in (("text", {"text": "a"}), ("chat", chat), ("pairs", pair)):
        assert lines_of(lines(tmp_path / "set.jsonl", row, row)) == (schema, 2)
    with pytest.raises(InputRefused, match="line 2"):
        lines_of(lines(tmp_path / "set.jsonl", chat, pair))
    with pytest.raises(InputRefused, match="line 1"):
        lines_of(lines(tmp_path / "set.jsonl", {"messages": []}))
