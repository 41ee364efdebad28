"""Slips of the pen of a Python developer: each is refused by the field's name, before anything is published or paid."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import Wallet
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import JobReport, LogLine
from proofyard.protocol.types import Cid, JobId, TaskIndex, Wei
from proofyard.sdk import (
    AsyncClient,
    BadAmount,
    BadSetting,
    Client,
    EmbedJob,
    EvaluateJob,
    JobFailed,
    JobHandle,
    JobRefused,
    JobTimeout,
    LoraJob,
    MapJob,
    Offer,
    SweepJob,
    Timeout,
    credits,
)
from proofyard.sdk.portal import Portal
from proofyard.sdk.preparing import require_auditors, short_of_owners
from proofyard.sdk.specs import check_spec
from proofyard.sdk.terms import check_offer, check_task_rewards, owners_needed
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.workload import all_tasks, load_workload

CIDS = (Cid("model"), Cid("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("amount", "base"),
    [(12, 12 * 10**18), (0.1, 10**17), ("1,250.5", 12505 * 10**17), (Decimal("1e3"), 10**21), (1e22, 10**40), (0, 0)],
)
def test_an_amount_is_exact_however_it_is_written(amount: Any, base: int) -> None:
    assert credits(amount) == base


@pytest.mark.parametrize(
    "amount",
    [-1, "-1", "abc", "", "1e3", "1,5", None, True, float("nan"), float("inf"), 1e-30, "1.0000000000000000001"],
)
def test_what_is_no_amount_is_refused(amount: Any) -> None:
    with pytest.raises(BadAmount, match="is not an amount of CREDIT"):
        credits(amount)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reward", "100"),
        ("reward", 1.5),
        ("reward", None),
        ("audit_fee", True),
        ("verifier_fee", 0.5),
        ("deadline_s", "x"),
    ],
)
def test_an_offer_of_another_kind_is_refused(field: str, value: Any) -> None:
    terms: dict[str, Any] = {"reward": credits(1), "audit_fee": credits(1)}
    with pytest.raises(JobRefused, match=f"^{field}: is {value!r}; give"):
        check_offer(Offer(**terms | {field: value}))


def test_a_reward_that_is_as_good_as_nothing_was_meant_as_credit() -> None:
    graph = [TaskSpec(index=TaskIndex(i), kind="train", work_units=1000) for i in range(2)]
    with pytest.raises(JobRefused, match=r"^reward: is 100 base units for 2000 units .* credits\(100\) makes CREDIT"):
        check_task_rewards(graph, Wei(100), credits(85))
    check_task_rewards(graph, Wei(0), credits(85))
    with pytest.raises(JobRefused, match=r"^reward: gives a task up to 100 CREDIT; nodes take 85 CREDIT at most"):
        check_task_rewards(graph, credits(200), credits(85))


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (LoraJob, {"targets": "q_proj"}, "targets: is 'q_proj'; give a list, each of it a text"),
        (LoraJob, {"model": None}, "model: is None; give a path or a text"),
        (LoraJob, {"data": 5}, "data: is 5; give a path or a text"),
        (LoraJob, {"seed": "x"}, "seed: is 'x'; give a whole number"),
        (LoraJob, {"rank": True}, "rank: is True; give a whole number"),
        (LoraJob, {"layers": ("1",)}, r"layers: is \('1',\); give a list, each of it a whole number or None"),
        (LoraJob, {"options": None}, "options: is None; give a mapping of names"),
        (SweepJob, {"vary": {"lr": 3}}, r"vary: is {'lr': 3}; give a mapping of names to a list"),
        (SweepJob, {"vary": "lr"}, "vary: is 'lr'"),
        (EmbedJob, {"normalize": 1}, "normalize: is 1; give True or False"),
        (LoraJob, {"layers": 3}, "layers: is 3; give a list"),
        (LoraJob, {"layers": [True]}, r"layers: is \[True\]"),
        (LoraJob, {"layers": [1.0]}, r"layers: is \[1.0\]"),
        (LoraJob, {"targets": ".*q_proj"}, "targets: is '.*q_proj'"),
        (LoraJob, {"targets": {"q_proj"}}, "targets: is {'q_proj'}"),
        (LoraJob, {"aggregation": "fedavg"}, "aggregation: is 'fedavg'; give 'ffa' or 'fedit' or 'fedex' or 'flora'"),
        (LoraJob, {"robust": "best"}, "robust: is 'best'; give 'mean' or 'trimmed-mean' or"),
        (LoraJob, {"ranks": 4}, "ranks: is 4; give a list, each of it a whole number or None"),
        (LoraJob, {"rslora": "yes"}, "rslora: is 'yes'; give True or False"),
        (LoraJob, {"lr": "1e-3"}, "lr: is '1e-3'; give a number"),
        (MapJob, {"segments": 1.5}, "segments: is 1.5; give a whole number"),
    ],
)
def test_a_job_with_a_value_of_another_kind_is_refused(kind: Any, changes: dict[str, Any], said: str) -> None:
    whole = {"model": "model", "data": Path("data")} | ({"vary": {"lr": [1, 2.0]}} if kind is SweepJob else {})
    check_spec(kind(**whole))
    with pytest.raises(JobRefused, match=f"^{said}"):
        check_spec(kind(**whole | changes))


LINES = {
    "binary": (bytes(range(256)), "line 1 is no"),
    "words": (b"hello\n", "line 1 is no"),
    "no text": (b'{"text": "a"}\n\n{"a": 1}\n', "line 3 is no"),
    "latin": ('{"text": "é"}\n'.encode("latin1"), "line 1 is no"),
    "endless": (b"x" * ((16 << 20) + 1), "line 1 is longer than"),
    "blank": (b" \n\n", "holds no line"),
}


@pytest.mark.parametrize("content", LINES)
@pytest.mark.parametrize("kind", [LoraJob, SweepJob, EmbedJob, EvaluateJob, MapJob])
def test_data_that_nodes_would_refuse_is_refused_at_once(kind: Any, content: str, tmp_path: Path, model: Path) -> None:
    data, reason = LINES[content]
    (tmp_path / "text.jsonl").write_bytes(data)
    more = {"vary": {"lr": [0.1]}} if kind is SweepJob else {}
    with pytest.raises(InputRefused, match=f"data file {reason}"):
        kind(model=model, data=tmp_path / "text.jsonl", **more).manifest(*CIDS)


@pytest.mark.parametrize("line", ['{"text": "a"}', '{"text": "a", "choices": ["b", "c"], "answer": 2}'])
def test_questions_without_their_choices_are_refused_at_once(line: str, tmp_path: Path, model: Path) -> None:
    (tmp_path / "text.jsonl").write_text(line)
    with pytest.raises(InputRefused, match=r"params\.choices says 2"):
        EvaluateJob(model=model, data=tmp_path / "text.jsonl", choices=2).manifest(*CIDS)


@pytest.mark.parametrize("layer", [2, 99, -3])
def test_a_layer_that_the_model_lacks_is_no_other_one(layer: int, tmp_path: Path, model: Path) -> None:
    data = write_tiny_corpus(tmp_path / "text.jsonl")
    with pytest.raises(InputRefused, match=f"has layers 0 to 1, and no layer {layer}"):
        LoraJob(model=model, data=data, layers=[layer]).manifest(*CIDS)
    assert LoraJob(model=model, data=data, layers=[-2]).manifest(*CIDS).params["modules"]


def test_a_job_counts_the_owners_that_it_needs() -> None:
    graph = [TaskSpec(index=TaskIndex(0), kind="train", segments=4, work_units=1)]
    terms: Any = SimpleNamespace(auditors_per_segment=2, segments_per_audit=1)
    assert owners_needed(graph, terms) == 4
    terms.segments_per_audit = 9
    assert owners_needed(graph, terms) == 13


@pytest.mark.parametrize(
    ("stake", "reward", "owners", "said"),
    [
        (1000, 1, 4, ""),
        (1000, 1, 3, "this job needs nodes of 4 owners"),
        (1000, 0, 4, "the reward is 0"),
        (100, 50, 4, "no node can be offered a task of 50 CREDIT now: no owner's stake backs it"),
        (
            100,
            25,
            4,
            "no node can be offered a task of 25 CREDIT now: 3 other owners are here",
        ),
        (100, 25, 11, ""),
        (1000, 25, 4, ""),
    ],
)
def test_a_job_whose_tasks_nobody_may_be_offered_says_so_before_it_is_paid(
    stake: int, reward: int, owners: int, said: str, model: Path, tmp_path: Path
) -> None:
    data = write_tiny_corpus(tmp_path / "text.jsonl")
    manifest = LoraJob(model=model, data=data, rounds=1, workers=2, segments=3).manifest(*CIDS)
    nodes = [SimpleNamespace(owner=n, workloads=1, stake=Wei(stake * 10**18)) for n in range(owners)]
    chain: Any = SimpleNamespace(
        active_nodes=lambda: nodes, params=lambda: SimpleNamespace(collusion_bps=3000, given_back_bps=3000)
    )
    terms = SimpleNamespace(
        workload=0, auditors_per_segment=2, segments_per_audit=1, reward=Wei(2 * reward * 10**18), units=6144
    )
    found = short_of_owners(chain, SimpleNamespace(manifest=manifest, terms=terms))  # type: ignore[arg-type]
    assert found.startswith(said) and bool(found) == bool(said)


def test_a_job_that_lets_no_owner_do_much_says_how_many_it_takes(model: Path, tmp_path: Path) -> None:
    data = write_tiny_corpus(tmp_path / "text.jsonl")
    job = LoraJob(model=model, data=data, rounds=1, workers=12, segments=3, caps={"owner": 2})
    chain: Any = SimpleNamespace(
        active_nodes=lambda: [SimpleNamespace(owner=n % 5, workloads=1, stake=Wei(10**21)) for n in range(20)]
    )
    terms: Any = SimpleNamespace(
        workload=0, auditors_per_segment=1, segments_per_audit=1, reward=Wei(10**18), units=12 * 3072
    )
    prepared: Any = SimpleNamespace(manifest=job.manifest(*CIDS), terms=terms)
    assert short_of_owners(chain, prepared) == (
        "this job lets one owner do 2 of the 12 tasks of a round (caps), which takes 6 owners, and the network has 5 "
        "for lora now: it waits for more"
    )


def test_a_job_whose_data_stays_at_home_is_refused_where_too_few_were_given_it(model: Path) -> None:
    requester, verifier, *owners = (Wallet.generate().address for _ in range(6))
    local = {"digests": [cid_of_bytes(b"a file")], "auditors": [requester, verifier, *owners]}
    job = LoraJob(model=model, data="local:wards", local=local, rounds=1, workers=1, segments=3)
    manifest = job.manifest(CIDS[0], None)
    graph = all_tasks(load_workload("lora"), manifest)
    terms: Any = SimpleNamespace(workload=0, auditors_per_segment=2, segments_per_audit=1)
    here = [requester, verifier, *owners[:2]]
    chain: Any = SimpleNamespace(
        active_nodes=lambda: [SimpleNamespace(owner=owner, workloads=1) for owner in here],
        active_verifiers=lambda: [SimpleNamespace(owner=verifier)],
    )
    with pytest.raises(JobRefused, match="of the 6 auditors that it names, 2 have a node"):
        require_auditors(chain, manifest, terms, graph, requester)
    here.append(owners[2])
    require_auditors(chain, manifest, terms, graph, requester)
    here.clear()
    alone = replace(job, local={"digests": local["digests"], "unaudited": True}).manifest(CIDS[0], None)
    require_auditors(chain, alone, terms, graph, requester)


class Reported(AsyncClient):
    """A client whose verifier gives these reports, the last one again and again."""

    def __init__(self, *reports: JobReport) -> None:
        self.left, self.timeout = list(reports), Timeout(poll=0.01)

    async def report(self, job: JobId, since: int = 0) -> JobReport:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]

    async def failure(self, job: JobId, reason: str) -> JobFailed:
        return JobFailed(job, reason, f"3 CREDIT are held for job {job}")

    async def _require_hope(self, job: JobId) -> None:
        pass


def handle(*reports: JobReport) -> JobHandle:
    client = Client.__new__(Client)
    client._core, client._portal = Reported(*reports), Portal("test")
    return client.job(JobId(7))


def line(number: int, at: float = 0.0) -> LogLine:
    return LogLine(number, at, "opened", "")


def report(state: str, *, lines: int = 0, reason: str = "") -> JobReport:
    log = tuple(line(number) for number in range(1, lines + 1))
    return JobReport(JobId(7), state, tasks=1, tasks_valid=0, batches_settled=0, result=None, reason=reason, log=log)


def test_a_job_that_is_done_is_told_as_such_however_short_the_patience() -> None:
    seen: list[LogLine] = []
    assert handle(report("done", lines=3), report("done")).wait(0, on_event=seen.append).state == "done"
    assert len(seen) == 3
    with pytest.raises(JobTimeout, match="job 7 is still running"):
        handle(report("running")).wait(0)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_time_that_is_none_is_not_waited_for(timeout: float) -> None:
    with pytest.raises(JobRefused, match=r"^timeout: "):
        handle(report("running")).wait(timeout)


def test_a_job_that_failed_says_how_its_money_comes_back() -> None:
    with pytest.raises(JobFailed, match=r"no node can do it; 3 CREDIT are held for job 7"):
        handle(report("failed", reason="no node can do it")).wait()


def test_a_client_without_settings_says_which_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CONFIG", "RPC_URL", "REGISTRY", "WALLET", "PASSWORD_FILE"):
        monkeypatch.delenv(f"PROOFYARD_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(BadSetting, match=r"set PROOFYARD_REGISTRY, or write registry = .* under \[requester\]"):
        Client.from_env()
    monkeypatch.setenv("PROOFYARD_REGISTRY", "0x" + "11" * 20)
    with pytest.raises(BadSetting, match="wallet: set PROOFYARD_WALLET"):
        Client.from_env()
    monkeypatch.setenv("PROOFYARD_WALLET", "w.json")
    with pytest.raises(BadSetting, match=r"the file with the password of w\.json: set PROOFYARD_PASSWORD_FILE"):
        Client.from_env()
    monkeypatch.setenv("PROOFYARD_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(BadSetting, match="there is no settings file"):
        Client.from_env()
