"""Conversations: what is rendered is what transformers renders, what is learned is what the assistant says, and a
template that means harm ends its own process and nothing else."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from proofyard.protocol.types import Cid
from proofyard.sdk import EmbedJob, EvaluateJob, JobRefused, LoraJob, SweepJob
from proofyard.sdk.tables import with_plain_data
from proofyard.workloads import chat_child
from proofyard.workloads.causal_lm import AdaptedModel
from proofyard.workloads.chat import read_turns
from proofyard.workloads.chat_child import learned_runs
from proofyard.workloads.chat_templates import CHATML, Template
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.evaluate import EvaluateParams, Question
from proofyard.workloads.scorer import TextScorer
from proofyard.workloads.text_data import Document, pack, read_documents
from proofyard.workloads.tiny import write_tiny_model
from proofyard.workloads.tokenizer import Tokenizer
from proofyard.workloads.workload import Resources

GENERATION = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '</s>' }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "generation": GENERATION,
    "llama-2": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = '<<SYS>>\n' + "
        "messages[0]['content'] + '\n<</SYS>>\n\n' %}"
        "{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
        "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'].strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama-3": (
        "{% set loop_messages = messages %}{% for m in loop_messages %}"
        "{% set content = '<|start_header_id|>' + m['role']"
        " + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TALK = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Où est-il ? ☃"},
        {"role": "assistant", "content": "Là-bas, naïve 雪."},
        {"role": "user", "content": " And\nnow? "},
        {"role": "assistant", "content": "Gone.\n"},
    ]
}
SHORT = {"messages": TALK["messages"][1:3]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny model with a template of its own."""
    folder = write_tiny_model(tmp_path_factory.mktemp("chat") / "model")
    (folder / "chat_template.jinja").write_text(CHATML)
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    return folder


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rendered(model, folder, *rows, **more):
    spec = with_plain_data(LoraJob(model=model, data=write(folder / "chat.jsonl", *rows), **more), folder / "tables")
    return read_documents(Path(spec.data))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_is_what_transformers_makes_of_it(model, name):
    plain = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"), **SPECIAL)
    found = Template(TEMPLATES[name], SPECIAL).render(read_turns(TALK))
    theirs = plain.apply_chat_template(TALK["messages"], chat_template=TEMPLATES[name], tokenize=False)
    assert found.text == theirs
    said = [found.text[first:end] for first, end in found.spans]
    assert [text.strip().startswith(turn) for text, turn in zip(said, ("Là-bas", "Gone."), strict=True)] == [True, True]
    assert all(text.strip().endswith(("<|im_end|>", "</s>", "<|eot_id|>")) for text in said)
    if name == "generation":
        bare = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"))
        mask = bare.apply_chat_template(
            TALK["messages"], chat_template=GENERATION, return_dict=True, return_assistant_tokens_mask=True
        )["assistant_masks"]
        runs = learned_runs(found.spans, Tokenizer(model).places(found.text))
        assert [n for first, end in runs for n in range(first, end)] == np.flatnonzero(mask).tolist()


def test_what_the_assistant_says_is_learned_and_nothing_else(model, tmp_path):
    (document,) = rendered(model, tmp_path, TALK, seq_len=512)
    tokens = Tokenizer(model)
    ids = tokens.tokens(document.text)
    said = [tokens.decode(ids[first:end]) for first, end in document.trained]
    assert said == ["Là-bas, naïve 雪.<|im_end|>\n", "Gone.\n<|im_end|>\n"]
    weighed = {"messages": [*TALK["messages"][:2], TALK["messages"][2] | {"weight": 0}, *TALK["messages"][3:]]}
    assert [len(rendered(model, tmp_path, weighed, seq_len=512)[0].trained), len(document.trained)] == [1, 2]


