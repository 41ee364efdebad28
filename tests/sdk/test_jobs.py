"""Jobs that cannot work are refused where they are made, before anything is published or paid."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from proofyard.protocol.caps import Caps
from proofyard.protocol.types import Cid, ProofyardError
from proofyard.sdk import JOBS, EmbedJob, JobRefused, LoraJob, MapJob, SweepJob, make_job
from proofyard.workloads.errors import ManifestRefused
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.workload import load_workload, task_graph
from proofyard.workloads.zoo import BEHAVING, COMPUTING, KEEPING_STAKE, ZOO

CIDS = (Cid("model"), Cid("data"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("inputs")
    model, data = write_tiny_model(folder / "model"), write_tiny_corpus(folder / "text.jsonl", labels=2)
    (folder / "empty.jsonl").write_text("\n \n")
    return {"model": model, "data": data}


@pytest.mark.parametrize("workload", JOBS)
def test_every_workload_has_a_job_whose_manifest_it_accepts(workload: str, inputs: dict[str, Any]) -> None:
    extra: dict[str, Any] = {
        "lora": {"workers": 2},
        "sweep": {"vary": {"lr": [0.1, 0.2]}, "base": {"holdout_percent": 30, "seq_len": 64}},
    }.get(workload, {})
    manifest = make_job(workload, inputs | extra).manifest(*CIDS)
    assert manifest.workload == workload
    found = load_workload(workload)
    graph = task_graph(found, manifest)
    assert set(found.finals(manifest)) <= {task.index for task in graph}


def test_a_lora_job_says_how_far_its_rounds_may_run_ahead_of_verdicts(inputs: dict[str, Any]) -> None:
    assert LoraJob(**inputs, workers=2).manifest(*CIDS).look_ahead == 1
    assert make_job("lora", inputs | {"workers": 2, "look_ahead": 0}).manifest(*CIDS).look_ahead == 0
    with pytest.raises(ManifestRefused, match="look_ahead"):
        LoraJob(**inputs, workers=2, look_ahead=-1).manifest(*CIDS)


@pytest.mark.parametrize(
    ("workload", "values", "reason"),
    [
        ("mining", {}, "workload: 'mining' has no job spec"),
        ("lora", {"colour": 1}, "colour: the lora job has no such parameter"),
        ("embed", {"data": "x"}, "model: the embed job needs it"),
    ],
)
def test_a_job_from_names_is_refused_by_name(workload: str, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(JobRefused, match=reason):
        make_job(workload, values)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda i: LoraJob(**i, rank=0), "rank"),
        (lambda i: LoraJob(**i, workers=2, rank=65), r"params\.rank is 65, but .* has only 64"),
        (lambda i: LoraJob(**i, workers=2, batch=4096, seq_len=1 << 17), r"params\.batch times seq_len"),
        (lambda i: LoraJob(**i, workers=2, seq_len=1 << 30), "seq_len"),
        (lambda i: LoraJob(**i, workers=3, options={"shard_by": "label"}), "2 shard labels for 3 workers"),
        (lambda i: LoraJob(**i, workers=2, precision="fp8"), "precision is 'fp8'"),
        (lambda i: LoraJob(**i, workers=2, targets=["nothing"]), "no linear layer named nothing"),
        (lambda i: LoraJob(**i | {"data": i["data"].with_name("empty.jsonl")}), "data file holds no line"),
        (lambda i: EmbedJob(**i | {"data": i["data"].with_name("empty.jsonl")}), "data file holds no line"),
        (lambda i: EmbedJob(**i, segment_rows=0), r"params\.segment_rows"),
        (lambda i: MapJob(**i, segments=1 << 20), r"params\.segments"),
        (lambda i: SweepJob(**i, vary={}), r"params\.vary"),
        (lambda i: SweepJob(**i, vary={"lr": [-1.0]}), "lr"),
    ],
)
def test_what_cannot_be_executed_is_refused_with_the_field(make: Any, reason: str, inputs: dict[str, Any]) -> None:
    with pytest.raises(ProofyardError, match=reason):
        manifest = make(inputs).manifest(*CIDS)
        load_workload(manifest.workload).check(manifest)


def test_the_zoo_names_every_cheat_that_there_is() -> None:
    from proofyard.node.adversary import BEHAVIOUR
    from proofyard.workloads.adversary import KINDS

    assert set(KINDS) == COMPUTING.keys()
    assert BEHAVIOUR.keys() == BEHAVING.keys()
    assert ZOO.keys() > KEEPING_STAKE
    page = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text()
    assert not [kind for kind in ZOO if f"`{kind}`" not in page]


@pytest.mark.parametrize(
    ("labels", "workers", "options", "by"),
    [
        ((None,), 4, {}, "document"),
        ((None,), 1, {}, "document"),
        (("a", "b", None), 4, {}, "document"),
        (("a", "b", "c", "d"), 4, {}, "label"),
        (("a", "b", "c", "d"), 1, {}, "document"),
        (("a", "b", "c", "d"), 4, {"shard_by": "document"}, "document"),
    ],
)
def test_data_is_dealt_by_document_where_it_has_too_few_labels(
    labels: tuple[str | None, ...],
    workers: int,
    options: dict[str, Any],
    by: str,
    inputs: dict[str, Any],
    tmp_path: Path,
) -> None:
    texts = [(f"some words {number} " * 20, label) for label in labels for number in range(8)]
    rows = [{"text": text} | ({"shard": label} if label else {}) for text, label in texts]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job = LoraJob(model=inputs["model"], data=tmp_path / "rows.jsonl", workers=workers, options=options)
    assert job.manifest(*CIDS).params["shard_by"] == by


def test_a_lora_job_averages_b_alone_unless_it_says_otherwise(inputs: dict[str, Any]) -> None:
    params = LoraJob(**inputs, workers=2).manifest(*CIDS).params
    assert (params["aggregation"], params["robust"], params["outer"], params["rslora"]) == (
        "ffa",
        "mean",
        "none",
        False,
    )
    momentum = {"outer_lr": 0.7, "outer_momentum": 0.9}
    assert LoraJob(**inputs, workers=2, options=momentum).manifest(*CIDS).params["outer"] == "nesterov"
    assert LoraJob(**inputs, workers=2, options={"outer_lr": 0.7}).manifest(*CIDS).params["outer"] == "plain"
    said = LoraJob(**inputs, workers=2, ranks=[4, 8], rslora=True).manifest(*CIDS).params
    assert (list(said["ranks"]), said["rslora"]) == ([4, 8], True)
    unequal = LoraJob(**inputs, workers=2, segments=4, options={"shard_segments": [1, 4]}).manifest(*CIDS)
    assert [task.segments for task in task_graph(load_workload("lora"), unequal)][:2] == [1, 4]


def test_rounds_that_overlap_take_half_of_a_delta_unless_the_job_says_so(inputs: dict[str, Any]) -> None:
    def outer(**changes: Any) -> Any:
        params = LoraJob(**inputs, workers=2, **changes).manifest(*CIDS).params
        return params["outer"], params["outer_lr"], params.get("overlap")

    assert (outer(), outer(overlap=True)) == (("none", 1.0, None), ("plain", 0.5, True))
    assert outer(overlap=True, options={"outer_lr": 1.0}) == ("none", 1.0, True)
    assert outer(overlap=True, options={"outer": "none"}) == ("none", 1.0, True)
    assert outer(overlap=True, options={"outer": "plain"}) == ("plain", 0.5, True)
    assert outer(overlap=True, options={"outer_lr": 0.25}) == ("plain", 0.25, True)
    momentum = {"outer_lr": 0.4, "outer_momentum": 0.5}
    assert outer(overlap=True, options=momentum) == ("nesterov", 0.4, True)


def test_a_job_says_how_much_of_a_round_one_owner_does_or_nothing_of_it(inputs: dict[str, Any]) -> None:
    def caps(said: Any) -> Any:
        return LoraJob(**inputs, workers=5, caps=said).manifest(*CIDS).params.get("caps")

    assert (caps(None), caps({})) == (None, None)
    assert (caps({"owner": 2, "subnet": 3}), caps({"subnet": 1})) == (
        {"owner": 2, "subnet": 3},
        {"owner": 0, "subnet": 1},
    )
    for wrong, says in (({"owner": -1}, "caps.owner"), ({"owners": 1}, "caps.*owners"), ({"owner": "x"}, "caps.owner")):
        with pytest.raises(JobRefused, match=says):
            caps(wrong)


def test_how_a_round_is_shared_out_is_refused_before_nodes_are_asked_for_it(inputs: dict[str, Any]) -> None:
    assert LoraJob(**inputs, workers=5, caps={"owner": 2}).capped == (5, Caps(owner=2))
    assert LoraJob(**inputs, workers=5).capped == (5, Caps())
    for workers, caps, says in (
        (0, None, "workers: is 0; it has to be `int` >= 1"),
        ("4", {"owner": 1}, "workers: is '4'; it has to be `int`"),
        (5, "{owner: 1}", "caps: is '{owner: 1}'; it has to be `object`"),
        (5, {"owner": -1}, "caps.owner: does not fit; it has to be `int` >= 0"),
    ):
        job: Any = LoraJob(**inputs, workers=workers, caps=caps)  # type: ignore[arg-type]
        with pytest.raises(JobRefused, match=re.escape(says)):
            assert job.capped


@pytest.mark.parametrize(
    ("changes", "field", "allowed"),
    [
        ({"robust": "multi-krum", "workers": 5}, "params.robust_hostile", "5 votes allows 1 to 1"),
        ({"ranks": [8]}, "params.ranks", "one for each of 2 workers"),
        ({"aggregation": "fedit", "ranks": [4, 8]}, "params.ranks", "take ffa or flora"),
        ({"aggregation": "fedex", "options": {"outer_lr": 0.5}}, "params.outer", "none"),
        ({"options": {"shard_segments": [1, 2]}}, "params.shard_segments", "the largest must be segments 4"),
        ({"rslora": True, "options": {"use_rslora": True}}, "options.use_rslora", "one of them"),
    ],
)
def test_ways_of_averaging_that_do_not_go_together_are_refused(
    inputs: dict[str, Any], changes: dict[str, Any], field: str, allowed: str
) -> None:
    with pytest.raises(ProofyardError, match=field) as caught:
        LoraJob(**{**inputs, "workers": 2, **changes}).manifest(*CIDS)
    assert allowed in str(caught.value)
