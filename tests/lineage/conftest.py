import numpy as np
import pandas as pd
import pytest

COLUMNS = ["width", "height", "weight"]


def make_frame(n=60, seed=0, dtype=np.float32):
    """n labelled records, none twice."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n, 3)).astype(dtype), columns=COLUMNS)
    frame["label"] = (frame["width"] + rng.normal(scale=0.3, size=n) > 0).astype(np.int64)
    return frame


@pytest.fixture
def train():
    return make_frame(40, seed=1)


@pytest.fixture
def holdout():
    return make_frame(30, seed=2)


@pytest.fixture(scope="session")
def estimator():
    from sklearn.linear_model import LogisticRegression

    frame = make_frame(40, seed=1)
    return LogisticRegression().fit(frame[COLUMNS], frame["label"])


@pytest.fixture(scope="session")
def estimator_without_names():
    from sklearn.linear_model import LogisticRegression

    frame = make_frame(40, seed=1)
    return LogisticRegression().fit(frame[COLUMNS].to_numpy(), frame["label"])


@pytest.fixture
def log_model(tracking, estimator):
    """Logs the fitted estimator in the active run; without an environment or an example, which cost seconds."""
    import mlflow

    def log(model=estimator, signature=True, **kwargs):
        if signature is True:
            signature = mlflow.models.infer_signature(make_frame(3)[COLUMNS])
        kwargs.setdefault("name", "model")
        return mlflow.sklearn.log_model(model, signature=signature or None, pip_requirements=["scikit-learn"], **kwargs)

    return log
