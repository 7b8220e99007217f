import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.fingerprint import array_digest, canonical_json, data_digest, digest, recipe_digest, record_keys
from mlflow_privacy.types import Recipe, Records


def records(x, y=(0, 1, 0)):
    return Records(x, np.asarray(y), np.array([f"train:{i}" for i in range(len(y))]))


def test_canonical_json_ignores_key_order_and_number_types():
    assert canonical_json({"b": np.float32(0.5), "a": (1, 2)}) == canonical_json({"a": [1, 2], "b": 0.5})
    assert digest({"x": float("nan")}) == digest({"x": None})


def test_any_change_of_the_data_changes_its_digest():
    x = np.arange(6.0).reshape(3, 2)
    base = data_digest(records(x))
    changed = x.copy()
    changed[2, 1] = np.nextafter(5.0, 6.0)
    assert data_digest(records(changed)) != base
    assert data_digest(records(x, (0, 1, 1))) != base
    assert data_digest(records(x[[1, 0, 2]], (1, 0, 0))) != base
    assert data_digest(records(x.astype(np.float32))) != base
    assert data_digest(records(x.reshape(3, 1, 2))) != base


def test_digest_does_not_depend_on_memory_layout_or_row_ids():
    x = np.arange(6.0).reshape(3, 2)
    fortran = np.asfortranarray(x)
    big_endian = x.astype(">f8")
    other_ids = Records(x, np.array([0, 1, 0]), np.array(["a", "b", "c"]))
    assert len({data_digest(r) for r in (records(x), records(fortran), records(big_endian), other_ids)}) == 1


def test_frames_with_mixed_columns_are_hashed_column_by_column():
    frame = pd.DataFrame({"age": [1, 2, 3], "city": ["a", None, "c"], "when": pd.to_datetime(["2020-01-01"] * 3)})
    base = data_digest(records(frame))
    assert data_digest(records(frame.copy())) == base
    assert data_digest(records(frame.rename(columns={"age": "years"}))) != base
    assert data_digest(records(frame.assign(city=["a", None, "d"]))) != base


def test_cells_that_hold_lists_count_with_their_values():
    tokens = pd.DataFrame({"tokens": [[1, 2], [3], []]})
    other = pd.DataFrame({"tokens": [[1, 2], [4], []]})
    assert data_digest(records(tokens)) == data_digest(records(tokens.copy())) != data_digest(records(other))


def test_strings_cannot_be_shifted_between_cells():
    assert array_digest(np.array(["ab", "c"])) != array_digest(np.array(["a", "bc"]))


def test_template_and_source_do_not_change_a_recipe_digest():
    assert recipe_digest(Recipe("torch", {"lr": 0.1}, object(), "params")) == recipe_digest(
        Recipe("torch", {"lr": 0.1})
    )
    assert recipe_digest(Recipe("torch", {"lr": 0.1})) != recipe_digest(Recipe("torch", {"lr": 0.2}))


@pytest.mark.parametrize(
    "x",
    [
        np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]]),
        np.array([[[0.0]], [[-0.0]], [[2.0]]], np.float32),
        np.array([0.0, -0.0, 3.0]),
        np.array([[np.nan], [-np.nan], [0.0]]),
        np.array([[0.0, "a"], [-0.0, "a"], [0.0, "b"]], object),
        pd.DataFrame({"a": [0.0, -0.0, 0.5], "b": ["x", "x", "x"]}),
        pd.DataFrame({"a": [np.array([0.0, 1.0]), np.array([-0.0, 1.0]), np.array([0.0, 2.0])]}),
    ],
    ids=["table", "images", "flat", "missing", "objects", "frame", "cells"],
)
def test_the_two_zeros_are_one_number_and_so_are_missing_values(x):
    keys = record_keys(records(x, (1.0, 1.0, 1.0)))
    assert keys[0] == keys[1] != keys[2]
    zeros = records(np.ones((3, 1)), (0.0, -0.0, 1.0))
    assert record_keys(zeros)[0] == record_keys(zeros)[1] != record_keys(zeros)[2]


def test_keys_and_digest_of_a_pool_never_change():
    """Stored references are found by the digest of a pool in the order of its keys."""
    pool = Records(np.arange(24.0).reshape(12, 2), np.arange(12) % 2, np.arange(12).astype(str))
    order = np.argsort(record_keys(pool), kind="stable")
    assert order.tolist() == [6, 0, 3, 5, 11, 1, 7, 10, 4, 2, 9, 8]
    assert data_digest(pool.take(order)).startswith("1167148b456708978c5b9301b3e45023")
    frame = Records(pd.DataFrame({"a": pool.x[:, 0], "b": list("abcdefghijkl")}), pool.y, pool.row_ids)
    assert np.argsort(record_keys(frame), kind="stable").tolist() == [10, 7, 2, 9, 0, 3, 8, 1, 6, 4, 11, 5]


def test_records_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="3 records, 2 labels"):
        Records(np.zeros((3, 1)), np.zeros(2), np.zeros(3))
