"""The report as a privacy officer reads it: who, when, whose data; fields that he fills in; on paper and on a phone."""

import dataclasses
import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.report.document import ReportOptions
from mlflow_privacy.report.dpia import FIELDS, check_texts, form_text, kept_texts, merged_texts
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.html import html_report, markdown_report
from mlflow_privacy.types import About

html5lib = pytest.importorskip("html5lib")
HTML = "{http://www.w3.org/1999/xhtml}"
ABOUT = About(
    date="2026-11-28 12:30 UTC",
    auditor="Ada",
    columns=("age", "income"),
    people=1873,
    people_by="different values of customer",
    dpia={"purposes": "Credit decisions.", "views": "<script>alert(1)</script>"},
)
RECIPE = {"kind": "sklearn", "spec": {"params": {"class_weight": {"0": 1}, "steps": [["scale", {"a": [1]}]]}}}


def result():
    found = example_result(n=300)
    references = {**found.references, "recipe": RECIPE, "recipe_source": "the estimator"}
    return dataclasses.replace(found, about=ABOUT, label_name="default", references=references)


@pytest.fixture(scope="module")
def page():
    return html_report(result())


def part(page, start, end):
    text = re.sub(r"<[^>]*>", " ", page)
    return text[text.index(start) : text.index(end)]


def test_it_says_when_who_whose_data_and_of_how_many(page):
    for text in (page, markdown_report(result()).replace("&#58;", ":")):
        assert "2026-11-28 12:30 UTC" in text
        assert "Ada" in text
        assert "2: age, income" in text
        assert "1,873 in the training data" in text
        assert re.search(r"Column it predicts(</dt><dd>|: )default", text)


def test_what_is_not_known_is_said_and_how_to_say_it():
    text = html_report(example_result(n=100))
    assert "not known; the option people says it" in text


def test_the_description_of_the_processing_holds_no_json_and_the_recipe_is_elsewhere(page):
    described = part(page, "(a) Description", "(b) Necessity")
    assert not re.search(r"[{}\[\]]|&#34;|&quot;", described)
    assert "class_weight" not in described
    assert "class_weight" in part(page, "How to repeat it </h2>".replace(" </h2>", ""), "Versions and hardware")


def test_what_the_controller_wrote_stands_in_its_field_and_the_others_are_blank(page):
    tree = html5lib.HTMLParser(strict=True).parse(page)
    boxes = [e for e in tree.iter(f"{HTML}div") if "blank" in e.attrib.get("class", "").split()]
    assert len(boxes) == len(FIELDS)
    filled = ["".join(box.itertext()) for box in boxes if "filled" in box.attrib["class"]]
    assert filled == [
        "Purposes, and the interests pursuedby the controllerCredit decisions.",
        "Views of the people concerned, or of their representativesby the controller<script>alert(1)</script>",
    ]
    assert "<script" not in page
    text = markdown_report(result())
    assert "Credit decisions. *(by the controller)*" in text
    assert "<script" not in text


def test_the_parts_of_article_35_are_all_there(page):
    for heading in ("(a)", "(b)", "(c)", "(d)", "Art. 35(9)", "Art. 35(11)"):
        assert re.search(rf"<h3>[^\n]*{re.escape(heading)}", page)


def test_every_word_of_the_tables_is_explained(page):
    words = part(page, "The words used", "Made from the records")
    for word in ("AUC", "TPR", "FPR", "Interval", "Not resolvable", "Blind baseline", "Reference model", "Recipe"):
        assert word in words


@given(st.dictionaries(st.sampled_from([f.key for f in FIELDS]), st.text(max_size=60)))
def test_a_form_reads_back_as_it_was_filled_in(texts):
    texts = {key: "".join(c for c in text if c.isprintable() or c == "\n").strip() for key, text in texts.items()}
    texts = {key: text for key, text in texts.items() if text}
    assert kept_texts(yaml.safe_load(form_text(texts))) == texts


def test_a_wrong_field_is_named_with_the_nearest_one_and_all_at_once():
    with pytest.raises(ConfigError, match=r"'purpose'.*did you mean 'purposes'\?(.|\n)*dpia\['views'\] must be a text"):
        check_texts({"purpose": "x", "views": 3})


def test_an_empty_text_takes_out_what_was_kept():
    assert merged_texts({"purposes": "a", "views": "b"}, {"views": "", "review": "c"}) == {
        "purposes": "a",
        "review": "c",
    }
    assert kept_texts(["not a mapping"]) == {}
    assert kept_texts({"purposes": 3, "other": "x", "views": "ok"}) == {"views": "ok"}


def test_on_a_phone_each_figure_of_a_stacked_table_bears_the_name_of_its_column(page):
    tree = html5lib.HTMLParser(strict=True).parse(page)
    tables = [e for e in tree.iter(f"{HTML}div") if "stack" in e.attrib.get("class", "").split()]
    assert len(tables) > 6
    for table in tables:
        heads = [" ".join("".join(th.itertext()).split()) for th in table.find(f".//{HTML}thead").iter(f"{HTML}th")]
        for row in table.find(f".//{HTML}tbody").iter(f"{HTML}tr"):
            cells = [cell for cell in row if cell.tag in (f"{HTML}td", f"{HTML}th")]
            assert len(cells) == len(heads)
            for head, cell in zip(heads, cells):
                if "num" in cell.attrib.get("class", "").split():
                    assert head.startswith(cell.attrib["data-l"]), head


def test_paper_is_no_phone(page):
    css = page[page.index("<style>") : page.index("</style>")]
    assert "@media (max-width" not in css  # the width of a sheet of A4 is that of a phone held sideways
    assert "@media screen and (max-width:760px)" in css


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_prints_it_on_few_sheets(tmp_path):
    region = np.random.default_rng(0).choice(np.array(["north", "south", None], object), 600)
    (tmp_path / "r.html").write_text(html_report(result(), ReportOptions(slices={"region": region})))
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--print-to-pdf=r.pdf", "r.html"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert 3 <= len(re.findall(rb"/Type\s*/Page[^s]", (tmp_path / "r.pdf").read_bytes())) <= 9
