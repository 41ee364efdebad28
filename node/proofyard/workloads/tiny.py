"""A small random model and text, written offline in well under a second: for tests and for trying things out."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from proofyard.workloads.randomness import permutation, uniform
from proofyard.workloads.state import Array, encode_state

VOCABULARY = 259
HIDDEN, LAYERS, HEADS, INNER = 64, 2, 4, 128
END_TOKEN = 256

_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": END_TOKEN,
    "dtype": "float32",
    "eos_token_id": END_TOKEN,
    "head_dim": HIDDEN // HEADS,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": HEADS,
    "pad_token_id": END_TOKEN,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "vocab_size": VOCABULARY,
}


def write_tiny_model(dest: Path, seed: int = 0) -> Path:
    """A random Llama of 2 layers over bytes, as a Hugging Face model directory. The same seed gives the same bytes."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, INNER)
        shapes |= {f"{prefix}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    tensors: dict[str, Array] = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            tensors[name] = np.ones(shape, np.float32)
        else:
            values = uniform(shape[0] * shape[1], 3**0.5 / shape[1] ** 0.5, "tiny model", seed, name)
            tensors[name] = values.astype(np.float32).reshape(shape)
    dest.mkdir(parents=True, exist_ok=True)
    (dest / "model.safetensors").write_bytes(encode_state(tensors, metadata={"format": "pt"}))
    (dest / "config.json").write_text(json.dumps(_CONFIG, indent=1, sort_keys=True))
    (dest / "tokenizer.json").write_text(json.dumps(_tokenizer(), sort_keys=True))
    return dest


def write_tiny_corpus(dest: Path, *, labels: int = 4, documents: int = 25, seed: int = 0) -> Path:
    """JSONL text with a pattern that a tiny model learns in a few steps, its words different from label to label."""
    lines = []
    for label in range(labels):
        words = [f"{'abcdefghij'[label % 10]}{number}" for number in range(6)]
        for document in range(documents):
            order = permutation(len(words), "tiny corpus", seed, label, document)
            text = ". ".join(" ".join(words[i] for i in order) for _ in range(6))
            lines.append(json.dumps({"text": text, "shard": f"label-{label}"}))
    dest.write_text("\n".join(lines) + "\n")
    return dest


def _tokenizer() -> dict[str, Any]:
    """Every byte is a token of its own: byte-level BPE without merges, and one end token."""
    table = _byte_characters()
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": END_TOKEN, "content": "<|end|>", **special}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {character: number for number, character in enumerate(table)} | {"<|end|>": END_TOKEN},
            "merges": [],
        },
    }


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE (GPT-2's table)."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]
