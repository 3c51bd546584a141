"""The files for those who change something: they can be read, and what they name is there."""

from __future__ import annotations

import re

import pytest
import yaml

from workflows.comfy_server import ROOT

CONTRIBUTING = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_continuous_integration_calls_what_make_offers():
    job = read(".github/workflows/ci.yml")["jobs"]["check"]
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.13"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    called = re.findall(r"make ([a-z-]+)", "\n".join(step.get("run", "") for step in job["steps"]))
    assert called == ["lint", "test"] and set(called) <= targets
    hooks = [hook["entry"] for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert [entry.split(" -m ")[1].split()[0] for entry in hooks] == ["ruff", "ruff"]


def test_the_form_for_faults_asks_for_versions_and_log():
    form = read(".github/ISSUE_TEMPLATE/bug.yml")
    needed = {field["id"] for field in form["body"] if field.get("validations", {}).get("required")}
    assert needed == {"what", "versions", "log"} and all(field["attributes"]["label"] for field in form["body"])


def test_the_citation_is_of_this_version():
    cited = read("CITATION.cff")
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert str(cited["version"]) == version and cited["license"] == "Apache-2.0"
    assert cited["preferred-citation"]["authors"][0]["family-names"] == "Khandelwal"


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`([\w./-]+/[\w./-]*)`", CONTRIBUTING))))
def test_what_the_map_names_is_there(named):
    assert (ROOT / named).exists()


def test_what_the_map_says_of_the_code_is_so():
    from reposedm_core.alignment.correlation import local_correlation
    from reposedm_core.field import PoseInteractionField

    assert local_correlation and callable(PoseInteractionField.gradient)
    assert len(re.findall(r"^\| Where|^\| What", CONTRIBUTING, re.MULTILINE)) == 5
    for link in re.findall(r"\]\((\.\./[^)#]+)", CONTRIBUTING):
        assert (ROOT / ".github" / link).exists(), link
