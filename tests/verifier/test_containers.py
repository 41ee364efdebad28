"""The container file, checked without an engine: what it copies is there, what it runs are commands that exist."""

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from proofyard.cli import main
from proofyard.node.control import Status, write_status
from proofyard.node.settings import NodeSettings
from proofyard.verifier.settings import VerifierSettings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "ops" / "Containerfile"
TARGETS = ("verifier", "node")
SETTINGS = {"verifier": VerifierSettings, "node": NodeSettings}


def instructions() -> list[tuple[str, str]]:
    """Name and argument of each."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


def stage(target: str) -> list[tuple[str, str]]:
    """The instructions of a target, with those of what it is made from before them."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, value in instructions():
        if name == "FROM":
            source, _, own = value.partition(" AS ")
            found[own] = current = list(found.get(source, []))
        current.append((name, value))
    return found[target]


def last(target: str, name: str) -> str:
    return [value for each, value in stage(target) if each == name][-1]


def ignored(path: str) -> bool:
    """Whether `.containerignore` keeps a path of the top folder from the engine."""
    kept = False
    for line in (ROOT / ".containerignore").read_text().split("\n"):
        if line and not line.startswith("#") and fnmatch.fnmatch(path, line.removeprefix("!")):
            kept = line.startswith("!")
    return not kept


def test_the_base_is_pinned_to_a_release() -> None:
    bases = [value.split()[0] for name, value in instructions() if name == "FROM"]
    outer = [base for base in bases if ":" in base]
    assert len(outer) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", outer[0])
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert outer[0] >= f"python:{oldest.removeprefix('>=')}"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_special_with_a_volume_and_a_health_check(target: str) -> None:
    names = [name for name, _ in stage(target)]
    user = last(target, "USER")
    assert user.split(":")[0].isdecimal()
    assert int(user.split(":")[0]) > 999
    assert f"--uid {user.split(':')[0]} " in dict(stage("base"))["RUN"]
    assert names.index("USER") < names.index("ENTRYPOINT")
    (volume,) = json.loads(last(target, "VOLUME"))
    environ = dict(word.split("=", 1) for name, value in stage(target) if name == "ENV" for word in shlex.split(value))
    assert Path(environ[f"PROOFYARD_{target.upper()}_DATA_DIR"]).is_relative_to(volume)
    assert "CMD" in last(target, "HEALTHCHECK")


def test_everything_that_is_copied_is_there_and_is_not_ignored() -> None:
    copied = [word for name, value in instructions() if name == "COPY" for word in value.split()[:-1]]
    assert {"sdk", "node", "verifier", "pyproject.toml"} <= set(copied)
    for word in copied:
        assert (ROOT / word).exists(), word
        assert not ignored(word), word
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [project["project"]["readme"], *project["project"]["license-files"]]
    needed += [Path(each).parts[0] for each in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    assert set(needed) <= set(copied)


@pytest.mark.parametrize("path", [".git", ".venv", "node_modules", "out", "docs", "tests", ".env", "wallets"])
def test_nothing_else_goes_to_the_engine(path: str) -> None:
    assert ignored(path)
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_what_it_runs_is_a_command_with_these_flags(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = json.loads(last(target, "ENTRYPOINT"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert program in project["scripts"]
    command = json.loads(last(target, "CMD"))
    words = [word for word in command if not word.startswith("--") and not word.isdecimal()]
    assert main([*words, "--help"]) == 0
    told = capsys.readouterr().out
    for flag in (word for word in command if word.startswith("--")):
        assert re.search(rf"{flag}\b", told), flag
    extras = re.findall(r"\.\[([\w,]+)\]", " ".join(value for name, value in stage(target) if name == "RUN"))
    assert set(extras[0].split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("target", TARGETS)
def test_what_it_sets_are_settings_and_no_secrets(target: str) -> None:
    words = [word for name, value in stage(target) if name in ("ENV", "ARG") for word in shlex.split(value)]
    names = {word.partition("=")[0] for word in words}
    assert not [name for name in names if re.search(r"PASSWORD|SECRET|KEY|TOKEN|MNEMONIC", name)]
    prefix = f"PROOFYARD_{target.upper()}_"
    fields = {name.removeprefix(prefix).lower() for name in names if name.startswith(prefix)}
    assert fields <= set(SETTINGS[target].__struct_fields__)
    assert not re.search(r"\b(0x)?[0-9a-fA-F]{64}\b", FILE.read_text())


def test_the_nodes_health_check_tells_a_node_that_runs(tmp_path: Path) -> None:
    check = last("node", "HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    code = command[-1].replace("/var/lib/proofyard/node", str(tmp_path))

    def healthy() -> bool:
        return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0

    assert not healthy()
    write_status(tmp_path, Status(pid=1, at=0.0))
    assert not healthy()
    import time

    write_status(tmp_path, Status(pid=1, at=time.time()))
    assert healthy()


def test_the_verifiers_health_check_asks_the_port_that_it_serves() -> None:
    port = json.loads(last("verifier", "CMD"))[-1]
    assert f":{port}/health" in last("verifier", "HEALTHCHECK")
    assert f"{port}/tcp" in last("verifier", "EXPOSE")


def test_compose_builds_targets_that_there_are() -> None:
    services = yaml.safe_load((ROOT / "docs" / "ops" / "compose.yml").read_text())["services"]
    built = {name: each["build"] for name, each in services.items() if "build" in each}
    assert {each["target"] for each in built.values()} == set(TARGETS)
    for name, each in built.items():
        assert (ROOT / each["dockerfile"]).samefile(FILE)
        volumes = [mount.split(":")[1] for mount in services[name]["volumes"]]
        assert json.loads(last(each["target"], "VOLUME")) == volumes


def test_a_linter_finds_nothing() -> None:
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if tool is None:
        pytest.skip("hadolint is not installed here")
    done = subprocess.run([tool, "--no-color", str(FILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