def test_the_ways_that_people_write_conversations_are_one(model, tmp_path):
    parts = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in TALK["messages"]]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    spoken = [{"from": names[m["role"]], "value": m["content"]} for m in TALK["messages"]]
    ways = [TALK, {"messages": parts, "tools": []}, {"conversations": spoken}, {"conversations": TALK["messages"]}]
    ways.append({"conversations": spoken[1:], "system": "Be brief."})
    ways.append(TALK | {"messages": [*TALK["messages"], {"role": "user", "content": "Thanks!"}]})
    found = rendered(model, tmp_path, *ways, seq_len=512)
    assert len(set(found)) == 1
    table = with_plain_data(LoraJob(model=model, data=ways, seq_len=512), tmp_path / "tables")
    assert read_documents(Path(table.data)) == found


def test_conversations_lose_whole_turns_at_their_end(model, tmp_path, caplog):
    ((short,), (whole,)) = (rendered(model, tmp_path, TALK, seq_len=seq_len) for seq_len in (200, 512))
    assert whole.text.startswith(short.text) and len(short.trained) == 1 < len(whole.trained)
    assert "1 of 1 conversations lost turns at their end, so that each has at most 199 tokens" in caplog.text
    with pytest.raises(
        JobRefused, match=r"data: data file line 2 has \d+ tokens up to the end of the first answer, 99"
    ):
        rendered(model, tmp_path, {"messages": [{"role": "assistant", "content": "a"}]}, TALK, seq_len=100)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": "hi"}, "messages is str"),
        ({"messages": []}, "no turn of the assistant"),
        ({"messages": TALK["messages"][:2]}, "no turn of the assistant"),
        ({"messages": ["hi"]}, r"messages\[0\] is no object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\]\.role is 'tool'; give system, user, assist"),
        ({"messages": [{"role": "user", "content": None}]}, r"messages\[0\]\.content is NoneType"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "parts that are no text"),
        ({"messages": [{"role": "assistant", "content": " "}]}, "is empty"),
        ({"messages": [{"role": "user", "name": "Bo", "content": "x"}]}, r"messages\[0\]\.name is there"),
        ({"messages": [{"role": "assistant", "tool_calls": [1], "content": ""}]}, r"tool_calls is there"),
        ({"messages": [{"role": "user", "weight": 1, "content": "x"}]}, r"weight is 1; give 0 or 1, and to the assist"),
        ({"messages": [{"from": "gpt", "value": "x"}]}, 'name the list "conversations"'),
        ({"conversations": [{"from": "bing", "value": "x"}]}, r"conversations\[0\]\.from is 'bing'; give system, hum"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, r"conversations\[0\]\.value is int"),
        (TALK | {"tools": [{"type": "function"}]}, "tools is there; calls of tools"),
        (TALK | {"text": "x"}, "more than one of text"),
        ({"text": "x"}, "has no messages, and other lines have"),
        (TALK | {"shard": 3}, "is no"),
    ],
)
def test_a_bad_conversation_is_refused_by_line_and_field(model, tmp_path, row, reason):
    with pytest.raises(JobRefused, match=f"data: data file line 2.*{reason}"):
        rendered(model, tmp_path, TALK, row, seq_len=512)
    assert not list((tmp_path / "tables").iterdir())


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "line 1 .*took too long"),
        ("{{ 9 ** (9 ** 9) }}", "line 1 .*took too long"),
        ("{{ ('x' * 99999999999) }}", "line 1.*takes more than"),
        ("{{ ('x' * 9999999) }}", "makes more than"),
        ("{{ messages.__class__.__mro__[-1].__subclasses__() }}", "line 1.*the chat template"),
        ("{{ ''.__class__.__init__.__globals__ }}", "line 1.*the chat template"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "line 1.*the chat template"),
        ("{{ messages.append(1) }}", "line 1.*does what a template may not"),
        ("{% include '/etc/passwd' %}", "line 1.*the chat template fails"),
        ("{{ strftime_now('%Y') }}", "today's date"),
        ("{{ messages | random }}", "cannot be read"),
        ("{{ lipsum() }}", "lipsum"),
        ("{{ nothing.at.all }}", "uses what there is not"),
        ("{% for", "cannot be read"),
        ("{{ raise_exception('no system please') }}", "refuses it: no system please"),
        ("{{ messages | length }}", "renders a turn in another way once others follow"),
        ("{{ messages[-1].content }}", "renders a turn in another way once others follow"),
        ("{% generation %}{% endgeneration %}", "1 parts marked as generated for 2 turns"),
        ("", "without a token of the assistant's"),
    ],
)
def test_a_template_that_means_harm_or_errs_is_refused(model, tmp_path, template, reason, monkeypatch):
    monkeypatch.setattr(chat_child, "Order", partial(chat_child.Order, cpu_s=1.0))
    file = tmp_path / "x.jinja"
    file.write_text(template)
    with pytest.raises(JobRefused, match=reason):
        rendered(model, tmp_path, TALK, seq_len=512, chat_template=str(file))


