import json
import tracemalloc
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.types import Cid
from proofyard.sdk import EvaluateJob, LoraJob, MapJob
from proofyard.sdk.tables import with_plain_data
from proofyard.workloads.corpus import write_bible_corpus
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.text_data import (
    Document,
    Documents,
    batch_rows,
    each_line,
    is_held_out,
    pack,
    read_documents,
    shard,
)
from proofyard.workloads.tokenizer import Tokenizer
from proofyard.workloads.workload import Inputs, Resources, load_workload


def write(path, *lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "no line"),
        ([b"", b"  "], "no line"),
        ([{"text": "a"}, b"{"], "line 2"),
        ([{"shard": "a"}], "line 1.*text"),
        ([{"text": 5}], "line 1.*text"),
        ([b'{"text":"\xff"}'], "line 1"),
    ],
)
def test_a_bad_data_file_is_refused_by_line(tmp_path, lines, reason):
    with pytest.raises(InputRefused, match=reason):
        read_documents(write(tmp_path / "data.jsonl", *lines))


def test_the_bible_comes_as_chapters_labelled_by_book(tmp_path):
    first = write_bible_corpus(tmp_path / "a.jsonl")
    documents = read_documents(first)
    assert len(documents) == 1189
    assert len({d.shard for d in documents}) == 66
    assert documents[0].text.startswith("In the beginning God created")
    assert write_bible_corpus(tmp_path / "b.jsonl").read_bytes() == first.read_bytes()
    held_out = sum(is_held_out(d, 2) for d in documents)
    assert 10 < held_out < 40
    sizes = [sum(len(d.text) for d in shard(documents, 4, worker, "label")) for worker in range(4)]
    assert max(sizes) < 1.2 * min(sizes)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 50)), min_size=6), st.integers(1, 6))
def test_every_document_has_one_worker_and_every_worker_has_documents(items, workers):
    documents = [Document("x" * size, label) for label, size in items]
    for by in ("label", "document"):
        if by == "label" and len({d.shard for d in documents}) < workers:
            with pytest.raises(InputRefused, match="shard labels"):
                list(shard(documents, workers, 0, by))
            continue
        parts = [list(shard(documents, workers, worker, by)) for worker in range(workers)]
        assert all(parts)
        assert sorted((d.text, d.shard) for part in parts for d in part) == sorted((d.text, d.shard) for d in documents)


def test_rows_begin_with_the_end_token_and_documents_are_closed_by_it(tiny):
    rows = pack([Document("hello"), Document("world!")], tiny.model, 4)
    assert rows.shape == (3, 5)
    assert (rows[:, 0] == 256).all()
    assert rows[1].tolist().count(256) == 2
    assert [Tokenizer(tiny.model).decode(row.tolist()) for row in rows] == ["hell", "owo", "rld!"]


def test_too_little_text_is_refused(tiny):
    with pytest.raises(InputRefused, match="too few"):
        pack([Document("hi")], tiny.model, 8)


@given(st.integers(1, 30), st.integers(1, 10))
def test_nothing_repeats_within_an_epoch(rows, batch):
    taken = np.concatenate([batch_rows(rows, batch, step, "test") for step in range(2 * rows)])
    for epoch in range(len(taken) // rows):
        assert sorted(taken[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """24 MiB in lines of 4 KiB."""
    file = tmp_path_factory.mktemp("large") / "data.jsonl"
    with file.open("w") as stream:
        for number in range(6144):
            stream.write(json.dumps({"text": f"{number} " + "word " * 800, "shard": f"s{number % 8}"}) + "\n")
    return file


@pytest.mark.parametrize(
    "look",
    [
        lambda data, tiny: deque(each_line(data, Document), maxlen=0),
        lambda data, tiny: deque(shard(Documents(data, 2), 4, 0, "label"), maxlen=0),
        lambda data, tiny: LoraJob(model=tiny.model, data=data, batch=1).manifest(Cid("m"), Cid("d")),
        lambda data, tiny: EvaluateJob(model=tiny.model, data=data).manifest(Cid("m"), Cid("d")),
        lambda data, tiny: MapJob(data=data).manifest(None, Cid("d")),
        lambda data, tiny: with_plain_data(LoraJob(model="m", data=each_row(data)), data.parent / "tables"),
    ],
    ids=["lines", "shard", "lora", "evaluate", "map", "table"],
)
def test_a_file_is_gone_through_without_being_held(large, tiny, look):
    tracemalloc.start()
    try:
        look(large, tiny)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def each_row(data):
    return ({"text": document.text} for document in each_line(data, Document))


def test_an_audits_lines_are_its_tasks_own(large):
    """Of 6,144 lines a task of 8 keeps 8."""
    manifest = MapJob(data=large, segment_rows=4, segments=2).manifest(None, Cid("d"))
    workload = load_workload("map")
    runner = workload.runner(manifest, workload.graph(manifest)[3], Inputs(data=large), Resources())
    assert [line.text.split()[0] for line in runner.lines] == [str(number) for number in range(24, 32)]
