"""The documentation keeps up with the code."""

import re
from pathlib import Path

import pytest

from mlflow_privacy.attacks.own import OWN
from mlflow_privacy.auditing.options import AuditOptions

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]


def test_every_option_is_documented_with_its_default():
    text = (ROOT / "docs" / "options.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))
    assert set(rows) == set(AuditOptions.model_fields)
    for name, field in AuditOptions.model_fields.items():
        if isinstance(field.default, (bool, int, float)):
            assert rows[name] == str(field.default).lower()


def test_every_attack_is_documented():
    text = (ROOT / "docs" / "attacks.md").read_text()
    for name, attack in OWN.items():
        assert f"`{name}`" in text
        assert re.search(r"https?://\S+", attack.paper).group().rstrip(".") in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_the_readme_gives_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert "pip install -e . && mlflow run . --env-manager=local -P config=configs/quickstart.yaml" in text
    assert "pip install -e '.[test]' && pytest" in text
    assert "pip install --quiet -e '.[test]' && pytest" in (ROOT / ".ci" / "run").read_text()
