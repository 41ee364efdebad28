"""What nodes would refuse is refused where a job is made, by the code that they run, on model and data as they are."""

import json
import shutil
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import peft
import pytest
from safetensors.numpy import load_file, save_file
from scripts.compatibility import section

from proofyard.protocol.types import Cid, ProofyardError
from proofyard.sdk import EmbedJob, EvaluateJob, JobRefused, LoraJob, MapJob, SweepJob, make_job
from proofyard.sdk.peft_words import WORDS
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model

CIDS = (Cid("model"), Cid("data"))
PROJECTIONS = [f"{name}_proj" for name in ("down", "gate", "k", "o", "q", "up", "v")]
Inputs = dict[str, Any]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("plain")
    return {
        "model": write_tiny_model(folder / "model"),
        "data": write_tiny_corpus(folder / "text.jsonl", labels=4, documents=10),
    }


@pytest.fixture
def inputs(plain: Inputs, tmp_path: Path) -> Inputs:
    """A model and text to be spoilt."""
    model, data = (
        shutil.copytree(plain["model"], tmp_path / "model"),
        shutil.copy(plain["data"], tmp_path / "text.jsonl"),
    )
    return {"model": model, "data": Path(data)}


def config(**changes: Any) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        file = inputs["model"] / "config.json"
        raw = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({name: value for name, value in raw.items() if value is not ...}))

    return change


def without(*names: str) -> Callable[[Inputs], None]:
    return lambda inputs: [(inputs["model"] / name).unlink() for name in names] and None


def weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Inputs], None]:
    def rewrite(inputs: Inputs) -> None:
        file = inputs["model"] / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, {"format": "pt"})

    return rewrite


def cut_short(inputs: Inputs) -> None:
    file = inputs["model"] / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lines(*rows: Any) -> Callable[[Inputs], None]:
    return lambda inputs: inputs["data"].write_text("\n".join(json.dumps(row) for row in rows)) and None


def larger_vocabulary(inputs: Inputs) -> None:
    file = inputs["model"] / "tokenizer.json"
    raw = json.loads(file.read_text())
    raw["model"]["vocab"] |= {"a0": 900}
    raw["model"]["merges"] = [["a", "0"]]
    file.write_text(json.dumps(raw))


def words_alone(inputs: Inputs) -> None:
    """A tokenizer that knows some words, and has nothing for the others."""
    file = inputs["model"] / "tokenizer.json"
    raw = json.loads(file.read_text())
    raw |= {"model": {"type": "WordLevel", "vocab": {"known": 0}, "unk_token": "[UNK]"}, "pre_tokenizer": None}
    file.write_text(json.dumps(raw | {"decoder": None, "added_tokens": []}))


def leading_out(inputs: Inputs) -> None:
    (inputs["model"] / "model.safetensors").rename(inputs["model"].parent / "out.safetensors")
    index = inputs["model"] / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../out.safetensors"}}')


