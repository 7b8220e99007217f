"""The report as one HTML page: well formed, self-contained, safe, legible, and no number of its own."""

import dataclasses
import itertools
import json
import math
import re
import time

import numpy as np
import pytest

from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.metrics import evaluate_scores
from mlflow_privacy.report import html
from mlflow_privacy.report.document import ReportOptions
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.html import html_report, markdown_report, render_html
from mlflow_privacy.report.palette import GROUNDS, SERIES, TEXT, THEMES, contrast
from mlflow_privacy.report.schema import result_json
from mlflow_privacy.report.sections import build_document
from mlflow_privacy.types import (
    AttackResult,
    AuditedModel,
    DataSource,
    Estimate,
    Fidelity,
    Scores,
    to_json,
)

html5lib = pytest.importorskip("html5lib")
HTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
THRESHOLDS = {"rmia/auc": 0.6, "lira/auc": 0.71, "rmia/tpr_at_fpr_0.0001": 0.1}


def with_games(result, games):
    return dataclasses.replace(result, games=games)


GAME = {
    "title": "Lower bound on ε",
    "sentence": "The model cannot be as private as ε = 0.25.",
    "rows": [("ε at δ = 0.00001", Estimate(1.25, 0.75, 1.75, 900)), ("usage", Estimate(0.5, 0.4375, 0.5625, 900))],
    "assumption": "Fair coins.",
    "figure": {
        "x": [0, 1, 2],
        "y": [0.0, None, 0.75],
        "x_label": "guesses",
        "y_label": "ε",
        "label": "corrected",
        "series": {"alone": [0.1, 0.2, 0.9]},
        "lines": {"claimed": 0.5},
        "diagonal": True,
    },
}


def tree_of(page):
    """Strictly parsed: any error of HTML raises."""
    return html5lib.HTMLParser(strict=True).parse(page)


def _body(element):
    body = element.find(f"{HTML}body")
    return element if body is None else body


def text_of(element):
    """Words of an element, or of the body of a page."""
    return " ".join("".join(_body(element).itertext()).split())


def labels_only():
    """Scores of 0 and 1 with a few infinite ones: the gap attack."""
    base = example_result(n=400)
    rng = np.random.default_rng(1)
    value = (rng.random(800) < np.where(base.membership, 0.95, 0.8)).astype(float)
    value[:3] = np.inf
    scores = Scores(value)
    roc, metrics = evaluate_scores(scores, base.membership)
    gap = AttackResult("gap", "Gap (labels only)", "Labels only.", "no paper", scores, roc, metrics)
    return dataclasses.replace(base, attacks=(gap,), headline="gap")


def no_references():
    base = example_result(n=300)
    return dataclasses.replace(
        base,
        fidelity=Fidelity(base.fidelity.target, {}, {}),
        references={"n": 0, "fraction": 0.5, "target_fraction": 0.5, "run_ids": [], "problem": "No recipe; log it."},
        blind=None,
        sources=(),
    )


def regression():
    base = example_result(n=300)
    loss = {"member_loss": 0.25, "nonmember_loss": 1.5}
    y = np.random.default_rng(0).normal(size=600)
    return dataclasses.replace(base, task="regression", y=y, fidelity=Fidelity(loss, loss, dict.fromkeys(loss, 0.125)))


def real_forms():
    """An audit for each way in which one may come out."""
    base = example_result(n=400, warnings=("The holdout is small: 400 records.",))
    return {
        "plain": base,
        "tiny": example_result(n=4),
        "differs": dataclasses.replace(base, blind=Estimate(0.75, 0.7, 0.8, 800)),
        "no references": no_references(),
        "labels only": labels_only(),
        "regression": regression(),
        "language": dataclasses.replace(base, task="language", y=np.zeros(800)),
        "games": with_games(base, {"dp": GAME}),
    }


@pytest.fixture(scope="module", params=list(real_forms()))
def form(request):
    return real_forms()[request.param]


