from __future__ import annotations

import dataclasses
import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_privacy.report.text import (
    blind_differs,
    code_span,
    escape_markdown,
    format_estimate,
    headline_attack,
    headline_fpr,
    plain_text,
    verdict,
)
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


def _set_headline(result, **estimates):
    attack = dataclasses.replace(result.attacks[0], metrics={**result.attacks[0].metrics, **estimates})
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
    nan = float("nan")
    changed = _set_headline(
        result,
        **{
            "tpr_at_fpr_0.001": Estimate(nan, nan, nan, 100, resolvable=False),
            "tpr_at_fpr_0.01": Estimate(0.045, 0.0311, 0.0599, 100),
        },
    )
    assert verdict(changed) == (
        "Of 100 records used in training, an attacker who accepts one false alarm in 100 recognises between 3 and 6 "
        "(95 % confidence); guessing would recognise 1."
    )


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.05, 0.05, "recognises 5 "), (1.0, 1.0, "recognises all 100 "), (0.0, 0.0004, "between 0 and 1 ")],
)
def test_verdict_wording_at_the_edges(result, low, high, words):
    nan = float("nan")
    changed = _set_headline(
        result,
        **{
            "tpr_at_fpr_0.001": Estimate(nan, nan, nan, 100, resolvable=False),
            "tpr_at_fpr_0.01": Estimate(low, low, high, 100),
        },
    )
    assert words in verdict(changed)


def test_verdict_uses_the_lowest_fpr_that_the_nonmembers_resolve(result):
    # 500 non-members: 0.1 % is one half of a record, 1 % is five.
    assert headline_fpr(result.attacks[0])[0] == 0.01
    assert "one false alarm in 100 " in verdict(result)


def test_verdict_of_a_tiny_audit_falls_back_to_the_auc(result):
    metrics = {"auc": Estimate(0.7, 0.51, 0.84, 10, 0.9)}
    tiny = dataclasses.replace(result, attacks=(dataclasses.replace(result.attacks[0], metrics=metrics),))
    assert verdict(tiny) == (
        "Shown one record used in training and one that was not, an attacker picks the right one in 51 to 84 of 100 "
        "cases (90 % confidence); guessing would be right in 50."
    )
    nothing = dataclasses.replace(tiny, attacks=(dataclasses.replace(result.attacks[0], metrics={}),))
    assert "too small" in verdict(nothing)


def test_headline_attack_is_the_named_one(result):
    assert headline_attack(dataclasses.replace(result, headline="lira")).name == "lira"
    assert headline_attack(dataclasses.replace(result, headline="gone")).name == "rmia"


@pytest.mark.parametrize(("low", "high", "differs"), [(0.51, 0.6, True), (0.4, 0.49, True), (0.45, 0.55, False)])
def test_blind_baseline_differs_if_its_interval_excludes_chance(result, low, high, differs):
    assert blind_differs(dataclasses.replace(result, blind=Estimate((low + high) / 2, low, high, 100))) is differs
    assert not blind_differs(dataclasses.replace(result, blind=None))


def with_rates(result, **rates):
    """The result with the headline's TPR intervals as given, by FPR in words."""
    names = {name: f"tpr_at_fpr_{name.removeprefix('at_').replace('_', '.')}" for name in rates}
    return _set_headline(
        result, **{names[name]: Estimate((low + high) / 2, low, high, 100) for name, (low, high) in rates.items()}
    )


def test_where_few_false_alarms_cannot_tell_the_verdict_says_at_how_many_they_do(result):
    unsure = with_rates(result, at_0_001=(0.0, 0.4), at_0_01=(0.005, 0.5), at_0_1=(0.4, 0.6))
    assert verdict(unsure).endswith(
        "Accepting one in 10, it recognises between 400 and 600; guessing would recognise 100."
    )
    sure = with_rates(result, at_0_001=(0.01, 0.4), at_0_1=(0.4, 0.6))
    assert "Accepting" not in verdict(sure)
    never = with_rates(result, at_0_001=(0.0, 0.4), at_0_01=(0.0, 0.5), at_0_1=(0.05, 0.6))
    assert "Accepting" not in verdict(never)


def test_a_leak_over_all_records_is_never_called_none(result):
    from mlflow_privacy.report.sections.verdict import finding

    unsure = with_rates(result, at_0_001=(0.0, 0.4))
    assert unsure.attacks[0].metrics["auc"].low > 0.5
    assert "gives away who was in its training data" in finding(unsure, {}).meaning
