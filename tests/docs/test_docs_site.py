"""The documentation site builds without a warning, holds every page, and loads nothing from elsewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
pytest.importorskip("mkdocstrings", reason="pip install -e '.[docs]'")

ROOT = Path(__file__).parents[2]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(ROOT / "mkdocs.yml"), "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_every_page_of_the_repository_is_on_the_site(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    pages |= {"index", "changelog", "benchmarks", "contributing", "configs", "examples"}
    assert pages <= {path.stem for path in site.glob("*.html")}
    index = (site / "index.html").read_text()
    assert pages <= set(re.findall(r'href="(?:\./)?(\w+)\.html"', index)) | {"index"}


def test_links_to_files_of_the_repository_lead_to_their_copies(site):
    assert (site / "files" / "configs" / "quickstart.yaml").read_text() == (
        ROOT / "configs/quickstart.yaml"
    ).read_text()
    assert 'href="files/configs/quickstart.yaml"' in (site / "config.html").read_text()
    listed = (site / "examples.html").read_text()
    for path in (ROOT / "examples").glob("*.py"):
        assert f'href="files/examples/{path.name}"' in listed


def test_the_site_loads_nothing_from_elsewhere(site):
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]+src=[\"']?(?:https?:)?//|<link[^>]+stylesheet[^>]+href=[\"']?https?:"
    )
    for page in site.glob("*.html"):
        assert not loads.search(page.read_text()), page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?https?:", style.read_text()), style.name


def test_the_api_reference_has_signatures_examples_and_drawn_formulas(site):
    page = (site / "api.html").read_text()
    for name in ("evaluators.api.evaluate", "decide.compare.compare", "decide.gate.check_policy", "attacks.rmia.rmia"):
        assert f'id="mlflow_privacy.{name}"' in page
    assert page.count("<math") > 5
    assert ".. math::" not in page
    assert ":math:" not in page
    assert "Raises:" in page


def test_links_are_rewritten_and_code_is_not():
    hooks = load("site_hooks")
    text = (
        "[a](../configs/table.yaml) [b](attacks.md#x) ![c](images/roc.png) [d](https://e.org) [f](../LICENSE) [g](#h)"
    )
    assert hooks.rewrite(text, "docs/config.md", "config.md") == (
        "[a](files/configs/table.yaml) [b](attacks.md#x) ![c](images/roc.png) [d](https://e.org) f [g](#h)"
    )
    code = "```sh\n[a](../configs/table.yaml)\n```"
    assert hooks.rewrite(code, "docs/config.md", "config.md") == code
    assert hooks.rewrite("[a](../docs/attacks.md)", "benchmarks/README.md", "benchmarks.md") == "[a](attacks.md)"


def test_short_docstrings_become_long_ones():
    house = load("griffe_house")
    text = (
        "Does.\n\nArgs:\n  a, b: (n,) two\n    of them.\n  c: one.\n\n"
        "Returns: (n,) scores;\n  higher is worse.\n\nRaises:\n  E: x."
    )
    assert house.long_form(text).splitlines() == [
        "Does.",
        "",
        "Args:",
        "  a: (n,) two",
        "    of them.",
        "  b: (n,) two",
        "    of them.",
        "  c: one.",
        "",
        "Returns:",
        "    (n,) scores; higher is worse.",
        "",
        "Raises:",
        "  E: x.",
    ]
    assert house.long_form("Raises: A: one\n  more. B is not one.\n  B: two.").splitlines() == [
        "Raises:",
        "    A: one more. B is not one.",
        "    B: two.",
    ]


def test_every_attack_that_needs_no_language_model_is_drawn():
    from mlflow_privacy.attacks import ATTACKS

    drawn = {path.stem.removesuffix("_roc") for path in (ROOT / "docs/images/attacks").glob("*_roc.svg")}
    page = (ROOT / "docs/attack_pictures.md").read_text()
    for name in drawn:
        assert name in ATTACKS
        assert f"images/attacks/{name}_scores.svg" in page
    assert {"rmia", "rmia_offline", "lira", "lira_offline", "reference", "population", "loss", "gap"} <= drawn
    assert sum(path.stat().st_size for path in (ROOT / "docs/images/attacks").glob("*.svg")) < 300_000