@pytest.fixture(scope="module")
def page():
    rng = np.random.default_rng(0)
    result = with_games(example_result(n=600, warnings=("Take care.",)), {"dp": GAME})
    slices = {"region": rng.choice(["north", "south"], 1200), "age": rng.normal(40, 12, 1200)}
    content = {result.row_ids[0]: "Ann, 41"}
    return html_report(result, ReportOptions(thresholds=THRESHOLDS, slices=slices, content=content))


# ----------------------------------------------------------------------------------------------------- well formed


def test_every_kind_of_audit_gives_valid_html(form):
    tree_of(html_report(form))


def test_page_loads_nothing_and_runs_nothing(page):
    for element in tree_of(page).iter():
        if not isinstance(element.tag, str):
            continue
        name = element.tag.split("}")[-1]
        assert name not in {"script", "img", "link", "iframe", "object", "embed", "base", "form", "image", "use"}
        for key, value in element.attrib.items():
            assert not key.lower().startswith("on"), (name, key)
            assert key.split("}")[-1] not in {"src", "srcset", "srcdoc", "data", "action", "background", "poster"}
            if key.split("}")[-1] == "href":
                assert name == "a"
                assert value.startswith(("#", "https://arxiv.org/")), value
    style = "".join(e.text or "" for e in tree_of(page).iter(f"{HTML}style"))
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page


def test_ids_are_unique_and_every_reference_meets_one(page):
    elements = [e for e in tree_of(page).iter() if isinstance(e.tag, str)]
    ids = [e.attrib["id"] for e in elements if "id" in e.attrib]
    assert len(ids) == len(set(ids)) > 20
    for element in elements:
        for key in ("aria-labelledby", "aria-describedby"):
            assert set(element.attrib.get(key, "").split()) <= set(ids)
        if element.attrib.get("href", "").startswith("#"):
            assert element.attrib["href"][1:] in ids


def test_every_figure_says_what_it_shows(form):
    figures = list(tree_of(html_report(form)).iter(f"{SVG}svg"))
    assert len(figures) >= 3
    for figure in figures:
        assert figure.attrib["role"] == "img"
        title, desc = figure.find(f"{SVG}title"), figure.find(f"{SVG}desc")
        assert title.text.strip()
        assert desc.text.strip()
        assert figure.attrib["aria-labelledby"] == f"{title.attrib['id']} {desc.attrib['id']}"
        assert "nan" not in "".join(e.attrib.get("d", "") for e in figure.iter())


