"""Packed rows: whole documents beside each other, placed alike by everybody, of which none changes a bit of another."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.types import Cid
from proofyard.sdk import JobRefused, LoraJob, SweepJob
from proofyard.sdk.specs import check_spec
from proofyard.workloads.adversary import TRAINING
from proofyard.workloads.causal_lm import AdaptedModel
from proofyard.workloads.errors import InputRefused, ManifestRefused
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.packing import OPEN_ROWS, FirstFit, pack_whole, sequence_lengths, training_rows
from proofyard.workloads.rehearsal import count_training_rows
from proofyard.workloads.sweep import WORKLOAD as SWEEP
from proofyard.workloads.sweep import candidate_manifest
from proofyard.workloads.sweep_score import held_out_loss
from proofyard.workloads.text_data import Document, Documents, shard
from proofyard.workloads.workload import Inputs, Resources

END = 256
TALK = Document("abcdef", "", ((4, 6),))
BACKENDS = ("native", "int8", "float32", "reference")


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def short(tmp_path):
    """Ninety texts of 1 to 24 letters, and some conversations."""
    texts = [{"text": f"{number} " + "x" * (7 * number % 23)} for number in range(80)]
    talks = [{"text": "question, answer", "trained": [[10, 16]] if number % 4 else []} for number in range(10)]
    return write(tmp_path / "short.jsonl", *texts, *talks)


def test_documents_are_placed_as_the_page_says(tiny):
    documents = [Document("hello"), TALK, Document("a" * 12), Document(""), Document("b"), Document("c" * 10)]
    rows = pack_whole(documents, tiny.model, 10)
    talk = [END, *(~b for b in b"abcd"), *b"ef"]
    expected = [
        [[END, *b"hello", END], [END, *b"aa", END]],
        [talk, [END, *b"b", END]],
        [[END, *b"aaaaaaaaaa"]],
        [[END, *b"cccccccccc"]],
    ]
    assert [[tokens.tolist() for tokens in row] for row in rows.take(range(len(rows)))] == expected
    assert rows.learned == 6 + 3 + 2 + 2 + 10 + 10


@given(st.lists(st.integers(0, 40), min_size=1, max_size=300), st.integers(8, 20))
def test_each_sequence_goes_into_the_first_of_the_open_rows_that_has_room(sizes, seq_len):
    fit, used = FirstFit(seq_len), []
    lengths = [n for size in sizes for n in sequence_lengths(Document("x" * size), size, seq_len)]
    for length in lengths:
        row = fit.put(length)
        first = max(0, len(used) - OPEN_ROWS)
        fitting = [number for number in range(first, len(used)) if used[number] + length <= seq_len]
        assert row == (fitting[0] if fitting else len(used))
        if row == len(used):
            used.append(0)
        used[row] += length
    assert fit.rows == len(used)
    assert sum(lengths) == sum(size + (size % seq_len != 0) for size in sizes)


def test_with_a_limit_the_first_rows_are_made(tiny):
    documents = [Document("x" * (1 + number % 9)) for number in range(60)]
    whole, some = pack_whole(documents, tiny.model, 12), pack_whole(documents, tiny.model, 12, most=3)
    assert len(some) == 3 < len(whole)
    for row, (ours, theirs) in enumerate(zip(some.take(range(3)), whole.take(range(3)), strict=True)):
        assert [t.tolist() for t in ours] == [t.tolist() for t in theirs[: len(ours)]], row


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_are_counted_as_they_are_packed(short, tiny, workers):
    params = LoraJob(model=tiny.model, data=short, workers=workers, seq_len=32, packing=True, rounds=1)._params()
    found = count_training_rows(tiny.model, short, params)
    documents = Documents(short, params.holdout_percent)
    packed = [
        len(training_rows(shard(documents, workers, each, params.shard_by), tiny.model, 32, packing=True))
        for each in range(workers)
    ]
    assert found.of_workers == tuple(packed)


@pytest.fixture(scope="module", params=BACKENDS)
def model(request, tiny):
    modules = {f"model.layers.{layer}.self_attn.{name}_proj": (64, 64) for layer in (0, 1) for name in "qv"}
    found = AdaptedModel(tiny.model, modules, "exact", Resources(backend=request.param))
    rng = np.random.default_rng(5)
    adapter = {
        f"{name}.{part}": rng.normal(size=shape).astype(np.float32) / 8
        for name, (out, into) in modules.items()
        for part, shape in (("lora_A", (4, into)), ("lora_B", (out, 4)))
    }
    return found, adapter


def computed(model, sequences, together):
    """What a row's sequences come to, side by side in one batch or each in one of its own: hidden states and losses of
    each, and the adapter's gradients."""
    net, adapter = model
    net.decoder.adapters.set(adapter, 2.0)
    hidden, losses = [], []
    for part in [sequences] if together else [[tokens] for tokens in sequences]:
        plain = [np.where(tokens < 0, ~tokens, tokens).astype(np.int64) for tokens in part]
        ids, targets = np.concatenate([t[:-1] for t in plain]), np.concatenate([t[1:] for t in plain])
        lengths = [len(t) - 1 for t in plain]
        ends = np.cumsum(lengths)[:-1]
        hidden += np.split(net.backend.numpy(net.decoder.hidden(ids, lengths)), ends)
        losses += np.split(net.decoder.losses(ids, targets, lengths), ends)
        net.train(part, 1 / 29)
    gradients = {name: np.array(net.backend.numpy(g)) for name, g in net.decoder.adapters.gradients().items()}
    return hidden, losses, gradients


def same(ours, theirs):
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


