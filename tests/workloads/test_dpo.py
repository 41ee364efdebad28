"""Preferences: what a pair's loss and gradient are, that every backend has them to the bit, and what is refused."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from proofyard.protocol.types import Cid
from proofyard.sdk import EvaluateJob, JobRefused, LoraJob, SweepJob
from proofyard.sdk.tables import with_plain_data
from proofyard.workloads.adversary import TRAINING
from proofyard.workloads.causal_lm import AdaptedModel
from proofyard.workloads.chat import read_pair
from proofyard.workloads.dpo import judge, train_pairs
from proofyard.workloads.errors import InputRefused, ManifestRefused, WorkloadError
from proofyard.workloads.limits import demands
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_runner import TrainRunner
from proofyard.workloads.pairs import pair_rows
from proofyard.workloads.sweep import WORKLOAD as SWEEP
from proofyard.workloads.text_data import Answer, Document, Documents, read_documents
from proofyard.workloads.tokenizer import Tokenizer
from proofyard.workloads.workload import Inputs, Resources

ASKED = {"role": "user", "content": "Where is it?"}
GOOD, BAD = {"role": "assistant", "content": "Over there."}, {"role": "assistant", "content": "No idea."}
PAIR = {"prompt": "Q: two and two? A:", "chosen": " four.", "rejected": " fish, perhaps."}
TURNS = {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rendered(model, folder, *rows, **more):
    job = LoraJob(model=model, data=write(folder / "pairs.jsonl", *rows), objective="dpo", **more)
    return read_documents(Path(with_plain_data(job, folder / "tables").data))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Forty pairs as nodes get them: the one answer counts up, the other repeats."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [
        {
            "text": f"{number}: abc",
            "trained": [[len(f"{number}: "), len(f"{number}: abc") + 1]],
            "rejected_answer": {"text": f"{number}: xx", "trained": [[len(f"{number}: "), len(f"{number}: xx")]]},
        }
        for number in range(40)
    ]
    return write(folder / "pairs.jsonl", *rows)


@pytest.fixture
def preferring(lora_manifest):
    """Makes the manifest of a small job with objective dpo."""
    usual = {"objective": "dpo", "rounds": 1, "workers": 1, "segments": 1, "seq_len": 16}
    return lambda **more: lora_manifest(**usual | more)


def run(manifest, inputs, resources=None, kind="", make=None):
    """The state after the first segment, and the losses of its steps."""
    task = WORKLOAD.graph(manifest)[0]
    losses = []
    args = (task, inputs, resources or Resources(backend="native"))
    make = make or (TRAINING[kind] if kind else None)
    runner = make(manifest, read_params(manifest), *args) if make else WORKLOAD.runner(manifest, *args)
    start = WORKLOAD.initial_state(manifest, task, inputs)
    return runner.run(0, start, lambda progress: losses.append(progress.loss)), losses


@given(st.floats(-300, 300), st.floats(-300, 300), st.floats(0.01, 1))
def test_a_pairs_loss_and_weight_are_those_of_the_paper(chosen, rejected, beta):
    loss, doubt = judge(chosen, rejected, beta)
    z = beta * (chosen - rejected)
    assert loss == pytest.approx(max(-z, 0) + math.log1p(math.exp(-abs(z))), rel=1e-5, abs=1.3e-7)
    assert doubt == pytest.approx(1 / (1 + math.exp(min(z, 87))), rel=1e-4)


def test_golden_pairs():
    """Bits that another implementation of the page's section has to give."""
    gains = ((0.0, 0.0), (3.25, -1.5), (-20.0, 11.0), (1e3, -1e3), (-1e3, 1e3), (1e-3, 0.0))
    found = [np.array(judge(*each, 0.3), np.float32).view(np.uint32).tolist() for each in gains]
    assert [[f"{bits:08x}" for bits in pair] for pair in found] == GOLDEN_PAIRS
    assert all(map(math.isnan, judge(math.nan, 0.0, 0.1)))


