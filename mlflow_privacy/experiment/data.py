"""The data of an experiment: loaded by name, brought into the form a model takes, and split by seed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from mlflow_privacy.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_privacy.experiment.sections import ExperimentConfig, TrainSection
    from mlflow_privacy.types import Records
    from mlflow_privacy.zoo import DataSet


@dataclasses.dataclass(frozen=True)
class Split:
    """Indices into a data set: who is trained on, who is held out, who is population.

    `population` points into the data set's own population if it has one. `canaries` are the records that a coin
    decided about, those in `train` and all of `holdout`; None where a share was drawn.
    """

    train: np.ndarray
    holdout: np.ndarray
    population: np.ndarray
    canaries: np.ndarray | None = None

    def parts(self, data: DataSet) -> dict[str, Records]:
        """The records behind the indices, as "train", "holdout" and "population"."""
        apart = data.records if data.population is None else data.population
        return {
            "train": data.records.take(self.train),
            "holdout": data.records.take(self.holdout),
            "population": apart.take(self.population),
        }


def split_indices(
    n: int,
    *,
    seed: int,
    experiment: int = 0,
    train_fraction: float = 0.5,
    size: int | None = None,
    population_size: int | None = None,
    n_population: int = 0,
    canaries: int | None = None,
) -> Split:
    """Random disjoint parts of n records.

    Which records are used, and which of them are population, depends on the seed alone; train and holdout differ
    between experiments.

    Args:
      n: records in all.
      seed: the config's `random_seed`.
      experiment: index of the target.
      train_fraction: of what is left after the population.
      size: records used; None for all.
      population_size: records set apart, or drawn from the data set's own population if it has one.
      n_population: records of the data set's own population; `Split.population` then points into that.
      canaries: instead of a share, an independent fair coin for each of so many records, the same in every experiment;
        all others are trained on.

    Raises:
      ConfigError: there are too few records.

    >>> split = split_indices(10, seed=0, population_size=2)
    >>> len(split.train), len(split.holdout), len(split.population)
    (4, 4, 2)
    >>> split = split_indices(10, seed=0, population_size=2, n_population=7)
    >>> len(split.train), len(split.holdout), len(split.population)
    (5, 5, 2)
    """
    size, apart = n if size is None else size, 0 if n_population else population_size or 0
    if size > n:
        raise ConfigError(f"data.size is {size}, but the data set has {n} records.")
    if n_population and population_size is not None and population_size > n_population:
        raise ConfigError(
            f"audit.population_size is {population_size}, but the data set's test part has {n_population} records."
        )
    n_train = round(train_fraction * (size - apart)) if canaries is None else 1
    if size - apart < 2 or not 1 <= n_train < size - apart:
        raise ConfigError(
            f"data.train_fraction={train_fraction} of {size} records, {apart} of them population, leaves none to train "
            "on or none to hold out. Use more records or a smaller audit.population_size."
        )
    order = np.random.default_rng(np.random.SeedSequence([seed, 0xDA7A])).permutation(n)[:size]
    population, pool = order[:apart], order[apart:]
    if n_population:
        drawn = np.random.default_rng(np.random.SeedSequence([seed, 0x909])).permutation(n_population)
        population = drawn[:population_size]
    if canaries is not None:
        return _coin_split(pool, population, canaries, seed, experiment)
    rng = np.random.default_rng(np.random.SeedSequence([seed, experiment, 0x5917]))
    pool = rng.permutation(pool)
    return Split(np.sort(pool[:n_train]), np.sort(pool[n_train:]), np.sort(population))


def _coin_split(pool: np.ndarray, population: np.ndarray, n: int, seed: int, experiment: int) -> Split:
    """A fair coin for each of n records of the pool; the others train."""
    from mlflow_privacy.games.dp.canaries import canary_coins

    if n > len(pool):
        raise ConfigError(f"dp_audit.canary_size is {n}, but the pool has {len(pool)} records. Lower it.")
    chosen, always = np.sort(pool[:n]), pool[n:]
    coins = canary_coins(n, int(np.random.SeedSequence([seed, experiment, 0xC017]).generate_state(1)[0]))
    if coins.all() or not coins.any():
        raise ConfigError(f"dp_audit.canary_size={n} is too small: the coins left all canaries in, or all out.")
    return Split(np.sort(np.r_[always, chosen[coins]]), chosen[~coins], np.sort(population), chosen)


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
        options=data.options,
        text=data.text,
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

    is_table, is_torch = data.records.x.ndim == 2, zoo.find_model(train.model_name) is not None
    if normalize == "standard" or (normalize == "auto" and is_table and is_torch):
        data = standardised(data)
    return as_inputs(data, zoo.model_inputs(train.model_name), model_name=train.model_name)
