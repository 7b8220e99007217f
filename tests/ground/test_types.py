import json

import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.types import AuditedModel, Estimate, Records, Scores, flat_estimate, to_json


def test_rank_orders_by_value_then_tie_and_shares_ranks_of_equals():
    scores = Scores(np.array([0.5, 1.0, 1.0, 1.0, 0.5]), np.array([9.0, 2.0, 1.0, 2.0, 9.0]))
    assert scores.rank().tolist() == [0, 2, 1, 2, 0]
    assert Scores(np.array([3.0, 1.0, 3.0])).rank().tolist() == [1, 0, 1]


def test_what_is_not_resolvable_never_becomes_a_number():
    missing = Estimate(float("nan"), float("nan"), float("nan"), n=10, resolvable=False)
    assert flat_estimate("m", missing) == {}
    assert str(missing) == "not resolvable"
    assert to_json(missing)["value"] is None


def test_live_objects_stay_out_of_json():
    model = AuditedModel("models:/m/1", "m", "1", None, None, "sklearn", native=object())
    assert "native" not in to_json(model)
    json.dumps(to_json({"a": np.float32(1), "b": [np.int64(2)], "c": float("inf")}), allow_nan=False)


@pytest.mark.parametrize("as_frame", [False, True])
def test_take_and_concat_keep_rows_together(as_frame):
    x = np.arange(8.0).reshape(4, 2)
    records = Records(pd.DataFrame(x) if as_frame else x, np.arange(4), np.array(list("abcd")))
    both = Records.concat([records.take(np.array([3, 1])), records.take(np.array([True, False, False, False]))])
    assert both.y.tolist() == [3, 1, 0]
    assert both.row_ids.tolist() == ["d", "b", "a"]
    assert np.asarray(both.x)[:, 0].tolist() == [6, 2, 0]
