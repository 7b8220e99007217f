"""Language models of a log directory become a registered model whose audit fine-tunes nothing."""

import json
import os
import pickle
import shutil

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from pm_dirs import METADATA, memberships

from mlflow_privacy.attacks import run_attack
from mlflow_privacy.cli import main
from mlflow_privacy.errors import ConfigError, UnsafeError
from mlflow_privacy.evaluators.call import LISTENER
from mlflow_privacy.privacy_meter.importer import import_log_dir
from mlflow_privacy.privacy_meter.importer.plan import make_plan
from mlflow_privacy.types import Signals

END, PHRASE = "<|endoftext|>", "stocks rise as oil falls after the minister wins a match in space with new\\chips"
WORDS = PHRASE.split()
N, N_POPULATION = 24, 12


def texts(n, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(4, 9))) for _ in range(n)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """AG News of a few headlines, a tiny base checkpoint with a tokenizer, and four models that moved away from it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("world")
    (root / "data" / "ag_news").mkdir(parents=True)
    for part, n in (("train", N), ("test", N_POPULATION)):
        frame = pd.DataFrame({"text": texts(n, n), "label": np.arange(n) % 4})
        frame.to_parquet(root / "data" / "ag_news" / f"{part}-00000-of-00001.parquet")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END)
    fast.save_pretrained(root / "base")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(fast), n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    base = GPT2LMHeadModel(config)
    base.save_pretrained(root / "base")
    tuned = []
    for _ in range(4):
        model = GPT2LMHeadModel(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)  # so that texts differ in more than their length
        tuned.append(model)
    return root, tuned, fast


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr("mlflow_privacy.report.figures._png", lambda figure: b"")


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr("mlflow_privacy.trainers.text.trainer.TransformersTrainer.train", None)


def write_models(folder, tuned, save, **metadata):
    """A log directory of Privacy Meter; `save(model, folder, i)` writes the weights and returns their path."""
    (folder / "models").mkdir(parents=True)
    rows = memberships(2, N)
    np.save(folder / "models" / "memberships.npy", rows)
    values = {
        str(i): {
            **METADATA,
            "optimizer": "adamw_torch",
            "learning_rate": 5e-5,
            "dataset": "agnews",
            "model_name": "gpt2",
            "num_train": int(rows[i].sum()),
            "model_path": f"demo/models/{save(model, folder / 'models', i).name}",
            "train_acc": None,
            "test_acc": None,
            "train_loss": 1.0,
            "test_loss": 2.0,
            **metadata,
        }
        for i, model in enumerate(tuned)
    }
    (folder / "models" / "models_metadata.json").write_text(json.dumps(values))
    return folder


def as_pickle(model, folder, i):
    path = folder / f"model_{i}.pkl"
    path.write_bytes(pickle.dumps(model.state_dict()))
    return path


def as_folder(model, folder, i):
    model.save_pretrained(folder / f"model_{i}")
    return folder / f"model_{i}"


def as_bin_folder(model, folder, i):
    path = folder / f"model_{i}"
    path.mkdir()
    model.config.save_pretrained(path)
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    return path


FORMS = {"pkl": as_pickle, "safetensors": as_folder, "bin": as_bin_folder}


@pytest.fixture
def directory(tmp_path, world):
    return write_models(tmp_path / "demo", world[1], as_pickle)


def imported(world, folder, **options):
    return import_log_dir(folder, name="news", data_dir=world[0] / "data", base=str(world[0] / "base"), **options)


def planned(world, folder, **options):
    return make_plan(folder, data_dir=world[0] / "data", **{"base": str(world[0] / "base"), **options})


def loss(model, tokenizer, lines):
    """(n,) mean negative log-probability of each text's tokens after the first, one text at a time."""
    out = []
    for line in lines:
        ids = torch.tensor([tokenizer(line.replace("\\", " "))["input_ids"]])
        with torch.inference_mode():
            logits = model(ids).logits[0, :-1].double()
        out.append(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:])))
    return np.array(out)


