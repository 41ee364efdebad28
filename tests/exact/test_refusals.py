"""What exact execution does not cover is refused with one error that names it, whatever a model directory holds."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from proofyard.runtime.compiling import NoCompiler
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.exact import backends
from proofyard.workloads.exact.backend import Backend
from proofyard.workloads.exact.bert import Encoder, encoder_config
from proofyard.workloads.exact.config import decoder_config
from proofyard.workloads.exact.decoder import Decoder
from proofyard.workloads.exact.weights import Weights
from proofyard.workloads.model_files import weight_files, weight_shapes
from proofyard.workloads.tiny import HIDDEN, VOCABULARY, write_tiny_model
from proofyard.workloads.tokenizer import Tokenizer

NAN, INFINITE = float("nan"), float("inf")
BERT = {
    "model_type": "bert",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 9,
}
BLOCK = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


@pytest.fixture(scope="module")
def backend() -> Backend:
    try:
        return backends()["native"]()
    except NoCompiler:
        return backends()["float32"]()


def configure(model: Path, **changes: Any) -> Path:
    """Change the configuration; `...` leaves a field out."""
    raw = json.loads((model / "config.json").read_text()) | changes
    kept = {name: value for name, value in raw.items() if value is not ...}
    (model / "config.json").write_text(json.dumps(kept))
    return model


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        *[({"rope_scaling": {"type": kind, "factor": 2.0}}, kind) for kind in ("dynamic", "su")],
        *[({"rope_parameters": {"rope_type": kind}}, kind) for kind in ("yarn", "longrope", "mrope")],
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": NAN}}, "has factor nan"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 10**400}}, "has factor 10000"),
        ({"rope_parameters": {"rope_theta": 1e4, "mrope_section": [1]}}, "mrope_section"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        *[({"rope_theta": value}, "rope_theta") for value in (0, 0.5, -1, "1e4", NAN, INFINITE, True)],
        *[
            ({"model_type": kind}, repr(kind))
            for kind in ("mixtral", "qwen3_moe", "gpt2", "gemma3_text", "phi3", "", None, ["llama"])
        ],
        ({"model_type": ...}, "model_type"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "run code of its own"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"hidden_act": "gelu_fast"}, "gelu_fast"),
        ({"hidden_act": 3}, "hidden_act"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        *[
            ({name: value}, name)
            for name in ("hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size", "num_attention_heads")
            for value in (0, -1, 64.0, "64", None, True, 1 << 40, ...)
        ],
        *[
            ({"rms_norm_eps": value}, "rms_norm_eps")
            for value in (0, -1e-5, NAN, INFINITE, 10**400, "1e-5", None, 1e-46)
        ],
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"head_dim": 15}, "heads"),
        ({"num_key_value_heads": 3}, "key heads"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
        ({"model_type": "qwen2", "use_sliding_window": 1}, "use_sliding_window"),
        ({"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "gemma2", "layer_types": ["full_attention", "chunked_attention"]}, "layer_types"),
        ({"model_type": "gemma2", "hidden_activation": "mish"}, "mish"),
        ({"model_type": "gemma2", "attn_logit_softcapping": -5}, "attn_logit_softcapping"),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ({"model_type": "granite", "logits_scaling": 0}, "logits_scaling"),
        ({"model_type": "granite", "residual_multiplier": NAN}, "residual_multiplier"),
    ],
)
def test_configurations_are_refused_by_name(changes: dict[str, Any], named: str, model: Path) -> None:
    with pytest.raises(InputRefused) as refusal:
        decoder_config(configure(model, **changes))
    assert named in str(refusal.value)
    assert "Traceback" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "modernbert"}, "modernbert"),
        ({"model_type": "distilbert"}, "distilbert"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"auto_map": {}}, "code of its own"),
        ({"quantization_config": {}}, "quantization_config"),
        ({"hidden_act": "quick_gelu"}, "quick_gelu"),
        ({"num_attention_heads": 3}, "3 heads"),
        ({"layer_norm_eps": NAN}, "layer_norm_eps"),
        ({"model_type": "roberta", "pad_token_id": "1"}, "pad_token_id"),
        ({"vocab_size": ...}, "vocab_size"),
    ],
)
def test_configurations_of_encoders_are_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    encoder_config(tmp_path)
    with pytest.raises(InputRefused) as refusal:
        encoder_config(configure(tmp_path, **changes))
    assert named in str(refusal.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "null", "\udcff"])
def test_a_configuration_that_is_none_is_refused(text: str, model: Path) -> None:
    (model / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputRefused, match=r"config\.json"):
        decoder_config(model)


def test_a_folder_in_place_of_a_file_is_refused(model: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (model / name).unlink()
        (model / name).mkdir()
    with pytest.raises(InputRefused, match=r"config\.json"):
        decoder_config(model)
    with pytest.raises(InputRefused, match=r"model\.safetensors"):
        weight_files(model)


def rewrite(model: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the tensors of a model; values are arrays, or (dtype, array) where the type has no name in numpy."""
    file = model / "model.safetensors"
    tensors: dict[str, Any] = dict(load_file(file))
    change(tensors)
    header, data = {}, b""
    for name, value in tensors.items():
        dtype, array = value if isinstance(value, tuple) else ("F32", np.asarray(value, np.float32))
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    save(file, header, data)
    return model


