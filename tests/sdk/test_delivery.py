"""What people pass on of a result: a merged model of the same bytes everywhere, a card, a hub's repository."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import peft
import pytest
import torch
import yaml
from hub_standin import HubStandIn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from proofyard.protocol.audit import Verdict
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, BatchId, Cid, JobId, SegmentIndex, TaskIndex, Wei
from proofyard.sdk import JobRefused, NotPushed
from proofyard.sdk.adapters import read_adapter
from proofyard.sdk.cards import MOST_ROWS, Round, Told, card, evenly
from proofyard.sdk.checks import Checks, Fault, Paid, TooMuch, checks_of, too_much_of
from proofyard.sdk.hub import push_folder
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.lora_export import PEFT_PREFIX
from proofyard.workloads.merging import merge
from proofyard.workloads.model_files import stored_tensors
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.tiny import write_tiny_model

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}") for text in (".is_gradient_checkpointing:FutureWarning", "fan_in")
]


def tiny_gpt2(folder: Path) -> Path:
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2, eos_token_id=0, bos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def in_half(folder: Path, dtype: torch.dtype) -> Path:
    AutoModelForCausalLM.from_pretrained(write_tiny_model(folder), dtype=dtype).save_pretrained(folder)
    return folder


def adapter_of(model: Path, folder: Path, targets: Any) -> Path:
    """A random adapter as PEFT keeps it."""
    rng, tensors = np.random.default_rng(1), {}
    modules = linear_modules(model, targets)
    for name, (outputs, inputs) in modules.items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = rng.normal(size=(4, inputs)).astype(np.float32)
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = rng.normal(size=(outputs, 4)).astype(np.float32)
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(encode_state(tensors, metadata={"format": "pt"}))
    words = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 2.0,
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(words))
    return folder


@pytest.mark.parametrize(
    ("make", "targets", "error"),
    [
        (write_tiny_model, "all-linear", 1e-6),
        (tiny_gpt2, ["c_attn", "c_fc"], 1e-6),
        (lambda folder: in_half(folder, torch.bfloat16), ["q_proj", "down_proj"], 2**-8),
        (lambda folder: in_half(folder, torch.float16), ["v_proj"], 2**-11),
    ],
    ids=["llama", "gpt2", "bf16", "fp16"],
)
def test_a_merged_model_is_what_peft_merges(make: Any, targets: Any, error: float, tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    folder = adapter_of(model, tmp_path / "adapter", targets)
    read = read_adapter(folder)
    merged = merge(model, read.shape, decode_state(read.data), tmp_path / "merged")
    ours = AutoModelForCausalLM.from_pretrained(merged, dtype="auto")
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, folder).merge_and_unload()
    changed = set()
    plain = AutoModelForCausalLM.from_pretrained(model, dtype="auto").state_dict()
    for name, tensor in theirs.state_dict().items():
        own = ours.state_dict()[name]
        assert own.dtype == plain[name].dtype
        assert torch.allclose(own.float(), tensor, rtol=error, atol=error * float(tensor.abs().max())), name
        changed |= set() if torch.equal(own, plain[name]) else {name}
    assert changed == {f"{module}.weight" for module in read.shape.modules}


def test_a_merged_model_has_the_bits_that_the_documentation_says(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    (model / "optimizer.pt").write_bytes(b"of the requester alone")
    read = read_adapter(adapter_of(model, tmp_path / "adapter", ["v_proj"]))
    tensors = decode_state(read.data)
    merged = merge(model, read.shape, tensors, tmp_path / "merged")
    name = "model.layers.1.self_attn.v_proj"
    at = stored_tensors(model / "model.safetensors")[f"{name}.weight"]
    before, after = (
        np.frombuffer((each / "model.safetensors").read_bytes(), "<f4", 64 * 64, at.first).reshape(64, 64)
        for each in (model, merged)
    )
    a, b = (tensors[f"{name}.lora_{kind}"].astype(np.float64) for kind in "AB")
    for o, i in ((0, 0), (63, 5), (17, 63)):
        total = b[o, 0] * a[0, i]
        for r in range(1, 4):
            total = total + b[o, r] * a[r, i]
        assert after[o, i] == np.float32(total * np.float64(0.5) + np.float64(before[o, i]))
    assert sorted(file.name for file in merged.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


OWNERS = [Address(f"0x{number:040x}") for number in range(1, 4)]


def checks(**changes: Any) -> Checks:
    usual: dict[str, Any] = {
        "tasks": 8,
        "nodes": 4,
        "segments": 5,
        "verdicts": (("valid", 5),),
        "auditors": tuple((owner, 5) for owner in OWNERS),
        "faults": (),
        "paid": tuple(Paid(owner, Wei(10**18), Wei(10**17)) for owner in OWNERS),
        "fees": Wei(10**17),
        "shared": (),
    }
    return Checks(**(usual | changes))


def told(**changes: Any) -> Told:
    record: Any = SimpleNamespace(
        auditors_per_segment=2, reward=Wei(10**19), audit_fee=Wei(10**18), verifier_fee=Wei(5 * 10**17)
    )
    params = {"rank": 8, "alpha": 16.0, "rounds": 2, "modules": {}}
    usual: dict[str, Any] = {
        "job": JobId(7),
        "manifest_cid": Cid("bafkmanifest"),
        "manifest": Manifest(workload="lora", params=params, model=Cid("bafymodel"), data=Cid("bafkdata")),
        "record": record,
        "network": "chain 31337, Registry 0xabc",
        "checks": checks(),
        "batches": [(BatchId(3), Cid("bafkrecord"))],
        "paid": Wei(11 * 10**18),
        "base": "org/base",
        "merged": False,
        "losses": [(1, 2.5), (2, 1.25)],
        "evaluations": [(JobId(8), "base model", {"loss": 3.4, "perplexity": 30.0, "rows": 24})],
    }
    return Told(**(usual | changes))


def metadata(text: str) -> Any:
    return yaml.safe_load(text.split("---\n")[1])


def test_a_card_has_what_a_hub_and_a_reader_want_to_know() -> None:
    text = card(told())
    assert metadata(text) == {
        "base_model": "org/base",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "proofyard", "verified-compute"],
    }
    lines = ("| 2 | 1.2500 |", "| 8 | base model | 24 | 3.4000 | 30.000 |", "| faults | 0 |", "| data | bafkdata |")
    lines += (
        "| record of batch 3 | bafkrecord |",
        "proofyard verifier dispute replay 3",
        "| escrow for work | 10 CREDIT |",
    )
    assert [line for line in lines if line not in text.splitlines()] == []
    assert "not audited" in text and "| paid of it, in the batches below | 11 CREDIT |" in text
    merged = card(told(merged=True, losses=(), evaluations=(), base="ipfs://bafymodel"))
    assert metadata(merged)["library_name"] == "transformers" and "base_model" not in metadata(merged)
    assert "Losses" not in merged and "Evaluation" not in merged


@pytest.mark.parametrize(
    "base", ['a"\nlicense: mit', "a\n---\nb: c", "x: {y", "<script>alert(1)</script>", "[a](b)|`c`"]
)
def test_a_name_from_outside_stays_a_name(base: str) -> None:
    text = card(told(base=base))
    found = metadata(text)
    assert found.pop("base_model") == base
    assert set(found) == {"library_name", "pipeline_tag", "tags"}
    assert not re.search(r"(?<!\\)[<\[]", text.partition("# LoRA")[2])


def test_a_card_names_rounds_auditors_faults_costs_and_where_it_comes_from() -> None:
    fault = Fault(BatchId(3), TaskIndex(4), SegmentIndex(1), OWNERS[0], "mismatch", "state 2 | <b>is</b> another\nline")
    text = card(
        told(
            rounds=[Round(1, 4, 3, (BatchId(3),), 2.5), Round(2, 4, 4, (BatchId(3), BatchId(4)))],
            checks=checks(faults=(fault,), verdicts=(("valid", 4), ("fault", 1)), shared=(BatchId(4),)),
            gas=123_456,
            lineage=Cid("bafklineage"),
            datasets=["org/data"],
        )
    )
    assert metadata(text)["datasets"] == ["org/data"]
    lines = (
        "| 1 | 4 | 3 | 3 | 2.5000 |",
        "| 2 | 4 | 4 | 3, 4 |  |",
        "| of these fault | 1 |",
        f"| {OWNERS[1]} | 5 |",
        f"| 3 | 4 | 1 | {OWNERS[0]} | mismatch | state 2 \\| \\<b\\>is\\</b\\> another line |",
        "| gas of settling them | 123,456 |",
        f"| {OWNERS[2]} | 1 CREDIT | 0.1 CREDIT |",
        "Other jobs have tasks in batches 4: what owners were paid there is for all of them.",
        "| lineage.json | bafklineage |",
        "proofyard job verify .",
    )
    assert [line for line in lines if line not in text.splitlines()] == []


def test_a_card_says_whether_rounds_overlap() -> None:
    manifest = told().manifest
    for said, shown in ((True, True), (False, False)):
        params = manifest.params | {"overlap": said}
        found = card(told(manifest=msgspec.structs.replace(manifest, params=params)))
        assert ("| overlap | True |" in found) == shown and ("overlap" in found) == shown


def test_a_card_of_a_huge_job_stays_a_page() -> None:
    fault = Fault(BatchId(3), TaskIndex(4), None, OWNERS[0], "mismatch", "x" * 10_000)
    text = card(
        told(
            rounds=[Round(number, 4, 4, (BatchId(number),), 1e300) for number in range(1, 10_000)],
            batches=[(BatchId(number), Cid("bafkrecord")) for number in range(1, 10_000)],
            checks=checks(
                faults=(fault,) * 10_000,
                auditors=tuple((owner, 1) for owner in OWNERS * 3_000),
                paid=tuple(Paid(owner, Wei(1), Wei(1)) for owner in OWNERS * 3_000),
                shared=tuple(map(BatchId, range(10_000))),
            ),
            losses=[(step, 1e300) for step in range(1, 10_000)],
        )
    )
    assert len(text) < 60_000
    assert f"And {10_000 - MOST_ROWS} more." in text and "| 9999 | 4 | 4 | 9999 | 1.000e+300 |" in text


NOT_ROUNDS = Manifest(workload="embed", params={})


def test_an_owner_that_did_more_of_a_round_than_the_job_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"rounds": 2, "workers": 3, "segments": 1, "segment_steps": 1, "batch": 1, "seq_len": 8}
    params = {"modules": {"m": (4, 4)}, "rank": 2, "alpha": 1.0, "lr": 0.1, "caps": {"owner": 1}, **shape}
    manifest = Manifest(workload="lora", params=params, model=Cid("bafkmodel"), data=Cid("bafkdata"))
    done = [{0: "a", 1: "b", 3: "a"}, {2: "c", 4: "a", 5: "b"}]
    view = SimpleNamespace(owners={name: (0, OWNERS[place]) for place, name in enumerate("abc")})
    batches: Any = [SimpleNamespace(view=view, done=each) for each in done]
    monkeypatch.setattr(
        "proofyard.sdk.checks.accepted_of",
        lambda _, batch: {task: SimpleNamespace(node=node) for task, node in batch.done.items()},
    )
    found = too_much_of(JobId(1), manifest, batches)
    assert found == (TooMuch(2, OWNERS[0], 2),), "tasks 3 and 4 of the second round, in two batches"
    line = f"| {OWNERS[0]} did 2 tasks of round 2, more than the job lets one owner do (caps) |"
    assert line in card(told(checks=checks(too_much=found)))
    assert too_much_of(JobId(1), msgspec.structs.replace(manifest, params=params | {"caps": {}}), batches) == ()
    begins = {"round": 3, "within": 1.0, "chain_id": 1, "registry": OWNERS[0], "job": "7"}
    later = msgspec.structs.replace(manifest, adapter=Cid("bafkstart"), params=params | {"rounds": 5, "begins": begins})
    assert too_much_of(JobId(1), later, batches)[0].round == 5, "as the rounds of what it goes on from count"


def test_checks_count_owners_and_this_job_alone() -> None:
    def audit(job: int, verdict: Verdict, *auditors: str) -> Any:
        votes = [SimpleNamespace(auditor=each) for each in auditors]
        return SimpleNamespace(job=job, verdict=verdict, votes=votes)

    def task(job: int, node: str) -> Any:
        return SimpleNamespace(commitment=SimpleNamespace(job=job, node=node))

    record = SimpleNamespace(
        audits=[audit(1, Verdict.VALID, "a", "b"), audit(1, Verdict.FAULT, "b"), audit(2, Verdict.VALID, "a")],
        faults=[
            SimpleNamespace(job=1, task=3, segment=None, node="a", kind=FaultReason.FALSE_AUDIT, reason="copied"),
            SimpleNamespace(job=2, task=0, segment=1, node="a", kind=FaultReason.MISMATCH, reason=""),
        ],
        tasks=[task(1, "a"), task(1, "a"), task(1, "b"), task(2, "c")],
        payouts=[SimpleNamespace(owner=OWNERS[0], work="5", audits="2")],
        redress=[SimpleNamespace(owner=OWNERS[1], amount="3")],
        jobs=[1, 2],
    )
    view = SimpleNamespace(owners={name: (0, OWNERS[place]) for place, name in enumerate("abc")})
    batches: Any = [SimpleNamespace(record=record, view=view, event=SimpleNamespace(batch=BatchId(9), fees=Wei(4)))]
    assert checks_of(JobId(1), NOT_ROUNDS, batches) == Checks(
        tasks=3,
        nodes=2,
        segments=2,
        verdicts=(("valid", 1), ("fault", 1)),
        auditors=((OWNERS[0], 1), (OWNERS[1], 2)),
        faults=(Fault(BatchId(9), TaskIndex(3), None, OWNERS[0], "false audit", "copied"),),
        paid=(Paid(OWNERS[0], Wei(5), Wei(2)), Paid(OWNERS[1], Wei(3), Wei(0))),
        fees=Wei(4),
        shared=(BatchId(9),),
    )
    assert [step for step, _ in evenly([(n, 0.0) for n in range(1, 101)], 5)] == [1, 26, 51, 75, 100]


def push(
    hub: str, folder: Path, token: str, repository: str = "me/result", code: str = ""
) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as huggingface_hub reads its environment when it is imported."""
    code = code or (
        "import sys; from pathlib import Path; from proofyard.sdk.hub import push_folder; "
        "print(push_folder(Path(sys.argv[1]), sys.argv[2], waits=(0.0, 0.0)))"
    )
    given = {"HF_ENDPOINT": hub, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder.parent / "hf")}
    given |= {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}
    command = [sys.executable, "-c", code, str(folder), repository]
    return subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=False)


