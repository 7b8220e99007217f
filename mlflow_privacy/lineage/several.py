"""Several models logged in one run, each with data of its own: which data set is whose.

`log_lineage(model_id=...)` says it. Without it, a second call with other data after a further model was logged does not
replace the first call's data: that stays with the models it was logged for. Of data sets that `mlflow.log_input`
recorded, a tag, the metrics of the model or the names of models and data sets tell; else the audit asks.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage.manifest import Manifest, manifest_folder, write_manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_privacy.lineage.parts import Input


def logged_models(run: Any) -> list[str]:
    """Ids of the models that a run has logged, in their order."""
    outputs = None if run is None else getattr(run.outputs, "model_outputs", None)
    return list(dict.fromkeys(output.model_id for output in outputs or []))


# --- log_lineage -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fork:
    """Whose the earlier data of a run is, and whose the data is that is logged now.

    Attributes:
      earlier: ids of the models that keep what was logged before.
      now: ids of the models that get what is logged now; none where its model is still to be logged.
    """

    earlier: tuple[str, ...]
    now: tuple[str, ...]

    @property
    def after(self) -> bool:
        """Whether data is logged after its model in this run, and not before it."""
        return bool(self.now)


def fork_of(client: MlflowClient, run_id: str, before: Manifest, owned: Sequence[str]) -> Fork | None:
    """What other data means that is logged on a run that has some: None if it replaces it.

    Args:
      before: what was logged on the run.
      owned: ids of models with a manifest of their own.
    """
    models = logged_models(client.get_run(run_id))
    if before.logged_at is None or not models:
        return None
    made = {model_id: int(client.get_logged_model(model_id).creation_timestamp) for model_id in models}
    since = tuple(one for one in models if made[one] >= before.logged_at and one not in owned)
    earlier = tuple(one for one in models if made[one] < before.logged_at and one not in owned)
    if not since:
        return None
    if before.after:  # it has an owner already
        return Fork((), since)
    return Fork(earlier, since) if earlier else Fork(since, ())


def write_fork(client: MlflowClient, run_id: str, fork: Fork, before: Manifest, now: Manifest) -> None:
    """Gives both generations of data to their models; the files stay with the run."""
    for models, manifest in ((fork.earlier, before), (fork.now, now)):
        entries = {role: dataclasses.replace(entry, of_run=True) for role, entry in manifest.entries.items()}
        for model_id in models:
            write_manifest(client, run_id, dataclasses.replace(manifest, entries=entries), manifest_folder(model_id))


# --- dataset inputs ----------------------------------------------------------------------------------------------


def inputs_of_model(client: MlflowClient, run: Any, model_id: str | None, inputs: Sequence[Input]) -> list[Input]:
    """The dataset inputs that are this model's, where its run has logged several models and several training sets.

    Raises:
      LineageError: that cannot be told.
    """
    models = logged_models(run)
    training = [item for item in inputs if item.role == "train"]
    if model_id is None or len(models) < 2 or len(training) < 2:
        return list(inputs)
    for choose in (_by_tag, _by_metrics, _by_name):
        owners = choose(client, models, inputs)
        mine = [item for item in training if owners.get(_key(item)) == {model_id}]
        if mine and all(owners.get(_key(item)) for item in training):
            others = {_key(item) for item in inputs if owners.get(_key(item)) and model_id not in owners[_key(item)]}
            return [item for item in inputs if _key(item) not in others]
    shown = ", ".join(f'"{item.dataset.name}"' for item in training)
    raise LineageError(
        f"its source run logged {len(models)} models and the training data {shown}, and which data set trained which "
        "model is not recorded: log it with log_lineage(train=..., holdout=..., model_id=...), or with "
        'mlflow.log_input(dataset, context="training", tags={"model_id": ...})'
    )


def _key(item: Input) -> tuple[str, str]:
    return item.dataset.name, item.dataset.digest


def _by_tag(client: Any, models: Sequence[str], inputs: Sequence[Input]) -> dict[tuple[str, str], set[str]]:
    return {_key(item): {item.model_id} for item in inputs if item.model_id is not None and item.model_id in models}


def _by_metrics(client: Any, models: Sequence[str], inputs: Sequence[Input]) -> dict[tuple[str, str], set[str]]:
    """By the data sets with which metrics of each model were logged."""
    from mlflow.exceptions import MlflowException

    owners: dict[tuple[str, str], set[str]] = {}
    for model_id in models:
        try:
            metrics = client.get_logged_model(model_id).metrics or []
        except MlflowException:
            return {}
        for metric in metrics:
            if metric.dataset_name:
                owners.setdefault((metric.dataset_name, metric.dataset_digest), set()).add(model_id)
    return owners


def _by_name(client: Any, models: Sequence[str], inputs: Sequence[Input]) -> dict[tuple[str, str], set[str]]:
    """By the name of one model alone that is a part of a data set's name."""
    from mlflow.exceptions import MlflowException

    try:
        names = {model_id: str(client.get_logged_model(model_id).name) for model_id in models}
    except MlflowException:
        return {}
    if len(set(names.values())) < len(names):  # versions of one name tell nothing
        return {}
    return {_key(item): owners_by_name(item.dataset.name, names) for item in inputs}


def owners_by_name(dataset: str, models: Mapping[str, str]) -> set[str]:
    """Which models' names stand in a data set's name, as whole words.

    >>> owners_by_name("churn_train", {"1": "churn", "2": "fraud"}), owners_by_name("train", {"1": "churn"})
    ({'1'}, set())
    """
    words = _words(dataset)
    return {model_id for model_id, name in models.items() if _words(name) and _contains(words, _words(name))}


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    return any(list(words[i : i + len(part)]) == list(part) for i in range(len(words) - len(part) + 1))
