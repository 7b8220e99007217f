"""Real data sets that ship inside scikit-learn, so that everything works offline. Registers the other modules' too."""

from __future__ import annotations

import numpy as np

from mlflow_privacy.zoo import cifar, hub, purchase, synthetic, text_data  # noqa: F401  (they register their loaders)
from mlflow_privacy.zoo.data import DataSet, make_dataset
from mlflow_privacy.zoo.registry import dataset


def _bundled(name: str, x: np.ndarray, y: np.ndarray, **options: object) -> DataSet:
    import sklearn

    source = f"scikit-learn {sklearn.__version__}, sklearn.datasets.load_{name}"
    return make_dataset(x, y, name=name, source=source, **options)  # type: ignore[arg-type]


@dataset("digits")
def digits() -> DataSet:
    """1,797 handwritten digits, 1×8×8 grey values in [0, 1], 10 classes (Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return _bundled("digits", bunch.images[:, None] / 16, bunch.target, classes=[str(c) for c in range(10)])


@dataset("breast_cancer")
def breast_cancer() -> DataSet:
    """569 tumours, 30 measurements, malignant or benign (Wolberg et al. 1995)."""
    from sklearn.datasets import load_breast_cancer

    b = load_breast_cancer()
    return _bundled(
        "breast_cancer", b.data, b.target, classes=list(b.target_names), feature_names=list(b.feature_names)
    )


@dataset("wine")
def wine() -> DataSet:
    """178 wines, 13 chemical measurements, 3 growers (Aeberhard and Forina 1992)."""
    from sklearn.datasets import load_wine

    b = load_wine()
    return _bundled("wine", b.data, b.target, classes=list(b.target_names), feature_names=b.feature_names)


@dataset("diabetes")
def diabetes() -> DataSet:
    """442 patients, 10 measurements, disease progression after a year: a regression (Efron et al. 2004).

    The target is standardised, so that learning rates mean what they mean elsewhere.
    """
    from sklearn.datasets import load_diabetes

    b = load_diabetes()
    y = (b.target - b.target.mean()) / b.target.std()
    return _bundled("diabetes", b.data, y, task="regression", feature_names=b.feature_names)
