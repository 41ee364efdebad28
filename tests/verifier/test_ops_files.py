"""The files that operators take: what they name exists, and every alert says what to do."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from proofyard.node.settings import NodeSettings
from proofyard.verifier.api.measuring import ApiMetrics
from proofyard.verifier.metrics import Metrics
from proofyard.verifier.settings import VerifierSettings

ROOT = Path(__file__).parents[2]
OPS = ROOT / "docs" / "ops"
NAME = re.compile(r"proofyard_verifier_[a-z_]+")


def known() -> set[str]:
    """Every name that a scrape may have."""
    found = set()
    for family in (*Metrics().registry.collect(), *ApiMetrics().registry.collect()):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
        found |= {family.name + suffix for suffix in suffixes.get(family.type, ("",))}
    return found


def alerts() -> list[dict[str, str]]:
    groups = yaml.safe_load((OPS / "alerts.yml").read_text())["groups"]
    found: list[dict[str, str]] = [rule for group in groups for rule in group["rules"]]
    return found


@pytest.mark.parametrize("file", ["alerts.yml", "grafana-verifier.json"])
def test_every_metric_that_is_named_exists(file: str) -> None:
    named = set(NAME.findall((OPS / file).read_text()))
    assert len(named) > 10
    assert named <= known()


def test_every_alert_has_a_section_that_says_what_to_do() -> None:
    sections = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "operate.md").read_text(), re.MULTILINE))
    assert sections == {rule["alert"] for rule in alerts()}


def test_a_label_that_is_asked_for_is_one_that_is_counted() -> None:
    for kind in re.findall(r'log_lines_total\{[^}]*kind=\\?"(\w+)', (OPS / "grafana-verifier.json").read_text()):
        engine = "\n".join(p.read_text() for p in (ROOT / "verifier/proofyard/verifier/engine").glob("*.py"))
        assert f'"{kind}"' in engine, kind


def test_the_dashboard_is_one() -> None:
    found = json.loads((OPS / "grafana-verifier.json").read_text())
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids) > 20
    assert all(panel["targets"] for panel in found["panels"] if panel["type"] != "row")


def test_the_containers_are_given_settings_that_exist() -> None:
    compose = yaml.safe_load((OPS / "compose.yml").read_text())
    assert set(compose["services"]) == {"postgres", "kubo", "chain", "verifier", "node"}
    for service, kind in (("verifier", VerifierSettings), ("node", NodeSettings)):
        for variable in compose["services"][service]["environment"]:
            field = variable.removeprefix(f"PROOFYARD_{service.upper()}_").removeprefix("PROOFYARD_").lower()
            assert field in {*kind.__struct_fields__, "log_format"}, variable
    used = {secret for service in compose["services"].values() for secret in service.get("secrets", ())}
    assert used == set(compose["secrets"])


@pytest.mark.parametrize("unit", ["proofyard-verifier.service", "proofyard-node.service"])
def test_systemd_takes_the_units(unit: str, tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("no systemd here")
    text = (OPS / unit).read_text().replace("/opt/proofyard/bin/proofyard", "/bin/true")
    (tmp_path / unit).write_text(text)
    found = subprocess.run([tool, "verify", tmp_path / unit], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
