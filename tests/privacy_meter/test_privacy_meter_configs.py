"""Config files as users of Privacy Meter v2 have them: read as they are, and meaning what they say."""

import logging

import pytest

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.experiment.games import game_of
from mlflow_privacy.experiment.load import load_config, parse_config
from mlflow_privacy.experiment.run import evaluator_options

RUN = {"random_seed": 12345, "log_dir": "demo", "time_log": True, "num_experiments": 1}
AUDIT = {
    "privacy_game": "privacy_loss_model",
    "algorithm": "RMIA",
    "num_ref_models": 1,
    "device": "cuda:0",
    "report_log": "report_rmia",
    "batch_size": 5000,
}
IMAGES = {
    "model_name": "wrn28-2",
    "device": "cuda:0",
    "batch_size": 256,
    "optimizer": "SGD",
    "learning_rate": 0.1,
    "weight_decay": 0,
    "epochs": 100,
}
TEXT = {
    "model_name": "gpt2",
    "tokenizer": "gpt2",
    "device": "cuda:0",
    "batch_size": 8,
    "auto_find_batch_size": False,
    "learning_rate": 0.00005,
    "weight_decay": 0.01,
    "epochs": 1,
    "optimizer": "adamw_torch",
}
NEWS = {"dataset": "agnews", "data_dir": "data", "tokenize": True, "tokenizer": "gpt2"}
LORA = {"type": "lora", "fan_in_fan_out": True, "r": 16, "target_modules": ["c_attn", "c_proj", "c_fc"]}
DP = {"canary_dataset": "cifar10_canary", "canary_size": 1000, "training_alg": "dp"}


def theirs(train, data, audit=(), **sections):
    return {"run": RUN, "audit": {**AUDIT, **dict(audit)}, "train": train, "data": data, **sections}


