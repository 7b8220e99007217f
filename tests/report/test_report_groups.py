"""The most exposed group in the verdict: in every form of a report, whatever its name, and never by chance."""

import dataclasses
import html
import json
import re

import numpy as np
import pytest

from mlflow_privacy.metrics.groups import by_group, slicings_of
from mlflow_privacy.report.document import ReportOptions
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.html import html_report, markdown_report
from mlflow_privacy.report.markdown import brief_verdict, markdown_verdict
from mlflow_privacy.report.schema import result_json
from mlflow_privacy.report.sections import build_document
from mlflow_privacy.report.tables import metrics_json
from mlflow_privacy.report.text import group_verdict, overall_verdict, verdict, worst_group

HOSTILE = "<img src=x>|`a`](http://evil.example) *b*"


def with_exposed_class(result, *, label="1", name="default", separation=2.5, share=0.15):
    """The example's audit with one class whose members score higher; all others as they were."""
    rng = np.random.default_rng(0)
    rare = rng.random(len(result.y)) < share
    y = np.where(rare, label, "0").astype(object).astype(str)
    attack = result.attacks[0]
    raised = attack.scores.value + separation * (result.membership & rare)
    scores = dataclasses.replace(attack.scores, value=raised)
    attack = dataclasses.replace(attack, scores=scores)
    slicings = slicings_of("classification", y, {})
    attack = by_group(attack, result.membership, slicings, fprs=result.options["fprs"])
    return dataclasses.replace(result, y=y, attacks=(attack, *result.attacks[1:]), label_name=name)


def test_the_verdict_names_the_group_in_the_words_of_the_data(result):
    exposed = with_exposed_class(result)
    group = worst_group(exposed)
    own, others = group.metrics["tpr_at_fpr_0.1"], group.others["tpr_at_fpr_0.1"]
    counts = [f"between {int(np.floor(100 * e.low))} and {int(np.ceil(100 * e.high))}" for e in (own, others)]
    assert group_verdict(exposed) == (
        f"The most exposed group is “default: 1” ({group.n_members} of the records used in training): an attacker who "
        f"accepts one false alarm in 10 among its kind recognises {counts[0]} of 100 (95 % confidence, corrected for 2 "
        f"groups); among all other records {counts[1]}."
    )
    assert verdict(exposed) == f"{overall_verdict(exposed)} {group_verdict(exposed)}"
    assert "“class: 1”" in verdict(dataclasses.replace(exposed, label_name=""))


def test_an_audit_without_such_a_group_names_none(result):
    assert worst_group(result) is None
    assert group_verdict(result) == ""
    assert verdict(result) == overall_verdict(result)
    assert build_document(result).finding.group is None


def test_further_groups_that_are_worse_are_counted(result):
    rng = np.random.default_rng(1)
    attack, y = result.attacks[0], rng.integers(0, 5, len(result.y))
    raised = attack.scores.value + np.array([0, 0, 0, 3, 3])[y] * result.membership
    attack = dataclasses.replace(attack, scores=dataclasses.replace(attack.scores, value=raised))
    attack = by_group(attack, result.membership, slicings_of("classification", y, {}), fprs=result.options["fprs"])
    assert group_verdict(dataclasses.replace(result, attacks=(attack,))).endswith(
        " 1 more group is worse than the rest, too."
    )


def test_every_form_of_the_report_says_it(result):
    exposed = with_exposed_class(result)
    sentence = group_verdict(exposed)
    page = html.unescape(re.sub(r"<[^>]+>", "", html_report(exposed)))
    assert sentence in page
    for text in (markdown_report(exposed), markdown_verdict(exposed), brief_verdict(exposed)):
        assert sentence.replace(": 1”", "&#58; 1”") in text
    assert metrics_json(exposed)["verdict"].endswith(sentence)
    found = json.loads(result_json(exposed))["finding"]
    assert found["sentence"] == f"{found['overall']} {sentence}"
    assert found["group"]["begin"] + found["group"]["name"] + found["group"]["end"] == sentence
    assert (found["group"]["label"], found["group"]["fpr"]) == ("1", 0.1)


@pytest.mark.parametrize("form", [markdown_report, markdown_verdict, brief_verdict])
def test_a_hostile_name_of_a_group_stays_text(result, form):
    text = form(with_exposed_class(result, label=HOSTILE, name=HOSTILE))
    assert "The most exposed group is" in text
    for raw in ("<img", "](http", "`a`", "*b*"):
        assert raw not in text


def test_the_table_of_slices_marks_the_group_by_its_own_threshold(result):
    exposed = with_exposed_class(result)
    document = build_document(exposed)
    (slicing,) = document.exposure.slicings
    group = document.finding.group
    row = next(row for row in slicing.rows if row.label == "1")
    assert (row.worse, [row.worse for row in slicing.rows].count(True)) == (True, 1)
    assert document.exposure.fpr == group.fpr
    assert row.recognised == group.figure
    assert "more exposed" in html_report(exposed)


def test_slices_are_shown_at_the_lowest_rate_that_all_of_them_resolve():
    """1,200 non-members: the verdict is about 1 %; a slice of 60 non-members resolves 10 % and no less."""
    result = example_result(n=1200)
    few = np.arange(len(result.y)) % 1200 < 60
    options = ReportOptions(slices={"few": few})
    assert build_document(dataclasses.replace(result, task="language"), options).exposure.fpr == 0.1
    half = ReportOptions(slices={"half": np.arange(len(result.y)) % 2})
    assert build_document(dataclasses.replace(result, task="language"), half).exposure.fpr == 0.01
    assert build_document(result, ReportOptions(risk_fpr=0.05)).exposure.fpr == 0.05


def test_a_limit_may_be_set_on_the_worst_group(result):
    exposed = with_exposed_class(result)
    options = ReportOptions(thresholds={"rmia/worst_group/tpr_at_fpr_0.1": 0.2, "rmia/worst_group/auc": 1.0})
    first, second = build_document(exposed, options).finding.limits
    assert (first.state, second.state) == ("exceeded", "within")
    assert "worst group" in first.title