def save(file: Path, header: Any, data: bytes, pad: int = 0) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) + pad) + text + b" " * pad + data)
    return file


Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop(Q), Q),
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight"),
        (lambda t: t.pop("model.embed_tokens.weight"), "model.embed_tokens.weight"),
        (lambda t: t.update({Q: t[Q][:, :32]}), Q),
        (lambda t: t.update({Q: t[Q].reshape(-1)}), Q),
        (lambda t: t.update({"model.norm.weight": np.ones((64, 1))}), "model.norm.weight"),
        (lambda t: t.update({Q.replace("weight", "bias"): np.ones(63)}), "q_proj.bias"),
        (lambda t: t.update({Q: ("I8", np.ones((64, 64), np.int8))}), f"{Q} as I8"),
        (lambda t: t.update({Q: ("F64", np.ones((64, 64)))}), f"{Q} as F64"),
        (lambda t: t.update({Q: ("F8_E4M3", np.ones((64, 64), np.uint8))}), f"{Q} as F8_E4M3"),
        *[
            (lambda t, n=n, x=x: t[n].reshape(-1).__setitem__(5, x), n)
            for n in (Q, "model.norm.weight", "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight")
            for x in (NAN, INFINITE, -INFINITE)
        ],
    ],
)
def test_weights_are_refused_by_name(change: Any, named: str, model: Path, backend: Backend) -> None:
    with pytest.raises(InputRefused) as refusal:
        Decoder(backend, rewrite(model, change))
    assert named in str(refusal.value)
    assert refusal.value.defined


@pytest.mark.parametrize("precision", ["exact", "exact8", "exact4"])
@pytest.mark.parametrize("name", ["native", "int8", "float32", "bf16", "reference"])
def test_weights_that_are_not_finite_are_the_same_failure_everywhere(name: str, precision: str, model: Path) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        tensors[Q][3, 4] = NAN

    with pytest.raises(InputRefused, match=rf"{Q} that are not finite"):
        Decoder(_make(name), rewrite(model, spoil), precision)


@pytest.mark.parametrize("name", ["native", "int8", "float32", "bf16", "reference"])
def test_sums_that_overflow_are_nan_everywhere(name: str, model: Path) -> None:
    """Weights that are finite and lead beyond what a number can hold: a loss that is none, so the segment fails."""

    def spoil(tensors: dict[str, Any]) -> None:
        tensors[Q.replace("self_attn.q_proj", "mlp.down_proj")] *= 3e38

    ids = np.arange(8)
    losses = Decoder(_make(name), rewrite(model, spoil)).losses(ids, ids, [8])
    assert np.isnan(losses).all()


def _make(name: str) -> Backend:
    try:
        return backends()[name]()
    except NoCompiler as error:
        pytest.skip(str(error))


def test_a_row_that_is_not_finite_is_refused_where_it_is_used(model: Path, backend: Backend) -> None:
    """A table that is only looked up is not read as a whole."""

    def spoil(tensors: dict[str, Any]) -> None:
        tensors["model.embed_tokens.weight"][7, 0] = INFINITE

    decoder = Decoder(backend, rewrite(model, spoil), head=False)
    decoder.hidden(np.array([1, 2]), [2])
    with pytest.raises(InputRefused, match="embed_tokens"):
        decoder.hidden(np.array([1, 7]), [2])


def test_adapters_of_what_is_no_linear_layer_are_refused(model: Path, backend: Backend) -> None:
    for name in ("lm_head", "model.embed_tokens", "model.norm", "model.layers.9.mlp.up_proj"):
        with pytest.raises(InputRefused, match=name):
            Decoder(backend, model, modules={name: (VOCABULARY, HIDDEN)})
    with pytest.raises(InputRefused, match="q_proj"):
        Decoder(backend, model, modules={"model.layers.0.self_attn.q_proj": (HIDDEN, HIDDEN + 1)})


def test_tokens_beyond_the_vocabulary_and_texts_beyond_the_positions_are_refused(model: Path, backend: Backend) -> None:
    decoder = Decoder(backend, configure(model, max_position_embeddings=8))
    ids = np.array([1, VOCABULARY])
    with pytest.raises(InputRefused, match=str(VOCABULARY)):
        decoder.hidden(ids, [2])
    with pytest.raises(InputRefused, match=str(VOCABULARY)):
        decoder.losses(ids[:1], ids[1:], [1])
    with pytest.raises(InputRefused, match="-1"):
        decoder.hidden(np.array([-1, 3]), [2])
    with pytest.raises(InputRefused, match="9 tokens"):
        decoder.hidden(np.zeros(9, np.int64), [9])