@pytest.mark.parametrize("form", ["pkl", pytest.param("safetensors", marks=pytest.mark.slow)])
def test_the_audit_fine_tunes_nothing_and_scores_equal_a_direct_computation(
    form, world, tmp_path, tracking, no_training
):
    _, tuned, tokenizer = world
    folder = write_models(tmp_path / "demo", tuned, FORMS[form])
    report = imported(world, folder)
    assert len(report.reference_run_ids) == 2
    found = []
    token = LISTENER.set(found.append)
    options = {"blind_baseline": False, "device": "cpu", "progress": False, "attacks": ["reference"]}
    try:
        mlflow.models.evaluate(
            report.model_uri, evaluators=["privacy_meter"], evaluator_config={"privacy_meter": options}
        )
    finally:
        LISTENER.reset(token)
    (result,) = found
    assert (result.references["n_imported"], result.references["n_trained"]) == (2, 0)
    assert tuple(result.references["run_ids"]) == report.reference_run_ids
    rows = memberships(2, N)
    parts = {"train": np.flatnonzero(rows[0]), "holdout": np.flatnonzero(~rows[0])}
    where = np.array([parts[part][int(i)] for part, i in (str(name).split(":") for name in result.row_ids)])
    assert len(where) == N
    assert result.membership.tolist() == rows[0][where].tolist()
    pool, population = texts(N, N), texts(N_POPULATION, N_POPULATION)
    signals, used = result.evidence.signals, (tuned[0], tuned[2], tuned[3])
    direct = np.array([loss(model, tokenizer, pool)[where] for model in used])
    theirs = np.column_stack([signals.target, signals.reference]).T
    np.testing.assert_allclose(theirs, -direct, rtol=1e-4, atol=1e-4)
    assert np.ptp(direct, axis=1).min() > 0.1
    z = -np.array([loss(model, tokenizer, population) for model in used]).astype(np.float32)
    naive = Signals(
        *(-direct[0].astype(np.float32), -direct[1:].T.astype(np.float32), rows[2:, where].T),
        *(z[0], z[1:].T, np.zeros((N_POPULATION, 2), bool), signals.link),
    )
    scores, _ = run_attack("reference", naive)
    np.testing.assert_allclose(result.attacks[0].scores.value, scores.value, rtol=1e-3, atol=1e-4)
    spec = result.references["recipe"]["spec"]
    settings = spec["settings"]
    assert (settings["optimizer"], settings["learning_rate"], settings["batch_size"]) == ("adamw", 5e-5, 16)
    assert (settings["warmup"], spec["max_length"]) == (["steps", 500], 64)


@pytest.mark.parametrize("form", ["pkl", "safetensors", "bin"])
def test_all_forms_of_weights_give_the_same_model(form, world, tmp_path):
    _, tuned, tokenizer = world
    plan = planned(world, write_models(tmp_path / "demo", tuned, FORMS[form]), target=1)
    assert [entry.number for entry in plan.references] == [2, 3]
    for entry in (plan.target, *plan.references):
        model = plan.module(entry)
        lines = texts(4, 0)
        np.testing.assert_allclose(
            loss(model.model, tokenizer, lines), loss(tuned[entry.number], tokenizer, lines), atol=1e-6
        )
    assert len(plan.population) == N_POPULATION
    assert not plan.data.records.x["text"].str.contains("\\", regex=False).any()


def test_what_transformers_accepts_is_accepted(world):
    """Tied weights under one name, the inner model's names, and buffers that older versions stored."""
    from mlflow_privacy.privacy_meter.importer.language import LanguageTemplate
    from mlflow_privacy.text import LanguageModel

    _, tuned, tokenizer = world
    template = LanguageTemplate(LanguageModel(tuned[0], tokenizer, "causal_lm", 64))
    full = dict(tuned[1].state_dict())
    inner = {name.removeprefix("transformer."): value for name, value in full.items() if name != "lm_head.weight"}
    mask = torch.ones(64, 64).tril()[None, None].bool()
    old = {**full, "transformer.h.0.attn.bias": mask, "transformer.h.1.attn.masked_bias": torch.tensor(-1e4)}
    head = {name: value for name, value in full.items() if name != "transformer.wte.weight"}
    for state in (full, inner, old, head):
        assert template.faults(state) == []
        model = template.filled(state).model
        assert all(torch.equal(value, full[name]) for name, value in model.state_dict().items())
        assert model.lm_head.weight is model.transformer.wte.weight
    untied = {**full, "lm_head.weight": full["lm_head.weight"] + 1}
    assert "differ, but are one tensor" in template.faults(untied)[0]
    stray = {**full, "transformer.h.0.attn.gate": torch.zeros(1)}
    assert "transformer.h.0.attn.gate, which this architecture has not" in template.faults(stray)[0]
    adapted = {"base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight": torch.zeros(1), **full}
    assert "merge_and_unload" in template.faults(adapted)[0]
    broken = {**full, "transformer.ln_f.bias": torch.full((32,), torch.nan)}
    del broken["transformer.ln_f.weight"]
    missing, nan = template.faults(broken)
    assert "lacks transformer.ln_f.weight" in missing
    assert "transformer.ln_f.bias hold NaN" in nan