def test_an_answer_is_learned_and_its_prompt_is_not(tiny):
    document = Document("ask: yes", "", ((5, 9),), Answer("ask: no", ((5, 7),)))
    ((chosen, rejected),) = pair_rows([document], tiny.model, 16).take([0])
    assert chosen.tolist() == [256, *(~b for b in b"ask: "), *b"yes", 256]
    assert rejected.tolist() == [256, *(~b for b in b"ask: "), *b"no"]
    for bad, reason in (
        (Answer("ask: no", ()), "an answer of which nothing is learned"),
        (Answer("ask: no", ((5, 9),)), r"has trained \[5, 9\) in a text of 8 tokens"),
        (Answer("a" * 30, ((5, 20),)), "ends at token 20, its prompt included; at most seq_len = 16"),
    ):
        with pytest.raises(InputRefused, match=reason):
            pair_rows([changed(document, rejected_answer=bad)], tiny.model, 16)


def modules_of(manifest):
    return manifest.params["modules"]


def random_adapter(modules):
    rng = np.random.default_rng(3)
    return {
        f"{name}.{part}": rng.normal(size=shape).astype(np.float32) / 8
        for name, (out, into) in modules.items()
        for part, shape in (("lora_A", (4, into)), ("lora_B", (out, 4)))
    }


def test_the_gradient_is_that_which_torch_has(tiny, data, preferring):
    modules, beta = modules_of(preferring()), 0.4
    adapter = random_adapter(modules)
    rows = pair_rows(Documents(data, 2, pairs=True), tiny.model, 16).take(range(4))
    found = []
    for name in ("native", "float32", "reference"):
        model = AdaptedModel(tiny.model, modules, "exact", Resources(backend=name))
        adapt = lambda model=model: model.decoder.adapters.set(adapter, 2.0)  # noqa: E731
        for parts in ([rows], [rows[:1], rows[1:]]):
            loss = train_pairs(model, parts, beta, adapt)
            gradients = model.decoder.adapters.gradients().items()
            found.append((loss, {name: model.backend.numpy(gradient).copy() for name, gradient in gradients}))
    for loss, gradients in found[1:]:
        assert loss == found[0][0]
        assert all(np.array_equal(gradients[name], g) for name, g in found[0][1].items())
    expected_loss, expected = torch_pairs(tiny.model, rows, adapter, beta)
    assert found[0][0] == pytest.approx(expected_loss, rel=0.02)
    for name, gradient in found[0][1].items():
        error = np.linalg.norm(gradient - expected[name]) / np.linalg.norm(expected[name])
        assert error < 0.05, name


def torch_pairs(path, rows, adapter, beta):
    """Loss and gradients by torch, the reference by the same model with the hooks' products times zero."""
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in adapter.items()}
    on = [2.0]
    for name in {key.rpartition(".")[0] for key in adapter}:
        a, b = tensors[f"{name}.lora_A"], tensors[f"{name}.lora_B"]
        net.get_submodule(name).register_forward_hook(lambda _m, args, y, a=a, b=b: y + on[0] * (args[0] @ a.T) @ b.T)

    def log_probability(tokens):
        plain = torch.from_numpy(np.where(tokens < 0, ~tokens, tokens).astype(np.int64))
        logits = net(input_ids=plain[None, :-1]).logits[0]
        each = torch.log_softmax(logits, -1).gather(1, plain[1:, None])[:, 0]
        return (each * torch.from_numpy(tokens[1:] >= 0)).sum()

    losses = []
    for chosen, rejected in rows:
        on[0] = 0.0
        with torch.no_grad():
            before = log_probability(chosen) - log_probability(rejected)
        on[0] = 2.0
        z = beta * ((log_probability(chosen) - log_probability(rejected)) - before)
        losses.append(-torch.nn.functional.logsigmoid(z))
    loss = torch.stack(losses).mean()
    loss.backward()
    return float(loss.detach()), {name: tensor.grad.numpy() for name, tensor in tensors.items()}


def test_a_segment_is_the_same_on_every_backend_and_with_every_micro_batch(tiny, data, preferring):
    manifest, inputs = preferring(), Inputs(tiny.model, data)
    honest, losses = run(manifest, inputs)
    assert hashlib.sha256(honest).hexdigest() == GOLDEN_SEGMENT
    assert losses[0] == judge(0.0, 0.0, 0.1)[0] == pytest.approx(math.log(2), rel=1e-6)
    for resources in (*map(named, ("float32", "int8", "reference")), Resources(backend="native", micro_batch=1)):
        assert run(manifest, inputs, resources) == (honest, losses)


