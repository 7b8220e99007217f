"""What an audit says could make it wrong: records that occur more than once, and references unlike the target."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import binom

from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.sections import build_document
from mlflow_privacy.report.sections.checks import unlike_references
from mlflow_privacy.report.tables import audit_json, metrics_json
from mlflow_privacy.stats import surely_another_rate
from mlflow_privacy.types import Copies, Estimate, Fidelity, Repeated


@pytest.fixture(scope="module")
def result():
    return example_result(n=500)


def duplicates(result, **changes):
    changed = dataclasses.replace(result, **changes)
    return next(check for check in build_document(changed).checks if check.name == "Duplicates")


@pytest.mark.parametrize(
    ("basis", "n", "status", "about"),
    [
        ("unique", 2, "ok", "those 1,000 that occur once"),
        ("unique", 90, "look", "those 1,000 that occur once"),
        ("balanced", 2, "look", "one copy each of 1,000 records"),
        ("distinct", 2, "look", "1,000 different records, each once"),
    ],
)
def test_what_figures_are_about_is_told_where_records_occur_more_than_once(result, basis, n, status, about):
    check = duplicates(result, copies=Copies(basis, n, n, n))
    assert check.status == status
    assert f"figures are about {about}" in check.figure
    assert duplicates(result).figure == "no record occurs more than once"


def test_repeated_records_scored_apart_are_told_with_their_figure(result):
    def figure(repeated):
        return duplicates(result, copies=Copies("unique", 400, 100, 20), repeated=repeated).figure

    auc = {result.headline: {"auc": Estimate(0.9, 0.85, 0.95, 90)}}
    assert "400 training records and 100 held-out ones occur more than once, 20 different ones on both sides" in figure(
        None
    )
    assert "60 repeated training records against 30 repeated held-out ones: RMIA AUC 0.90" in figure(
        Repeated(60, 30, auc)
    )
    assert "too few to compare" in figure(Repeated(60, 3, {}))


@pytest.mark.parametrize(
    ("n", "right", "told"), [(1, 0, False), (3, 1, False), (5, 3, False), (5, 0, True), (100, 50, True)]
)
def test_fidelity_says_another_recipe_only_where_chance_cannot_explain_it(result, n, right, told):
    """References reach 0.9 on records that they did not train on; of n non-members the target has `right` right."""
    member = np.arange(200) >= n
    spread = {"nonmember_accuracy": 0.01}
    few = Fidelity({"nonmember_accuracy": right / n}, {"nonmember_accuracy": 0.9}, spread)
    assert unlike_references(dataclasses.replace(result, membership=member, fidelity=few), "nonmember_accuracy") is told


def test_few_non_members_are_no_ground_to_doubt_the_recipe_by_chance():
    """A target like its references, of accuracy 0.9: each of 1 to 5 non-members is right by chance alone."""
    for n in (1, 2, 3, 4, 5, 50, 400):
        for rate in (0.6, 0.9, 0.99):
            alarms = [surely_another_rate(k / n, n, rate, 10_000) for k in range(n + 1)]
            assert binom.pmf(np.arange(n + 1), n, rate)[alarms].sum() < 0.0028


def test_the_files_of_an_audit_tell_of_copies_where_there_are_some(result):
    auc = {result.headline: {"auc": Estimate(0.9, 0.85, 0.95, 90)}}
    copied = dataclasses.replace(result, copies=Copies("unique", 4, 3, 2), repeated=Repeated(60, 30, auc))
    assert audit_json(copied)["copies"] == {"basis": "unique", "members": 4, "nonmembers": 3, "on_both": 2}
    assert metrics_json(copied)["repeated"]["metrics"][result.headline]["auc"]["value"] == 0.9
    assert "copies" not in audit_json(result)
    assert "repeated" not in metrics_json(result)
