from __future__ import annotations

import dataclasses
import html
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_privacy.metrics import DEFAULT_FPRS, tally, tpr_at_fpr
from mlflow_privacy.metrics.delong import auc_of
from mlflow_privacy.metrics.evaluation import joint_tprs, looked_at
from mlflow_privacy.metrics.names import guessing
from mlflow_privacy.report.text import (
    blind_differs,
    code_span,
    escape_markdown,
    format_estimate,
    headline_attack,
    headline_rate,
    plain_text,
    verdict,
)
from mlflow_privacy.stats import order_statistic_range
from mlflow_privacy.types import Estimate

PAYLOADS = [
    "<script>alert(1)</script>",
    "a | b | c",
    "`code` ``more``",
    "![x](http://evil.example/t.png)",
    "[click](javascript:alert(1))",
    "line\nbreak\r\n# heading",
    "<!-- mlflow-privacy:end -->",
    "*bold* _it_ ~~gone~~",
    "www.evil.example https://evil.example me@evil.example @user :smile:",
    "&lt;b&gt; &#60;",
    "\u202eevil\u2066",
]


def _set_headline(result, **joint):
    """The result with these TPRs as those that the verdict looks at."""
    attack = dataclasses.replace(result.attacks[0], joint=joint)
    return dataclasses.replace(result, attacks=(attack, *result.attacks[1:]))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_escaped_text_has_no_markup_left_and_reads_the_same(payload):
    escaped = escape_markdown(payload)
    assert not re.search(r"[<>|`*\[\]()!@#~\\:\n\r\u202e\u2066]", re.sub(r"&#\d+;", "", escaped))
    assert "www." not in escaped
    visible = html.unescape(escaped)
    assert visible == plain_text(payload, 300)


@given(st.text(max_size=400))
def test_escaped_text_always_decodes_to_the_plain_text(text):
    escaped = escape_markdown(text)
    assert not set("<>|`*[]()\n\r") & set(re.sub(r"&#\d+;", "", escaped))
    assert html.unescape(escaped) == plain_text(text, 300)


@given(st.text(alphabet="`a|\n ", max_size=30))
def test_code_span_cannot_be_closed_from_inside(text):
    span = code_span(text)
    fence = re.match("`+", span).group()
    inside = span[len(fence) : -len(fence)]
    assert span.endswith(fence)
    assert fence not in re.findall("`+", inside)
    assert "\n" not in span


def test_long_text_is_cut_with_an_ellipsis():
    assert plain_text("x" * 500, 80) == "x" * 79 + "…"
    assert len(html.unescape(escape_markdown("|" * 5000, 100))) == 100


def test_estimate_that_is_not_resolvable_is_not_printed_as_zero():
    nan = float("nan")
    assert format_estimate(Estimate(nan, nan, nan, 10, resolvable=False)) == "not resolvable"
    assert format_estimate(Estimate(nan, nan, nan, 10)) == "not resolvable"


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.5, 0.3, 0.7, "0.50 [0.30, 0.70]"),
        (0.6213, 0.5834, 0.6581, "0.621 [0.583, 0.658]"),
        (0.95555, 0.9513, 0.9593, "0.956 [0.951, 0.959]"),
        (0.00321, 0.00281, 0.00361, "0.0032 [0.0028, 0.0036]"),
        (1.0, 1.0, 1.0, "1.000 [1.000, 1.000]"),
    ],
)
def test_digits_follow_the_width_of_the_interval(value, low, high, text):
    assert format_estimate(Estimate(value, low, high, 100)) == text


def test_verdict_counts_are_rounded_outwards(result):
    changed = _set_headline(result, **{"tpr_at_fpr_0.01": Estimate(0.045, 0.0311, 0.0599, 100)})
    assert verdict(changed) == (
        "Of 100 records used in training, an attacker who accepts one false alarm in 100 recognises between 3 and 6 "
        "(95 % confidence); guessing would recognise 1."
    )


@pytest.mark.parametrize(("low", "high", "words"), [(0.05, 0.05, "recognises 5 "), (1.0, 1.0, "recognises all 100 ")])
def test_verdict_wording_at_the_edges(result, low, high, words):
    assert words in verdict(_set_headline(result, **{"tpr_at_fpr_0.01": Estimate(low, low, high, 100)}))


def test_the_verdict_looks_at_rates_that_the_numbers_of_records_allow():
    """Five false alarms expected, decided before any score is seen: at fewer no interval's lower end can be above 0."""
    assert [looked_at(n) for n in (49, 50, 500, 4_999, 5_000)] == [
        (),
        (0.1,),
        (0.01, 0.1),
        (0.01, 0.1),
        (0.001, 0.01, 0.1),
    ]
    assert looked_at(5_000, (0.01, 0.05)) == (0.01,)
    bounded = [order_statistic_range(n, 0.001, 1 - 0.05 / 3)[0] > 0 for n in (4_000, 5_000)]
    assert bounded == [False, True]