def named(backend):
    return Resources(backend=backend)


class Swapped(TrainRunner):
    """Learns to prefer what was rejected."""

    def batch(self, step):
        return [row[::-1] for row in super().batch(step)]


def test_an_audit_tells_cheats_from_work(tiny, data, preferring):
    manifest, inputs = preferring(), Inputs(tiny.model, data)
    honest, _ = run(manifest, inputs)
    for kind in ("skip-half", "half-batch", "short-sequences", "learning-rate", "noise", "fake-all"):
        assert run(manifest, inputs, kind=kind)[0] != honest, kind
    assert run(manifest, inputs, make=Swapped)[0] != honest
    assert run(preferring(beta=0.11), inputs)[0] != honest


def test_what_was_chosen_becomes_likelier(tiny, data, preferring):
    _, losses = run(preferring(segment_steps=12, lr=0.05, batch=8), Inputs(tiny.model, data))
    assert losses[-1] < 0.5 * losses[0]


def test_pairs_are_written_as_people_have_them(tiny, tmp_path):
    (texts,) = rendered(tiny.model, tmp_path, PAIR)
    prompt = len(PAIR["prompt"])
    assert (texts.text, texts.trained) == (PAIR["prompt"] + " four.", ((prompt, prompt + 7),))
    assert texts.rejected_answer == Answer(PAIR["prompt"] + " fish, perhaps.", ((prompt, prompt + 16),))
    spoken = [{"from": "human", "value": "Where is it?"}]
    ways = [
        TURNS,
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        TURNS | {"prompt": spoken},
        TURNS | {"chosen": [GOOD, ASKED]},
    ]
    found = rendered(tiny.model, tmp_path, *ways, chat_template="chatml", seq_len=256)
    assert len(set(found)) == 1
    said = []
    for answer in (found[0], found[0].rejected_answer):
        ids = Tokenizer(tiny.model).tokens(answer.text)
        said += [Tokenizer(tiny.model).decode(ids[first:end]) for first, end in answer.trained]
    assert said == ["Over there.<|im_end|>\n", "No idea.<|im_end|>\n"]
    table = LoraJob(model=tiny.model, data=ways, objective="dpo", chat_template="chatml", seq_len=256)
    assert read_documents(Path(with_plain_data(table, tmp_path / "tables").data)) == found
    file = tmp_path / "pairs.csv"
    file.write_text('prompt,chosen,rejected\nQ: two and two? A:, four.," fish, perhaps."\n')
    job = LoraJob(model=tiny.model, data=file, objective="dpo")
    assert read_documents(Path(with_plain_data(job, tmp_path / "tables").data)) == [texts]


def test_turns_before_the_answer_are_not_learned():
    talk = [ASKED, GOOD, {"role": "user", "content": "And now?"}]
    pair = read_pair({"prompt": talk, "chosen": [GOOD], "rejected": [BAD]})
    assert [turn.learned for turn in pair.chosen] == [turn.learned for turn in pair.rejected] == [False] * 3 + [True]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "chosen": "a"}, "rejected is missing; give"),
        ({"prompt": "q", "rejected": "a"}, "chosen is missing; give"),
        ({"chosen": "a", "rejected": "b"}, "prompt is missing; give"),
        (PAIR | {"rejected": " four."}, "rejected is what chosen is"),
        (PAIR | {"rejected": " "}, "rejected is empty"),
        (PAIR | {"rejected": [BAD]}, "rejected is list, and chosen is str; give one kind"),
        (PAIR | {"chosen": 4, "rejected": 5, "prompt": 6}, "chosen is int; give a text, or a list of turns"),
        (PAIR | {"messages": [ASKED]}, "messages is there beside an answer"),
        (TURNS | {"chosen": [GOOD | {"name": "Bo"}]}, r"chosen\[0\]\.name is there"),
        (TURNS | {"chosen": [ASKED]}, "chosen has no turn of the assistant after the prompt"),
        (TURNS | {"prompt": [{"role": "tool", "content": "x"}]}, r"prompt\[0\]\.role is 'tool'"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "prompt is missing, and chosen and rejected begin differently"),
        (PAIR | {"chosen": "x" * 200}, r"chosen has 218 tokens with its prompt, 127 fit; raise seq_len"),
        ({"text": "plain"}, "chosen is missing|text is there"),
        (TURNS | {"tools": [{"type": "function"}]}, "tools is there; calls of tools"),
    ],
)
def test_a_bad_pair_is_refused_by_line_and_field(tiny, tmp_path, row, reason):
    with pytest.raises(JobRefused, match=f"data: data file line 2.*({reason})"):
        rendered(tiny.model, tmp_path, PAIR, row, chat_template="chatml")