def test_the_process_that_renders_knows_no_secret(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setenv("PROOFYARD_PASSWORD_FILE", "/secret")
    monkeypatch.setattr(chat_child.Sandbox, "run", lambda *_, **more: given.update(more) or 1 / 0)
    (tmp_path / "data").touch()
    with pytest.raises(ZeroDivisionError):
        chat_child.render_chats(chat_child.Order("m", "", str(tmp_path / "data"), str(tmp_path / "out"), 1))
    assert "PROOFYARD_PASSWORD_FILE" in os.environ
    assert set(given["env"]) <= {*["PATH", "PYTHONPATH", "LANG", "TMPDIR", "PYTHONHASHSEED", "TOKENIZERS_PARALLELISM"]}


def test_a_model_without_a_template_is_given_one_by_name(tiny, model, tmp_path):
    with pytest.raises(JobRefused, match=r"has no chat template .*set chat_template to chatml or to a \.jinja file"):
        rendered(tiny.model, tmp_path, SHORT, seq_len=512)
    assert rendered(tiny.model, tmp_path, SHORT, seq_len=512, chat_template="chatml") == rendered(
        model, tmp_path, SHORT, seq_len=512
    )
    with pytest.raises(JobRefused, match="chat_template alpaca cannot be read"):
        rendered(tiny.model, tmp_path, SHORT, seq_len=512, chat_template="alpaca")
    with pytest.raises(JobRefused, match="no conversation; leave chat_template out"):
        rendered(tiny.model, tmp_path, {"text": "x"}, chat_template="chatml")


def test_jobs_that_take_no_conversations_say_so(model, tmp_path):
    data = write(tmp_path / "chat.jsonl", SHORT)
    spec = with_plain_data(EmbedJob(model=model, data=data), tmp_path / "tables")
    with pytest.raises(InputRefused, match="it is a conversation; lora, sweep and evaluate take those"):
        read_documents(Path(spec.data))
    kinds = (EvaluateJob(model=model, data=data), SweepJob(model=model, data=data, vary={"seq_len": [256, 300]}))
    assert [job.longest_text() for job in kinds] == [512, 127]
    assert [read_documents(Path(with_plain_data(job, tmp_path).data))[0].trained is None for job in kinds] == [
        False
    ] * 2


def test_conversations_are_not_cut_and_what_is_not_learned_is_negative(tiny):
    documents = [Document("abcdef", "", ((4, 6),)), Document("ghij", "", ((0, 1),)), Document("kl", "", ())]
    rows = pack(documents, tiny.model, 8)
    plain = [b if b >= 0 else ~b for b in rows[0]]
    assert plain == [256, *b"abcdef", 256, 256]
    assert [place for place, token in enumerate(rows[0][1:]) if token >= 0] == [4, 5]
    assert [place for place, token in enumerate(rows[1][1:]) if token >= 0] == [0]
    assert len(rows) == 2 and len(pack([*documents, Document("m" * 8)], tiny.model, 8)) == 3
    with pytest.raises(InputRefused, match="a conversation of 8 tokens, at most seq_len - 1 = 7 fit"):
        pack([Document("x" * 8, "", ())], tiny.model, 8)
    for runs in ([(0, 5)], [(2, 2)], [(-1, 2)], [(2, 3), (1, 2)], [(0, 2), (1, 3)]):
        with pytest.raises(InputRefused, match="in a text of 4 tokens"):
            pack([Document("abcd", "", tuple(runs))], tiny.model, 8)
    with pytest.raises(InputRefused, match="no token that is learned"):
        pack([Document("abcd", "", ())], tiny.model, 8)


def test_what_teaches_nothing_is_refused_before_it_is_paid(tiny, tmp_path):
    job = LoraJob(model=tiny.model, data=tmp_path / "data.jsonl", workers=1, seq_len=16)
    for trained, said in (([], "leaves 0 tokens"), ([[0, 99]], "in a text of 9 tokens"), ([[0, 1]], "")):
        write(tmp_path / "data.jsonl", *[{"text": f"{n:09}", "trained": trained} for n in range(50)])
        if said:
            with pytest.raises(InputRefused, match=said):
                job.manifest(Cid("model"), Cid("data"))
        else:
            assert job.manifest(Cid("model"), Cid("data"))
    write(tmp_path / "data.jsonl", {"text": "x" * 16, "trained": [[0, 1]]})
    with pytest.raises(InputRefused, match="a conversation of 16 tokens, at most seq_len - 1 = 15 fit"):
        job.manifest(Cid("model"), Cid("data"))


def test_gradients_of_learned_tokens_are_those_that_torch_has_with_the_others_ignored(tiny, lora_manifest):
    modules = lora_manifest().params["modules"]
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 256, (3, 17))
    rows[:, 1:][rng.random((3, 16)) < 0.6] *= -1
    rows[rows < 0] -= 1
    adapter = {
        f"{name}.{part}": rng.normal(size=shape).astype(np.float32) / 8
        for name, (out, into) in modules.items()
        for part, shape in (("lora_A", (4, into)), ("lora_B", (out, 4)))
    }
    found = []
    for name in ("native", "float32", "reference"):
        ours = AdaptedModel(tiny.model, modules, "exact", Resources(backend=name))
        ours.decoder.adapters.set(adapter, 2.0)
        loss = ours.train(rows, 1 / 7)
        assert ours.loss_sum(rows) == loss
        found.append((loss, ours.decoder.adapters.gradients()))
    for loss, gradients in found[1:]:
        assert loss == found[0][0]
        assert all(np.array_equal(np.asarray(gradients[name]), np.asarray(g)) for name, g in found[0][1].items())
    expected_loss, expected = torch_gradients(tiny.model, rows, adapter, 1 / 7)
    assert found[0][0] == pytest.approx(expected_loss, rel=0.01)
    for name, gradient in found[0][1].items():
        error = np.linalg.norm(np.asarray(gradient) - expected[name]) / np.linalg.norm(expected[name])
        assert error < 0.03, name


