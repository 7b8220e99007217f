"""Figures printed in papers, recomputed."""

import numpy as np
import pytest

from mlflow_privacy.metrics import auc
from mlflow_privacy.stats import clopper_pearson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_clopper_pearson_intervals_of_newcombe_1998_table_1(k, n, low, high):
    """https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E"""
    got = clopper_pearson(k, n)
    assert [round(float(v), 4) for v in got] == [low, high]


def test_auc_of_hanley_and_mcneil_1982():
    """CT images of 58 normal and 51 abnormal patients rated 1 to 5: AUC 0.893.

    https://doi.org/10.1148/radiology.143.1.7063747
    """
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    ratings = np.repeat(np.tile(np.arange(1, 6), 2), normal + abnormal)
    member = np.arange(109) >= 58
    got = auc(ratings, member)
    assert round(got.value, 3) == 0.893
    assert 0.80 < got.low < 0.84  # their s.e. is 0.032
    assert 0.93 < got.high < 0.96