Q = "model.layers.1.self_attn.q_proj.weight"
SHORT = {"text": "short", "shard": "z"}
LONG = [{"text": "a b c d " * 200, "shard": str(n)} for n in range(4)]
MODELS: dict[str, tuple[Callable[[Inputs], None], str]] = {
    "no tokenizer.json": (without("tokenizer.json"), r"no usable tokenizer\.json: it is missing; write it"),
    "no config.json": (without("config.json"), r"no readable config\.json"),
    "no weights": (without("model.safetensors"), "convert the model to safetensors"),
    "no eos": (config(eos_token_id=...), "names no eos_token_id"),
    "an eos that is no token": (config(eos_token_id=99_999), "has the token 99999, the model has 259"),
    "half a weights file": (cut_short, "outside the file"),
    "a layer lacks": (weights(lambda t: t.pop(Q)), Q),
    "a layer of another shape": (weights(lambda t: t.update({Q: t[Q][:, :32].copy()})), Q),
    "fewer layers than it says": (config(num_hidden_layers=3), r"layers\.2"),
    "another hidden size": (config(hidden_size=128), "expected"),
    "a tokenizer of another model": (larger_vocabulary, "has the token 900, the model has 259"),
    "a tokenizer that cannot read all": (words_alone, "cannot read a text"),
    **{
        f"{family}": (config(model_type=family), f"the model_type '{family}', which exact execution does not cover")
        for family in (
            *("bloom", "mixtral", "falcon_h1", "recurrent_gemma", "xlstm", "gpt_neox", "mamba", "phi3", "qwen2_moe"),
            *("opt", "t5", "gemma3_text", "inkling2"),
        )
    },
    "GPT-2's configuration, another's weights": (
        config(model_type="gpt2", n_embd=64, n_head=4, n_layer=2),
        r"has no tensor (transformer\.)?h\.0",
    ),
    "quantised": (config(quantization_config={"quant_method": "awq"}), "quantization_config"),
    "code of its own": (config(auto_map={"AutoModel": "x.Y"}), "code of its own"),
    "more layers than it says": (config(num_hidden_layers=1), "has weights of layer 1, its config.json says .* 1"),
    "a pointer of Git LFS": (
        lambda i: (
            (i["model"] / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n") and None
        ),
        "is a pointer of Git LFS; `git lfs pull`",
    ),
    "weights of 8 bits": (weights(lambda t: t.update({Q: t[Q].astype("int8")})), "as I8; exact execution reads F32"),
    "weights named as an adapter's": (
        weights(lambda t: [t.update({f"base_model.model.{name}": t.pop(name)}) for name in list(t)]),
        "has no tensor",
    ),
    "an output layer that is not tied": (config(tie_word_embeddings=False), r"no tensor lm_head\.weight"),
    "a larger vocabulary": (config(vocab_size=300), r"shape \(259, 64\), expected \(300, 64\)"),
    "heads that do not divide": (config(num_attention_heads=3, head_dim=...), "3 heads"),
    "an eos that is a word": (config(eos_token_id="</s>"), "names no eos_token_id"),
    "an index that leads out": (leading_out, "lacks weight files: out.safetensors"),
    "pickled weights alone": (
        lambda i: (i["model"] / "model.safetensors").rename(i["model"] / "pytorch_model.bin") and None,
        "convert the model to safetensors",
    ),
    "an adapter's folder": (without("config.json"), r"no readable config\.json"),
    "yarn": (config(rope_scaling={"type": "yarn", "factor": 2.0}), "yarn"),
}


@pytest.mark.parametrize("kind", [LoraJob, SweepJob, EvaluateJob])
@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_nodes_would_refuse_is_refused(case: str, kind: Any, inputs: Inputs) -> None:
    more: dict[str, Any] = {"vary": {"lr": [0.1]}, "base": {"holdout_percent": 30, "seq_len": 64}}
    job = kind(**inputs, **(more if kind is SweepJob else {}))
    assert job.manifest(*CIDS)
    spoil, said = MODELS[case]
    spoil(inputs)
    with pytest.raises(ProofyardError, match=said):
        job.manifest(*CIDS)


@pytest.mark.parametrize(
    "case", ["no config.json", "no weights", "half a weights file", "mixtral", "another hidden size"]
)
def test_a_model_that_cannot_embed_is_refused(case: str, inputs: Inputs) -> None:
    spoil, said = MODELS[case]
    spoil(inputs)
    with pytest.raises(ProofyardError, match=said):
        EmbedJob(**inputs).manifest(*CIDS)


@pytest.mark.parametrize(
    ("spoil", "job", "said"),
    [
        (lines(*LONG[:3], SHORT), {}, "shard 4 of 4 of the data file leaves 6 tokens, too few for one sequence of 128"),
        (lines(*LONG[:3]), {"options": {"shard_by": "label"}}, "3 shard labels for 4 workers; shard by document"),
        (lines(SHORT, *LONG[:3]), {"options": {"shard_by": "document"}}, "shard 1 of 4 .* use fewer workers"),
        (lines(SHORT), {"workers": 1}, "data file leaves 6 tokens"),
        (config(max_position_embeddings=100), {}, "has 128 tokens, the model has 100 positions"),
        (lambda i: None, {"seq_len": 1024}, "has 1024 tokens, the model has 512 positions"),
        (lambda i: i["data"].unlink(), {}, "cannot be read"),
    ],
)
def test_text_that_does_not_fit_a_training_is_refused(
    spoil: Any, job: dict[str, Any], said: str, inputs: Inputs
) -> None:
    spoil(inputs)
    with pytest.raises(ProofyardError, match=said):
        LoraJob(**inputs, **job).manifest(*CIDS)


@pytest.mark.parametrize(
    ("make", "spoil", "said"),
    [
        (lambda i: SweepJob(**i, vary={"lr": [0.1]}), lambda i: None, "of the 2% held out for scores"),
        (
            lambda i: SweepJob(**i, vary={"seq_len": [32, 600]}, base={"holdout_percent": 30}),
            lambda i: None,
            "has 600 tokens, the model has 512",
        ),
        (
            lambda i: EvaluateJob(**i, max_tokens=900),
            lines({"text": "a" * 800}),
            "has 800 tokens, the model has 512 positions",
        ),
        (
            lambda i: EvaluateJob(**i, choices=2, max_tokens=900),
            lines({"text": "a" * 300, "choices": ["b", "c" * 300]}),
            "has 600 tokens",
        ),
        (lambda i: EvaluateJob(**i, choices=2), lines({"text": "a", "choices": ["b"]}), "has 1 choices"),
        (lambda i: EmbedJob(**i, max_tokens=900), lines({"text": "a" * 800}), "has 800 tokens, .* 512 positions"),
        (lambda i: MapJob(**i, chunk_tokens=8), without("tokenizer.json"), "tokenizer"),
        (lambda i: MapJob(**i, chunk_tokens=8), words_alone, "cannot read a text"),
        (
            lambda i: MapJob(**i, min_characters=10, max_characters=5),
            lambda i: None,
            "min_characters is above max_characters",
        ),
        (lambda i: MapJob(**i, min_characters=999_999), lambda i: None, "has no line of 999999 to"),
        (lambda i: MapJob(**i), lines({"text": ""}, {"text": " \n"}), "so that nothing would be left"),
        (
            lambda i: EvaluateJob(**i, choices=2),
            lines(*[{"text": "q", "choices": ["a", "b"], "answer": n} for n in (0, 1, 2)]),
            "data file line 3 has 2 choices and answer 2, params.choices says 2; answers count from 0",
        ),
        (
            lambda i: EvaluateJob(**i, choices=2),
            lines({"text": "q", "choices": ["a", ""], "answer": 0}),
            "line 1 has 2 choices, of which one is empty",
        ),
        (
            lambda i: EvaluateJob(**i),
            lines({"text": "q", "choices": ["a", "b"], "answer": 0}),
            r"line 1 has 2 choices .* params\.choices says 1",
        ),
    ],
)
def test_text_that_does_not_fit_another_workload_is_refused(make: Any, spoil: Any, said: str, inputs: Inputs) -> None:
    spoil(inputs)
    with pytest.raises(ProofyardError, match=said):
        make(inputs).manifest(*CIDS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base": {"rounds": 3}}, r"params\.base\.rounds is 3; a candidate takes 1"),
        ({"base": {"workers": 2}}, r"params\.base\.workers is 2"),
        ({"base": {"modules": {"a": [1, 2]}}}, r"^base\.modules: name the linear layers in targets"),
        ({"vary": {"lr": [0.1, 0.1]}}, r"params\.vary\.lr has a value twice"),
        ({"vary": {"lr": [0.1, 0.2, 0.1]}, "samples": 2}, r"params\.vary\.lr has a value twice"),
        ({"vary": {"workers": [1, 2]}}, "cannot vary within a sweep"),
        ({"vary": {"rate": [1]}}, "unknown field `rate`"),
        ({"vary": {"lr": [float("nan")]}}, r"params\.lr of candidate 0"),
    ],
)
def test_a_sweep_of_which_a_part_would_be_passed_over_is_refused(changes: Any, said: str, plain: Inputs) -> None:
    usual = {"holdout_percent": 30, "seq_len": 32}
    words = {"vary": {"lr": [0.1]}} | changes | {"base": usual | changes.get("base", {})}
    with pytest.raises(ProofyardError, match=said):
        SweepJob(**plain, **words).manifest(*CIDS)


