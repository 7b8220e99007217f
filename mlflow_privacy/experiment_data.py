"""The data of an experiment: loaded by name, brought into the form a model takes, and split by seed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from mlflow_privacy.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_privacy.config_sections import ExperimentConfig, TrainSection
    from mlflow_privacy.zoo import DataSet


@dataclasses.dataclass(frozen=True)
class Split:
    """Indices into a data set: who is trained on, who is held out, who is population."""

    train: np.ndarray
    holdout: np.ndarray
    population: np.ndarray


def split_indices(
    n: int,
    *,
    seed: int,
    experiment: int = 0,
    train_fraction: float = 0.5,
    data_size: int | None = None,
    population_size: int | None = None,
) -> Split:
    """Random disjoint parts of n records.

    Which records are used, and which of them are population, depends on the seed alone; train and holdout differ
    between experiments.

    Args:
      n: records in all.
      seed: the config's `random_seed`.
      experiment: index of the target.
      train_fraction: of what is left after the population.
      data_size: records used; None for all.
      population_size: records set apart.

    Raises:
      ConfigError: there are too few records.

    >>> split = split_indices(10, seed=0, population_size=2)
    >>> len(split.train), len(split.holdout), len(split.population)
    (4, 4, 2)
    """
    size, apart = n if data_size is None else data_size, population_size or 0
    if size > n:
        raise ConfigError(f"audit.data_size is {size}, but the data set has {n} records.")
    n_train = round(train_fraction * (size - apart))
    if size - apart < 2 or not 1 <= n_train < size - apart:
        raise ConfigError(
            f"data.train_fraction={train_fraction} of {size} records, {apart} of them population, leaves none to train "
            "on or none to hold out. Use more records or a smaller audit.population_size."
        )
    order = np.random.default_rng(np.random.SeedSequence([seed, 0xDA7A])).permutation(n)[:size]
    population, pool = order[:apart], order[apart:]
    rng = np.random.default_rng(np.random.SeedSequence([seed, experiment, 0x5917]))
    pool = rng.permutation(pool)
    return Split(np.sort(pool[:n_train]), np.sort(pool[n_train:]), np.sort(population))


def target_seed(seed: int, experiment: int) -> int:
    """31-bit seed of a target's initialisation and minibatch order; variants share it."""
    return int(np.random.SeedSequence([seed, experiment, 0x7A67]).generate_state(1)[0] >> 1)


def load_data(config: ExperimentConfig) -> DataSet:
    """The config's data set, as its loader gives it.

    Raises:
      ConfigError: it is unknown, missing or not what it should be.
    """
    from mlflow_privacy import zoo

    data = config.data
    return zoo.load_dataset(
        data.dataset,
        data_dir=data.data_dir,
        folders=[config.path.parent] if config.path else [],
        targets=data.targets,
        features=data.features,
        drop=data.drop,
        task=data.task,
        missing=data.missing,
    )


def prepare(data: DataSet, train: TrainSection, normalize: str) -> DataSet:
    """The data set in the form that one variant's model takes.

    Raises:
      ConfigError: the model takes images and the records are none.
    """
    from mlflow_privacy import zoo
    from mlflow_privacy.zoo.data import as_inputs, standardised

    is_table, is_torch = data.records.x.ndim == 2, train.model_name in zoo.MODELS
    if normalize == "standard" or (normalize == "auto" and is_table and is_torch):
        data = standardised(data)
    return as_inputs(data, zoo.model_inputs(train.model_name), model_name=train.model_name)
