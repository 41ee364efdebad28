"""A model is held to transformers once: what a misread configuration changes is seen, what was seen is remembered."""

import io
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
from safetensors.numpy import load_file, save_file

from proofyard.runtime.compiling import NoCompiler
from proofyard.workloads.errors import ExecutionError, ModelMisread
from proofyard.workloads.exact import backends, bert, decoder, selfcheck
from proofyard.workloads.exact.backend import Backend
from proofyard.workloads.exact.bert import Encoder
from proofyard.workloads.exact.decoder import Decoder
from proofyard.workloads.exact.golden import PRECISIONS, numbers
from proofyard.workloads.exact.reference import freeze
from proofyard.workloads.exact.selfcheck import check_decoder, check_encoder
from proofyard.workloads.exact.slicing import frozen_values
from proofyard.workloads.exact.tampering import tampering
from proofyard.workloads.sandbox import helper
from proofyard.workloads.tiny import write_tiny_model


@pytest.fixture(scope="module")
def backend() -> Backend:
    try:
        return backends()["native"]()
    except NoCompiler:
        return backends()["float32"]()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = Path(platformdirs.user_cache_dir("proofyard")) / "checked"
    assert tmp_path in folder.parents
    return folder


@pytest.fixture(scope="module")
def known() -> dict[Any, Any]:
    """What transformers said before about the same model."""
    return {}


@pytest.fixture(autouse=True)
def asked_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process does is done in this one, which loads transformers once, but where a test needs it so."""
    if "other_process" in request.fixturenames:
        return

    def run(module: str, arguments: Sequence[str], timeout_s: float) -> "subprocess.CompletedProcess[bytes]":
        import torch

        assert module == selfcheck.__name__
        threads, out = torch.get_num_threads(), io.BytesIO()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", [module, *arguments])
            patched.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
            try:
                selfcheck.main()
            except Exception:
                return subprocess.CompletedProcess(arguments, 1, b"", traceback.format_exc().encode())
            finally:
                torch.set_num_threads(threads)
            return subprocess.CompletedProcess(arguments, 0, out.getvalue(), b"")

    monkeypatch.setattr(helper, "run", run)


@pytest.fixture
def other_process() -> None:
    """Asks for it."""


@pytest.fixture(autouse=True)
def comparisons(known: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions in which transformers was asked."""
    asked: list[str] = []
    plain = selfcheck._theirs

    def counted(model: Path, kind: str, precision: str, dtype: str, ids: Any) -> Any:
        asked.append(precision)
        files = [(model / name).read_bytes() for name in ("config.json", "model.safetensors")]
        key = (*files, kind, precision, dtype, len(ids))
        if key not in known:
            known[key] = plain(model, kind, precision, dtype, ids)
        return known[key]

    monkeypatch.setattr(selfcheck, "_theirs", counted)
    return asked


def markers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != "lock")


def check(backend: Backend, model: Path, precision: str = "exact") -> None:
    check_decoder(model, Decoder(backend, model, precision), precision)


def test_a_model_is_checked_once_for_each_precision(
    model: Path, backend: Backend, cache: Path, comparisons: list[str]
) -> None:
    for precision in PRECISIONS:
        for _ in range(2):
            check(backend, model, precision)
    assert comparisons == list(PRECISIONS)
    assert len(markers(cache)) == 3
    for name in markers(cache):
        assert 0 < float((cache / name).read_text()) < 0.01


def test_another_model_another_configuration_and_other_code_are_checked_again(
    model: Path, backend: Backend, comparisons: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = model / "model.safetensors"
    at = file.stat()
    check(backend, model)
    tensors = load_file(file)
    save_file({name: x * np.float32(1.25) for name, x in tensors.items()}, file, {"format": "pt"})
    assert file.stat().st_size == at.st_size
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))
    check(backend, model)
    raw = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(raw | {"rms_norm_eps": 0.1}))
    check(backend, model)
    monkeypatch.setattr(selfcheck, "version", lambda package: "4.0")
    check(backend, model)
    check(backend, model)
    assert len(comparisons) == 4