def torch_gradients(path, rows, adapter, scale):
    """Loss and gradients by torch: the adapters' products as hooks on transformers' own model."""
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in adapter.items()}
    for name in {key.rpartition(".")[0] for key in adapter}:
        a, b = tensors[f"{name}.lora_A"], tensors[f"{name}.lora_B"]
        net.get_submodule(name).register_forward_hook(lambda _m, args, y, a=a, b=b: y + 2.0 * (args[0] @ a.T) @ b.T)
    ids = torch.from_numpy(np.where(rows < 0, ~rows, rows))
    labels = torch.from_numpy(np.where(rows[:, 1:] < 0, -100, rows[:, 1:]))
    logits = net(input_ids=ids[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=-100)
    (loss * scale).backward()
    return float(loss.detach()), {name: tensor.grad.numpy() for name, tensor in tensors.items()}


def test_evaluating_a_conversation_scores_the_assistant(tiny):
    scorer = TextScorer(
        tiny.model, EvaluateParams(rows=1, segment_rows=1, segments=1, max_tokens=10), "exact", Resources()
    )
    ((whole,),) = scorer.score([Question("abcdefgh")])
    parts = [scorer.score([Question("abcdefgh", trained=runs)])[0][0] for runs in (((0, 3),), ((3, 8),), ())]
    assert parts[0][0] + parts[1][0] == pytest.approx(whole[0], rel=1e-12)
    assert [count for _, count in parts] == [3, 5, 0] and parts[2][0] == 0.0
    assert scorer.score([Question("abcdefghijklm", trained=((8, 13),))])[0][0][1] == 2
    for bad in (Question("ab", trained=((0, 3),)), Question("a", ("b", "c"), 0, ((0, 1),))):
        with pytest.raises(InputRefused):
            scorer.score([bad])