FILES = {
    "cifar10": theirs(IMAGES, {"dataset": "cifar10", "data_dir": "data"}, {"data_size": 10000}),
    "cifar100": theirs({**IMAGES, "model_name": "vgg16"}, {"dataset": "cifar100", "data_dir": "data"}),
    "purchase": theirs(
        {**IMAGES, "model_name": "mlp"},
        {"dataset": "purchase100", "data_dir": "data"},
        {"data_size": 10000, "population_size": 10000},
    ),
    "agnews": theirs(TEXT, NEWS, {"batch_size": 10, "data_size": 1000, "population_size": 100}),
    "agnews_lora": theirs({**TEXT, "peft": LORA}, NEWS),
    "dp": theirs(
        {**IMAGES, "model_name": "CNN", "learning_rate": 20}, {"dataset": "cifar10", "data_dir": "data"}, dp_audit=DP
    ),
    "ramia_images": theirs(
        IMAGES,
        {"dataset": "cifar10", "data_dir": "data"},
        ramia={
            "range_function": "geometric",
            "sample_size": 4,
            "transformations": ["horizontal_flip", "vertical_flip", "rotate"],
        },
    ),
    "ramia_ball": theirs(
        {**IMAGES, "model_name": "mlp"},
        {"dataset": "purchase100", "data_dir": "data"},
        ramia={"range_function": "l2", "sample_size": 10, "radius": 10},
    ),
    "ramia_columns": theirs(
        {**IMAGES, "model_name": "mlp"},
        {"dataset": "purchase100", "data_dir": "data"},
        ramia={
            "range_function": "missing_values",
            "sample_size": 10,
            "num_missing_feats": 2,
            "col_ranges": [[0, 1], [0, 1]],
            "is_categorical": True,
        },
    ),
    "ramia_words": theirs(
        TEXT,
        NEWS,
        ramia={
            "range_function": "word_replace",
            "sample_size": 10,
            "mask_model": "bert-base-uncased",
            "mask_tokenizer": "bert-base-uncased",
            "num_masks": 5,
        },
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_their_files_are_read_as_they_are(name):
    config = parse_config(FILES[name])
    assert config.train.epochs == FILES[name]["train"]["epochs"]
    assert config.train.learning_rate == FILES[name]["train"]["learning_rate"]


@pytest.mark.parametrize("name", ["config_duci.yaml", "duci/cifar10.yaml", "cifar10.yaml"])
def test_a_file_that_its_name_alone_tells_to_be_of_duci_plays_usage(name, tmp_path):
    import yaml

    (tmp_path / "duci").mkdir()
    (tmp_path / name).write_text(yaml.safe_dump(FILES["cifar10"]))
    expected = "usage" if "duci" in name else "membership"
    assert game_of(load_config(tmp_path / name))[0] == expected
    assert game_of(load_config(tmp_path / name, ["audit.game=membership"]))[0] == "membership"
    ours = {**FILES["cifar10"], "audit": {"num_ref_models": 2}}
    (tmp_path / name).write_text(yaml.safe_dump(ours))
    assert game_of(load_config(tmp_path / name))[0] == "membership"


def test_a_reference_model_is_one_out_reference_of_each_record():
    options = evaluator_options(parse_config(FILES["cifar10"]))
    assert options["num_ref_models"] == 2  # a pair on complementary halves
    assert options["data_size"] == 10000
    assert options["headline"] == "rmia"


def test_the_learning_rate_is_the_peak():
    from mlflow_privacy.experiment.sections import training_settings
    from mlflow_privacy.trainers.settings import learning_rates, parse_settings

    settings = parse_settings(training_settings(parse_config(FILES["cifar10"]).train), task="classification")
    assert learning_rates(settings, 98).max() == 0.1
    assert settings.optimizer_options["momentum"] == 0.9


def test_their_schedule_is_had_by_name_factor_and_all():
    import math

    from mlflow_privacy.experiment.sections import training_settings
    from mlflow_privacy.trainers.settings import learning_rates, parse_settings

    train = parse_config(theirs({**IMAGES, "schedule": "privacy_meter"}, {"dataset": "cifar10"})).train
    settings = parse_settings(training_settings(train), task="classification")
    rates = learning_rates(settings, 50)
    assert len(rates) == 5000
    assert "momentum" not in settings.optimizer_options
    for step in (0, 1, 20, 50, 3000, 4999):
        part = step / 5000
        expected = 0.1 * 0.1 * math.cos(7 * math.pi * part / 16) * min(1, 100 * part)
        assert rates[step] == pytest.approx(expected, abs=1e-12)


def test_peft_keys_of_another_method_are_all_named():
    peft = {"type": "lora", "rank": 16, "lora_alfa": 3}
    with pytest.raises(ConfigError) as error:
        parse_config(theirs({**TEXT, "peft": peft}, NEWS))
    assert "rank" in str(error.value)
    assert "lora_alpha" in str(error.value)
    with pytest.raises(ConfigError, match="lora"):
        parse_config(theirs({**TEXT, "peft": {**LORA, "type": "lorra"}}, NEWS))


def test_keys_of_language_models_are_refused_for_others():
    with pytest.raises(ConfigError, match=r"train\.peft is for language models, which 'wrn28-2' is not"):
        parse_config(theirs({**IMAGES, "peft": LORA}, {"dataset": "cifar10"}))


def test_a_gpu_that_is_not_there_is_a_warning_and_then_the_cpu(tmp_path, caplog):
    import torch
    import yaml

    from mlflow_privacy.trainers.torch import tensors as torch_tensors

    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(FILES["cifar10"]))
    assert load_config(tmp_path / "theirs.yaml").train.device == "cuda:0"
    assert load_config(tmp_path / "theirs.yaml", device="cpu").audit.device == "cpu"
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    torch_tensors._warn_no_gpu.cache_clear()
    with caplog.at_level(logging.WARNING, "mlflow_privacy"):
        assert torch_tensors.resolve_device("cuda:0").type == "cpu"
    assert "using the CPU" in caplog.text


def test_faults_of_their_sections_name_the_nearest_key():
    with pytest.raises(ConfigError) as error:
        parse_config(
            theirs(
                IMAGES,
                {"dataset": "cifar10"},
                dp_audit={"canary_sise": 3, "training_alg": "dpp"},
                ramia={"range_func": "l2", "sample_size": 0},
            )
        )
    text = str(error.value)
    assert "did you mean dp_audit.canary_size?" in text
    assert "dp_audit.training_alg must be one of dp, nondp, got 'dpp', did you mean dp?" in text
    assert "did you mean ramia.range_function?" in text
    assert "ramia.sample_size must be at least 1, got 0." in text
