"""What a report may show of records."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from test_audit import OPTIONS, make_target

from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.auditing.records_view import check_slices, column, record_texts
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.types import Records

FRAME = pd.DataFrame({"age": [30.5, 41.0], "region": ["north", "<b>south</b>"]})
RECORDS = Records(FRAME, np.array([0, 1]), np.array(["train:0", "train:1"]))


def test_columns_of_frames_and_arrays():
    assert column(RECORDS, "region").tolist() == ["north", "<b>south</b>"]
    assert column(dataclasses.replace(RECORDS, x=np.array([[1, 2], [3, 4]])), "1").tolist() == [2, 4]


def test_slices_that_are_no_columns_are_all_named():
    with pytest.raises(ConfigError) as error:
        check_slices(RECORDS, ["regoin", "age", "zip"])
    assert "'regoin', which is no column of the records, did you mean 'region'?" in str(error.value)
    assert "'zip'" in str(error.value)


def test_content_is_a_line_a_record():
    assert record_texts(RECORDS)["train:0"] == "age=30.5, region=north, y=0"
    wide = Records(np.zeros((1, 600)), np.array([3]), np.array(["a"]))
    assert record_texts(wide)["a"].endswith("… 588 more, y=3")
    image = Records(np.zeros((1, 3, 4, 4), np.uint8), np.array([3]), np.array(["a"]))
    assert record_texts(image)["a"] == "3 × 4 × 4 values, y=3"


def test_an_audit_keeps_what_was_asked_for_and_nothing_else():
    target = make_target()
    assert (audit(target, OPTIONS).slices, audit(target, OPTIONS).content) == ({}, None)
    result = audit(target, OPTIONS.model_copy(update={"slices": ["3"], "show_records": True}))
    assert len(result.slices["3"]) == len(result.row_ids)
    top = result.row_ids[np.argmax(result.attacks[0].scores.rank())]
    assert top in result.content


def test_a_wrong_slice_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr("mlflow_privacy.auditing.references.ensure", lambda *args, **kwargs: pytest.fail("trained"))
    with pytest.raises(ConfigError, match="slices names 'age'"):
        audit(make_target(), OPTIONS.model_copy(update={"slices": ["age"]}))