@pytest.mark.parametrize("name", ["rank", "lr", "rounds", "targets", "seed", "model"])
def test_options_do_not_say_what_the_job_says(name: str, plain: Inputs) -> None:
    with pytest.raises(JobRefused, match=rf"^options\.{name}: is a parameter of the job itself"):
        LoraJob(**plain, options={name: 1}).manifest(*CIDS)


@pytest.mark.parametrize(
    "model", ["", "./x", "../x", "/nowhere", "~/model", "a/b/c", "https://huggingface.co/a/b", "a b/c"]
)
def test_what_is_neither_folder_nor_hub_name_is_no_model(model: str, plain: Inputs) -> None:
    with pytest.raises(JobRefused, match=r"^model: .*is no directory and no hub name"):
        LoraJob(model=model, data=plain["data"]).manifest(*CIDS)


def test_long_texts_are_no_obstacle_where_they_are_cut(inputs: Inputs) -> None:
    lines({"text": "a" * 3000})(inputs)
    for kind in (EvaluateJob, EmbedJob):
        assert kind(**inputs, max_tokens=512).manifest(*CIDS)


@pytest.mark.parametrize("layers", [[7], [-9], [], [0, 2], [-3, 0], [1 << 70], range(3), (2,)])
@pytest.mark.parametrize("kind", [LoraJob, SweepJob])
def test_layers_that_there_are_not_are_refused(layers: list[int], kind: Any, plain: Inputs) -> None:
    more = {"vary": {"lr": [0.1]}} if kind is SweepJob else {}
    with pytest.raises(ProofyardError, match="has layers 0 to 1, and no"):
        kind(**plain, layers=layers, **more).manifest(*CIDS)


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ("all-linear", PROJECTIONS),
        (["self_attn.q_proj"], ["q_proj"]),
        (["mlp.up_proj", "v_proj"], ["up_proj", "v_proj"]),
    ],
)
def test_targets_are_named_as_peft_names_them(targets: Any, found: list[str], plain: Inputs) -> None:
    modules = LoraJob(**plain, targets=targets).manifest(*CIDS).params["modules"]
    assert sorted({name.rpartition(".")[2] for name in modules}) == found and len(modules) == 2 * len(found)


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["norm"], ["proj"], [], ["q_proj", "nothing"]])
def test_what_is_no_linear_layer_is_no_target(targets: list[str], plain: Inputs) -> None:
    with pytest.raises(ProofyardError, match=r"it has down_proj, .* and 'all-linear' is all of them"):
        LoraJob(**plain, targets=targets).manifest(*CIDS)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_all_linear_of_the_model_is_that_of_peft(plain: Inputs) -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(plain["model"])
    wrapped: Any = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear"))
    theirs = {
        name.removeprefix("base_model.model.") for name, each in wrapped.named_modules() if hasattr(each, "lora_A")
    }
    assert set(LoraJob(**plain, targets="all-linear").manifest(*CIDS).params["modules"]) == theirs


