from __future__ import annotations

import os

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def result():
    from mlflow_privacy.report.example import example_result

    return example_result(n=500)
