"""The config file: every fault at once, by its dotted path, with the nearest valid key; and nothing executed."""

from pathlib import Path

import pytest

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.experiment.load import attack_name, load_config, parse_config
from mlflow_privacy.experiment.run import evaluator_options
from mlflow_privacy.experiment.sections import SECTIONS, config_reference, training_settings, variant_keys
from mlflow_privacy.experiment.yaml_text import apply_overrides, parse_yaml

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def faults_of(values):
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    return str(caught.value).split("\n  ")[1:]


def config(**sections):
    return {"data": {"dataset": "digits"}, **sections}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path):
    assert load_config(path).variants()


def test_a_minimal_config_takes_the_documented_defaults():
    checked = parse_config(config())
    assert checked.train.epochs == 50
    assert list(checked.variants()) == ["mlp"]
    assert checked.name == "digits-mlp"


def test_all_faults_are_reported_at_once_each_with_its_path_and_remedy():
    faults = faults_of(
        {
            "run": {"random_seed": -1, "log_dri": "x"},
            "audit": {"algorithm": "RMAI", "num_ref_models": 3, "attack_options": {"rmia": {"gama": 1}}},
            "train": {
                "epoch": 3,
                "learning_rate": "fast",
                "device": "cuda;0",
                "dataset": "digits",
                "model_options": {"hiden": [3]},
                "variants": {
                    "a": {"epochs": 1.5, "bach_size": 3},
                    "b": {"optimizer": "SDG"},
                    "c": {"model_name": "RandomForestClassifer"},
                },
            },
            "data": {"dataset": "digts", "task": "classificaton", "train_fraction": 1.5},
            "dat": {},
        }
    )
    expected = [
        "run.random_seed must be at least 0, got -1.",
        "unknown key run.log_dri, did you mean run.log_dir?",
        "unknown key train.epoch, did you mean train.epochs?",
        "unknown key train.dataset, did you mean data.dataset?",
        "train.learning_rate must be a number, got 'fast'.",
        "train.device must be auto, cpu, mps, cuda or cuda:N, got 'cuda;0'.",
        "unknown key train.model_options.hiden of 'mlp', did you mean 'hidden'?",
        "train.variants.a.epochs must be a whole number, got 1.5.",
        "unknown key train.variants.a.bach_size, did you mean train.variants.a.batch_size?",
        "train.variants.c.model_name: unknown model 'RandomForestClassifer', did you mean 'RandomForestClassifier'?",
        "data.task must be one of auto, classification, regression, got 'classificaton', did you mean classification?",
        "data.train_fraction must be in (0, 1), got 1.5.",
        "unknown section dat, did you mean data?",
        "audit.algorithm: unknown attack 'RMAI', did you mean rmia?",
        "unknown key audit.attack_options.rmia.gama, did you mean gamma?",
    ]
    for line in expected:
        assert line in faults
    assert any(line.startswith("data.dataset: unknown data set 'digts', did you mean 'digits'?") for line in faults)
    assert any(line.startswith("train.variants.b.optimizer 'sdg'") and "did you mean 'sgd'?" in line for line in faults)
    assert len(faults) == len(expected) + 2


def test_a_missing_section_or_key_says_what_it_is_for():
    assert faults_of({}) == ["missing section data."]
    assert faults_of({"data": {}})[0].startswith("missing data.dataset: `cifar10`")
    assert faults_of({"data": {"dataset": "loans.csv"}}) == ["missing data.targets: the label column of loans.csv."]


def test_sections_that_are_no_mappings_are_named():
    assert "train must be a mapping of keys, got [1]." in faults_of(config(train=[1]))
    assert parse_config(config(train=None)).train.epochs == 50


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"train": {"epochs": True}}, "train.epochs must be a number, got True."),
        ({"train": {"epochs": 0}}, "train.epochs must be at least 1, got 0."),
        ({"train": {"learning_rate": 0}}, "train.learning_rate must be greater than 0, got 0."),
        ({"train": {"momentum": 1.0}}, "train.momentum must be in [0, 1), got 1.0."),
        ({"audit": {"confidence": 0.5}}, "audit.confidence must be in (0.5, 1), got 0.5."),
        ({"audit": {"fprs": [2]}}, "audit.fprs.0 must be in [0, 1), got 2."),
        ({"audit": {"privacy_game": "x"}}, "audit.privacy_game must be one of privacy_loss_model, got 'x'."),
    ],
)
def test_values_out_of_range_name_the_range(section, line):
    assert line in faults_of(config(**section))