WAYS: dict[str, Callable[[Inputs, dict[str, Any]], Any]] = {
    "options": lambda inputs, words: LoraJob(**inputs, options=words),
    "make_job": lambda inputs, words: make_job("lora", inputs | words),
    "from_peft": lambda inputs, words: LoraJob.from_peft(words, **inputs),
    "a sweep's base": lambda inputs, words: SweepJob(
        **inputs, vary={"lr": [0.1]}, base={"holdout_percent": 30, "seq_len": 64} | words
    ),
}


def params_of(job: Any) -> dict[str, Any]:
    params: dict[str, Any] = job.manifest(*CIDS).params
    return params.get("base", params)


@pytest.mark.parametrize("way", WAYS)
def test_pefts_words_mean_what_they_mean_there(way: str, plain: Inputs) -> None:
    words = {"r": 4, "lora_alpha": 32, "target_modules": ["o_proj"], "layers_to_transform": [1], "use_rslora": True}
    neutral = {"lora_dropout": 0.0, "bias": "none", "use_dora": False, "modules_to_save": None, "fan_in_fan_out": False}
    params = params_of(WAYS[way](plain, words | neutral))
    assert (params["rank"], params["alpha"]) == (4, 32 * sqrt(4))
    assert list(params["modules"]) == ["model.layers.1.self_attn.o_proj"]
    assert params_of(WAYS[way](plain, {"use_rslora": True}))["alpha"] == 16 * sqrt(8)
    last = params_of(WAYS[way](plain, {"layers_to_transform": 1, "target_modules": {"o_proj"}}))
    assert list(last["modules"]) == ["model.layers.1.self_attn.o_proj"]