def _tensor(**changes: Any) -> dict[str, Any]:
    return {"a": BLOCK | changes}


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (_tensor(data_offsets=[0, 17]), 17),
        (_tensor(data_offsets=[0, 16]), 12),
        (_tensor(data_offsets=[0, 16]), 20),
        (_tensor(data_offsets=[4, 20]), 20),
        (_tensor(data_offsets=[-16, 0]), 16),
        (_tensor(data_offsets=[16, 0]), 16),
        (_tensor(data_offsets=[0, 1 << 70]), 16),
        (_tensor(data_offsets=[0, 16, 32]), 32),
        (_tensor(data_offsets=[0.0, 16.0]), 16),
        (_tensor(data_offsets=None), 16),
        (_tensor(shape=[-2, -2]), 16),
        (_tensor(shape=[1 << 32, 1 << 32], data_offsets=[0, 0]), 0),
        (_tensor(shape=[1 << 62, 4], data_offsets=[0, 0]), 0),
        (_tensor(shape=[True, 4]), 16),
        (_tensor(shape=["2", 2]), 16),
        (_tensor(shape=[1] * 9 + [4]), 16),
        (_tensor(shape=[NAN, 2]), 16),
        (_tensor(shape="22"), 16),
        (_tensor(dtype=None), 16),
        ({"a": [BLOCK]}, 16),
        ({"a": None}, 16),
        ({"a": BLOCK, "b": BLOCK}, 16),
        ({"a": BLOCK, "b": BLOCK | {"data_offsets": [8, 24]}}, 24),
        ([], 0),
        (b"{", 0),
        (b"\xff\xff", 0),
        (b"null", 0),
        (b'{"a": NaN}', 0),
    ],
)
def test_weight_files_that_lie_are_refused(header: Any, size: int, tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", header, b"\0" * size)
    for read in (Weights, weight_shapes):
        with pytest.raises(InputRefused, match=r"model\.safetensors"):
            read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\0" * 8, b"\xff" * 16, struct.pack("<Q", 100) + b"{}"])
def test_weight_files_without_a_header_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputRefused, match=r"model\.safetensors"):
        Weights(tmp_path)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_header_is_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    text = bytearray(json.dumps({"a": BLOCK, "b": BLOCK | {"data_offsets": [16, 32]}}).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    save(tmp_path / "model.safetensors", bytes(text), b"\0" * 32)
    try:
        weights = Weights(tmp_path)
        for name in weight_shapes(tmp_path):
            weights.tensor(name)
    except InputRefused:
        return


def test_shards_are_read_once_each_and_refused_where_they_overlap(model: Path, backend: Backend) -> None:
    whole = (model / "model.safetensors").rename(model / "one.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}))
    Decoder(backend, model)
    (model / "two.safetensors").write_bytes(whole.read_bytes())
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(InputRefused, match="in two weight files"):
        Decoder(backend, model)
    for places in ({"a": "three.safetensors"}, {}, [], None, {"a": 3}, {"a": ["one.safetensors"]}):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(InputRefused):
            Decoder(backend, model)
    index.write_text(json.dumps({"weight_map": {"a": f"../../{model.name}/one.safetensors"}}))
    assert weight_files(model) == [whole], "nothing outside the directory is read"


@pytest.mark.parametrize("name", ["native", "int8", "float32"])
def test_numbers_at_odd_places_of_a_file_are_read(name: str, model: Path) -> None:
    file = model / "model.safetensors"
    plain = Decoder(_make(name), model).losses(np.arange(6), np.arange(6), [6])
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    for pad in (1, 2, 3):
        save(file, raw[8 : 8 + length], raw[8 + length :], pad)
        found = Decoder(_make(name), model).losses(np.arange(6), np.arange(6), [6])
        assert (found.view(np.uint32) == plain.view(np.uint32)).all()


def test_an_encoder_refuses_what_it_does_not_know(tmp_path: Path, backend: Backend) -> None:
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    save(tmp_path / "model.safetensors", {}, b"")
    with pytest.raises(InputRefused, match="embeddings"):
        Encoder(backend, tmp_path)


def _circle(file: Path) -> None:
    file.symlink_to(file.name)


@pytest.mark.parametrize("make", [os.mkfifo, _circle, Path.mkdir], ids=["pipe", "link in a circle", "folder"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_what_is_no_file_is_refused_and_not_waited_for(name: str, make: Callable[[Path], None], model: Path) -> None:
    """Artifacts of strangers may hold links; a folder here may hold anything."""
    (model / name).unlink()
    make(model / name)
    with pytest.raises(InputRefused, match=name):
        _ = decoder_config(model), weight_files(model), Tokenizer(model)


def test_an_index_of_names_that_no_file_can_have_is_refused(model: Path) -> None:
    (model / "model.safetensors").rename(model / "other")
    for name in ("x" * 5000, "a\0b", "\ud800", "..", "", "."):
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(InputRefused, match="lacks weight files") as refused:
            weight_files(model)
        assert len(str(refused.value).encode()) < 300