def test_a_packed_document_has_the_bits_that_it_has_alone(model, tiny):
    (row,) = pack_whole([Document("hello"), TALK, Document("another one")], tiny.model, 32).take([0])
    assert len(row) == 3
    (hidden, losses, gradients), alone = computed(model, row, True), computed(model, row, False)
    assert same(hidden, alone[0]) and same(losses, alone[1])
    assert all(np.array_equal(gradients[name], alone[2][name]) for name in gradients)


def test_changing_a_document_changes_no_bit_of_another(model, tiny):
    texts = [Document("hello"), TALK, Document("another one")]
    for changed, text in enumerate(("jelly", "fedcba", "some others")):
        documents = list(texts)
        documents[changed] = Document(text, "", texts[changed].trained)
        before, after = (pack_whole(each, tiny.model, 32)[0] for each in (texts, documents))
        one, other = computed(model, before, True), computed(model, after, True)
        for place in range(3):
            same_bits = same([one[0][place], one[1][place]], [other[0][place], other[1][place]])
            assert same_bits is (place != changed)
        # What the others add to the gradient: the sum is made in order, so each addend can be told by its own.
        addends = [computed(model, [tokens], True)[2] for tokens in after]
        for name, gradient in other[2].items():
            total = addends[0][name]
            for addend in addends[1:]:
                total = total + addend[name]
            assert np.array_equal(gradient, total)


def run(manifest, inputs, resources=None, kind=""):
    task = WORKLOAD.graph(manifest)[0]
    make = TRAINING[kind] if kind else None
    args = (task, inputs, resources or Resources(backend="native"))
    runner = make(manifest, read_params(manifest), *args) if make else WORKLOAD.runner(manifest, *args)
    start = WORKLOAD.initial_state(manifest, task, inputs)
    return runner.run(0, start, lambda _: None)


def test_an_audit_on_another_machine_finds_the_same_packed_segment_and_no_other(lora_manifest, tiny, short):
    manifest = lora_manifest(packing=True, rounds=1, workers=1)
    inputs = Inputs(tiny.model, short)
    honest = run(manifest, inputs)
    assert run(manifest, inputs, Resources(backend="float32")) == honest
    for micro_batch in (1, 3):
        assert run(manifest, inputs, Resources(backend="native", micro_batch=micro_batch)) == honest
    leaking = lora_manifest(packing=False, rounds=1, workers=1)
    cheats = [run(leaking, inputs), *(run(manifest, inputs, kind=kind) for kind in ("short-sequences", "half-batch"))]
    assert honest not in cheats


def test_a_job_says_that_it_packs(tiny, short):
    job = LoraJob(model=tiny.model, data=short, workers=1, seq_len=32, packing=True, epochs=2)
    found, told = job.measured()
    assert "of 4 packed rows of 32 tokens" in told
    manifest = found.manifest(Cid("model"), Cid("data"))
    assert manifest.params["packing"] is True and read_params(manifest).packing
    with pytest.raises(JobRefused, match=r"packing: is 'yes'; give"):
        check_spec(LoraJob(model=tiny.model, data=short, packing="yes"))


def test_a_document_shorter_than_a_row_is_enough(tiny, tmp_path):
    few = write(tmp_path / "few.jsonl", *[{"text": "short"}] * 3)
    job = LoraJob(model=tiny.model, data=few, workers=1, seq_len=128)
    with pytest.raises(InputRefused, match="leaves 18 tokens, too few for one sequence of 128"):
        job.manifest(Cid("model"), Cid("data"))
    assert LoraJob(model=tiny.model, data=few, workers=1, seq_len=128, packing=True).manifest(Cid("m"), Cid("d"))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"text": ""}], "leaves 0 tokens"),
        ([{"text": "abc", "trained": []}], "leaves 0 tokens"),
        ([{"text": "x" * 32, "trained": [[0, 1]]}], "a conversation of 32 tokens, at most seq_len - 1 = 31 fit"),
    ],
)
def test_what_cannot_be_packed_is_refused_before_it_is_paid(tiny, tmp_path, rows, reason):
    data = write(tmp_path / "data.jsonl", *rows)
    with pytest.raises(InputRefused, match=reason):
        LoraJob(model=tiny.model, data=data, workers=1, seq_len=32, packing=True).manifest(Cid("m"), Cid("d"))
    with pytest.raises(InputRefused):
        training_rows(Documents(data, 1), tiny.model, 32, packing=True)


def test_a_sweep_scores_as_it_trains(tiny, short):
    base = {"packing": True, "seq_len": 24, "segments": 1, "holdout_percent": 30}
    spec = SweepJob(model=tiny.model, data=short, base=base, vary={"lr": [0.01, 0.02]})
    manifest = spec.manifest(Cid("model"), Cid("data"))
    inputs, resources = Inputs(tiny.model, short), Resources(backend="native")
    packed, plain = (
        held_out_loss(candidate_manifest(each, 0), inputs, resources, None, 4)
        for each in (
            manifest,
            SweepJob(model=tiny.model, data=short, base=base | {"packing": False}, vary=spec.vary).manifest(
                Cid("model"), Cid("data")
            ),
        )
    )
    assert packed != plain
    tried = SweepJob(model=tiny.model, data=short, vary={"packing": [True, False]})
    with pytest.raises(ManifestRefused, match=r"vary.packing cannot vary within a sweep"):
        SWEEP.check(tried.manifest(Cid("model"), Cid("data")))


def test_sequences_of_rows_are_where_they_are_said_to_be(tiny):
    rows = pack_whole([Document("x" * size) for size in (3, 9, 1, 30)], tiny.model, 10)
    ends = [len(tokens) for row in rows.take(range(len(rows))) for tokens in row]
    assert [end - start for start, end in pairwise(rows.sequences)] == ends
