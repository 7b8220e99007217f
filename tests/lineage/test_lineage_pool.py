"""Records, pool, duplicates and task: plain functions over arrays."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage.pool import build_pool, record_keys, without
from mlflow_privacy.lineage.records import plain_labels, same_form, to_records
from mlflow_privacy.lineage.tables import Table, as_table, table_digest
from mlflow_privacy.lineage.tasks import infer_task
from mlflow_privacy.types import Records


def records(x, y, prefix="r"):
    table = as_table((x, np.asarray(y)))
    return to_records(table, prefix, targets="target")


def naive_duplicates(members, others):
    seen = {(np.asarray(m).tobytes(), str(y)) for m, y in zip(members.x, members.y)}
    return [(np.asarray(o).tobytes(), str(y)) in seen for o, y in zip(others.x, others.y)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["float32", "int64", "uint8", "U"]), st.integers(1, 5))
def test_duplicates_equal_the_naive_search(seed, dtype, width):
    rng = np.random.default_rng(seed)

    def draw(n):
        x = rng.integers(0, 3, (n, width))
        return records(x.astype(str) if dtype == "U" else x.astype(dtype), rng.integers(0, 2, n))

    members, others = draw(12), draw(15)
    kept, n = without(others, [members])
    expected = naive_duplicates(members, others)
    assert n == sum(expected)
    assert kept.row_ids.tolist() == others.row_ids[~np.array(expected, bool)].tolist()


@pytest.mark.parametrize("as_frame", [False, True])
def test_records_that_occur_twice_are_found_counted_and_not_scored(as_frame):
    x = np.arange(24.0).reshape(8, 3)
    wrap = (lambda a: pd.DataFrame(a, columns=list("abc"))) if as_frame else (lambda a: a)
    members = records(wrap(x[[0, 1, 2, 2]]), [0, 1, 0, 0], "train")
    others = records(wrap(x[[2, 1, 5, 0]]), [0, 1, 1, 1], "holdout")  # the last has another label
    pool = build_pool(members, others)
    assert pool.n_duplicates == 2
    assert pool.records.row_ids.tolist() == [f"{part}:{i}" for part in ("train", "holdout") for i in range(4)]
    assert pool.membership.tolist() == [True] * 4 + [False] * 4
    assert pool.records.row_ids[pool.scored].tolist() == ["train:0", "holdout:2", "holdout:3"]
    assert (pool.copies.members, pool.copies.nonmembers, pool.copies.on_both) == (3, 2, 2)


def test_duplicates_are_found_across_dtypes():
    x = np.array([[0.5, 1.0], [0.1, 2.0]])
    members = records(x.astype(np.float32), np.array([0, 1], np.int32))
    others = records(np.vstack([x, [[7.0, 7.0]]]), np.array([0, 1, 1], np.int64))
    pool = build_pool(members, others)
    assert pool.n_duplicates == 1  # 0.1 is not the same number in float32
    assert pool.scored.sum() == 3


def test_mirrored_rows_are_not_confused():
    x = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    assert len(np.unique(record_keys(records(x, [0, 0, 0, 0])))) == 4


def test_a_holdout_of_nothing_but_members_is_an_error():
    members = records(np.eye(3), [0, 1, 0])
    with pytest.raises(LineageError, match="all 3 held-out records are exact copies of training records"):
        build_pool(members, members)


def test_lists_in_cells_are_compared_by_value():
    frame = pd.DataFrame({"tokens": [[1, 2], [3], [1, 2]]})
    keys = record_keys(Records(frame, np.zeros(3, int), np.arange(3).astype(str)))
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("y", "loss", "task"),
    [
        ([0, 1, 2, 1], None, "classification"),
        (["a", "b", "a", "b"], None, "classification"),
        ([True, False, True, True], None, "classification"),
        ([0.0, 1.0, 1.0, 0.0], None, "classification"),
        ([0.5, 1.5, 2.5, 2.0], None, "regression"),
        ([0.0, 1.0, 1.0, 0.0], "mse", "regression"),
        ([0, 1, 2, 3], "torch.nn.MSELoss", "regression"),
        ([0.0, 1.0, 1.0, 2.0], "cross_entropy", "classification"),
        (np.arange(200) * 1000 + 7, None, "regression"),
        (np.arange(400) % 100, None, "classification"),
        (np.arange(300), None, "classification"),
        ([[0.0, 1.0], [2.0, 3.0]], None, "regression"),
    ],
)
def test_task_follows_loss_then_labels(y, loss, task):
    assert infer_task(None, np.asarray(y), loss) == task


def test_task_follows_the_estimator_first():
    from sklearn.linear_model import LinearRegression, LogisticRegression

    assert infer_task(LinearRegression(), np.array([0, 1])) == "regression"
    assert infer_task(LogisticRegression(), np.array([0.0, 2.0])) == "classification"


def test_labels_lose_their_python_objects():
    assert plain_labels(np.array([1, 2], dtype=object)).dtype == np.int64
    assert plain_labels(np.array([["a"], ["b"]])).shape == (2,)
    with pytest.raises(LineageError, match="1 of its 2 labels are missing"):
        plain_labels(np.array(["a", None], dtype=object))
    with pytest.raises(LineageError, match="1 of its 2 labels are missing"):
        plain_labels(np.array([0.5, np.nan]))


def test_different_columns_shapes_and_labels_are_errors():
    frame = records(pd.DataFrame({"a": [1.0], "b": [2.0]}), [0])
    with pytest.raises(LineageError, match="have no column 'b'"):
        same_form(frame, records(pd.DataFrame({"a": [1.0]}), [0]), "non-members")
    with pytest.raises(LineageError, match=r"shape \(3,\), the members of shape \(2,\)"):
        same_form(records(np.ones((1, 2)), [0]), records(np.ones((1, 3)), [0]), "non-members")
    with pytest.raises(LineageError, match="labels such as"):
        same_form(records(np.ones((1, 2)), [0]), records(np.ones((1, 2)), ["a"]), "non-members")


def test_ragged_or_iterable_torch_datasets_name_the_remedy():
    import torch

    class Ragged(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return torch.zeros(i + 1), 0

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(LineageError, match="2 different shapes"):
        as_table(Ragged())
    with pytest.raises(LineageError, match="without a length"):
        as_table(Endless())
    with pytest.raises(LineageError, match="not a DataLoader"):
        as_table(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(2))))


def test_the_digest_covers_order_names_dtypes_and_labels():
    base = pd.DataFrame({"a": [1.0, 2.0], "y": [0, 1]})
    variants = [base[::-1], base.rename(columns={"a": "b"}), base.astype({"a": "float32"}), base.assign(y=[1, 1])]
    digests = {table_digest(Table(frame)) for frame in [base, *variants]}
    assert len(digests) == 5


def test_pool_keys_of_fifty_thousand_images_take_seconds():
    import time

    x = np.random.default_rng(0).integers(0, 255, (50_000, 3, 32, 32), dtype=np.uint8)
    pool = Records(x, np.zeros(50_000, int), np.arange(50_000).astype(str))
    started = time.perf_counter()
    keys = record_keys(pool)
    assert time.perf_counter() - started < 5
    assert len(np.unique(keys)) == 50_000
