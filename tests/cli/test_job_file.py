"""Job files and flags come to one call; what is wrong is named before anything is sent or read."""

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from proofyard.cli import main
from proofyard.cli.errors import UsageError
from proofyard.cli.job_file import TEMPLATES, TERMS, read_job_file, require_known, template
from proofyard.cli.job_flags import JobFlags
from proofyard.sdk.jobs import make_job

CREDIT = 10**18


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that would have been submitted: workload, parameters, terms."""
    calls: list[Any] = []

    def seen(flags: JobFlags) -> None:
        calls.append((flags.said.workload, flags.said.parameters, flags.said.terms))
        raise typer.Exit

    monkeypatch.setattr(JobFlags, "spec", seen)
    return calls


@pytest.mark.parametrize("kind", TEMPLATES)
def test_each_template_is_a_job_as_it_stands(kind: str, tmp_path: Path, submitted: list[Any]) -> None:
    file = tmp_path / "my job.toml"
    assert main(["job", "init", kind, str(file)]) == 0
    assert "'" in file.read_text().splitlines()[1], "a path with a space is quoted"
    assert main(["job", "submit", str(file)]) == 0
    [(workload, said, terms)] = submitted
    assert terms == {"reward": 100 * CREDIT, "audit_fee": 20 * CREDIT}
    assert make_job(workload, said)
    assert main(["job", "init", kind, str(file)]) == 2, "nothing is written over"


@pytest.mark.parametrize("kind", TEMPLATES)
def test_what_a_template_has_commented_out_is_known_too(kind: str, tmp_path: Path) -> None:
    lines = template(kind, tmp_path / "job.toml").splitlines()
    shown = [line.removeprefix("# ") for line in lines if " = " in line]
    names = tomllib.loads("\n".join(line for line in shown if not line.startswith("lr = [")))
    require_known(names, names["workload"])
    assert set(TERMS) <= set(names)


def test_flags_say_it_last_and_paths_are_the_files(tmp_path: Path, submitted: list[Any]) -> None:
    (tmp_path / "text.jsonl").write_text("{}\n")
    (tmp_path / "job.toml").write_text(
        'model = "org/name"\ndata = "text.jsonl"\nreward = "1,250.5"\naudit_fee = 2\nrank = 8\ndeadline = "12h"\n'
    )
    flags = ["--rank", "4", "--reward", "9", "--set", "alpha=32", "--deadline", "90"]
    assert main(["job", "submit", str(tmp_path / "job.toml"), *flags]) == 0
    [(workload, said, terms)] = submitted
    assert workload == "lora"
    assert said == {"model": "org/name", "data": str(tmp_path / "text.jsonl"), "rank": 4, "alpha": 32}
    assert terms == {"reward": 9 * CREDIT, "audit_fee": 2 * CREDIT, "deadline": 90}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rewrad = 1", "rewrad: a lora job has no such name; did you mean reward?"),
        ("segment-steps = 1", "did you mean segment_steps?"),
        ('workload = "embedd"', "did you mean embed?"),
        ('workload = "embed"\nrank = 4', "rank: a embed job has no such name"),
        ("reward = true", "reward: True is no amount"),
        ('reward = "lots"', "reward: 'lots' is not an amount"),
        ('deadline = "soon"', "deadline: 'soon' is not a duration"),
        ("reward = 1", "audit_fee: how much is it?"),
        ("reward 1", "is not valid TOML"),
        ("\xff", "is not valid TOML"),
        ("layers = " + "[" * 3000 + "]" * 3000, "nested without end"),
        ("rank = " + "1" * 5000, "a number in it has thousands of digits"),
        ("reward = 1e3", "reward: '1e3' is not an amount"),
        ("reward = nan", "reward: 'nan' is not an amount"),
        ("reward = 0.1234567890123456789", "at most 18 decimals"),
    ],
)
def test_what_does_not_fit_is_named(
    text: str, says: str, tmp_path: Path, submitted: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.toml").write_text(text)
    assert main(["job", "submit", str(tmp_path / "job.toml")]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert submitted == []


def test_a_file_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("nowhere.toml", "binary", ".", "/dev/zero"):
        assert main(["job", "submit", str(tmp_path / name)]) == 2
        assert "proofyard job init" in capsys.readouterr().err
    with pytest.raises(Exception, match="cannot be read"):
        read_job_file(tmp_path / "nowhere.toml")


def test_a_file_may_have_a_name_that_is_no_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(bytes(tmp_path) + b"/job\xff.toml")
    assert main(["job", "init", "lora", name]) == 0
    assert read_job_file(Path(name))["workload"] == "lora"


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ("100000.000000000000000001", 100_000 * CREDIT + 1),
        ("9007199254740993.0", None),
        ("0.1", CREDIT // 10),
        ("1_000.5", 1000 * CREDIT + CREDIT // 2),
        ("1_000", 1000 * CREDIT),
        ("0x10", 16 * CREDIT),
    ],
)
def test_every_digit_of_an_amount_counts(written: str, amount: int | None, tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text(f"reward = {written}\n")
    if amount is None:
        with pytest.raises(UsageError, match="more CREDIT than there can be"):
            read_job_file(file)
    else:
        assert read_job_file(file) == {"reward": amount}


@pytest.mark.parametrize(
    ("in_file", "options", "said"),
    [
        ("epochs = 2", [], {"epochs": 2}),
        ("rounds = 3", ["--epochs", "0.5"], {"epochs": 0.5}),
        ("epochs = 2", ["--rounds", "5"], {"rounds": 5}),
        ("epochs = 2", ["--set", "rounds=5"], {"rounds": 5}),
        ("epochs = 2\nrounds = 3", [], {"epochs": 2, "rounds": 3}),
        ('preset = "medium"', ["--epochs", "1"], {"epochs": 1}),
        ("epochs = 2", ["--preset", "medium"], {"epochs": 2}),
    ],
)
def test_epochs_and_rounds_say_one_thing_and_options_say_it_last(
    in_file: str, options: list[str], said: dict[str, Any], tmp_path: Path, submitted: list[Any]
) -> None:
    file = tmp_path / "job.toml"
    file.write_text(f'model = "m/n"\ndata = "x.jsonl"\nreward = 1\naudit_fee = 1\n{in_file}\n')
    assert main(["job", "submit", str(file), *options]) == 0
    [(_, parameters, _)] = submitted
    assert {name: parameters[name] for name in ("epochs", "rounds") if name in parameters} == said