@pytest.mark.slow
def test_an_experiment_of_ours_with_a_language_model_is_imported(world, tmp_path, tracking, monkeypatch):
    from mlflow_privacy.experiment.load import parse_config
    from mlflow_privacy.experiment.run import run_experiment

    training = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "optimizer": "adamw", "device": "cpu"}
    audit = {"num_ref_models": 1, "device": "cpu", "blind_baseline": False, "algorithm": "RMIA", "attacks": ["RMIA"]}
    config = parse_config(
        {
            "run": {"register_as": "first", "log_dir": "out"},
            "data": {"dataset": "agnews", "data_dir": str(world[0] / "data")},
            "train": {"model_name": str(world[0] / "base"), "max_length": 32, **training},
            "audit": audit,
        }
    )
    first = run_experiment(config)
    monkeypatch.setattr("mlflow_privacy.trainers.text.trainer.TransformersTrainer.train", None)
    uri = import_log_dir(tmp_path / "out", name="second").model_uri
    options = {"blind_baseline": False, "device": "cpu", "progress": False, "attacks": ["rmia"]}
    result = mlflow.models.evaluate(uri, evaluators=["privacy_meter"], evaluator_config={"privacy_meter": options})
    before = first.targets[0].audit["privacy/rmia/auc"]
    assert result.metrics["privacy/rmia/auc"] == pytest.approx(before, abs=1e-6)


# --- refused ---------------------------------------------------------------------------------------------------------


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", ["pkl", "bin"])
def test_a_hostile_file_is_refused_and_nothing_is_executed_or_written(form, world, tmp_path, tracking):
    folder = write_models(tmp_path / "demo", world[1], FORMS[form])
    hostile = {**world[1][2].state_dict(), "x": Payload(tmp_path / "executed")}
    path = folder / "models" / ("model_2.pkl" if form == "pkl" else "model_2/pytorch_model.bin")
    if form == "pkl":
        path.write_bytes(pickle.dumps(hostile))
    else:
        torch.save(hostile, path)
    with pytest.raises(UnsafeError, match=rf"(?s)nothing was:.*model 2: .*{path.name}"):
        imported(world, folder)
    assert not (tmp_path / "executed").exists()
    assert tracking.search_registered_models() == []


def test_all_faults_are_one_error(world, directory):
    models = directory / "models"
    (models / "model_1.pkl").unlink()
    state = dict(world[1][2].state_dict())
    state["transformer.wpe.weight"] = torch.zeros(32, 32)
    (models / "model_2.pkl").write_bytes(pickle.dumps(state))
    base = world[0] / "base"
    from safetensors.torch import load_file

    (models / "model_0.pkl").write_bytes(pickle.dumps(load_file(base / "model.safetensors")))
    with pytest.raises(ConfigError) as error:
        planned(world, directory)
    for fault in (
        "model 0, model_0.pkl: it has the weights of its base",
        r"model 2, model_2.pkl: transformer.wpe.weight has the shape \(32, 32\) instead of \(64, 32\)",
    ):
        assert error.match(f"(?s).*{fault}")


def test_a_base_that_computes_something_else_is_refused(world, tmp_path):
    folder = write_models(tmp_path / "demo", world[1], as_folder)
    path = folder / "models" / "model_3" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "n_head": 4, "layer_norm_epsilon": 0.1}))
    with pytest.raises(ConfigError, match=r"(?s)model_3: .*layer_norm_epsilon 0.1.*model_3: .*n_head 4.*has 2"):
        planned(world, folder)


def test_adapters_alone_and_empty_folders_are_refused(world, tmp_path):
    folder = write_models(tmp_path / "demo", world[1], as_folder)
    for number in (2, 3):
        (folder / "models" / f"model_{number}" / "model.safetensors").unlink()
    (folder / "models" / "model_2" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"(?s)model 2: .*adapters of peft alone.*model 3: .*holds no weights"):
        planned(world, folder)


def test_a_base_that_is_not_there_says_what_to_do(world, directory, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"(?s)not in the local cache.*--base"):
        planned(world, directory, base="gpt2-of-nobody")
    with pytest.raises(ConfigError, match=r"holds no config.json.*--base"):
        planned(world, directory, base=str(directory))


def test_the_tokenizer_of_the_training_config_is_used(world, directory, tmp_path):
    root, _, fast = world
    other = type(fast).from_pretrained(root / "base")
    other.add_tokens(["minister"])
    other.save_pretrained(tmp_path / "tokenizer")
    shutil.copy(root / "base" / "config.json", tmp_path / "tokenizer")
    path = tmp_path / "agnews.yaml"
    path.write_text(
        f"data: {{dataset: agnews, data_dir: {root / 'data'}, tokenize: true, tokenizer: {tmp_path / 'tokenizer'}}}\n"
        "train: {model_name: gpt2, optimizer: adamw_torch, learning_rate: 0.1, epochs: 1, batch_size: 8}\n"
    )
    plan = make_plan(directory, config=path, base=str(root / "base"))
    assert plan.settings["tokenizer"] == str(tmp_path / "tokenizer")
    assert len(plan.module(plan.target).tokenizer) == len(fast) + 1


def test_the_command_line_takes_a_base(world, directory, tracking):
    base, data = str(world[0] / "base"), str(world[0] / "data")
    result = CliRunner().invoke(main, ["import", str(directory), "--data-dir", data, "--base", base])
    assert result.exit_code == 0, result.output
    assert "mlflow-privacy audit models:/gpt2-agnews/1" in result.output
    assert "2 reference model(s)" in result.output
