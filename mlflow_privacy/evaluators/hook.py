"""What MLflow loads at `import mlflow`: a dataset constructor, and the hook in front of `mlflow.evaluate`.

Stock MLflow refuses `evaluate(uri, evaluators=["privacy_meter"])` before any evaluator is asked: it wants `data` and
`model_type`. Of the plugin entry points that load at import, an exception in a dataset constructor is only a warning,
so this module is registered as one. It must stay light: standard library only, and no
`from __future__ import annotations`, because MLflow checks the constructor's annotation as a class.
"""

import functools
import sys
from typing import Any, Optional

from mlflow.data.dataset import Dataset
from mlflow.utils.import_hooks import register_post_import_hook

EVALUATOR = "privacy_meter"
_BASE = "mlflow.models.evaluation.base"
_MARK = "_mlflow_privacy_original"


def from_model_lineage(model_uri: str, name: Optional[str] = None, digest: Optional[str] = None) -> Dataset:  # noqa: UP045
    """Returns the audit pool of a model as an MLflow dataset: one row per record with its label and membership.

    Args:
      model_uri: such as "models:/credit-scorer/3".
      name: of the dataset; the default is "privacy pool".
      digest: the default is the first 8 hex digits of the pool's SHA-256.

    Raises:
      LineageError: members or non-members cannot be found, loaded or verified.
    """
    from mlflow_privacy.evaluators.dataset import LineageDataset
    from mlflow_privacy.lineage import resolve_target

    return LineageDataset(resolve_target(model_uri), name=name, digest=digest)


def names_privacy_meter(evaluators: Any) -> bool:
    """Whether the call asked for this evaluator by name.

    >>> [names_privacy_meter(e) for e in ("privacy_meter", ["default", "privacy_meter"], None, ["default"])]
    [True, True, False, False]
    """
    return evaluators == EVALUATOR or (isinstance(evaluators, list) and EVALUATOR in evaluators)


def _wrap(original: Any) -> Any:
    """`original` with this evaluator's calls prepared; every other call goes straight through."""

    @functools.wraps(original)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        if not names_privacy_meter(kwargs.get("evaluators")):
            return original(*args, **kwargs)
        from mlflow_privacy.evaluators.call import evaluate_privacy

        return evaluate_privacy(original, *args, **kwargs)

    setattr(evaluate, _MARK, original)
    return evaluate


def install_privacy_meter_hook(base: Any) -> None:
    """Puts the wrapper in front of `evaluate` in `base`, and of every name of MLflow's that is already bound to it."""
    original = base.evaluate
    if hasattr(original, _MARK):
        return
    base.evaluate = wrapped = _wrap(original)
    for module, attribute in (
        ("mlflow.models.evaluation", "evaluate"),
        ("mlflow.models", "evaluate"),
        ("mlflow.models.evaluation.deprecated", "model_evaluate"),
    ):
        if getattr(sys.modules.get(module), attribute, None) is original:
            setattr(sys.modules[module], attribute, wrapped)


register_post_import_hook(install_privacy_meter_hook, _BASE, overwrite=False)