def test_settings_that_do_not_go_together_are_named():
    (fault,) = faults_of(config(train={"optimizer": "Adam", "momentum": 0.9}))
    assert fault == "train.momentum is no option of the optimizer Adam."
    (fault,) = faults_of(config(train={"variants": {"x": {"schedule": "cosin"}}}))
    assert fault.startswith("train.variants.x.schedule")
    assert "did you mean 'cosine'?" in fault


def test_keys_that_an_estimator_would_ignore_are_refused():
    (fault,) = faults_of(config(train={"model_name": "RandomForestClassifier", "epochs": 3}))
    assert fault.startswith("train.epochs has no meaning for the scikit-learn estimator RandomForestClassifier")
    variants = {"net": {}, "forest": {"model_name": "RandomForestClassifier"}}
    assert parse_config(config(train={"epochs": 3, "variants": variants}))  # the net uses it


def test_variants_share_keys_and_merge_the_options_of_the_same_model():
    train = {
        "epochs": 7,
        "model_options": {"hidden": [4]},
        "variants": {
            "a": {"model_options": {"dropout": 0.5}},
            "b": {"epochs": 1},
            "c": {"model_name": "cnn", "model_options": {"channels": [2]}},
        },
    }
    variants = parse_config(config(train=train)).variants()
    assert variants["a"].model_options == {"hidden": [4], "dropout": 0.5}
    assert (variants["a"].epochs, variants["b"].epochs) == (7, 1)
    assert variants["c"].model_options == {"channels": [2]}
    assert variant_keys({"variants": {}}, {}) == {}


def test_sgd_has_its_usual_momentum_and_adam_none():
    assert training_settings(parse_config(config()).train)["momentum"] == 0.9
    assert "momentum" not in training_settings(parse_config(config(train={"optimizer": "Adam"})).train)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-3", 0.001),
        ("a: 1.0e-3", 0.001),
        ("a: .5e2", 50.0),
        ("a: '1e-3'", "1e-3"),
        ("a: e3", "e3"),
        ("a: 12", 12),
    ],
)
def test_exponents_are_numbers_as_in_yaml_1_2(text, value):
    assert parse_yaml(text) == {"a": value}


def test_duplicate_keys_are_all_reported_with_their_lines():
    with pytest.raises(ConfigError) as caught:
        parse_yaml("train:\n  epochs: 1\n  epochs: 2\ndata: {a: 1}\ndata: {a: 2}\n", name="c.yaml")
    assert "c.yaml: key train.epochs appears twice, on lines 2 and 3. Keep one." in str(caught.value)
    assert "key data appears twice, on lines 4 and 5" in str(caught.value)


def test_anchors_and_merge_keys_work_and_do_not_explode():
    assert parse_yaml("a: &x {k: 1}\nb: {<<: *x, j: 2}") == {"a": {"k": 1}, "b": {"k": 1, "j": 2}}
    bomb = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])
    assert len(parse_yaml(bomb)) == 12  # references, not copies


@pytest.mark.parametrize(
    "text", ["a: !!python/object/apply:os.system ['true']", "a: !custom 1", "a: [1", "\tb: 1", "a: 1\n---\nb: 2"]
)
def test_what_is_not_plain_yaml_is_refused(text):
    with pytest.raises(ConfigError, match="is not plain YAML"):
        parse_yaml(text, name="c.yaml")