def result_folder(place: Path) -> Path:
    folder = place / "result"
    folder.mkdir()
    (folder / "README.md").write_text(card(told()))
    (folder / "adapter_model.safetensors").write_bytes(encode_state({"a": np.ones(3, np.float32)}))
    return folder


def test_a_result_goes_to_a_hub_with_the_login_of_its_own_library(tmp_path: Path) -> None:
    folder = result_folder(tmp_path)
    with HubStandIn("hf_right") as hub:
        done = push(hub.url, folder, "hf_right")
        assert done.stdout.strip() == f"{hub.url}/me/result", done.stderr
        assert hub.files == {file.name: file.read_bytes() for file in folder.iterdir()}
        assert ["private" in (each.get("visibility"), *each) for each in hub.created] == [True]
        refused = push(hub.url, folder, "hf_wrong")
        assert "NotPushed: me/result was not sent to the hub" in refused.stderr
        assert "set HF_TOKEN to a token that may write" in refused.stderr
        assert "hf_right" not in done.stderr + done.stdout and "hf_wrong" not in refused.stderr + refused.stdout
    away = push(hub.url, folder, "hf_right")
    assert "NotPushed" in away.stderr and "look at HF_ENDPOINT" in away.stderr


MANY = """
import sys
from pathlib import Path
from proofyard.protocol.types import ProofyardError
from huggingface_hub import get_session
from proofyard.sdk.hub import ANSWER_S, bound_waiting, push_folder
bound_waiting()
assert get_session().timeout.read == ANSWER_S
for name in sys.argv[2].split(","):
    try:
        print(push_folder(Path(sys.argv[1]), "me/" + name, private=False, waits=(0.0, 0.0)))
    except ProofyardError as error:
        print(type(error).__name__, error)
"""