def test_headings_skip_no_level_and_sections_are_in_order(page):
    tree = tree_of(page)
    levels = [int(e.tag[-1]) for e in tree.iter() if isinstance(e.tag, str) and re.fullmatch(rf"{HTML}h\d", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    sections = [e.attrib["id"] for e in tree.iter(f"{HTML}section")]
    assert sections == ["verdict", "checks", "attacks", "exposure", "games", "dpia", "repeat", "words"]


def test_every_table_has_scoped_headers_and_scrolls_in_its_own_box(form):
    tree = tree_of(html_report(form))
    tables = list(tree.iter(f"{HTML}table"))
    assert len(tables) >= 4
    assert all(th.attrib.get("scope") in {"col", "row"} for th in tree.iter(f"{HTML}th"))
    boxes = [e for e in tree.iter(f"{HTML}div") if "scroll" in e.attrib.get("class", "").split()]
    assert [box.find(f"{HTML}table") for box in boxes] == tables
    for table in tables:
        columns = len(table.find(f"{HTML}thead/{HTML}tr"))
        assert {len(row) for row in table.iter(f"{HTML}tr")} == {columns}
        assert all(row.find(f"{HTML}th") is not None for row in table.iter(f"{HTML}tr"))


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("ground", GROUNDS)
def test_text_has_contrast_aa_and_marks_have_3(theme, ground):
    colours = THEMES[theme]
    for name in TEXT:
        assert contrast(colours[name], colours[ground]) >= 4.5, name
    for colour in (*SERIES[theme], colours["member"], colours["nonmember"]):
        assert contrast(colour, colours[ground]) >= 3, colour


def test_style_uses_colours_of_the_palette_only(page):
    style = next(tree_of(page).iter(f"{HTML}style")).text
    known = {c for t in THEMES.values() for c in t.values()} | {c for s in SERIES.values() for c in s}
    assert {c.upper() for c in re.findall(r"#[0-9A-Fa-f]{3,8}\b", style)} == {c.upper() for c in known}


# ------------------------------------------------------------------------------------------------- what it says


def test_page_and_markdown_are_made_from_the_json_alone(form):
    assert render_html(json.loads(result_json(form))) == html_report(form)


def shown_numbers(page):
    """Numbers that a reader sees, without ticks of axes and what is the same in every report."""
    numbers = set()

    def visit(element):
        if not isinstance(element.tag, str) or element.tag == f"{HTML}style":
            return
        if set(element.attrib.get("class", "").split()) & {"tick", "constant"}:
            return
        for text in (element.text, *(child.tail for child in element)):
            numbers.update(match.replace(",", "") for match in NUMBER.findall(text or ""))
        for child in element:
            visit(child)

    visit(tree_of(page))
    return numbers


def numbers_of(document):
    """Every way in which the rounding rules may print a number of the JSON, and the numbers in its words."""
    allowed = set()

    def visit(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                allowed.update(match.replace(",", "") for match in NUMBER.findall(key))
                visit(inner)
        elif isinstance(value, list):
            for inner in value:
                visit(inner)
        elif isinstance(value, str):
            allowed.update(match.replace(",", "") for match in NUMBER.findall(value))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            for scaled in (value, 100 * value):
                allowed.update(f"{scaled:.{digits}f}" for digits in range(5))
                allowed.update(f"{scaled:.{digits}g}" for digits in (4, 6, 12))

    visit(document)
    return allowed


def without_curves(result):
    document = json.loads(result_json(result))
    for attack in document["attacks"]:
        del attack["roc"]
        attack["histogram"] = {"n_outside": attack["histogram"]["n_outside"]}
    return document


def test_no_number_on_the_page_that_is_not_in_the_json(form):
    invented = shown_numbers(html_report(form)) - numbers_of(without_curves(form))
    assert not invented


def test_the_comparison_of_numbers_finds_an_invented_one(result):
    page = html_report(result).replace("</footer>", " 0.4242</footer>")
    assert shown_numbers(page) - numbers_of(without_curves(result)) == {"0.4242"}


def test_templates_give_the_same_with_their_constants_folded(result):
    values = json.loads(result_json(result))
    for kind, name in (("html", "report.html.j2"), ("markdown", "report.md.j2")):
        plain = html._environment(kind)
        pages = []
        for environment in (plain, plain.overlay(optimized=True)):
            count = iter(range(1000))
            page = environment.get_template(name).render(d=values, uid=lambda count=count: f"f{next(count)}")
            pages.append(page)
        assert pages[0] == pages[1]
        assert not plain.optimized


def test_verdict_comes_first_with_its_figures(page):
    text = text_of(tree_of(page))
    assert text.index("used in training, an attacker who accepts one false alarm in") < text.index("What could make")
    assert "guessing would recognise" in text


def test_a_difference_without_the_model_is_said_before_the_verdict():
    result = real_forms()["differs"]
    for text in (text_of(tree_of(html_report(result))), markdown_report(result)):
        assert 0 < text.index("differ even without the model") < text.index("an attacker who accepts")


def test_limits_are_the_organisations_and_the_interval_decides(result):
    auc = result.attacks[0].metrics["auc"]
    cases = {auc.low - 0.01: "exceeded", auc.high + 0.01: "within", auc.value: "undecided"}
    for limit, state in cases.items():
        (found,) = build_document(result, ReportOptions(thresholds={"rmia/auc": limit})).finding.limits
        assert found.state == state
        assert found.measured == auc
    (found,) = build_document(result, ReportOptions(thresholds={"privacy/rmia/tpr_at_fpr_0.0001": 0.1})).finding.limits
    assert found.state == "not measured"
    assert "exceeded" not in text_of(tree_of(html_report(result)))


def test_unknown_limits_and_slices_of_a_wrong_length_are_named_all_at_once(result):
    with pytest.raises(
        ConfigError, match=r"(?s)'rmia/acu'.*did you mean 'rmia/auc'.*finite number such as 0.6, got nan"
    ):
        html_report(result, ReportOptions(thresholds={"rmia/acu": 0.5, "lira/auc": math.nan}))
    with pytest.raises(DesignError, match=r"1000 audited records.*'a'.*\(3,\).*'b'.*\(4,\)"):
        html_report(result, ReportOptions(slices={"a": np.zeros(3), "b": np.zeros(4)}))


def test_every_check_is_always_shown(form):
    text = text_of(tree_of(html_report(form)))
    for name in (
        "Blind baseline",
        "Recipe fidelity",
        "Reference models",
        "Resolution",
        "Duplicates",
        "Digests",
        "Lineage",
    ):
        assert name in text


def test_checks_turn_with_what_they_check(result):
    def status(result, name):
        return next(c.status for c in build_document(result).checks if c.name == name)

    replace = dataclasses.replace
    assert status(result, "Blind baseline") == "ok"
    assert status(replace(result, blind=Estimate(0.7, 0.6, 0.8, 9)), "Blind baseline") == "wrong"
    assert status(replace(result, blind=None), "Blind baseline") == "unknown"
    assert status(replace(result, blind=Estimate(0.467, 0.436, 0.499, 900)), "Blind baseline") == "ok"
    assert status(result, "Digests of the data") == "ok"
    overridden = replace(result.sources[0], status="overridden")
    assert status(replace(result, sources=(overridden,)), "Digests of the data") == "wrong"
    assert status(result, "Reference models") == "ok"
    assert status(replace(result, references={**result.references, "n": 2}), "Reference models") == "look"
    assert status(result, "Recipe fidelity") == "ok"
    worse = Fidelity(result.fidelity.target, {**result.fidelity.reference, "nonmember_accuracy": 0.6}, {})
    assert status(replace(result, fidelity=worse), "Recipe fidelity") == "look"
    assert status(replace(result, n_duplicates=300), "Duplicates") == "look"


def test_content_of_records_is_shown_only_on_request_and_names_only_where_wanted(result):
    top = build_document(result).exposure.records[0].row_id
    assert "Ann, 41" in html_report(result, ReportOptions(content={top: "Ann, 41"}))
    assert ">Content<" not in html_report(result)
    assert top in html_report(result)
    nobody = ReportOptions(top=0)
    for text in (html_report(result, nobody), markdown_report(result, nobody), result_json(result, nobody)):
        assert "train:" not in text


def test_blanks_for_the_controller_are_marked_and_the_rest_of_article_35_is_filled(page):
    text = text_of(tree_of(page))
    for part in (
        "(a) Description",
        "(b) Necessity",
        "(c) Risks",
        "(d) Measures",
        "Legal basis",
        "differential privacy",
    ):
        assert part in text
    assert page.count("for the controller") >= 6


def test_markdown_has_the_same_sections_and_figures(form):
    text = markdown_report(form)
    for heading in ("What could make", "Attacks side by side", "Who is exposed", "impact assessment", "How to repeat"):
        assert f"\n## {heading}" in text or heading in text
    assert form.attacks[0].title.split()[0] in text
    tables = re.findall(r"(?m)(?:^\|.*\n)+", text)
    assert len(tables) >= 4
    for table in tables:  # the same number of cells in each row
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table


# ---------------------------------------------------------------------------------------------------------- safety

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'/onload='alert(1)'",
    "</style></title></svg><script>alert(1)</script>",
    "<!-- --><svg onload=alert(1)>",
    "{{ 7 * 191 }}{% raw %}",
    "\u202egnp.exe\u2066 \u200f مرحبا 🙈 | a | `b` [c](javascript:alert(1))",
    "javascript:alert(1)",
    "A" * 10_000,
    "line\nbreak\x00\x1b[31m\ud800",
)


def hostile_result(text):
    base = example_result(n=40, model=AuditedModel(text, text, text, text, text, text), warnings=(text,))
    attacks = tuple(
        dataclasses.replace(a, title=text, threat_model=text, paper=text, options={text: text}) for a in base.attacks
    )
    result = dataclasses.replace(
        base,
        attacks=attacks,
        row_ids=np.array([text] * 80, object),
        y=np.array([text, "other"] * 40, object),
        sources=(DataSource("members", text, text, 40, text, "verified"),),
        references={**base.references, "recipe": {"kind": text, "spec": {text: {text: text}}}, "recipe_source": text},
        options={**base.options, text: text},
        timings={text: 1.0},
        environment={text: text},
        pool_digest=text,
    )
    game = {**GAME, "title": text, "sentence": text, "rows": [(text, Estimate(0.5, 0.4, 0.6, 9))]}
    game["figure"] = {**GAME["figure"], "x_label": text, "y_label": text}
    return with_games(result, {text: game})


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_stay_text(text):
    result = hostile_result(text)
    options = ReportOptions(slices={text: np.array([text, "b"] * 40, object)}, content={text: text})
    page = html_report(result, options)
    test_page_loads_nothing_and_runs_nothing(page)
    tree = tree_of(page)
    assert "1337" not in page
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b\ud800]", page)
    assert max(len(text_of(e)) for e in _body(tree).iter() if isinstance(e.tag, str) and not len(e)) < 2100
    for key in ("onerror", "onload"):
        assert not any(key in e.attrib for e in tree.iter() if isinstance(e.tag, str))
    page.encode("utf-8")
    markdown = markdown_report(result, options)
    assert not re.search(r"(?<!&#60;)<(?!https://arxiv)[a-z/!]", re.sub(r"`[^`]*`", "", markdown))
    assert "](javascript" not in re.sub(r"`+.*?`+", "", markdown)


def test_a_game_without_its_parts_is_named(result):
    with pytest.raises(DesignError, match=r"games\['dp'\] lacks sentence, rows"):
        html_report(with_games(result, {"dp": {"title": "x"}}))
    bad = {**GAME, "figure": {"x": [1, 2], "y": [1]}}
    with pytest.raises(DesignError, match=r"games\['dp'\].figure needs x and y of one length"):
        html_report(with_games(result, {"dp": bad}))


# ----------------------------------------------------------------------------------------------------------- speed


def big(n):
    return dataclasses.replace(example_result(n=n // 2), y=np.random.default_rng(0).integers(0, 10, n))


def test_ten_thousand_records_take_under_a_second():
    result = big(10_000)
    html_report(example_result(n=50))  # templates compile once
    start = time.perf_counter()
    html_report(result)
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize(("n", "seconds"), [(100_000, 5.0), pytest.param(1_000_000, 20.0, marks=pytest.mark.slow)])
def test_size_does_not_grow_with_the_records(n, seconds):
    result = big(n)
    start = time.perf_counter()
    page = html_report(result)
    assert time.perf_counter() - start < seconds
    assert len(page.encode()) < 1_500_000


def test_pdf_is_written_where_weasyprint_is_and_else_one_line_is_logged(result, monkeypatch, caplog):
    import importlib.util

    from mlflow_privacy.report.pdf import pdf_report

    if importlib.util.find_spec("weasyprint") is not None:
        assert pdf_report(html_report(result))[:5] == b"%PDF-"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level("DEBUG", logger="mlflow_privacy"):
        assert pdf_report("<p>") is None
    assert len([r for r in caplog.records if "pip install 'mlflow-privacy[pdf]'" in r.getMessage()]) == 1


def test_document_is_plain_json(form):
    json.dumps(to_json(build_document(form)), allow_nan=False)