@pytest.mark.parametrize(
    "words",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"lora_dropout": 0.05},
        {"bias": "all"},
        {"init_lora_weights": "pissa"},
        {"rank_pattern": {"q_proj": 4}},
        {"task_type": "SEQ_CLS"},
        {"exclude_modules": ["q_proj"]},
        {"target_modules": r".*\.q_proj"},
        {"lora_bias": True},
        {"alpha_pattern": {"q_proj": 4}},
        {"loftq_config": {"loftq_bits": 4}},
        {"use_qalora": True},
        {"init_lora_weights": False},
        {"revision": "v2"},
        {"use_rslora": "False"},
        {"use_rslora": 1},
        {"layer_replication": [[0, 1]]},
        {"trainable_token_indices": [1, 2]},
        {"target_parameters": ["experts"]},
    ],
    ids=lambda words: next(iter(words)),
)
@pytest.mark.parametrize("way", WAYS)
def test_what_peft_can_and_a_job_cannot_is_refused_by_its_name(way: str, words: dict[str, Any], plain: Inputs) -> None:
    with pytest.raises(JobRefused, match=f"^{next(iter(words))}: is "):
        WAYS[way](plain, words).manifest(*CIDS)


@pytest.mark.parametrize(
    "make",
    [
        lambda plain: LoraJob(**plain, rank=4, options={"r": 16}).manifest(*CIDS),
        lambda plain: make_job("lora", plain | {"rank": 4, "r": 16}),
        lambda plain: LoraJob.from_peft({"r": 16}, **plain, rank=4),
        lambda plain: SweepJob(**plain, vary={"lr": [0.1]}, base={"r": 16, "rank": 4}).manifest(*CIDS),
    ],
)
def test_two_names_of_one_parameter_do_not_say_two_things(make: Any, plain: Inputs) -> None:
    with pytest.raises(JobRefused, match=r"^r: is 16, and rank is 4; they are the same"):
        make(plain)
    assert LoraJob(**plain, rank=4, options={"r": 4}).manifest(*CIDS).params["rank"] == 4


def test_a_configuration_of_peft_is_a_job(plain: Inputs) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    params = LoraJob.from_peft(config, **plain, rounds=1).manifest(*CIDS).params
    assert (params["rank"], params["alpha"], params["rounds"]) == (4, 8, 1)
    with pytest.raises(JobRefused, match=r"^r_: a LoRA job has no such parameter"):
        LoraJob.from_peft({"r_": 3}, **plain)


def test_every_word_of_peft_is_known() -> None:
    assert not peft.LoraConfig().to_dict().keys() - WORDS
    assert sorted(word for word, _ in LISTED) == sorted(WORDS)


LISTED = [(word, row["how"]) for row in section("adapters").rows if "how" in row for word in row["words"]]
WORKING = {"r": 4, "lora_alpha": 2, "target_modules": ["o_proj"], "layers_to_transform": [1], "use_rslora": True}


@pytest.mark.parametrize(("word", "how"), LISTED, ids=[word for word, _ in LISTED])
def test_a_word_does_what_the_page_says(word: str, how: str, plain: Inputs) -> None:
    if how == "refused":
        with pytest.raises(JobRefused, match=f"^{word}: is 'something'; "):
            LoraJob.from_peft({word: "something"}, **plain)
        LoraJob.from_peft({word: None}, **plain)
        return
    usual = LoraJob(**plain).manifest(*CIDS).params
    params = LoraJob.from_peft({word: WORKING.get(word, "something")}, **plain).manifest(*CIDS).params
    assert (params == usual) == (how == "silent")