LIES: dict[str, Any] = {
    "eps": {"eps": 0.1},
    "activation": {"activation": "gelu"},
    "theta": {"theta": 100.0},
    "window": {"windows": (5, 5)},
    "attention scale": {"scale": 0.3},
    "embedding factor": {"embedding_factor": 1.2},
    "residual factor": {"residual_factor": 0.5},
    "logit factor": {"logit_factor": 0.9},
    "soft cap": {"logit_cap": 2.0},
    "offset of norms": {"offset": 1.0},
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("lie", LIES)
def test_a_configuration_that_is_misread_is_refused(
    lie: str, precision: str, model: Path, backend: Backend, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every precision: transformers is given the weights that the precision makes."""
    read = decoder.decoder_config
    monkeypatch.setattr(decoder, "decoder_config", lambda path: replace(read(path), **LIES[lie]))
    for _ in range(2 if lie == "eps" else 1):
        with pytest.raises(ExecutionError, match=r"apart from transformers.*expected is at most 5%") as refusal:
            check(backend, model, precision)
    assert not refusal.value.defined, "how far it is apart depends on this machine in its last digits"
    assert markers(cache) == []


def _shifted(plain: Any) -> Any:
    return lambda self, ids, targets, lengths, places: plain(self, ids, ids, lengths, places)


def _unmasked(plain: Any) -> Any:
    return lambda self, ids, targets, lengths, places: plain(self, ids, targets, lengths)


def _added(plain: Any) -> Any:
    return lambda self, *given: plain(self, *given) + np.float32(0.5)


@pytest.mark.parametrize("change", [_shifted, _unmasked, _added])
def test_a_model_with_another_loss_is_refused(
    change: Any, model: Path, backend: Backend, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logits are the same: labels are shifted, masked or weighed in another way."""
    scale_up(model)
    monkeypatch.setattr(Decoder, "losses", change(Decoder.losses))
    with pytest.raises(ModelMisread, match=r"apart from transformers.*config.json or its loss"):
        check(backend, model)
    assert markers(cache) == []


def scale_up(model: Path) -> None:
    """A model that is sure of what it says, so that each token's loss is another one."""
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * np.float32(9)
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


def test_a_copy_of_a_small_model_is_known(
    model: Path, backend: Backend, tmp_path: Path, comparisons: list[str]
) -> None:
    check(backend, model)
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    os.utime(copy / "model.safetensors", ns=(1, 1))
    check(backend, copy)
    assert len(comparisons) == 1


@pytest.fixture
def encoder_model(tmp_path: Path) -> Path:
    import torch
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(vocab_size=97, max_position_embeddings=16, initializer_range=0.2, **sizes)
    torch.manual_seed(3)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("lie", [{}, {"eps": 0.3}, {"activation": "relu"}, {"pad": 1}])
def test_encoders_are_checked_too(
    lie: dict[str, Any], encoder_model: Path, backend: Backend, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text that is tried is as short as the model's positions."""
    read = bert.encoder_config
    monkeypatch.setattr(bert, "encoder_config", lambda path: replace(read(path), **lie))
    encoder = Encoder(backend, encoder_model)
    if not lie:
        return check_encoder(encoder_model, encoder, backend, "exact")
    with pytest.raises(ExecutionError, match="apart from transformers"):
        check_encoder(encoder_model, encoder, backend, "exact")
    return None


def test_a_decoder_that_embeds_is_checked_by_its_hidden_states(
    model: Path, backend: Backend, cache: Path, comparisons: list[str]
) -> None:
    for _ in range(2):
        check_encoder(model, Decoder(backend, model, head=False), backend, "exact")
    check(backend, model)
    assert len(comparisons) == 2
    assert len(markers(cache)) == 2


@pytest.mark.usefixtures("other_process")
def test_less_memory_than_the_model_needs_in_binary32_is_enough(
    model: Path, backend: Backend, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "_fits", lambda path: False)
    check(backend, model)
    assert len(markers(cache)) == 1


@pytest.mark.usefixtures("other_process")
def test_what_transformers_cannot_load_is_not_executed(
    model: Path, backend: Backend, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder(backend, model)
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 7}))
    with pytest.raises(ExecutionError, match=r"transformers cannot load model to check it: .*"):
        check_decoder(model, decoder, "exact")
    assert markers(cache) == []


def test_a_text_to_try_that_meets_a_bad_row_is_no_answer(model: Path, backend: Backend) -> None:
    """Whoever has checked the model before goes on to the job, so nobody may conclude anything here."""
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][:] = np.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ExecutionError, match=r"cannot be checked: .* not finite"):
        check_encoder(model, Decoder(backend, model, head=False), backend, "exact")


def test_a_cheat_does_not_check(model: Path, backend: Backend, cache: Path, comparisons: list[str]) -> None:
    with tampering(weights=lambda w: w * 0):
        check(backend, model)
    assert comparisons == []


def test_of_two_processes_one_checks(model: Path, cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "asked"
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from proofyard.workloads.exact import backends, selfcheck\n"
        "from proofyard.workloads.exact.decoder import Decoder\n"
        "plain = selfcheck._theirs\n"
        "def noted(*given):\n"
        "    open(sys.argv[2], 'a').write('asked\\n')\n"
        "    return plain(*given)\n"
        "selfcheck._theirs = noted\n"
        "model = Path(sys.argv[1])\n"
        "selfcheck.check_decoder(model, Decoder(backends()['float32'](), model), 'exact')\n"
    )
    command = [sys.executable, "-c", code, str(model), str(log)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert log.read_text() == "asked\n"
    assert len(markers(cache)) == 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_transformers_is_given_the_weights_of_the_precision(precision: str) -> None:
    weight = numbers(9, 200, of="weight") * np.float32(3)
    weight[2] = 0
    values = frozen_values(weight, precision)
    slices = freeze(weight, precision)
    exact = (slices.high + slices.low / 64.0) * slices.scale.reshape(-1, 1)
    step = np.abs(weight).max(axis=1, keepdims=True) / 63
    bound = {"exact": step / 32, "exact8": step * 1e-5, "exact4": step / 32}[precision]
    assert (np.abs(values - exact) <= bound + 1e-9).all()
    assert (values == weight).all() == (precision == "exact")