def test_jobs_that_do_not_fit_their_data_are_refused(tiny, data, tmp_path):
    raw = write(tmp_path / "raw.jsonl", PAIR)
    for job in (LoraJob(model=tiny.model, data=raw), EvaluateJob(model=tiny.model, data=raw)):
        with pytest.raises(JobRefused, match=r'data: its first line is a pair of answers .* objective "dpo"'):
            with_plain_data(job, tmp_path / "tables")
    plain = write(tmp_path / "plain.jsonl", {"text": "a"}, {"text": "b"})
    dpo = LoraJob(model=tiny.model, data=plain, objective="dpo", workers=1)
    with pytest.raises(InputRefused, match=r'line 1.*is no pair; with objective "dpo" every line is'):
        dpo.manifest(Cid("m"), Cid("d"))
    with pytest.raises(InputRefused, match=r'line 1.*is a pair of answers; set objective to "dpo"'):
        LoraJob(model=tiny.model, data=data, workers=1).manifest(Cid("m"), Cid("d"))
    with pytest.raises(InputRefused, match=r"shard \d+ of 64 .* has no pair"):
        LoraJob(model=tiny.model, data=data, workers=64, objective="dpo").manifest(Cid("m"), Cid("d"))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"objective": "dpo", "packing": True}, "packing is set; with objective dpo a row is a pair"),
        ({"beta": 0.2}, "beta is 0.2; it goes with objective dpo alone"),
        ({"objective": "ppo"}, "objective"),
        ({"objective": "dpo", "beta": 0}, "beta"),
        ({"objective": "dpo", "batch": 4096, "seq_len": 1024}, "batch times seq_len is 8388608 tokens a step"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(tiny, data, more, reason):
    with pytest.raises((WorkloadError, JobRefused), match=reason):
        LoraJob(model=tiny.model, data=data, workers=1, **more).manifest(Cid("m"), Cid("d"))


def test_a_sweep_takes_texts_alone(tiny, data):
    for more in ({"base": {"objective": "dpo"}, "vary": {"lr": [0.1, 0.2]}}, {"vary": {"objective": ["dpo", "sft"]}}):
        with pytest.raises(ManifestRefused, match="objective"):
            SWEEP.check(SweepJob(model=tiny.model, data=data, **more).manifest(Cid("m"), Cid("d")))


def test_a_step_of_pairs_has_two_sequences_for_each(tiny, data):
    job = LoraJob(model=tiny.model, data=data, workers=1, seq_len=16, objective="dpo", epochs=2)
    found, told = job.measured()
    assert "of 4 pairs of 16 tokens" in told
    manifest = found.manifest(Cid("m"), Cid("d"))
    (task, *_) = WORKLOAD.graph(manifest)
    assert task.work_units == read_params(manifest).task_steps * 4 * 16 * 2
    assert next(each.amount for each in demands(manifest, task) if each.limit == "max_step_tokens") == 4 * 16 * 2


GOLDEN_PAIRS = [
    ["3f317218", "3f000000"],
    ["3e5cb1a5", "3e468834"],
    ["4114cd2d", "3f7ffa02"],
    ["00000000", "00800000"],
    ["44160000", "3f800000"],
    ["3f316844", "3efff62c"],
]
GOLDEN_SEGMENT = "7275b9e0799aad6ccce57f58a9cd818891ab93f7d564f280c33c18048effb3e9"
