"""The documentation's site: it builds without a warning, asks nobody else for anything, and what it says is so."""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer

from proofyard.cli.app import app
from proofyard.cli.tree import Later
from proofyard.protocol.deterrence import COLLUSION_BPS, expected_gain
from proofyard.protocol.dial import WAD, affordable_reward, audit_odds, stake_at_risk
from proofyard.protocol.types import Wei

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TOKEN = 10**18
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


class Asked(HTMLParser):
    """What a page makes a browser ask for by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.urls += [value or "" for name, value in attrs if name == LOADED.get(tag)]
        self.ids += [value or "" for name, value in attrs if name == "id"]


def test_pages_ask_nobody_else_for_anything(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        asked = Asked()
        asked.feed(page.read_text())
        assert asked.urls
        assert len(set(asked.ids)) == len(asked.ids), page
        assert [url for url in asked.urls if re.match(r"(https?:)?//", url)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text()), style


BROKEN = {
    "[there](nowhere.md)": "nowhere.md",
    "[there](faq.md#nothing-of-the-kind)": "#nothing-of-the-kind",
    "![there](performance/nothing.svg)": "performance/nothing.svg",
}
OUTSIDE = {"[there](../sdk/nothing.py)": "docs/faq.md links to ../sdk/nothing.py"}


@pytest.mark.parametrize("broken", [BROKEN, OUTSIDE])
def test_a_link_to_nothing_fails_the_build(broken: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("sdk", "contracts", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copyfile(ROOT / "mkdocs.yml", tmp_path / "mkdocs.yml")
    with (tmp_path / "docs" / "faq.md").open("a") as stream:
        stream.write("\n" + "\n".join(broken) + "\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert [said for said in broken.values() if said not in done.stderr + done.stdout] == []


def test_every_threat_is_answered_by_code_and_held_by_a_test() -> None:
    rows = [line.split("|")[1:-1] for line in (DOCS / "threats.md").read_text().splitlines() if line.startswith("|")]
    threats = [[cell.strip() for cell in row] for row in rows if len(row) == 4][2:]
    assert len(threats) > 12
    for attack, _, code, test in threats:
        assert (ROOT / code.strip("`")).is_file(), attack
        file, _, name = test.strip("`").partition("::")
        assert (ROOT / file).is_file(), attack
        assert not name or re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), attack


CASES = [
    {"stake": s, "valid": v, "tasks": t, "reward": r, "segments": n, "drawn": m, "auditors": 2}
    for s in (100, 1_000, 25_000)
    for v in (0, 10, 10_000)
    for t, r in ((1, 0.25), (8, 1), (3, 12), (400, 0.125))
    for n, m in ((64, 1), (3, 1), (16, 4), (4, 9))
]


@pytest.fixture(scope="module")
def reckoned() -> list[dict[str, Any]]:
    """What the page's own script makes of the cases, in Node.js."""
    script = (
        "const { reckon } = require(process.argv[1]);"
        "console.log(JSON.stringify(JSON.parse(process.argv[2]).map(reckon)));"
    )
    command = ["node", "-e", script, str(DOCS / "assets" / "calculator.js"), json.dumps(CASES)]
    found: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def test_the_calculator_says_what_the_protocol_computes(reckoned: list[dict[str, Any]]) -> None:
    for case, found in zip(CASES, reckoned, strict=True):
        stake, reward = Wei(case["stake"] * TOKEN), Wei(int(case["reward"] * TOKEN))
        at_risk, in_flight = stake_at_risk(stake, 3_000), Wei(case["tasks"] * reward)
        sizes = (case["segments"], case["drawn"])
        odds = audit_odds(case["valid"], at_risk, case["tasks"], in_flight, COLLUSION_BPS, *sizes)
        gain = expected_gain(
            stake=stake,
            consecutive_valid=case["valid"],
            tasks=case["tasks"],
            task_reward=reward,
            segments=sizes[0],
            segments_per_audit=sizes[1],
            collusion_bps=COLLUSION_BPS,
        )
        close = {"rel_tol": 1e-6, "abs_tol": 1e-9}
        assert math.isclose(found["atRisk"], at_risk / TOKEN, **close), case
        assert math.isclose(found["backs"], affordable_reward(at_risk, COLLUSION_BPS) / TOKEN, **close), case
        assert math.isclose(found["audited"], odds.wad / WAD, **close), case
        assert found["executed"] == odds.segments, case
        assert math.isclose(found["cost"], 2 * odds.wad * odds.segments / (WAD * sizes[0]), **close), case
        assert math.isclose(found["gain"], float(gain) / TOKEN, rel_tol=1e-5, abs_tol=1e-5), case
        assert found["affordable"] == (in_flight <= affordable_reward(at_risk, COLLUSION_BPS)), case


def test_the_calculators_fields_are_those_of_its_form() -> None:
    page, script = (DOCS / "calculator.md").read_text(), (DOCS / "assets" / "calculator.js").read_text()
    assert set(re.findall(r'name="(\w+)"', page)) == set(CASES[0])
    shown = set(re.findall(r'data-shows="(\w+)"', page))
    assert shown == set(re.findall(r"^    (\w+): (?:credits|percent|`\$\{found)", script, re.MULTILINE))


INSTALLS = [
    page for page in [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))] if "pip install" in page.read_text()
]


@pytest.mark.parametrize("page", INSTALLS, ids=lambda page: page.stem)
def test_what_is_installed_comes_from_a_checkout_into_an_environment_of_its_own(page: Path) -> None:
    """It is on no package index, and Debian's Python refuses packages outside of an environment."""
    text = page.read_text()
    assert "install proofyard" not in text and "'proofyard[" not in text
    assert "python3 -m venv" in text
    if "proofyard devnet" in text:
        assert "npm install --no-save" in text


def typed(page: Path) -> list[list[str]]:
    """The commands of ours that a page has people type."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(proofyard [^`]+)`", page.read_text())
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("proofyard ")]


@pytest.mark.parametrize("page", sorted((DOCS / "start").glob("*.md")), ids=lambda page: page.stem)
def test_what_quick_starts_have_people_type_is_seen_whole(page: Path) -> None:
    """A page of the site shows 76 columns of code without scrolling."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert [line for block in blocks for line in block.splitlines() if len(line) > 76] == []


TYPED = [page for page in [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))] if typed(page)]


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.stem)
def test_what_pages_have_people_type_is_there(page: Path) -> None:
    for words in typed(page):
        command: Any = typer.main.get_command(app)
        rest = [word for word in words if word != "..."]
        while rest and not rest[0].startswith("-") and rest[0] in getattr(command, "commands", {}):
            member = command.commands[rest.pop(0)]
            command = member.load() if isinstance(member, Later) else member
        if not rest or rest[0] in ("COMMAND", "--config"):
            continue
        assert not getattr(command, "commands", {}), words
        options = {name: each for each in command.params for name in (*each.opts, *each.secondary_opts)}
        takes = [each for each in command.params if each.param_type_name == "argument"]
        given, words_left = [], iter(rest)
        for word in words_left:
            name, _, value = word.partition("=")
            if not word.startswith("--"):
                given.append(word)
                continue
            assert name in options, words
            if not value and not getattr(options[name], "is_flag", False):
                next(words_left, None)
        assert len(given) <= len(takes) or any(each.nargs < 0 for each in takes), words
        files = [word for word, each in zip(given, takes, strict=False) if each.name == "file"]
        assert [word for word in files if word.islower() and "." not in word] == [], words


def test_quick_starts_have_people_type_something() -> None:
    assert {*(DOCS / "start").glob("*.md")} <= {*TYPED}