def test_what_a_hub_refuses_is_told_with_the_one_thing_to_do(tmp_path: Path) -> None:
    folder = result_folder(tmp_path)
    steps = {
        403: "name a repository of an owner that it is of",
        404: "knows no such owner",
        413: "larger than this hub takes",
        429: "try again later",
        503: "try again later",
    }
    with HubStandIn("hf_right") as hub:
        hub.refusing = {f"me/r{status}": (status, 99) for status in steps} | {"me/once": (503, 2)}
        names = [f"r{status}" for status in steps]
        said = push(hub.url, folder, "hf_right", ",".join([*names, "once"]), MANY).stdout.splitlines()
        assert len(said) == len(steps) + 1, said
        for line, (status, step) in zip(said, steps.items(), strict=False):
            assert line.startswith(f"NotPushed me/r{status} was not sent") and step in line, line
            tries = 3 if status in (429, 503) else 1
            assert sum(each["name"] == f"r{status}" for each in hub.asked) == tries
        assert said[-1] == f"{hub.url}/me/once"
        assert [each.get("visibility", "public") for each in hub.created] == ["public"]
        assert not [each for each in hub.created if each.get("private")]


def test_a_token_is_not_sent_where_it_could_be_read(tmp_path: Path) -> None:
    said = push("http://hub.example", result_folder(tmp_path), "hf_secret")
    assert "HF_ENDPOINT is http://hub.example, where the token could be read" in said.stderr
    assert "hf_secret" not in said.stderr + said.stdout


@pytest.mark.parametrize("name", ["result", "a/b/c", "/result", "me/", "me/a b", "../x y"])
def test_what_is_no_repository_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(JobRefused, match="give one as owner/name"):
        push_folder(tmp_path, name)
    assert issubclass(NotPushed, Exception)
