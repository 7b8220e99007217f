"""The parts of an experiment that need no tracking server: splits, preparation, evaluator options."""

import numpy as np
import pytest

from mlflow_privacy import zoo
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.experiment.data import prepare, split_indices, target_seed
from mlflow_privacy.experiment.load import parse_config
from mlflow_privacy.experiment.run import evaluator_options


@pytest.mark.parametrize("sizes", [{}, {"size": 60}, {"population_size": 20}, {"size": 60, "population_size": 20}])
def test_parts_are_disjoint_and_have_the_asked_sizes(sizes):
    split = split_indices(100, seed=3, train_fraction=0.25, **sizes)
    everyone = np.concatenate([split.train, split.holdout, split.population])
    assert len(set(everyone)) == len(everyone) == sizes.get("size", 100)
    assert len(split.population) == sizes.get("population_size", 0)
    assert len(split.train) == round(0.25 * (len(everyone) - len(split.population)))


def test_experiments_share_records_and_population_but_not_the_split():
    a, b = (split_indices(100, seed=0, experiment=i, size=80, population_size=20) for i in (0, 1))
    np.testing.assert_array_equal(a.population, b.population)
    assert set(a.train) | set(a.holdout) == set(b.train) | set(b.holdout)
    assert set(a.train) != set(b.train)
    assert target_seed(0, 0) != target_seed(0, 1)


def test_the_split_is_a_function_of_the_seed():
    np.testing.assert_array_equal(split_indices(50, seed=1).train, split_indices(50, seed=1).train)
    assert set(split_indices(50, seed=1).train) != set(split_indices(50, seed=2).train)


def test_every_record_is_as_likely_a_member():
    counts = np.zeros(20)
    for seed in range(400):
        counts[split_indices(20, seed=seed).train] += 1
    # Binomial(400, 1/2): 10 standard deviations of 0.025 would be a bug, 4.5 is chance 1e-4 over 20 records.
    assert np.abs(counts / 400 - 0.5).max() < 4.5 * 0.025


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"size": 11}, "size is 11, but the data set has 10 records"),
        ({"population_size": 9}, "leaves none to train on or none to hold out"),
        ({"train_fraction": 0.99}, "leaves none to train on or none to hold out"),
    ],
)
def test_too_few_records_are_refused(sizes, message):
    with pytest.raises(ConfigError, match=message):
        split_indices(10, seed=0, **sizes)


def config(**sections):
    return parse_config({"data": {"dataset": "wine"}, **sections})


def test_tables_are_standardised_for_torch_models_alone_unless_asked():
    data = zoo.load_dataset("wine")
    forest = config(train={"model_name": "RandomForestClassifier"}).train
    assert abs(prepare(data, config().train, "auto").records.x.mean()) < 1e-6
    np.testing.assert_array_equal(prepare(data, forest, "auto").records.x, data.records.x)
    np.testing.assert_array_equal(prepare(data, config().train, "none").records.x, data.records.x)
    assert abs(prepare(data, forest, "standard").records.x.mean()) < 1e-6


def test_images_keep_their_shape_for_a_cnn_and_flatten_for_others():
    data = zoo.load_dataset("digits")
    shapes = {
        name: prepare(data, config(train={"model_name": name}).train, "auto").records.x.shape[1:]
        for name in ("cnn", "mlp", "RandomForestClassifier")
    }
    assert shapes == {"cnn": (1, 8, 8), "mlp": (64,), "RandomForestClassifier": (64,)}


@pytest.mark.parametrize(
    ("audit", "attacks", "headline"),
    [
        ({}, None, None),
        ({"algorithm": "RMIA"}, None, "rmia"),
        ({"algorithm": "LOSS"}, ["loss", "rmia", "lira", "bavaria", "learned", "rmia_offline"], "loss"),
        ({"algorithm": "LOSS", "num_ref_models": 0}, ["loss", "population"], "loss"),
        ({"algorithm": "LOSS", "attacks": ["lira"]}, ["loss", "lira"], "loss"),
        ({"attacks": ["LOSS", "RMIA"]}, ["loss", "rmia"], None),
    ],
)
def test_the_algorithm_is_the_headline_and_always_runs(audit, attacks, headline):
    options = evaluator_options(config(audit=audit))
    assert (options.get("attacks"), options.get("headline")) == (attacks, headline)


@pytest.mark.parametrize(
    ("audit", "data", "expected"),
    [
        ({}, {}, (0.5, 8)),
        ({}, {"train_fraction": 0.8}, (0.8, 10)),
        ({"num_ref_models": 0}, {"train_fraction": 0.8}, (0.8, 0)),
        ({"num_ref_models": 2}, {"train_fraction": 0.34}, (1 / 3, 6)),
        ({"reference_fraction": 0.5}, {"train_fraction": 0.8}, (0.5, 8)),
        ({"reference_fraction": 0.8}, {"train_fraction": 0.8}, (0.8, 20)),  # four OUT references of each record
    ],
)
def test_references_train_on_the_share_of_the_targets_unless_the_file_says_another(audit, data, expected):
    base = config()
    options = evaluator_options(config(audit=audit, data={**base.data.model_dump(exclude_unset=True), **data}))
    assert (options["reference_fraction"], options["num_ref_models"]) == expected


def test_evaluator_options_are_valid_ones():
    from mlflow_privacy.auditing.options import parse_options

    audit = {"algorithm": "LOSS", "attack_options": {"RMIA": {"gamma": 2.0}}, "population_size": 10, "device": "cpu"}
    options = parse_options(evaluator_options(config(audit=audit, run={"random_seed": 5})))
    assert options.attack_options == {"rmia": {"gamma": 2.0}}
    assert (options.random_seed, options.device) == (5, "cpu")
