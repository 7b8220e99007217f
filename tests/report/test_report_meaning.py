"""The verdict's meaning is graded by what was surely shown, and held against the records without the model."""

import dataclasses

import numpy as np
import pytest

from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.sections.meaning import grade, meaning
from mlflow_privacy.types import Estimate, GroupResult

NAN = float("nan")


def audit(result, auc, blind=(0.5, 0.47, 0.53), rate=None, group=None):
    """An audit with this AUC, blind baseline, TPR at 1 % false alarms, and TPR at 10 % of the worst group."""
    joint = {"tpr_at_fpr_0.01": Estimate(*(rate or (0.01, 0.0, 0.02)), 1000)}
    groups = ()
    if group:
        metrics = {"tpr_at_fpr_0.1": Estimate(*group, 200), "auc": Estimate(0.55, 0.5, 0.6, 200)}
        groups = (GroupResult("class", "1", "class_1", 100, 100, metrics, ("tpr_at_fpr_0.1",), metrics),)
    attack = dataclasses.replace(
        result.attacks[0], metrics={"auc": Estimate(*auc, 1000)}, joint=joint, groups=groups, worst_group={}
    )
    return dataclasses.replace(result, attacks=(attack,), blind=None if blind is None else Estimate(*blind, 1000))


def test_no_more_than_the_records_alone_give_is_no_leak_of_the_model(result):
    """AUC 0.523 [0.501, 0.544] beside a blind baseline at 0.523."""
    said = meaning(audit(result, (0.523, 0.501, 0.544), blind=(0.523, 0.494, 0.552)))
    assert "no better than a classifier that never saw the model" in said
    assert "gives away who" not in said
    assert "does not show that the model gives anything away" in said


def test_a_little_more_than_guessing_is_called_a_little(result):
    said = meaning(audit(result, (0.523, 0.501, 0.544), blind=(0.497, 0.47, 0.52)))
    assert said.startswith("The attacker does slightly better than guessing (AUC 0.523 [0.501, 0.544]")
    assert "gives away a little" in said
    assert meaning(audit(result, (0.523, 0.501, 0.544), blind=None)) == said


@pytest.mark.parametrize(
    ("rate", "auc", "wanted"),
    [
        (None, (0.5, 0.47, 0.53), "none"),
        (None, (0.53, 0.501, 0.56), "slight"),
        (None, (0.64, 0.6, 0.68), "clear"),
        (None, (0.84, 0.8, 0.88), "strong"),
        ((0.015, 0.0101, 0.02), (0.5, 0.47, 0.53), "slight"),
        ((0.03, 0.02, 0.04), (0.5, 0.47, 0.53), "clear"),
        ((0.2, 0.1, 0.3), (0.52, 0.49, 0.55), "strong"),
        ((0.03, 0.02, 0.04), (0.84, 0.8, 0.88), "strong"),
    ],
)
def test_the_lower_ends_decide_the_grade(rate, auc, wanted):
    found = None if rate is None else (0.01, Estimate(*rate, 1000))
    assert grade(found, Estimate(*auc, 1000)) == wanted


def test_words_follow_the_grade_and_name_what_earns_it(result):
    strong = meaning(audit(result, (0.52, 0.49, 0.55), rate=(0.2, 0.125, 0.3)))
    assert strong == (
        "The model plainly gives away who was in its training data: at this caution the attacker recognises at least "
        "12.5 times as many as guessing."
    )
    by_auc = meaning(audit(result, (0.85, 0.82, 0.88), rate=(0.03, 0.02, 0.04)))
    assert by_auc == (
        "The model plainly gives away who was in its training data: AUC 0.850 [0.820, 0.880] over all records, where "
        "guessing reaches 0.5."
    )
    clear = meaning(audit(result, (0.65, 0.62, 0.68)))
    assert clear.startswith("The model gives away who was in its training data: AUC")


def test_beside_a_difference_in_the_records_nothing_is_put_down_to_the_model_alone(result):
    same = meaning(audit(result, (0.9, 0.88, 0.92), blind=(0.9, 0.88, 0.92)))
    assert "whether the model gives anything away cannot be told" in same
    more = meaning(audit(result, (0.9, 0.88, 0.92), blind=(0.6, 0.56, 0.64)))
    assert "better than the records alone allow" in more
    assert "how much cannot be told" in more


def test_nothing_found_and_nothing_to_find_it_with_are_told_apart(result):
    assert "found no leak" in meaning(audit(result, (0.5, 0.47, 0.53)))
    assert "worse than guessing" in meaning(audit(result, (0.4, 0.37, 0.43)))
    unknown = audit(result, (NAN, NAN, NAN))
    attack = dataclasses.replace(
        unknown.attacks[0], joint={}, metrics={"auc": Estimate(NAN, NAN, NAN, 4, resolvable=False)}
    )
    assert meaning(dataclasses.replace(unknown, attacks=(attack,))) == "Nothing can be concluded from so few records."


def test_the_group_of_the_verdict_is_in_its_meaning(result):
    hidden = meaning(audit(result, (0.5, 0.47, 0.53), group=(0.6, 0.4, 0.8)))
    assert "found no leak" not in hidden
    assert "Of the group named above, though, the model gives away who was in its training data." in hidden
    both = meaning(audit(result, (0.65, 0.62, 0.68), group=(0.19, 0.12, 0.3)))
    assert both.endswith("Of the group named above it gives away a little of who was.")


def test_under_the_null_few_audits_are_told_of_a_leak():
    """60 audits of pure noise: 5 % are 3, and 8 is three standard deviations above."""
    told = [
        meaning(example_result(n=600, separations=(0, 0, 0, 0), seed=seed)).startswith("Guessing lies inside")
        for seed in range(60)
    ]
    assert np.sum(told) >= 52