def test_verdict_is_about_the_lowest_rate_whose_joint_interval_excludes_guessing(result):
    unsure = with_rates(result, at_0_001=(0.0, 0.4), at_0_01=(0.005, 0.5), at_0_1=(0.4, 0.6))
    assert headline_rate(unsure)[0] == 0.1
    assert "one false alarm in 10 recognises between 40 and 60" in verdict(unsure)
    assert "guessing would recognise 10." in verdict(unsure)
    sure = with_rates(result, at_0_001=(0.01, 0.4), at_0_01=(0.02, 0.5), at_0_1=(0.4, 0.6))
    assert headline_rate(sure)[0] == 0.001
    assert "one false alarm in 1,000 recognises between 10 and 400" in verdict(sure)


def test_the_crowd_shows_the_numbers_of_the_sentence(result):
    from mlflow_privacy.report.sections import build_document

    sure = with_rates(result, at_0_001=(0.0, 0.4), at_0_01=(0.0216, 0.5), at_0_1=(0.4, 0.6))
    found = build_document(sure).finding
    people = found.people
    assert (people.base, people.low, people.high, people.guessing) == (100, 2, 50, 1)
    assert f"recognises between {people.low} and {people.high} " in found.sentence
    assert found.tpr.low == 0.0216
    never = with_rates(result, at_0_1=(0.05, 0.6))
    assert build_document(never).finding.people is None


def test_where_no_rate_excludes_guessing_the_verdict_is_about_the_auc(result):
    never = with_rates(result, at_0_001=(0.0, 0.4), at_0_01=(0.0, 0.5), at_0_1=(0.05, 0.6))
    assert headline_rate(never) is None
    assert verdict(never).startswith("Shown one record used in training and one that was not")


def test_the_joint_interval_is_the_one_for_as_many_rates_as_are_looked_at(result):
    """600 + 600 records: 1 % and 10 % are looked at, so each interval is at 97.5 %; by hand or from the audit."""
    attack = result.attacks[0]
    member, ranks = result.membership, attack.scores.rank()
    wanted = {f"tpr_at_fpr_{fpr:g}": tpr_at_fpr(ranks, member, fpr, 0.975) for fpr in (0.01, 0.1)}
    assert attack.joint == wanted
    by_hand = dataclasses.replace(result, attacks=(dataclasses.replace(attack, joint={}), *result.attacks[1:]))
    assert headline_rate(by_hand) == headline_rate(result)


def test_under_the_null_few_verdicts_find_a_leak():
    """400 models that know nothing: by the rates, or else by the AUC; 5 % of 400 is 20, three s.e. are 13."""
    rng, member, alarms = np.random.default_rng(3), np.arange(6_000) < 1_000, 0
    for _ in range(400):
        t = tally(rng.normal(size=6_000), member)
        joint = joint_tprs(t, DEFAULT_FPRS, 0.95)
        assert len(joint) == 3
        found = any(tpr.low > guessing(key) for key, tpr in joint.items())
        alarms += found or auc_of(t, 0.95).low > 0.5
    assert alarms <= 33


def test_verdict_of_a_tiny_audit_falls_back_to_the_auc(result):
    attack = dataclasses.replace(result.attacks[0], metrics={"auc": Estimate(0.7, 0.51, 0.84, 10, 0.9)}, joint={})
    tiny = dataclasses.replace(result, attacks=(attack,))
    assert verdict(tiny) == (
        "Shown one record used in training and one that was not, an attacker picks the right one in 51 to 84 of 100 "
        "cases (90 % confidence); guessing would be right in 50."
    )
    nothing = dataclasses.replace(tiny, attacks=(dataclasses.replace(attack, metrics={}),))
    assert "too small" in verdict(nothing)


def test_headline_attack_is_the_named_one(result):
    assert headline_attack(dataclasses.replace(result, headline="lira")).name == "lira"
    assert headline_attack(dataclasses.replace(result, headline="gone")).name == "rmia"


@pytest.mark.parametrize(("low", "high", "differs"), [(0.51, 0.6, True), (0.4, 0.49, False), (0.45, 0.55, False)])
def test_blind_baseline_differs_if_its_interval_lies_above_chance(result, low, high, differs):
    assert blind_differs(dataclasses.replace(result, blind=Estimate((low + high) / 2, low, high, 100))) is differs
    assert not blind_differs(dataclasses.replace(result, blind=None))


def with_rates(result, **rates):
    """The result with the intervals that the verdict looks at as given, by FPR in words."""
    names = {name: f"tpr_at_fpr_{name.removeprefix('at_').replace('_', '.')}" for name in rates}
    return _set_headline(
        result, **{names[name]: Estimate((low + high) / 2, low, high, 100) for name, (low, high) in rates.items()}
    )


def test_a_leak_over_all_records_is_never_called_none(result):
    from mlflow_privacy.report.sections.verdict import finding

    unsure = with_rates(result, at_0_001=(0.0, 0.4))
    assert unsure.attacks[0].metrics["auc"].low > 0.5
    assert "gives away who was in its training data" in finding(unsure, {}).meaning