def test_overrides_set_nested_keys_and_leave_the_mapping_alone():
    before = {"train": {"epochs": 100}}
    after = apply_overrides(
        before, ["train.epochs=1", "audit.num_ref_models=2", "train.variants.a.epochs=3", "run.log_dir=a=b"]
    )
    assert after == {
        "train": {"epochs": 1, "variants": {"a": {"epochs": 3}}},
        "audit": {"num_ref_models": 2},
        "run": {"log_dir": "a=b"},
    }
    assert before == {"train": {"epochs": 100}}


def test_malformed_overrides_are_all_reported():
    with pytest.raises(ConfigError) as caught:
        apply_overrides(
            {"train": {"epochs": 1}}, ["epochs=1", "train.epochs", "train.epochs=", "train.epochs.x=1", "a.b=[1"]
        )
    message = str(caught.value)
    assert message.count("override") >= 5
    assert "override 'train.epochs=' has no value; write train.epochs=null" in message
    assert "train.epochs is 1, not a mapping of keys" in message


def test_device_and_seed_win_over_the_file_and_auto_leaves_it(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("data: {dataset: wine}\ntrain: {device: 'cuda:1'}\nrun: {random_seed: 4}")
    assert load_config(path, device="cpu", seed=0).train.device == "cpu"
    assert load_config(path, device="cpu", seed=0).run.random_seed == 0
    left = load_config(path, device="auto")
    assert (left.train.device, left.audit.device, left.run.random_seed) == ("cuda:1", "auto", 4)
    assert left.name == "c"


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "quickstart.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"no such file, did you mean '.*quickstart.yaml'?"):
        load_config(tmp_path / "quickstrat.yaml")
    with pytest.raises(ConfigError, match="it is a folder"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="must hold the sections run, audit, train, data"):
        load_config(tmp_path / "quickstart.yaml")


def test_a_key_of_the_wrong_type_cannot_hide_the_other_faults():
    faults = faults_of(
        config(train={"variants": {"a": 3}, "model_options": 4, "epochs": "x"}, audit={"attacks": "rmia"})
    )
    assert "train.variants.a must be a mapping of keys, got 3." in faults
    assert "train.model_options must be a mapping of keys, got 4." in faults
    assert "audit.attacks must be a list, got 'rmia'." in faults
    assert "train.epochs must be a whole number, got 'x'." in faults


def test_a_time_budget_reaches_the_audits_and_a_wrong_one_is_named():
    assert evaluator_options(parse_config(config(audit={"time_budget": "10 min"})))["time_budget"] == 600.0
    assert "time_budget" not in evaluator_options(parse_config(config()))
    (fault,) = faults_of(config(audit={"time_budget": "10 parsecs"}))
    assert fault.startswith("audit.time_budget must be more than 0 seconds")
    assert "'10 parsecs'" in fault


def test_privacy_meters_names_of_attacks_are_ours():
    assert [attack_name(word) for word in ("RMIA", "LOSS", "lira")] == ["rmia", "loss", "lira"]


def test_the_documentation_mentions_every_key_as_the_schema_has_it():
    text = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    for name, section in SECTIONS.items():
        for key, info in section.model_fields.items():
            assert info.description, f"{name}.{key} has no description"
            assert f"`{name}.{key}`" in text
    assert config_reference() in text, (
        "docs/config.md is out of date: its tables are what `mlflow-privacy config` prints"
    )


def test_relative_folders_lie_where_the_caller_is(tmp_path):
    (tmp_path / "configs" / "near").mkdir(parents=True)
    path = tmp_path / "configs" / "mine.yaml"
    path.write_text("run: {log_dir: out}\ndata: {dataset: cifar10, data_dir: data}\n")
    placed = load_config(path, directory=tmp_path / "work")
    assert placed.run.log_dir == str(tmp_path / "work" / "out")
    assert placed.data.data_dir == str(tmp_path / "work" / "data")
    near = load_config(path, ["data.data_dir=near", f"run.log_dir={tmp_path}/x"], directory=tmp_path / "work")
    assert near.data.data_dir == str(tmp_path / "configs" / "near")
    assert near.run.log_dir == f"{tmp_path}/x"
    assert load_config(path).run.log_dir == "out"
