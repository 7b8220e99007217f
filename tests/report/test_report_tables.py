from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.tables import audit_json, metrics_json, metrics_table, roc_csv, scores_table
from mlflow_privacy.types import Estimate, Scores


def test_metrics_table_has_every_metric_and_the_blind_baseline_last(result):
    rows = metrics_table(result)
    assert len(rows) == sum(len(a.metrics) for a in result.attacks) + 1
    assert (rows[-1]["attack"], rows[-1]["value"]) == ("blind", result.blind.value)


def test_metrics_that_are_not_resolvable_are_null_in_json_and_not_zero(result):
    document = json.loads(json.dumps(metrics_json(result), allow_nan=False))
    entry = document["attacks"]["rmia"]["metrics"]["tpr_at_fpr_0.0001"]
    assert entry["value"] is None
    assert entry["resolvable"] is False


def test_metrics_json_has_the_very_numbers_of_the_result(result):
    document = metrics_json(result)
    for attack in result.attacks:
        for key, estimate in attack.metrics.items():
            if estimate.resolvable:
                entry = document["attacks"][attack.name]["metrics"][key]
                assert (entry["value"], entry["low"], entry["high"]) == (estimate.value, estimate.low, estimate.high)


def test_roc_csv_round_trips(result):
    frame = pd.read_csv(io.BytesIO(roc_csv(result)), float_precision="round_trip")
    for attack in result.attacks:
        part = frame[frame.attack == attack.name]
        for column in ("fpr", "tpr", "threshold"):
            np.testing.assert_array_equal(part[column], getattr(attack.roc, column))
        np.testing.assert_allclose(part.tpr_low, attack.roc.tpr_low, atol=1e-6)
    assert frame.threshold.iloc[0] == np.inf


def test_scores_table_round_trips_through_parquet(result, tmp_path):
    table = scores_table(result)
    table.to_parquet(tmp_path / "scores.parquet", index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "scores.parquet"), table)


def test_scores_table_is_sorted_by_the_headline_attack(result):
    table = scores_table(dataclasses.replace(result, headline="lira"))
    assert table.lira.is_monotonic_decreasing
    assert table.risk_rank.is_monotonic_increasing
    assert table.risk_rank.iloc[0] == 1
    assert sorted(table.row_id) == sorted(result.row_ids)
    by_id = table.set_index("row_id")
    assert by_id.loc[list(result.row_ids), "member"].tolist() == result.membership.tolist()
    np.testing.assert_array_equal(by_id.loc[list(result.row_ids), "rmia"], result.attacks[0].scores.value)


def test_ties_share_a_risk_rank_and_the_tie_breaker_separates_them(result):
    def ranked(scores):
        attack = dataclasses.replace(result.attacks[0], scores=scores)
        small = dataclasses.replace(
            result,
            attacks=(attack,),
            membership=result.membership[:4],
            row_ids=np.array(list("abcd")),
            y=np.arange(4),
        )
        return scores_table(small).set_index("row_id").risk_rank.to_dict()

    value = np.array([0.5, 1.0, 1.0, 0.1])
    assert ranked(Scores(value)) == {"b": 1, "c": 1, "a": 3, "d": 4}
    assert ranked(Scores(value, np.array([0.0, 1.0, 2.0, 0.0]))) == {"c": 1, "b": 2, "a": 3, "d": 4}


def test_column_names_have_no_dots_and_do_not_collide(result):
    renamed = dataclasses.replace(
        result, attacks=tuple(dataclasses.replace(a, name=n) for a, n in zip(result.attacks, ("a.b", "a_b", "label")))
    )
    columns = scores_table(renamed).columns
    assert not [c for c in columns if "." in c]
    assert len(set(columns)) == len(columns) == 7


@pytest.mark.parametrize("labels", [["a", 1, None], [1.5, 2.5, 3.5], ["x", "y", "z"]])
def test_labels_of_any_type_can_be_written(result, tmp_path, labels):
    y = np.array(labels * 400, dtype=object)[: len(result.membership)]
    scores_table(dataclasses.replace(result, y=y)).to_parquet(tmp_path / "scores.parquet")


def test_audit_json_holds_what_repeats_the_audit_and_no_array(result):
    data = pd.DataFrame({"secret": np.arange(5000)})
    options = {**result.options, "train": data, "train_fn": len, "holdout": np.zeros((9, 2)), "text": "x" * 10**6}
    document = json.loads(json.dumps(audit_json(dataclasses.replace(result, options=options)), allow_nan=False))
    assert document["rows"] == {
        "members": 500,
        "nonmembers": 500,
        "population": 500,
        "population_is_nonmembers": True,
        "duplicates_left_out": 0,
    }
    assert document["options"]["train"] == "DataFrame of shape (5000, 1)"
    assert document["options"]["train_fn"] == "builtins.len"
    assert document["options"]["holdout"] == "ndarray of shape (9, 2)"
    for key in ("model", "sources", "pool_digest", "references", "environment", "timings_seconds", "warnings"):
        assert key in document
    assert len(json.dumps(document)) < 20_000


def test_audit_json_does_not_grow_with_the_records():
    small, large = (len(json.dumps(audit_json(example_result(n=n)))) for n in (100, 3000))
    assert large < small + 100


def test_infinite_estimates_are_valid_json(result):
    attack = dataclasses.replace(result.attacks[0], metrics={"auc": Estimate(0.5, float("-inf"), float("inf"), 3)})
    json.dumps(metrics_json(dataclasses.replace(result, attacks=(attack,))), allow_nan=False)
